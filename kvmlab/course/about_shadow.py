"""Questions on shadow paging: its exits, its tables, and what its entries hold."""

from collections import Counter

from kvmlab.course import runs
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Number, Problem, Said, Words, kind, picked
from kvmlab.course.told import told
from kvmlab.hardware.records import VmExit
from kvmlab.kvm.policy import BYPASS, NAIVE, UPDATE

_FRAME = 0x000F_FFFF_FFFF_F000
_POLICIES = (NAIVE.name, UPDATE.name, BYPASS.name)
_COSTS = {NAIVE.name: 3, UPDATE.name: 2, BYPASS.name: 1}.items()


def _summed(exits: tuple[VmExit, ...]) -> tuple[Words, ...]:
    """Exits by reason, after the first few one by one."""
    reasons = Counter(one.reason.name for one in exits)
    lines = [
        Said("course.told.exits", {"number": number, "reason": reason})
        for reason, number in sorted(reasons.items())
    ]
    return (*told(exits[:6]), *lines)


@kind("shadow.exits")
def exits(draw: Draw, difficulty: int) -> Problem:
    """How many exits a program's first touches cost, by design and policy."""
    policy = NAIVE.name if difficulty == 1 else draw.choose(_POLICIES)
    mmu = "shadow" if difficulty < 3 else draw.choose(("shadow", "shadow", "ept", "native"))
    pages = draw.between(2, 12)
    again = difficulty == 3 and draw.chance(60)
    found = runs.touches(mmu, policy, pages, "4K", again=again)
    others = {f"policy-{name}": cost * pages for name, cost in _COSTS}
    return Problem(
        Number("exits"),
        len(found),
        {
            "pages": pages,
            "design": Said(f"design.{mmu}"),
            "policy": Said(f"course.policy.{policy}"),
            "before": Said("course.memory.again" if again else "course.memory.fresh"),
        },
        {"no-exits": 0, **others},
        steps=_summed(found),
    )


@kind("shadow.tables")
def tables(draw: Draw, difficulty: int) -> Problem:
    """How many shadow pages some processes need."""
    processes = draw.between(2, 2 + difficulty)
    pages = draw.between(2, 2 + difficulty)
    step = draw.choose((4096, 1 << 21) if difficulty == 1 else (4096, 1 << 21, 1 << 30))
    answer = runs.shadow_tables(pages, step)[processes - 1]
    alone = runs.shadow_tables(pages, step)[0]
    apart = {4096: "page", 1 << 21: "table", 1 << 30: "directory"}[step]
    return Problem(
        Number("pages"),
        answer,
        {"processes": processes, "pages": pages, "apart": Said(f"course.steps.{apart}")},
        {
            "one-tree-per-vm": alone,
            "one-page-each": processes * pages,
            "whole-paths": 4 * processes * pages,
            "trees-only": processes,
        },
        steps=(
            Said("course.told.tree", {"pages": alone}),
            Said("course.told.trees", {"processes": processes, "pages": answer}),
        ),
    )


@kind("shadow.entry")
def entry(draw: Draw, difficulty: int) -> Problem:
    """The frame that a shadow (or EPT) leaf holds."""
    mmu = "shadow" if difficulty < 3 else draw.choose(("shadow", "ept"))
    chain, leaf = draw.choose(runs.chains(mmu))
    assert chain.gpa is not None  # noqa: S101  a touched page is in all four spaces
    assert chain.hva is not None  # noqa: S101  likewise
    values = {name: f"{getattr(chain, name):#x}" for name in ("gva", "gpa", "hva", "hpa")}
    return Problem(
        Number(base=16),
        leaf & _FRAME,
        values | {"table": Said(f"course.table.{mmu}")},
        {
            "guest-physical-in-leaf": chain.gpa,
            "host-virtual-in-leaf": chain.hva,
            "guest-virtual-in-leaf": chain.gva,
            "frame-number": (leaf & _FRAME) >> 12,
        },
        steps=(Said("course.told.leaf", {"entry": f"{leaf:#x}", "hpa": values["hpa"]}),),
    )


@kind("shadow.switches")
def switching(draw: Draw, difficulty: int) -> Problem:
    """How many exits context switches cost."""
    mmu = draw.choose(("shadow", "ept"))
    count = draw.between(2, 4 + 4 * difficulty)
    found = runs.switches(mmu, NAIVE.name, count)
    return Problem(
        Number("exits"),
        len(found),
        {"count": count, "design": Said(f"design.{mmu}")},
        {
            "switches-exit-under-ept": count if mmu == "ept" else len(found),
            "switches-are-free": 0,
            "two-exits-a-switch": 2 * count,
            "one-flush-in-all": 1,
        },
        steps=_summed(found),
    )


@kind("shadow.reason")
def reason(draw: Draw, difficulty: int) -> Problem:
    """Which exit reason an event of the guest has under a design."""
    mmu = draw.choose(("shadow", "ept") if difficulty == 1 else ("shadow", "ept", "npt", "native"))
    event = draw.choose(("touch", "switch"))
    found = (
        runs.touches(mmu, NAIVE.name, 2, "4K", again=False)
        if event == "touch"
        else runs.switches(mmu, NAIVE.name, 2)
    )
    names = ("EXCEPTION", "CR_ACCESS", "EPT_VIOLATION", "NPF")
    options: dict[str, Words] = {name: Said(f"modes.exit.{name}") for name in names}
    options["none"] = Said("course.noexit")
    answer = found[0].reason.name if found else "none"
    return Problem(
        picked(draw, options),
        answer,
        {"design": Said(f"design.{mmu}"), "event": Said(f"course.event.{event}")},
        {
            "violation-without-ept": "EPT_VIOLATION" if mmu != "ept" else answer,
            "switches-exit-under-ept": "CR_ACCESS" if mmu in ("ept", "npt") else answer,
            "guest-faults-exit": "EXCEPTION" if mmu != "shadow" else answer,
            "no-exits": "none",
        },
        steps=told(found[:2]),
    )


KINDS = (exits, tables, entry, switching, reason)
