"""The engine against the independent reference, over all legal combinations of bits.

In the spirit of kvm-unit-tests' access.c: the bits of the entry that maps a page and of one
entry above it, the control bits and the kind of access are one counter; every number is one
access, whose whole outcome is compared: result, addresses, sizes, error code, CR2 or exit, each
entry read in order, and memory afterwards.  Combinations that tell nothing new are left out,
with the reason.  CI draws some thousands of numbers; ``KVMLAB_SEED`` repeats the seed that a run
prints, and ``--all`` goes through every number.
"""

import itertools
import random

import pytest

from tests.engine_against_reference import SEED, Bench, Counter, combinations, say
from tests.reference import Access, Controls, Memory

SAMPLED = 3000

P, W, U, A, D, PS, BIT8 = (1 << n for n in (0, 1, 2, 5, 6, 7, 8))
XD, KEY = 1 << 63, 13  # of the page, where keys are on
ROOT, VA = 0x1000, 0x60_5123  # the tables follow the root, one page for each level

MODES = {"32bit": (2, 10, 4), "pae": (3, 9, 8), "4level": (4, 9, 8), "5level": (5, 9, 8)}


# ----- one dimension: entry bits x control bits x accesses ----------------------------------

# No CPU can be asked for an implicit fetch.
ACCESSES = [Access(VA, "fetch", cpl) for cpl in (0, 3)]
ACCESSES += [
    Access(VA, kind, cpl, implicit)
    for kind, cpl, implicit in itertools.product(("read", "write"), (0, 3), (False, True))
]

# CR4 bit, and what PKRU or PKRS says of the key.  The register that is off denies everything, so
# that it shows if it is asked.  Both bits of a rule deny no more than AD alone.
KEY_RULES = [("", 0), ("cr4_pke", 1), ("cr4_pke", 2), ("cr4_pks", 1), ("cr4_pks", 2)]


def controls_of(mode):
    """CR0.WP, SMEP, SMAP, AC, NXE, PSE, keys."""
    long_mode = mode in ("4level", "5level")
    rules = KEY_RULES if long_mode else [("", 0), ("cr4_pke", 1)]  # elsewhere keys do nothing
    pse = (0, 1) if mode == "32bit" else (0,)  # other modes have PS always
    bits = (0, 1)
    for switches in combinations(
        cr0_wp=bits, cr4_smep=bits, cr4_smap=bits, rflags_ac=bits, efer_nxe=bits, cr4_pse=pse
    ):
        for name, rule in rules:
            keys = {"pkru": 0xFFFF_FFFF, "pkrs": 0xFFFF_FFFF}
            if name:
                keys |= {name: 1, "pkru" if name == "cr4_pke" else "pkrs": rule << 2 * KEY}
            yield {**switches, **keys}


def entry_pairs(mode, vendor):
    """(level, upper entry, leaf entry) without their addresses: all that tell something new."""
    for level in LEVELS[mode]:
        for upper in upper_entries(mode):
            if vendor == "intel":
                yield from ((level, upper, leaf) for leaf in leaf_entries(mode))
        # Below an odd entry, and below one that maps a page or is absent, one leaf will do.
        for upper in odd_upper_entries(mode, level):
            if vendor == "intel" or (upper & (PS | BIT8) and level > 2):
                yield level, upper, P | W | U


# Where the upper entry is.  Levels 3 and 4 of 5-level paging are those of 4-level paging.
LEVELS = {"32bit": (2,), "pae": (2,), "4level": (2, 3, 4), "5level": (2, 5)}


def plain_rights(mode):
    """Present, with every choice of W, U and XD; 32-bit entries have no XD."""
    xds = (0,) if mode == "32bit" else (0, XD)
    return [P | w | u | xd for w, u, xd in itertools.product((0, W), (0, U), xds)]


def upper_entries(mode):
    """Sound entries that lead to a table.  Their A is clear: A that is set changes nothing."""
    return plain_rights(mode)


