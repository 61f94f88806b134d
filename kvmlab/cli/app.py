"""``kvmlab app``: one lab, or one notebook, as a page without code, served by Voila."""

import argparse
import contextlib
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from kvmlab.base.errors import BadChoice, KvmlabError
from kvmlab.cli import argument
from kvmlab.cli.lab import parse_port
from kvmlab.text.lessons import shipped

HELP = "Serve one lab or one notebook as a page without code, for a lecture."
EXAMPLES = (
    "kvmlab app modes",
    "kvmlab app 07 --no-browser --port 9000",
)
THEMES = ("light", "dark")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is shown and how Voila is started."""
    parser.add_argument(
        "name", metavar="NAME", help="a lab such as walk, or a notebook such as 02 or its file name"
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address instead of opening it"
    )
    parser.add_argument(
        "--port", type=argument(parse_port), metavar="N", help="port (default: 8866)"
    )
    parser.add_argument("--theme", choices=THEMES, default="light", help="(default: light)")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; the notebook made for a lab goes with the server."""
    from kvmlab import labs

    if importlib.util.find_spec("voila") is None:
        raise KvmlabError("Voila is not installed; run: pip install voila")
    if args.name in labs.__all__:
        with tempfile.TemporaryDirectory(prefix="kvmlab-") as folder:
            page = Path(folder, f"{args.name}.ipynb")
            page.write_text(json.dumps(notebook_of(args.name)), encoding="utf-8")
            return serve(voila(page, args))
    return serve(voila(notebook(args.name, labs.__all__), args))


def notebook_of(lab: str) -> dict[str, object]:
    """A notebook whose one cell shows ``lab``."""
    cell: dict[str, object] = {
        "cell_type": "code",
        "id": lab,
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": f"from kvmlab import labs\nlabs.{lab}()",
    }
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": [cell], "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}


def notebook(name: str, labs: list[str]) -> Path:
    """The one shipped notebook whose name begins with ``name``; raises `BadChoice`."""
    stem = name.removesuffix(".ipynb")
    known = sorted(shipped().glob("*.ipynb"))
    fitting = [path for path in known if path.stem == stem or path.stem.startswith(f"{stem}_")]
    if len(fitting) != 1:
        numbers = ", ".join(path.stem.partition("_")[0] for path in known)
        raise BadChoice(
            f"there is no lab or notebook {name[:40]!r}; labs: {', '.join(labs)}; "
            f"notebooks: {numbers}"
        )
    return fitting[0]


def voila(page: Path, args: argparse.Namespace) -> list[str]:
    """The command line of Voila for ``page``, reachable from this machine only."""
    command = [sys.executable, "-m", "voila", str(page), "--Voila.ip=127.0.0.1"]
    command.append(f"--theme={args.theme}")
    if args.no_browser:
        command.append("--no-browser")
    if args.port is not None:
        command.append(f"--port={args.port}")
    return command


def serve(command: list[str]) -> int:
    """Run the server until it ends or is interrupted; its status is ours."""
    with subprocess.Popen(command) as server:  # noqa: S603  our own interpreter
        while True:
            with contextlib.suppress(KeyboardInterrupt):  # the server has heard it too
                return server.wait()
