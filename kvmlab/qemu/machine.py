"""QEMU: it gives a guest its memory, as one area of its own address space in memslots."""

from kvmlab.base.tap import Tap
from kvmlab.hardware.formats import Format
from kvmlab.host.kernel import Host
from kvmlab.kvm.vm import Vm
from kvmlab.qemu.firmware import identity_tables

LOW_MEMORY = 3 << 30  # the PC's hole for devices begins here; the rest of RAM lies above 4 GiB
_HIGH_START = 4 << 30


def memory_map(size: int) -> tuple[tuple[int, int], ...]:
    """The guest-physical ranges of a PC with ``size`` bytes of RAM, as (start, length)."""
    if size <= LOW_MEMORY:
        return ((0, size),)
    return ((0, LOW_MEMORY), (_HIGH_START, size - LOW_MEMORY))


class Qemu:
    """One VMM process: a RAM block, its memslots, and firmware in the guest's memory."""

    def __init__(self, host: Host, size: int, page_shift: int, tap: Tap) -> None:
        self.process = host.process()
        self.vm = Vm(host, self.process, tap)
        self.memory = memory_map(size)
        hva = self.process.mmap(size, page_shift)
        for number, (gpa, length) in enumerate(self.memory):
            self.vm.set_region(number, gpa, length, hva)
            hva += length

    def load_firmware(self, fmt: Format) -> None:
        """Put the boot page tables into guest memory."""
        identity_tables(fmt, self.memory, self.vm.write)
