"""Questions on single entries: what their bits say, to the guest's tables and to EPT."""

from kvmlab.course.bench import ACCESSED, DIRTY, OPEN, PRESENT, XD, Bench
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Bits, Number, Problem, Said, Words, kind, picked
from kvmlab.course.told import entry_name, told
from kvmlab.hardware.cpu import Outcome
from kvmlab.hardware.describe import describe
from kvmlab.hardware.formats import PS, compile_tables, format_named
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.records import ExitReason, Kind, VmExit
from kvmlab.hardware.walker import judge

_ADDRESS = 0x000F_FFFF_FFFF_F000
_LOW = 0xFFF


def _flags(entry: int, fmt: str, level: int) -> frozenset[str]:
    """The one-bit fields of an entry that are set, by name."""
    known = describe(entry, fmt, level)
    return frozenset(
        one.name for one in known if one.high == one.low and one.value and one.name != "ign"
    )


def _listed(entry: int, fmt: str, level: int) -> tuple[Words, ...]:
    """Every field of an entry, one to a line."""
    return tuple(
        f"{_bits(one.high, one.low)} {one.name} = {one.value:#x}"
        for one in describe(entry, fmt, level)
        if one.name not in ("ign", "reserved")
    )


def _bits(high: int, low: int) -> str:
    return str(low) if high == low else f"{high}:{low}"


@kind("entry.frame")
def frame(draw: Draw, difficulty: int) -> Problem:
    """The page that a leaf maps."""
    bench = Bench(draw)
    shift = draw.choose(((12,), (12, 21), (21, 30))[difficulty - 1])
    flags = OPEN | ACCESSED | (DIRTY if draw.chance(50) else 0)
    flags |= XD if draw.chance(60) else 0
    flags |= 1 << 12 if shift > 12 and draw.chance(60) else 0  # PAT of a large leaf
    gva = draw.between(1, (1 << 47 - shift) - 1) << shift
    page = bench.map(gva, shift, flags)
    steps, found = bench.walk(gva)
    entry = steps[-1].entry
    level = steps[-1].level
    answer = getattr(found, "address", page)
    return Problem(
        Number(base=16),
        answer,
        {"entry": f"{entry:#018x}", "name": entry_name("guest", level), "size": 1 << shift - 10},
        {
            "flags-kept": entry & ~XD,
            "small-leaf": entry & _ADDRESS,
            "xd-in-address": entry & ~_LOW,
            "frame-number": answer >> 12,
        },
        steps=(*_listed(entry, "4-level", level), *told(steps[-1:])),
    )


@kind("entry.bits")
def bits(draw: Draw, difficulty: int) -> Problem:
    """Which flags of a guest's entry are set."""
    level = 2 if difficulty == 3 else 1
    size = "PS" if level == 2 else "PAT"
    names = ("P", "R/W", "U/S", "PWT", "PCD", "A", "D", size, "G", "XD")
    low = PRESENT | draw.below(1 << 8) << 1 | (PS if level == 2 else 0)
    if difficulty == 1:
        low &= ~(PS | 0x18)  # nothing about caching yet
    entry = draw.between(16, 0xFFFFF) << (21 if level == 2 else 12)
    entry |= low | (XD if draw.chance(50) else 0)
    answer = _flags(entry, "4-level", level)
    shifted = _flags((entry & _LOW) << 1 & _LOW | entry & ~_LOW, "4-level", level)
    return Problem(
        Bits(names),
        answer,
        {"entry": f"{entry:#018x}", "name": entry_name("guest", level)},
        {"counted-from-one": shifted & set(names), "high-bits-forgotten": answer - {"XD"}},
        steps=_listed(entry, "4-level", level),
    )


@kind("entry.ept")
def ept(draw: Draw, difficulty: int) -> Problem:
    """Which flags of an EPT leaf are set."""
    level = 2 if difficulty == 3 else 1
    names = ("R", "W", "X", "IPAT", "A", "D") + (("PS",) if level == 2 else ())
    rights = draw.choose((1, 3, 5, 7, 7))
    flags = rights | 6 << 3 | draw.below(2) << 6 | draw.below(4) << 8 | (PS if level == 2 else 0)
    entry = draw.between(16, 0xFFFFF) << (21 if level == 2 else 12) | flags
    answer = _flags(entry, "EPT-4", level)
    guest = {1: "R", 2: "W", 4: "X", ACCESSED: "A", DIRTY: "D", PS: "PS"}
    as_guest = frozenset(name for bit, name in guest.items() if entry & bit) & set(names)
    inverted = answer ^ {"X"}
    return Problem(
        Bits(names),
        answer,
        {"entry": f"{entry:#018x}", "name": entry_name("ept", level)},
        {"guest-layout": as_guest, "x-inverted": inverted},
        steps=_listed(entry, "EPT-4", level),
    )


