"""A browser's half of the wire between labs and kernel, with the messages counted."""

from collections.abc import Iterator
from contextlib import contextmanager

import ipywidgets

BUDGET = 6  # messages down for one change of a control
STATUS = 2  # of these the kernel sends itself: busy, idle


class Wire:
    """What widgets send, as (widget, method, names of traits)."""

    def __init__(self):
        self.sent = []

    def choose(self, control, value):
        """Choose as a browser does; returns how many messages that costs, status included."""
        if hasattr(control, "options"):
            state = {"index": options(control).index(value)}
        else:
            state = {"value": value}
        return self.cost(lambda: self._update(control, state))

    def click(self, button):
        """Click a button; returns how many messages that costs, status included."""
        return self.cost(lambda: button._handle_custom_msg({"event": "click"}, []))

    def cost(self, act):
        """How many messages come down while ``act`` is done, status included."""
        before = len(self.sent)
        act()
        return STATUS + len(self.sent) - before

    @staticmethod
    def _update(control, state):
        data = {"method": "update", "state": state, "buffer_paths": []}
        control._handle_msg({"content": {"data": data}, "buffers": []})


def options(control):
    """What can be chosen in a control; an option is a value or a pair of its name and its value."""
    found = getattr(control, "options", ())
    return [one[1] if isinstance(one, tuple) else one for one in found]


@contextmanager
def tapped() -> Iterator[Wire]:
    """Every message that widgets send meanwhile is told to the wire, and goes nowhere."""
    wire, kept = Wire(), ipywidgets.Widget._send

    def send(widget, msg, buffers=None):
        wire.sent.append((type(widget).__name__, msg["method"], sorted(msg.get("state", {}))))

    ipywidgets.Widget._send = send
    try:
        yield wire
    finally:
        ipywidgets.Widget._send = kept
