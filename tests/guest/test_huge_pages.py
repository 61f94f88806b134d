"""Transparent huge pages in the guest: at a fault, split, shared by fork, swapped, collapsed.

The rules are read in Linux's source and documentation; none of the numbers is measured.
"""

import pytest

from kvmlab.base.clock import SECOND, Clock
from kvmlab.base.errors import BadAddress, BadChoice, BadSize, SegmentationFault
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.guest.records import DemandFault, EntrySplit, PageCopied, PageReused, PagesCollapsed
from kvmlab.hardware.records import Data, Kind
from kvmlab.machine import Machine

AREA, MIB = 0x1000_0000, 1 << 20
HUGE = 2 * MIB


class Guest:
    """A guest whose kernel manages its memory, and a process with a mapping of some MiB."""

    def __init__(
        self, mmu="native", memory="32M", mib=8, swap=16, enabled="always", at=AREA, **options
    ):
        self.records = []
        self.machine = Machine(mmu, guest_memory=memory, tap=self.records.append, **options)
        self.kernel = self.machine.guest
        self.reclaimer = Reclaimer(self.kernel, swap=swap * MIB, min_free_kbytes=256)
        self.stat, self.huge = self.reclaimer.stat, self.reclaimer.huge
        self.huge.enabled = enabled
        self.free = self.kernel.frames.buddy.free_frames
        self.process = self.kernel.spawn("demo")
        self.kernel.switch(self.process)
        self.process.mmap(at, mib * MIB)

    def of(self, kind):
        return [one for one in self.records if isinstance(one, kind)]

    def shift(self, gva=AREA, process=None):
        """The shift of the entry that maps ``gva``; None if none does."""
        found = self.kernel.tables.find((process or self.process).root, gva)
        return self.kernel.tables.shift_of(found[1]) if found else None

    def fill(self, pages, first=0):
        for page in range(first, first + pages):
            self.kernel.store(AREA + page * 4096, page + 1)

    def read(self, pages, first=0):
        return [self.kernel.load(AREA + page * 4096) for page in range(first, first + pages)]

    def meminfo(self, field):
        return self.reclaimer.meminfo()[field]

    def check(self):
        """All of the memory comes back when nobody is left."""
        for process in list(self.kernel.processes):
            self.kernel.exit(process)
        assert self.kernel.frames.buddy.free_frames == self.free
        assert self.reclaimer.memory.swap.used_slots() == {}
        assert self.meminfo("AnonPages") == self.meminfo("AnonHugePages") == 0


def numbers(pages, first=0):
    return list(range(first + 1, first + pages + 1))


# -- at a fault -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "enabled, advice, shift",
    [
        ("always", None, 21),
        ("madvise", None, 12),
        ("madvise", True, 21),
        ("never", True, 12),
        ("always", False, 12),
    ],
)
def test_who_gets_huge_pages(enabled, advice, shift):
    guest = Guest(enabled=enabled)
    if advice is not None:
        guest.process.advise_huge(AREA, wanted=advice)
    guest.kernel.store(AREA + 0x5000, 7)
    assert guest.shift(AREA + 0x5000) == shift
    assert [one.shift for one in guest.of(DemandFault)] == [shift]
    guest.check()


def test_one_fault_instead_of_512_and_linux_counts_it():
    guest = Guest()
    guest.fill(512)
    assert (len(guest.of(DemandFault)), guest.stat["pgfault"]) == (1, 1)
    assert guest.stat["thp_fault_alloc"] == 1
    assert guest.meminfo("AnonHugePages") == guest.meminfo("AnonPages") == 2048
    assert guest.read(512) == numbers(512)
    guest.check()


