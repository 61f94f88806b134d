"""Questions on what the processor does beside finding: #PF, error codes, A and D bits."""

from dataclasses import dataclass

from kvmlab.course.bench import ACCESSED, DIRTY, OPEN, PRESENT, USER, WRITABLE, XD, Bench, canonical
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Bits, Number, Problem, Said, Words, kind, picked
from kvmlab.course.told import told
from kvmlab.hardware.cpu import Outcome
from kvmlab.hardware.fields import LEVEL_NAMES
from kvmlab.hardware.permissions import (
    PF_FETCH,
    PF_PRESENT,
    PF_RESERVED,
    PF_USER,
    PF_WRITE,
)
from kvmlab.hardware.processor import CR0_WP, CR4_SMAP, CR4_SMEP
from kvmlab.hardware.records import AccessedDirty, Kind, PageFault, Step

_PAGES = ("absent", "read-only", "supervisor", "no-execute", "reserved")
_UPPER = dict.fromkeys(range(1, 6), OPEN | ACCESSED)


@dataclass(frozen=True, slots=True)
class Try:
    """One access to one kind of page."""

    page: str
    access: Kind
    user: bool

    @property
    def words(self) -> Said:
        """The access in words."""
        who = Said("course.user" if self.user else "course.supervisor")
        what = Said(f"course.access.{self.access.name.lower()}")
        page = Said(f"course.page.{self.page}")
        return Said("course.try", {"who": who, "what": what, "page": page})


def _flags(page: str) -> int:
    """The leaf of a page of that kind."""
    flags = OPEN | ACCESSED | DIRTY
    flags &= ~{"absent": PRESENT, "read-only": WRITABLE, "supervisor": USER}.get(page, 0)
    return flags | {"no-execute": XD, "reserved": 1 << 48}.get(page, 0)


def _attempt(bench: Bench, gva: int, one: Try) -> Outcome:
    bench.map(gva, 12, _flags(one.page), _UPPER, frame=bench.root)
    return bench.access(gva, one.access, user=one.user)


def _tries(pages: tuple[str, ...]) -> list[Try]:
    accesses = (Kind.READ, Kind.WRITE, Kind.FETCH)
    return [Try(page, one, user) for page in pages for one in accesses for user in (True, False)]


@kind("fault.code")
def code(draw: Draw, difficulty: int) -> Problem:
    """The error code of a #PF."""
    pages = (_PAGES[:2], _PAGES[:3], _PAGES)[difficulty - 1]
    bench = Bench(draw)
    gva = canonical(draw, "4-level")
    while True:
        one = draw.choose(_tries(pages))
        outcome = _attempt(bench, gva, one)
        if isinstance(outcome, PageFault):
            break
    found = outcome.error_code
    user_page = one.page != "supervisor"
    return Problem(
        Number(base=16),
        found,
        {"what": one.words},
        {
            "present-bit": found ^ PF_PRESENT,
            "user-bit-of-page": found & ~PF_USER | (PF_USER if user_page else 0),
            "write-bit": found ^ PF_WRITE,
            "fetch-bit": found ^ PF_FETCH,
            "reserved-bit": found ^ PF_RESERVED,
        },
        steps=told([*bench.records[-4:], outcome]),
    )


@kind("fault.which")
def which(draw: Draw, difficulty: int) -> Problem:
    """Which access had this error code: the others differ from it in a bit."""
    pages = (_PAGES[:3], _PAGES, _PAGES)[difficulty - 1]
    bench = Bench(draw)
    gva = canonical(draw, "4-level")
    codes: dict[int, Try] = {}
    for one in draw.shuffled(_tries(pages)):
        outcome = _attempt(bench, gva, one)
        if isinstance(outcome, PageFault):
            codes.setdefault(outcome.error_code, one)
    bits = {
        "present-bit": PF_PRESENT,
        "write-bit": PF_WRITE,
        "user-bit": PF_USER,
        "fetch-bit": PF_FETCH,
        "reserved-bit": PF_RESERVED,
    }
    right = draw.choose(sorted(codes))
    near = {name: right ^ bit for name, bit in bits.items() if right ^ bit in codes}
    chosen = draw.sample(sorted(near), 3)
    others = [near[name] for name in chosen]
    rest = [one for one in sorted(codes) if one not in (right, *others)]
    others += draw.sample(rest, 3 - len(others))
    options: dict[str, Words] = {f"{one:#x}": codes[one].words for one in (right, *others)}
    bench.records.clear()
    outcome = _attempt(bench, gva, codes[right])
    return Problem(
        picked(draw, options),
        f"{right:#x}",
        {"code": f"{right:#x}"},
        {name: f"{near[name]:#x}" for name in chosen},
        steps=told([*bench.records, outcome]),
    )


