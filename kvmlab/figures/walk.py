"""The scene of one walk, folded from the records of one cold access.

Each reference is one step, in the order it happened; so are the TLB's miss, the write-back of A
and D, the TLB's fill and the data access, which are no references and are shown without a number.
"""

from collections.abc import Iterable

from kvmlab.figures import chain as chain_drawing
from kvmlab.figures import lattice
from kvmlab.figures.addresses import bar
from kvmlab.figures.fold import Walk
from kvmlab.figures.scene import Scene
from kvmlab.figures.setting import Setting, design_name, read_walk
from kvmlab.figures.svg import drawing, element, text
from kvmlab.figures.touch import COLUMNS, touch_costs, touch_steps
from kvmlab.figures.walk_steps import Telling, end_sentence
from kvmlab.study.access import Before
from kvmlab.text import count, say

__all__ = ["Setting", "design_name", "end_sentence", "read_walk", "summary", "walk_scene"]

WIDTH = 720
BARS = 88
GPA_BAR_LEFT = 376
SUM = 32  # pixels for the sum of the references, below the lattice


def walk_scene(
    records: Iterable[object],
    setting: Setting,
    before: Before | None = None,
    *,
    asking: bool = False,
) -> Scene:
    """The scene of the walk in ``records``, and of what happened once ``before`` it.

    With ``asking``, steps come with questions to answer before they are told.
    """
    walk = read_walk(records, setting)
    telling = Telling(walk, setting)
    steps = touch_steps(before, setting.mmu, setting.chain) if before else []
    steps += telling.steps()
    for step in steps:
        step.ask = step.ask if asking else None
    return Scene(
        title=say(f"walk.title.{setting.mmu}"),
        svg=_draw(walk, setting, telling.where),
        caption=_caption(setting),
        columns=[say(f"walk.table.column.{name}") for name in COLUMNS],
        steps=steps,
    )


def _caption(setting: Setting) -> str:
    """What the drawing shows, and how references are counted."""
    register = [say(f"walk.caption.register.{setting.mmu}")] if setting.register else []
    caches = [say("walk.caption.caches")] if setting.caches else []
    return " ".join(
        [say(f"walk.caption.{setting.mmu}"), *register, *caches, say("walk.convention")]
    )


def summary(walk: Walk, setting: Setting, before: Before | None) -> str:
    """The walk in a sentence or two: how many references of which tables, or why it stopped."""
    design = say(f"design.{setting.mmu}")
    references = count("walk.references", len(walk.references))
    if walk.end:
        why = end_sentence(walk, setting.mmu)
        return say("lab.walk.status.stopped", design=design, why=why, references=references)
    tables = " + ".join(
        say("lab.walk.part", number=number, table=lattice.table_name(table, setting.mmu))
        for table, number in walk.counts.items()
    )
    values = {"design": design, "references": references, "tables": tables}
    if before is None:
        return say("lab.walk.status.again", **values)
    events = touch_costs(before.touch)
    return say("lab.walk.status.mapped", events=events, **values)


def _draw(walk: Walk, setting: Setting, where: dict[int, int]) -> str:
    grid = setting.grid
    bars = bar("gva", "G", say("walk.bar.gva"), 0, setting.chain.gva, grid.levels)
    if grid.ept:
        bars += bar(
            "gpa",
            "H",
            say("walk.bar.gpa.idle", table=lattice.table_name("ept", setting.mmu)),
            GPA_BAR_LEFT,
            None,
            grid.ept,
        )
    top = chain_drawing.height(setting.mmu) + 16
    return drawing(
        WIDTH,
        top + BARS + grid.height + (SUM if grid.ept else 0),
        say(f"walk.title.{setting.mmu}"),
        element("g", chain_drawing.draw(setting.mmu, setting.chain)),
        element("g", bars, transform=f"translate(0 {top})"),
        element(
            "g",
            lattice.draw(walk, setting.mmu, grid, where, setting.register, setting.caches),
            transform=f"translate(0 {top + BARS})",
        ),
        _sum(top + BARS + grid.height + SUM - 8) if grid.ept else "",
    )


def _sum(y: int) -> str:
    """The line in which the references add up as they are read."""
    words = say("walk.sum", sum=0)
    return text(words, lattice.LABELS + lattice.BETWEEN, y, class_="kvm-label", data_text="sum")
