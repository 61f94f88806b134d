"""A look at a host of one's own: its numbers are the host's and the guests' own."""

from contextlib import suppress

import pytest

from kvmlab.base.clock import SECOND
from kvmlab.base.errors import BadChoice, ProcessKilled
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.machine import Server, connect, machine_of
from kvmlab.management import libvirt
from kvmlab.study.overcommit_host import MOST_VMS, HostLook

XML = """<domain type='kvm'><name>{}</name><memory unit='MiB'>{}</memory><os><type>hvm</type></os>
<devices><memballoon model='virtio'><stats period='1'/></memballoon></devices></domain>"""
AREA, MIB = 0x1000_0000, 256  # pages


class Crowd:
    """A server of 32 MiB and its domains."""

    def __init__(self, swap="64M", guest_swap=0):
        self.server = Server("32M", swap=swap)
        self.connection = connect(self.server, boot=lambda made: self._boot(made, guest_swap))

    def _boot(self, machine, swap):
        linux = Reclaimer(machine.guest, swap=swap)
        linux.start(machine.clock)
        machine.load_balloon_driver(stats=linux.statistics)

    def start(self, name, mib=16):
        return self.connection.createXML(XML.format(name, mib))

    def fill(self, domain, mib):
        guest = machine_of(domain).guest
        process = guest.spawn("app")
        guest.switch(process)
        process.mmap(AREA, mib << 20)
        for page in range(mib * MIB):
            guest.store(AREA + (page << 12), page)


def test_each_look_has_what_libvirt_and_the_host_say_and_what_was_swapped_since():
    crowd = Crowd()
    first, second = crowd.start("one"), crowd.start("two")
    look = HostLook(crowd.connection)
    assert look.seen[0].promised == 32 * MIB
    crowd.fill(first, 12)
    crowd.fill(second, 12)
    third = crowd.start("three")
    crowd.fill(third, 10)
    crowd.server.clock.sleep(2 * SECOND)
    look.again()
    now, host = look.seen[-1], crowd.server.host
    assert [one.name for one in now.vms] == ["one", "two", "three"]
    for domain, guest in zip((first, second, third), now.vms, strict=True):
        stats = domain.memoryStats()
        assert guest.rss * 4 == stats["rss"]
        assert guest.used * 4 == stats["available"] - stats["unused"]
        assert guest.pages * 4 == domain.maxMemory()
    assert now.free == host.buddy.free_frames
    assert now.swapped == sum(one.host_swap for one in now.vms) > 0
    assert now.swap_out - now.swap_in == now.swapped
    look.again()
    assert (look.seen[-1].swap_out, look.seen[-1].swap_in) == (0, 0)


def test_balloons_and_the_guests_own_swap_are_told():
    crowd = Crowd(guest_swap="32M")
    domain = crowd.start("small", 8)
    look = HostLook(crowd.connection)
    crowd.fill(domain, 12)  # more than it has
    look.again()
    assert look.seen[-1].vms[0].guest_swap > 0
    guest = machine_of(domain).guest
    for page in range(12 * MIB):
        guest.load(AREA + (page << 12))
    domain.setMemory(7 << 10)
    crowd.server.clock.sleep(2 * SECOND)
    look.again()
    now = look.seen[-1]
    assert now.guest_in > 0
    assert now.balloons * 4 == 8192 - domain.info()[2] > 0


def test_a_vm_that_runs_no_more_keeps_its_row_and_its_promise_ends():
    crowd = Crowd()
    gone, _ = crowd.start("gone"), crowd.start("stays")
    look = HostLook(crowd.connection)
    gone.destroy()
    look.again()
    now = look.seen[-1]
    assert [(one.name, one.alive) for one in now.vms] == [("gone", False), ("stays", True)]
    assert (now.promised, now.vms[0].pages, now.vms[0].rss) == (16 * MIB, 16 * MIB, 0)


def test_what_the_oom_killer_took_is_counted():
    crowd = Crowd(swap=None)
    domains = [crowd.start(name) for name in ("a", "b", "c")]
    look = HostLook(crowd.connection)
    for domain in domains:
        with suppress(ProcessKilled):  # its own death; another's is none of its business
            crowd.fill(domain, 13)
    look.again()
    now = look.seen[-1]
    assert now.kills >= 1
    assert sum(not one.alive for one in now.vms) == now.kills


def test_who_listened_to_the_host_before_still_hears():
    crowd = Crowd()
    heard = []
    crowd.start("one")
    crowd.server.host.memory.listen(heard.append)
    HostLook(crowd.connection)
    for name in ("two", "three", "four"):
        crowd.fill(crowd.start(name), 12)
    assert heard


def test_what_cannot_be_looked_at_is_refused_in_one_line():
    with pytest.raises(BadChoice, match="one of connect"):
        HostLook("qemu:///system")
    with pytest.raises(BadChoice, match="no domain runs"):
        HostLook(connect(Server("64M")))
    with pytest.raises(BadChoice, match="runs on no simulated host"):
        HostLook(libvirt.open("test:///default"))
    crowd = Crowd()
    for number in range(MOST_VMS + 1):
        crowd.start(f"vm{number}", 2)
    with pytest.raises(BadChoice, match="25 VMs cannot be drawn; up to 24"):
        HostLook(crowd.connection)
