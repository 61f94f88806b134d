"""Huge pages on both sides: when EPT's leaf is large, what it saves, and how a balloon splits it.

Cases 31, 59 and 60 of the facts, and the references of a complete miss: 24, 19, 19 and 15.  None
is measured: the rules were read in Linux's source and documentation, the numbers worked out.
"""

import pytest

from kvmlab.base.clock import SECOND
from kvmlab.base.tap import silent
from kvmlab.hardware.records import Kind, Step, TlbFill
from kvmlab.host.records import HostSplit
from kvmlab.machine import Machine, Server
from tests.balloon_under_test import qmp, resident
from tests.host.setting import HUGE
from tests.small_guest import SmallGuest

GIB, AREA = 1 << 30, 0x1000_0000


def slot_at(design, gfn, page, backing):
    """A VM whose only slot of 8 MiB begins at ``gfn`` and, in QEMU, at virtual page ``page``."""
    guest = SmallGuest(design)
    guest.vm.set_region(0, 0, 0, 0)
    if backing == "hugetlb":
        guest.host.hugetlb[21].set_nr(8)
    guest.process.mmap(16 << 20, 21 if backing == "hugetlb" else 12, at=0x40_0000_0000)
    if backing == "THP":
        guest.process.advise_huge(0x40_0000_0000, wanted=True)
    guest.vm.set_region(1, gfn << 12, 8 << 20, 0x40_0000_0000 + (page << 12))
    return guest


def levels(guest, gfn):
    """The levels of all leaves of the slot, once every page of it is mapped."""
    found = set()
    for gpa in range(gfn << 12, (gfn << 12) + (8 << 20), 0x1000):
        if not guest.mmu.direct.tree.find(gpa).leaf:
            guest.mmu.direct.fill(gpa, guest.vm.back(gpa), Kind.READ)
        found.add(guest.mmu.direct.tree.find(gpa).level)
    return found


@pytest.mark.parametrize("design", ["ept", "npt legacy"])
@pytest.mark.parametrize("backing", ["hugetlb", "THP"])
@pytest.mark.parametrize("page, expected", [(0x200, {1}), (0x300, {1, 2})])
def test_no_leaf_is_large_in_a_slot_that_is_not_congruent(design, backing, page, expected):
    """Case 59: base gfn 0x100 on virtual page 0x200; on 0x300 the whole blocks inside are large."""
    guest = slot_at(design, 0x100, page, backing)
    assert levels(guest, 0x100) == expected


@pytest.mark.parametrize(
    "guest_page, host_page, references, shift",
    [
        ("4K", "4K", 24, 12),
        ("2M", "4K", 19, 12),  # case 60: one large side shortens the walk, not the entry
        ("4K", "2M", 19, 12),
        ("2M", "2M", 15, 21),
    ],
)
def test_the_tlb_holds_the_smaller_of_both_pages(guest_page, host_page, references, shift):
    records = []
    machine = Machine("ept", tap=records.append, guest_page=guest_page, host_page=host_page)
    process = machine.guest.spawn("demo")
    machine.guest.switch(process)
    process.mmap(AREA, "4M", page=guest_page)
    machine.guest.touch(AREA + 0x20_3000, Kind.READ)
    machine.cpu.flush_tlb()
    records.clear()
    machine.guest.touch(AREA + 0x20_3000, Kind.READ)
    assert sum(isinstance(one, Step) for one in records) == references
    assert [one.shift for one in records if isinstance(one, TlbFill)] == [shift]


def on_huge_pages(memory, host, tap=silent):
    """A machine whose memory the host backs with transparent huge pages from the start."""
    server = Server(host, tap=tap)
    server.host.huge.enabled = "always"
    machine = Machine("ept", guest_memory=memory, server=server, tap=tap)
    slot = machine.vm.slots.find(0)
    machine.qemu.process.populate(slot.hva, slot.size)
    return machine, slot


def leaf_levels(machine, gpas):
    """How large the leaf of each of these addresses is, once it is mapped again."""
    direct = machine.vcpu.mmu.direct
    for gpa in gpas:
        direct.fill(gpa, machine.vm.back(gpa), Kind.READ)
    return [direct.tree.find(gpa).level for gpa in gpas]


def test_one_page_of_each_block_splits_all_512_leaves_and_frees_nothing_at_first():
    """Case 31 at full size: RSS falls by 2048 KiB at once, the host gains them only later."""
    machine, slot = on_huge_pages("1G", "1200M")
    blocks = range(0x7000, GIB, HUGE)
    host, process = machine.host, machine.qemu.process
    assert leaf_levels(machine, blocks) == [2] * 512
    rss, free = process.rss, host.buddy.free_frames
    for gpa in blocks:
        process.madvise_dontneed(slot.hva + gpa, 4096)
    assert (rss - process.rss) * 4 == 2048
    assert leaf_levels(machine, [gpa + 0x1000 for gpa in blocks]) == [1] * 512
    assert host.buddy.free_frames <= free
    kept = host.buddy.free_frames
    assert host.huge.split_deferred() == 512
    assert (host.buddy.free_frames - kept) * 4 == 2048


def test_one_page_in_the_balloon_splits_one_large_page():
    records = []
    machine, _slot = on_huge_pages("64M", "128M", tap=records.append)
    machine.attach_balloon()
    before = resident(machine)
    records.clear()
    qmp(machine, "balloon", value=(64 << 20) - 4096)
    machine.clock.sleep(SECOND)
    (page,) = machine.balloon_driver.pages
    assert before - resident(machine) == 4096
    assert sum(isinstance(one, HostSplit) for one in records) == 1
    neighbour = page ^ 0x1000
    assert leaf_levels(machine, [neighbour, (neighbour + HUGE) % (64 << 20)]) == [1, 2]
