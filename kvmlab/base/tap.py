"""The tap: where every party of the machine reports what it did.

A tap is one callable that takes one record.  Each room defines the records of its own
events; counters, figures, questions and exports are folds over what comes through the tap.
"""

from collections.abc import Callable

Tap = Callable[[object], None]


def silent(_record: object) -> None:
    """Drop the record: the tap of a machine that nobody listens to."""
