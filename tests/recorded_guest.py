"""The guest whose counters were recorded from Linux KVM, on the engine: same tables, same script.

    counters = replay(workload, harness, configuration)

The guest is an interpreter at CPL 0 in 4-level long mode.  Its code, stack, IDT, GDT, log and
script are pages too, mapped by PML4[255] of every root, and count like any others.  For each
record of 24 bytes it fetches from its code page, reads three words and does what they say; a #PF
reads the IDT and the GDT, pushes to the stack, writes the log and goes on with the next record.
"""

from collections import defaultdict
from dataclasses import dataclass
from types import MappingProxyType

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.instructions import invlpg, mov_cr3
from kvmlab.hardware.processor import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Controls,
)
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import Kind
from kvmlab.host.kernel import Host
from kvmlab.kvm.ept_mmu import EptMmu
from kvmlab.kvm.parameters import Parameters
from kvmlab.kvm.policy import TODAY
from kvmlab.kvm.shadow_mmu import ShadowMmu
from kvmlab.kvm.statistics import Statistics
from kvmlab.kvm.vcpu import Vcpu
from kvmlab.kvm.vm import Vm

OPERATIONS = ("report", "read", "write", "write_pte", "mov_cr3", "invlpg", "fetch")
PDPT, PD, PT = 0xF0000, 0xF1000, 0xF2000
LOW_MEMORY = 1 << 20  # what the harness maps, and what is resident from the start
FRAME, PS = 0x000F_FFFF_FFFF_F000, 1 << 7


@dataclass(frozen=True)
class Configuration:
    """One way in which KVM was loaded."""

    mmu: str  # "shadow" or "direct"
    npt: bool = False
    legacy: bool = False
    decode_assists: bool = True


CONFIGURATIONS = MappingProxyType(
    {
        "kvm_intel ept=0 (shadow), Linux 6.1": Configuration("shadow"),
        "kvm_intel ept=1 (TDP MMU), Linux 6.1": Configuration("direct"),
        "kvm_amd npt=0 (shadow), Linux 6.1": Configuration("shadow", decode_assists=False),
        "kvm_amd npt=1 (TDP MMU), Linux 6.1": Configuration("direct", npt=True),
        "kvm_amd npt=1 tdp_mmu=0 (legacy MMU), Linux 6.1": Configuration(
            "direct", npt=True, legacy=True
        ),
    }
)


class _NextRecordError(Exception):
    """The #PF handler of the guest skips the record that faulted."""


def replay(workload, harness, configuration):
    """What the script of ``workload`` adds to each of KVM's statistics, and its #PFs."""
    guest = RecordedGuest(workload, harness, configuration)
    guest.run()
    before, after = guest.reports
    return {name: after[name] - before[name] for name in after}, guest.page_faults


