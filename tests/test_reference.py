"""The judges are judged: the reference against the shipped vectors, and against QEMU's MMU.

The random runs take 500 cases of each mode; ``KVMLAB_UNICORN_CASES=20000`` takes more, and
``KVMLAB_UNICORN_SEED`` repeats the seed that a run prints.  A difference names its case, which
`tables` makes again from the seed and the number in that name.
"""

import functools
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tests import reference, tables
from tests.reference import number
from tests.reference_entries import ACCESSED
from tests.tables_regular import AccessTest, regular_case

DATA = Path(__file__).parent / "data"
VECTORS = json.loads((DATA / "vectors-mmu.json").read_text(encoding="utf-8"))["vectors"]
ROWS = json.loads((DATA / "walk-refs.json").read_text(encoding="utf-8"))["rows"]

CASES = int(os.environ.get("KVMLAB_UNICORN_CASES", "500"))
SEED = int(os.environ.get("KVMLAB_UNICORN_SEED", random.SystemRandom().randrange(1 << 32)))


def vectors(*groups):
    return [pytest.param(v, id=v["id"]) for v in VECTORS if v["group"] in groups]


# ----- the shipped vectors ------------------------------------------------------------------


def shortfalls(vector) -> list[str]:
    """What a vector states and the reference does not say."""
    controls, memory, access, nested = reference.from_case(vector)
    outcome = reference.translate(controls, memory, access, nested)
    stated = dict(vector["expect"])
    found = []
    for word in stated.pop("mem_after", []):
        if set(word) != {"addr", "value"}:
            raise ValueError(f"unknown fields in {word}")
        size = next((w["size"] for w in vector["mem"] if w["addr"] == word["addr"]), 8)
        value = memory.load(number(word["addr"]), size)
        if value != number(word["value"]):
            found.append(f"{word['addr']} holds {value:#x}, not {word['value']}")
    for name, value in stated.items():
        if name not in EXPECTED:
            raise ValueError(f"unknown field {name} in expect")
        wanted = [number(v) for v in value] if isinstance(value, list) else number(value)
        said = getattr(outcome, name)
        if said != wanted:
            found.append(f"{name} is {said!r}, not {wanted!r}")
    return found


EXPECTED = {"result", "gpa", "hpa", "page_size", "ept_page", "refs", "error_code", "cr2", "when"}
EXPECTED |= {"exit_reason", "qualification", "gla", "pml"}


@pytest.mark.parametrize("vector", vectors("walk", "ept"))
def test_reference_says_all_that_a_vector_states(vector):
    assert shortfalls(vector) == [], vector["why"]


@pytest.mark.parametrize(
    "place", [(), ("ctrl",), ("access",), ("ept",), ("expect",), ("mem", 0)], ids=str
)
def test_unknown_fields_are_refused(place):
    vector = json.loads(json.dumps(next(v for v in VECTORS if v["group"] == "ept")))
    assert shortfalls(vector) == []
    spot = functools.reduce(lambda part, key: part[key], place, vector)
    spot["surprise"] = 1

    with pytest.raises((ValueError, TypeError)):
        shortfalls(vector)


@pytest.mark.parametrize("vector", vectors("refs"))
def test_costs_come_out_of_walks(vector):
    guest, ept, expect = vector["guest"], vector["ept"], vector["expect"]
    assert set(expect) == {"native_refs", "two_dim_refs", "guest_table_refs", "ept_refs"}

    native = walk_regular(guest["mode"], guest["page"])
    nested = walk_regular(guest["mode"], guest["page"], (ept["levels"], ept["page"]))

    assert native.refs == guest["entries_read"] == expect["native_refs"]
    assert nested.refs == expect["two_dim_refs"]
    counts = Counter(step.table for step in nested.trace)
    assert counts["guest"] == expect["guest_table_refs"]
    assert counts["ept"] == expect["ept_refs"]
    assert counts["ept"] == (guest["entries_read"] + 1) * ept["entries_read"]


