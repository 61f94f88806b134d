"""Chromium, where one is installed: it makes points and paper of what browsers show."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from kvmlab.base.errors import KvmlabError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60


def by_browser(
    given: str, contents: bytes, option: str, made: str, window: tuple[int, int] = (1100, 900)
) -> bytes:
    """What Chromium makes of a file; raises `KvmlabError` where there is none or it fails."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    kind = made.rpartition(".")[2]
    if browser is None:
        raise KvmlabError(f"a .{kind} needs Chromium; install it, or ask for .html or .svg")
    with tempfile.TemporaryDirectory(prefix="kvmlab-") as folder:
        source, target = Path(folder, given), Path(folder, made)
        source.write_bytes(contents)
        command = [
            *(browser, "--headless", "--disable-gpu", "--no-pdf-header-footer"),
            *(f"--user-data-dir={folder}/profile", "--force-device-scale-factor=2"),
            *(
                f"--window-size={window[0]},{window[1]}",
                "--virtual-time-budget=5000",
                "--hide-scrollbars",
            ),
            *(f"{option}={target}", source.as_uri()),
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # Chromium's sandbox refuses to start for root
        try:
            subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)  # noqa: S603  a browser found on the user's own PATH
            return target.read_bytes()
        except (OSError, subprocess.SubprocessError) as error:
            raise KvmlabError(f"{browser} made no .{kind}: {error}") from None
