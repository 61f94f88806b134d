"""Many stores by one CPU at once, where none of them can fault, exit or set an A or D bit."""

from collections.abc import Iterable

from kvmlab.hardware.batch_pages import Bytes, Ints
from kvmlab.hardware.batch_quiet import make_quietly
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.ram import PAGE_SIZE


def store_quietly(cpu: Cpu, gva: Ints, kinds: Bytes, data: Iterable[tuple[int, bytes]]) -> bool:
    """Make these accesses, of which some write ``data``: (which access, its bytes in one page).

    None of them changes a table that translates another.  Returns False, with nothing done, unless
    all are quiet (`make_quietly`).
    """
    made = make_quietly(cpu, gva, kinds, len(gva))
    if made is None:
        return False
    hpa = (made.reached() | gva & PAGE_SIZE - 1).tolist()
    for access, written in data:
        cpu.ram.write(hpa[access], written)
    return True
