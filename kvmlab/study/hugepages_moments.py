"""How the guest's pages and the host's stand at one moment, 2 MiB by 2 MiB; read without effect."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.clock import SECOND
from kvmlab.guest.process import Process
from kvmlab.guest.tables import LARGE, PRESENT
from kvmlab.machine import Machine
from kvmlab.study.hugepages_beginning import BLOCK
from kvmlab.study.hugepages_served import Served
from kvmlab.study.inflation_moments import ept_of

AREA = 1 << 30  # where the process has its memory
BLOCKS = 4  # of 2 MiB that the process may use
SHOWN = 10  # of the guest's physical memory
ORDERS = 11  # of /proc/buddyinfo
_ENTRIES = 512
_FRAME = 0xF_FFFF_FFFF_F000  # bits 51:12
Gpas = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Leaves:
    """What maps 2 MiB: how many small leaves, and the shifts of the large ones that reach in."""

    small: int
    large: tuple[int, ...] = ()

    @property
    def huge(self) -> bool:
        """Whether one large leaf maps all of it."""
        return len(self.large) == 1 and not self.small


@dataclass(frozen=True, slots=True)
class Moment:
    """How things stood; sizes in bytes, maps by blocks of 2 MiB."""

    event: str
    seconds: float  # of simulated time
    area: int  # the first GVA of what follows
    guest: tuple[Leaves, ...]  # by GVA
    used: tuple[int, ...]  # pages of each that the process really used
    gpas: tuple[int | None, ...]  # where the first page of each lies in guest-physical memory
    base: int  # the first GPA of what follows
    ept: tuple[Leaves, ...]  # by GPA
    host: tuple[Leaves, ...]  # of QEMU's page table, by GPA
    runs: tuple[int, ...]  # in how many pieces of neighbouring frames it lies
    touched: int
    rss: int  # of QEMU
    hugetlb: int  # of QEMU, which is in no RSS
    thp: int  # AnonHugePages
    host_free: int
    blocks: tuple[int, ...]  # the host's free blocks by order
    logging: bool
    snapshot: bool
    dirty: int = 0  # pages that the log named for this deed
    copied: int = 0  # bytes that writes of this deed made the guest copy
    written: int = 0  # places written by it
    references: int = 0  # of a cold access
    spared: int = 0  # hits of walk caches in it
    served: Served | None = None

    @property
    def backed(self) -> int:
        """Bytes that the host has given to the guest."""
        return self.rss + self.hugetlb

    @property
    def at(self) -> int:
        """Which of the blocks shown holds the process's first page; 0 if it has none."""
        first = next((one for one in self.gpas if one is not None), self.base)
        return min(max((first - self.base) // BLOCK, 0), SHOWN - 1)


def guest_leaves(machine: Machine, process: Process, gva: int) -> tuple[Leaves, Gpas]:
    """What maps 2 MiB of the process, and the GPA of each 4 KiB there; -1 where there is none.

    Read from the guest's tables past its CPU, so that no TLB and no A bit notices.
    """
    table = process.root
    for level in range(machine.guest.tables.format.levels, 1, -1):
        shift = PAGE_SHIFT + 9 * (level - 1)
        entry = int(_words(machine, table)[gva >> shift & _ENTRIES - 1])
        if not entry & PRESENT:
            return Leaves(0), np.full(_ENTRIES, -1)
        table = entry & _FRAME
        if entry & LARGE:
            first = (table & -(1 << shift)) + (gva & (1 << shift) - 1)
            return Leaves(0, (shift,)), first + np.arange(_ENTRIES) * PAGE_SIZE
    words = _words(machine, table)
    there = words & PRESENT != 0
    return Leaves(int(there.sum())), np.where(there, words & _FRAME, -1)


def _words(machine: Machine, gpa: int) -> Gpas:
    """The 512 words of a table of the guest; zeroes where the host backs nothing."""
    hpa = machine.host_address(gpa)
    return np.zeros(_ENTRIES, np.int64) if hpa is None else machine.ram.words_at(hpa, _ENTRIES)


def ept_leaves(machine: Machine, gpa: int) -> Leaves:
    """What maps 2 MiB of guest-physical memory in EPT."""
    direct = ept_of(machine).direct
    entry = direct.tree.find(gpa)
    if entry.level > 1:
        live = entry.leaf and direct.bits.live(entry.spte)
        return Leaves(0, (PAGE_SHIFT + 9 * (entry.level - 1),) if live else ())
    words = machine.ram.words_at(entry.hpa & -PAGE_SIZE, _ENTRIES)
    return Leaves(int(direct.bits.which_live(words).sum()))


def host_leaves(machine: Machine, gpa: int) -> tuple[Leaves, int]:
    """What maps it in QEMU's page table, and in how many pieces of neighbouring frames it lies."""
    assert machine.vm is not None  # noqa: S101  the experiment made it so
    slot = machine.vm.slots.find(gpa)
    if slot is None:
        return Leaves(0), 0
    start = slot.hva_of(gpa)
    found = [one for one in machine.vm.vmm.table.between(start, start + BLOCK) if one.present]
    large = tuple(one.shift for one in found if one.level > 1)
    ends = [(one.hva, one.pfn << PAGE_SHIFT, 1 << one.shift) for one in found]
    joins = sum(
        hva + size == next_hva and hpa + size == next_hpa
        for (hva, hpa, size), (next_hva, next_hpa, _) in pairwise(ends)
    )
    return Leaves(len(found) - len(large), large), len(found) - joins


def blocks_of(machine: Machine, process: Process, area: int) -> list[tuple[Leaves, Gpas]]:
    """`guest_leaves` of each block from ``area`` on."""
    return [guest_leaves(machine, process, area + block * BLOCK) for block in range(BLOCKS)]


def look(
    machine: Machine,
    process: Process,
    area: int,
    used: NDArray[np.bool_],
    event: str,
    *,
    logging: bool,
    snapshot: bool,
    **more: object,
) -> Moment:
    """How things stand now, by blocks from ``area`` on."""
    assert machine.host is not None  # noqa: S101  it has a hypervisor
    assert machine.vmm is not None  # noqa: S101
    guest = blocks_of(machine, process, area)
    firsts = [_first(gpas) for _, gpas in guest]
    first = next((gpa for gpa in firsts if gpa is not None), 0)
    base = first if first >= SHOWN * BLOCK else 0
    gpas = range(base, base + SHOWN * BLOCK, BLOCK)
    host = [host_leaves(machine, gpa) for gpa in gpas]
    kernel, qemu = machine.host, machine.vmm.process
    pools = sum(pool.total - pool.free << pool.shift for pool in kernel.hugetlb.values())
    return Moment(
        event=event,
        seconds=machine.clock.now / SECOND,
        area=area,
        guest=tuple(leaves for leaves, _ in guest),
        used=tuple(used.reshape(BLOCKS, -1).sum(axis=1).tolist()),
        gpas=tuple(firsts),
        base=base,
        ept=tuple(ept_leaves(machine, gpa) for gpa in gpas),
        host=tuple(leaves for leaves, _ in host),
        runs=tuple(runs for _, runs in host),
        touched=int(used.sum()) << PAGE_SHIFT,
        rss=qemu.rss << PAGE_SHIFT,
        hugetlb=pools,
        thp=kernel.meminfo()["AnonHugePages"] << 10,
        host_free=kernel.buddy.free_frames << PAGE_SHIFT,
        blocks=_orders(kernel.buddy.free_blocks()),
        logging=logging,
        snapshot=snapshot,
        **more,  # type: ignore[arg-type]
    )


def _first(gpas: Gpas) -> int | None:
    """Where the first page that is mapped lies."""
    there = gpas[gpas >= 0]
    return int(there[0]) if len(there) else None


def _orders(blocks: tuple[int, ...]) -> tuple[int, ...]:
    """Free blocks up to order 10, as Linux counts them: a larger one is several of these."""
    top = ORDERS - 1
    return (
        *blocks[:top],
        sum(count << order - top for order, count in enumerate(blocks) if order >= top),
    )
