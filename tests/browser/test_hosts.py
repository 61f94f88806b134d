"""Every lab in the other hosts that we name, Notebook 7 and Voila; and how quick the labs are."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from kvmlab import labs
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


ALL_OPTIONS = """lab => [...document.querySelectorAll('.kvmlab-lab select')]
  .filter(one => one.offsetParent).map(one => [...one.options].map(each => each.label))"""


@pytest.mark.long
@pytest.mark.parametrize("name", SCENES)
def test_every_list_to_every_option_in_every_host(browser, host, name):
    page, trouble = opened(browser, host, name)
    try:
        for place, choices in enumerate(page.evaluate(ALL_OPTIONS)):
            for choice in choices:
                lists = page.locator(".kvmlab-lab select:visible")
                if place < lists.count() and "own" not in choice:
                    lists.nth(place).select_option(label=choice)
                    page.wait_for_timeout(200)
                assert "Traceback" not in page.locator(".kvmlab-notice").first.inner_text()
        assert trouble == []
    finally:
        page.close()


DELAYS = """async (list, choices) => {
  const parts = '.kvmlab-desk .widget-html-content, .kvmlab-lab .kvm-stage'
  const charts = '.kvmlab-lab .bqplot', every = { subtree: true, childList: true, attributes: true }
  const told = () => [...document.querySelectorAll(parts)].map(one => one.textContent)
    .concat([...document.querySelectorAll(charts)].map(one => one.innerHTML)).join()
  const plain = label => label.replaceAll('\\u00a0', ' ')
  const taken = []
  for (const choice of choices) {
    const before = told(), start = performance.now()
    taken.push(await new Promise(done => {
      const watch = new MutationObserver(() => {
        if (told() === before) return
        watch.disconnect()
        done(performance.now() - start)
      })
      watch.observe(document.querySelector('.kvmlab-lab'), { ...every, characterData: true })
      list.value = [...list.options].find(one => plain(one.label) === choice).value
      list.dispatchEvent(new Event('change', { bubbles: true }))
      setTimeout(() => done(5000), 5000)
    }))
    await new Promise(done => setTimeout(done, 300))
  }
  return taken
}"""
"""From a control's change to new numbers or a new chart in the DOM, in milliseconds."""

QUICK = {
    "spaces": {"Design": ("shadow paging", "EPT")},
    "tables": {"Guest levels": ("3", "4"), "Guest memory": ("2G", "64M")},
    "walk": {
        "Guest page": ("2M", "4K"),
        "Host levels": ("5", "4"),
        "Caches besides the TLB": ("both", "none"),
    },
    "modes": {
        "Shadow policy": ("update: a trapped write fills", "naive: every table write traps"),
        "Virtual CPUs": ("2", "1"),
        "Chart": ("VM exits", "references"),
    },
    "balloon": {
        "Host backs with": ("hugetlbfs, 2M pages", "4K pages"),
        "Guest driver": ("none", "today's Linux"),
        "Page cache": ("4 MiB", "1 MiB"),
    },
    "overcommit": {
        "VM size (MiB)": ("2048", "4096"),
        "Load": ("no peak", "all peak at 14:00"),
        "Chart": ("swap traffic", "memory"),
    },
    "hugepages": {"Host backs with": ("4K", "THP"), "TLB": ("tiny", "unified")},
}
"""For each lab, controls that make it build another machine or chart, and two options of each."""


@pytest.mark.long
@pytest.mark.parametrize("name", SCENES)
def test_numbers_follow_a_control_within_a_tenth_of_a_second(open_notebook, name):
    lab = open_notebook(CELL.format(name=name))
    lab.run_all()
    lab.page.wait_for_selector(".kvmlab-player svg")
    taken = []
    for label, choices in QUICK[name].items():
        control = lab.page.get_by_label(label, exact=True).first
        found = control.evaluate(DELAYS, [*choices] * 10)
        print(f"\n{name}, {label}:", *(f"{one:.0f}" for one in found), "ms")
        taken += found
    median, worst = statistics.median(taken), max(taken)
    print(f"{name}, from a control to new numbers: median {median:.0f} ms, worst {worst:.0f} ms")
    assert median < 100
    assert worst < 300
