"""What can be seen of a guest with a balloon at one moment: its frames, the ring, EPT, the host.

Everything is read without effect: guest memory through the host's tables, EPT entry by entry.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.errors import BadAddress, BadChoice
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.kvm.ept_mmu import EptMmu
from kvmlab.linux.frames import Role
from kvmlab.machine import Machine
from kvmlab.virtio.ring import Descriptor, read16

OWNERS = ("free", "kernel", "process", "cache", "balloon")
"""Whose a frame of the guest is, in the order of the columns of `Moment.owners`."""

CELLS = 64  # parts of guest-physical memory that are looked at each as a whole
_ENTRIES = 512
_LEAF_BYTES = PAGE_SIZE * _ENTRIES
_ROLES = ((Role.ANON, 2), (Role.FILE, 3), (Role.BALLOON, 4))


@dataclass(frozen=True, slots=True)
class Buffer:
    """One array of page frame numbers, as it lay on its ring."""

    queue: str  # "inflate" or "deflate"
    head: int  # which descriptor
    descriptor: Descriptor
    avail: int  # idx of the driver's ring
    used: int  # idx of the device's ring
    pfns: tuple[int, ...]
    was: int | None  # shift of the EPT leaf of the first page before it was served; None: a hole
    leaf: int | None = None  # and after


@dataclass(frozen=True, slots=True)
class Moment:
    """How things stood after ``event``; sizes in bytes, maps by cells of ``pages`` pages."""

    event: str
    seconds: float  # of simulated time
    ram: int  # of the guest
    target: int  # left to the guest, as the host wants it
    actual: int  # left to the guest, as the guest says
    returned: int  # what the host really got back since the beginning
    rss: int  # of QEMU
    host_free: int
    total: int  # MemTotal
    free: int  # MemFree
    cache: int
    process: int  # anonymous memory
    swapped: int  # of it, in the guest's swap
    blocks: tuple[int, ...]  # /proc/buddyinfo: free blocks of each order
    driver: bool  # whether the guest has loaded one
    interval: int  # seconds between two polls of its statistics; 0: nobody asks
    owners: NDArray[np.int64]  # by cell, then as `OWNERS`
    mapped: NDArray[np.int64]  # by cell: how many pages EPT maps
    freed: int = 0  # by this event
    times: int = 1  # how often the event came in a row
    note: str = ""  # who was killed
    buffer: Buffer | None = None
    counts: tuple[tuple[str, int], ...] = ()  # /proc/vmstat: what grew since the deed began
    stats: str = ""  # virsh dommemstat, if it was asked

    @property
    def pages(self) -> int:
        """How many pages of guest-physical memory are a cell."""
        return (self.ram >> PAGE_SHIFT) // CELLS

    @property
    def ept(self) -> int:
        """Bytes that EPT maps."""
        return int(self.mapped.sum()) << PAGE_SHIFT


class GuestBytes:
    """Guest memory by guest-physical address, for reading only (`virtio.ring.Memory`)."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def read(self, gpa: int, size: int) -> bytes:
        """``size`` bytes within one page; zeroes where the host backs nothing."""
        hpa = self._machine.host_address(gpa)
        return bytes(size) if hpa is None else self._machine.ram.read(hpa, size)

    def write(self, gpa: int, data: bytes) -> None:
        """Never: an onlooker changes nothing."""
        raise BadAddress(f"{len(data)} bytes for GPA {gpa:#x}: this view is read-only")


def buffer_of(machine: Machine, queue: str) -> Buffer:
    """The buffer that the driver made available last on ``queue``."""
    assert machine.balloon_driver is not None  # noqa: S101  it just spoke
    memory, layout = GuestBytes(machine), machine.balloon_driver.layout(queue)
    avail = read16(memory, layout.avail + 2)
    head = read16(memory, layout.avail_entry(avail - 1))
    entry = Descriptor.unpack(memory.read(layout.descriptor(head), 16))
    words = np.frombuffer(memory.read(entry.gpa, entry.length), "<u4")
    used = read16(memory, layout.used + 2)
    pfns = tuple(words.tolist())
    was = leaf_shift(machine, pfns[0] << PAGE_SHIFT)
    return Buffer(queue, head, entry, avail, used, pfns, was)


def used_index(machine: Machine, queue: str) -> int:
    """How many buffers of ``queue`` the device has given back."""
    assert machine.balloon_driver is not None  # noqa: S101  likewise
    return read16(GuestBytes(machine), machine.balloon_driver.layout(queue).used + 2)


def leaf_shift(machine: Machine, gpa: int) -> int | None:
    """The size of the EPT leaf that maps ``gpa``, as a shift; None where there is a hole."""
    mmu = ept_of(machine)
    entry = mmu.direct.tree.find(gpa)
    live = entry.leaf and mmu.direct.bits.live(entry.spte)
    return PAGE_SHIFT + 9 * (entry.level - 1) if live else None


def mapped_pages(machine: Machine, size: int) -> NDArray[np.bool_]:
    """Which of the guest's first ``size`` bytes EPT maps, page by page."""
    mmu, rows = ept_of(machine), []
    for gpa in range(0, size, _LEAF_BYTES):
        entry = mmu.direct.tree.find(gpa)
        if entry.level == 1:
            words = machine.ram.words_at(entry.hpa & -PAGE_SIZE, _ENTRIES)
            rows.append(mmu.direct.bits.which_live(words))
        else:
            live = entry.leaf and mmu.direct.bits.live(entry.spte)
            rows.append(np.full(_ENTRIES, live))
    return np.concatenate(rows)[: size >> PAGE_SHIFT]


def owner_of_pages(reclaimer: Reclaimer, size: int) -> NDArray[np.int64]:
    """For each page of the guest's first ``size`` bytes, whose it is: an index into `OWNERS`."""
    pages = size >> PAGE_SHIFT
    found = np.ones(pages, np.int64)  # the kernel's, firmware's, unless told otherwise
    roles = reclaimer.memory.frames.role[:pages]
    for role, owner in _ROLES:
        found[: len(roles)][roles == role] = owner
    for first, count in reclaimer.memory.buddy.free_ranges():
        found[first : first + count] = 0
    return found


def by_cell(pages: NDArray[np.int64], kinds: int) -> NDArray[np.int64]:
    """How many pages of each kind there are in each cell."""
    cells = pages.reshape(CELLS, -1)
    counted: NDArray[np.int64] = np.stack([(cells == kind).sum(axis=1) for kind in range(kinds)], 1)
    return counted


def ept_of(machine: Machine) -> EptMmu:
    """EPT as KVM keeps it for a machine; raises `BadChoice` for one of another design."""
    mmu = machine.vcpu.mmu if machine.vcpu else None
    if not isinstance(mmu, EptMmu):
        raise BadChoice(f"design {machine.mmu!r} has no EPT to look at; choose ept or npt")
    return mmu
