"""Sizes with units as libvirt reads them: ``512M`` is binary, ``512MB`` decimal.

libvirt, src/util/virutil.c: virScaleInteger().
"""

import re

from kvmlab.management.libvirt_errors import VIR_ERR_OVERFLOW, invalid_argument, libvirtError

KIB = 1024
INT_MAX, LLONG_MAX, ULONG_MAX = (1 << 31) - 1, (1 << 63) - 1, (1 << 64) - 1
_POWERS = "kmgtpe"
_SCALED = re.compile(r"\s*\+?([0-9]+)(.*)", re.DOTALL)


def number(digits: str, most: int) -> int | None:
    """What decimal ``digits`` write; None if they are none, or write more than ``most``.

    As strtoull() reads them: ASCII alone, and of any length.
    """
    if not re.fullmatch("[0-9]+", digits):
        return None
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= len(str(most)) and int(digits) <= most else None


def scale(value: int, suffix: str, *, default: int, limit: int) -> int:
    """``value`` in the unit ``suffix``, in bytes; without a suffix in units of ``default``.

    Raises `libvirtError`: an unknown suffix, or more than ``limit`` bytes.
    """
    factor = _factor(suffix) if suffix else default
    if value and value > limit // factor:
        raise libvirtError(
            f"numerical overflow: value too large: {value}{suffix}", VIR_ERR_OVERFLOW
        )
    return value * factor


def _factor(suffix: str) -> int:
    lower = suffix.lower()
    if lower in ("b", "byte", "bytes"):
        return 1
    power = _POWERS.find(lower[0]) + 1
    base = {"": 1024, "ib": 1024, "b": 1000}.get(lower[1:])
    if not power or base is None:
        raise invalid_argument(f"unknown suffix '{suffix}'")
    return int(base**power)


def split_scaled(text: str) -> tuple[int, str] | None:
    """The number and the suffix of ``text``; None if it does not begin with a number in range."""
    found = _SCALED.fullmatch(text)
    value = number(found[1], ULONG_MAX) if found else None
    return (value, found[2]) if found and value is not None else None


def kib(size: int) -> int:
    """``size`` bytes in KiB, rounded up: libvirt never gives less than was asked for."""
    return -(-size // KIB)
