"""What a picture keeps of a stream of records."""

import pytest

from kvmlab.figures.fold import exits, first_attempt, page_faults
from kvmlab.hardware.records import (
    ExitReason,
    GeneralProtection,
    Kind,
    PageFault,
    Step,
    TlbFill,
    TlbLookup,
    Verdict,
    VmEntry,
    VmExit,
)
from kvmlab.kvm.records import Reflected, SpteSet, WriteTrapped

GVA = 0x7000


def looked_up() -> TlbLookup:
    return TlbLookup(GVA, Kind.READ, user=True, where="miss")


def step(table: str, level: int, verdict: Verdict = Verdict.TABLE) -> Step:
    return Step(table, level, 0, 0x1000, 0x1000, 0x67, verdict)


def test_references_are_numbered_in_the_order_they_happened(nested):
    walk = first_attempt(nested(), top=4)

    assert [one.number for one in walk.references] == list(range(1, 25))
    assert walk.counts == {"ept": 20, "guest": 4}
    assert walk.outcome == "mapped"


def test_every_reference_knows_the_row_that_it_serves(nested):
    walk = first_attempt(nested(), top=4)

    assert [one.row for one in walk.references] == [4] * 5 + [3] * 5 + [2] * 5 + [1] * 5 + [0] * 4
    assert [one.key for one in walk.references[3:6]] == ["ept.G4.L1", "guest.L4", "ept.G3.L4"]
    assert walk.references[-1].key == "ept.data.L1"


def test_behind_a_large_page_of_the_guest_comes_the_row_of_the_data():
    records = [looked_up(), step("guest", 3), step("guest", 2, Verdict.LEAF), step("ept", 4)]

    assert first_attempt(records, top=3).references[-1].key == "ept.data.L4"


def test_what_a_handler_does_after_a_fault_is_no_part_of_the_walk():
    handler = [TlbLookup(0x9000, Kind.WRITE, user=False, where="miss"), step("guest", 4)]
    records = [
        looked_up(),
        step("guest", 4, Verdict.ABSENT),
        PageFault(GVA, 4, Kind.READ, user=True),
        *handler,
        TlbFill(0x9000, 0x1000, 12, 15),
    ]
    walk = first_attempt(records, top=4)

    assert (len(walk.references), walk.fill, walk.outcome) == (1, None, "page_fault")
    assert walk.culprit is walk.references[0]


def test_a_hit_is_a_walk_without_references():
    walk = first_attempt([TlbLookup(GVA, Kind.READ, user=True, where="L1")], top=4)

    assert (walk.references, walk.culprit, walk.outcome) == ([], None, "mapped")
    assert walk.hit


@pytest.mark.parametrize(
    "records, outcome",
    [
        ([VmExit(ExitReason.EPT_VIOLATION, 1, GVA, 0x2000)], "ept_violation"),
        ([GeneralProtection(GVA, "why")], "general_protection"),
        (
            [
                VmExit(ExitReason.EXCEPTION, 4, GVA, 0),
                step("guest", 4),  # the hypervisor looks, the hardware does not
                VmEntry(PageFault(GVA, 4, Kind.READ, user=True)),
            ],
            "page_fault",
        ),
    ],
)
def test_an_attempt_that_does_not_arrive_says_what_it_came_to(records, outcome):
    walk = first_attempt([looked_up(), *records], top=4)

    assert (walk.outcome, walk.references) == (outcome, [])


def test_exits_are_told_apart_by_what_kvm_did():
    out = VmExit(ExitReason.EXCEPTION, 2, GVA, 0)
    back = VmEntry(None)
    records = [
        *(out, Reflected(GVA, 2), back, PageFault(GVA, 2, Kind.WRITE, user=True)),
        *(out, WriteTrapped(0x3000, b"\x01"), back),
        *(out, SpteSet("shadow", 1, 7, 0x4000, 0x67), SpteSet("shadow", 2, 0, 0x5000, 0x67), back),
        *(VmExit(ExitReason.INVLPG, GVA, GVA, 0), back),
    ]

    assert exits(records) == {
        ("exception", "reflected"): 1,
        ("exception", "trapped"): 1,
        ("exception", "filled"): 1,
        ("invlpg", "other"): 1,
    }
    assert page_faults(records) == 1
