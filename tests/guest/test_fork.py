"""fork, exec, exit and wait as Linux does them: pages are shared until one side writes."""

import pytest

from kvmlab.base.errors import BadChoice, OutOfMemory, SegmentationFault
from kvmlab.guest.records import Executed, Exited, Forked, PageCopied, PageReused
from kvmlab.hardware.records import Data, Kind, PageFault
from kvmlab.machine import MMUS, Machine

AREA, PAGES = 0x1000_0000, 4
WRITABLE, ACCESSED, DIRTY = 1 << 1, 1 << 5, 1 << 6
SHAPES = [
    (4, "4K", "64M"),
    (4, "2M", "64M"),
    (5, "4K", "64M"),
    (3, "2M", "64M"),
    (2, "4K", "64M"),
    (2, "4M", "64M"),
]


class Guest:
    def __init__(self, mmu="native", page="4K", **options):
        self.records = []
        self.machine = Machine(mmu, tap=self.records.append, guest_page=page, **options)
        self.kernel = self.machine.guest
        self.page = self.machine.guest_page
        self.parent = self.kernel.spawn("parent")
        self.kernel.switch(self.parent)
        self.parent.mmap(AREA, PAGES * self.page, page=page)

    def fill(self):
        for page in range(PAGES):
            self.kernel.store(self.at(page), page + 1)

    def at(self, page):
        return AREA + page * self.page

    def of(self, kind):
        return [one for one in self.records if isinstance(one, kind)]

    def entry(self, process, page):
        slot, level = self.kernel.tables.find(process.root, self.at(page))
        entry = self.kernel.tables.read(slot)
        return entry, self.kernel.tables.frame_of(entry, level)


@pytest.fixture(params=[("native", *SHAPES[0]), *(("ept", *one) for one in SHAPES)])
def guest(request):
    mmu, levels, page, memory = request.param
    guest = Guest(mmu, page, guest_levels=levels, guest_memory=memory)
    guest.fill()
    return guest


def test_fork_shares_every_page_and_takes_w_from_both_sides(guest):
    child = guest.kernel.fork("child")
    (forked,) = guest.of(Forked)
    assert forked.pages == PAGES
    for page in range(PAGES):
        (mine, frame), (its, same) = guest.entry(guest.parent, page), guest.entry(child, page)
        assert frame == same
        assert not (mine | its) & WRITABLE
        assert mine & ACCESSED
        assert not its & ACCESSED  # pte_mkold()
        assert mine & its & DIRTY


def test_the_first_to_write_gets_a_copy_and_the_last_has_the_page_to_itself(guest):
    child = guest.kernel.fork("child")
    _, frame = guest.entry(child, 0)
    guest.records.clear()
    guest.kernel.store(guest.at(0), 7)
    (copied,) = guest.of(PageCopied)
    assert (copied.process, copied.old) == ("parent", frame)
    assert guest.entry(guest.parent, 0)[1] == copied.new
    guest.kernel.switch(child)
    guest.records.clear()
    assert guest.kernel.load(guest.at(0)) == 1
    guest.kernel.store(guest.at(0), 8)
    assert [one.error_code for one in guest.of(PageFault)] == [7]
    assert [one.gpa for one in guest.of(PageReused)] == [frame]
    assert guest.entry(child, 0)[0] & WRITABLE
    guest.kernel.switch(guest.parent)
    assert [guest.kernel.load(guest.at(page)) for page in range(PAGES)] == [7, 2, 3, 4]


def test_a_copy_is_of_the_whole_page_large_or_small(guest):
    last = guest.page - 8
    guest.kernel.store(AREA + last, 99)
    guest.kernel.fork("child")
    guest.records.clear()
    guest.kernel.store(AREA, 5)
    read = sum(one.size for one in guest.of(Data) if one.kind is Kind.READ and one.size == 4096)
    assert read == guest.page
    assert guest.kernel.load(AREA + last) == 99
    assert guest.kernel.load(AREA) == 5


def test_grandchildren_share_too_and_each_writes_its_own():
    guest = Guest()
    guest.fill()
    family = [guest.parent]
    for name in ("child", "grandchild"):
        family.append(guest.kernel.fork(name))
        guest.kernel.switch(family[-1])
    assert len({guest.entry(one, 0)[1] for one in family}) == 1
    for number, process in enumerate(family):
        guest.kernel.switch(process)
        guest.kernel.store(AREA, 100 + number)
    assert len(guest.of(PageCopied)) == 2
    assert len(guest.of(PageReused)) == 1
    for number, process in enumerate(family):
        guest.kernel.switch(process)
        assert guest.kernel.load(AREA) == 100 + number


