"""Every lab in the other hosts that we name, Notebook 7 and Voila."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kvmlab import labs
from tests.browser.controls import changes
from tests.lab_page import READY, RESTORED, slowed

SCENES = [name for name in labs.__all__ if name not in ("ask", "glossary", "progress")]
CELL = "from kvmlab import labs\nlab = labs.{name}()\nlab"
SETTINGS = "reading 'schema'"  # Notebook 7 stumbles over a plug-in of its own without settings
ALSO = ["--allow-root", "--ip=127.0.0.1", "--ServerApp.port_retries=0"]


def page_of(name):
    """A notebook that shows one lab."""
    code = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [{**code, "id": "cell", "source": CELL.format(name=name)}]
    return {"cells": cells, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture(scope="module", params=["notebook", "voila"])
def host(request, tmp_path_factory):
    """A running host: opens the notebook of a lab and runs it."""
    pytest.importorskip(request.param)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home, root = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("root")
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    own = {name: str(home / name) for name in places}
    own["PYTHONPATH"] = str(Path(__file__).parents[2])
    for name in labs.__all__:
        (root / f"{name}.ipynb").write_text(json.dumps(page_of(name)), encoding="utf-8")
    options = {
        "notebook": [
            *(*ALSO, "--IdentityProvider.token=", f"--ServerApp.root_dir={root}"),
            "--JupyterNotebookApp.expose_app_in_browser=True",
        ],
        "voila": [str(root), "--Voila.ip=127.0.0.1"],
    }[request.param]
    command = [sys.executable, "-m", request.param, "--no-browser", f"--port={port}", *options]
    with (home / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log)
    try:
        yield request.param, f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def opened(browser, host, name, drawn=".kvmlab-lab .kvmlab-player svg"):
    """A page of the host with the lab ``drawn``; what goes wrong is noted in ``trouble``."""
    kind, url = host
    page, trouble = slowed(browser.new_page(viewport={"width": 1366, "height": 1400})), []
    page.on("pageerror", lambda e: None if SETTINGS in str(e) else trouble.append(str(e)))
    path = {"notebook": f"notebooks/{name}.ipynb", "voila": f"voila/render/{name}.ipynb"}[kind]
    for _ in range(60):  # the server may still be starting
        try:
            page.goto(f"{url}/{path}")
            break
        except Exception:  # noqa: BLE001  Playwright's own error of a refused connection
            page.wait_for_timeout(500)
    if kind == "notebook":
        page.wait_for_function(READY, timeout=60_000)
        page.wait_for_function(RESTORED, timeout=60_000)
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_selector(drawn, timeout=60_000)
    return page, trouble


@pytest.mark.parametrize("name", SCENES)
def test_a_lab_is_drawn_stepped_and_undone_by_keyboard(browser, host, name):
    page, trouble = opened(browser, host, name)
    try:
        count = page.locator(".kvmlab-player .kvm-count").first
        first = count.inner_text()
        page.locator(".kvmlab-player .kvm-scrub").first.focus()
        if not first.endswith(" 1"):
            page.keyboard.press("ArrowRight")
            page.wait_for_function(
                "told => document.querySelector('.kvm-count').textContent !== told", arg=first
            )
        page.get_by_label("Language / 语言", exact=True).first.select_option("中文")
        page.get_by_role("button", name="撤销", exact=True).first.wait_for()
        page.wait_for_function("() => !document.querySelector('.bqplot:not([aria-hidden=true])')")
        assert trouble == []
    finally:
        page.close()


def test_a_question_is_asked_and_said_in_chinese(browser, host):
    page, trouble = opened(browser, host, "ask", ".kvmlab-ask button")
    try:
        before = page.locator(".kvmlab-ask").inner_text()
        page.get_by_label("Language / 语言", exact=True).select_option("中文")
        page.wait_for_function(
            "told => document.querySelector('.kvmlab-ask').innerText !== told", arg=before
        )
        assert trouble == []
    finally:
        page.close()


@pytest.mark.long
@pytest.mark.parametrize("name", SCENES)
def test_every_control_to_every_option_in_every_host(browser, host, name):
    page, trouble = opened(browser, host, name)
    try:
        seen = 0
        for told, _, last in changes(page):
            seen += last > 0
            assert "Traceback" not in page.locator(".kvmlab-notice").first.inner_text(), told
        assert seen > 15
        assert trouble == []
    finally:
        page.close()
