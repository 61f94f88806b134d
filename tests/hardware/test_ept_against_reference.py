"""EPT against the independent reference: entry bits x capabilities x what the page is used for.

A guest with PAE paging and one 2 MiB page reads one guest entry on a walk and four when it loads
CR3: so each use of EPT is there in its plainest form.  The EPT entry that maps one of its pages
and the entry above that one are varied; the page holds the data, or the guest's page directory,
or its PDPTEs.  CI draws a sample, ``--all`` goes through every number (see
test_against_reference.py).
"""

import itertools
import random

import pytest

from tests.engine_against_reference import SEED, Bench, Counter, combinations, say
from tests.reference import Access, Controls, Ept, Memory

SAMPLED = 5000

P, W, U, A, D, PS, XD = (1 << n for n in (0, 1, 2, 5, 6, 7, 63))
RWX, USER_X, WRITE_BACK, EPT_A, EPT_D = 7, 1 << 10, 6 << 3, 1 << 8, 1 << 9
RIGHTS = [n & 7 | (n & 8) << 7 for n in range(16)]  # R, W, X and user-X
WIDTH = 40  # MAXPHYADDR

VA = 0x1_2123
SUBJECT, FAR_SUBJECT = 0xC000_0000, 0x80_C000_0000  # the GPA of the page under test
HOME_PDPT, HOME_PD, HOME_DATA = 0x1000, 0x2000, 0x20_0000  # the GPAs of the other pages
EPT_ROOT, SUBJECT_TABLES = 0x10_0000, 0x20_0000  # in host memory
HOME_HPA, SUBJECT_HPA = 0x1000_0000, 0x4000_0000


def capabilities():
    """What the processor can, and how the VMCS is set.

    Without large pages nothing else is new.  A log matters with A and D only: it is empty, or
    takes one more entry, or none.
    """
    bits = (0, 1)
    for one in combinations(
        exec_only=bits, mbec=bits, adv_info=bits, log=(None, 511, 0, 0xFFFF), large=bits
    ):
        if one["large"] or (one["exec_only"], one["mbec"], one["adv_info"]) == (1, 0, 0):
            yield one


def ept_of(one):
    keeps = one["log"] is not None
    return Ept(
        eptp=EPT_ROOT | 0x1E | keeps << 6,
        levels=4,
        maxphyaddr=WIDTH,
        exec_only=one["exec_only"],
        page_2m=one["large"],
        page_1g=one["large"],
        mbec=one["mbec"],
        adv_info=one["adv_info"],
        pml_index=one["log"] if keeps else 511,
    )


def uses():
    """What the page under test is for, and the guest's own entry for its 2 MiB page.

    The rights in that entry matter where the page is the data (qualification, mode-based
    execute), its A and D bits where the page holds the entry.
    """
    for rights in (W | U, W, U, W | U | XD):
        yield "data", P | rights | A | D | PS
    for marks in (0, A, A | D):
        yield "directory", P | W | U | marks | PS
    yield "pointers", P | W | U | A | D | PS


def ept_entries():
    """(level of the leaf, upper entry, leaf) without addresses.

    All rights of both together; then one odd thing at a time: a memory type, A and D, a bit that
    is reserved or ignored.
    """
    for level in (1, 2, 3):
        ps = PS if level > 1 else 0
        for upper, leaf in itertools.product(RIGHTS, RIGHTS):
            yield level, upper, leaf | ps | WRITE_BACK
        for rights in RIGHTS:
            for kind in (0, 1, 2, 3, 4, 5, 7):
                yield level, RWX | USER_X, rights | ps | kind << 3
            for odd in (
                EPT_A,
                EPT_A | EPT_D,
                1 << 6,
                1 << 11,
                1 << WIDTH,
                1 << 51,
                1 << 52,
                1 << 63,
            ):
                yield level, RWX | USER_X, rights | ps | WRITE_BACK | odd
            for odd in (1 << 3, 1 << 6, 1 << WIDTH, 1 << 51, 1 << 52, EPT_A, EPT_D):
                yield level, rights | odd, RWX | USER_X | ps | WRITE_BACK
            if level > 1:  # a bit of the address that a large page does not have
                yield level, RWX | USER_X, rights | ps | WRITE_BACK | 1 << 12
            if level == 3:  # PS is reserved in a PML4E
                yield level, rights | PS, RWX | USER_X | ps | WRITE_BACK


