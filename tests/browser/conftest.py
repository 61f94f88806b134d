"""A real JupyterLab and a real Chromium: what a learner sees, nothing simulated.

The tests need a Chromium (``KVMLAB_CHROMIUM`` names one, else the usual names are tried),
Playwright and JupyterLab.  Where one is missing they are skipped with the reason, or fail if
``KVMLAB_REQUIRE`` contains ``browser``.  ``KVMLAB_SHOTS`` names a directory for the screenshots.
``KVMLAB_SLOW=6`` gives each page the sixth part of a processor, as on a slow or a busy machine:
what a test finds must not depend on how quick the page is.
axe-core is taken from npm, once for each machine; ``KVMLAB_AXE`` names its file instead.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab_page import READY, Opened, listen, slowed

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = "axe-core@4.10.3"
GRAVE = ("serious", "critical")
STARTUP_SECONDS = 60


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of an installed Chromium."""
    named = os.environ.get("KVMLAB_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if not found or not Path(found).exists():
        pytest.skip("no Chromium found; install one or name it in KVMLAB_CHROMIUM")
    return str(found)


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[object]:
    """One headless browser for all tests."""
    playwright_api = pytest.importorskip("playwright.sync_api")
    with playwright_api.sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield chrome
        chrome.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[object, str], None]:
    """Ask axe-core about the elements of a page: any serious violation is told and fails."""
    script = axe_script(tmp_path_factory.mktemp("axe"))

    def ask(page: object, selector: str) -> None:
        if not page.evaluate("() => Boolean(window.axe)"):
            page.evaluate(script)
        found = page.evaluate("css => axe.run(css, {resultTypes: ['violations']})", selector)
        told = [
            f"{one['id']} ({one['impact']}): {node['html'][:160]}\n  {node['failureSummary']}"
            for one in found["violations"]
            if one["impact"] in GRAVE
            for node in one["nodes"]
        ]
        assert not told, "\n".join(told)

    return ask


def axe_script(folder: Path) -> str:
    """The source of axe-core; the test is skipped where npm cannot give it."""
    named = os.environ.get("KVMLAB_AXE")
    if named:
        return Path(named).read_text(encoding="utf-8")
    if not shutil.which("npm"):
        pytest.skip("axe-core comes by npm, and there is none; or name its file in KVMLAB_AXE")
    done = subprocess.run(
        ["npm", "pack", AXE, "--silent"], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"npm could not get {AXE}: {done.stderr.strip()[-200:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as packed:
        source = packed.extractfile("package/axe.min.js")
        assert source
        return source.read().decode()


@dataclass
class Server:
    """A running JupyterLab and the directory that it shows."""

    url: str
    root: Path

    def write(self, name: str, *cells: str) -> str:
        """Put a notebook with these code cells in the root; returns where a browser opens it."""
        (self.root / name).write_text(json.dumps(notebook(cells)), encoding="utf-8")
        return f"{self.url}/lab/tree/{name}?reset"


def notebook(cells: tuple[str, ...]) -> dict[str, object]:
    """A notebook of code cells that were never run."""
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    code = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    return {
        "cells": [{**code, "id": f"cell-{n}", "source": text} for n, text in enumerate(cells)],
        "metadata": {"kernelspec": spec},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


@pytest.fixture(scope="session")
def server(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A JupyterLab with fresh settings, on a free port of this machine only."""
    pytest.importorskip("jupyterlab")
    home, root = tmp_path_factory.mktemp("jupyter"), tmp_path_factory.mktemp("notebooks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (home / "server.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            lab_command(port, root), env=environment(home), stdout=log, stderr=log
        )
        try:
            wait_until_up(f"http://127.0.0.1:{port}/api/status", process, home / "server.log")
            yield Server(f"http://127.0.0.1:{port}", root)
        finally:
            process.send_signal(
                signal.SIGTERM
            )  # SIGTERM: stop without asking, and stop the kernels
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def lab_command(port: int, root: Path) -> list[str]:
    """The command line of a JupyterLab that tests can drive."""
    return [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
        *(f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="),
        *(f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True"),
    ]


def environment(home: Path) -> dict[str, str]:
    """Where Jupyter keeps its things: nowhere near the settings of whoever runs the tests."""
    overrides = home / "config" / "labconfig" / "default_setting_overrides.json"
    overrides.parent.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    overrides.write_text(json.dumps({"@jupyterlab/apputils-extension:notification": quiet}))
    places = {
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTER_RUNTIME_DIR": home / "runtime",
        "IPYTHONDIR": home / "ipython",
    }
    path = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])
    )
    return {
        **os.environ,
        **{name: str(place) for name, place in places.items()},
        "PYTHONPATH": path,
    }


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server answers; fail with its log when it does not."""
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  a URL of this machine
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")


@pytest.fixture
def open_notebook(
    browser: object, server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Opened]]:
    """Open a notebook of these cells in a fresh page; fail if the page complains about anything."""
    shots = Path(os.environ.get("KVMLAB_SHOTS") or tmp_path)
    shots.mkdir(parents=True, exist_ok=True)
    context = browser.new_context(viewport={"width": 1366, "height": 1400})
    opened: list[Opened] = []

    def ask_axe(page: object, selector: str) -> None:
        request.getfixturevalue("axe")(page, selector)

    def start(*cells: str, theme: str = "Light") -> Opened:
        lab = Opened(slowed(context.new_page()), shots, ask_axe)
        listen(lab)
        stem = re.sub(r"\W+", "_", request.node.name)
        lab.page.goto(server.write(f"{stem}_{len(opened)}.ipynb", *cells))
        lab.page.wait_for_function(READY, timeout=60_000)
        lab.theme(theme)
        opened.append(lab)
        return lab

    yield start
    trouble = [line for lab in opened for line in lab.trouble]
    for lab in opened:
        lab.page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
    context.close()
    assert not trouble, "\n".join(trouble)