def walk_regular(mode, page, ept=None, **switches):
    case = regular_case(mode, page, ept)
    outcome = reference.translate(*reference.from_case(case), **switches)
    assert outcome.result == "ok"
    return outcome


MODES = {"32-bit(2)": "32bit", "PAE(3)": "pae", "4-level": "4level", "5-level": "5level"}


HOSTS = {"native": (None,), "nested": ("4-level", "5-level")}


def table_of_costs():
    """The published rows that a walk can show: native, and nested on 4- or 5-level hosts."""
    rows = [row for row in ROWS if row.get("host") in HOSTS.get(row["mode"], ())]
    names = ("mode", "guest", "guest_page", "host", "host_page")
    return [pytest.param(r, id=" ".join(r[name] for name in names if name in r)) for r in rows]


@pytest.mark.parametrize("row", table_of_costs())
def test_table_of_costs_comes_out_of_walks(row):
    name, registers, _ = row["guest"].partition(" PDPTE registers")
    host = (int(row["host"][0]), row["host_page"]) if row["mode"] == "nested" else None
    in_memory = not registers  # of PAE; the other modes have none

    outcome = walk_regular(MODES[name], row["guest_page"], host, pdptes_in_memory=in_memory)

    assert outcome.refs == row["refs"]


# ----- the reference alone ------------------------------------------------------------------


def test_faulting_walk_changes_nothing_unless_asked_to():
    case = regular_case("4level", "4K")
    case["mem"][-1]["value"] = "0x0"  # the PTE
    for word in case["mem"][:-1]:
        word["value"] = hex(number(word["value"]) & ~ACCESSED)

    untouched = reference.translate(*reference.from_case(case))
    touched = reference.translate(*reference.from_case(case), accessed=reference.DESCENDING)

    assert untouched.result == touched.result == "#PF"
    assert untouched.updates == []
    assert [update.level for update in touched.updates] == [4, 3, 2]


def test_full_page_modification_log_stops_the_access_first():
    case = regular_case("4level", "4K", (4, "4K"))
    case["ept"] |= {"eptp": hex(number(case["ept"]["eptp"]) | 0x40), "pml_index": 1}

    outcome = reference.translate(*reference.from_case(case))

    assert (outcome.result, outcome.exit_reason) == ("pml_full", 62)
    assert outcome.pml == [0x1000, 0x2000]
    assert outcome.gpa & ~0xFFF == 0x3000


@pytest.mark.parametrize(
    "level, flip, offer, result",
    [
        (1, 0x7 ^ 0x4, {}, "ept_violation"),  # --X: execute-only, and this is a read
        (1, 0x7 ^ 0x4, {"exec_only": 0}, "ept_misconfig"),
        (1, 0x7 ^ 0x2, {}, "ept_misconfig"),  # -W-
        (1, 0x7 ^ 0x0, {}, "ept_violation"),  # absent
        (1, 0x7 ^ 0x0 | 1 << 51, {}, "ept_violation"),  # absent hides what is reserved
        (1, 1 << 7, {}, "ok"),  # bit 7 of a PTE is ignored
        (1, 1 << 51, {}, "ept_misconfig"),
        (1, 1 << 51, {"maxphyaddr": 52}, "ok"),
        (2, 1 << 3, {}, "ept_misconfig"),
        (2, 1 << 6, {}, "ept_misconfig"),
        (2, 1 << 7 | 6 << 3 | 0x3000, {}, "ok"),  # a 2 MiB page, at 0x80000000
        (2, 1 << 7 | 6 << 3 | 0x3000, {"page_2m": 0}, "ept_misconfig"),
        (3, 1 << 7 | 6 << 3 | 0x2000, {"page_1g": 0}, "ept_misconfig"),
        (4, 1 << 7, {}, "ept_misconfig"),
    ],
)
def test_ept_entries_that_vectors_leave_out(level, flip, offer, result):
    """One entry of the EPT walk to the page, at `level`, with some bits turned round."""
    case = regular_case("nopaging", None, (4, "4K"))
    assert level <= len(case["mem"]) == 4
    word = case["mem"][4 - level]  # the tables lie in consecutive frames
    word["value"] = hex(number(word["value"]) ^ flip)
    case["ept"] |= offer

    assert reference.translate(*reference.from_case(case)).result == result


