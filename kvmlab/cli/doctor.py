"""``kvmlab doctor``: what this machine has, and what each thing lets kvmlab do."""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import kvmlab
from kvmlab.labs.browser import BROWSERS

HELP = "Say what this machine has, and what kvmlab can do with it."
EXAMPLES = (
    "kvmlab doctor",
    "kvmlab doctor --json",
)

PACKAGES = (
    ("numpy", "the engine"),
    ("ipywidgets", "the labs' controls"),
    ("anywidget", "the labs' figures"),
    ("bqplot", "the labs' charts"),
    ("rich", "tables in a terminal"),
    ("jupyterlab", "kvmlab lab"),
    ("notebook", "the labs in Jupyter Notebook"),
    ("voila", "kvmlab app: a lab as a page without code"),
    ("nbval", "testing the notebooks"),
    ("distributed", "kvmlab sweep on a Dask cluster"),
    ("unicorn", "an independent CPU in the tests"),
)
PROGRAMS = (
    (BROWSERS, "browser", "tests of the labs; PNG and PDF of lecture pages"),
    (("valgrind",), "valgrind", "kvmlab record: a trace of your own program"),
    (("qemu-system-x86_64",), "QEMU", "a new capture of a real guest's page tables"),
    (("virsh",), "libvirt", "holding virsh's text against the installed one"),
    (("cc", "gcc", "clang"), "C compiler", "python -m tests.bench: speed against plain C"),
)
SECONDS = 10  # a program that does not say its version by then is reported without one
KVM_DEVICE = Path("/dev/kvm")
KVM_MODULES = Path("/sys/module")


@dataclass(slots=True)
class Finding:
    """One thing that this machine has or lacks."""

    name: str
    found: bool
    version: str  # "" where there is none to tell
    enables: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only how it is printed."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the findings; what is missing is no mistake, so the status is 0."""
    found = list(findings())
    if args.json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        show(found)
    return 0


def findings() -> Iterator[Finding]:
    """Everything looked for, in the order of what a learner needs first."""
    yield Finding("Python", found=True, version=platform.python_version(), enables="everything")
    yield Finding("kvmlab", found=True, version=kvmlab.__version__, enables="everything")
    for name, enables in PACKAGES:
        yield package(name, enables)
    for names, name, enables in PROGRAMS:
        yield program(names, name, enables)
    yield kvm()


def package(name: str, enables: str) -> Finding:
    """A Python package, by its metadata: nothing is imported."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, found=False, version="", enables=enables)
    return Finding(name, found=True, version=version, enables=enables)


def program(
    names: tuple[str, ...],
    name: str,
    enables: str,
    which: Callable[[str], str | None] = shutil.which,
) -> Finding:
    """The first of ``names`` on the PATH, with the version that it says it has."""
    path = next(filter(None, map(which, names)), None)
    return Finding(
        name, found=path is not None, version=said(path) if path else "", enables=enables
    )


def said(path: str) -> str:
    """The first number with a point in the answer to ``--version``, or ""."""
    try:
        answer = subprocess.run(  # noqa: S603  a program of the user's own PATH
            [path, "--version"], capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return ""
    number = re.search(r"\d+(?:\.\d+)+", answer.stdout + answer.stderr)
    return number.group() if number else ""


def kvm(device: Path = KVM_DEVICE, modules: Path = KVM_MODULES) -> Finding:
    """Whether this user may open KVM, and if its guests run on EPT, NPT or shadow paging."""
    usable = os.access(device, os.R_OK | os.W_OK)
    enables = "tests that hold the walk against a live KVM"
    return Finding(
        "/dev/kvm", found=usable, version=paging(modules) if usable else "", enables=enables
    )


def paging(modules: Path) -> str:
    """How the loaded KVM translates: its module parameters ``ept`` and ``npt``."""
    for vendor, switch in (("kvm_intel", "ept"), ("kvm_amd", "npt")):
        parameter = modules / vendor / "parameters" / switch
        try:
            on = parameter.read_text(encoding="ascii").strip() in ("Y", "1")
        except OSError:
            continue
        return switch.upper() if on else "shadow paging"
    return ""


def show(found: list[Finding]) -> None:
    """A table; what is missing is said in words, not by colour alone."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "version", "for", box=None, pad_edge=False)
    for one in found:
        state = one.version or "yes" if one.found else "not found"
        table.add_row(one.name, state, one.enables, style=None if one.found else "dim")
    Console().print(table)
