"""Mapped files when memory is short, and when processes unmap, fork, exec or are killed."""

import pytest

from kvmlab.base.errors import ProcessKilled
from kvmlab.guest.records import TlbShootdown
from kvmlab.guest.tables import ACCESSED, WRITABLE
from tests.guest.file_guest import AREA, FILE, PAGE, Guest, data, value

# -- reclaim ------------------------------------------------------------------------------------


def test_a_page_that_was_reclaimed_is_unmapped_everywhere_and_read_again_by_a_major_fault():
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1)
    guest.store(3, 77)
    other = guest.begin("other")
    other.mmap_file(AREA, "64K", 1)
    assert guest.kernel.load(AREA + 3 * PAGE) == 77
    assert guest.reclaimer.meminfo()["Mapped"] == 4
    guest.drop()
    assert guest.reclaimer.meminfo()["Mapped"] == 0
    assert guest.entry(FILE + 3 * PAGE) == guest.entry(AREA + 3 * PAGE, other) == 0
    assert guest.faults(lambda: guest.kernel.load(AREA + 3 * PAGE)) == (0, 1)
    assert guest.kernel.load(AREA + 3 * PAGE) == 77
    guest.kernel.switch(guest.process)
    assert guest.faults(lambda: guest.load(3)) == (1, 0)
    assert guest.load(3) == 77
    guest.end()


def test_what_is_used_through_a_mapping_stays_longer_than_what_is_not():
    """By the A bits of entries (folio_check_references()); a page that only read() used goes."""
    guest = Guest(pages=200)
    guest.process.mmap_file(FILE, "1M", 1)
    other = guest.kernel.spawn("other")
    for page in range(200):
        guest.load(page)
    for round_ in range(12):
        before = guest.stat["pgmajfault"]
        for page in range(0, 200, 20):
            guest.load(page)
        assert round_ < 3 or guest.stat["pgmajfault"] == before
        guest.kernel.switch(other)  # that flushes the TLB, so that A is set anew
        guest.reclaimer.memory.reclaim.shrink(10, "direct")
        guest.kernel.switch(guest.process)
    left = {page for page in range(200) if guest.cache.cached(1, page)}
    assert len(left) < 120
    assert left >= set(range(0, 200, 20))


@pytest.mark.parametrize("mmu", ["native", "ept", "shadow"])
@pytest.mark.parametrize("private", [False, True])
def test_a_file_larger_than_the_guest_keeps_every_byte_that_is_stored(mmu, private):
    guest = Guest(mmu, "4M", swap=8)
    guest.process.mmap_file(FILE, "4M", 1, private=private)
    for page in range(1000):
        guest.store(page, page * 3 + 1)
    assert [guest.load(page) for page in range(1000)] == [page * 3 + 1 for page in range(1000)]
    swapped, written = guest.stat["pswpout"], guest.stat["nr_written"]
    assert (swapped > 300, written > 300) == (private, not private)
    for page in range(0, 1000, 37):
        stored, on_disk = page * 3 + 1, page + 1 if page < 64 else 0
        assert value(guest.cache.read(1, page)) == (on_disk if private else stored)
    guest.end()


def test_reclaim_flushes_the_other_cpus_that_run_the_process():
    guest = Guest("ept", vcpus=2)
    guest.process.mmap_file(FILE, "64K", 1)
    guest.load(3)
    with guest.kernel.on(1):
        guest.kernel.switch(guest.process)
        assert guest.load(3) == 4
    guest.records.clear()
    guest.drop()
    assert [one.cpus for one in guest.of(TlbShootdown)] == [(1,)]
    guest.cache.write(1, 3, data(9))
    with guest.kernel.on(1):
        assert guest.load(3) == 9


def test_reclaim_in_the_midst_of_a_fault_takes_any_page_but_the_one_that_it_serves():
    """Here each frame that the kernel asks for comes after all that can go is gone."""
    guest = Guest()
    alloc = guest.reclaimer.alloc

    def hungry(order):
        for _ in range(4):
            guest.reclaimer.memory.reclaim.shrink(2000, "direct")
        return alloc(order)

    guest.reclaimer.alloc = hungry
    guest.process.mmap_file(FILE, "64K", 1, private=True)
    guest.process.mmap_file(AREA, "64K", 1)
    assert guest.load(3) == 4  # a table is made while the page is at hand
    guest.kernel.store(FILE + 3 * PAGE + 8, 9)  # do_wp_page()
    guest.kernel.store(FILE + 5 * PAGE + 8, 9)  # do_cow_fault()
    guest.kernel.store(AREA + 7 * PAGE + 8, 9)  # do_shared_fault()
    assert [guest.load(page) for page in (3, 5, 7)] == [4, 6, 8]
    assert [guest.kernel.load(FILE + page * PAGE + 8) for page in (3, 5, 7)] == [9, 9, 9]
    guest.end()


@pytest.mark.parametrize("deed", ["load", "store"])
def test_a_process_killed_by_its_fault_on_a_mapped_file_hears_of_it(deed):
    guest = Guest(memory="4M", swap=0)
    guest.process.mmap(AREA, "4M")
    guest.process.mmap_file(FILE, "64K", 1, private=True)
    own = 0
    while guest.kernel.frames.buddy.free_frames > guest.reclaimer.memory.zone.marks.min:
        guest.kernel.store(AREA + own * PAGE, 1)
        own += 1
    with pytest.raises(ProcessKilled, match="demo was killed"):
        guest.load(3) if deed == "load" else guest.store(3, 1)
    assert guest.kernel.current is None
    guest.end()


