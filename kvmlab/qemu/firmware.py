"""What firmware leaves in guest memory: page tables with GVA = GPA, and a CPU in their mode.

Firecracker and kvmtool start a kernel this way (Linux, Documentation/arch/x86/boot.rst,
"64-bit Boot Protocol"): long mode, paging on, memory mapped to itself in large pages.
"""

from collections.abc import Callable, Sequence

from kvmlab.base.errors import BadChoice
from kvmlab.hardware.formats import Format
from kvmlab.hardware.processor import (
    CR0_PE,
    CR0_PG,
    CR4_LA57,
    CR4_PAE,
    CR4_PSE,
    EFER_LMA,
    EFER_LME,
    Controls,
)

_FIRST_TABLE = 0x9000
_TABLE_FLAGS, _POINTER_FLAGS, _PAGE_FLAGS = 0x63, 0x01, 0xE3


def boot_controls(fmt: Format) -> Controls:
    """The control registers with which the kernel of a guest in this mode starts."""
    cr4 = {"32-bit": CR4_PSE, "PAE": CR4_PAE, "4-level": CR4_PAE, "5-level": CR4_PAE | CR4_LA57}
    if fmt.mode not in cr4:
        raise BadChoice(f"a guest cannot use {fmt.name} tables")
    efer = EFER_LME | EFER_LMA if fmt.long_mode else 0
    return Controls(cr0=CR0_PE | CR0_PG, cr3=_FIRST_TABLE, cr4=cr4[fmt.mode], efer=efer)


def identity_tables(
    fmt: Format, memory: Sequence[tuple[int, int]], write: Callable[[int, bytes], None]
) -> None:
    """Write tables that map ``memory`` to itself in the smallest large pages of ``fmt``."""
    shift = fmt.page_shifts[1]
    tables: dict[tuple[int, int], int] = {(fmt.levels, 0): _FIRST_TABLE}
    for start, length in memory:
        for gpa in range(start, start + length, 1 << shift):
            _map(fmt, tables, gpa, write)


def _map(
    fmt: Format,
    tables: dict[tuple[int, int], int],
    gpa: int,
    write: Callable[[int, bytes], None],
) -> None:
    table, shift = _FIRST_TABLE, 12 + sum(fmt.index_bits)
    for level, bits in zip(range(fmt.levels, 1, -1), fmt.index_bits, strict=False):
        shift -= bits
        slot = table + (gpa >> shift & (1 << bits) - 1) * fmt.entry_bytes
        if level == 2:
            write(slot, (gpa | _PAGE_FLAGS).to_bytes(fmt.entry_bytes, "little"))
            return
        key = (level - 1, gpa >> shift)
        if key not in tables:
            tables[key] = _FIRST_TABLE + 0x1000 * len(tables)
            flags = _POINTER_FLAGS if fmt.mode == "PAE" else _TABLE_FLAGS
            write(slot, (tables[key] | flags).to_bytes(fmt.entry_bytes, "little"))
        table = tables[key]
