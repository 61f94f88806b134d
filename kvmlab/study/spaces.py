"""A guest on a host, and what may happen to one page of it: in which space, and who is told.

The guest has its memory in one memslot and video memory in another, in the hole that a PC leaves
below 4 GiB; devices answer there too.  The host was in use before: its free frames are scattered.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE, parse_address, size_text
from kvmlab.base.clock import SECOND
from kvmlab.base.errors import BadAddress, BadChoice, BadSize, SegmentationFault
from kvmlab.guest.process import Process
from kvmlab.guest.tables import NX, USER, WRITABLE
from kvmlab.host.address_space import AddressSpace
from kvmlab.host.records import HostTookBack
from kvmlab.machine import Machine
from kvmlab.study.follow import Page, Trail, all_pages, check, follow, pages_of
from kvmlab.study.share import Plan
from kvmlab.study.story import Verb

DESIGNS = ("ept", "shadow")
GUEST, HOST, SWAP = "16M", "64M", 16 << 20
VIDEO, VIDEO_SIZE = 0xFD00_0000, 2 << 20  # where QEMU's -vga std has its memory (default BAR 0)
VIDEO_SLOT = 1
MOST_PAGES = 64
_PROCESSES = 6
_BEFORE = 64  # pages that another program of the host had
_DROPPED = (5, 40, 13, 60, 22, 51, 3, 33, 9, 47, 28, 57, 17, 44, 36, 1, 25, 62)
_SCANS = 4  # of KSM: two to know that a page rests, more to find and merge


class Spaces:
    """A machine with one process, and what guest, host and QEMU can do to its pages."""

    def __init__(self, mmu: str = "ept") -> None:
        """Boot; raises `BadChoice` for a design without all four spaces."""
        if mmu not in DESIGNS:
            raise BadChoice(f"choose one of {', '.join(DESIGNS)}, not {mmu!r:.20}")
        self.records: list[object] = []
        self.machine = Machine(mmu, guest_memory=GUEST, host_memory=HOST, tap=self.records.append)
        self._guest = self.machine.guest
        self._balloon = self.machine.attach_balloon()
        self._qemu = self._prepare_host()
        self._add_video()
        self._guest.switch(self._guest.spawn("app"))
        self.before: dict[tuple[str, int], Page] = {}
        self.taken: list[int] = []  # HVAs that lost their frame, the last one first
        self.records.clear()

    def _prepare_host(self) -> AddressSpace:
        """A host with swap, with KSM, and with scattered free frames; returns QEMU's memory."""
        vm, qemu = check(self.machine)
        host = vm.host
        host.swapon(SWAP)
        host.ksm.run = 1
        qemu.advise_mergeable(next(iter(vm.slots)).hva, wanted=True)
        other = host.process("other")
        start = other.mmap(_BEFORE << PAGE_SHIFT)
        other.populate(start, _BEFORE << PAGE_SHIFT)
        for number in _DROPPED:
            other.madvise_dontneed(start + (number << PAGE_SHIFT), PAGE_SIZE)
        return qemu

    def _add_video(self) -> None:
        vm, qemu = check(self.machine)
        vm.set_region(VIDEO_SLOT, VIDEO, VIDEO_SIZE, qemu.mmap(VIDEO_SIZE))

    # -- what is seen ------------------------------------------------------------------------

    @property
    def process(self) -> Process:
        """The process that runs."""
        process = self._guest.current
        assert process is not None  # noqa: S101  there is always one here
        return process

    @property
    def pages(self) -> list[Page]:
        """The pages of the process that runs."""
        return list(pages_of(self.machine, self.process))

    def follow(self, space: str, address: int) -> Trail:
        """An address in all four spaces."""
        return follow(self.machine, space, address)

    @property
    def told(self) -> Counter[str]:
        """How many records of each kind the last deed made."""
        return Counter(type(one).__name__ for one in self.records)

    # -- what the guest does -----------------------------------------------------------------

    def mmap(self, gva: str, pages: int) -> None:
        """The process asks for memory; nothing is given yet."""
        self._begin()
        self._check_count(pages)
        self.process.mmap(parse_address(gva) & -PAGE_SIZE, pages << PAGE_SHIFT)

    def munmap(self, gva: str) -> None:
        """The process gives the mapping that holds ``gva`` back."""
        self._begin()
        address = parse_address(gva)
        vma = self.process.vma_at(address)
        self.process.munmap(vma.start if vma else address)

    def read(self, gva: str) -> None:
        """The process reads; the first touch of a page makes it appear."""
        self._begin()
        self._touch(self._guest.load, gva)

    def write(self, gva: str, value: int) -> None:
        """The process writes ``value``: pages of equal contents may be merged by the host."""
        self._begin()
        if not 0 <= value < 1 << 64:
            raise BadSize(f"{value} is no number of 64 bits")
        self._touch(lambda address: self._guest.store(address, value), gva)

    def video(self, gva: str) -> None:
        """The process maps the first page of video memory, as a display server does."""
        self._begin()
        here = parse_address(gva)
        if here % PAGE_SIZE or here >= self._guest.user_end or self.process.vma_at(here):
            raise BadAddress(f"{here:#x} is no free page of user space")
        with self._guest.contexts.entered():
            flags = USER | WRITABLE | NX
            self._guest.tables.map(self.process.root, here, VIDEO, PAGE_SHIFT, flags)

    def fork(self) -> None:
        """The process forks: parent and child share all pages until one of them writes."""
        self._begin()
        number = len(self._guest.processes)
        if number >= _PROCESSES:
            raise BadChoice(f"there are {number} processes already, which is enough to see")
        self._guest.fork(f"child{number}")

    def switch(self, name: str) -> None:
        """Another process runs."""
        self._begin()
        found = next((one for one in self._guest.processes if one.name == name), None)
        if found is None:
            names = ", ".join(one.name for one in self._guest.processes)
            raise BadChoice(f"no process is called {name!r:.40}; there are {names}")
        self._guest.switch(found)

    def balloon(self, pages: int) -> None:
        """The host asks for a balloon of ``pages`` pages in all, and the guest's driver obeys."""
        self._begin()
        size = sum(length for _, length in self.machine.vmm.memory) if self.machine.vmm else 0
        if not 0 <= pages << PAGE_SHIFT <= size // 2:
            raise BadSize(f"a balloon of {pages} pages: choose 0 to half of {size_text(size)}")
        self._balloon.set_target(size - (pages << PAGE_SHIFT))
        self.machine.clock.sleep(SECOND)
        self._end()

    # -- what the host does ------------------------------------------------------------------

    def migrate(self, hva: str) -> None:
        """The host moves a page to another frame (compaction, NUMA balancing)."""
        self._begin()
        self._qemu.migrate(parse_address(hva) & -PAGE_SIZE)
        self._end()

    def reclaim(self, pages: int) -> None:
        """The host wants ``pages`` frames: those unused for long go to swap."""
        self._begin()
        self._check_count(pages)
        check(self.machine)[0].host.memory.reclaim.shrink(pages, "direct")
        self._end()

    def merge(self) -> None:
        """KSM looks at all of QEMU's memory and merges pages of equal contents."""
        self._begin()
        ksm = check(self.machine)[0].host.ksm
        scans = ksm.full_scans + _SCANS
        while ksm.full_scans < scans:
            ksm.scan(MOST_PAGES)
        self._end()

    # -- what these are made of --------------------------------------------------------------

    def _begin(self) -> None:
        self.before = all_pages(self.machine)
        self.records.clear()

    def _end(self) -> None:
        """Note which pages lost their frames."""
        gone = [one.hva for one in self.records if isinstance(one, HostTookBack)]
        self.taken = [*reversed(gone), *self.taken]

    def _touch(self, act: Callable[[int], object], gva: str) -> None:
        address = parse_address(gva)
        try:
            act(address & -8)
        except SegmentationFault as fault:
            raise BadAddress(str(fault)) from None
        self._end()

    @staticmethod
    def _check_count(pages: int) -> None:
        if not 1 <= pages <= MOST_PAGES:
            raise BadSize(f"choose 1 to {MOST_PAGES} pages, not {pages}")


