"""A machine that cannot be is refused with one clear line."""

import pytest

from kvmlab.base.errors import BadChoice, BadSize, KvmlabError
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.machine import Machine, Server, connect
from kvmlab.management.balloon_manager import manage
from kvmlab.qemu.balloon import BalloonOptions
from kvmlab.qemu.machine import Qemu


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"mmu": "xen"}, BadChoice, "choose one of native, shadow, ept"),
        ({"guest_memory": "1G"}, BadSize, "a guest of 1G does not fit in a host of 256M"),
        ({"guest_memory": "256M"}, BadSize, "does not fit"),
        ({"guest_memory": "63M"}, BadSize, "no multiple of 2M"),
        ({"guest_memory": "lots"}, BadSize, "'lots'"),
        ({"host_page": "3K"}, BadSize, "choose 4K, 2M or 1G"),
        ({"guest_page": "4M"}, BadSize, "there are 4K, 2M, 1G"),
        ({"guest_levels": 6}, BadChoice, "6 guest levels"),
        ({"guest_levels": 2, "guest_memory": "2G", "host_memory": "4G"}, BadSize, "896M"),
        ({"host_levels": 3}, BadChoice, "EPT has 4 or 5 levels"),
        ({"host_page": "1G"}, BadSize, "no multiple of 1G"),
        ({"vcpus": 0}, BadChoice, "0 virtual CPUs are not on offer; choose 1 to 32"),
        ({"vcpus": -1}, BadChoice, "choose 1 to 32"),
        ({"vcpus": 33}, BadChoice, "choose 1 to 32"),
        ({"vcpus": "2"}, BadChoice, "'2' virtual CPUs"),
        ({"vcpus": True}, BadChoice, "True virtual CPUs"),
    ],
)
def test_impossible_machines_are_refused(options, error, text):
    with pytest.raises(error) as refused:
        Machine(**{"mmu": "ept", **options})
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_host_of_a_tebibyte_costs_nothing_until_it_is_used():
    machine = Machine("ept", guest_memory="64M", host_memory="1T")
    assert machine.ram.frames_in_use < 64


def attached(*arguments, **options):
    return Machine("ept").attach_balloon(*arguments, driver=False, **options)


def loaded(**options):
    machine = Machine("ept")
    machine.attach_balloon(driver=False)
    return machine.load_balloon_driver(**options)


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: Machine("ept", server="big"), "server must be a Server, not 'big'"),
        (lambda: attached("on"), "options must be BalloonOptions(...), not 'on'"),
        (lambda: attached({"deflate_on_oom": True}), "BalloonOptions(...)"),
        (lambda: attached(name=0), "name must be a text such as 'balloon0', not 0"),
        (lambda: BalloonOptions(deflate_on_oom="no"), "deflate_on_oom must be True or False"),
        (lambda: BalloonOptions(page_poison=1), "page_poison must be True or False, not 1"),
        (lambda: loaded(poison="AA"), "poison must be a byte such as 0xAA, or None"),
        (lambda: loaded(poison=0x1AA), "poison is a byte, 0 to 0xff, not 0x1aa"),
        (lambda: loaded(stats={}), "stats must be a function that returns (tag, value) pairs"),
        (lambda: connect(None), "server must be a Server, not None"),
        (lambda: connect(Machine("ept")), "server must be a Server"),
        (lambda: connect(Server("64M"), boot="linux"), "boot must be a function"),
        (lambda: connect(Server("64M"), lib_version="9.0.0"), "a number such as 9000000"),
        (lambda: connect(Server("64M"), hugetlbfs=2048), "page sizes in KiB, not 2048"),
        (lambda: Reclaimer(Machine("ept")), "kernel must be a guest's kernel"),
        (lambda: Reclaimer(Machine("ept").guest, swap="lots"), "'lots' is no size"),
        (lambda: Reclaimer(Machine("ept").guest, min_free_kbytes="1M"), "a number of KiB"),
        (lambda: manage(None, print), "connection must be a connection of libvirt"),
        (lambda: manage(connect(Server("64M")), {}), "manager must be a function of (host"),
    ],
)
def test_what_is_of_the_wrong_type_is_refused_where_it_comes_in(call, text):
    with pytest.raises(KvmlabError) as refused:
        call()
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_nested_machine_leaves_the_pools_of_a_server_to_its_administrator():
    server = Server("160M")
    server.host.hugetlb[21].set_nr(70)
    Machine("l2-ept", guest_memory="16M", host_page="2M", server=server)
    assert server.host.hugetlb[21].total == 70


def test_a_nested_machine_that_cannot_be_leaves_nothing_on_a_server():
    server = Server("96M")
    free = server.host.buddy.free_frames
    with pytest.raises(KvmlabError, match="unable to map backing store"):
        Machine("l2-ept", guest_memory="16M", server=server, host_page="2M")
    for method in ("load_firmware", "__init__"):
        with pytest.MonkeyPatch.context() as patch:
            made = []
            original = getattr(Qemu, method)

            def second(self, *rest, made=made, original=original, **named):
                made.append(self)
                if len(made) > 1:
                    raise BadSize("the hypervisor of L2 does not come up")
                return original(self, *rest, **named)

            patch.setattr(Qemu, method, second)
            with pytest.raises(BadSize, match="does not come up"):
                Machine("l2-ept", guest_memory="16M", server=server)
    assert server.host.processes == []
    assert server.host.buddy.free_frames == free
