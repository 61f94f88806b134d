"""Lines broken between words, for where text is shown as it stands: a terminal, a cell's output."""

import textwrap

WIDTH = 92
"""Columns that a notebook of 1,200 px shows beside JupyterLab's file browser."""


def fold(text: str, width: int = WIDTH) -> str:
    """``text`` with no line of words longer than ``width``; a broken line keeps its indent.

    A word longer than that stays whole, and so does Chinese, which has no spaces: whoever shows
    it may break it anywhere.
    """
    return "\n".join(
        line if len(line) <= width else _folded(line, width) for line in text.split("\n")
    )


def _folded(line: str, width: int) -> str:
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
