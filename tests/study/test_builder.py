"""Tables that a learner builds: what the machine does with them, and why."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab.base.errors import BadAddress, BadChoice, BadSize, KvmlabError, Overlap
from kvmlab.hardware.records import Kind, TlbLookup
from kvmlab.study.builder import VERBS, Builder
from kvmlab.study.builder_machine import DESIGNS, usual_deeds
from kvmlab.study.tree import dump, dumps, entries, entry_at, guest_tables

PAGE = "0x400000"


def do(builder, deeds):
    for verb, *values in deeds:
        VERBS[verb].act(builder, *values)
    return builder


def free(builder):
    return builder.machine.guest.frames.buddy.free_frames


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
@pytest.mark.parametrize("mmu", DESIGNS)
def test_a_lab_begins_with_a_write_to_code_which_faults(mmu, levels):
    tried = do(Builder(mmu, levels=levels), usual_deeds(levels)).tried
    assert (tried.end, tried.fault.error_code) == ("page_fault", 7)
    assert [(one.why, one.level, one.bits) for one in tried.causes] == [("write", 1, (1,))]


@pytest.mark.parametrize("mmu", DESIGNS)
def test_pages_of_every_size_lead_where_they_were_mapped(mmu):
    builder = Builder(mmu, memory="2G")
    builder.map("0x400000", 2, "4K", "", "wu")
    builder.map("0x800000", 1, "2M", "0xa00000", "wu")
    builder.map("0x80000000", 1, "1G", "", "wux")
    for gva, page in ((0x401ABC, None), (0x812345, 0xA12345), (0x8123_4567, None)):
        builder.access(hex(gva), "write", True, True)
        gpa = builder.machine.chain(gva).gpa
        assert builder.tried.end == "mapped"
        assert page in (None, gpa)
        assert builder.tried.hpa == builder.machine.chain(gva).hpa


@pytest.mark.parametrize("mmu", DESIGNS)
def test_what_is_unmapped_goes_back_with_the_tables_that_it_emptied(mmu):
    builder = Builder(mmu)
    before = free(builder), builder.machine.guest.table_frames
    builder.map(PAGE, 100, "4K", "", "wu")
    builder.map("0x40000000", 1, "2M", "", "wu")
    builder.unmap(PAGE, 100, "4K", True)
    builder.unmap("0x40000000", 1, "2M", True)
    assert (free(builder), builder.machine.guest.table_frames) == before
    assert builder.tree.entries == []


@pytest.mark.parametrize("mmu", DESIGNS)
@pytest.mark.parametrize("flush", [True, False])
def test_without_invlpg_the_tlb_lets_an_access_pass_that_the_tables_forbid(mmu, flush):
    builder = Builder(mmu)
    builder.map(PAGE, 1, "4K", "", "wu")
    builder.access(PAGE, "write", True, True)
    builder.protect(PAGE, 1, "4K", "u", flush)
    builder.access(PAGE, "write", True, False)
    assert builder.tried.says == "rights"
    assert builder.tried.stale is not flush or mmu == "shadow"  # there a trapped store flushes
    assert builder.tried.end == ("mapped" if builder.tried.stale else "page_fault")


CODES = {"P": 1, "W": 2, "U": 4, "RSVD": 8, "I": 16, "PK": 32}


def expected_code(builder, kind, user):
    """The SDM's rules once more, from the entries alone; None: allowed."""
    write, fetch = kind == "write", kind == "fetch"
    code = write * CODES["W"] + user * CODES["U"] + fetch * CODES["I"]
    rights = {"w": True, "u": True, "x": True}
    tables = guest_tables(builder.machine)
    for level in range(4, 0, -1):
        value = entry_at(builder.tree, tables, level, 0x400000).value
        if not value & 1:
            return code
        if value & 0xF_C000_0000_0000 or (level == 4 and value & 0x80):
            return code | 9
        rights["w"] &= bool(value & 2)
        rights["u"] &= bool(value & 4)
        rights["x"] &= not value >> 63
    smap = builder.machine.cpu.registers.cr4 >> 21 & 1
    smep = builder.machine.cpu.registers.cr4 >> 20 & 1
    wp = builder.machine.cpu.registers.cr0 >> 16 & 1
    refused = (
        (user and not rights["u"])
        or (write and not rights["w"] and (user or wp))
        or (fetch and not rights["x"])
        or (not user and rights["u"] and ((fetch and smep) or (not fetch and smap)))
    )
    return code | 1 if refused else None


def expected_causes(builder, kind, user):
    """The levels that withhold each right which this access needs."""
    tables = guest_tables(builder.machine)
    values = {n: entry_at(builder.tree, tables, n, 0x400000).value for n in (4, 3, 2, 1)}
    wp = builder.machine.cpu.registers.cr0 >> 16 & 1
    found = {("user", n) for n in values if user and not values[n] & 4}
    found |= {
        ("write", n) for n in values if kind == "write" and (user or wp) and not values[n] & 2
    }
    return found | {("execute", n) for n in values if kind == "fetch" and values[n] >> 63}