# -- munmap, madvise, mprotect, fork, exec ------------------------------------------------------


def test_munmap_leaves_the_page_in_the_cache_and_what_was_stored_in_the_file():
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1)
    guest.process.mmap_file(AREA, "64K", 1, private=True)
    guest.store(3, 77)
    guest.kernel.store(AREA + 3 * PAGE, 78)
    guest.process.munmap(FILE, "32K")
    guest.process.munmap(AREA)
    assert guest.cache.cached(1, 3)
    assert guest.faults(lambda: guest.cache.read(1, 3)) == (0, 0)
    assert value(guest.cache.read(1, 3)) == 77
    assert guest.load(9) == 10  # the rest of the mapping still shows the same pages
    guest.end()


def test_a_page_that_two_processes_used_and_left_is_active():
    """zap_present_ptes() marks a young page of a file as accessed."""
    guest = Guest()
    for page in range(16):
        guest.cache.fault(1, page)
    for name, leave in (("one", guest.kernel.exit), ("two", lambda one: one.munmap(FILE))):
        process = guest.begin(name)
        process.mmap_file(FILE, "64K", 1, write=False)
        guest.load(3)
        leave(process)
    assert guest.reclaimer.meminfo()["Active(file)"] == 16 * 4  # with what was mapped around it
    guest.process = guest.begin("three")
    guest.process.mmap_file(FILE, "64K", 2)
    guest.load(3)
    guest.process.munmap(FILE)
    assert guest.reclaimer.meminfo()["Active(file)"] == 16 * 4
    guest.end()


def test_madvise_dontneed_lets_a_private_mapping_show_the_file_again():
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1, private=True)
    guest.store(3, 77)
    guest.store(4, 78)
    guest.process.madvise_dontneed(FILE + 3 * PAGE, PAGE)
    assert (guest.load(3), guest.load(4)) == (4, 78)
    guest.drop()  # the other copy is in swap
    assert guest.reclaimer.memory.swap.used_slots() != {}
    assert guest.faults(lambda: guest.load(4)) == (0, 1)
    assert guest.load(4) == 78
    guest.end()


def test_mprotect_lets_nobody_write_to_a_file_unnoticed():
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1, write=False)
    guest.load(3)
    guest.process.mprotect(FILE, write=True)
    guest.store(3, 77)
    assert guest.reclaimer.meminfo()["Dirty"] == 4
    guest.drop()
    assert guest.load(3) == 77


def test_fork_leaves_a_shared_mapping_to_the_childs_own_faults():
    """vma_needs_copy(): and each sees what the other writes."""
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1)
    guest.store(3, 77)
    child = guest.kernel.fork("child")
    assert guest.entry(FILE + 3 * PAGE, child) == 0
    assert guest.entry(FILE + 3 * PAGE) & WRITABLE
    guest.kernel.switch(child)
    assert guest.faults(lambda: guest.load(3)) == (1, 0)
    guest.store(3, 78)
    guest.kernel.switch(guest.process)
    assert guest.load(3) == 78
    guest.end()


def test_fork_copies_a_private_mapping_once_a_page_of_it_was_written():
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1, private=True)
    guest.load(2)
    first = guest.kernel.fork("first")
    assert guest.entry(FILE + 2 * PAGE, first) == 0
    guest.store(3, 77)
    second = guest.kernel.fork("second")
    assert guest.entry(FILE + 2 * PAGE, second) != 0
    assert guest.entry(FILE + 3 * PAGE, second) == guest.entry(FILE + 3 * PAGE) & ~ACCESSED
    guest.store(3, 78)
    guest.kernel.switch(second)
    assert (guest.load(2), guest.load(3)) == (3, 77)
    guest.kernel.switch(first)
    assert (guest.load(2), guest.load(3)) == (3, 4)
    guest.end()


def test_exec_lets_go_of_the_old_programs_files():
    guest = Guest()
    guest.process.mmap_file(FILE, "64K", 1)
    guest.store(3, 77)
    guest.kernel.exec("next")
    assert guest.reclaimer.meminfo()["Mapped"] == 0
    assert value(guest.cache.read(1, 3)) == 77
    guest.end()


def test_no_huge_page_comes_where_a_file_is_mapped():
    guest = Guest(memory="16M")
    guest.reclaimer.huge.enabled = "always"
    guest.process.mmap_file(FILE, "4M", 1, private=True)
    for page in range(10):
        guest.store(page, 77)
    guest.reclaimer.khugepaged.settings.max_ptes_none = 511
    guest.reclaimer.khugepaged.scan()
    assert guest.reclaimer.meminfo()["AnonHugePages"] == 0
    assert [guest.load(page) for page in (9, 10)] == [77, 11]


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_files_are_mapped_in_every_paging_mode(levels):
    guest = Guest(guest_levels=levels)
    guest.process.mmap_file(FILE, "64K", 1)
    assert guest.load(3) == 4
    guest.store(3, 77)
    guest.drop()
    assert guest.load(3) == 77


def test_files_are_mapped_where_the_kernel_is_isolated():
    guest = Guest(kpti=True, pcid=True)
    guest.process.mmap_file(FILE, "64K", 1)
    guest.store(3, 77)
    child = guest.kernel.fork("child")
    guest.kernel.switch(child)
    assert guest.load(3) == 77
