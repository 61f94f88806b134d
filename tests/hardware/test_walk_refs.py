"""References of a complete miss, counted in walks of tables that were built in memory."""

import json
from functools import partial
from pathlib import Path

import pytest

from kvmlab.hardware.agile import SWITCH, agile_walk, shadow_of
from kvmlab.hardware.ept import Ept, nested
from kvmlab.hardware.formats import compile_tables, format_named, without_pointers
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import READ, WRITE, Fault, Kind, Step
from kvmlab.hardware.walker import walk
from kvmlab.machine import Machine

ROWS = json.loads((Path(__file__).parents[1] / "data" / "walk-refs.json").read_text())["rows"]
SHIFTS = {"4K": 12, "2M": 21, "4M": 22, "1G": 30}
FORMATS = {"32-bit(2)": "32-bit", "PAE(3)": "PAE", "4-level": "4-level", "5-level": "5-level"}
HOSTS = {"4-level": "EPT-4", "5-level": "EPT-5"}
GVA, DATA = 0x3F65_4321, 0x4000_0000  # a user address of every mode; 1 GiB aligned memory
HOST_OFFSET = 0x8000_0000  # GPA g lives at HPA g + this


class Builder:
    """Writes trees of page tables straight into memory, with nothing of the guest's code."""

    def __init__(self, write):
        self.write, self.entries, self.next = write, {}, 0x1000

    def frame(self):
        self.next += 0x1000
        return self.next - 0x1000

    def map(self, fmt, root, address, page, shift, flags, large=0x80):
        table, at = root, 12 + sum(fmt.index_bits)
        for bits in fmt.index_bits:
            at -= bits
            slot = table + (address >> at & (1 << bits) - 1) * fmt.entry_bytes
            if at == shift:
                self.write(slot, page | flags | (large if shift > 12 else 0), fmt.entry_bytes)
                return
            if slot not in self.entries:
                self.entries[slot] = self.frame()
                upper = 1 if fmt.mode == "PAE" and at == 30 else 7
                self.write(slot, self.entries[slot] | upper, fmt.entry_bytes)
            table = self.entries[slot]


def heard(walking):
    """The references of a walk, which is given a tap, and where it arrives."""
    seen = []
    found = walking(seen.append)
    assert not isinstance(found, Fault), found
    return [one for one in seen if isinstance(one, Step)], found


def store(ram, base):
    def write(address, value, size):
        (ram.store if size == 8 else ram.store4)(base + address, value)

    return write


def guest_of(row):
    name = row["guest"]
    registers = "PDPTE registers" in name
    fmt = format_named("PAE" if registers else FORMATS[name])
    return fmt, SHIFTS[row["guest_page"]], registers


@pytest.mark.parametrize("row", [r for r in ROWS if r["mode"] == "native"], ids=str)
def test_native_walk_reads_as_many_entries_as_the_table_says(row):
    fmt, shift, registers = guest_of(row)
    ram = Ram(1 << 33)
    builder = Builder(store(ram, 0))
    root = builder.frame()
    builder.map(fmt, root, GVA, DATA, shift, 0x7)
    tables = compile_tables(fmt, Processor())
    if registers:
        root = ram.load(root + 8 * (GVA >> 30)) & ~0xFFF
        tables = without_pointers(tables)
    steps, found = heard(lambda tap: walk(tables, root, GVA, ram, tap))
    assert found.address == DATA + GVA % (1 << shift)
    assert len(steps) == row["expect"]


NESTED = [r for r in ROWS if r["mode"] == "nested" and r["host"] in HOSTS]