FLIPS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([0, 1, 2, 3, 5, 6, 9, 46, 51, 52, 63])),
    max_size=4,
)


@pytest.mark.parametrize("mmu", DESIGNS)
@settings(max_examples=25)
@given(
    flips=FLIPS,
    kind=st.sampled_from(["read", "write", "fetch"]),
    user=st.booleans(),
    switches=st.sets(st.sampled_from(["wp", "smep", "smap"])),
)
def test_the_error_code_and_its_causes_are_those_of_the_manual(mmu, flips, kind, user, switches):
    builder = Builder(mmu, switches=sorted(switches))
    builder.map(PAGE, 1, "4K", "", "wux")
    for level, bit in sorted(flips):  # from below, for what is below a broken entry is hidden
        builder.flip(level, PAGE, bit, True)
    expected = expected_code(builder, kind, user)
    builder.access(PAGE, kind, user, True)
    found = builder.tried
    assert (found.fault.error_code if found.fault else None) == expected
    assert bool(found.causes) is (expected is not None)
    if found.says == "rights":
        named = {(one.why, one.level) for one in found.causes if one.why not in ("smep", "smap")}
        assert named == expected_causes(builder, kind, user)
    if expected is None or found.causes[0].why in ("smep", "smap"):
        return
    for cause in found.causes:
        for bit in cause.bits:
            builder.flip(cause.level, PAGE, bit, True)
    builder.access(PAGE, kind, user, True)
    left = {(one.why, one.level) for one in builder.tried.causes}
    assert left.isdisjoint((one.why, one.level) for one in found.causes)


def test_who_is_in_supervisor_mode_is_not_told_of_u_s():
    builder = Builder("native")
    builder.map(PAGE, 1, "4K", "", "")
    for kind, why in (("write", "write"), ("fetch", "execute")):
        builder.access(PAGE, kind, False, True)
        assert [one.why for one in builder.tried.causes] == [why]


@pytest.mark.parametrize("mmu", ["native", "ept"])
def test_a_protection_key_denies_by_pkru(mmu):
    builder = Builder(mmu, switches=("wp", "pke"), pkru=0b10 << 2 * 5)  # WD of key 5
    builder.map(PAGE, 1, "4K", "", "wu")
    builder.set(
        1,
        PAGE,
        hex(entry_at(builder.tree, guest_tables(builder.machine), 1, 0x400000).value | 5 << 59),
        True,
    )
    builder.access(PAGE, "read", True, True)
    assert builder.tried.end == "mapped"
    builder.access(PAGE, "write", True, True)
    assert builder.tried.fault.error_code == 1 | 2 | 4 | 32
    assert (builder.tried.causes[0].why, builder.tried.causes[0].bits) == ("key", (59, 61))


VALUES = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 2**64 - 1, 0x103007, 0x2000_0000_0007, 0x3FFF_F007, 0x80000067, 0x87]),
)


@settings(max_examples=25)
@given(levels=st.sampled_from([2, 3, 4, 5]), data=st.data())
def test_whatever_an_entry_holds_the_three_designs_agree_on_the_fault(levels, data):
    """Where an address leads outside memory, metal reads all ones; there a VM has an exit."""
    width = 32 if levels == 2 else 64
    edits = data.draw(st.lists(st.tuples(st.integers(1, levels), VALUES), max_size=3))
    kind = data.draw(st.sampled_from(["read", "write"]))
    ends = {}
    for mmu in DESIGNS:
        builder = Builder(mmu, levels=levels)
        builder.map(PAGE, 2, "4K", "", "wux")
        for level, value in edits:
            try:
                builder.set(level, PAGE, hex(value & (1 << width) - 1), True)
                builder.reload()
            except KvmlabError:
                continue
        builder.access("0x400010", kind, True, True)
        found = builder.tried
        assert found.end in ("mapped", "mmio", "emulated", "page_fault", "machine_check")
        ends[mmu] = found.fault.error_code if found.fault else None
        inside = found.path and all(one.address < 64 << 20 for one in found.path)
    assert ends["shadow"] == ends["ept"]
    if inside and found.end == "mapped":
        assert ends["native"] == ends["ept"]


