"""Trees of page tables as they stand in memory, read without effect: nothing is walked by a CPU.

What an entry is, the walker's own `judge` says, so a picture of a tree and a walk through it cannot
disagree.  A tree that the learner bent may contain itself; as the walk does, reading ends at the
last level.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.base.errors import BadChoice
from kvmlab.guest.process import Process
from kvmlab.hardware.context import Context
from kvmlab.hardware.fields import Switches
from kvmlab.hardware.formats import Row, Tables, compile_tables
from kvmlab.hardware.processor import CR4_PKE, CR4_PKS, CR4_PSE, EFER_NXE
from kvmlab.hardware.records import Verdict
from kvmlab.hardware.walker import judge
from kvmlab.machine import Machine

Read = Callable[[int, int], bytes | None]
"""``size`` bytes at an address of the space in which the tables live; None: no memory there."""

MOST_ENTRIES = 4000  # a tree is read up to so many entries; a learner reads fewer


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry that is not zero, the first address that it translates, and what is below it."""

    level: int
    address: int  # what it translates: a GVA, or a GPA in EPT
    slot: int  # where it is, in the space of its tables
    index: int
    value: int
    verdict: Verdict
    target: int  # the next table, or the page
    shift: int  # of what it translates
    below: "Table | None" = None


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its level, where it is, and its entries; None if there is no memory at all."""

    level: int
    base: int
    entries: list[Entry] | None


def guest_tables(machine: Machine) -> Tables:
    """The format in which the guest's kernel writes its tables, with the switches that it set."""
    seen = machine.cpu.registers
    switches = Switches(
        nxe=bool(seen.efer & EFER_NXE),
        pse=bool(seen.cr4 & CR4_PSE),
        keys=bool(seen.cr4 & (CR4_PKE | CR4_PKS)),
    )
    return compile_tables(machine.guest.tables.format, machine.cpu.processor, switches)


def guest_memory(machine: Machine) -> Read:
    """Guest-physical memory as it is, or in the host's swap; what was never touched is zero."""
    vm = machine.vm

    def read(gpa: int, size: int) -> bytes | None:
        if vm is None:
            return machine.ram.read(gpa, size) if gpa < machine.ram.size else None
        slot = vm.slots.find(gpa)
        if slot is None:
            return None
        hpa = machine.host_address(gpa)
        if hpa is not None:
            return machine.ram.read(hpa, size)
        return _from_swap(machine, slot.hva_of(gpa), size)

    return read


def _from_swap(machine: Machine, hva: int, size: int) -> bytes:
    """What the host keeps in swap of a page; zeroes if it never had the page."""
    qemu, host = machine.vmm, machine.host
    leaf = qemu.process.table.find(hva) if qemu and host and not machine.l1 else None
    if leaf is None or host is None:
        return bytes(size)
    start = hva % PAGE_SIZE
    return host.memory.swap.load(leaf.slot)[start : start + size]


def guest_tree(machine: Machine, process: Process | None = None, most: int = MOST_ENTRIES) -> Table:
    """The tables of a process, its own half: of that which runs, unless told otherwise.

    Raises `BadChoice` if none runs.
    """
    process = process or machine.guest.current
    if process is None:
        raise BadChoice("no process runs on this machine: switch to one first")
    tables = guest_tables(machine)
    own = machine.guest.user_end >> tables.rows[0].shift
    return _Reader(tables, guest_memory(machine), most).table(process.root, own)


def ept_tree(machine: Machine) -> Table | None:
    """The tables of the second dimension; None where the CPU walks none."""
    ept = machine.cpu.context.ept
    if ept is None:
        return None
    return _Reader(ept.tables, _host_memory(machine)).table(ept.root)


def shadow_tree(machine: Machine) -> Table | None:
    """The tables that a shadow MMU armed; None for any other design."""
    context = machine.cpu.context
    if context.tables is None or context.tables.format.table != "shadow":
        return None
    read = _host_memory(machine)
    if context.pdptes is None:
        return _Reader(context.tables, read).table(context.root)
    return _from_registers(machine, context, read)


