"""The engine against QEMU's MMU, through Unicorn: address, fault, CR2, each entry read, memory.

Each mode takes 500 random cases; ``KVMLAB_UNICORN_CASES`` takes another number, ``--all`` 20,000,
and ``KVMLAB_UNICORN_SEED`` repeats the seed that a run prints.  A difference names its case,
which `tests.tables` makes again from the seed and the number in that name.

Each case is run by the engine twice: with accessed bits set while descending, as QEMU does, where
everything is compared on every walk; and with the default, where a walk that faults changes
nothing and memory is compared on walks that succeed.

The liberties that QEMU 5.0 takes are these, and nothing else is let pass:

* MAXPHYADDR is 40, and the PDPTE of PAE paging is read on each walk: options of the engine.
* The leaf of a nested walk gets neither A nor D (`Retold.mark` takes them back).
* A PDPTE that maps 1 GiB gets A as if it pointed to a table, before anything else of that page
  is looked at, and in nested paging too (`Retold.read` sets it).
* Of EXITINFO1 only the low half is seen.

The host of the engine always has NX on, as KVM's has; a case whose host has not is given it.
"""

import os
import random
from collections import Counter, defaultdict
from dataclasses import dataclass

import pytest

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.formats import PS, Tables
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import AccessedDirty, Kind, PageFault, Step, Verdict, VmExit
from kvmlab.hardware.vmcs import Vmcs
from tests import reference, tables
from tests.engine_under_test import KINDS, registers
from tests.reference_entries import ACCESSED, DIRTY
from tests.tables_regular import AccessTest, regular_case

pytestmark = pytest.mark.sampled

SEED = int(os.environ.get("KVMLAB_UNICORN_SEED", random.SystemRandom().randrange(1 << 32)))
QUICK, WHOLE = 500, 20_000
MODES = ["32bit", "pae", "4level", "5level"]
MAXPHYADDR = 40
RAM_SIZE = 1 << 52  # a case lays tables out even where an entry with a reserved bit points


@pytest.fixture(scope="module")
def oracle():
    reason = "unicorn cannot be imported (it is in the extra `test`)"
    pytest.importorskip("unicorn", reason=reason, exc_type=ImportError)
    from tests.oracle_unicorn import Oracle

    return Oracle()


@pytest.fixture(scope="module")
def count(request):
    """How many cases of each mode are tried."""
    whole = request.config.getoption("--all") or os.environ.get("KVMLAB_ALL") == "1"
    return int(os.environ.get("KVMLAB_UNICORN_CASES", WHOLE if whole else QUICK))


# ----- the engine's side --------------------------------------------------------------------


@dataclass
class Run:
    """One access by the engine with an empty TLB: what came of it, and what it left behind."""

    kind: Kind
    outcome: object
    records: list[object]
    ram: Ram
    guest: Tables
    nested: Tables | None

    def said(self):
        """The outcome in the oracle's words."""
        said = dict.fromkeys(("pa", "vector", "error", "cr2", "gpa"))
        match self.outcome:
            case int(address):
                return said | {"pa": address}
            case PageFault(gva=gva, error_code=code):
                return said | {"vector": 14, "error": code, "cr2": gva}
            case VmExit(qualification=code, gpa=gpa):
                return said | {"vector": 0x500, "error": code & 0xFFFF_FFFF, "gpa": gpa}
            case _:
                return said | {"vector": 13, "error": 0}

    def words(self, listed):
        """All of memory that is not zero, in 32-bit words, of which `listed` were laid out."""
        frames, found = {address >> 12 for address in listed}, {}
        assert self.ram.frames_in_use == len(frames), "the engine wrote where no table is"
        for pfn in frames:
            words = self.ram.frame(pfn).view("u4")
            found |= {(pfn << 12) + 4 * int(n): int(words[n]) for n in words.nonzero()[0]}
        return found


