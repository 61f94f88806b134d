"""A look at a guest of one's own: what its balloon did is told as in the experiment."""

import pytest

from kvmlab.base.clock import SECOND
from kvmlab.base.errors import BadChoice
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.machine import Machine, Server, connect
from kvmlab.management import libvirt
from kvmlab.qemu.balloon import BalloonOptions
from kvmlab.study.inflation_look import Look

KIB = 1024
XML = """<domain type='kvm'><name>mine</name><memory unit='MiB'>{}</memory><os><type>hvm</type></os>
<devices><memballoon model='{}'><stats period='1'/></memballoon></devices></domain>"""


def started(mib=64, model="virtio"):
    server = Server(f"{2 * mib}M")
    domain = connect(server).createXML(XML.format(mib, model))
    server.clock.sleep(2 * SECOND)
    return server, domain


def moved(server, domain, mib, seconds=3):
    domain.setMemory(mib << 10)
    server.clock.sleep(seconds * SECOND)


def test_each_buffer_since_the_last_look_is_a_moment_and_the_numbers_are_libvirts():
    server, domain = started()
    look = Look(domain)
    first = look.moments[-1]
    assert (first.ram, first.actual, first.returned) == (64 << 20, 64 << 20, 0)
    moved(server, domain, 48)
    assert look.moments[-1] is first  # nothing is shown before it is looked at
    look.again()
    events = [one.event for one in look.moments]
    assert events == ["before", "target", *["inflate"] * 16, "after"]  # 256 pages each
    stats, now = domain.memoryStats(), look.moments[-1]
    assert now.actual == stats["actual"] * KIB == 48 << 20
    assert (now.free, now.total) == (stats["unused"] * KIB, stats["available"] * KIB)
    assert now.rss == stats["rss"] * KIB
    assert [one.actual for one in look.moments[2:-1]] == [(64 - n << 20) for n in range(1, 17)]
    look.again()
    assert [one.event for one in look.moments] == ["before", "after"]


def test_what_the_host_got_back_is_what_rss_lost():
    server, domain = started()
    look = Look(domain)
    machine = look.watch.machine
    machine.vcpu.mmu.pre_fault(0, 64 << 20)  # all of it was touched
    look.again()
    before = look.moments[-1]
    moved(server, domain, 40)
    look.again()
    now = look.moments[-1]
    assert now.returned == before.rss - now.rss == 24 << 20
    assert now.mapped.sum() * 4096 == now.ept == now.rss


def test_who_listened_before_still_hears():
    server, domain = started()
    heard = []
    machine = Look(domain).watch.machine
    machine.balloon.listen(heard.append)
    Look(domain)
    moved(server, domain, 60)
    assert heard


def test_a_large_inflation_is_told_by_its_first_buffers_and_its_end():
    server, domain = started(512)
    look = Look(domain)
    moved(server, domain, 128, 60)
    look.again()
    assert len(look.moments) == 201
    assert look.moments[-1].actual == 128 << 20
    assert look.moments[-1].pages == 2048


def test_a_machine_that_no_libvirt_knows_has_no_statistics_of_it():
    machine = Machine(guest_memory="16M", host_memory="64M")
    guest = Reclaimer(machine.guest)
    machine.attach_balloon(BalloonOptions(deflate_on_oom=True), driver=False)
    machine.load_balloon_driver(stats=guest.statistics)
    look = Look(machine)
    assert look.moments[-1].stats == ""
    assert (look.beginning.deflate_on_oom, look.beginning.reporting) == (True, False)
    machine.balloon.set_target(8 << 20)
    machine.clock.sleep(SECOND)
    look.again()
    assert look.moments[-1].actual == 8 << 20


def bare(**options):
    return Machine(**{"guest_memory": "16M", "host_memory": "64M"} | options)


def ballooned(managed=True, **options):
    machine = bare(**options)
    if managed:
        Reclaimer(machine.guest)
    machine.attach_balloon()
    return machine


def off():
    _, domain = started()
    domain.destroy()
    return domain


@pytest.mark.parametrize(
    "own, words",
    [
        (lambda: "mine", "a domain of connect"),
        (bare, "has no balloon; give it one with machine.attach_balloon"),
        (lambda: ballooned(mmu="shadow"), "design 'shadow' has no EPT"),
        (lambda: ballooned(managed=False), "attach a Reclaimer"),
        (lambda: ballooned(guest_memory="4G", host_memory="5G"), "4G cannot be drawn"),
        (lambda: started(model="none")[1], "has no balloon"),
        (off, "runs on no simulated host"),
        (lambda: libvirt.open("test:///default").lookupByName("test"), "runs on no simulated host"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_in_one_line(own, words):
    with pytest.raises(BadChoice, match=words):
        Look(own())
