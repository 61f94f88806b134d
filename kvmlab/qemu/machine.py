"""QEMU: it gives a guest its memory, as one area of its own address space in memslots.

Devices: a virtio balloon, behind the registers of virtio-mmio as QEMU's microvm has them.
"""

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.base.clock import Clock
from kvmlab.base.errors import KvmlabError, OutOfMemory, Overlap
from kvmlab.base.tap import Tap
from kvmlab.hardware.formats import Format
from kvmlab.host.kernel import Host
from kvmlab.kvm.bus import Device
from kvmlab.kvm.vm import Vm
from kvmlab.qemu.balloon import Balloon, BalloonOptions
from kvmlab.qemu.firmware import identity_tables
from kvmlab.qemu.guest_memory import GuestMemory
from kvmlab.qemu.monitor import Monitor
from kvmlab.qemu.virtio_mmio import VirtioMmio
from kvmlab.virtio.mmio import WINDOW

VIRTIO_MMIO = 0xFEB0_0000  # VIRTIO_MMIO_BASE of hw/i386/microvm.c
LOW_MEMORY = 3 << 30  # the PC's hole for devices begins here; the rest of RAM lies above 4 GiB
_HIGH_START = 4 << 30


def memory_map(size: int) -> tuple[tuple[int, int], ...]:
    """The guest-physical ranges of a PC with ``size`` bytes of RAM, as (start, length)."""
    if size <= LOW_MEMORY:
        return ((0, size),)
    return ((0, LOW_MEMORY), (_HIGH_START, size - LOW_MEMORY))


def reserve_huge(host: Host, size: int, page_shift: int) -> None:
    """What an administrator does at boot for a guest of ``size`` bytes on huge pages."""
    if page_shift in host.hugetlb:
        host.hugetlb[page_shift].set_nr(size >> page_shift)


def _refused(page_shift: int) -> str:
    """What QEMU says when it gets no memory for the guest.

    QEMU, softmmu/physmem.c: file_ram_alloc() for pages of hugetlbfs, ram_block_add() for others.
    """
    what = (
        "cannot set up guest memory 'pc.ram'"
        if page_shift == PAGE_SHIFT
        else "unable to map backing store for guest RAM"
    )
    return f"{what}: Cannot allocate memory"


class Qemu:
    """One VMM process: a RAM block, its memslots, and firmware in the guest's memory."""

    def __init__(
        self,
        host: Host,
        size: int,
        page_shift: int,
        clock: Clock,
        tap: Tap,
        *,
        hva: int | None = None,
    ) -> None:
        self.process, self._clock, self._tap = host.process(), clock, tap
        self.vm = Vm(host, self.process, tap)
        self.memory = memory_map(size)
        self.monitor = Monitor(self.vm, clock, tap)
        try:
            hva = self._map_memory(size, page_shift, hva)
            for number, (gpa, length) in enumerate(self.memory):
                self.vm.set_region(number, gpa, length, hva)
                hva += length
        except KvmlabError:
            self.end()
            raise

    def end(self) -> None:
        """The process ends, unless it has; all its memory goes back to the host."""
        if self.process.alive:
            self.process.exit()

    def map_device(self, gpa: int, size: int, device: Device) -> None:
        """Let ``device`` answer at guest-physical ``[gpa, gpa + size)``; raises `Overlap`.

        Memory wins where both are: such a range would never exit.
        """
        for slot in self.vm.slots:
            if gpa < slot.gpa + slot.size and slot.gpa < gpa + size:
                raise Overlap(
                    f"a device at GPA {gpa:#x} to {gpa + size - 1:#x} would lie in memslot "
                    f"{slot.slot}, which is memory from {slot.gpa:#x} to "
                    f"{slot.gpa + slot.size - 1:#x}"
                )
        self.vm.mmio.attach(gpa, size, device)

    def _map_memory(self, size: int, page_shift: int, hva: int | None) -> int:
        try:
            return self.process.mmap(size, page_shift, at=hva)
        except OutOfMemory as error:
            self.process.exit()
            raise OutOfMemory(_refused(page_shift)) from error

    def load_firmware(self, fmt: Format) -> None:
        """Put the boot page tables into guest memory."""
        identity_tables(fmt, self.memory, self.vm.write)

    def add_balloon(self, options: BalloonOptions, name: str) -> tuple[Balloon, VirtioMmio]:
        """``-device virtio-balloon-device,id=<name>``: the device, and its registers.

        Raises `BadChoice` for a second one.
        """
        size, memory = sum(length for _, length in self.memory), GuestMemory(self.vm)
        device = Balloon(options, size, memory, self.process, self._clock, self._tap)
        self.monitor.plug(device, name)
        device.bus = registers = VirtioMmio(device, memory, self._tap)
        self.map_device(VIRTIO_MMIO, WINDOW, registers)
        return device, registers
