"""Numbered cases of the balloon's fact sheet: driver, device and monitor together.

Measured on QEMU 7.2 with a Linux 6.1 guest, or calculated from the formulas of QEMU's source; a
case that rests on a source alone says so.  Cases of reclaim, libvirt and policies are elsewhere.
"""

import pytest

from kvmlab.base.clock import MILLISECOND, SECOND
from kvmlab.base.errors import OutOfMemory
from kvmlab.guest.records import BalloonMigrated, BalloonMoved, OutOfPuff
from kvmlab.qemu.balloon_stats import UNKNOWN
from kvmlab.qemu.records import BalloonChange, BalloonServed, PfnRefused, Warned
from kvmlab.virtio.balloon import Feature
from tests.balloon_under_test import (
    AREA,
    leaves,
    load_driver,
    machine,
    mem_total,
    poll_every,
    process_with,
    qmp,
    resident,
    resize,
    stats,
)

MIB = 1 << 20


class Buffers(list):
    """The sizes of the arrays that the driver posted; other records are dropped."""

    def __call__(self, record):
        if isinstance(record, BalloonMoved):
            self.append(record.pages)


@pytest.mark.parametrize(
    "ram, target, pages, buffers",
    [
        (4096, 1024, 786432, 3072),  # case 1
        (4096, 3072, 262144, 1024),  # case 2
        (1024, 300, 185344, 724),  # case 3
        (8192, 8191, 256, 1),  # case 4
    ],
)
def test_a_target_becomes_buffers_of_256_pages(ram, target, pages, buffers):
    sent = Buffers()
    made = machine(f"{ram}M", driver=False)
    load_driver(made)._tap = sent
    assert resize(made, target * MIB) == target * MIB
    assert made.balloon.num_pages == made.balloon.actual == pages
    assert sent == [256] * buffers


def test_case_5_a_target_within_a_page_leaves_the_rest_to_the_guest():
    made = machine("1024M", driver=False)
    qmp(made, "balloon", value=536870912 + 100)
    assert made.balloon.num_pages == 131071
    small = machine("64M")
    assert resize(small, (32 << 20) + 100) == (32 << 20) + 4096
    made.balloon.configure(4, (131071).to_bytes(4, "little"))
    assert qmp(made, "query-balloon") == {"actual": 536875008}


def test_case_6_more_than_all_is_clamped_to_all():
    made = machine("1024M", driver=False)
    assert qmp(made, "balloon", value=2 << 30) == {}
    assert made.balloon.num_pages == 0


def test_cases_7_and_8_memtotal_shrinks_by_the_balloon_and_deflating_brings_no_memory():
    """996372 -> 472084 KiB measured: the difference is the balloon, exactly."""
    made = machine("1024M")
    total, free = mem_total(made), made.guest.frames.buddy.free_frames
    assert resize(made, 512 * MIB) == 512 * MIB
    assert total - mem_total(made) == 996372 - 472084 == 524288
    assert free - made.guest.frames.buddy.free_frames == 131072
    resize(made, 513 * MIB)  # so that the deflate queue's ring is backed
    backed = resident(made)
    assert resize(made, 1024 * MIB) == 1024 * MIB
    assert mem_total(made) == total
    assert resident(made) == backed


def test_case_9_with_deflate_on_oom_memtotal_stays_and_memfree_falls():
    made = machine("1024M", deflate_on_oom=True)
    total, free = mem_total(made), made.guest.frames.buddy.free_frames
    assert resize(made, 400 * MIB) == 400 * MIB
    assert mem_total(made) == total
    assert (free - made.guest.frames.buddy.free_frames) * 4 == 638976


measured = pytest.mark.parametrize(
    "ram, used, left",
    [
        pytest.param(16, 4, 2, id="in small"),
        pytest.param(1024, 477, 256, id="as measured", marks=pytest.mark.long),
    ],
)


