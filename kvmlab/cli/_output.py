"""A file that a command makes: there when it is whole, and not before."""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvmlab.base.errors import BadChoice


def add_output(parser: argparse.ArgumentParser, what: str) -> None:
    """``-o FILE``, with ``--force`` to replace what is there."""
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help=f"where to put {what}"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")


@contextmanager
def written(output: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary name beside ``output``, which becomes it if the block ends well.

    Raises `BadChoice` if ``output`` is there, unless ``force`` allows to replace it.
    """
    if output.is_dir() or (output.exists() and not force):
        what = "is a directory" if output.is_dir() else "is there already; --force replaces it"
        raise BadChoice(f"{output} {what}")
    if not output.parent.is_dir():
        raise BadChoice(f"{output} cannot be made: {output.parent} is no folder")
    handle, name = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
    os.close(handle)
    path = Path(name)
    try:
        yield path
        path.chmod(0o666 & ~_umask())  # mkstemp makes files that nobody else may read
        path.replace(output)
    finally:
        path.unlink(missing_ok=True)


def _umask() -> int:
    """The mask of this process, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
