"""One access to tables that a learner built: what it came to, and which bits of which entry say so.

What the access came to is what the machine did, told by its records.  Why is read from the tables
as they were just before, with the walker and the rules of `permissions`, and without effect.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kvmlab.base.addresses import PAGE_SHIFT, is_canonical
from kvmlab.base.errors import MachineCheck, SegmentationFault
from kvmlab.hardware import permissions
from kvmlab.hardware.formats import (
    ALL_RIGHTS,
    XD,
    Tables,
    can_be_leaf,
    fields,
    reserved_bits,
    without_pointers,
)
from kvmlab.hardware.permissions import PF_FETCH, PF_KEY, PF_PRESENT, PF_RESERVED, PF_USER, PF_WRITE
from kvmlab.hardware.processor import CR0_WP, Controls
from kvmlab.hardware.records import (
    EXECUTE,
    USER,
    WRITE,
    AccessedDirty,
    Fault,
    Kind,
    Mapped,
    PageFault,
    Step,
    TlbLookup,
    Verdict,
    VmExit,
)
from kvmlab.hardware.walker import Locate, Walked, steps_of
from kvmlab.kvm.records import MmioExit
from kvmlab.machine import Machine
from kvmlab.study.tree import guest_tables

_POINTER = 0x000F_FFFF_FFFF_F000
_KEY_SHIFT, _KEYS = 59, 15
CODE_BITS = (
    ("P", PF_PRESENT),
    ("W/R", PF_WRITE),
    ("U/S", PF_USER),
    ("RSVD", PF_RESERVED),
    ("I/D", PF_FETCH),
    ("PK", PF_KEY),
)
"""The bits of a #PF error code that the engine has (SDM, "Page-Fault Exceptions")."""


class Faulted(Exception):
    """The guest's #PF handler was called."""

    def __init__(self, fault: PageFault) -> None:
        super().__init__(fault)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason why tables refuse an access: bits of the entry of a level, or a register.

    ``why``: "absent", "reserved", "user", "write", "execute", "smep", "smap" or "key".
    """

    why: str
    level: int
    bits: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """One access, the tables that it met, and what it came to.

    ``end``: "mapped", "mmio" (no memory there), "emulated" (by KVM), "page_fault",
    "general_protection" or "machine_check".
    """

    gva: int
    kind: Kind
    user: bool
    path: Sequence[Step]  # the guest's entries, as they were before
    says: str  # what the tables say: "mapped", "absent", "reserved", "rights" or "key"
    causes: Sequence[Cause]  # of a refusal by the tables
    end: str
    hpa: int | None
    fault: PageFault | None
    records: Sequence[object]
    why: str = ""  # what stopped the machine, if it stopped

    @property
    def hit(self) -> bool:
        """Whether the TLB answered."""
        first = next((one for one in self.records if isinstance(one, TlbLookup)), None)
        return first is not None and first.where != "miss"

    @property
    def stale(self) -> bool:
        """Whether the TLB let pass what the tables do not say any more."""
        return self.hit and self.says != "mapped" and self.end == "mapped"

    @property
    def exits(self) -> list[VmExit]:
        """The VM exits that it took."""
        return [one for one in self.records if isinstance(one, VmExit)]

    @property
    def marked(self) -> list[AccessedDirty]:
        """The A and D bits that hardware set."""
        return [one for one in self.records if isinstance(one, AccessedDirty)]


def try_access(
    machine: Machine, records: list[object], gva: int, kind: Kind, *, user: bool
) -> Tried:
    """Make an access and say what it came to; the machine's tap fills ``records``."""
    path, found = look(machine, gva)
    says, causes = judged(machine, path, found, kind, user=user)
    end, hpa, fault, why = _made(machine, records, gva, kind, user=user)
    return Tried(gva, kind, user, path, says, causes, end, hpa, fault, tuple(records), why)


def _made(
    machine: Machine, records: list[object], gva: int, kind: Kind, *, user: bool
) -> tuple[str, int | None, PageFault | None, str]:
    """The access itself: how it ended, where, by which fault, and why a machine stopped."""
    cpu = machine.cpu
    cpu.cpl = 3 if user else 0
    try:
        hpa = cpu.access(gva, kind)
    except Faulted as stop:
        return "page_fault", None, stop.fault, ""
    except SegmentationFault:
        return "general_protection", None, None, ""
    except MachineCheck as stop:
        return "machine_check", None, None, str(stop)
    finally:
        cpu.cpl = 0
    if hpa is not None:
        return "mapped", hpa, None, ""
    outside = any(isinstance(one, MmioExit) for one in records)
    return "mmio" if outside else "emulated", None, None, ""


