"""Files mapped into processes of the guest: which faults read the disk, and who sees what."""

import pytest

from kvmlab.base.errors import BadAddress, BadChoice, BadSize, Overlap
from kvmlab.guest.records import FileFault, FilePageWritten, PageCopied
from kvmlab.guest.tables import ACCESSED, DIRTY, WRITABLE
from kvmlab.linux.records import VmEvent
from kvmlab.machine import Machine
from kvmlab.virtio.balloon import Tag
from tests.guest.file_guest import AREA, FILE, PAGE, Guest, data, value

# -- major and minor faults -----------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"write": False}, {"private": True}])
def test_a_page_that_is_not_cached_is_read_by_a_major_fault(options):
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1, **options)
    assert guest.faults(lambda: guest.load(3)) == (0, 1)
    assert guest.load(3) == 4
    assert guest.stat["pgpgin"] == 4  # KiB
    guest.process.madvise_dontneed(FILE, "64K")
    assert guest.faults(lambda: guest.load(3)) == (1, 0)
    assert [(one.page, one.major) for one in guest.of(FileFault)] == [(3, True), (3, False)]
    guest.end()


def test_what_read_brought_into_the_cache_is_mapped_by_minor_faults():
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1)
    guest.cache.read(1, 5)
    assert guest.faults(lambda: guest.load(5)) == (1, 0)
    assert guest.load(5) == 6


def test_every_page_that_is_not_cached_takes_a_fault_of_its_own():
    """No readahead: the cached neighbours are mapped, the others are not read."""
    guest = Guest()
    guest.process.mmap_file(FILE, "256K", 1)
    assert guest.faults(lambda: [guest.load(page) for page in range(64)]) == (0, 64)


def test_a_fault_maps_what_is_cached_of_the_aligned_64_kib_around_it():
    """fault_around_bytes: 16 pages, within the mapping."""
    guest = Guest()
    for page in [0, 1, *range(10, 40), 41]:
        guest.cache.read(1, page)
    guest.process.mmap_file(FILE + 2 * PAGE, "128K", 1, offset=2 * PAGE)  # pages 2 to 33
    assert guest.faults(lambda: guest.load(20)) == (1, 0)
    assert [page for page in range(48) if guest.entry(FILE + page * PAGE)] == list(range(16, 32))
    assert all(guest.entry(FILE + page * PAGE) & ACCESSED for page in range(16, 32))
    assert guest.faults(lambda: [guest.load(page) for page in range(16, 32)]) == (0, 0)
    guest.load(12)
    guest.load(33)
    assert [page for page in range(48) if guest.entry(FILE + page * PAGE)] == list(range(10, 34))
    assert [guest.load(page) for page in range(10, 34)] == list(range(11, 35))
    guest.end()


def test_a_write_maps_its_own_page_alone():
    guest = Guest()
    for page in range(16):
        guest.cache.read(1, page)
    guest.process.mmap_file(FILE, "64K", 1)
    guest.store(4, 7)
    assert [page for page in range(16) if guest.entry(FILE + page * PAGE)] == [4]


def test_faults_that_the_balloon_tells_of_are_all_and_the_major_ones():
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1)
    guest.process.mmap(AREA, "64K")
    for page in range(5):
        guest.load(page)
    for page in range(3):
        guest.kernel.store(AREA + page * PAGE, 1)
    told = dict(guest.reclaimer.statistics())
    assert (told[Tag.MAJFLT], told[Tag.MINFLT]) == (5, 8)


def test_a_write_to_a_page_that_is_mapped_read_only_is_a_fault_too():
    """handle_mm_fault() counts it: for files and for pages that fork shares."""
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1)
    guest.process.mmap(AREA, "64K")
    guest.load(0)
    assert guest.faults(lambda: guest.store(0, 9)) == (1, 0)
    guest.kernel.store(AREA, 1)
    guest.kernel.fork("child")
    assert guest.faults(lambda: guest.kernel.store(AREA, 2)) == (1, 0)


# -- who sees what is written -----------------------------------------------------------------


def test_a_write_through_a_shared_mapping_is_seen_by_read_and_by_another_process():
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1)
    guest.store(3, 77)
    assert value(guest.cache.read(1, 3)) == 77
    other = guest.begin("other")
    other.mmap_file(FILE + PAGE, "64K", 1, offset="4K", write=False)
    assert guest.load(3) == 77
    guest.kernel.switch(guest.process)
    guest.store(3, 78)
    guest.cache.write(1, 4, data(79))
    guest.kernel.switch(other)
    assert (guest.load(3), guest.load(4)) == (78, 79)
    guest.end()


