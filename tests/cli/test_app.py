"""`kvmlab app`: a lab or a notebook under Voila."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from argparse import Namespace

import nbformat
import pytest

from kvmlab import labs
from kvmlab.cli import main
from kvmlab.cli.app import notebook, notebook_of, voila


@pytest.mark.parametrize("lab", labs.__all__)
def test_the_notebook_made_for_a_lab_is_a_valid_one(lab):
    made = nbformat.from_dict(notebook_of(lab))
    nbformat.validate(made)
    compile(made.cells[0].source, lab, "exec")


@pytest.mark.parametrize("name", ["01", "01_four_address_spaces", "01_four_address_spaces.ipynb"])
def test_a_notebook_is_named_by_its_number_or_its_file(name):
    assert notebook(name, []).name == "01_four_address_spaces.ipynb"


@pytest.mark.parametrize("name", ["", "0", "99", "../01", "/etc/passwd", "*", "walkk"])
def test_what_is_neither_lab_nor_notebook_is_refused(name, capsys):
    pytest.importorskip("voila")
    assert main(["app", name]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "there is no lab or notebook" in line


def test_without_voila_one_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["app", "walk"]) == 2
    assert capsys.readouterr().err == "kvmlab: Voila is not installed; run: pip install voila\n"


def test_the_server_can_be_reached_from_this_machine_only(tmp_path):
    command = voila(tmp_path / "x.ipynb", Namespace(theme="dark", no_browser=True, port=9000))
    assert command[3:] == [
        *(str(tmp_path / "x.ipynb"), "--Voila.ip=127.0.0.1", "--theme=dark"),
        *("--no-browser", "--port=9000"),
    ]


def test_a_lab_is_served_and_ends_with_an_interrupt(tmp_path):
    pytest.importorskip("voila")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "kvmlab", "app", "walk", "--no-browser", f"--port={port}"]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    ) as server:
        try:
            assert b"24 references" in page(f"http://127.0.0.1:{port}/", server)
        finally:
            os.killpg(server.pid, signal.SIGINT)
        assert server.wait(20) is not None
    assert not list(tmp_path.glob("kvmlab-*")), "the notebook made for the lab stayed"


def page(url, server):
    """The page once it is served."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            return urllib.request.urlopen(url, timeout=60).read()  # noqa: S310  this machine
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise AssertionError("Voila did not answer")