@measured
def test_cases_10_and_11_only_the_balloon_gives_back_what_the_guest_has_freed(ram, used, left):
    """Measured with 500 MB of 1 GiB, of which the host got 494 back."""
    made = machine(f"{ram}M")
    before = resident(made)
    process_with(made, used * 256).munmap(AREA)
    touched = resident(made)
    assert touched - before >= used * MIB
    made.clock.sleep(60 * SECOND)
    assert resident(made) == touched  # case 11
    assert resize(made, left * MIB) == left * MIB
    assert touched - resident(made) == pytest.approx(used * MIB, rel=0.1)  # case 10


@pytest.mark.parametrize("reporting", [True, False])
def test_case_12_free_page_reporting_gives_it_back_without_a_balloon(reporting):
    """All that is free in blocks of 2 MiB and more, within 5 s."""
    made = machine("16M", free_page_reporting=reporting)
    total, buddy = mem_total(made), made.guest.frames.buddy
    process_with(made, 6 * 256).munmap(AREA)
    touched = resident(made)
    made.clock.sleep(5 * SECOND)
    assert (resident(made) < touched) == reporting
    slot = made.vm.slots.find(0)
    backed = {hva - slot.hva >> 12 for hva, _, _ in leaves(made)}
    free = [pfn + n for order in (9, 10, 11) for pfn in buddy._blocks[order] for n in (0, 511)]
    assert free
    assert backed.isdisjoint(free) == reporting
    assert (made.balloon.actual, mem_total(made)) == (0, total)


def test_cases_14_and_15_without_memory_the_driver_tries_every_200_ms_and_kills_nobody():
    """500 of 1024 MiB taken and T = 300 in the measured case; here a quarter of each."""
    records = []
    made = machine("256M")
    made.balloon_driver._tap = records.append
    frames = made.guest.frames
    held = [frames.alloc() for _ in range(125 * 256)]
    qmp(made, "balloon", value=75 * MIB)
    made.clock.sleep(SECOND)
    assert len([one for one in records if isinstance(one, OutOfPuff)]) == 6  # 0, 200 .. 1000 ms
    stuck = made.balloon.actual
    reserved = 256 * 256 - frames.buddy.total  # R: firmware's, not the allocator's
    assert 0 <= 256 * 256 - stuck - len(held) - reserved < 64  # tables and rings
    assert frames.buddy.free_frames == 0
    with pytest.raises(OutOfMemory):  # case 15: the next ordinary allocation has no way out
        frames.alloc()
    assert made.balloon.actual == stuck
    frames.give_back(held)
    made.clock.sleep(SECOND)
    assert made.balloon.actual == 181 * 256


def test_case_18_a_starved_guest_takes_pages_back_by_256_and_keeps_them():
    """T = 400 of 1024 MiB and 500 MiB taken in the measured case; here a quarter of each."""
    moved = []
    made = machine("256M", deflate_on_oom=True)
    made.balloon_driver._tap = moved.append
    assert resize(made, 100 * MIB) == 100 * MIB
    moved.clear()
    frames = made.guest.frames
    held = [frames.alloc() for _ in range(125 * 256)]
    assert {(one.queue, one.pages) for one in moved} == {("deflate", 256)}
    kept = made.balloon.actual
    assert 156 * 256 - kept == 256 * len(moved) == 27 * 256  # 25 MiB, R of 1 MiB, tables
    assert len(made.balloon_driver.pages) == kept
    made.clock.sleep(5 * SECOND)
    assert made.balloon.actual == kept  # no inflation by itself
    frames.give_back(held)
    made.clock.sleep(5 * SECOND)
    assert made.balloon.actual == kept
    assert resize(made, 100 * MIB) == 100 * MIB  # the next command wakes it


def test_case_23_without_a_driver_the_command_succeeds_and_nothing_moves():
    made = machine("1024M", driver=False)
    assert resize(made, 512 * MIB) == 1024 * MIB
    values, last_update = stats(made)
    assert set(values.values()) == {UNKNOWN}
    assert UNKNOWN == 18446744073709551615
    assert last_update == 0


