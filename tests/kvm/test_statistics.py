"""KVM's statistics are folds over records, with KVM's names and meanings."""

import pytest

from kvmlab.hardware.records import ExitReason, VmExit
from kvmlab.kvm.records import (
    Emulated,
    EntryWritten,
    FaultHandled,
    MmioExit,
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
from kvmlab.kvm.statistics import STATISTICS, Statistics

PS = 1 << 7
CASES = [
    (VmExit(ExitReason.EXCEPTION, 0, 0, 0), {"exits": 1, "pf_taken": 1}),
    (VmExit(ExitReason.EPT_VIOLATION, 0, 0, 0), {"exits": 1, "pf_taken": 1}),
    (VmExit(ExitReason.CR_ACCESS, 3, 0, 0), {"exits": 1}),
    (VmExit(ExitReason.INVLPG, 0x1000, 0x1000, 0), {"exits": 1, "invlpg": 1}),
    (VmExit(ExitReason.INVPCID, 0, 0x1000, 0), {"exits": 1, "invlpg": 1}),
    (VmExit(ExitReason.INVPCID, 2, 0, 0), {"exits": 1}),
    (FaultHandled("fixed"), {"pf_fixed": 1}),
    (FaultHandled("emulate"), {"pf_emulate": 1}),
    (FaultHandled("spurious"), {"pf_spurious": 1}),
    (Reflected(0, 4), {"pf_guest": 1}),
    (TlbFlushed("INVLPG"), {"tlb_flush": 1}),
    (RemoteFlush("zap", kicked=0), {"remote_tlb_flush_requests": 1}),
    (RemoteFlush("zap", kicked=3), {"remote_tlb_flush_requests": 1, "remote_tlb_flush": 1}),
    (MmioExit(0, is_write=True, data=b""), {"mmio_exits": 1}),
    (Emulated(0, "MMIO"), {"insn_emulation": 1}),
    (WriteTrapped(0, b""), {"mmu_pte_write": 1, "insn_emulation": 1}),
    (EntryWritten(0, 2, 0x67), {"mmu_pde_zapped": 1}),
    (EntryWritten(0, 2, 0), {}),
    (EntryWritten(0, 1, 0x67), {}),
    (ShadowPageMade(0, 1, direct=False), {"mmu_cache_miss": 1}),
    (ShadowPageZapped(0, 1, "flooded"), {"mmu_shadow_zapped": 1, "mmu_flooded": 1}),
    (ShadowPageZapped(0, 1, "misaligned"), {"mmu_shadow_zapped": 1, "mmu_flooded": 1}),
    (ShadowPageZapped(0, 1, "recycled"), {"mmu_shadow_zapped": 1, "mmu_recycled": 1}),
    (ShadowPageZapped(0, 1, "unsync"), {"mmu_shadow_zapped": 1}),
    (Unsync(0), {"mmu_unsync": 1}),
    (UnsyncEnded(0, "synced"), {"mmu_unsync": -1}),
    (SpteSet("shadow", 1, 0, 0x1000, 1), {"pages_4k": 1}),
    (SpteSet("ept", 2, 0, 0x1000, 1 | PS), {"pages_2m": 1}),
    (SpteSet("ept", 3, 0, 0x1000, 1 | PS), {"pages_1g": 1}),
    (SpteSet("shadow", 2, 0, 0x1000, 1), {}),
]


def changed(statistics):
    return {name: value for name, value in statistics.values().items() if value}


@pytest.mark.parametrize("record, counts", CASES, ids=lambda one: type(one).__name__)
def test_each_record_counts_as_kvm_counts_it(record, counts):
    statistics = Statistics()
    statistics(record)
    assert changed(statistics) == counts


def test_gauges_follow_what_is_there_now():
    statistics = Statistics()
    for flags in (1, 3):  # the second changes the rights of an entry that is there
        statistics(SpteSet("shadow", 1, 7, 0x1000, flags))
    assert changed(statistics) == {"pages_4k": 1}
    statistics(Zap("shadow", 1, 7, 0x1000, 3))
    assert changed(statistics) == {}


def test_gauges_are_those_that_can_fall():
    assert {one.name for one in STATISTICS if one.gauge} == {
        *("mmu_unsync", "pages_4k", "pages_2m", "pages_1g", "nx_lpage_splits")
    }


@pytest.mark.parametrize("reason", [ExitReason.INVLPG, ExitReason.CR_ACCESS])
def test_without_decode_assists_kvm_emulates_privileged_instructions(reason):
    for assists in (True, False):
        statistics = Statistics(decode_assists=assists)
        statistics(VmExit(reason, 0, 0, 0))
        assert statistics.values()["insn_emulation"] == int(not assists)