def legal(use, entries):
    """A PDPT lies below 4 GiB: its 1 GiB page would share its PML4E with all the rest."""
    return use[0] != "pointers" or entries[0] < 3


def words_for(use, leaf_of_guest, level, upper, leaf):
    """Guest entries and both paths of EPT tables, in host memory."""
    memory = Memory()
    subject = FAR_SUBJECT if level == 3 else SUBJECT
    pages = {"pointers": HOME_PDPT, "directory": HOME_PD, "data": HOME_DATA} | {use: subject}
    for at in range(3):  # home: three tables to the last one, which maps two pages of 4 KiB
        memory.store(EPT_ROOT + 0x1000 * at, 8, EPT_ROOT + 0x1000 * (at + 1) | RWX)
    memory.store(EPT_ROOT + 0x2008, 8, HOME_HPA | HOME_DATA | PS | WRITE_BACK | RWX | USER_X)
    for page in (HOME_PDPT, HOME_PD):
        memory.store(EPT_ROOT + 0x3000 + page // 512, 8, HOME_HPA | page | WRITE_BACK | RWX)
    place_subject(memory, subject | (VA if use == "data" else 0), level, upper, leaf)
    home = {page: HOME_HPA | page for page in (HOME_PDPT, HOME_PD)} | {subject: SUBJECT_HPA}
    memory.store(home[pages["pointers"]], 8, pages["directory"] | P)
    memory.store(home[pages["directory"]], 8, pages["data"] | leaf_of_guest)
    return pages["pointers"], memory.words


def place_subject(memory, gpa, level, upper, leaf):
    """The path to the page under test; its leaf is at `level`, `upper` right above."""
    table, fresh = EPT_ROOT, SUBJECT_TABLES
    for at in range(4, level - 1, -1):
        slot = table + (gpa >> 9 * at + 3 & 511) * 8
        if at == level:
            offset = (1 << 9 * at + 3) - 1
            entry = leaf | (SUBJECT_HPA | gpa & 0x1F_FFFF) & ~offset
        elif at == level + 1:
            entry = upper | fresh
        else:
            entry = RWX | USER_X | (EPT_ROOT + 0x1000 if gpa >> 39 == 0 and at == 4 else fresh)
        memory.store(slot, 8, entry)
        table, fresh = entry & 0xFF_FFFF_F000, fresh + 0x1000


def counter_of_ept():
    pairs = [one for one in itertools.product(uses(), ept_entries()) if legal(*one)]
    return Counter(list(capabilities()), ["read", "write", "fetch"], pairs)


def run(counter, numbers):
    """The first difference among these numbers, or None."""
    benches, current = {}, None
    for number in numbers:
        one, kind, ((use, leaf_of_guest), entries) = counter[number]
        if current is not one:
            current, benches = one, {}
        cr3, words = words_for(use, leaf_of_guest, *entries)
        if cr3 not in benches:
            controls = Controls("pae", cr3, cr0_wp=1, efer_nxe=1, maxphyaddr=WIDTH)
            benches[cr3] = Bench(controls, ept_of(one))
        access = Access(VA, kind, 3 if leaf_of_guest & U else 0)
        if found := benches[cr3].differences(words, access):
            level, *pair = entries
            return number, one, kind, use, hex(leaf_of_guest), level, list(map(hex, pair)), found
    return None


def test_a_sample_of_all_combinations_under_ept(capsys):
    counter = counter_of_ept()
    numbers = counter.sample(random.Random(SEED), SAMPLED)
    assert run(counter, numbers) is None, f"KVMLAB_SEED={SEED}"
    say(capsys, f"EPT: {SAMPLED} of {len(counter)} combinations")


@pytest.mark.long
def test_all_combinations_under_ept():
    counter = counter_of_ept()
    assert run(counter, range(len(counter))) is None