@pytest.mark.parametrize("read_first", [True, False])
def test_a_write_to_a_private_mapping_is_seen_by_nobody_else(read_first):
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1, private=True)
    if read_first:
        guest.load(3)
    guest.kernel.store(FILE + 3 * PAGE + 8, 77)
    assert (guest.load(3), guest.kernel.load(FILE + 3 * PAGE + 8)) == (4, 77)
    assert guest.cache.read(1, 3) == data(4)
    other = guest.begin("other")
    other.mmap_file(FILE, "64K", 1)
    assert (guest.load(3), guest.kernel.load(FILE + 3 * PAGE + 8)) == (4, 0)
    assert len(guest.of(PageCopied)) == 1
    assert guest.of(FilePageWritten) == []
    assert guest.reclaimer.meminfo()["AnonPages"] == 4
    assert guest.reclaimer.meminfo()["Dirty"] == 0
    guest.end()


def test_pages_of_a_private_mapping_are_shared_until_they_are_written():
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1, private=True)
    guest.load(3)
    before = guest.kernel.frames.buddy.free_frames
    other = guest.begin("other")
    free = guest.kernel.frames.buddy.free_frames
    other.mmap_file(FILE, "64K", 1, private=True)
    assert guest.load(3) == 4
    tables = free - guest.kernel.frames.buddy.free_frames
    assert tables == 3  # below a root: nothing but tables
    guest.store(3, 5)
    assert guest.kernel.frames.buddy.free_frames == free - tables - 1 < before
    guest.end()


def test_a_page_is_dirty_from_its_first_write_on_until_it_is_written_back():
    """The entry lacks W till then and after: so the kernel hears of a write (page_mkwrite)."""
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1)
    guest.load(3)
    assert not guest.entry(FILE + 3 * PAGE) & (WRITABLE | DIRTY)
    for round_ in (1, 2):
        guest.store(3, round_)
        guest.store(3, round_ * 10)
        assert guest.entry(FILE + 3 * PAGE) & WRITABLE
        assert guest.reclaimer.meminfo()["Dirty"] == 4
        guest.cache.sync()
        assert not guest.entry(FILE + 3 * PAGE) & (WRITABLE | DIRTY)
        assert guest.reclaimer.meminfo()["Dirty"] == 0
        assert len(guest.of(FilePageWritten)) == round_
    guest.drop()
    assert guest.load(3) == 20


def test_what_nobody_wrote_of_a_file_is_zero():
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 2, offset="1G")
    assert guest.faults(lambda: guest.load(3)) == (0, 1)
    assert guest.load(3) == 0
    guest.store(3, 9)
    assert value(guest.cache.read(2, (1 << 18) + 3)) == 9


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change,error,said",
    [
        ({"gva": FILE + 1}, BadAddress, "aligned to 4K"),
        ({"gva": AREA}, Overlap, "overlaps"),
        ({"length": 100}, BadSize, "no multiple of the page"),
        ({"offset": 100}, BadSize, "offset 0x64 in a file is no multiple of 4K"),
        ({"offset": -4096}, BadSize, "not positive"),
        ({"offset": 1 << 44}, BadSize, "ends beyond page 0xffffffff"),
        ({"file": -1}, BadChoice, "file -0x1 is no number of a file: 0 to 0x7fffffff"),
        ({"file": 1 << 31}, BadChoice, "no number of a file"),
        ({"file": "name"}, BadChoice, "the number of a file"),
        ({"file": True}, BadChoice, "the number of a file"),
    ],
)
def test_what_is_no_mapping_of_a_file_is_refused_and_changes_nothing(change, error, said):
    guest = Guest()
    guest.process.mmap(AREA, "64K")
    before = list(guest.process.vmas)
    with pytest.raises(error, match=said):
        guest.process.mmap_file(**({"gva": FILE, "length": "64K", "file": 1} | change))
    assert guest.process.vmas == before


def test_without_a_page_cache_there_is_nothing_to_map():
    machine = Machine("native", guest_memory="8M")
    process = machine.guest.spawn("demo")
    with pytest.raises(BadChoice, match="attach a Reclaimer"):
        process.mmap_file(FILE, "64K", 1)


def test_events_are_told_in_the_order_in_which_linux_counts_them():
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1)
    guest.records.clear()
    guest.load(3)
    assert [one.item for one in guest.of(VmEvent)] == ["pgfault", "pgmajfault", "pgpgin"]