def odd_upper_entries(mode, level):
    """Absent ones, those that map a page where the level can, and one odd bit at a time."""
    yield 0
    yield all_ones(mode) & ~P
    large = [PS | a | d for a, d in itertools.product((0, A), (0, D))] if level < 4 else [PS]
    for upper in plain_rights(mode):
        yield from (upper | bits for bits in (*large, *odd_bits(mode, level), A))


def odd_bits(mode, level):
    """Bits that are reserved, or ignored, in this mode or in another one."""
    if mode == "32bit":
        return [PS | 1 << 21, PS | 1 << 13, BIT8]  # reserved, bit 32 of the page, G or ignored
    low = [PS | 1 << 13, PS | 1 << 20, PS | 1 << 29, PS | 1 << 12] if level < 4 else []
    return [1 << 40, 1 << 51, 1 << 52, 1 << 62, BIT8, *low]


def leaf_entries(mode):
    """Absent ones, all rights with A and D, and one odd bit at a time; PAT is where PS was."""
    yield 0
    yield all_ones(mode) & ~P
    odd = [PS | BIT8] if mode == "32bit" else [PS | BIT8, 1 << 40, 1 << 51, 1 << 52]
    for leaf in plain_rights(mode):
        yield from (leaf | bits for bits in (0, A, D, A | D, *odd))


def all_ones(mode):
    return (1 << 8 * MODES[mode][2]) - 1


def tables_for(mode, level, upper, leaf):
    """The words of all tables, with these two entries in their places."""
    levels, width, size = MODES[mode]
    keyed = KEY << 59 if mode in ("4level", "5level") else 0
    memory, base = Memory(), ROOT
    for at in range(levels, 0, -1):
        shift = 12 + width * (at - 1)
        slot = base + (VA >> shift & (1 << width) - 1) * size
        base += 0x1000
        entry = base | (P if (mode, at) == ("pae", 3) else P | W | U)
        if at == level:
            entry = upper | keyed | (large_frame(mode, level) if upper & PS else base)
        if at == 1:
            entry = leaf | keyed | 0x9000
        memory.store(slot, size, entry)
    return memory.words


def large_frame(mode, level):
    """An aligned frame for a large page; a PML4E with PS keeps its table: nothing is read."""
    return {2: 0x80_0000 if mode == "32bit" else 0x40_0000, 3: 0x4000_0000}.get(level, 0x9000)


# The two vendors differ in bit 8 of a PML4E; the second has no 1 GiB pages either.
VENDORS = {"intel": {"vendor": "intel", "gbpages": 1}, "amd": {"vendor": "amd", "gbpages": 0}}
GUESTS = [(mode, "intel") for mode in MODES] + [("4level", "amd"), ("5level", "amd")]


def guest_counter(mode, vendor):
    return Counter(list(controls_of(mode)), ACCESSES, list(entry_pairs(mode, vendor)))


def run_guest(mode, vendor, counter, numbers):
    """The first difference among these numbers, or None."""
    fixed = {**VENDORS[vendor], "cr4_la57": int(mode == "5level"), "maxphyaddr": 40}
    bench, current = None, None
    for number in numbers:
        switches, access, entries = counter[number]
        if current is not switches:
            current = switches
            bench = Bench(Controls(mode, ROOT, **switches, **fixed))
        found = bench.differences(tables_for(mode, *entries), access)
        if found:
            level, *pair = entries
            return number, switches, access, level, list(map(hex, pair)), found
    return None


@pytest.mark.parametrize("mode, vendor", GUESTS)
def test_a_sample_of_all_combinations(mode, vendor, capsys):
    counter = guest_counter(mode, vendor)
    numbers = counter.sample(random.Random(f"{mode} {SEED}"), SAMPLED)
    assert run_guest(mode, vendor, counter, numbers) is None, f"KVMLAB_SEED={SEED}"
    say(capsys, f"{mode}: {SAMPLED} of {len(counter)} combinations")


@pytest.mark.long
@pytest.mark.parametrize("mode, vendor", GUESTS)
def test_all_combinations(mode, vendor):
    counter = guest_counter(mode, vendor)
    assert run_guest(mode, vendor, counter, range(len(counter))) is None
