"""Guests on pools of huge pages: reserved at mmap, exclusive, and never given up."""

import pytest

from kvmlab.base.clock import Clock
from kvmlab.base.errors import BadSize, OutOfMemory
from kvmlab.qemu.machine import Qemu
from tests.host.setting import HUGE, MIB, Setting

TOLD = "unable to map backing store for guest RAM: Cannot allocate memory"


def pool_fields(host):
    info = host.meminfo()
    return tuple(info[f"HugePages_{name}"] for name in ("Total", "Free", "Rsvd", "Surp"))


def test_a_second_guest_finds_the_pool_empty():
    """Case 56: 512 pages, a preallocated guest of 1 GiB, then another.

    The text is measured, the numbers are worked out of the kernel's documentation.
    """
    setting = Setting(1200)
    host = setting.host
    host.hugetlb[21].set_nr(512)
    first = Qemu(host, 1 << 30, 21, Clock(), setting.tap)
    first.process.populate(next(iter(first.vm.slots)).hva, 1 << 30)
    assert pool_fields(host) == (512, 0, 0, 0)
    with pytest.raises(OutOfMemory, match=TOLD):
        Qemu(host, 1 << 30, 21, Clock(), setting.tap)
    assert first.process.rss == 0  # VmRSS leaves hugetlbfs out
    first.process.exit()
    assert pool_fields(host) == (512, 512, 0, 0)


def test_an_empty_pool_has_nothing_for_anybody():
    setting = Setting(16)
    with pytest.raises(OutOfMemory, match=TOLD):
        Qemu(setting.host, 2 * HUGE, 21, Clock(), setting.tap)


def test_reserved_pages_are_there_when_they_are_touched():
    setting = Setting(16)
    setting.host.hugetlb[21].set_nr(4)
    space, hva = setting.process(4, shift=21)
    assert pool_fields(setting.host) == (4, 4, 2, 0)
    with pytest.raises(OutOfMemory):
        setting.process(6, "other", shift=21)
    setting.write(space, hva + HUGE, 3)
    assert pool_fields(setting.host) == (4, 3, 1, 0)
    space.madvise_dontneed(hva + HUGE, HUGE)
    assert pool_fields(setting.host) == (4, 4, 2, 0)
    assert setting.read(space, hva + HUGE) == 0
    setting.check()


def test_surplus_pages_stay_while_the_mapping_lives():
    setting = Setting(16)
    setting.host.hugetlb[21].overcommit = 2
    space, hva = setting.process(4, shift=21)
    assert pool_fields(setting.host) == (2, 2, 2, 2)
    space.populate(hva, 4 * MIB)
    space.madvise_dontneed(hva, HUGE)
    setting.write(space, hva, 1)
    assert pool_fields(setting.host) == (2, 0, 0, 2)
    space.exit()
    assert pool_fields(setting.host) == (0, 0, 0, 0)


def test_pool_pages_are_not_swapped():
    setting = Setting(16, 16)
    setting.host.hugetlb[21].set_nr(2)
    fixed, here = setting.process(4, shift=21)
    setting.write(fixed, here, 9)
    other, there = setting.process(12, "other")
    for page in range(3072):
        setting.write(other, there + page * 4096, page)
    assert other.swap_entries > 0
    assert pool_fields(setting.host) == (2, 1, 1, 0)
    assert setting.read(fixed, here) == 9
    setting.check()


def test_there_are_pools_of_2m_and_1g_only():
    setting = Setting(16)
    with pytest.raises(BadSize, match="0x10000 bytes"):
        setting.process(4, shift=16)
