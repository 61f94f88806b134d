"""A captured guest as it is shown: its address space region by region, and the path of one address.

The path is `walk_scene`, folded from the records of one access in a VM that holds the guest's own
tables; the regions are a fold over the leaves of those tables.
"""

from collections.abc import Iterator
from itertools import groupby

from kvmlab.base.addresses import size_text
from kvmlab.figures.addresses import hex_text
from kvmlab.figures.scene import Scene, Table
from kvmlab.figures.setting import Setting
from kvmlab.figures.walk import walk_scene
from kvmlab.hardware.records import EXECUTE, USER, WRITE, Kind
from kvmlab.text import count, say
from kvmlab.workloads.capture import Capture, Process
from kvmlab.workloads.captured_vm import CapturedVm

COLUMNS = ("from", "to", "size", "pages", "rights", "what")
SHOWN = 40
"""Regions in a table, unless told otherwise."""

# Linux, Documentation/arch/x86/x86_64/mm.rst: what lies at the same place in every kernel.
_KERNEL = (
    (0xFFFF_FE00_0000_0000, 0xFFFF_FE80_0000_0000, "cpu_entry"),
    (0xFFFF_FFFF_8000_0000, 0xFFFF_FFFF_C000_0000, "text"),
    (0xFFFF_FFFF_C000_0000, 0xFFFF_FFFF_FF00_0000, "modules"),
    (0xFFFF_FFFF_FF00_0000, 0xFFFF_FFFF_FFE0_0000, "fixmap"),
)


def path_scene(
    capture: Capture,
    gva: int,
    mmu: str = "ept",
    *,
    process: Process | None = None,
    kind: Kind = Kind.READ,
    user: bool = False,
) -> Scene:
    """The walk of ``gva`` through the tables that ``process`` really had, under ``mmu``.

    Raises `BadAddress` where those tables do not allow the access, and `BadChoice` for a design
    that is none of `captured_vm.DESIGNS`.
    """
    vm = CapturedVm(capture, mmu, process)
    records = vm.cold_walk(gva, kind, user=user)
    context = vm.cpu.context
    every = [one.format for one in (context.tables, context.shadow and context.shadow.tables,
                                    context.ept and context.ept.tables) if one]  # fmt: skip
    formats = {one.table: one.name for one in every}
    return walk_scene(records, Setting(mmu, formats, vm.chain(gva)))


def regions_table(capture: Capture, process: Process | None = None, most: int = SHOWN) -> Table:
    """The address space of ``process``: neighbouring pages of one size, right and name a row.

    At most ``most`` rows; the caption says how many there are in all.
    """
    chosen = process or capture.running
    rows = list(_regions(chosen))
    caption = say(
        "captured.caption",
        guest=capture.guest,
        process=chosen.name,
        pages=count("captured.pages", len(chosen.tables.leaves())),
        tables=count("captured.tables", len(capture.table_levels)),
        shown=min(most, len(rows)),
        regions=count("captured.regions", len(rows)),
    )
    return Table(caption, [say(f"captured.column.{name}") for name in COLUMNS], rows[:most])


def _regions(process: Process) -> Iterator[list[str]]:
    """A row for each run of pages that lie side by side and are alike."""
    reached, run = None, 0
    pages: list[tuple[int, tuple[int, int, str], int]] = []
    for gva, _, shift, _, rights in process.tables.leaves().tolist():
        alike = (shift, rights, _name(process, gva))
        if gva != reached or (pages and pages[-1][1] != alike):
            run += 1
        pages.append((run, alike, gva))
        reached = gva + (1 << shift)
    for (_, (shift, rights, name)), group in groupby(pages, key=lambda page: page[:2]):
        gvas = [page[2] for page in group]
        end = gvas[-1] + (1 << shift)
        size = size_text(end - gvas[0])
        number = f"{len(gvas):,} × {size_text(1 << shift)}"
        yield [hex_text(gvas[0]), hex_text(end), size, number, _letters(rights), name]


def _letters(rights: int) -> str:
    """Who may do what: ``u`` or ``-`` for user mode, then read, write, execute."""
    pairs = ((USER, "u"), (0, "r"), (WRITE, "w"), (EXECUTE, "x"))
    return "".join(letter if rights & bit == bit else "-" for bit, letter in pairs)


def _name(process: Process, gva: int) -> str:
    """What lies at ``gva``: a mapping of the process, or a part of the kernel."""
    mapping = process.mapping_at(gva)
    if mapping:
        return mapping.name or say("captured.anonymous")
    if gva >> 63 == 0:
        return say("captured.unlisted")
    part = next((name for start, end, name in _KERNEL if start <= gva < end), "other")
    return say(f"captured.kernel.{part}")
