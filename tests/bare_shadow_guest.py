"""A bare guest under shadow paging, in any paging mode: words in its memory, and a CPU."""

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import (
    CR0_PE,
    CR0_PG,
    CR4_PSE,
    Controls,
)
from kvmlab.hardware.ram import Ram
from kvmlab.host.kernel import Host
from kvmlab.kvm.policy import POLICIES
from kvmlab.kvm.records import ShadowPageMade
from kvmlab.kvm.shadow_mmu import ShadowMmu
from kvmlab.kvm.vcpu import Vcpu
from kvmlab.kvm.vm import Vm
from kvmlab.qemu.machine import reserve_huge

ALL = tuple(one.name for one in POLICIES)
ON = CR0_PE | CR0_PG
P, RW, US, AD, PS = 1, 2, 4, 0x60, 0x80
TABLE, USER_PAGE = P | RW | US | AD, P | RW | US | AD
PD, PT, DATA, OTHER = 0x2000, 0x3000, 0x40_0000, 0x60_0000
MEMORY = 16 << 20


class Guest:
    """A bare guest under shadow paging: words in its memory, and a CPU."""

    def __init__(self, boot, words=(), policy="today", host_shift=12, cpu=None):
        self.records, self.faults = [], []
        host = Host(Ram(128 << 20), self.records.append) if cpu is None else cpu.host
        process = host.process()
        self.vm = Vm(host, process, self.records.append)
        reserve_huge(host, MEMORY, host_shift)
        self.vm.set_region(0, 0, MEMORY, process.mmap(MEMORY, host_shift))
        self.put(dict(words))
        for gpa in (DATA, OTHER):
            self.vm.write(gpa, gpa.to_bytes(8, "little"))
        self.cpu = Cpu(self.vm.ram, tap=self.records.append) if cpu is None else cpu
        self.cpu.host = host
        self.cpu.page_fault_handler = self.page_fault
        self.cpu.protection_fault_handler = self.faults.append
        policy = next(one for one in POLICIES if one.name == policy)
        self.vcpu = Vcpu(
            self.cpu, boot, lambda v: ShadowMmu(self.vm, v.vmcs, self.cpu, boot, policy)
        )
        self.pages = self.vcpu.mmu.pages

    def put(self, words, size=None):
        for gpa, word in words.items():
            self.vm.write(gpa, word.to_bytes(size or (4 if self.narrow(gpa) else 8), "little"))

    @staticmethod
    def narrow(_gpa):
        return False

    def page_fault(self, fault):
        self.faults.append(fault)
        raise StopIteration

    def reads(self, gva, size=8, cpl=3):
        """What a load gives, or the error code of its #PF."""
        self.cpu.cpl = cpl
        try:
            return self.cpu.load(gva, size)
        except StopIteration:
            return self.faults[-1]
        finally:
            self.cpu.cpl = 0

    def made(self):
        return [one for one in self.records if isinstance(one, ShadowPageMade)]

    def shadowing(self, gfn):
        return sorted((one.role.level, one.role.quadrant) for one in self.pages.shadowing(gfn))


class NarrowGuest(Guest):
    """Its tables have entries of 4 bytes."""

    @staticmethod
    def narrow(_gpa):
        return True


def paging_off(cr4=0):
    return Controls(cr0=CR0_PE, cr4=cr4)


def narrow(**options):
    """32-bit paging: PDEs 0 and 3 with a table, and PDE 5 a page of 4 MiB at 4 MiB."""
    pde = PT | TABLE
    words = {PD: pde, PD + 4 * 3: pde, PD + 4 * 5: DATA | USER_PAGE | PS}
    words |= {PT: DATA | USER_PAGE, PT + 4 * 513: OTHER | USER_PAGE}
    boot = Controls(cr0=ON, cr3=PD, cr4=CR4_PSE)
    return NarrowGuest(boot, words, **options)
