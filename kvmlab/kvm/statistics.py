"""KVM's statistics under KVM's own names, as a fold over the records of a virtual machine.

Linux, arch/x86/kvm/x86.c: kvm_vm_stats_desc, kvm_vcpu_stats_desc; read through KVM_GET_STATS_FD.
Nothing in the engine counts: `Statistics` is a tap.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from kvmlab.hardware.formats import PS
from kvmlab.hardware.permissions import PF_RESERVED
from kvmlab.hardware.records import ExitReason, OnCpu, VmExit
from kvmlab.kvm.records import (
    Emulated,
    EntryWritten,
    FastFault,
    FaultHandled,
    MmioExit,
    MmioKnown,
    MmioSpteSet,
    NxRecovered,
    NxSplit,
    Reflected,
    RemoteFlush,
    ShadowPageMade,
    ShadowPageZapped,
    SpteSet,
    TlbFlushed,
    Unsync,
    UnsyncEnded,
    WriteTrapped,
    Zap,
)


@dataclass(frozen=True, slots=True)
class Statistic:
    """One of KVM's counters."""

    name: str
    scope: str  # "vCPU" or "VM"
    meaning: str
    kind: str = "cumulative"  # only grows; "gauge": how many now; "peak": the most there were

    @property
    def gauge(self) -> bool:
        """Whether it can fall."""
        return self.kind == "gauge"


STATISTICS = (
    Statistic("exits", "vCPU", "exits of the guest to KVM"),
    Statistic("pf_taken", "vCPU", "faults that reached the MMU: #PF exits, EPT violations"),
    Statistic("pf_fixed", "vCPU", "faults that were served by setting an entry"),
    Statistic("pf_emulate", "vCPU", "faults after which the instruction was emulated"),
    Statistic("pf_spurious", "vCPU", "faults on an entry that was right already"),
    Statistic("pf_fast", "vCPU", "faults served without the MMU's lock: an entry got W back, say"),
    Statistic("pf_mmio_spte_created", "vCPU", "entries made to remember that nobody answers"),
    Statistic("pf_guest", "vCPU", "page faults that KVM handed to the guest"),
    Statistic("tlb_flush", "vCPU", "flushes of the virtual CPU's TLB by KVM"),
    Statistic("invlpg", "vCPU", "INVLPG and single-address INVPCID done for the guest"),
    Statistic("mmio_exits", "vCPU", "accesses outside every slot, handed to user space"),
    Statistic("io_exits", "vCPU", "IN and OUT, by user space or as a doorbell"),
    Statistic("halt_exits", "vCPU", "HLT: the guest waits for an interrupt"),
    Statistic("insn_emulation", "vCPU", "instructions that KVM emulated"),
    Statistic("remote_tlb_flush_requests", "VM", "flushes asked of all virtual CPUs"),
    Statistic("remote_tlb_flush", "VM", "of these, such as had to kick one out of the guest"),
    Statistic("mmu_shadow_zapped", "VM", "shadow pages thrown away"),
    Statistic("mmu_pte_write", "VM", "emulated stores to shadowed tables"),
    Statistic("mmu_pde_zapped", "VM", "entries of upper tables dropped by such stores, zero apart"),
    Statistic("mmu_flooded", "VM", "shadow pages thrown away for too many or misaligned stores"),
    Statistic("mmu_recycled", "VM", "shadow pages thrown away for the budget"),
    Statistic("mmu_cache_miss", "VM", "shadow pages that were not found, so made"),
    Statistic("mmu_unsync", "VM", "shadow pages that may lag behind their table", "gauge"),
    Statistic("pages_4k", "VM", "leaf entries that map 4 KiB", "gauge"),
    Statistic("pages_2m", "VM", "leaf entries that map 2 MiB", "gauge"),
    Statistic("pages_1g", "VM", "leaf entries that map 1 GiB", "gauge"),
    Statistic("nx_lpage_splits", "VM", "tables kept since large pages are not executable", "gauge"),
    Statistic(
        "max_mmu_rmap_size",
        "VM",
        "the most entries a frame had when one more came",
        "peak",
    ),
)

_MMU_EXITS = (ExitReason.EXCEPTION, ExitReason.EPT_VIOLATION, ExitReason.NPF)
_BY_CODE = (ExitReason.EXCEPTION, ExitReason.NPF)  # their qualification is a #PF error code
_COUNTED = MappingProxyType({ExitReason.IO: "io_exits", ExitReason.HLT: "halt_exits"})
_INVPCID_ADDRESS = 0
_SIZES = ("pages_4k", "pages_2m", "pages_1g")
_FLOODED = ("flooded", "misaligned")