class RecordedGuest:
    """A VM with the tables of one recorded workload in its memory, ready to run."""

    def __init__(self, workload, harness, configuration):
        places = ("code", "stack", "gdt", "idt", "log", "script")
        self.place = {name: int(harness[name], 16) for name in places}
        self.base, size = int(harness["base_gva"], 16), int(harness["memory"], 16)
        self.record_bytes, self.slot = harness["record_bytes"], 8 * harness["pml4_index"]
        self.statistics = Statistics(decode_assists=configuration.decode_assists)
        self.reports, self.page_faults = [], 0
        report = ["report", "0", "0"]
        self.records = [*workload["warm"], report, *workload["script"], report]
        host = Host(Ram(4 * size), self.statistics)
        process = host.process()
        self.vm = Vm(host, process, self.statistics)
        large = {"4K": False, "2M": True}[workload["host_page"]]
        host.hugetlb[21].set_nr(size >> 21 if large else 0)
        self.vm.set_region(0, 0, size, process.mmap(size, 21 if large else 12))
        self.load(workload, range(0, size if large else LOW_MEMORY, (1 << 21) if large else 4096))
        self.power_on(int(workload["root"], 16), configuration)

    def power_on(self, root, configuration):
        self.cpu = Cpu(self.vm.ram, tap=self.statistics)
        self.cpu.page_fault_handler = self.page_fault
        boot = Controls(
            cr0=CR0_PE | CR0_PG | CR0_WP,
            cr3=root,
            cr4=CR4_PAE,
            efer=EFER_LME | EFER_LMA | EFER_NXE,
        )

        def mmu(vcpu):
            if configuration.mmu == "shadow":
                return ShadowMmu(self.vm, vcpu.vmcs, self.cpu, boot, TODAY)
            parameters = Parameters(tdp_mmu=not configuration.legacy)
            npt = configuration.npt
            return EptMmu(self.vm, vcpu.vmcs, self.cpu, npt=npt, parameters=parameters)

        Vcpu(self.cpu, boot, mmu)

    # -- memory before the start ----------------------------------------------------------

    def load(self, workload, resident):
        """Put tables and script into guest memory; what else is resident is touched."""
        for gpa in resident:
            self.vm.back(gpa)
        words = {int(gpa, 16): int(word, 16) for gpa, word in workload["tables"]}
        roots = {int(workload["root"], 16)}
        roots |= {int(a, 16) for op, a, _ in self.records if op == "mov_cr3"}
        words |= {root + self.slot: PDPT | 7 for root in roots}
        words |= {PDPT: PD | 7, PD: PT | 3}
        words |= {PT + 8 * page: page << 12 | 0x63 for page in range(LOW_MEMORY >> 12)}
        for number, record in enumerate(self.records):
            at = self.place["script"] + number * self.record_bytes
            operation, address, value = record
            numbers = (OPERATIONS.index(operation), int(address, 16), int(value, 16))
            words |= {at + 8 * n: word for n, word in enumerate(numbers)}
        pages = defaultdict(lambda: bytearray(4096))
        for gpa, word in words.items():
            pages[gpa & ~4095][gpa & 4095 : (gpa & 4095) + 8] = word.to_bytes(8, "little")
        for gpa, data in pages.items():
            self.vm.write(gpa, bytes(data))
        for root in roots:
            self.touch_tables(root, 4)

    def touch_tables(self, table, level):
        """Every table is resident, those that hold nothing too."""
        hpa = self.vm.back(table).host.address
        for index in range(512 if level > 1 else 0):
            entry = self.vm.ram.load(hpa + 8 * index)
            if entry & 1 and not entry & PS and entry & FRAME >= LOW_MEMORY:
                self.touch_tables(entry & FRAME, level - 1)

    # -- the interpreter ------------------------------------------------------------------

    def run(self):
        for number in range(len(self.records)):
            self.fetch_code()
            at = self.base + self.place["script"] + number * self.record_bytes
            operation, address, value = (self.cpu.load(at + 8 * n) for n in range(3))
            # Bochs walks again for every access, so a stale translation never lives on.
            self.cpu.forget(address, "cold")
            try:
                self.do(OPERATIONS[operation], address, value)
            except _NextRecordError:
                self.page_faults += 1

    def fetch_code(self):
        self.cpu.access(self.base + self.place["code"], Kind.FETCH)

    def do(self, operation, address, value):
        if operation == "report":
            self.reports.append(self.statistics.values())
        elif operation == "read":
            self.cpu.load(address, 1)
        elif operation == "write":
            self.cpu.store(address, value & 0xFF, 1)
        elif operation == "write_pte":
            self.cpu.store(address, value, 8)
        elif operation == "fetch":
            self.cpu.access(address, Kind.FETCH)
        else:
            self.privileged({"mov_cr3": mov_cr3, "invlpg": invlpg}[operation], address)

    def privileged(self, instruction, operand):
        stack = self.base + self.place["stack"] + 0xF00
        self.cpu.store(stack, operand)
        instruction(self.cpu, operand)
        self.fetch_code()  # the first access under a new root
        self.cpu.load(stack)

    def page_fault(self, fault):
        for number in range(2):
            self.cpu.load(self.base + self.place["idt"] + 16 * 14 + 8 * number)
        self.cpu.load(self.base + self.place["gdt"] + 8)
        for number in range(6):  # SS, RSP, RFLAGS, CS, RIP, error code
            self.cpu.store(self.base + self.place["stack"] + 0xE00 - 8 * number, 0)
        log = self.base + self.place["log"] + 16 * self.page_faults
        self.cpu.store(log, fault.gva)
        self.cpu.store(log + 8, fault.error_code)
        raise _NextRecordError
