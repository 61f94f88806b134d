"""The driver by itself: a device that answers when the test says, and kernels of other kinds."""

import pytest

from kvmlab.base.clock import SECOND
from kvmlab.base.errors import BadChoice, MachineCheck
from kvmlab.guest.balloon import BalloonDriver
from kvmlab.guest.records import BalloonMoved
from kvmlab.qemu.machine import VIRTIO_MMIO
from tests.balloon_under_test import AREA, load_driver, machine, process_with, qmp, resize

MIB = 1 << 20


class Holding:
    """Keeps the buffers that the device would give back, until they are released."""

    def __init__(self, made):
        self._give_back, self.held = made.balloon.bus.give_back, []
        made.balloon.bus.give_back = lambda *what: self.held.append(what)

    def release(self):
        held, self.held = self.held, []
        for what in held:
            self._give_back(*what)


@pytest.fixture
def made():
    return machine("64M")


def test_nothing_more_is_sent_before_the_host_has_acknowledged(made):
    moved, holding = [], Holding(made)
    made.balloon_driver._tap = moved.append
    qmp(made, "balloon", value=60 * MIB)
    for step in range(1, 5):
        made.clock.sleep(SECOND)
        made.clock.sleep(SECOND)
        assert moved == [BalloonMoved("inflate", 256)] * step
        assert made.balloon.actual == 256 * (step - 1)  # written after the acknowledgment
        assert len(holding.held) == 1
        holding.release()
    made.clock.sleep(SECOND)
    assert made.balloon.actual == 1024
    assert holding.held == []


def test_pages_are_used_again_only_after_the_deflation_was_acknowledged(made):
    resize(made, 60 * MIB)
    free, holding = made.guest.frames.buddy.free_frames, Holding(made)
    qmp(made, "balloon", value=61 * MIB)
    made.clock.sleep(SECOND)
    assert made.guest.frames.buddy.free_frames == free
    assert made.balloon.actual == 1024
    holding.release()
    made.clock.sleep(SECOND)
    assert made.guest.frames.buddy.free_frames == free + 256
    assert made.balloon.actual == 768


def test_a_new_target_in_the_middle_turns_the_balloon_round(made):
    holding = Holding(made)
    qmp(made, "balloon", value=32 * MIB)
    made.clock.sleep(SECOND)
    qmp(made, "balloon", value=64 * MIB)
    made.clock.sleep(SECOND)
    while holding.held:
        holding.release()
        made.clock.sleep(SECOND)
    assert made.balloon.actual == 0
    assert made.balloon_driver.pages == []


def test_while_the_host_owes_an_answer_the_balloon_can_neither_migrate_nor_go(made):
    resize(made, 60 * MIB)
    holding, driver = Holding(made), made.balloon_driver
    page = driver.pages[0]
    qmp(made, "balloon", value=59 * MIB)
    made.clock.sleep(SECOND)
    assert not driver.migrate(page)
    assert driver._oom() == 0
    with pytest.raises(MachineCheck, match="does not acknowledge"):
        driver.unload()
    holding.release()
    made.clock.sleep(SECOND)
    assert driver.migrate(page)


def test_a_migration_that_waits_lets_the_size_follow_afterwards(made):
    resize(made, 60 * MIB)
    holding, driver = Holding(made), made.balloon_driver
    assert driver.migrate(driver.pages[0])
    qmp(made, "balloon", value=62 * MIB)
    made.clock.sleep(SECOND)
    while holding.held:
        holding.release()
        made.clock.sleep(SECOND)
    assert made.balloon.actual == len(driver.pages) == 512


def test_reported_blocks_are_out_of_reach_until_the_host_has_answered():
    made = machine("64M", free_page_reporting=True)
    buddy = made.guest.frames.buddy
    free, holding = buddy.free_frames, Holding(made)
    made.clock.sleep(2 * SECOND)
    assert buddy.free_frames < free // 4
    made.clock.sleep(9 * SECOND)
    assert len(holding.held) == 1  # one report in flight
    holding.release()
    made.clock.sleep(0)
    assert buddy.free_frames == free
    assert holding.held == []  # all was in one report


@pytest.mark.parametrize("pcid", [False, True])
def test_under_kpti_the_driver_works_in_the_kernels_address_space(pcid):
    made = machine("64M", kpti=True, pcid=pcid, free_page_reporting=True)
    process = process_with(made, 4)
    resize(made, 60 * MIB)
    made.guest.switch(process)
    assert [made.guest.load(AREA + page * 4096) for page in range(4)] == [1, 2, 3, 4]


def test_a_device_that_is_none_or_another_is_not_taken():
    made = machine("64M", driver=False)
    with pytest.raises(BadChoice, match="no virtio-mmio device 5 at GPA 0xfeb01000"):
        BalloonDriver(made.guest, VIRTIO_MMIO + 0x1000, made.clock)
    made.balloon.device_id = 2
    with pytest.raises(BadChoice, match="no virtio-mmio device 5"):
        load_driver(made)


def test_a_device_that_refuses_what_was_agreed_is_given_up():
    made = machine("64M", driver=False)
    made.balloon.bus.negotiation._demanded = frozenset({32, 35})
    with pytest.raises(BadChoice, match=r"refuses the features \[1, 29, 32\]"):
        load_driver(made)
    assert made.balloon.bus.negotiation.status & 128  # FAILED


def test_registers_are_mapped_for_processes_old_and_new():
    made = machine("64M", driver=False, guest_levels=2)
    old = made.guest.spawn("old")
    made.guest.switch(old)
    load_driver(made)
    resize(made, 63 * MIB)
    made.guest.switch(made.guest.spawn("new"))
    assert resize(made, 62 * MIB) == 62 * MIB


def test_a_second_driver_is_refused_until_the_first_is_unloaded():
    made = machine("64M")
    first = made.balloon_driver
    with pytest.raises(BadChoice, match="has its driver already"):
        made.load_balloon_driver()
    assert made.balloon_driver is first
    first.unload()
    assert made.load_balloon_driver().bound
