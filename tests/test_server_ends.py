"""What ends on a server, or never began: the others go on, and nothing of it is left."""

import pytest

from kvmlab.base.clock import SECOND
from kvmlab.base.errors import KvmlabError, OutOfMemory, ProcessKilled
from kvmlab.hardware.instructions import mov_cr3
from kvmlab.host.kernel import ZERO_PAGE
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES
from kvmlab.linux.frames import Role
from kvmlab.machine import Machine, Server
from kvmlab.management.libvirt_errors import libvirtError
from kvmlab.qemu.machine import VIRTIO_MMIO
from tests.test_server import AREA, Guests, fill

ALL = (
    "<memballoon model='virtio' freePageReporting='on' autodeflate='on'>"
    "<stats period='1'/></memballoon>"
)


def test_time_goes_on_for_the_others_when_a_domain_is_destroyed_in_the_middle_of_its_work():
    guests = Guests()
    gone, stays = guests.start("gone", balloon=ALL), guests.start("stays", balloon=ALL)
    gone.setMemory(32 << 10)  # steps, polls and reports are under way
    gone.destroy()
    before = stays.memoryStats()["last_update"]
    guests.sleep(10)
    assert stays.memoryStats()["last_update"] == before + 10


def test_a_domain_that_its_own_timer_kills_is_crashed_and_time_goes_on():
    """Its driver stores more than the host has, on the clock: the OOM killer takes its QEMU."""
    guests = Guests("66M")
    other = guests.start("other", 32)
    fill(guests.machines[0], 16)
    guests.start("greedy", 64)
    greedy = guests.machines[1]
    greedy.clock.after(SECOND, lambda: fill(greedy, 52))
    guests.sleep(2)
    assert guests.server.clock.now == 2 * SECOND
    assert [one.name() for one in guests.connection.listAllDomains()] == ["other"]
    assert other.memoryStats()["actual"] == 32 << 10


@pytest.mark.parametrize(
    "options",
    [
        {"guest_page": "3K"},
        {"guest_levels": 2, "kpti": True},
        {"guest_levels": []},
        {"host_page": "2M"},
        {"guest_memory": "200T"},
        {"mmu": "native"},
    ],
)
def test_a_machine_that_is_refused_leaves_nothing_on_the_server(options):
    server = Server("64M")
    free = server.host.buddy.free_frames
    with pytest.raises(KvmlabError):
        Machine(server=server, **options)
    assert server.host.processes == []
    assert server.host.buddy.free_frames == free
    assert set(server.ram.read(0, 4096)) == {0}


def boot_nothing(_machine):
    raise OutOfMemory("no frame is left")


def test_a_domain_whose_guest_does_not_boot_leaves_no_qemu():
    guests = Guests(boot=boot_nothing)
    with pytest.raises(libvirtError, match="closed the monitor: no frame is left"):
        guests.start()
    assert guests.connection.listAllDomains() == []
    assert guests.server.host.processes == []


@pytest.mark.parametrize("mmu", ["ept", "npt"])
@pytest.mark.parametrize("vcpus", [1, 2])
def test_the_cpus_of_a_vm_that_ended_reach_nothing_that_others_have_now(mmu, vcpus):
    """Not by a TLB, not by EPT's freed root, not by an access to a device.

    Whoever has the frames next fills them with entries valid at every level of both formats.
    """
    server = Server("32M")
    free = server.host.buddy.free_frames
    machine = Machine(mmu, guest_memory="4M", vcpus=vcpus, server=server)
    process = fill(machine, 1)
    machine.power_off()
    assert server.host.buddy.free_frames == free
    for frame in range(1 << 20, server.ram.size, 4096):
        server.ram.write(frame, (frame + 4096 | 7).to_bytes(8, "little") * 512)
    kernel = machine.guest.direct_map
    for cpu in machine.cpus:
        for address in (AREA, kernel, kernel + (5 << 20), process.root):
            with pytest.raises(ProcessKilled, match="qemu has ended"):
                cpu.load(address)
        mov_cr3(cpu, VIRTIO_MMIO)
        with pytest.raises(ProcessKilled, match="qemu has ended"):
            cpu.load(AREA)
    assert server.host.buddy.free_frames == free
    assert set(server.ram.read(ZERO_PAGE, 4096)) == {0}


@pytest.mark.parametrize(
    "options",
    [
        {"mmu": "shadow"},
        {"mmu": "agile"},
        {"mmu": "agile", "vcpus": 2},
        {"vcpus": 2},
        {"guest_levels": 3},
        {"guest_levels": 2, "vcpus": 2},
        {"guest_levels": 5},
    ],
)
def test_the_roots_that_a_shadow_mmu_freed_are_walked_no_more(options):
    """All of them are the host's again, and what is free is filled as above."""
    server = Server("32M")
    free = server.host.buddy.free_frames
    machine = Machine(
        **{"mmu": "shadow", "policy": "today", **options}, guest_memory="4M", server=server
    )
    fill(machine, 1)
    machine.power_off()
    assert server.host.buddy.free_frames == free
    used = server.host.memory.frames.role
    for pfn in range(256, server.ram.size >> 12):
        if pfn >= len(used) or used[pfn] == Role.FREE:
            server.ram.write(pfn << 12, (pfn + 1 << 12 | 7).to_bytes(8, "little") * 512)
    for cpu in machine.cpus:
        with pytest.raises(ProcessKilled, match="qemu has ended"):
            cpu.load(AREA)
    assert set(server.ram.read(ZERO_PAGE, 4096)) == {0}


@pytest.mark.parametrize("first", ["L1", "L2"])
@pytest.mark.parametrize("mmu", ["l2-ept", "l2-shadow"])
def test_a_nested_vm_that_ended_has_no_frame_of_the_host(mmu, first):
    """Neither EPT01 nor EPT02 is left, though L2 ran last; and L1 has back what L2 had of it."""
    server = Server("64M")
    free = server.host.buddy.free_frames
    machine = Machine(mmu, guest_memory="8M", server=server)
    fill(machine, 1)
    if first == "L2":
        machine.vmm.end()
        assert machine.l1.host.buddy.free_frames == machine.l1.host.buddy.total
        with pytest.raises(ProcessKilled, match="qemu has ended"):
            machine.guest.load(AREA)
    machine.power_off()
    assert server.host.buddy.free_frames == free
    for frame in range(1 << 20, server.ram.size, 4096):
        server.ram.write(frame, (frame + 4096 | 7).to_bytes(8, "little") * 512)
    for address in (AREA, machine.guest.direct_map):
        with pytest.raises(ProcessKilled, match="qemu has ended"):
            machine.cpu.load(address)
    assert server.host.buddy.free_frames == free
    assert set(server.ram.read(ZERO_PAGE, 4096)) == {0}


@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_vm_that_ends_while_its_writes_are_logged_gives_the_log_back(vcpus):
    server = Server("32M")
    free = server.host.buddy.free_frames
    machine = Machine("ept", guest_memory="4M", vcpus=vcpus, server=server)
    fill(machine, 1)
    slot = machine.vm.slots.find(0)
    machine.vm.set_region(slot.slot, slot.gpa, slot.size, slot.hva, LOG_DIRTY_PAGES)
    assert machine.cpu.vmcs.pml
    machine.power_off()
    assert machine.cpu.vmcs.pml is None
    assert server.host.buddy.free_frames == free