def test_case_24_a_driver_loaded_later_finds_the_target_waiting():
    made = machine("1024M", driver=False)
    resize(made, 512 * MIB)
    made.load_balloon_driver()
    made.clock.sleep(3 * SECOND)
    assert qmp(made, "query-balloon") == {"actual": 512 * MIB}
    values, last_update = stats(made)
    assert values["stat-total-memory"] == 1023 * MIB
    assert last_update == made.clock.wall - 3


def test_case_25_without_a_period_the_numbers_are_those_of_the_drivers_first_buffer():
    made = machine("64M")
    first, backed = stats(made), resident(made)
    process_with(made, 256)
    made.clock.sleep(60 * SECOND)
    assert stats(made) == first
    assert resident(made) >= backed + MIB  # the host's own number is never old
    assert first[1] == made.clock.wall - 60


def test_case_26_between_polls_the_numbers_are_old():
    made = machine("64M")
    poll_every(made, 10)
    made.clock.sleep(SECOND)
    old, at = stats(made)
    process_with(made, 256)
    made.clock.sleep(4 * SECOND)  # t = 5
    assert stats(made) == (old, at)
    made.clock.sleep(6 * SECOND)  # t = 11
    new, later = stats(made)
    assert later - at == 10
    assert old["stat-free-memory"] - new["stat-free-memory"] >= MIB


def test_case_27_when_polling_stops_the_last_numbers_stay():
    made = machine("64M")
    poll_every(made, 10)
    made.clock.sleep(25 * SECOND)
    last = stats(made)
    poll_every(made, 0)
    made.clock.sleep(100 * SECOND)
    assert stats(made) == last
    poll_every(made, 7)
    made.clock.sleep(0)
    assert stats(made)[1] == made.clock.wall == last[1] + 105  # from 0 to N polls at once


def test_case_28_an_old_driver_posts_zeroes_so_only_swap_in_is_known():
    """Before the fix of 2017 the first buffer was an untouched array: ten records of tag 0."""
    made = machine("64M", driver=False)
    load_driver(made, stats=lambda: [(0, 0)] * 10)
    known = {name: value for name, value in stats(made)[0].items() if value != UNKNOWN}
    assert known == {"stat-swap-in": 0}


def test_case_30_buffers_of_256_pages_never_complete_a_huge_page():
    """Calculated from QEMU's source: 256 pieces of 512, and a buffer ends what was gathered."""
    records = []
    made = machine("1024M", host_page="2M")
    made.balloon.listen(records.append)
    before, free = resident(made), made.host.buddy.free_frames
    assert resize(made, 512 * MIB) == 512 * MIB
    served = [one for one in records if isinstance(one, BalloonServed)]
    assert len(served) == 512
    assert {one.freed for one in served} == {0}
    assert (resident(made), made.host.buddy.free_frames) == (before, free)
    warned = [one.text for one in records if isinstance(one, Warned)]
    assert warned == ["Balloon used with backing page size > 4kiB, this may not be reliable"]


def test_case_33_while_discards_are_inhibited_the_guest_shrinks_and_the_host_gains_nothing():
    """Read in QEMU's source."""
    made = machine("1024M")
    made.balloon.pages.inhibited = True  # what a VFIO device does
    resize(made, 1023 * MIB)  # so that the ring is backed
    process_with(made, 512).munmap(AREA)
    before = resident(made)
    assert resize(made, 512 * MIB) == 512 * MIB
    assert resident(made) == before


