"""What a learner passes by mistake is refused where it comes in, with one line."""

from kvmlab.base.errors import BadChoice


def expect(what: str, value: object, kind: type | tuple[type, ...], like: str) -> None:
    """Refuse a ``value`` that is none of ``kind``; raises `BadChoice`, which says what is ``like``.

    True and False are no numbers.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise BadChoice(f"{what} must be {like}, not {repr(value)[:60]}")


def expect_callable(what: str, value: object, like: str) -> None:
    """Refuse a ``value`` that cannot be called; raises `BadChoice`."""
    if not callable(value):
        raise BadChoice(f"{what} must be {like}, not {repr(value)[:60]}")