@pytest.mark.parametrize("row", NESTED, ids=str)
def test_nested_walk_reads_as_many_entries_as_the_table_says(row):
    fmt, shift, registers = guest_of(row)
    ept_format, host_shift = format_named(HOSTS[row["host"]]), SHIFTS[row["host_page"]]
    ram = Ram(1 << 34)
    guest = Builder(store(ram, HOST_OFFSET))
    root = guest.frame()
    guest.map(fmt, root, GVA, DATA, shift, 0x7)
    host = Builder(store(ram, 0))
    eptp = host.frame()
    mapped = set()
    for gpa in [*range(0, guest.next, 0x1000), DATA + GVA % (1 << shift)]:
        page = gpa >> host_shift << host_shift
        if page not in mapped:
            mapped.add(page)
            host.map(ept_format, eptp, page, page + HOST_OFFSET, host_shift, 0x37)
    ept = Ept(compile_tables(ept_format, Processor()), eptp, accessed_dirty=True)
    tables = compile_tables(fmt, Processor())
    if registers:
        root = ram.load(HOST_OFFSET + root + 8 * (GVA >> 30)) & ~0xFFF
        tables = without_pointers(tables)
    steps, inner = heard(
        lambda tap: walk(
            *(tables, root, GVA, ram, tap), lambda gpa: nested(ept, ram, gpa, READ | WRITE, tap)
        )
    )
    last, found = heard(lambda tap: nested(ept, ram, inner.address, READ, tap))
    assert found.address == DATA + GVA % (1 << shift) + HOST_OFFSET
    assert len(steps) + len(last) == row["expect"]
    levels = len([s for s in steps if s.table == "guest"])
    pattern = ["ept"] * len(last) + ["guest"]
    assert [s.table for s in steps] == pattern * levels  # the order that artifacts print


AGILE = [r for r in ROWS if r["mode"] == "agile paging"]


@pytest.mark.parametrize("row", AGILE, ids=str)
def test_agile_walk_reads_as_many_entries_as_the_table_says(row):
    """The upper ``shadow_levels`` from a shadow tree, the others nested; a note: no third root."""
    ram, depth = Ram(1 << 34), row["shadow_levels"]
    fmt, ept_format = format_named(FORMATS[row["guest"]]), format_named(HOSTS[row["host"]])
    guest = Builder(store(ram, HOST_OFFSET))
    cr3 = guest.frame()
    guest.map(fmt, cr3, GVA, DATA, 12, 0x7)
    chain = [cr3, *guest.entries.values()]  # the guest's tables from the top down
    host = Builder(store(ram, 0))
    eptp, shadow = host.frame(), host.frame()
    for gpa in [*range(0, guest.next, 0x1000), DATA + GVA % 0x1000]:
        host.map(ept_format, eptp, gpa & ~0xFFF, (gpa & ~0xFFF) + HOST_OFFSET, 12, 0x37)
    root, tables = shadow, compile_tables(fmt, Processor())
    if depth == fmt.levels:
        host.map(fmt, shadow, GVA, DATA + HOST_OFFSET, 12, 0x7)
    elif depth:
        at = 12 + 9 * (fmt.levels - depth)
        host.map(fmt, shadow, GVA, chain[depth] + HOST_OFFSET, at, 0x7 | SWITCH, large=0)
    else:
        root = cr3 + HOST_OFFSET | SWITCH
    ept = Ept(compile_tables(ept_format, Processor()), eptp, accessed_dirty=True, agile=True)

    def walking(tap):
        def locate(gpa):
            return nested(ept, ram, gpa, ept.table_access, tap)

        if "note" in row:
            return walk(tables, cr3, GVA, ram, tap, locate)
        return agile_walk(shadow_of(tables, root), tables, GVA, ram, tap, locate)

    steps, found = heard(walking)
    last, gpa = [], found.address
    if found.table == "guest":
        last, found = heard(lambda tap: nested(ept, ram, gpa, READ, tap))
    assert found.address == DATA + GVA % 0x1000 + HOST_OFFSET
    assert len(steps) + len(last) == row["expect"]
    assert sum(one.table == "shadow" for one in steps) == depth


