"""Huge pages in a guest and in its host: what becomes of them, deed by deed.

A process of the guest has `BLOCKS` blocks of 2 MiB to use.  Each deed leaves a `Moment` of before
and one of after; all numbers are the engine's.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE, parse_size
from kvmlab.base.clock import SECOND
from kvmlab.base.errors import BadChoice
from kvmlab.guest.process import Process, Vma
from kvmlab.hardware.records import Kind
from kvmlab.hardware.tlb import Geometry
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES
from kvmlab.linux.frames import runs
from kvmlab.study.counters import Counters
from kvmlab.study.hugepages_beginning import BLOCK, Beginning
from kvmlab.study.hugepages_moments import AREA, BLOCKS, Moment, blocks_of, look
from kvmlab.study.hugepages_served import Served, serve
from kvmlab.study.inflation_moments import ept_of
from kvmlab.study.story import Verb

PIECES = BLOCK // PAGE_SIZE
WRITES = 8
PLACE = 0x12_3458  # of a cold access, from `AREA` on
MOST_SECONDS = 600
_KSM_SCANS = 3  # the first learns a page, the next finds it unchanged, and then it is merged
_SEED = 11


class HugePages:
    """The experiment.  ``moments`` are those of the last deed, ``history`` all of them."""

    def __init__(self, beginning: Beginning) -> None:
        """Boot the guest; raises what `Beginning.build` does."""
        self.beginning = beginning
        self.history: list[Moment] = []
        self.moments: list[Moment] = []
        self.deed: tuple[object, ...] = ("begin",)
        self.machine, self.server, self._others = beginning.build()
        self.shift = parse_size(beginning.guest_page).bit_length() - 1
        self.used: NDArray[np.bool_] = np.zeros(BLOCKS * PIECES, np.bool_)
        self._logging, self._dropped = False, 0
        self._child: Process | None = None
        self._dice = np.random.default_rng(_SEED)
        guest = self.machine.guest
        self.process = guest.spawn("store")
        guest.switch(self.process)
        size = max(BLOCK, 1 << self.shift)
        for gva in range(AREA, AREA + max(BLOCKS * BLOCK, size), size):
            self.process.mmap(gva, size, page=beginning.guest_page)
        self._note("after")

    @property
    def tlb(self) -> Geometry:
        """The arrays of the processor's TLB."""
        return self.machine.cpu.tlb.geometry

    # -- deeds ------------------------------------------------------------------------------

    def fill(self) -> None:
        """The process writes to every page that it may use."""
        with self._doing("fill"):
            for vma in self.process.vmas:
                self._fill(vma)
            self.used[:] = True
            self._back()

    def sparse(self) -> None:
        """It writes one page of each 2 MiB, another one each time."""
        with self._doing("sparse"):
            for block in range(BLOCKS):
                self._write(block * PIECES + int(self._dice.integers(PIECES)))

    def access(self) -> None:
        """One read with nothing cached, after the page was touched."""
        with self._doing("access") as found:
            cpu, gva = self.machine.cpu, AREA + PLACE
            self._write(PLACE >> PAGE_SHIFT)
            cpu.flush_tlb()
            counters, tap = Counters(), cpu.tap
            cpu.tap = counters
            try:
                self.machine.guest.touch(gva, Kind.READ)
            finally:
                cpu.tap = tap
            found["references"] = counters.program.all_references
            found["spared"] = counters.program.cached

    def serve(self) -> None:
        """Requests to what was used; raises `BadChoice` if nothing was."""
        if not self.used.any():
            raise BadChoice("nothing is stored yet: let the process use its memory first")
        with self._doing("serve") as found:
            found["served"] = self.measure()

    def balloon(self) -> None:
        """The balloon takes one page of 4 KiB from the guest."""
        with self._doing("balloon"):
            balloon = self.machine.balloon
            assert balloon is not None  # noqa: S101  the beginning plugged it in
            balloon.set_target(balloon.left - PAGE_SIZE)
            self.server.clock.sleep(SECOND // 1000)

    def drop(self) -> None:
        """QEMU drops 4 KiB of what the process uses: madvise(MADV_DONTNEED).

        Raises `BadChoice` if nothing is left to drop, `BadAddress` on hugetlbfs.
        """
        pages = np.flatnonzero(self.used)
        if self._dropped + 1 >= len(pages):
            raise BadChoice("there is no page of the process to drop; let it use some first")
        page = int(pages[1 + self._dropped])
        hva = self.machine.chain(AREA + page * PAGE_SIZE).hva
        vm = self.machine.vm
        assert vm is not None  # noqa: S101  it has a hypervisor
        assert hva is not None  # noqa: S101  what is used is mapped, and in a slot
        vm.vmm.areas.whole_pages(hva, PAGE_SIZE)  # madvise says EINVAL before anything is done
        with self._doing("drop"):
            vm.vmm.madvise_dontneed(hva, PAGE_SIZE)
            self._dropped += 1

    def log(self) -> None:
        """Begin or end the log of written pages, as a migration does."""
        if self.beginning.host == "1G":
            raise BadChoice("splitting leaves of 1G takes 262,144 entries each: choose 2M here")
        with self._doing("log"):
            self._logging = not self._logging
            self._set_flags()

    def ksm(self) -> None:
        """Ksmd looks through all of QEMU's memory until what is equal is merged."""
        with self._doing("ksm"):
            host = self.server.host
            assert self.machine.vmm is not None  # noqa: S101  it has a hypervisor
            qemu = self.machine.vmm.process
            for area in qemu.areas:
                qemu.advise_mergeable(area.start, wanted=True)
            until = host.ksm.full_scans + _KSM_SCANS
            while host.ksm.full_scans < until:
                host.ksm.scan(PIECES)

    def reclaim(self) -> None:
        """The host is short of memory: its shrinkers split what huge pages lost pieces of."""
        with self._doing("reclaim"):
            for shrink in self.server.host.memory.shrinkers:
                shrink()

    def wait(self, seconds: int) -> None:
        """Let time pass: khugepaged wakes every 10 s.  Raises `BadChoice`."""
        if not 0 < seconds <= MOST_SECONDS:
            raise BadChoice(f"wait from 1 to {MOST_SECONDS} seconds, not {seconds}")
        with self._doing("wait", seconds):
            self.server.clock.sleep(seconds * SECOND)

    def leave(self) -> None:
        """What fragmented the host goes; raises `BadChoice` if nothing does."""
        if not len(self._others):
            raise BadChoice("nobody else holds frames of this host: it is not fragmented")
        with self._doing("leave"):
            self.server.host.memory.free_pages(self._others)
            self._others = self._others[:0]

    def snapshot(self) -> None:
        """The process forks, as Redis does to save what it holds; or that child ends."""
        if self.shift > PAGE_SHIFT + 9:
            raise BadChoice("a write would copy a page of 1G: choose 4K or 2M to try a snapshot")
        with self._doing("snapshot"):
            if self._child:
                self.machine.guest.exit(self._child)
                self.machine.guest.wait()
                self._child = None
            else:
                self._child = self.machine.guest.fork("snapshot")

    def write(self) -> None:
        """`WRITES` random places of what is used are written; raises `BadChoice` without any."""
        pages = np.flatnonzero(self.used)
        if not len(pages):
            raise BadChoice("nothing is stored yet: let the process use its memory first")
        with self._doing("write") as found:
            if self._logging:
                self._dirty()  # what was written before
            chosen = [int(one) for one in self._dice.choice(pages, WRITES)]
            before = self._gpas()
            for page in chosen:
                self._write(page)
            after = self._gpas()
            moved = {self._unit(page) for page in chosen if after[page] != before[page]}
            found["copied"] = len(moved) << self.shift
            found["written"] = len(set(chosen))
            found["dirty"] = self._dirty() if self._logging else 0

    # -- how --------------------------------------------------------------------------------

    def measure(self) -> Served:
        """What requests to the pages in use cost now."""
        pages = AREA + np.flatnonzero(self.used) * PAGE_SIZE
        mixed = self.beginning.guest == "thp"
        return serve(self.machine, pages, None if mixed else self.shift)

    def _fill(self, vma: Vma) -> None:
        """Every page of a mapping that is not there yet."""
        guest, step = self.machine.guest, 1 << vma.shift
        end = min(vma.end, AREA + BLOCKS * BLOCK)
        there = self._gpas()[vma.start - AREA >> PAGE_SHIFT : end - AREA >> PAGE_SHIFT]
        places = there[:: step >> PAGE_SHIFT] < 0
        missing = [vma.start + int(one) * step for one in np.flatnonzero(places)]
        if len(missing) * step == vma.end - vma.start:
            guest.populate(self.process, vma)
            return
        with guest.contexts.entered():
            for gva in missing:
                guest.memory.demand(self.process, vma, gva, write=True)

    def _back(self) -> None:
        """Have host and EPT back what is used: KVM_PRE_FAULT_MEMORY, as touch after touch would."""
        pages = self._gpas()[self.used] >> PAGE_SHIFT
        for first, count in runs(pages):
            ept_of(self.machine).pre_fault(first << PAGE_SHIFT, count << PAGE_SHIFT)

    def _gpas(self) -> NDArray[np.int64]:
        """Where each 4 KiB of the process lies in guest-physical memory; -1 for nowhere."""
        blocks = blocks_of(self.machine, self.process, AREA)
        return np.concatenate([gpas for _, gpas in blocks])

    def _write(self, page: int) -> None:
        self.machine.guest.touch(AREA + page * PAGE_SIZE + PLACE % PAGE_SIZE, Kind.WRITE)
        self.used[page] = True

    def _unit(self, page: int) -> int:
        """Which of the guest's own pages holds 4 KiB page ``page``."""
        return page * PAGE_SIZE >> self.shift

    def _set_flags(self) -> None:
        vm = self.machine.vm
        assert vm is not None  # noqa: S101  it has a hypervisor
        for slot in vm.slots:
            flags = LOG_DIRTY_PAGES if self._logging else 0
            vm.set_region(slot.slot, slot.gpa, slot.size, slot.hva, flags)

    def _dirty(self) -> int:
        """How many pages were written since last asked (KVM_GET_DIRTY_LOG)."""
        vm = self.machine.vm
        assert vm is not None  # noqa: S101  it has a hypervisor
        logs = [vm.get_dirty_log(slot.slot) for slot in vm.slots]
        return sum(int.from_bytes(log, "little").bit_count() for log in logs)

    @contextmanager
    def _doing(self, *deed: object) -> Iterator[dict[str, object]]:
        """One deed: what stood before is kept, and what stands after with what it found."""
        self.deed, self.moments = deed, [self.history[-1]]
        found: dict[str, object] = {}
        yield found
        self._note("after", **found)

    def _note(self, event: str, **found: object) -> None:
        moment = look(
            self.machine,
            self.process,
            AREA,
            self.used,
            event,
            logging=self._logging,
            snapshot=self._child is not None,
            **found,
        )
        self.moments.append(moment)
        self.history.append(moment)


VERBS: Mapping[str, Verb[HugePages]] = MappingProxyType(
    {
        "fill": Verb(HugePages.fill),
        "sparse": Verb(HugePages.sparse),
        "access": Verb(HugePages.access),
        "serve": Verb(HugePages.serve),
        "balloon": Verb(HugePages.balloon),
        "drop": Verb(HugePages.drop),
        "log": Verb(HugePages.log),
        "ksm": Verb(HugePages.ksm),
        "reclaim": Verb(HugePages.reclaim),
        "wait": Verb(HugePages.wait, (int,)),
        "leave": Verb(HugePages.leave),
        "snapshot": Verb(HugePages.snapshot),
        "write": Verb(HugePages.write),
    }
)
"""What can be done to it."""

PAIRS = (("4K", "4K"), ("4K", "thp"), ("2M", "4K"), ("2M", "thp"))
"""Pages of guest and host that are compared with what a learner has."""


@cache
def compared(geometry: str) -> tuple[Served, ...]:
    """What requests cost with each of `PAIRS`, in a guest whose memory is all in use.

    ``geometry`` is the TLB's, as `geometry_named` calls it; raises `BadChoice`.
    """
    found = []
    for guest, host in PAIRS:
        one = HugePages(Beginning(guest=guest, host=host, geometry=geometry))
        one.fill()
        found.append(one.measure())
    return tuple(found)