def test_as_shipped_only_what_was_advised_gets_huge_pages():
    machine = Machine("native", guest_memory="16M")
    reclaimer = Reclaimer(machine.guest)
    assert (reclaimer.huge.enabled, reclaimer.huge.defrag) == ("madvise", "madvise")
    settings = reclaimer.khugepaged.settings
    assert (settings.pages_to_scan, settings.max_ptes_none) == (4096, 511)
    assert (settings.scan_sleep_millisecs, settings.alloc_sleep_millisecs) == (10_000, 60_000)
    assert (settings.max_ptes_swap, settings.max_ptes_shared) == (64, 256)


def test_the_range_must_be_aligned_lie_in_the_mapping_and_be_empty():
    guest = Guest(mib=5, at=AREA + MIB)
    start, end = AREA + MIB, AREA + 6 * MIB
    guest.kernel.store(start, 1)
    guest.kernel.store(AREA + HUGE, 2)
    assert (guest.shift(start), guest.shift(AREA + HUGE)) == (12, 21)
    guest.process.advise_huge(start, wanted=False)
    guest.kernel.store(AREA + 2 * HUGE + 0x3000, 3)
    guest.process.advise_huge(start, wanted=True)
    guest.kernel.store(AREA + 2 * HUGE, 4)
    assert guest.shift(AREA + 2 * HUGE) == 12  # a small page was there
    assert end % HUGE == 0
    guest.check()


def test_paging_with_4_mib_pages_has_no_huge_pages():
    guest = Guest(guest_levels=2)
    guest.kernel.store(AREA, 1)
    assert guest.shift() == 12
    guest.check()


@pytest.mark.parametrize("levels", [3, 5])
def test_other_formats_have_them_too(levels):
    guest = Guest("shadow", guest_levels=levels)
    guest.fill(512)
    guest.process.munmap(AREA + 0x3000, 4096)
    assert guest.read(3) == [1, 2, 3]
    assert guest.read(508, 4) == numbers(508, 4)
    guest.check()


def test_what_is_mapped_at_once_is_huge_where_it_can_be():
    guest = Guest(mib=1)
    guest.process.mmap(AREA + 2 * HUGE, "5M", populate=True)
    assert [one.shift for one in guest.of(DemandFault)] == [21, 21] + [12] * 256
    guest.check()


def scarce(**options):
    """A guest that has many free frames, but no free block of 2 MiB."""
    guest = Guest(memory="8M", mib=2, **options)
    frames = guest.kernel.frames
    taken = frames.take(frames.buddy.free_frames - guest.reclaimer.memory.zone.marks.low - 1)
    frames.give_back([page for number, page in enumerate(taken) if number % 2])
    guest.kept = [page for number, page in enumerate(taken) if number % 2 == 0]
    return guest


def test_without_a_free_block_small_pages_do():
    guest = scarce()
    guest.fill(2)
    assert guest.shift() == 12
    assert guest.stat["thp_fault_fallback"] == 1
    guest.kernel.frames.give_back(guest.kept)
    guest.check()


@pytest.mark.parametrize(
    "defrag, advised, stalls, wakes",
    [
        ("always", False, 1, 0),
        ("madvise", False, 0, 0),
        ("madvise", True, 1, 0),
        ("defer+madvise", True, 1, 0),
        ("defer+madvise", False, 0, 1),
        ("defer", True, 0, 1),
        ("never", True, 0, 0),
    ],
)
def test_defrag_says_who_reclaims_for_a_block(defrag, advised, stalls, wakes):
    guest = scarce()
    woken = []
    guest.huge.defrag = defrag
    if advised:
        guest.process.advise_huge(AREA, wanted=True)
    guest.reclaimer.memory.wake_kswapd = lambda: woken.append(1)
    before = guest.stat["allocstall"]
    guest.kernel.store(AREA, 1)
    assert (guest.stat["allocstall"] - before, len(woken)) == (stalls, wakes)


def test_choices_that_there_are_not_are_refused():
    guest = Guest()
    with pytest.raises(BadChoice, match="'sometimes'"):
        guest.huge.enabled = "sometimes"
    with pytest.raises(BadChoice, match="defer\\+madvise"):
        guest.huge.defrag = "no"
    assert (guest.huge.enabled, guest.huge.defrag) == ("always", "madvise")