NESTED_GUESTS = [r for r in ROWS if r["mode"].startswith("nested-nested")]
L1_OFFSET, L0_OFFSET = 0x8000_0000, 0x1_0000_0000  # L2 GPA + L1's = L1 GPA; that + L0's = HPA


class Nested:
    """L2's tables, EPT12 and EPT01 of a row, each in the memory in which it lives."""

    def __init__(self, row):
        self.ram, self.row = Ram(1 << 34), row
        self.fmt = format_named(FORMATS[row["l2"]])
        self.tables = compile_tables(self.fmt, Processor())
        l2, l1 = self._builder(L1_OFFSET + L0_OFFSET), self._builder(L0_OFFSET)
        self.l1, self.l0 = l1, self._builder(0)
        self.cr3 = l2.frame()
        l2.map(self.fmt, self.cr3, GVA, DATA, SHIFTS[row["l2_page"]], 0x7)
        self.data = DATA + GVA % (1 << SHIFTS[row["l2_page"]])
        self.used = [*range(0, l2.next, 0x1000), self.data]
        self.tables12, self.root12 = self._ept(l1, row["l1"], row["l1_page"], self.used, L1_OFFSET)
        self.room = [*range(0, 0x10_0000, 0x1000)]  # L1's own tables, with some to spare
        used = [*self.room, *(gpa + L1_OFFSET for gpa in self.used)]
        self.tables01, self.root01 = self._ept(self.l0, row["l0"], row["l0_page"], used, L0_OFFSET)

    def _builder(self, base):
        return Builder(store(self.ram, base))

    def _ept(self, builder, levels, page, gpas, offset):
        fmt, shift, root = format_named(HOSTS[levels]), SHIFTS[page], builder.frame()
        for start in {gpa >> shift << shift for gpa in gpas}:
            builder.map(fmt, root, start, start + offset, shift, 0x37)
        return compile_tables(fmt, Processor()), root

    def locate01(self, gpa, tap):
        return walk(self.tables01, self.root01, gpa, self.ram, tap)

    def locate12(self, gpa, tap):
        """Three dimensions: an EPT12 whose own entries are found through EPT01."""
        return self.locate01(self.walk12(gpa, tap).address, tap)

    def walk12(self, gpa, tap):
        """EPT12, which lies in L1's memory."""
        locate = partial(self.locate01, tap=tap)
        return walk(self.tables12, self.root12, gpa, self.ram, tap, locate)

    def through(self, locate, tables=None, root=None):
        """A walk of L2's (or other) tables, and of what finds the page at its end."""
        tables, root = tables or self.tables, self.cr3 if root is None else root

        def walking(tap):
            return walk(tables, root, GVA, self.ram, tap, locate and partial(locate, tap=tap))

        steps, found = heard(walking)
        last, end = heard(partial(locate, found.address)) if locate else ([], found)
        assert end.address == self.data + L1_OFFSET + L0_OFFSET
        return len(steps) + len(last)

    def merged(self):
        """EPT02: for each address the smaller of the two leaves, in tables like L0's."""
        fmt, root = format_named(HOSTS[self.row["l0"]]), self.l0.frame()
        done = set()
        for gpa in self.used:
            _, one = heard(partial(self.walk12, gpa))
            _, two = heard(partial(self.locate01, one.address))
            shift = min(one.shift, two.shift)
            if gpa >> shift not in done:
                done.add(gpa >> shift)
                start, page = gpa >> shift << shift, two.address >> shift << shift
                self.l0.map(fmt, root, start, page, shift, 0x37)
        tables = compile_tables(fmt, Processor())
        return lambda gpa, tap: walk(tables, root, gpa, self.ram, tap)

    def shadow(self, builder, target, page):
        """A shadow of L2's tables with leaves of at most ``page``, in a builder's memory."""
        fmt = format_named("5-level" if self.fmt.levels == 5 else "4-level")
        shift, root = min(SHIFTS[page], SHIFTS[self.row["l2_page"]], self.shift), builder.frame()
        builder.map(fmt, root, GVA, target >> shift << shift, shift, 0x7)
        self.shift = shift
        return compile_tables(fmt, Processor()), root

    shift = 30