def run(case, *, eager):
    """The access of `case`; `eager`: accessed bits are set while descending."""
    controls, memory, access, nested = reference.from_case(case)
    records = []
    processor = Processor(
        maxphyaddr=MAXPHYADDR, pdptes_in_memory=True, accessed_while_walking=eager
    )
    cpu = Cpu(Ram(RAM_SIZE), processor, tap=records.append)
    for address, word in memory.words.items():
        cpu.ram.store4(address, word)
    cpu.cpl, state = access.cpl, registers(controls)
    state.cr3 = controls.cr3
    if nested:
        cpu.enter(Vmcs(lambda _: None, state, ncr3=nested.host.cr3))
    else:
        cpu.start(state)
    kind = KINDS[access.type]
    outcome, ept = cpu.attempt(access.va, kind), cpu.context.ept
    return Run(kind, outcome, records, cpu.ram, cpu.context.tables, ept.tables if ept else None)


class Retold:
    """What the engine read and marked, told again with QEMU's liberties.

    Words of random tables may coincide, so a bit that QEMU did not set in an entry as a nested leaf
    is still owed to it where the same entry is marked as something else.
    """

    def __init__(self, run, words):
        self.run, self.memory, self.refs = run, reference.Memory(dict(words)), []
        self.apart = defaultdict(int)  # the A and D bits that only one side has set, by entry
        self.last = None  # the last entry read
        for one in run.records:
            if isinstance(one, Step):
                self.read(one)
            elif isinstance(one, AccessedDirty):
                self.mark(one)

    def read(self, step):
        if self.last and self.last.table == "guest" and self.last.verdict is Verdict.LEAF:
            marked = ACCESSED | DIRTY if self.run.kind is Kind.WRITE else ACCESSED
            self.set(self.last, self.apart[self.last.hpa] & marked)
        value = self.memory.load(step.hpa, self.tables(step).format.entry_bytes)
        assert not (value ^ step.entry) & ~self.apart[step.hpa], f"{step} but {value:#x} is there"
        self.refs.append((step.hpa, value))
        self.last = step
        if self.maps_gib(step):
            self.apart[step.hpa] |= ACCESSED & ~value
            self.set(step, ACCESSED)
        elif step.verdict is Verdict.TABLE:
            self.set(step, self.apart[step.hpa] & ACCESSED)

    def mark(self, change):
        new = change.old ^ change.new
        if change.table == "ept" and self.last.verdict is Verdict.LEAF:
            leaf = change.level == self.last.level
            self.apart[change.hpa] |= new if leaf else 0
            new = 0 if leaf else new
        self.set(change, new)

    def set(self, record, bits):
        size = self.tables(record).format.entry_bytes
        value = self.memory.load(record.hpa, size)
        self.memory.store(record.hpa, size, value | bits)

    def tables(self, record):
        return self.run.nested if record.table == "ept" else self.run.guest

    def maps_gib(self, step):
        """Is it a PDPTE with PS, present, and sound if it pointed to a table?"""
        of = self.tables(step)
        if step.level != 3 or of.no_rights_level == 3 or step.verdict is Verdict.ABSENT:
            return False
        row = next(row for row in of.rows if row.level == 3)
        return bool(step.entry & PS and not step.entry & row.table_reserved)


# ----- both sides ---------------------------------------------------------------------------


def check(oracle, cases, capsys, title):
    results = Counter()
    for case in cases:
        answer = oracle.ask(case)
        for eager in (True, False):
            found = differences(case, answer, eager=eager)
            assert not found, f"{case['id']}, {eager=}: (engine, Unicorn) {found} in {case}"
        results[answer.vector] += 1
    names = {None: "ok", 13: "#GP", 14: "#PF", 0x500: "#NPF"}
    told = {names[vector]: number for vector, number in results.items()}
    with capsys.disabled():
        print(f"\nEngine and Unicorn, {title}: seed {SEED}, {results.total()} cases agree, {told}")