# -- split ----------------------------------------------------------------------------------------


def test_a_part_unmapped_splits_the_entry_and_later_the_page():
    guest = Guest()
    guest.fill(512)
    free = guest.kernel.frames.buddy.free_frames
    guest.process.munmap(AREA + 10 * 4096, 5 * 4096)
    assert guest.shift() == 12
    assert [(one.gva, one.process) for one in guest.of(EntrySplit)] == [(AREA, "demo")]
    assert (guest.stat["thp_split_pmd"], guest.stat["thp_split_page"]) == (1, 0)
    assert guest.stat["thp_deferred_split_page"] == 1
    assert guest.meminfo("AnonHugePages") == 0
    assert guest.kernel.frames.buddy.free_frames == free  # until somebody needs them
    assert guest.huge.split_deferred() == 5
    assert guest.stat["thp_split_page"] == 1
    assert guest.kernel.frames.buddy.free_frames == free + 5
    assert guest.read(10) == numbers(10)
    assert guest.read(497, 15) == numbers(497, 15)
    with pytest.raises(SegmentationFault):
        guest.kernel.load(AREA + 10 * 4096)
    guest.check()


def test_a_whole_one_unmapped_or_dropped_is_not_split():
    guest = Guest()
    guest.fill(1024)
    guest.process.madvise_dontneed(AREA, HUGE)
    guest.process.munmap(AREA + HUGE, HUGE)
    assert guest.of(EntrySplit) == []
    assert guest.meminfo("AnonPages") == 0
    assert guest.read(2) == [0, 0]
    assert guest.shift() == 21
    guest.check()


def test_a_dropped_page_reads_as_zeroes_and_its_neighbours_stay():
    guest = Guest()
    guest.fill(512)
    guest.process.madvise_dontneed(AREA + 7 * 4096, 4096)
    assert guest.read(512) == [*numbers(7), 0, *numbers(504, 8)]
    assert guest.shift() == 12
    guest.check()


def test_all_pieces_dropped_one_by_one_free_the_page_without_a_split():
    guest = Guest()
    guest.fill(512)
    for page in range(512):
        guest.process.madvise_dontneed(AREA + page * 4096, 4096)
    assert guest.meminfo("AnonPages") == 0
    assert guest.stat["thp_split_page"] == 0
    guest.check()


def test_rights_of_a_part_split_the_entry_and_of_the_whole_do_not():
    guest = Guest()
    guest.fill(1024)
    guest.process.mprotect(AREA, HUGE, write=False)
    assert guest.shift() == 21
    guest.process.mprotect(AREA + HUGE, 4096, write=False)
    assert guest.shift(AREA + HUGE) == 12
    assert [(one.start - AREA, one.write) for one in guest.process.vmas] == [
        (0, False),
        (HUGE, False),
        (HUGE + 4096, True),
    ]
    for gva in (AREA, AREA + HUGE):
        with pytest.raises(SegmentationFault, match="error code 0x7"):
            guest.kernel.store(gva, 1)
    guest.kernel.store(AREA + HUGE + 4096, 9)
    assert guest.stat["thp_split_page"] == 0
    guest.check()


def test_a_range_that_is_none_changes_nothing():
    guest = Guest()
    guest.fill(3)
    for call in (guest.process.munmap, guest.process.mprotect, guest.process.madvise_dontneed):
        options = {"write": False} if call == guest.process.mprotect else {}
        with pytest.raises(BadAddress, match="lies in no one mapping"):
            call(AREA + 7 * MIB, HUGE, **options)
        with pytest.raises(BadSize, match="whole pages of 4K"):
            call(AREA + 0x800, 4096, **options)
    assert len(guest.process.vmas) == 1
    assert guest.shift() == 21


