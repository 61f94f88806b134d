"""What was walked: the design, its kinds of tables, and where the address leads."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kvmlab.base.errors import BadChoice
from kvmlab.figures.addresses import index_of
from kvmlab.figures.fold import Walk, first_attempt
from kvmlab.figures.lattice import Grid, Register
from kvmlab.hardware.formats import format_named
from kvmlab.machine import DESIGNS, Chain, Machine


@dataclass(frozen=True, slots=True)
class Setting:
    """What was walked: the design, the kinds of tables, and where the address leads."""

    mmu: str  # one of `machine.DESIGNS`
    formats: Mapping[str, str]  # name of the format of each table that is walked
    chain: Chain
    register: Register | None = None  # where the walk begins, if not at a table's top level
    caches: tuple[str, ...] = ()  # that are asked besides the TLB: "upper", "nested"

    @classmethod
    def of(cls, machine: Machine, gva: int) -> "Setting":
        """What ``machine`` walks now, and where ``gva`` of its current process leads."""
        context = machine.cpu.context
        others = [one.tables for one in (context.shadow, context.ept) if one]
        formats = [tables.format for tables in (context.tables, *others) if tables]
        names = {one.table: one.name for one in formats}
        register, caches = _register(machine, gva), tuple(_caches(machine))
        return cls(machine.mmu, names, machine.chain(gva), register, caches)

    @property
    def main(self) -> str:
        """The table that the walk of the GVA goes through."""
        return "shadow" if self.mmu in ("shadow", "l2-shadow") else "guest"

    @property
    def grid(self) -> Grid:
        """The shape of the lattice."""
        ept = self.formats.get("ept")
        return Grid(
            levels=format_named(self.formats[self.main]).levels,
            ept=format_named(ept).levels if ept else 0,
            registers=1 if self.register else 0,
            caches=len(self.caches),
        )


def _caches(machine: Machine) -> Iterator[str]:
    """Agile paging asks no cache of upper entries, and a nested TLB knows only GPAs."""
    cpu = machine.cpu
    if cpu.walk_caches and not cpu.context.shadow:
        yield "upper"
    if cpu.nested_tlb and cpu.context.ept:
        yield "nested"


def _register(machine: Machine, gva: int) -> Register | None:
    """The PDPTE register that ``gva`` chooses, if the CPU walks PAE tables from registers."""
    tables, registers = machine.cpu.context.tables, machine.cpu.context.pdptes
    if registers is None or tables is None:
        return None
    levels = tables.format.levels
    index = index_of(gva, levels, levels)
    return Register(index, registers[index])


def read_walk(records: Iterable[object], setting: Setting) -> Walk:
    """The first attempt in ``records``, sorted; raises `BadChoice` for an unknown design."""
    if setting.mmu not in DESIGNS:
        known = ", ".join(DESIGNS)
        raise BadChoice(f"there is no picture for {setting.mmu!r}; there are {known}")
    return first_attempt(records, setting.grid.top)


def design_name(setting: Setting) -> str:
    """The design with the tables it walks: ``ept: 4-level, EPT-4``."""
    return f"{setting.mmu}: {', '.join(setting.formats.values())}"
