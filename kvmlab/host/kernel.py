"""Linux on the host: an instance of `linux` over the machine's frames."""

from kvmlab.base.errors import BadSize
from kvmlab.base.tap import Tap
from kvmlab.hardware.ram import PAGE_SHIFT, Ram
from kvmlab.host.address_space import AddressSpace
from kvmlab.linux.buddy import Buddy

_RESERVED = 1 << 20  # the first MiB belongs to firmware


class Host:
    """The host's kernel: it owns every frame and gives address spaces to its processes."""

    def __init__(self, ram: Ram, tap: Tap) -> None:
        if ram.size <= _RESERVED:
            raise BadSize(f"a host with {ram.size:#x} bytes has nothing beyond its first MiB")
        self.ram, self._tap = ram, tap
        self.buddy = Buddy(_RESERVED >> PAGE_SHIFT, (ram.size - _RESERVED) >> PAGE_SHIFT)

    def process(self) -> AddressSpace:
        """A new process with an empty address space."""
        return AddressSpace(self.ram, self.buddy, self._tap)

    def alloc_table(self) -> int:
        """The host-physical address of a zeroed frame for a table of the hypervisor."""
        pfn = self.buddy.alloc()
        self.ram.discard(pfn)
        return pfn << PAGE_SHIFT

    def free_table(self, hpa: int) -> None:
        """Take such a frame back."""
        self.ram.discard(hpa >> PAGE_SHIFT)
        self.buddy.free(hpa >> PAGE_SHIFT)