class Statistics:
    """A tap that keeps all `STATISTICS` of a VM and of each of its virtual CPUs.

    Without ``decode_assists`` KVM must decode INVLPG and MOV CR3 itself, as on an AMD processor
    that lacks them: each counts as an emulated instruction.
    """

    def __init__(self, *, decode_assists: bool = True) -> None:
        self._assists = decode_assists
        self._counts: Counter[str] = Counter()
        self._of_vcpus: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._vcpu = self._of_vcpus[0]  # the one that the records are about
        self._leaves: set[int] = set()  # where present leaf entries are
        self._undecided = False  # a fault for a reserved bit is one of the MMU unless it is MMIO
        self._mappings: Counter[tuple[int, int]] = Counter()  # shadow leaves of (gfn, level)
        self._on: dict[type, Callable[[Any], None]] = {
            OnCpu: self._on_cpu,
            VmExit: self._exit,
            RemoteFlush: self._remote_flush,
            FaultHandled: self._fault_handled,
            Reflected: self._reflected,
            MmioKnown: self._mmio_known,
            TlbFlushed: lambda _one: self._add("tlb_flush"),
            MmioExit: lambda _one: self._add("mmio_exits"),
            Emulated: lambda _one: self._add("insn_emulation"),
            FastFault: lambda _one: self._add("pf_fast"),
            MmioSpteSet: lambda _one: self._add("pf_mmio_spte_created"),
            NxSplit: lambda _one: self._add("nx_lpage_splits"),
            NxRecovered: lambda _one: self._counts.subtract(["nx_lpage_splits"]),
            WriteTrapped: lambda _one: self._add("mmu_pte_write", "insn_emulation"),
            EntryWritten: self._entry_written,
            ShadowPageMade: lambda _one: self._add("mmu_cache_miss"),
            ShadowPageZapped: self._shadow_page_zapped,
            Unsync: lambda _one: self._add("mmu_unsync"),
            UnsyncEnded: lambda _one: self._counts.subtract(["mmu_unsync"]),
            SpteSet: self._spte_set,
            Zap: self._zap,
        }

    def __call__(self, record: object) -> None:
        """Take up one record."""
        count = self._on.get(type(record))
        if count is not None:
            count(record)

    def values(self) -> dict[str, int]:
        """Every statistic now, by its name, in the order of `STATISTICS`.

        Those of virtual CPUs are of all together.
        """
        return {one.name: self._counts[one.name] for one in STATISTICS}

    def of_vcpu(self, number: int) -> dict[str, int]:
        """The statistics of one virtual CPU now."""
        counts = self._of_vcpus.get(number, Counter())
        return {one.name: counts[one.name] for one in STATISTICS if one.scope == "vCPU"}

    def _on_cpu(self, record: OnCpu) -> None:
        self._vcpu = self._of_vcpus[record.cpu]

    def _add(self, *names: str) -> None:
        self._counts.update(names)
        self._vcpu.update(names)

    def _remote_flush(self, record: RemoteFlush) -> None:
        self._add("remote_tlb_flush_requests")
        if record.kicked:
            self._add("remote_tlb_flush")

    def _exit(self, record: VmExit) -> None:
        self._add("exits")
        reserved = record.reason in _BY_CODE and bool(record.qualification & PF_RESERVED)
        self._undecided = reserved or record.reason is ExitReason.EPT_MISCONFIG
        if record.reason in _MMU_EXITS and not self._undecided:
            self._add("pf_taken")
        elif name := _COUNTED.get(record.reason):
            self._add(name)
        by_address = record.qualification == _INVPCID_ADDRESS
        if record.reason is ExitReason.INVLPG or (
            record.reason is ExitReason.INVPCID and by_address
        ):
            self._add("invlpg")
        if not self._assists and record.reason in (ExitReason.INVLPG, ExitReason.CR_ACCESS):
            self._add("insn_emulation")

    def _fault_handled(self, record: FaultHandled) -> None:
        self._decide()
        self._add(f"pf_{record.outcome}")

    def _reflected(self, _record: Reflected) -> None:
        self._decide()
        self._add("pf_guest")

    def _mmio_known(self, _record: MmioKnown) -> None:
        self._undecided = False

    def _decide(self) -> None:
        if self._undecided:
            self._undecided = False
            self._add("pf_taken")

    def _entry_written(self, record: EntryWritten) -> None:
        if record.level > 1 and record.entry:
            self._add("mmu_pde_zapped")

    def _shadow_page_zapped(self, record: ShadowPageZapped) -> None:
        self._add("mmu_shadow_zapped")
        if record.why in _FLOODED:
            self._add("mmu_flooded")
        elif record.why == "recycled":
            self._add("mmu_recycled")

    def _spte_set(self, record: SpteSet) -> None:
        leaf = record.level == 1 or record.spte & PS
        if leaf and record.hpa not in self._leaves:
            self._leaves.add(record.hpa)
            self._add(_SIZES[record.level - 1])
            if record.table == "shadow":
                self._mapped_again((record.gfn, record.level))

    def _mapped_again(self, page: tuple[int, int]) -> None:
        """The rmap of a page got one more entry: how many there were is told (pte_list_add)."""
        most = max(self._counts["max_mmu_rmap_size"], self._mappings[page])
        self._counts["max_mmu_rmap_size"] = most
        self._mappings[page] += 1

    def _zap(self, record: Zap) -> None:
        if record.hpa in self._leaves:
            self._leaves.remove(record.hpa)
            self._counts.subtract([_SIZES[record.level - 1]])
            self._mappings.subtract([(record.gfn, record.level)])