def look(machine: Machine, gva: int) -> tuple[list[Step], Mapped | Fault]:
    """The guest's own entries for ``gva`` as a walk would read them, and where they lead."""
    tables, root = guest_tables(machine), _root(machine)
    if not is_canonical(gva, machine.guest.width) and tables.format.long_mode:
        return [], Fault("guest", 0, "canonical", gva, 0, 0)
    pointers = machine.cpu.registers.pdptes if tables.format.mode == "PAE" else None
    if pointers:
        pointer = pointers[gva >> 30 & 3]
        if not pointer & 1:
            return [], Fault("guest", tables.format.levels, "absent", gva, 0, 0)
        tables, root = without_pointers(tables), pointer & _POINTER
    locate = _locator(machine) if machine.vm else None
    return steps_of(tables, root, gva, machine.ram, locate)


def _root(machine: Machine) -> int:
    process = machine.guest.current
    assert process is not None  # noqa: S101  a builder's machine always runs one
    return process.root


def _locator(machine: Machine) -> Locate:
    def locate(gpa: int) -> Walked:
        hpa = machine.host_address(gpa)
        if hpa is None:
            return Fault("guest", 0, "absent", gpa, 0, 0)
        return Mapped("host", hpa, PAGE_SHIFT, ALL_RIGHTS, 0, [])

    return locate


def judged(
    machine: Machine, path: Sequence[Step], found: Mapped | Fault, kind: Kind, *, user: bool
) -> tuple[str, list[Cause]]:
    """What the tables say to an access, and the bits because of which they refuse it."""
    tables = guest_tables(machine)
    if isinstance(found, Fault):
        return found.why, _stopped(machine, tables, path, found)
    controls = machine.cpu.registers
    causes = list(_refusals(controls, tables, path, found.rights, kind, user=user))
    if permissions.key_denies(controls, found.leaf, found.rights, kind, user=user):
        key = found.leaf >> _KEY_SHIFT & _KEYS
        bits = tuple(bit for bit in range(_KEY_SHIFT, 63) if key >> bit - _KEY_SHIFT & 1)
        return "key", [Cause("key", path[-1].level, bits), *causes]
    if permissions.allowed(controls, found.rights, kind, user=user):
        return "mapped", []
    return "rights", causes


def _stopped(machine: Machine, tables: Tables, path: Sequence[Step], found: Fault) -> list[Cause]:
    """The bits of the entry that ended the walk; none if no entry was read."""
    if not path or path[-1].verdict not in (Verdict.ABSENT, Verdict.RESERVED):
        return [Cause("absent", found.level, ())] if found.why == "absent" else []
    step = path[-1]
    if step.verdict is Verdict.ABSENT:
        return [Cause("absent", step.level, (0,))]
    bits = step.entry & _reserved(machine, tables, step)
    return [Cause("reserved", step.level, tuple(_numbers(bits)))]


def _reserved(machine: Machine, tables: Tables, step: Step) -> int:
    cpu, fmt = machine.cpu.processor, tables.format
    large = step.entry & 1 << 7 and can_be_leaf(fmt, step.level, cpu, tables.switches)
    leaf = step.level == 1 or bool(large)
    known = fields(fmt, step.level, leaf=leaf, cpu=cpu, switches=tables.switches)
    return reserved_bits(fmt, known)


def _numbers(bits: int) -> Iterator[int]:
    return (number for number in range(64) if bits >> number & 1)


def _refusals(
    controls: Controls,
    tables: Tables,
    path: Sequence[Step],
    rights: int,
    kind: Kind,
    *,
    user: bool,
) -> Iterator[Cause]:
    """Each right that is missing, with every entry that withholds it (SDM, "Access Rights")."""
    entries = [one for one in path if one.level != tables.no_rights_level]
    if user and not rights & USER:
        yield from (Cause("user", one.level, (2,)) for one in entries if not one.entry & 4)
    must_write = kind is Kind.WRITE and (user or controls.cr0 & CR0_WP)
    if must_write and not rights & WRITE:
        yield from (Cause("write", one.level, (1,)) for one in entries if not one.entry & 2)
    if kind is Kind.FETCH and not rights & EXECUTE:
        yield from (Cause("execute", one.level, (63,)) for one in entries if one.entry & XD)
    if not user and rights & USER:
        free = permissions.allowed(controls, rights & ~USER, kind, user=False)
        if free and not permissions.allowed(controls, rights, kind, user=False):
            yield Cause("smep" if kind is Kind.FETCH else "smap", entries[-1].level, (2,))