def _from_registers(machine: Machine, context: Context, read: Read) -> Table:
    """A PAE tree that begins in the CPU's registers."""
    assert context.tables is not None  # noqa: S101  the caller looked
    whole = compile_tables(context.tables.format, machine.cpu.processor, context.tables.switches)
    words = b"".join(one.to_bytes(8, "little") for one in context.pdptes or ())

    def here(address: int, size: int) -> bytes | None:
        return words if address == context.root and size == len(words) else read(address, size)

    return _Reader(whole, here).table(context.root)


def _host_memory(machine: Machine) -> Read:
    ram = machine.ram
    return lambda hpa, size: ram.read(hpa, size) if hpa < ram.size else None


class _Reader:
    """Reads tables of one format until there are too many entries to show."""

    def __init__(self, tables: Tables, read: Read, most: int = MOST_ENTRIES) -> None:
        self._tables, self._read, self._left = tables, read, most

    def table(self, base: int, own: int | None = None, depth: int = 0, start: int = 0) -> Table:
        """The table at ``base``, of it the first ``own`` entries, translating from ``start`` on."""
        row, width = self._tables.rows[depth], self._tables.format.entry_bytes
        count = min(own or row.index_mask + 1, row.index_mask + 1)
        data = self._read(base, count * width)
        if data is None:
            return Table(row.level, base, None)
        words = np.frombuffer(data, np.uint64 if width == 8 else np.uint32)
        entries = []
        for index in np.flatnonzero(words).tolist():
            if self._left <= 0:
                break
            self._left -= 1
            value, slot = int(words[index]), base + index * width
            entries.append(self._entry(row, depth, start | index << row.shift, slot, value))
        return Table(row.level, base, entries)

    def _entry(self, row: Row, depth: int, address: int, slot: int, value: int) -> Entry:
        verdict = judge(self._tables, row, value)
        target, below = value & row.table_address, None
        if verdict is Verdict.LEAF:
            target = value & row.page_address | (value & row.page_high) << 19
        elif verdict is Verdict.TABLE:
            below = self.table(target, None, depth + 1, address)
        index = address >> row.shift & row.index_mask
        return Entry(row.level, address, slot, index, value, verdict, target, row.shift, below)


def entries(table: Table | None) -> Iterator[Entry]:
    """Every entry of a tree, each before what is below it."""
    for one in (table.entries or ()) if table else ():
        yield one
        yield from entries(one.below)


def entry_at(tree: Table, tables: Tables, level: int, address: int) -> Entry | None:
    """The entry of ``level`` that a walk of ``address`` would read, zero or not.

    None if the walk ends above it, or there is no memory where it would be.
    """
    table: Table | None = tree
    for row in tables.rows:
        if table is None or table.entries is None:
            return None
        index = address >> row.shift & row.index_mask
        found = next((one for one in table.entries if one.index == index), None)
        if row.level == level:
            slot = table.base + index * tables.format.entry_bytes
            start = address >> row.shift << row.shift
            empty = Entry(level, start, slot, index, 0, Verdict.ABSENT, 0, row.shift)
            return replace(found, address=start) if found else empty
        table = found.below if found else None
    return None


def dump(tree: Table, entry_bytes: int = 8) -> str:
    """A tree as xv6's ``vmprint`` shows its own: ``.. ..0: pte 0x... pa 0x...``.

    One ``..`` for each level down; indices are decimal, entries that are not present left out.
    """
    digits = 2 * entry_bytes + 2
    lines = [f"page table {tree.base:#018x}"]

    def tell(table: Table, depth: int) -> None:
        for one in table.entries or ():
            if one.verdict is Verdict.ABSENT:
                continue
            dots = " ".join([".."] * depth)
            pte, target = f"{one.value:#0{digits}x}", f"{one.target:#018x}"
            lines.append(f"{dots}{one.index}: pte {pte} pa {target}")
            if one.below:
                tell(one.below, depth + 1)

    tell(tree, 1)
    return "\n".join(lines)


def dumps(machine: Machine) -> list[tuple[str, str]]:
    """Every tree of a machine as `dump` shows it: the guest's, then EPT's or the shadow's."""
    width = machine.guest.tables.format.entry_bytes
    found = [("guest", dump(guest_tree(machine), width))]
    for name, tree in (("ept", ept_tree(machine)), ("shadow", shadow_tree(machine))):
        found += [(name, dump(tree))] if tree else []
    return found