def test_four_levels_of_ept_do_not_reach_above_48_bits():
    case = regular_case("4level", "4K", (4, "4K"))
    case["mem"][-1]["value"] = hex(1 << 48 | 0x4000_0067)  # the PTE; without bit 48, mapped
    case["ctrl"]["maxphyaddr"] = 52

    outcome = reference.translate(*reference.from_case(case))

    assert (outcome.result, outcome.qualification) == ("ept_violation", 0x181)
    assert outcome.gpa == 1 << 48 | 0x4000_0123


def test_cr3_refuses_bits_above_maxphyaddr():
    case = regular_case("4level", "4K")
    case["ctrl"]["cr3"] = hex(0x1000 | 1 << 46)

    outcome = reference.translate(*reference.from_case(case))

    assert (outcome.result, outcome.error_code, outcome.when) == ("#GP", 0, "mov_cr3")


@pytest.mark.parametrize("mode", tables.LEVELS)
def test_random_ept_tables_reach_every_outcome(mode):
    results = Counter()
    for case in tables.ept_cases(mode, seed=1, count=300):
        results[reference.translate(*reference.from_case(case)).result] += 1

    wanted = {"ok", "ept_violation", "ept_misconfig"}
    wanted |= set() if mode == "nopaging" else {"#PF"}
    wanted |= {"#GP"} if mode in ("pae", "4level", "5level") else set()
    assert set(results) == wanted
    assert results["ok"] > 50


@pytest.mark.parametrize("mode", ["32bit", "pae", "4level", "5level"])
def test_access_test_numbers_each_combination_once(mode):
    combinations = AccessTest(mode)
    rng = random.Random(1)
    numbers = [rng.randrange(len(combinations)) for _ in range(200)]
    cases = [combinations[n] for n in dict.fromkeys(numbers)]

    told_apart = {json.dumps({**case, "id": ""}, sort_keys=True) for case in cases}
    if mode != "32bit":  # there a reserved bit shows in a 4 MiB page only
        assert len(told_apart) == len(cases)
    assert cases == [combinations[int(case["id"].rpartition("-")[2])] for case in cases]
    with pytest.raises(IndexError):
        combinations[len(combinations)]


# ----- against QEMU's MMU -------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle():
    reason = "unicorn cannot be imported (it is in the extra `test`)"
    pytest.importorskip("unicorn", reason=reason, exc_type=ImportError)
    from tests.oracle_unicorn import Oracle

    return Oracle()


def compare(oracle, case):
    """The reference's result, and what Unicorn and the reference say differently.

    These differences are legal and taken out: QEMU reads the PAE PDPTE on each walk, and sets
    accessed bits in its own way (both are switches of the reference); of a nested fault only
    the low half of EXITINFO1 is seen, and QEMU reports I/D in it even if the host has NXE off.
    """
    controls, memory, access, nested = reference.from_case(case)
    before = dict(memory.words)
    outcome = reference.translate(
        controls, memory, access, nested, accessed=reference.QEMU, pdptes_in_memory=True
    )
    code = outcome.error_code
    if outcome.result == "npf":
        fetched = code >> 32 & 1 and access.type == "fetch" and not nested.host.efer_nxe
        code = code & 0xFFFF_FFFF | (0x10 if fetched else 0)
    expected = {
        "pa": (outcome.hpa if nested else outcome.gpa) if outcome.result == "ok" else None,
        "vector": {"ok": None, "#PF": 14, "#GP": 13, "npf": 0x500}[outcome.result],
        "error": code,
        "cr2": outcome.cr2,
        "gpa": outcome.gpa if outcome.result == "npf" else None,
        "refs": [(step.hpa, step.value) for step in outcome.trace],
        "memory": nonzero(memory.words),
    }
    answer = oracle.ask(case)
    said = {name: getattr(answer, name) for name in ("pa", "vector", "error", "cr2", "gpa")}
    said["refs"] = [(pa, value) for op, pa, value in answer.refs if op == "R"]
    said["memory"] = nonzero(before | {pa: new for pa, (_, new) in answer.modified.items()})
    found = {k: (expected[k], said[k]) for k in expected if expected[k] != said[k]}
    return outcome.result, found