def test_mprotect_lets_nobody_write_to_a_page_that_another_has():
    guest = Guest()
    guest.fill()
    child = guest.kernel.fork("child")
    guest.parent.mprotect(AREA, write=False)
    with pytest.raises(SegmentationFault, match="error code 0x7"):
        guest.kernel.store(AREA, 9)
    guest.parent.mprotect(AREA, write=True)
    guest.kernel.store(AREA, 9)
    guest.kernel.switch(child)
    assert guest.kernel.load(AREA) == 1


def test_unmapping_on_one_side_leaves_the_other_its_pages():
    guest = Guest()
    guest.fill()
    child = guest.kernel.fork("child")
    guest.parent.munmap(AREA)
    guest.kernel.switch(child)
    assert [guest.kernel.load(guest.at(page)) for page in range(PAGES)] == [1, 2, 3, 4]


@pytest.mark.parametrize("mmu", MMUS)
def test_exec_begins_with_an_empty_address_space_and_frees_the_old_one(mmu):
    guest = Guest(mmu)
    free, tables = guest.kernel.frames.buddy.free_frames, guest.kernel.table_frames
    guest.fill()
    guest.kernel.exec("other")
    assert (guest.parent.name, guest.parent.vmas) == ("other", [])
    assert len(guest.of(Executed)) == 1
    with pytest.raises(SegmentationFault, match="by other"):
        guest.kernel.load(AREA)
    assert guest.kernel.frames.buddy.free_frames == free
    assert guest.kernel.table_frames == tables
    guest.parent.mmap(AREA, "4K")
    assert guest.kernel.load(AREA) == 0


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("kpti", [False, True])
def test_everything_is_given_back_when_a_family_ends(mmu, kpti):
    guest = Guest(mmu, kpti=kpti)
    kernel = guest.kernel
    guest.fill()
    child = kernel.fork("child")
    kernel.store(AREA, 5)
    kernel.switch(child)
    kernel.exec("program")
    kernel.exit(child)
    kernel.switch(guest.parent)
    assert kernel.load(AREA) == 5
    assert kernel.wait() is child
    assert kernel.wait() is None
    kernel.exit(guest.parent)
    assert [one.process for one in guest.of(Exited)] == ["program", "parent"]
    fresh = Machine(mmu, kpti=kpti).guest
    assert kernel.frames.buddy.free_frames == fresh.frames.buddy.free_frames
    assert kernel.table_frames == fresh.table_frames


def test_nobody_waits_for_the_children_of_a_parent_that_ended():
    guest = Guest()
    child = guest.kernel.fork("child")
    guest.kernel.exit(guest.parent)
    guest.kernel.switch(child)
    guest.kernel.exit(child)
    other = guest.kernel.spawn("other")
    guest.kernel.switch(other)
    assert guest.kernel.wait() is None


def test_a_fork_without_room_for_its_tables_leaves_no_child():
    guest = Guest(guest_memory="2M")
    for number in range(1, 16):
        guest.parent.mmap(AREA + (number << 21), "4K")
        guest.kernel.store(AREA + (number << 21), number)
    hog = guest.kernel.spawn("hog")
    guest.kernel.switch(hog)
    hog.mmap(AREA, "1M")
    buddy = guest.kernel.frames.buddy
    page = 0
    while buddy.free_frames > 8:
        guest.kernel.store(AREA + page * 4096, 1)
        page += 1
    guest.kernel.switch(guest.parent)
    free = buddy.free_frames
    with pytest.raises(OutOfMemory):
        guest.kernel.fork("child")
    assert buddy.free_frames == free
    assert guest.kernel.processes == [guest.parent, hog]
    guest.kernel.store(AREA + (1 << 21), 42)  # still its own
    assert guest.of(PageCopied) == []


@pytest.mark.parametrize("deed", ["fork", "exec", "wait", "syscall"])
def test_only_a_process_that_runs_can_call_the_kernel(deed):
    kernel = Machine("native").guest
    with pytest.raises(BadChoice, match="no process runs that could"):
        getattr(kernel, deed)(*(["x"] if deed in ("fork", "exec") else []))
