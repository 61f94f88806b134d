"""Where two designs cross, seen: two curves over a parameter, the table of them, one sentence."""

from collections.abc import Mapping
from types import MappingProxyType

from kvmlab.figures.costs import costs_text
from kvmlab.figures.curves import Curve, Curves
from kvmlab.figures.modes import Party, design, number
from kvmlab.figures.page import Part, page
from kvmlab.figures.plots import lines
from kvmlab.figures.scene import Table
from kvmlab.hardware.geometries import walk_caches_key
from kvmlab.study.crossover import Crossover
from kvmlab.text import count, say

PARTY: Mapping[str, Party] = MappingProxyType(
    {"native": "guest", "shadow": "shadow", "l2-shadow": "shadow", "agile": "quiet"}
)
"""The colour of a design: whose tables make it what it is; EPT is the host's."""


def curves(found: Crossover) -> Curves:
    """Time over native time, for both designs and for native paging itself."""
    prices = found.plan.prices
    drawn = [
        Curve(_name(mmu), _party(mmu), [point.slowdown(mmu, prices) for point in found.points])
        for mmu in (*found.plan.designs, "native")
    ]
    x_axis = say(f"crossover.axis.{found.plan.parameter}")
    xs = [point.x for point in found.points]
    return Curves(_title(found), x_axis, say("crossover.axis.y"), xs, drawn, caption(found))


def _party(mmu: str) -> Party:
    return PARTY.get(mmu, "host")


def _name(mmu: str) -> str:
    """A design under the letter of its party."""
    letter = "G" if mmu == "native" else "H"
    return say("crossover.curve", letter=letter, design=design(mmu))


def _title(found: Crossover) -> str:
    first, second = map(design, found.plan.designs)
    return say("crossover.title", first=first, second=second)


def sentence(found: Crossover) -> str:
    """Who wins where, and how slow both are there."""
    plan = found.plan
    above = next(point for point in found.points if point.x == found.high)
    values = {
        "model": plan.prices.name,
        "below": design(found.winners[0]),
        "above": design(found.winners[1]),
        "low": number(found.low),
        "high": number(found.high),
        "unit": say(f"crossover.axis.{plan.parameter}"),
        "slowdown": f"{above.slowdown(found.winners[1], plan.prices):.2f}",
    }
    said = say("crossover.sentence", **values)
    return said if found.changes == 1 else f"{said} {say('crossover.more', number=found.changes)}"


def caption(found: Crossover) -> str:
    """What was run, how it was priced, and how references are counted."""
    plan = found.plan
    program = plan.at(found.low)
    shape = {"tlb": plan.tlb, "caches": walk_caches_key(plan.geometry), "seed": program.seed}
    rest = [
        count(f"crossover.program.{name}", getattr(program, name))
        for name in ("pages", "remaps", "switches")
        if name != plan.parameter and getattr(program, name)
    ]
    run = say("crossover.run", program=", ".join(rest), iterations=found.iterations, **shape)
    access = number(plan.prices.rows["access"].cycles)
    priced = say("crossover.costs", costs=costs_text(plan.prices), access=access)
    policy = [say(f"modes.policy.{plan.policy}")] if "shadow" in "".join(plan.designs) else []
    agile = "agile" in plan.designs and walk_caches_key(plan.geometry) != "off"
    limits = [say("sweep.agile")] if agile else []
    return " ".join([run, priced, *policy, *limits, say("modes.convention")])


def table(found: Crossover) -> Table:
    """One line a point: what both designs did there, and what it cost."""
    prices = found.plan.prices
    columns = [say(f"crossover.axis.{found.plan.parameter}")]
    for mmu in found.plan.designs:
        columns += [
            say(f"crossover.column.{name}", design=design(mmu))
            for name in ("misses", "exits", "cycles", "slowdown")
        ]
    rows = []
    for point in found.points:
        row = [number(point.x)]
        for mmu in found.plan.designs:
            total = point.runs[mmu].total
            row += [number(total.lookups["miss"]), number(total.all_exits)]
            row += [number(prices.cycles(total).total), f"{point.slowdown(mmu, prices):.2f}"]
        rows.append(row)
    return Table(caption(found), columns, rows)


def chart(found: Crossover) -> str:
    """The drawing: both curves, and the bracket in which they cross."""
    words = say("crossover.mark", low=number(found.low), high=number(found.high))
    return lines(curves(found), (found.low, found.high, words))


def crossover_page(found: Crossover) -> str:
    """The page: the sentence, the drawing, its table."""
    part = Part(say("crossover.part"), chart(found), table(found))
    return page(_title(found), [sentence(found)], [part])