def test_after_munmap_the_next_mapping_is_huge_again():
    """The tables of what was unmapped are freed, so that nothing small is in the way."""
    guest = Guest(enabled="never")
    guest.fill(3)
    guest.process.munmap(AREA)
    guest.huge.enabled = "always"
    guest.process.mmap(AREA, "8M")
    guest.kernel.store(AREA, 1)
    assert guest.shift() == 21
    guest.check()


# -- fork -----------------------------------------------------------------------------------------


def test_fork_shares_it_whole_and_a_write_copies_4_kib():
    guest = Guest()
    guest.fill(512)
    child = guest.kernel.fork("child")
    assert guest.shift() == guest.shift(process=child) == 21
    guest.records.clear()
    guest.kernel.store(AREA + 5 * 4096, 99)
    (copied,) = guest.of(PageCopied)
    assert copied.shift == 12
    copies = [one for one in guest.of(Data) if one.kind is Kind.READ and one.size == 4096]
    assert len(copies) == 1
    assert guest.shift() == 12
    assert guest.shift(process=child) == 21  # it still has all of it
    assert guest.meminfo("AnonHugePages") == 2048
    guest.kernel.switch(child)
    assert guest.read(512) == numbers(512)
    guest.check()


def test_the_last_one_to_have_it_whole_writes_to_it_as_it_is():
    guest = Guest()
    guest.fill(512)
    child = guest.kernel.fork("child")
    guest.kernel.exit(child)
    guest.kernel.store(AREA, 5)
    assert [one.shift for one in guest.of(PageReused)] == [21]
    assert guest.of(EntrySplit) == []
    guest.check()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_family_with_one_page_whole_and_in_pieces_frees_it_once(order):
    guest = Guest()
    guest.fill(512)
    family = [guest.process, guest.kernel.fork("child"), guest.kernel.fork("grandchild")]
    guest.kernel.store(AREA, 100)  # in pieces for the parent
    guest.kernel.switch(family[1])
    guest.process = family[1]
    guest.process.munmap(AREA + 4096, 4096)  # and for the child
    guest.huge.split_deferred()
    for number in order:
        guest.kernel.switch(family[number])
        first = 100 if number == 0 else 1
        assert guest.kernel.load(AREA) == first
        assert guest.read(510, 2) == numbers(510, 2)
        guest.kernel.exit(family[number])
    guest.check()


# -- reclaim --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mmu", ["native", "ept", "shadow"])
def test_it_is_split_to_be_swapped_and_comes_back_small(mmu):
    guest = Guest(mmu, memory="6M", mib=6)
    guest.fill(1400)
    assert guest.stat["thp_fault_alloc"] > 0
    assert guest.stat["thp_split_page"] > 0
    assert guest.stat["pswpout"] > 200
    assert guest.read(1400) == numbers(1400)
    guest.check()


def test_the_oom_killer_counts_all_of_it():
    guest = Guest()
    guest.fill(1024)
    guest.process.madvise_dontneed(AREA, 12 * 4096)
    space = guest.reclaimer._space(guest.process)
    assert space.rss == 1012
    guest.check()


# -- khugepaged -----------------------------------------------------------------------------------


def small(pages, **options):
    """Pages that came one by one, and huge ones wanted from now on."""
    guest = Guest(enabled="never", **options)
    for page in pages:
        guest.kernel.store(AREA + page * 4096, page + 1)
    guest.huge.enabled = "always"
    return guest


@pytest.mark.parametrize("mmu", ["native", "ept", "shadow"])
def test_khugepaged_collapses_a_range_with_one_live_page(mmu):
    guest = small([3], mmu=mmu)
    tables = guest.kernel.table_frames
    assert guest.reclaimer.khugepaged.scan()
    assert guest.shift() == 21
    assert [(one.gva, one.filled) for one in guest.of(PagesCollapsed)] == [(AREA, 511)]
    assert guest.stat["thp_collapse_alloc"] == 1
    assert guest.read(5) == [0, 0, 0, 4, 0]
    assert guest.kernel.table_frames == tables  # the table is kept for a split
    assert guest.meminfo("AnonHugePages") == guest.meminfo("AnonPages") == 2048
    guest.process.munmap(AREA + 4096, 4096)
    assert guest.kernel.load(AREA + 3 * 4096) == 4
    guest.check()


