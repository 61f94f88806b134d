"""The plain controls of a lab's forms: each named from the catalogue, none wider than its page."""

from collections.abc import Sequence

import ipywidgets

from kvmlab.labs.words import Options, Words


def _style() -> dict[str, str]:
    return {"description_width": "initial"}  # names are not cut


def field(words: Words, key: str, value: str, width: str) -> ipywidgets.Text:
    """A line of text, reported when it is finished."""
    layout = ipywidgets.Layout(width=width, max_width="100%")
    control = ipywidgets.Text(value=value, continuous_update=False, style=_style(), layout=layout)
    return words.on(control, key)


def number(words: Words, key: str, value: int, least: int, most: int) -> ipywidgets.BoundedIntText:
    """A whole number."""
    layout = ipywidgets.Layout(width="auto", max_width="176px")
    control = ipywidgets.BoundedIntText(
        value=value, min=least, max=most, style=_style(), layout=layout
    )
    return words.on(control, key)


def tick(words: Words, key: str, *, chosen: bool = False) -> ipywidgets.Checkbox:
    """Something that is on or off."""
    layout = ipywidgets.Layout(width="max-content")
    return words.on(ipywidgets.Checkbox(value=chosen, indent=False, layout=layout), key)


def choice(
    words: Words, key: str, values: Sequence[object], options: Options | None = None
) -> ipywidgets.Dropdown:
    """One of ``values``; ``options`` says what they are called in the language spoken."""
    layout = ipywidgets.Layout(width="auto")
    control = ipywidgets.Dropdown(options=values, style=_style(), layout=layout)
    if options:
        words.options(control, options)
    return words.on(control, key)