@kind("fault.supervisor")
def supervisor(draw: Draw, difficulty: int) -> Problem:
    """What CR0.WP, SMEP and SMAP make of an access by the kernel."""
    bench = Bench(draw)
    gva = canonical(draw, "4-level")
    controls = bench.cpu.controls
    wp, smep, smap = draw.chance(50), draw.chance(50), difficulty > 1 and draw.chance(50)
    controls.cr0 = controls.cr0 if wp else controls.cr0 & ~CR0_WP
    controls.cr4 |= (CR4_SMEP if smep else 0) | (CR4_SMAP if smap else 0)
    bench.cpu.refresh()
    writable, user = draw.chance(40), draw.chance(60)
    flags = PRESENT | ACCESSED | DIRTY | (WRITABLE if writable else 0) | (USER if user else 0)
    access = draw.choose((Kind.READ, Kind.WRITE, Kind.WRITE, Kind.FETCH))
    bench.map(gva, 12, flags, _UPPER)
    outcome = bench.access(gva, access, user=False)
    answer = "fault" if isinstance(outcome, PageFault) else "through"
    denied = access is Kind.WRITE and not writable
    mistaken = {
        "kernel-may-all": "through",
        "wp-forgotten": "fault" if denied and not wp else answer,
        "user-page-closed": "fault" if user and answer == "through" else answer,
    }
    options: dict[str, Words] = {
        "fault": Said("course.fault.fault"),
        "through": Said("course.fault.through"),
    }
    return Problem(
        picked(draw, options),
        answer,
        {
            "access": Said(f"course.access.{access.name.lower()}"),
            "writable": int(writable),
            "user": int(user),
            "wp": int(wp),
            "smep": int(smep),
            "smap": int(smap),
        },
        mistaken,
        steps=told([*bench.records, *([outcome] if isinstance(outcome, PageFault) else [])]),
    )


def _series(draw: Draw, length: int) -> list[Kind]:
    return [draw.choose((Kind.READ, Kind.WRITE, Kind.FETCH)) for _ in range(length)]


@kind("fault.accessed")
def accessed(draw: Draw, difficulty: int) -> Problem:
    """Which A and D bits are set after some accesses."""
    bench = Bench(draw)
    gva = canonical(draw, "4-level")
    shift = 21 if difficulty == 3 and draw.chance(50) else 12
    bench.map(gva, shift, OPEN, dict.fromkeys(range(1, 6), OPEN))
    accesses = _series(draw, difficulty)
    for one in accesses:
        bench.access(gva, one)
    steps, _ = bench.walk(gva)
    names = [LEVEL_NAMES[step.level] for step in steps]
    bits = tuple(f"{name}.{bit}" for bit in "AD" for name in names)
    found = {f"{LEVEL_NAMES[step.level]}.A" for step in steps if step.entry & ACCESSED}
    found |= {f"{LEVEL_NAMES[step.level]}.D" for step in steps if step.entry & DIRTY}
    wrote = Kind.WRITE in accesses
    everywhere = {f"{name}.D" for name in names} if wrote else set()
    return Problem(
        Bits(bits),
        frozenset(found),
        {"gva": f"{gva:#x}", "accesses": _listed(accesses), "size": 1 << shift - 10},
        {
            "dirty-everywhere": frozenset(found | everywhere),
            "accessed-leaf-only": frozenset(
                one for one in found if one.startswith(names[-1] + ".")
            ),
            "reads-dirty": frozenset(found | {f"{names[-1]}.D"}),
            "write-no-access": frozenset(one for one in found if one[-1] == "D"),
        },
        steps=told(bench.records),
    )


def _listed(accesses: list[Kind]) -> Said:
    """The accesses in words: as many sentences as there are, one in the other."""
    first = Said(f"course.access.{accesses[0].name.lower()}")
    if len(accesses) == 1:
        return first
    return Said("course.then", {"first": first, "rest": _listed(accesses[1:])})


@kind("fault.writebacks")
def writebacks(draw: Draw, difficulty: int) -> Problem:
    """How many entries the walker writes back for A and D in a series of accesses."""
    bench = Bench(draw)
    gva = canonical(draw, "4-level")
    bench.map(gva, 12, OPEN, dict.fromkeys(range(1, 6), OPEN))
    accesses = _series(draw, 1 + difficulty)
    for one in accesses:
        bench.access(gva, one)
    answer = sum(isinstance(one, AccessedDirty) for one in bench.records)
    each = len({one.level for one in bench.records if isinstance(one, Step)})
    return Problem(
        Number("writebacks"),
        answer,
        {"accesses": _listed(accesses)},
        {
            "each-access-marks-all": each * len(accesses),
            "dirty-comes-free": each,
            "one-write-each": len(accesses),
            "no-writebacks": 0,
        },
        steps=told(bench.records),
    )


KINDS = (code, which, supervisor, accessed, writebacks)
