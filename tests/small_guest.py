"""A guest of 32 MiB with one page table, under every kind of MMU: for what KVM does to leaves.

Its pages at 0, 0x1000, ... are the frames from 1 MiB on; a window at 1 GiB maps the first 64 KiB,
where the tables are.  The whole memory is mapped once more at 2 GiB, in 2 MiB pages.
"""

from types import MappingProxyType

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import (
    CR0_PE,
    CR0_PG,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    Controls,
    Processor,
)
from kvmlab.hardware.ram import Ram
from kvmlab.host.kernel import Host
from kvmlab.kvm.ept_mmu import EptMmu
from kvmlab.kvm.parameters import Parameters
from kvmlab.kvm.policy import policy_named
from kvmlab.kvm.shadow_mmu import ShadowMmu
from kvmlab.kvm.statistics import Statistics
from kvmlab.kvm.vcpu import Vcpu
from kvmlab.kvm.vm import Vm
from kvmlab.qemu.machine import reserve_huge

DIRECT = MappingProxyType(
    {
        "ept": {"parameters": Parameters()},
        "ept pml=0": {"parameters": Parameters(pml=False)},
        "ept eptad=0": {"parameters": Parameters(eptad=False)},
        "ept eager_page_split=0": {"parameters": Parameters(eager_page_split=False)},
        "ept pml=0 eager_page_split=0": {
            "parameters": Parameters(pml=False, eager_page_split=False)
        },
        "npt": {"npt": True},
        "npt legacy": {"npt": True, "parameters": Parameters(tdp_mmu=False)},
    }
)
SHADOW = ("naive", "update", "bypass", "today")
DESIGNS = (*DIRECT, *SHADOW)
SIZE, PAGES = 32 << 20, 64
ROOT, PDPT, PD, PT, WINDOW_PD, WINDOW_PT, LARGE_PD = (n << 12 for n in range(1, 8))
WINDOW, LARGE, FIRST = 1 << 30, 2 << 30, 0x10_0000
TABLE, PAGE, PS = 0x67, 0x67, 0x80


class Fault(Exception):
    """The guest took a #PF."""


class SmallGuest:
    """The VM, its one virtual CPU, and all that was recorded since `records` was last cleared."""

    def __init__(self, design, *, host_shift=12, processor=None, ram=128 << 20, **options):
        self.records, self.statistics = [], Statistics()
        self.host = Host(Ram(ram), self.tap)
        self.process = self.host.process()
        self.vm = Vm(self.host, self.process, self.tap)
        reserve_huge(self.host, SIZE, host_shift)
        self.hva = self.process.mmap(SIZE, host_shift)
        self.vm.set_region(0, 0, SIZE, self.hva)
        for gpa, word in tables().items():
            self.vm.write(gpa, word.to_bytes(8, "little"))
        boot = Controls(CR0_PE | CR0_PG, 0, ROOT, CR4_PAE, EFER_LME | EFER_LMA)
        self.cpu = Cpu(self.vm.ram, processor or Processor(), tap=self.tap)
        self.cpu.page_fault_handler = self.page_fault

        def mmu(vcpu):
            if design in SHADOW:
                return ShadowMmu(self.vm, vcpu.vmcs, self.cpu, boot, policy_named(design))
            return EptMmu(self.vm, vcpu.vmcs, self.cpu, **DIRECT[design] | options)

        self.vcpu = Vcpu(self.cpu, boot, mmu)
        self.mmu = self.vcpu.mmu

    def tap(self, record):
        self.records.append(record)
        self.statistics(record)

    def of(self, kind):
        return [one for one in self.records if isinstance(one, kind)]

    def log(self, on=True, slot=0):
        one = self.vm.slots.get(slot)
        self.vm.set_region(slot, one.gpa, one.size, one.hva, int(on))

    def counted(self, do):
        """What ``do`` adds to the statistics."""
        before = self.statistics.values()
        do()
        return {k: n - before[k] for k, n in self.statistics.values().items() if n != before[k]}

    @staticmethod
    def page_fault(_fault):
        raise Fault


def tables():
    """The words of the guest's tables."""
    words = {ROOT: PDPT | TABLE, PDPT: PD | TABLE, PD: PT | TABLE}
    words |= {PDPT + 8: WINDOW_PD | TABLE, WINDOW_PD: WINDOW_PT | TABLE}
    words |= {WINDOW_PT + 8 * page: page << 12 | PAGE for page in range(16)}
    words |= {PT + 8 * page: FIRST + (page << 12) | PAGE for page in range(PAGES)}
    words[PDPT + 16] = LARGE_PD | TABLE
    words |= {LARGE_PD + 8 * n: n << 21 | PAGE | PS for n in range(SIZE >> 21)}
    return words
