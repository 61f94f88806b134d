"""Sizes with units as libvirt reads them: ``512M`` is binary, ``512MB`` decimal.

libvirt, src/util/virutil.c: virScaleInteger().
"""

import re

from kvmlab.management.libvirt_errors import VIR_ERR_OVERFLOW, invalid_argument, libvirtError

KIB = 1024
LLONG_MAX, ULONG_MAX = (1 << 63) - 1, (1 << 64) - 1
_POWERS = "kmgtpe"
_SCALED = re.compile(r"\s*\+?(\d+)(.*)", re.DOTALL)


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
    if not found or int(found[1]) > ULONG_MAX:
        return None
    return int(found[1]), found[2]


def kib(size: int) -> int:
    """``size`` bytes in KiB, rounded up: libvirt never gives less than was asked for."""
    return -(-size // KIB)
