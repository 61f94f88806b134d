"""The TLB and walk caches: exact LRU against a naive model, stale entries, and what is saved."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.base.errors import BadSize
from kvmlab.hardware import instructions
from kvmlab.hardware.records import ExitReason, Kind, PageFault, Step, VmExit
from kvmlab.hardware.tlb import ArrayShape, Geometry, Tag, Tlb, TlbEntry
from tests.tlb_under_test import EPTPS, TABLES, TlbUnderTest

ROOT_A, ROOT_B = (EPTPS[name] & ~0xFFF for name in "AB")


PLAIN = Tag(1, 0, 0)


def entry(gva, shift, tag=PLAIN):
    return TlbEntry(gva >> shift, 0, shift, 0xF, 7, 0, tag, span=shift)


# ----- exact LRU ----------------------------------------------------------------------------


@dataclass
class Held:
    array: ArrayShape
    key: tuple
    last_used: int


class Naive:
    """One list of everything held, with the time of its last use; who is oldest is looked up."""

    def __init__(self, geometry):
        self.geometry, self.held, self.now = geometry, [], 0

    def lookup(self, gva, *, fetch):
        first = self.geometry.fetch if fetch and self.geometry.fetch else self.geometry.data
        self.now += 1
        for arrays, where in ((first, "L1"), (self.geometry.second, "L2")):
            for one in self.held:
                vpn, shift = one.key
                if any(one.array is array for array in arrays) and gva >> shift == vpn:
                    one.last_used = self.now
                    if where == "L2":
                        self.put(first, one.key)
                    return where
        return "miss"

    def fill(self, gva, shift, *, fetch):
        first = self.geometry.fetch if fetch and self.geometry.fetch else self.geometry.data
        self.now += 1
        for arrays in (first, self.geometry.second):
            self.put(arrays, (gva >> shift, shift))

    def put(self, arrays, key):
        array = next((one for one in arrays if key[1] in one.shifts), None)
        if array is None:
            return
        sets = array.entries // array.ways
        rivals = [h for h in self.held if h.array is array and h.key[0] % sets == key[0] % sets]
        same = [one for one in rivals if one.key == key]
        if same or len(rivals) == array.ways:
            self.held.remove(same[0] if same else min(rivals, key=lambda one: one.last_used))
        self.held.append(Held(array, key, self.now))


SMALL = Geometry(
    "small",
    data=(ArrayShape(4, 2, (12,)), ArrayShape(2, 2, (21, 22))),
    fetch=(ArrayShape(2, 1, (12, 21)),),
    second=(ArrayShape(8, 4, (12, 21)),),  # nothing for 4 MiB pages, as some parts have none
)
# A page lies in a region of its own size's, so that no address has two translations.
PAGES = [(n << 12, 12) for n in range(12)]
PAGES += [(1 << 30 | n << 21, 21) for n in range(6)] + [(2 << 30 | n << 22, 22) for n in range(4)]


@given(st.lists(st.tuples(st.sampled_from(PAGES), st.booleans()), max_size=120))
def test_each_set_forgets_the_least_recently_used(accesses):
    tlb, naive = Tlb(SMALL), Naive(SMALL)
    for (gva, shift), fetch in accesses:
        found, where = tlb.lookup(gva | 0x123, (PLAIN,), fetch=fetch)
        assert where == naive.lookup(gva | 0x123, fetch=fetch)
        if found is None:
            tlb.fill(entry(gva, shift), fetch=fetch)
            naive.fill(gva, shift, fetch=fetch)
        else:
            assert (found.vpn, found.shift) == (gva >> shift, shift)
    held = {(one.vpn, one.shift) for one in tlb.entries()}
    assert held == {one.key for one in naive.held}


@given(st.lists(st.integers(0, 20), max_size=200), st.integers(0, 3))
def test_a_larger_fully_associative_tlb_never_misses_more(pages, size):
    misses = []
    for entries in (1 << size, 2 << size):
        array = ArrayShape(entries, entries, (12,))
        tlb, count = Tlb(Geometry("one", (array,), (), ())), 0
        for page in pages:
            found, _ = tlb.lookup(page << 12, (PLAIN,), fetch=False)
            if found is None:
                count += 1
                tlb.fill(entry(page << 12, 12), fetch=False)
        misses.append(count)
    assert misses[1] <= misses[0]


@pytest.mark.parametrize("entries, ways", [(12, 4), (10, 4), (4, 0), (2, 4)])
def test_a_number_of_sets_that_is_no_power_of_two_is_refused(entries, ways):
    with pytest.raises(BadSize, match=f"{entries} entries in {ways} ways"):
        Geometry("bad", (ArrayShape(entries, ways, (12,)),), (), ())


# ----- entries that are used, and used up ---------------------------------------------------


def machine(**setup):
    """A CPU with two mapped pages, and its references counted."""
    pages = {"0x1000": {"g": 0}, "0x2000": {"g": 0}}
    under_test = TlbUnderTest([], pge=1, pages=pages, **setup)
    steps = []
    under_test.cpu.tap = lambda one: steps.append(one) if isinstance(one, Step) else None

    def references(gva, kind=Kind.READ):
        steps.clear()
        assert isinstance(under_test.cpu.attempt(gva, kind), int)
        return len(steps)

    return under_test, references


def pte_of(under_test, gva):
    """Where the only page table holds the entry of this page: the fourth page of tables."""
    return under_test.base + TABLES + 0x2000 + (gva >> 12) * 8


def test_a_stale_entry_is_used_until_it_is_flushed():
    under_test, references = machine()
    assert references(0x1000) == 4
    under_test.ram.store(pte_of(under_test, 0x1000), 0)

    assert references(0x1000) == 0
    instructions.invlpg(under_test.cpu, 0x1000)
    assert under_test.cpu.attempt(0x1000, Kind.READ) == PageFault(0x1000, 0, Kind.READ, user=False)


def test_a_fault_is_never_cached():
    under_test, references = machine()
    pte = under_test.ram.load(pte_of(under_test, 0x1000))
    under_test.ram.store(pte_of(under_test, 0x1000), 0)
    assert isinstance(under_test.cpu.attempt(0x1000, Kind.READ), PageFault)
    under_test.ram.store(pte_of(under_test, 0x1000), pte)

    assert references(0x1000) > 0  # no flush was needed


def test_the_first_write_through_a_clean_entry_walks_again_and_sets_d():
    under_test, references = machine()
    references(0x1000)
    assert references(0x1000) == 0
    assert not under_test.ram.load(pte_of(under_test, 0x1000)) & 0x40

    assert references(0x1000, Kind.WRITE) > 0
    assert under_test.ram.load(pte_of(under_test, 0x1000)) & 0x40
    assert references(0x1000, Kind.WRITE) == 0


def test_the_page_of_a_tlb_entry_is_the_smaller_one_of_both_dimensions():
    under_test, references = machine(vpid=1, eptp="A")
    references(0x1000)
    assert [one.shift for one in under_test.cpu.tlb.entries()] == [12]


# Costs of a 4-level walk on 4-level EPT, as the walk caches and the nested TLB cut them.
def test_walk_caches_and_the_nested_tlb_cut_24_references_to_1():
    under_test, references = machine(vpid=1, eptp="A")
    cpu = under_test.cpu
    cpu.nested_tlb, kept = None, cpu.nested_tlb
    assert references(0x1000) == 24
    assert references(0x2000) == 9  # PDE cached: one guest entry and its EPT walk, and the page's
    cpu.nested_tlb = kept
    cpu.flush_tlb()
    references(0x1000)
    assert references(0x2000) == 5  # the table's page is in the nested TLB too
    cpu.tlb.drop()
    assert references(0x2000) == 1  # and the page itself
    assert references(0x2000) == 0


def test_a_cached_upper_entry_carries_the_rights_of_all_above_it():
    under_test, references = machine()
    directory = pte_of(under_test, 0) - 0x1000
    under_test.ram.store(
        directory, under_test.ram.load(directory) & ~2
    )  # nothing below is writable
    under_test.cpu.cpl = 3
    assert references(0x1000) == 4
    assert references(0x2000) == 1
    refused = under_test.cpu.attempt(0x2000, Kind.WRITE)
    assert refused == PageFault(0x2000, 7, Kind.WRITE, user=True)


def test_a_page_fault_drops_the_upper_entries_that_were_used():
    under_test, references = machine()
    references(0x1000)
    pte = under_test.ram.load(pte_of(under_test, 0x2000))
    under_test.ram.store(pte_of(under_test, 0x2000), 0)
    assert isinstance(under_test.cpu.attempt(0x2000, Kind.READ), PageFault)
    under_test.ram.store(pte_of(under_test, 0x2000), pte)
    assert references(0x2000) == 4


def test_an_ept_violation_drops_the_guest_physical_mapping():
    """Else the hypervisor could grant the right for ever, and the guest fault for ever."""
    under_test, references = machine(vpid=1, eptp="A")
    table = (pte_of(under_test, 0x1000) - under_test.base) & ~0xFFF
    leaf = ROOT_A + 0x3000 + table // 512
    entry_of_table = under_test.ram.load(leaf)
    under_test.ram.store(leaf, entry_of_table & ~2)  # the page table is read-only: A cannot be set
    refused = under_test.cpu.attempt(0x1000, Kind.READ)
    assert isinstance(refused, VmExit)
    assert (refused.reason, refused.qualification & 0x1BF) == (ExitReason.EPT_VIOLATION, 0xAB)
    under_test.ram.store(leaf, entry_of_table)  # more permissive: no INVEPT is needed

    assert references(0x1000) > 0
