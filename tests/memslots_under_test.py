"""Memslots put to the test in the words of the test vectors, with a guest that touches them.

The guest runs at CPL 0 in 4-level long mode, each 1 GiB of its first 4 GiB mapped to itself; its
tables are in the first pages of slot 0.
"""

from kvmlab.base.errors import KvmlabError, MachineCheck
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, Controls
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import Kind
from kvmlab.host.kernel import Host
from kvmlab.kvm.ept_mmu import EptMmu
from kvmlab.kvm.memslots import errno
from kvmlab.kvm.policy import TODAY
from kvmlab.kvm.records import MmioExit, Reflected
from kvmlab.kvm.shadow_mmu import ShadowMmu
from kvmlab.kvm.vcpu import Vcpu
from kvmlab.kvm.vm import Vm
from tests.reference import number

ROOT, PDPT = 0x1000, 0x2000
AREA = 64 << 20  # of the VMM's address space, at the HVA of slot 0


class _FaultedError(Exception):
    """The guest took a #PF."""


class MemslotsUnderTest:
    """A VM with the slots of a vector; `run` does its operations and tells the last one."""

    def __init__(self, slots, mmu="shadow"):
        self.records = []
        host = Host(Ram(256 << 20), self.records.append)
        process = host.process()
        first = number(slots[0]["hva"])
        process.mmap(AREA, at=first)
        self.vm, self.mmu, self.cpu = Vm(host, process, self.records.append), mmu, None
        for slot in slots:
            assert self.set_region(**slot) == {"errno": None}

    def run(self, operations):
        for one in operations:
            fields = dict(one)
            operation = fields.pop("op")
            told = getattr(self, operation)(**fields)
        return told

    def set_region(self, slot, gpa, size, hva, flags):
        try:
            self.vm.set_region(slot, number(gpa), number(size), number(hva), flags)
        except KvmlabError as error:
            return {"errno": errno(error)}
        return {"errno": None}

    def translate(self, gpa):
        slot = self.vm.slots.find(number(gpa))
        return {"slot": slot and slot.slot, "hva": slot and slot.hva_of(number(gpa))}

    # -- the guest ------------------------------------------------------------------------

    def guest_read(self, gpa):
        return self.touch(lambda cpu: cpu.load(number(gpa)))

    def guest_write(self, gpa, value="0x0"):
        return self.touch(lambda cpu: cpu.store(number(gpa), number(value)))

    def guest_fetch(self, gpa):
        return self.touch(lambda cpu: cpu.access(number(gpa), Kind.FETCH))

    def guest_read_via_table(self, table_gpa):
        self.vm.write(ROOT + 8, (number(table_gpa) | 7).to_bytes(8, "little"))
        return self.touch(lambda cpu: cpu.load(1 << 39))

    def touch(self, access):
        """One access, and the exit to user space or the #PF that came of it."""
        self.power_on()
        self.records.clear()
        told = {"exit": None, "exit_reason": None, "is_write": None, "suberror": None}
        told |= {"guest_fault": None}
        try:
            access(self.cpu)
        except _FaultedError:
            told["guest_fault"] = "#PF"
        except MachineCheck as stop:
            if "KVM_EXIT_INTERNAL_ERROR (17), suberror 1" not in str(stop):
                raise
            told |= {"exit": "KVM_EXIT_INTERNAL_ERROR", "exit_reason": 17, "suberror": 1}
        for one in self.records:
            if isinstance(one, MmioExit):
                told |= {"exit": "KVM_EXIT_MMIO", "exit_reason": 6, "is_write": int(one.is_write)}
        reflected = sum(isinstance(one, Reflected) for one in self.records)
        return told | {"pf_guest": reflected}

    def power_on(self):
        if self.cpu:
            return
        for gpa, word in ((ROOT, PDPT | 0x67), *((PDPT + 8 * n, n << 30 | 0xE7) for n in range(4))):
            self.vm.write(gpa, word.to_bytes(8, "little"))
        self.cpu = Cpu(self.vm.ram, tap=self.records.append)
        self.cpu.page_fault_handler = self.page_fault
        boot = Controls(CR0_PE | CR0_PG, 0, ROOT, CR4_PAE, EFER_LME | EFER_LMA)

        def mmu(vcpu):
            if self.mmu == "ept":
                return EptMmu(self.vm, vcpu.vmcs, self.cpu)
            return ShadowMmu(self.vm, vcpu.vmcs, self.cpu, boot, TODAY)

        Vcpu(self.cpu, boot, mmu)

    @staticmethod
    def page_fault(_fault):
        raise _FaultedError
