"""A captured guest in a VM of ours: its tables in guest memory, its registers in the CPU.

The guest does not run on, for what its pages held nobody recorded; but its addresses are
translated by its own tables under any of the designs, and each access is told record by record.
"""

import numpy as np

from kvmlab.base.addresses import PAGE_SIZE, size_text
from kvmlab.base.errors import BadAddress, BadChoice, BadSize
from kvmlab.base.tap import Tap, silent
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import Controls
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import Fault, GeneralProtection, Kind, PageFault
from kvmlab.host.kernel import Host
from kvmlab.kvm.ept_mmu import EptMmu
from kvmlab.kvm.policy import TODAY
from kvmlab.kvm.shadow_mmu import ShadowMmu
from kvmlab.kvm.vcpu import Vcpu
from kvmlab.kvm.vm import Vm
from kvmlab.machine import Chain
from kvmlab.workloads.capture import Capture, Process

DESIGNS = ("native", "shadow", "ept", "npt")
HOLE = range(0xC000_0000, 1 << 32)  # where a PC has devices, not memory
MOST = 16 << 30  # bytes of a guest
_LARGE = 2 << 20
_USER = 3


class CapturedVm:
    """The guest of ``capture``, about to go on with ``process`` (the running one by default).

    Raises `BadChoice` for a design that is none of `DESIGNS`.
    """

    def __init__(
        self,
        capture: Capture,
        mmu: str = "ept",
        process: Process | None = None,
        tap: Tap = silent,
    ) -> None:
        if mmu not in DESIGNS:
            raise BadChoice(f"a captured guest runs under {', '.join(DESIGNS)}, not {mmu!r}")
        self.mmu, self.process = mmu, process or capture.running
        tables = self.process.tables
        self.memory = memory_of(self.process)
        self._tables = tables.memory()  # as captured, for looking without effect
        controls = Controls(
            cr0=capture.registers["CR0"],
            cr3=tables.root,
            cr4=capture.registers["CR4"],
            efer=capture.registers["EFER"],
        )
        self.vm: Vm | None = None
        if mmu == "native":
            ram = Ram(self.memory)
            tables.load(ram.write)
            self.cpu = Cpu(ram, tap=tap)
            self.cpu.start(controls)
        else:
            self._in_vm(controls, tap)
        self.cpu.page_fault_handler = _refused
        self.cpu.protection_fault_handler = _refused

    def _in_vm(self, controls: Controls, tap: Tap) -> None:
        mmu = self.mmu
        host = Host(Ram(4 * self.memory), tap)
        user = host.process()
        self.vm = vm = Vm(host, user, tap)
        low = min(self.memory, HOLE.start)
        vm.set_region(0, 0, low, user.mmap(low, 12))
        if self.memory > HOLE.stop:
            high = self.memory - HOLE.stop
            vm.set_region(1, HOLE.stop, high, user.mmap(high, 12))
        self.process.tables.load(vm.write)
        self.cpu = cpu = Cpu(vm.ram, tap=tap)

        def design(vcpu: Vcpu) -> EptMmu | ShadowMmu:
            if mmu == "shadow":
                return ShadowMmu(vm, vcpu.vmcs, cpu, controls, TODAY)
            return EptMmu(vm, vcpu.vmcs, cpu, npt=mmu == "npt")

        Vcpu(cpu, controls, design)

    def access(self, gva: int, kind: Kind = Kind.READ, *, user: bool = False) -> int:
        """Make one access, by the process or by its kernel; returns where in the host it ends.

        Raises `BadAddress` where the guest's own tables refuse it: its #PF handler is not here.
        """
        self.cpu.cpl = _USER if user else 0
        self.cpu.controls.ac = not user  # or SMAP would keep the kernel off the process's pages
        hpa = self.cpu.access(gva, kind)
        if hpa is None:
            raise BadAddress(f"{gva:#x} is a device's, and none is here to answer")
        return hpa

    def cold_walk(self, gva: int, kind: Kind = Kind.READ, *, user: bool = False) -> list[object]:
        """The records of one access with an empty TLB, once all that it needs is in place.

        Raises `BadAddress` as `access` does.
        """
        self.access(gva, kind, user=user)
        self.cpu.flush_tlb()
        records: list[object] = []
        tap, self.cpu.tap = self.cpu.tap, records.append
        try:
            self.access(gva, kind, user=user)
        finally:
            self.cpu.tap = tap
        return records

    def chain(self, gva: int) -> Chain:
        """Follow ``gva`` through all address spaces, without effect."""
        _, found = self.process.tables.walk(gva, self._tables)
        if isinstance(found, Fault):
            return Chain(gva, None, None, None)
        gpa = found.address
        if self.vm is None:
            return Chain(gva, gpa, None, gpa)
        slot, backing = self.vm.slots.find(gpa), self.vm.look(gpa)
        return Chain(
            gva,
            gpa,
            slot.hva_of(gpa) if slot else None,
            backing.host.address if backing else None,
        )


def memory_of(process: Process) -> int:
    """Bytes of memory that the guest had, as far as its own map of it shows.

    What is mapped beyond `MOST`, or in the hole, is taken for a device's.  Raises `BadSize` for
    tables that lie there.
    """
    leaves = process.tables.leaves()
    gpas, sizes = leaves["gpa"], np.uint64(1) << leaves["shift"].astype(np.uint64)
    memory = (gpas < MOST) & ((gpas < HOLE.start) | (gpas >= HOLE.stop))
    ends = np.compress(memory, gpas + sizes)
    top = max(int(ends.max(initial=0)), max(process.tables.pages) + PAGE_SIZE)
    if top > MOST:
        raise BadSize(f"the guest has a page table beyond {size_text(MOST)} of memory")
    return -(-top // _LARGE) * _LARGE


def _refused(fault: PageFault | GeneralProtection) -> None:
    """The guest's handler of exceptions, which is not in the capture."""
    why = f"#PF, error code {fault.error_code:#x}" if isinstance(fault, PageFault) else fault.why
    raise BadAddress(f"the guest's own tables refuse {fault.gva:#x}: {why}")
