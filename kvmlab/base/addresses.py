"""Addresses and sizes as the engine counts them and as people write them.

Four address spaces, four types: a guest virtual address (GVA) is translated by the guest's
page tables to a guest physical one (GPA), by a memslot to a host virtual one (HVA), by the
page table of the VMM process to a host physical one (HPA).
"""

import re
from types import MappingProxyType
from typing import NewType

from kvmlab.base.errors import BadAddress, BadSize

Gva = NewType("Gva", int)
Gpa = NewType("Gpa", int)
Hva = NewType("Hva", int)
Hpa = NewType("Hpa", int)
Gfn = NewType("Gfn", int)
Pfn = NewType("Pfn", int)

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

_UNITS = MappingProxyType({"": 0, "K": 10, "M": 20, "G": 30, "T": 40})
_SIZE = re.compile(r"(\d+)\s*(?:([KMGT]?)(?:i?B)?)", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:0x)?([0-9a-f]{1,16})", re.IGNORECASE)


def parse_size(text: str | int) -> int:
    """Bytes named by ``text``: ``4K``, ``2M``, ``1 GiB``, ``1073741824`` or an int.

    K, M, G and T are binary, as in the kernel.  Raises `BadSize`.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if text <= 0:
            raise BadSize(f"size {text} is not positive; write a size such as 64M")
        return text
    found = _SIZE.fullmatch(str(text).strip())
    if not found or not int(found[1]):
        raise BadSize(f"size {str(text)[:40]!r} is no size; write it as 4K, 2M, 1 GiB or in bytes")
    return int(found[1]) << _UNITS[(found[2] or "").upper()]


def parse_address(text: str | int) -> int:
    """The 64-bit address named by ``text``: hex with or without ``0x``; `_` may group digits.

    Raises `BadAddress`.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        if not 0 <= text < 1 << 64:
            raise BadAddress(f"address {text:#x} does not fit in 64 bits")
        return text
    found = _ADDRESS.fullmatch(str(text).strip().replace("_", ""))
    if not found:
        raise BadAddress(
            f"address {str(text)[:40]!r} is no address; "
            "write up to 16 hex digits such as 0x7f1234567000"
        )
    return int(found[1], 16)


def size_text(size: int) -> str:
    """``size`` bytes as the kernel writes it: ``4K``, ``2M``, ``1G``, or plain bytes."""
    for unit, shift in (("T", 40), ("G", 30), ("M", 20), ("K", 10)):
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)


def is_canonical(address: int, width: int) -> bool:
    """Whether bits 63 to ``width`` - 1 are all equal (SDM, "Canonical Addressing")."""
    upper = address >> (width - 1)
    return upper in (0, (1 << (65 - width)) - 1)
