"""Linux on the host: an instance of `linux` over the machine's frames.  NUMA is left out."""

from types import MappingProxyType

from kvmlab.base.clock import Clock
from kvmlab.base.errors import BadSize
from kvmlab.base.tap import Tap
from kvmlab.hardware.ram import PAGE_SHIFT, PAGE_SIZE, Ram
from kvmlab.host.address_space import AddressSpace
from kvmlab.host.huge_pages import Collapse
from kvmlab.host.ksm import Ksm
from kvmlab.host.parts import Parts
from kvmlab.linux.buddy import Buddy
from kvmlab.linux.frames import Role
from kvmlab.linux.hugetlb import HugetlbPool
from kvmlab.linux.khugepaged import Khugepaged
from kvmlab.linux.kswapd import Kswapd
from kvmlab.linux.meminfo import meminfo
from kvmlab.linux.memory import Memory
from kvmlab.linux.swap import Swap

_RESERVED = 1 << 20  # the first MiB belongs to firmware
ZERO_PAGE = 0x1000  # there, below firmware's tables: a page of zeroes (empty_zero_page)


class _Contents:
    """The bytes of host frames, for `linux`."""

    def __init__(self, ram: Ram) -> None:
        self._ram = ram

    def read(self, pfn: int) -> bytes:
        """One page."""
        return self._ram.read(pfn << PAGE_SHIFT, PAGE_SIZE)

    def write(self, pfn: int, data: bytes) -> None:
        """Fill one page."""
        self._ram.write(pfn << PAGE_SHIFT, data)

    def clear(self, first: int, count: int) -> None:
        """Make neighbouring frames read as zeroes, taking no space."""
        self._ram.discard_run(first, count)


class Host:
    """The host's kernel: it owns every frame and gives address spaces to its processes.

    ``swap`` is the size of its swap device in bytes, ``min_free_kbytes`` the sysctl (the kernel's
    own choice if None).  `memory` is what it does with frames, ``hugetlb`` its pools by page
    shift; `huge`, `khugepaged` and `ksm` are the transparent huge pages, their daemon, and KSM.
    """

    def __init__(
        self, ram: Ram, tap: Tap, *, swap: int = 0, min_free_kbytes: int | None = None
    ) -> None:
        if ram.size <= _RESERVED:
            raise BadSize(f"a host with {ram.size:#x} bytes has nothing beyond its first MiB")
        self.ram = ram
        self.buddy = Buddy(_RESERVED >> PAGE_SHIFT, (ram.size - _RESERVED) >> PAGE_SHIFT)
        self.memory = Memory(
            self.buddy, _Contents(ram), tap, swap=Swap(swap), min_free_kbytes=min_free_kbytes
        )
        self.hugetlb = MappingProxyType(
            {shift: HugetlbPool(self.memory, shift) for shift in (21, 30)}
        )
        self.processes: list[AddressSpace] = []
        self.huge = self.memory.huge
        self.ksm = Ksm(ram, self.memory, self.processes, tap)
        self._parts = Parts(ram, self.memory, self.ksm, self.hugetlb, tap)
        self.khugepaged = Khugepaged(
            self.memory,
            lambda: [Collapse(space, self._parts) for space in self.processes],
            lambda work: work(),
        )

    def process(self, name: str = "qemu") -> AddressSpace:
        """A new process with an empty address space."""
        space = AddressSpace(self._parts, name)
        self.processes.append(space)
        self.memory.processes.append(space)
        space.on_exit.append(lambda: self.processes.remove(space))
        return space

    def swapon(self, size: int) -> None:
        """Give the host ``size`` bytes of swap space more; raises `BadSize`."""
        self.memory.swap.add(size)

    def start_daemons(self, clock: Clock) -> None:
        """Let kswapd, khugepaged and ksmd run on ``clock``."""
        Kswapd(self.memory, clock, lambda work: work())
        self.khugepaged.start(clock)
        self.ksm.start(clock)

    def meminfo(self) -> dict[str, int]:
        """/proc/meminfo, in KiB."""
        return meminfo(self.memory, self.hugetlb.values())

    def alloc_table(self) -> int:
        """The host-physical address of a zeroed frame for a table of the hypervisor."""
        return self.memory.alloc(Role.SECONDARY) << PAGE_SHIFT

    def free_table(self, hpa: int) -> None:
        """Take such a frame back."""
        self.memory.free(hpa >> PAGE_SHIFT)
