"""Every notebook as a page without code in Chromium, by ``kvmlab app 05``: title, end and labs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvmlab.text.lessons import lessons
from tests.lab_page import slowed

ROOT = Path(__file__).parents[2]
ERROR = "[data-mime-type='application/vnd.jupyter.error'], .jp-RenderedText[data-mime-type*=stderr]"
CODE = ".jp-Cell-inputWrapper .jp-CodeMirrorEditor, .jp-Cell-inputWrapper .highlight"


@pytest.fixture
def served(tmp_path):
    """Start ``kvmlab app`` with a lesson; returns the address of its page."""
    running = []

    def start(number):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "kvmlab", "app", number, "--no-browser", f"--port={port}"]
        places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        own = {name: str(tmp_path / name) for name in places} | {"PYTHONPATH": str(ROOT)}
        with (tmp_path / "log").open("w", encoding="utf-8") as log:
            options = {"env": {**os.environ, **own}, "cwd": tmp_path, "start_new_session": True}
            running.append(subprocess.Popen(command, stdout=log, stderr=log, **options))
        listens(port)
        return f"http://127.0.0.1:{port}/"

    yield start
    for process in running:
        os.killpg(process.pid, signal.SIGTERM)  # the command, its server, and the kernel
        process.wait(30)


def listens(port):
    """Wait until the server is there; it runs the notebook when its page is asked for."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            time.sleep(0.3)
    return pytest.fail("Voila does not answer")


def last_heading(path):
    """The text of the last heading of a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [line for c in cells if c["cell_type"] == "markdown" for line in c["source"]]
    return [line for line in lines if line.startswith("## ")][-1].strip("# \n")


@pytest.mark.long
@pytest.mark.parametrize("one", lessons(), ids=lambda one: one.number)
def test_a_notebook_is_a_page_without_code_and_its_labs_are_drawn(browser, served, one):
    url = served(one.number)
    page, trouble = slowed(browser.new_page()), []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    try:
        page.goto(url, timeout=120_000)
        page.get_by_role("heading", name=one.title).first.wait_for(timeout=120_000)
        page.get_by_role("heading", name=last_heading(one.path)).first.wait_for(timeout=120_000)
        page.wait_for_selector(".kvmlab-player svg, .kvmlab-ask button", timeout=60_000)
        assert page.locator(ERROR).all_inner_texts() == []
        assert page.locator(CODE).count() == 0
        assert trouble == []
    finally:
        page.close()