def nonzero(words):
    return {address: word for address, word in words.items() if word}


def check(oracle, cases, capsys, title):
    results = Counter()
    for case in cases:
        result, differences = compare(oracle, case)
        assert not differences, f"{case['id']}: (reference, Unicorn) {differences} in {case}"
        results[result] += 1
    with capsys.disabled():
        print(f"\n{title}: seed {SEED}, {results.total()} cases agree, {dict(results)}")


@pytest.mark.parametrize("mode", ["32bit", "pae", "4level", "5level"])
def test_reference_agrees_with_unicorn_on_random_tables(oracle, capsys, mode):
    cases = tables.walk_cases(mode, SEED, CASES, unicorn=True)
    check(oracle, cases, capsys, f"Unicorn, random {mode}")


def test_reference_agrees_with_unicorn_on_random_nested_tables(oracle, capsys):
    check(oracle, tables.npt_cases(SEED, CASES, unicorn=True), capsys, "Unicorn, random NPT")


@pytest.mark.parametrize("mode", ["32bit", "pae", "4level", "5level"])
def test_reference_agrees_with_unicorn_on_combinations_of_bits(oracle, capsys, mode):
    rng, combinations = random.Random(SEED), AccessTest(mode)
    cases = (combinations[rng.randrange(len(combinations))] for _ in range(CASES))
    known = (c for c in cases if "implicit" not in c["access"] and not c["ctrl"].get("cr4_pks"))
    check(oracle, known, capsys, f"Unicorn, combinations in {mode}")


@pytest.mark.parametrize(
    "vector", [p for p in vectors("walk") if "unicorn" in p.values[0]["checked"]]
)
def test_oracle_gives_what_vectors_say_it_gave(oracle, vector):
    answer, expect = oracle.ask(vector), vector["expect"]

    assert answer.pa == number(expect.get("gpa"))
    assert answer.error == number(expect.get("error_code"))
    assert answer.cr2 == number(expect.get("cr2"))


def test_oracle_reads_24_entries_in_order(oracle):
    """Four guest entries, each found by a four-step nested walk, then one for the data."""
    case = regular_case("4level", "4K", (4, "4K"))
    root = hex(number(case.pop("ept")["eptp"]) & ~0xFFF)
    host = {"mode": "4level", "cr3": root, "efer_nxe": 1, "maxphyaddr": 40}
    for word in case["mem"]:  # the EPT entries as nested ones: bit 2 is X there and U here
        word["value"] = hex(number(word["value"]) & ~0x18)
    case = {**case, "group": "npt", "npt": host}

    assert compare(oracle, case) == ("ok", {})
    reads = [pa for op, pa, _ in oracle.ask(case).refs if op == "R"]
    assert len(reads) == 24
    outcome = reference.translate(*reference.from_case(case))
    assert [step.table for step in outcome.trace] == (["npt"] * 4 + ["guest"]) * 4 + ["npt"] * 4


def test_oracle_survives_many_faults_and_mode_changes(oracle):
    """A fault leaves nothing behind that the next access, in any mode, could see."""
    cases = [regular_case(mode, "4K") for mode in ("32bit", "pae", "4level", "5level")]
    for case in cases * 5:
        absent = json.loads(json.dumps(case))
        absent["mem"][-1]["value"] = "0x0"
        assert compare(oracle, absent) == ("#PF", {})
        assert compare(oracle, case) == ("ok", {})