_VERDICTS = ("table", "leaf", "absent", "reserved")


def _guest_entry(draw: Draw, verdict: str, level: int) -> int:
    """An entry of which a walker would say ``verdict``."""
    entry = draw.between(16, 0xFFFFF) << 12 + 9 * (level - 1) | OPEN | ACCESSED
    if verdict == "absent":
        return entry & ~PRESENT | draw.choose((PS, 1 << 47, 1 << 50, 0))
    if verdict == "reserved":
        kinds = [1 << draw.between(47, 51)]
        kinds += [PS] if level == 4 else []
        kinds += [PS | 1 << draw.between(13, 20)] if level in (2, 3) else []
        return entry | draw.choose(kinds)
    if verdict == "leaf":
        return entry | (PS if level in (2, 3) or draw.chance(50) else 0)
    return entry


@kind("entry.verdict")
def verdict(draw: Draw, difficulty: int) -> Problem:
    """What a walk makes of an entry."""
    level = draw.choose(((1, 2), (2, 3), (1, 2, 3, 4))[difficulty - 1])
    wanted = draw.choose(_VERDICTS)
    entry = _guest_entry(draw, wanted, level)
    tables = compile_tables(format_named("4-level"), Processor())
    row = next(one for one in tables.rows if one.level == level)
    answer = judge(tables, row, entry).value
    mistaken = {
        "absent-reserved": "reserved" if answer == "absent" else answer,
        "ps-ignored": "table" if answer == "leaf" and level > 1 else answer,
        "ps-is-always-leaf": "leaf" if answer in ("absent", "reserved") and entry & PS else answer,
        "reserved-ignored": ("leaf" if entry & PS or level == 1 else "table")
        if answer == "reserved"
        else answer,
        "pat-is-ps": "table" if level == 1 and answer == "leaf" and not entry & PS else answer,
    }
    options: dict[str, Words] = {one: Said(f"course.verdict.{one}") for one in _VERDICTS}
    return Problem(
        picked(draw, options),
        answer,
        {"entry": f"{entry:#018x}", "name": entry_name("guest", level)},
        mistaken,
        steps=_listed(entry, "4-level", level),
    )


_EPT_WAYS = ("through", "violation", "misconfiguration")


def _way(outcome: Outcome) -> str:
    if not isinstance(outcome, VmExit):
        return "through"
    return "misconfiguration" if outcome.reason is ExitReason.EPT_MISCONFIG else "violation"


@kind("entry.misconfiguration")
def misconfiguration(draw: Draw, difficulty: int) -> Problem:
    """Whether EPT lets an access through, or which exit it makes."""
    bench = Bench(draw, ept=True)
    gva = draw.between(1, (1 << 35) - 1) << 12
    gpa = bench.map(gva, flags=OPEN | ACCESSED | DIRTY)
    rights = draw.choose((0, 1, 2, 3, 6, 7, 5)[: 5 + difficulty - 1])
    types = (6,) if difficulty == 1 else (6, 0, 2, 3, 7)
    memory_type = draw.choose(types)
    access = draw.choose((Kind.READ, Kind.WRITE, Kind.FETCH)[: 2 + (difficulty > 1)])
    entry = bench.back(gpa, rights, leaf=memory_type << 3)
    outcome = bench.access(gva, access)
    answer = _way(outcome)
    granted = "through" if rights & access else "violation"
    mistaken = {
        "absent-misconfigured": "misconfiguration" if not rights else answer,
        "misconfiguration-unknown": granted if answer == "misconfiguration" else answer,
        "rights-misconfigured": "misconfiguration" if answer == "violation" else answer,
    }
    options: dict[str, Words] = {one: Said(f"course.ept.{one}") for one in _EPT_WAYS}
    return Problem(
        picked(draw, options),
        answer,
        {
            "entry": f"{entry | rights | (memory_type << 3 if rights else 0):#018x}",
            "access": Said(f"course.access.{access.name.lower()}"),
        },
        mistaken,
        steps=told([*bench.records[-2:], *([outcome] if isinstance(outcome, VmExit) else [])]),
    )


KINDS = (frame, bits, ept, verdict, misconfiguration)
