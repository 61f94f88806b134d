"""Page tables that a learner builds: ranges mapped and unmapped, entries edited, accesses tried.

The guest's kernel makes every change by its own stores through its CPU, so a hypervisor that
shadows the tables sees each of them.  It serves no page fault: what an access comes to is what the
learner built.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from kvmlab.base.addresses import (
    PAGE_SHIFT,
    PAGE_SIZE,
    parse_address,
    size_text,
)
from kvmlab.base.errors import BadAddress, BadChoice
from kvmlab.guest.records import TableMade
from kvmlab.guest.tables import LARGE, PRESENT
from kvmlab.hardware import instructions
from kvmlab.hardware.records import Data, Kind, PageFault, VmExit
from kvmlab.kvm.records import WriteTrapped
from kvmlab.study.builder_machine import SWITCHES, learner_machine, switch_on
from kvmlab.study.builder_ranges import check_target, rights_bits, rights_flags, user_range
from kvmlab.study.share import Plan
from kvmlab.study.story import Verb
from kvmlab.study.tree import Entry, Table, entries, entry_at, guest_tables, guest_tree
from kvmlab.study.tried import Faulted, Tried, try_access

T = TypeVar("T")

_KINDS = MappingProxyType({one.name.lower(): one for one in Kind})


class Builder:
    """A machine with one process whose tables are empty, and what may be done to them."""

    def __init__(
        self,
        mmu: str = "ept",
        *,
        levels: int = 4,
        memory: str = "64M",
        switches: Sequence[str] = ("wp",),
        pkru: int | str = 0,
    ) -> None:
        """Boot; ``switches`` of `SWITCHES` are on.  Raises `BadChoice`."""
        self.records: list[object] = []
        self.machine = learner_machine(mmu, levels, memory, self.records.append)
        self._guest = self.machine.guest
        self.process = self._guest.spawn("learner")
        self._guest.switch(self.process)
        switch_on(self.machine, switches, parse_address(pkru))
        self.machine.cpu.page_fault_handler = self._delivered
        self._pages: dict[int, int] = {}  # frames that were taken for pages, and their order
        self._made: set[int] = set()  # tables that the kernel made for the learner
        self.tried: Tried | None = None  # by the last deed
        self.before = self.tree
        self.records.clear()

    @property
    def tree(self) -> Table:
        """The learner's tables as they stand."""
        return guest_tree(self.machine)

    @property
    def exits(self) -> int:
        """How many VM exits the last deed cost."""
        return sum(isinstance(record, VmExit) for record in self.records)

    def written(self) -> list[int]:
        """Where the guest's kernel stored in the last deed, by GPA: stores that trapped, too."""
        base = self._guest.direct_map
        direct = [
            one.gva - base
            for one in self.records
            if isinstance(one, Data) and one.kind is Kind.WRITE and one.gva >= base
        ]
        return direct + [one.gpa for one in self.records if isinstance(one, WriteTrapped)]

    def changed(self) -> set[tuple[int, int]]:
        """The entries that the last deed wrote, as (level, first address)."""
        written = set(self.written())
        both = (*entries(self.before), *entries(self.tree))
        return {(one.level, one.address) for one in both if one.slot in written}

    # -- ranges ------------------------------------------------------------------------------

    def map(self, gva: str, pages: int, page: str, gpa: str, rights: str) -> None:
        """Map ``pages`` pages from ``gva`` on, to ``gpa`` and what follows it, or to free frames.

        ``rights`` are letters of ``wux``.  Raises `BadAddress`, `BadSize`, `Overlap`,
        `OutOfMemory`.
        """
        self._begin()
        start, shift = user_range(self._guest, gva, pages, page)
        flags, order = rights_flags(self._guest.tables.format, rights), shift - PAGE_SHIFT
        to = parse_address(gpa) if gpa.strip() else None
        if to is not None:
            check_target(self.machine, to, shift, pages)
        with self._guest.contexts.entered():
            for number in range(pages):
                if to is None:
                    frame = self._guest.frames.alloc(order)
                    self._pages[frame] = order
                else:
                    frame = to + (number << shift)
                here = start + (number << shift)
                self._kernel(self._guest.tables.map, self.process.root, here, frame, shift, flags)
        self._end()

    def unmap(self, gva: str, pages: int, page: str, flush: bool) -> None:
        """Clear the leaf entries of a range, and the tables that this leaves empty.

        Without ``flush`` the kernel forgets INVLPG, and what the TLB holds stays in use.
        """
        self._begin()
        start, shift = user_range(self._guest, gva, pages, page)
        gone = self._leaves(start, pages << shift)
        with self._guest.contexts.entered():
            frames = [
                self._guest.tables.frame_of(self._read(slot), level) for _, slot, level in gone
            ]
            for here, slot, _level in gone:
                self._write(slot, 0)
                if flush:
                    instructions.invlpg(self.machine.cpu, here)
            for frame in frames:
                self._release(frame)
            for here, _slot, level in {one[1] // PAGE_SIZE: one for one in gone}.values():
                self._prune(here, level)
        self._end()

    def protect(self, gva: str, pages: int, page: str, rights: str, flush: bool) -> None:
        """Give the leaf entries of a range the ``rights``, letters of ``wux``."""
        self._begin()
        start, shift = user_range(self._guest, gva, pages, page)
        flags = rights_flags(self._guest.tables.format, rights)
        known = rights_bits(self._guest.tables.format)
        with self._guest.contexts.entered():
            for here, slot, _level in self._leaves(start, pages << shift):
                self._write(slot, self._read(slot) & ~known | flags)
                if flush:
                    instructions.invlpg(self.machine.cpu, here)
        self._end()

    # -- entries -----------------------------------------------------------------------------

    def set(self, level: int, gva: str, value: str, flush: bool) -> None:
        """Store any value in the entry of ``level`` that translates ``gva``."""
        self._begin()
        entry, new = self._entry(level, gva), parse_address(value)
        if new >> 8 * self._guest.tables.format.entry_bytes:
            width = 8 * self._guest.tables.format.entry_bytes
            raise BadAddress(f"the value {new:#x} does not fit in an entry of {width} bits")
        with self._guest.contexts.entered():
            self._write(entry.slot, new)
            if flush:
                instructions.invlpg(self.machine.cpu, entry.address)
        self._end()

    def flip(self, level: int, gva: str, bit: int, flush: bool) -> None:
        """Change one bit of the entry of ``level`` that translates ``gva``."""
        if not 0 <= bit < 8 * self._guest.tables.format.entry_bytes:
            raise BadChoice(f"an entry has no bit {bit}")
        self.set(level, gva, hex(self._entry(level, gva).value ^ 1 << bit), flush)

    def reload(self) -> None:
        """MOV CR3 with the same root: what is cached goes, and PAE reads its PDPTEs anew."""
        self._begin()
        with self._guest.contexts.entered():
            instructions.mov_cr3(self.machine.cpu, self.process.root)
        self._end()

    def access(self, gva: str, kind: str, user: bool, cold: bool) -> None:
        """Try an access, ``cold`` with an empty TLB; what it came to is in ``tried``."""
        if kind not in _KINDS:
            raise BadChoice(f"an access is {', '.join(_KINDS)}, not {kind!r:.40}")
        self._begin()
        address = parse_address(gva)
        if not self._guest.tables.format.long_mode and address >> 32:
            raise BadAddress(f"address {address:#x} does not fit in the 32 bits of this guest")
        if cold:
            self.machine.cpu.flush_tlb()
        self.records.clear()
        self.tried = try_access(self.machine, self.records, address, _KINDS[kind], user=user)

    # -- what these are made of --------------------------------------------------------------

    def _delivered(self, fault: PageFault) -> None:
        raise Faulted(fault)

    def _begin(self) -> None:
        self.before, self.tried = self.tree, None
        self.records.clear()

    def _end(self) -> None:
        self._made |= {one.gpa for one in self.records if isinstance(one, TableMade)}

    def _leaves(self, start: int, length: int) -> list[tuple[int, int, int]]:
        """Each leaf in a range: its first address, its slot and level; raises `BadAddress`."""
        tree, tables, end = self.tree, guest_tables(self.machine), start + length
        found = []
        here = start
        while here < end:
            leaf = self._leaf(tree, here)
            size = 1 << (leaf.shift if leaf else tables.rows[-1].shift)
            if leaf and (leaf.address < start or leaf.address + size > end):
                raise BadAddress(
                    f"{here:#x} lies in a page of {size_text(size)} at {leaf.address:#x}: "
                    "take all of it, for a large page is one entry"
                )
            found += [(here, leaf.slot, leaf.level)] if leaf else []
            here += size
        return found

    def _leaf(self, tree: Table, gva: int) -> Entry | None:
        """The present leaf that translates ``gva``, as `PageTables.find` takes it."""
        tables = guest_tables(self.machine)
        for row in tables.rows:
            one = entry_at(tree, tables, row.level, gva)
            if one is None or not one.value & PRESENT:
                return None
            if row.level == 1 or one.value & LARGE:
                return one
        return None

    def _entry(self, level: int, gva: str) -> Entry:
        tables, address = guest_tables(self.machine), parse_address(gva)
        if not 1 <= level <= tables.format.levels:
            raise BadChoice(f"there are levels 1 to {tables.format.levels}, not {level}")
        if address >= self._guest.user_end:
            end = self._guest.user_end
            raise BadAddress(f"{address:#x} is not the learner's: user addresses end at {end:#x}")
        found = entry_at(self.tree, tables, level, address)
        if found is None:
            raise BadChoice(
                f"no table of level {level} is there for {address:#x}: map a page first"
            )
        return found

    def _release(self, frame: int) -> None:
        """Give a page back that was taken for the learner, once."""
        order = self._pages.pop(frame, None)
        if order is not None:
            self._guest.frames.release(frame, order)

    def _prune(self, gva: int, level: int) -> None:
        """Unlink and free the tables that an unmapped page leaves empty (free_pgtables)."""
        tables = guest_tables(self.machine)
        for upper in range(level + 1, tables.format.levels + 1):
            entry = entry_at(self.tree, tables, upper, gva)
            full = entry is None or entry.below is None or entry.below.entries
            if entry is None or full or entry.target not in self._made:
                return
            self._write(entry.slot, 0)
            instructions.invlpg(self.machine.cpu, gva)
            self._made.discard(entry.target)
            self._guest.frames.free_table(entry.target)

    def _read(self, slot: int) -> int:
        return self._kernel(self._guest.tables.read, slot)

    def _write(self, slot: int, value: int) -> None:
        self._kernel(self._guest.tables.write, slot, value)

    def _kernel(self, act: Callable[..., T], *arguments: object) -> T:
        """Do what the kernel does; raises `BadAddress` if the tables lead it astray itself."""
        try:
            return act(*arguments)
        except Faulted as stop:
            gva = stop.fault.gva
            raise BadAddress(
                f"the guest's kernel faulted itself at {gva:#x}: an entry leads to a table where "
                "the guest has no memory"
            ) from None


def begin(plan: Plan) -> Builder:
    """The builder of a lab's plan."""
    levels = plan["levels"]
    assert isinstance(levels, int)  # noqa: S101  the lab has checked the types
    return Builder(
        str(plan["mmu"]),
        levels=levels,
        memory=str(plan["memory"]),
        switches=[name for name in SWITCHES if plan[name]],
        pkru=str(plan["pkru"]),
    )


VERBS: Mapping[str, Verb[Builder]] = MappingProxyType(
    {
        "map": Verb(Builder.map, (str, int, str, str, str)),
        "unmap": Verb(Builder.unmap, (str, int, str, bool)),
        "protect": Verb(Builder.protect, (str, int, str, str, bool)),
        "set": Verb(Builder.set, (int, str, str, bool)),
        "flip": Verb(Builder.flip, (int, str, int, bool)),
        "reload": Verb(Builder.reload),
        "access": Verb(Builder.access, (str, str, bool, bool)),
    }
)
