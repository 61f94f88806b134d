"""``python -m kvmlab``: the same as the command ``kvmlab``."""

import sys

from kvmlab.cli import main

sys.exit(main())
