"""What the engine did, in sentences: one for each record that an explanation needs."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from kvmlab.course.problem import Said, Words
from kvmlab.hardware.fields import LEVEL_NAMES
from kvmlab.hardware.records import (
    AccessedDirty,
    GeneralProtection,
    PageFault,
    Step,
    TlbLookup,
    VmExit,
    WalkCacheLookup,
)


def entry_name(table: str, level: int) -> str:
    """What an entry is called: ``PML4E``, ``EPT PDE``, ``shadow PTE``."""
    names = {"guest": "{}", "ept": "EPT {}", "shadow": "shadow {}"}
    return names[table].format(LEVEL_NAMES[level])


def told(records: Iterable[object]) -> tuple[Words, ...]:
    """The sentences of a stream; references are numbered, records of no interest left out."""
    found: list[Words] = []
    number = 0
    for record in records:
        if isinstance(record, Step):
            number += 1
            found.append(_step(number, record))
        elif (say_it := _SENTENCES.get(type(record))) and (said := say_it(record)):
            found.append(said)
    return tuple(found)


def _step(number: int, step: Step) -> Said:
    values = {
        "number": number,
        "name": entry_name(step.table, step.level),
        "index": step.index,
        "hpa": f"{step.hpa:#x}",
        "entry": f"{step.entry:#x}",
        "verdict": Said(f"course.verdict.{step.verdict.value}"),
    }
    return Said("course.told.step", values)


def _lookup(record: TlbLookup) -> Said:
    where = {"where": record.where, "gva": f"{record.gva:#x}"}
    return Said("course.told.miss" if record.where == "miss" else "course.told.hit", where)


def _cached(record: WalkCacheLookup) -> Said | None:
    if not record.level:
        return None
    return Said("course.told.cached", {"name": LEVEL_NAMES[record.level]})


def _mark(record: AccessedDirty) -> Said:
    name = entry_name(record.table, record.level)
    values = {"name": name, "old": f"{record.old:#x}", "new": f"{record.new:#x}"}
    return Said("course.told.mark", values)


def _fault(record: PageFault) -> Said:
    values = {"gva": f"{record.gva:#x}", "code": f"{record.error_code:#x}"}
    return Said("course.told.fault", values)


def _protection(record: GeneralProtection) -> Said:
    return Said("course.told.protection", {"gva": f"{record.gva:#x}"})


def _exit(record: VmExit) -> Said:
    values = {"reason": record.reason.name, "qualification": f"{record.qualification:#x}"}
    return Said("course.told.exit", values)


_SENTENCES: Mapping[type, Callable[[Any], Said | None]] = MappingProxyType(
    {
        TlbLookup: _lookup,
        WalkCacheLookup: _cached,
        AccessedDirty: _mark,
        PageFault: _fault,
        GeneralProtection: _protection,
        VmExit: _exit,
    }
)
