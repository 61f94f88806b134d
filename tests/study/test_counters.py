"""Counts are a fold over records: made here by hand, so that every number is known."""

from kvmlab.hardware.records import (
    Data,
    ExitReason,
    Kind,
    PageFault,
    Step,
    TlbLookup,
    Verdict,
    VmEntry,
    VmExit,
)
from kvmlab.kvm.records import (
    Reflected,
    ShadowPageMade,
    ShadowPageZapped,
    SpteSet,
    WriteTrapped,
)
from kvmlab.study.counters import Counters, Tally


def lookup(where="miss", user=True):
    return TlbLookup(0x1000, Kind.READ, user, where)


def step(table):
    return Step(table, 1, 0, 0, 0, 0, Verdict.LEAF)


def served(*what, reason=ExitReason.EXCEPTION):
    """The records of one exit, and of what the hypervisor did about it."""
    return [VmExit(reason, 0, 0, 0), *what, VmEntry(None)]


def count(*records):
    counters = Counters()
    for record in records:
        counters(record)
    return counters


def test_hits_and_misses_are_counted_by_where_they_were_found():
    counters = count(lookup("L1"), lookup("L1"), lookup("L2"), lookup())
    assert counters.program.lookups == {"L1": 2, "L2": 1, "miss": 1}


def test_references_are_counted_by_whose_table_was_read():
    counters = count(lookup(), step("ept"), step("ept"), step("guest"))
    assert counters.program.references == {"guest": 1, "ept": 2, "shadow": 0}
    assert counters.program.all_references == 3


def test_what_follows_a_lookup_belongs_to_who_asked():
    fault = PageFault(0x1000, 4, Kind.READ, user=True)
    counters = count(
        *(lookup(user=True), step("guest"), fault),
        *(lookup(user=False), step("guest"), *served(SpteSet("ept", 1, 0, 0, 0))),
        lookup("L1", user=True),
    )
    assert counters.program.references["guest"] == counters.kernel.references["guest"] == 1
    assert (counters.program.page_faults, counters.kernel.page_faults) == (1, 0)
    assert (counters.program.all_exits, counters.kernel.all_exits) == (0, 1)


def test_an_exit_is_counted_by_its_reason_and_by_what_was_done_about_it():
    filled, made = SpteSet("shadow", 1, 0, 0, 0), ShadowPageMade(0, 1, direct=False)
    counters = count(
        lookup(),
        *served(Reflected(0x1000, 4)),
        *served(WriteTrapped(0x2000, b"")),
        *served(made, filled, filled),
        *served(reason=ExitReason.CR_ACCESS),
    )
    total = counters.total
    assert total.by_reason == {"CR_ACCESS": 1, "EXCEPTION": 3}
    assert total.by_deed == {"reflected": 1, "trapped": 1, "filled": 1, "other": 1}
    assert total.all_exits == 4


def test_the_peak_of_shadow_pages_outlives_them():
    made, zapped = ShadowPageMade(0, 1, direct=False), ShadowPageZapped(0, 1, "flooded")
    counters = count(made, made, made, zapped, zapped, made)
    assert (counters.shadow_pages, counters.shadow_pages_peak) == (2, 3)


def test_records_that_nobody_counts_change_nothing():
    assert count(Data(0, 0, Kind.READ, 8), object()).total == Tally()


def test_clearing_starts_from_zero():
    counters = count(lookup(), step("guest"), ShadowPageMade(0, 1, direct=False))
    counters.clear()
    assert counters.total == Tally()
    assert counters.shadow_pages_peak == 0


def test_an_exit_that_is_served_by_exits_of_l1_is_on_the_account_of_who_caused_it():
    counters = Counters()
    for record in (
        TlbLookup(0, Kind.READ, True, "miss"),
        VmExit(ExitReason.EPT_VIOLATION, 0, 0, 0),
        TlbLookup(0, Kind.READ, False, "miss"),  # L1's kernel, which exits too
        VmExit(ExitReason.VMRESUME, 0, 0, 0),
        VmEntry(None),
        VmEntry(None),
    ):
        counters(record)
    assert counters.program.by_reason == {"EPT_VIOLATION": 1}
    assert counters.kernel.by_reason == {"VMRESUME": 1}