def usual_deeds() -> list[list[object]]:
    """What a lab begins with: pages touched out of order, two of them of equal contents."""
    writes = ((3, 7), (0, 1), (6, 3), (1, 7), (5, 2))
    return [
        ["mmap", "0x400000", 8],
        *(["write", hex(0x400000 + (page << PAGE_SHIFT)), value] for page, value in writes),
        ["video", "0x10000000"],
        ["read", "0x10000000"],
    ]


def begin(plan: Plan) -> Spaces:
    """The experiment of a lab's plan."""
    return Spaces(str(plan["mmu"]))


VERBS: Mapping[str, Verb[Spaces]] = MappingProxyType(
    {
        "mmap": Verb(Spaces.mmap, (str, int)),
        "munmap": Verb(Spaces.munmap, (str,)),
        "read": Verb(Spaces.read, (str,)),
        "write": Verb(Spaces.write, (str, int)),
        "video": Verb(Spaces.video, (str,)),
        "fork": Verb(Spaces.fork),
        "switch": Verb(Spaces.switch, (str,)),
        "balloon": Verb(Spaces.balloon, (int,)),
        "migrate": Verb(Spaces.migrate, (str,)),
        "reclaim": Verb(Spaces.reclaim, (int,)),
        "merge": Verb(Spaces.merge),
    }
)
