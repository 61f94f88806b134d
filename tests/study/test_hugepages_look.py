"""A look at the pages of a guest of one's own says what its tables and the host's hold."""

import pytest

from kvmlab.base.errors import BadChoice
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.hardware.records import Kind
from kvmlab.machine import Machine, Server, connect
from kvmlab.study.hugepages import HugePages
from kvmlab.study.hugepages_beginning import Beginning
from kvmlab.study.hugepages_look import PagesLook
from kvmlab.study.hugepages_moments import Leaves

MIB = 1 << 20


def running(page="4K", at=0x4000_0000, **options):
    machine = Machine(**{"guest_memory": "32M", "host_memory": "128M"} | options)
    process = machine.guest.spawn("mine")
    machine.guest.switch(process)
    process.mmap(at, "8M", page=page)
    return machine, process


def test_it_says_of_the_labs_own_guest_what_the_lab_says():
    experiment = HugePages(Beginning(guest="4K", host="thp"))
    experiment.sparse()
    look, told = PagesLook(experiment.machine), experiment.history[-1]
    now = look.moments[-1]
    for name in ("area", "guest", "gpas", "base", "ept", "host", "runs", "rss", "thp", "blocks"):
        assert getattr(now, name) == getattr(told, name), name
    assert now.used == told.used == (1, 1, 1, 1)
    assert (look.beginning.guest, look.beginning.host) == ("4K", "thp")
    assert look.tlb == experiment.tlb


def test_what_was_done_since_is_seen_beside_what_was_before():
    machine, process = running(page="2M")
    look = PagesLook(machine)
    assert look.moments[-1].guest == (Leaves(0),) * 4
    machine.guest.store(process.vmas[0].start + 2 * MIB, 7)
    look.again()
    was, now = look.moments
    assert was.touched == 0
    assert now.guest == (Leaves(0), Leaves(0, (21,)), Leaves(0), Leaves(0))
    assert now.used == (0, 512, 0, 0)
    gpa = now.gpas[1]
    assert machine.host_address(gpa) is not None
    assert now.ept[(gpa - now.base) // (2 * MIB)].small == 1
    assert (look.beginning.guest, look.beginning.host) == ("2M", "4K")


def test_thp_of_the_guest_and_a_log_and_a_child_are_seen():
    machine, process = running()
    Reclaimer(machine.guest).huge.enabled = "always"
    look = PagesLook(machine)
    assert look.beginning.guest == "thp"
    machine.guest.touch(process.vmas[0].start, Kind.WRITE)
    slot = next(iter(machine.vm.slots))
    machine.vm.set_region(slot.slot, slot.gpa, slot.size, slot.hva, 1)
    machine.guest.fork("child")
    look.again()
    now = look.moments[-1]
    assert now.guest[0].huge
    assert (now.logging, now.snapshot) == (True, True)


def test_a_look_leaves_everything_as_it_was():
    machine, process = running()
    machine.guest.touch(process.vmas[0].start, Kind.WRITE)
    before = machine.ram.image()
    PagesLook(machine).again()
    assert machine.ram.image() == before


def idle():
    return connect(Server("128M")).createXML(
        "<domain type='kvm'><name>d</name><memory unit='MiB'>32</memory>"
        "<os><type>hvm</type></os></domain>"
    )


@pytest.mark.parametrize(
    "own, words",
    [
        (lambda: 7, "a domain of connect"),
        (lambda: Machine(guest_memory="32M", host_memory="128M"), "no process with a mapping"),
        (idle, "no process with a mapping"),
        (lambda: running(mmu="shadow")[0], "design 'shadow' has no EPT"),
        (lambda: running(guest_levels=3)[0], "4 or 5 levels"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_in_one_line(own, words):
    with pytest.raises(BadChoice, match=words):
        PagesLook(own())
