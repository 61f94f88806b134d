"""The notebooks as a class runs them: one core, little memory, in any order, and once more."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
GIBIBYTE = 1 << 20  # in KiB, as rusage counts
RUN = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
NBVAL = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=300"]


@pytest.mark.long
def test_twice_in_one_place_in_any_order_on_one_core_and_under_a_gibibyte(tmp_path):
    """Binder gives a learner one core and 1 GiB.  No notebook disturbs another."""
    place = shutil.copytree(NOTEBOOKS, tmp_path / "notebooks")
    names = sorted(path.name for path in place.glob("*.ipynb"))
    core = {min(os.sched_getaffinity(0))} if hasattr(os, "sched_getaffinity") else None
    for order in (names[::-1], random.Random(7).sample(names, len(names))):
        start = time.monotonic()
        run = subprocess.Popen(
            [*RUN, *NBVAL, *order],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(NOTEBOOKS.parent)},
            stdout=subprocess.PIPE,
            text=True,
        )
        if core:
            os.sched_setaffinity(run.pid, core)
        said = run.stdout.read()
        _, status, used = os.wait4(run.pid, 0)  # with what its kernels used
        run.returncode = os.waitstatus_to_exitcode(status)
        run.stdout.close()
        print(f"\n{time.monotonic() - start:.0f} s, largest kernel {used.ru_maxrss / 1024:.0f} MiB")
        assert run.returncode == 0, said[-3000:]
        assert used.ru_maxrss < GIBIBYTE