def test_it_looks_at_4096_pages_every_10_seconds():
    guest = small(range(0, 12 * 512, 512), memory="64M", mib=26)
    clock, seen = Clock(), []
    guest.reclaimer.start(clock)
    for second in (9, 10, 20):
        clock.advance(second * SECOND)
        seen.append(guest.stat["thp_collapse_alloc"])
    assert seen == [0, 8, 12]
    guest.check()


@pytest.mark.parametrize("limit, pages, shift", [(0, 512, 21), (0, 511, 12), (1, 511, 21)])
def test_max_ptes_none_bounds_what_it_fills(limit, pages, shift):
    guest = small(range(pages))
    guest.reclaimer.khugepaged.settings.max_ptes_none = limit
    guest.reclaimer.khugepaged.scan()
    assert guest.shift() == shift
    assert guest.read(pages) == numbers(pages)
    guest.check()


@pytest.mark.parametrize("limit, shift", [(300, 12), (511, 21)])
def test_max_ptes_shared_bounds_what_it_takes_from_a_family(limit, shift):
    guest = small(range(512))
    child = guest.kernel.fork("child")
    for page in range(100):
        guest.kernel.store(AREA + page * 4096, page + 1)  # a page of its own again
    guest.reclaimer.khugepaged.settings.max_ptes_shared = limit
    guest.reclaimer.khugepaged.scan()
    assert guest.shift() == shift
    for process in (child, guest.process):
        guest.kernel.switch(process)
        assert guest.read(512) == numbers(512)
    guest.check()


@pytest.mark.parametrize("limit, shift", [(0, 12), (512, 21)])
def test_max_ptes_swap_bounds_what_it_reads_back(limit, shift):
    guest = small(range(512), memory="32M")
    for _ in range(2):
        guest.reclaimer.memory.reclaim.shrink(40, "direct")
    swapped = guest.stat["pswpout"]
    assert swapped >= 40
    for page in range(512):
        if guest.shift(AREA + page * 4096):
            guest.kernel.load(AREA + page * 4096)  # in use, else it is not worth while
    guest.machine.cpu.flush_tlb()
    guest.reclaimer.khugepaged.settings.max_ptes_swap = limit
    for page in range(512):
        if guest.shift(AREA + page * 4096):
            guest.kernel.load(AREA + page * 4096)
    guest.reclaimer.khugepaged.scan()
    assert guest.shift(AREA + 511 * 4096) == shift
    assert guest.stat["pswpin"] == (swapped if limit else 0)
    assert guest.read(512) == numbers(512)
    guest.check()


def test_without_a_free_block_it_says_so_and_waits_a_minute():
    guest = scarce(enabled="never")
    guest.fill(16)
    guest.huge.enabled = "always"
    clock = Clock()
    guest.reclaimer.khugepaged.settings.defrag = False
    guest.reclaimer.khugepaged.start(clock)
    seen = []
    for second in (10, 69, 70):
        clock.advance(second * SECOND)
        seen.append(guest.stat["thp_collapse_alloc_failed"])
    assert seen == [1, 1, 2]
    assert guest.read(16) == numbers(16)


def test_pieces_of_a_page_that_was_split_up_are_collapsed_again():
    guest = Guest()
    guest.fill(512)
    guest.process.madvise_dontneed(AREA, 4096)
    guest.reclaimer.khugepaged.scan()
    assert guest.shift() == 21
    assert guest.read(512) == [0, *numbers(511, 1)]
    assert guest.meminfo("AnonPages") == 2048  # the old page is gone as a whole
    guest.check()