@pytest.mark.parametrize("row", NESTED_GUESTS, ids=str)
def test_walks_of_nested_guests_read_as_many_entries_as_the_table_says(row):
    nested_guest, mode = Nested(row), row["mode"].split()[1]
    if mode == "3-D":
        found = nested_guest.through(nested_guest.locate12)
    elif mode == "EPT-on-EPT":
        found = nested_guest.through(nested_guest.merged())
    else:
        l1_page, data = row["l1_page"], nested_guest.data
        spt12 = nested_guest.shadow(nested_guest.l1, data + L1_OFFSET, l1_page)
        if mode == "shadow-on-EPT":
            found = nested_guest.through(nested_guest.locate01, *spt12)
        else:
            hpa = data + L1_OFFSET + L0_OFFSET
            spt02 = nested_guest.shadow(nested_guest.l0, hpa, row["l0_page"])
            found = nested_guest.through(None, *spt02)
    assert found == row["expect"]


@pytest.mark.parametrize(
    "mmu, page, references",
    [
        ("native", "4K", 4),
        ("ept", "4K", 24),
        ("shadow", "4K", 4),
        ("npt", "4K", 24),
        ("l2-ept", "4K", 24),
        ("l2-ept", "2M", 15),
        ("l2-shadow", "4K", 24),
        ("agile", "4K", 4),
        ("agile", "2M", 3),
        ("native", "2M", 3),
        ("ept", "2M", 15),
        ("shadow", "2M", 3),
    ],
)
def test_a_booted_machine_makes_the_same_references(mmu, page, references):
    assert sum(cold_walk(mmu, guest_page=page, host_page=page).values()) == references


@pytest.mark.parametrize(
    "guest, host, references", [(4, 4, 24), (4, 5, 29), (5, 4, 29), (5, 5, 35)]
)
def test_levels_of_guest_and_ept_multiply(guest, host, references):
    assert sum(cold_walk("ept", guest_levels=guest, host_levels=host).values()) == references


@pytest.mark.parametrize(
    "levels, page, native, nested",
    [(2, "4K", 2, 14), (2, "4M", 1, 9), (3, "4K", 2, 14), (3, "2M", 1, 9)],
)
def test_32_bit_guests_boot_and_read_fewer_entries(levels, page, native, nested):
    """PAE as on Intel: its PDPTEs are registers and cost no reference."""
    options = {"guest_levels": levels, "guest_page": page, "gva": 0x1234_5678}
    assert sum(cold_walk("native", **options).values()) == native
    assert cold_walk("shadow", host_page="2M", **options) == {"shadow": native}
    assert sum(cold_walk("ept", **options).values()) == nested


def test_large_guest_pages_on_small_host_pages_read_19():
    assert cold_walk("ept", guest_page="2M", host_page="4K") == {"guest": 3, "ept": 16}
    assert cold_walk("ept", guest_page="4K", host_page="2M") == {"guest": 4, "ept": 15}


def test_a_large_guest_page_on_small_host_pages_is_shadowed_in_small_ones():
    assert cold_walk("shadow", guest_page="2M", host_page="4K") == {"shadow": 4}


def cold_walk(mmu, guest_page="4K", gva=0x7F12_3456_7123, **options):
    records = []
    machine = Machine(mmu, tap=records.append, guest_page=guest_page, **options)
    process = machine.guest.spawn("demo")
    machine.guest.switch(process)
    process.mmap(gva & ~0x3F_FFFF, "4M", page=guest_page)
    machine.guest.touch(gva, Kind.READ)
    machine.cpu.flush_tlb()
    records.clear()
    machine.guest.touch(gva, Kind.READ)
    counts = {}
    for record in records:
        if isinstance(record, Step):
            counts[record.table] = counts.get(record.table, 0) + 1
    return counts