def test_the_dump_is_in_the_shape_of_xv6_and_leads_where_the_walk_does():
    builder = do(Builder("ept"), usual_deeds(4))
    builder.access("0x402000", "write", True, True)
    lines = dump(builder.tree).splitlines()
    assert re.fullmatch(r"page table 0x[0-9a-f]{16}", lines[0])
    path, found = [], {}
    for line in lines[1:]:
        dots, index, pte, target = re.fullmatch(
            r"((?:\.\. )*\.\.)(\d+): pte 0x([0-9a-f]{16}) pa 0x([0-9a-f]{16})", line
        ).groups()
        depth = dots.count("..")
        path = [*path[: depth - 1], int(index)]
        if depth == 4:
            gva = sum(one << 39 - 9 * n for n, one in enumerate(path))
            found[gva] = int(target, 16)
        assert int(pte, 16) & 0xF_FFFF_F000 == int(target, 16)
    assert found[0x402000] == builder.machine.chain(0x402000).gpa
    assert {name for name, _ in dumps(builder.machine)} == {"guest", "ept"}
    page = f"pa {builder.machine.chain(0x402000).hpa:#018x}"
    assert page in dict(dumps(builder.machine))["ept"]
    assert [name for name, _ in dumps(Builder("shadow").machine)] == ["guest", "shadow"]


def test_shadow_paging_sees_each_store_and_ept_none():
    exits = {}
    for mmu in DESIGNS:
        builder = do(Builder(mmu), usual_deeds(4))
        builder.protect("0x402000", 2, "4K", "u", True)
        exits[mmu] = builder.exits
        assert builder.changed() == {(1, 0x402000), (1, 0x403000)}
    assert exits["native"] == exits["ept"] == 0
    assert exits["shadow"] >= 2


def test_an_entry_that_leads_to_the_root_itself_is_read_to_the_last_level_only():
    builder = Builder("native")
    builder.map(PAGE, 1, "4K", "", "wu")
    builder.set(4, "0x8000000000", hex(builder.process.root | 7), True)
    found = [one for one in entries(builder.tree) if one.address >> 39 == 1]
    assert {one.level for one in found} == {4, 3, 2, 1}
    builder.access(hex(1 << 39 | 1 << 30 | 1 << 21 | 1 << 12), "read", True, True)
    assert builder.tried.hpa == builder.process.root


@pytest.mark.parametrize(
    "error, deed",
    [
        (BadAddress, ("map", "0x400001", 1, "4K", "", "wu")),
        (BadAddress, ("map", "0x800000000000", 1, "4K", "", "wu")),
        (BadAddress, ("map", "0xffffffffffffffff", 1, "4K", "", "wu")),
        (BadAddress, ("map", "<img src=x>", 1, "4K", "", "wu")),
        (BadAddress, ("map", PAGE, 1, "2M", "0x1000", "wu")),
        (BadAddress, ("map", PAGE, 1, "4K", "0x800000000000", "wu")),
        (BadSize, ("map", PAGE, 0, "4K", "", "wu")),
        (BadSize, ("map", PAGE, 513, "4K", "", "wu")),
        (BadSize, ("map", PAGE, 1, "8K", "", "wu")),
        (BadChoice, ("map", PAGE, 1, "4K", "", "rw")),
        (BadChoice, ("map", PAGE, 1, "4K", "", "ww")),
        (Overlap, ("map", "0x402000", 1, "4K", "", "u")),
        (BadAddress, ("unmap", "0x800000", 1, "4K", True)),
        (BadChoice, ("set", 6, PAGE, "0", True)),
        (BadChoice, ("set", 1, "0x40000000000", "0", True)),
        (BadAddress, ("set", 1, PAGE, "0x10000000000000000", True)),
        (BadAddress, ("set", 4, "0xffff888000000000", "0", True)),
        (BadChoice, ("flip", 1, PAGE, 64, True)),
        (BadChoice, ("access", PAGE, "execute", True, True)),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_changes_nothing(error, deed):
    builder = do(Builder("native"), usual_deeds(4))
    before = dump(builder.tree)
    with pytest.raises(error) as refused:
        VERBS[deed[0]].act(builder, *deed[1:])
    assert "\n" not in str(refused.value)
    assert dump(builder.tree) == before


@pytest.mark.parametrize(
    "options",
    [
        {"mmu": "npt"},
        {"memory": "3G"},
        {"levels": 2, "memory": "2G"},
        {"switches": ["wpp"]},
        {"levels": 3, "switches": ["pke"]},
        {"mmu": "shadow", "switches": ["pke"]},
        {"pkru": 1 << 32},
        {"levels": 6},
    ],
)
def test_a_machine_that_cannot_be_is_refused(options):
    with pytest.raises(KvmlabError):
        Builder(**{"mmu": "ept", **options})


def test_a_kernel_led_astray_by_its_own_tables_says_so():
    builder = Builder("native")
    builder.map(PAGE, 1, "4K", "", "wu")
    builder.set(2, PAGE, "0x7ffff007", True)
    with pytest.raises(BadAddress, match="faulted itself"):
        builder.map("0x401000", 1, "4K", "", "wu")


def test_an_access_is_recorded_from_its_first_attempt():
    builder = do(Builder("ept"), usual_deeds(4))
    assert isinstance(builder.tried.records[0], TlbLookup)
    assert builder.tried.kind is Kind.WRITE