def test_case_34_a_migrated_page_is_one_inflate_and_then_one_deflate():
    """Read in Linux's source."""
    records = []
    made = machine("64M", tap=records.append)
    resize(made, 60 * MIB)
    driver = made.balloon_driver
    page = driver.pages[100]
    records.clear()
    assert driver.migrate(page)
    moved = [(one.queue, one.pages) for one in records if isinstance(one, BalloonMoved)]
    assert moved == [("inflate", 1), ("deflate", 1)]
    assert len(driver.pages) == made.balloon.actual == 1024
    (migrated,) = [one for one in records if isinstance(one, BalloonMigrated)]
    assert migrated.old == page not in driver.pages
    assert migrated.new in driver.pages
    assert not driver.migrate(page)  # it is no page of the balloon any more


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, {1, 29, 32}),
        ({"deflate_on_oom": True}, {1, 2, 29, 32}),
        ({"free_page_reporting": True}, {1, 5, 29, 32}),
    ],
)
def test_the_driver_takes_what_linux_takes(options, expected):
    """Measured: 1, 28, 29, 32, 40.  Our driver makes no indirect tables (28); 40 is RING_RESET."""
    assert machine("64M", **options).balloon_driver.features == expected


def test_poison_is_for_a_guest_that_poisons():
    made = machine("64M", driver=False, free_page_reporting=True)
    assert Feature.PAGE_POISON in made.balloon.features
    plain = load_driver(made)
    assert Feature.PAGE_POISON not in plain.features
    plain.unload()
    driver = load_driver(made, poison=0xAA)
    assert {Feature.PAGE_POISON, Feature.REPORTING} <= driver.features
    assert made.balloon.poison == 0xAAAAAAAA
    made.clock.sleep(3 * SECOND)
    process_with(made, 512).munmap(AREA)
    backed = resident(made)
    made.clock.sleep(5 * SECOND)
    assert resident(made) == backed  # discards would lose the poison
    plain = machine("64M", driver=False, free_page_reporting=True, page_poison=False)
    assert Feature.REPORTING not in load_driver(plain, poison=0xAA).features


def test_a_guest_that_poisons_touches_the_pages_that_it_gets_back():
    made = machine("16M", driver=False)
    load_driver(made, poison=0)  # init_on_free=1
    resize(made, 14 * MIB)
    before = resident(made)
    resize(made, 16 * MIB)
    assert resident(made) - before >= 2 * MIB


@pytest.mark.parametrize("options", [{}, {"free_page_reporting": True, "deflate_on_oom": True}])
def test_unloading_the_driver_deflates_first_and_leaves_nothing_behind(options):
    made = machine("64M", driver=False, **options)
    frames = made.guest.frames
    free, managed, notifiers = frames.buddy.free_frames, frames.managed, list(frames.oom_notifiers)
    driver = load_driver(made)
    resize(made, 32 * MIB)
    driver.unload()
    assert (made.balloon.actual, made.balloon.num_pages) == (0, 32 * 256)
    made.clock.sleep(5 * SECOND)  # nothing of it still runs
    tables = 4  # of the kernel's half, for the registers
    assert free - tables <= frames.buddy.free_frames <= free
    assert (frames.managed, frames.oom_notifiers) == (managed, notifiers)
    load_driver(made)
    made.clock.sleep(SECOND)
    assert made.balloon.actual == 32 * 256


def test_the_event_balloon_change_comes_at_most_once_a_second():
    records = []
    made = machine("256M")
    made.qemu.monitor._events._tap = records.append
    qmp(made, "balloon", value=128 * MIB)
    made.clock.sleep(10 * MILLISECOND)
    assert records == [BalloonChange(255 * MIB)]  # measured: the first one seen was 1 MiB in
    made.clock.sleep(3 * SECOND)
    assert records == [BalloonChange(255 * MIB), BalloonChange(128 * MIB)]


def test_an_honest_driver_is_never_refused_a_page():
    records = []
    made = machine("64M", tap=records.append)
    resize(made, 16 * MIB)
    resize(made, 64 * MIB)
    assert not [one for one in records if isinstance(one, PfnRefused)]
    freed = sum(one.freed for one in records if isinstance(one, BalloonServed))
    assert freed < made.balloon.num_pages + 48 * MIB  # target, actual and freed are three numbers
