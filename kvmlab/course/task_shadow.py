"""The task ``shadow``: ``fill(pte, home, tables)`` returns the shadow entry of a guest's PTE.

What is expected is what KVM's shadow MMU put into the table that the hardware then walked; A and D
bits of it do not count.
"""

from functools import cache
from itertools import product
from typing import Any

from kvmlab.course.bench import ACCESSED, DIRTY, PRESENT, USER, WRITABLE, XD
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Said, Words
from kvmlab.course.runs import AREA
from kvmlab.course.task import Case, expected
from kvmlab.hardware.records import Kind, Step
from kvmlab.machine import Machine

_PAGE = 4096
_FRAME = 0x000F_FFFF_FFFF_F000
_JUDGED = _FRAME | PRESENT | WRITABLE | USER | XD


@cache
def _filled() -> tuple[tuple[int, int, int | None, int], ...]:
    """Guest PTEs of all kinds: each with its GPA's host address and KVM's shadow entry.

    The last number is the page table among the pages, or 0.
    """
    records: list[object] = []
    machine = Machine("shadow", guest_memory="8M", host_memory="32M", tap=records.append)
    guest = machine.guest
    process = guest.spawn("program")
    guest.switch(process)
    process.mmap(AREA, 64 * _PAGE)
    guest.touch(AREA, Kind.WRITE)
    found = []
    flags = product((0, WRITABLE), (0, USER), (0, DIRTY), (0, XD), (False, True))
    for number, (writable, user, dirty, xd, table) in enumerate(flags, start=1):
        gva = AREA + number * _PAGE
        with guest.contexts.entered():
            page = process.root if table else guest.frames.alloc()
            pte = page | PRESENT | ACCESSED | writable | user | dirty | xd
            guest.tables.map(process.root, gva, page, 12, pte & ~page & ~PRESENT)
            records.clear()
            machine.cpu.load(gva)
            machine.cpu.flush_tlb()
            machine.cpu.load(gva)
        leaf = [one for one in records if isinstance(one, Step)][-1]
        found.append((pte, leaf.entry, machine.host_address(page), page if table else 0))
    return tuple(found)


def shadow_case(draw: Draw) -> Case:
    """One guest PTE: present or not, of memory or of nothing, of data or of a page table."""
    pte, spte, host, table = draw.choose(_filled())
    tables = frozenset({table} if table else {0x5000, 0x9000})
    homes = {pte & _FRAME: host}
    how = draw.choose(("present", "present", "present", "absent", "hole"))
    if how == "absent":
        pte, spte = pte & ~PRESENT, 0
    elif how == "hole":
        pte, spte = pte & ~_FRAME | 0xFEC0_0000, 0  # nothing of the VM is there
    values: dict[str, object] = {"pte": f"{pte:#018x}"}
    words = Said(f"course.task.shadow.{'table' if table and how == 'present' else how}", values)
    return Case((pte, homes.get, tables), spte & _JUDGED, words)


def shadow_judge(case: Case, got: Any) -> Words | None:  # noqa: ANN401  whatever was returned
    """P, the frame, W, U and XD must be KVM's; nothing counts in an entry that is absent."""
    if type(got) is not int:
        raise TypeError
    judged = got & _JUDGED if got & PRESENT else 0
    if judged == case.expected:
        return None
    return expected(f"{case.expected:#x}", f"{got:#x}")