def differences(case, answer, *, eager):
    """What the two say differently, as {name: (engine, Unicorn)}."""
    before = reference.from_case(case)[1].words
    engine = run(case, eager=eager)
    said, refs = engine.said(), [(pa, value) for op, pa, value in answer.refs if op == "R"]
    pairs = {name: (said[name], getattr(answer, name)) for name in said}
    after = nonzero(before | {pa: new for pa, (_, new) in answer.modified.items()})
    left = engine.words(before)
    if eager:
        retold = Retold(engine, before)
        pairs["refs"] = retold.refs, refs
        pairs["memory"] = nonzero(retold.memory.words), after
        pairs["own memory"] = without(left, retold.apart), without(after, retold.apart)
    else:
        steps = [one for one in engine.records if isinstance(one, Step)]
        pairs["places"] = [one.hpa for one in steps], [pa for pa, _ in refs]
        if answer.vector is None:
            marked = nested_leaves(engine)
            pairs["own memory"] = without(left, marked), without(after, marked)
        elif not engine.nested:
            pairs["own memory"] = left, nonzero(before)
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b}


def nested_leaves(engine):
    """A and D of each entry in which a nested walk ended, where QEMU has its own way."""
    steps = (one for one in engine.records if isinstance(one, Step) and one.table == "ept")
    return {one.hpa: ACCESSED | DIRTY for one in steps if one.verdict is Verdict.LEAF}


def without(words, bits):
    """Memory with these bits of these entries out of sight."""
    return nonzero({address: word & ~bits.get(address, 0) for address, word in words.items()})


def nonzero(words):
    return {address: word for address, word in words.items() if word}


def with_nx(case):
    case["npt"]["efer_nxe"] = 1
    return case


@pytest.mark.parametrize("mode", MODES)
def test_engine_agrees_with_unicorn_on_random_tables(oracle, capsys, count, mode):
    cases = tables.walk_cases(mode, SEED, count, unicorn=True)
    check(oracle, cases, capsys, f"random {mode}")


def test_engine_agrees_with_unicorn_on_random_nested_tables(oracle, capsys, count):
    cases = map(with_nx, tables.npt_cases(SEED, count, unicorn=True))
    check(oracle, cases, capsys, "random NPT")


@pytest.mark.parametrize("mode", MODES)
def test_engine_agrees_with_unicorn_on_combinations_of_bits(oracle, capsys, count, mode):
    rng, combinations = random.Random(SEED), AccessTest(mode)
    cases = (combinations[rng.randrange(len(combinations))] for _ in range(count))
    known = (c for c in cases if "implicit" not in c["access"] and not c["ctrl"].get("cr4_pks"))
    check(oracle, known, capsys, f"combinations in {mode}")


def test_engine_and_unicorn_read_the_same_24_entries_in_order(oracle):
    """Four guest entries, each found by a four-step nested walk, then one for the data."""
    case = regular_case("4level", "4K", (4, "4K"))
    root = hex(reference.number(case.pop("ept")["eptp"]) & ~0xFFF)
    for word in case["mem"]:  # the EPT entries as nested ones: bit 2 is X there and U here
        word["value"] = hex(reference.number(word["value"]) & ~0x18)
    case["npt"] = {"mode": "4level", "cr3": root, "efer_nxe": 1, "maxphyaddr": MAXPHYADDR}
    case["ctrl"]["maxphyaddr"] = MAXPHYADDR

    engine, answer = run(case, eager=True), oracle.ask(case)

    steps = [one for one in engine.records if isinstance(one, Step)]
    assert [one.table for one in steps] == (["ept"] * 4 + ["guest"]) * 4 + ["ept"] * 4
    assert [one.hpa for one in steps] == [pa for op, pa, _ in answer.refs if op == "R"]
    assert len(steps) == 24
    assert differences(case, answer, eager=True) == {}
    assert differences(case, answer, eager=False) == {}
