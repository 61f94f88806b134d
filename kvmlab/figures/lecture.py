"""What a page without a kernel shows: scenes to choose from, their facts, charts and tables.

Each function below takes an experiment, as a lab has it, and tells it to its end, with the
questions of its scene.  Nothing is computed here: the figures are those of the labs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from kvmlab.base.errors import KvmlabError
from kvmlab.figures import (
    balloon,
    crossing,
    hugepages_words,
    modes,
    overcommit,
    overcommit_host,
    plots,
)
from kvmlab.figures.balloon_diagnosis import diagnoses, summary
from kvmlab.figures.builder import (
    builder_scene,
    changes_table,
    deed_sentence,
    machine_scene,
    tree_sentence,
)
from kvmlab.figures.curves import Curves
from kvmlab.figures.entry import entry_table
from kvmlab.figures.hugepages import hugepages_scene
from kvmlab.figures.modes import Chart, number
from kvmlab.figures.page import Part
from kvmlab.figures.scene import Scene, Table
from kvmlab.figures.spaces import maps_table
from kvmlab.figures.spaces_scene import Deed, spaces_scene, told_table, trail_text
from kvmlab.figures.spaces_scene import deed_sentence as deed_sentence_of
from kvmlab.figures.traps import most_exits, traps_scene
from kvmlab.figures.tried import outcome_sentence
from kvmlab.figures.tried_asks import access_words
from kvmlab.figures.walk import Setting, read_walk, walk_scene
from kvmlab.figures.walk import summary as walk_summary
from kvmlab.hardware.geometries import geometry_key
from kvmlab.machine import DESIGNS, Machine
from kvmlab.study.access import GUESTS, Recorded, Request, first_access, guest_levels, page_sizes
from kvmlab.study.builder import Builder
from kvmlab.study.compare import Row
from kvmlab.study.follow import Trail
from kvmlab.study.hugepages import HugePages, compared
from kvmlab.study.hugepages_look import PagesLook
from kvmlab.study.inflation import Inflation
from kvmlab.study.inflation_look import Look
from kvmlab.study.overcommit import HOURS, Day
from kvmlab.study.overcommit_host import Seen
from kvmlab.study.spaces import Spaces
from kvmlab.study.traps import Trap
from kvmlab.study.tree import Entry, guest_tables, guest_tree
from kvmlab.text import say

BACKING = ("4K", "2M", "1G")


@dataclass(frozen=True, slots=True)
class Variant:
    """One scene of a page: what is chosen for it in the lists above, and all that goes with it."""

    choice: tuple[str, ...]
    scene: Scene
    facts: Sequence[str]
    parts: Sequence[Part] = ()


@dataclass(frozen=True, slots=True)
class Lecture:
    """A page: its title, what it shows first, names of its lists, and what else they choose.

    ``others`` may be an iterator, so that a picture of the first does not wait for them.
    """

    title: str
    first: Variant
    axes: Sequence[str] = ()
    others: Iterable[Variant] = ()

    def told(self) -> "Lecture":
        """The same without questions."""
        return replace(self, first=_told(self.first), others=map(_told, self.others))


def _told(variant: Variant) -> Variant:
    for step in variant.scene.steps:
        step.ask = None
    return variant


def single(name: str, scene: Scene, facts: Sequence[str], parts: Sequence[Part] = ()) -> Lecture:
    """The page of the lab called ``name`` with one scene."""
    return Lecture(say(f"page.{name}"), Variant((), scene, facts, parts))


def lines_part(curves: Curves, rows: int = 24) -> Part:
    """Lines over a parameter or over time, and their numbers at up to ``rows`` places."""
    return Part(curves.title, plots.lines(curves.thinned()), curves.table(rows))


def bars_part(chart: Chart, caption: str) -> Part:
    """Stacked bars, and their numbers."""
    shown = [one for one in chart.series if any(one.values)]
    rows = [
        [name, *(number(one.values[at]) for one in shown), number(chart.totals[at])]
        for at, name in enumerate(chart.bars)
    ]
    columns = [chart.axis, *(one.name for one in shown), say("page.total")]
    return Part(chart.title, plots.bars(chart), Table(caption, columns, rows))


def tables(*given: Table) -> list[Part]:
    """Tables that no drawing goes with; one without a row says nothing."""
    return [Part("", "", one) for one in given if one.rows]


# -- the walk -------------------------------------------------------------------------------


def walk_lecture(asked: Request) -> Lecture:
    """The walk that is asked for, and the same walk in every other design and with other pages."""
    axes = [say(f"lab.walk.{name}") for name in ("design", "guest_page", "host_page")]
    return Lecture(say("page.walk"), _walk(asked), axes, _others(asked))


def walk_variant(recorded: Recorded, choice: tuple[str, ...] = ()) -> Variant:
    """One walk, and its references in one line."""
    setting = Setting.of(recorded.machine, recorded.gva)
    records, before = recorded.records, recorded.before
    scene = walk_scene(records, setting, before, asking=True)
    return Variant(choice, scene, [walk_summary(read_walk(records, setting), setting, before)])


def _walk(asked: Request) -> Variant:
    host_page = "–" if asked.mmu == "native" else asked.host_page
    choice = (say(f"design.{asked.mmu}"), asked.guest_page, host_page)
    return walk_variant(first_access(asked), choice)


def _others(asked: Request) -> Iterator[Variant]:
    """Every other design, guest page and host page that a guest like that can have."""
    backing = BACKING if GUESTS[asked.guest_levels].long_mode else BACKING[:2]
    for mmu in DESIGNS:
        if asked.guest_levels not in guest_levels(mmu):
            continue
        for guest_page in page_sizes(asked.guest_levels):
            for host_page in backing if mmu != "native" else BACKING[:1]:
                other = replace(asked, mmu=mmu, guest_page=guest_page, host_page=host_page)
                if other != asked:
                    with suppress(KvmlabError):  # what this design cannot be asked is left out
                        yield _walk(other)


# -- the other labs -------------------------------------------------------------------------


def modes_lecture(
    rows: Sequence[Row],
    traps: Sequence[Trap],
    cycles: Mapping[str, Sequence[int]],
    tried_values: Sequence[int],
    calm: int,
) -> Lecture:
    """A comparison: the first traps, every chart of its rows, and where two designs cross."""
    names = [modes.design(row.mmu) for row in rows]
    sentence = modes.sentence(rows)
    first = most_exits(names, [row.total.all_exits for row in rows])
    captions = {"references": say("modes.convention")}
    charts = modes.CHARTS.items() if rows else ()
    parts = [bars_part(draw(rows), captions.get(name, "")) for name, draw in charts]
    parts += tables(modes.table(rows)) if rows else []
    parts.append(lines_part(crossing.curves(cycles, tried_values)))
    facts = [sentence, *crossing.found(cycles, tried_values, calm)]
    return single("modes", traps_scene(traps, sentence, first), facts, parts)


def tables_lecture(builder: Builder, entry: Entry | None) -> Lecture:
    """A tree that was built, the access that was tried in it, and one entry's bits."""
    if builder.tried is None:
        said = deed_sentence(builder)
    else:
        outcome = outcome_sentence(builder.tried, guest_tables(builder.machine))
        said = f"{access_words(builder.tried)} {outcome}"
    facts = [said, tree_sentence(builder.machine, builder.tree)]
    parts = tables(changes_table(builder)) + bits_parts(builder.machine, entry)
    return single("tables", builder_scene(builder), facts, parts)


def own_tables_lecture(machine: Machine, entry: Entry | None) -> Lecture:
    """The tree of the process that runs on ``machine``, and one entry's bits."""
    facts = [tree_sentence(machine, guest_tree(machine))]
    return single("tables", machine_scene(machine), facts, bits_parts(machine, entry))


def bits_parts(machine: Machine, entry: Entry | None) -> list[Part]:
    """The fields of an entry as a table."""
    if entry is None:
        return []
    at_hand = guest_tables(machine)
    return tables(entry_table(entry.value, entry.level, at_hand.format.name, at_hand.switches))


def spaces_lecture(spaces: Spaces, trail: Trail, deed: Deed | None) -> Lecture:
    """A page through the four address spaces, after what was done last."""
    machine = spaces.machine
    said = deed_sentence_of(machine, trail, deed) + " " if deed else ""
    scene = spaces_scene(machine, trail, spaces.taken, deed)
    parts = tables(told_table(spaces.told), maps_table(machine))
    return single("spaces", scene, [said + trail_text(trail)], parts)


def own_spaces_lecture(machine: Machine, trail: Trail) -> Lecture:
    """A page of the process that runs on ``machine`` through the four address spaces."""
    scene, facts = spaces_scene(machine, trail), [trail_text(trail)]
    return single("spaces", scene, facts, tables(maps_table(machine)))


def balloon_lecture(did: Inflation | Look) -> Lecture:
    """What the last deed did to a guest's balloon, and the whole history as curves."""
    history, first, now = did.history, did.moments[0], did.moments[-1]
    parts = [lines_part(balloon.balloon_curves(history))]
    parts += tables(balloon.numbers_table(first, now), balloon.buddy_table(first, now))
    if first.stats and not now.stats:  # else the step itself has them
        parts += tables(balloon.stats_table(first.stats))
    facts = [summary(now), *diagnoses(history, did.beginning)]
    scene = balloon.balloon_scene(did.moments, did.deed, did.beginning).scene
    return single("balloon", scene, facts, parts)


def overcommit_lecture(day: Day) -> Lecture:
    """A day of a crowded host, hour by hour, and what the promise cost."""
    ticks = day.ticks
    facts = [overcommit.placed_sentence(day.setting, day.placed)]
    facts += overcommit.price_sentences(day.placed, ticks)
    draw = (overcommit.memory_curves, overcommit.traffic_curves)
    parts = [lines_part(curves(ticks), HOURS + 1) for curves in draw]
    parts += tables(overcommit.vm_table(ticks[-1]))
    scene = overcommit.day_scene(day.setting, day.placed, ticks)
    return single("overcommit", scene, facts, parts)


def host_lecture(seen: Sequence[Seen]) -> Lecture:
    """A host of one's own, look by look."""
    told = overcommit_host
    parts = [lines_part(told.host_curves(seen)), *tables(told.guests_table(seen[-1]))]
    return single("overcommit", told.host_scene(seen), [told.look_sentence(seen[-1])], parts)


def hugepages_lecture(did: HugePages | PagesLook) -> Lecture:
    """What the last deed did to the pages of guest and host, and what requests cost."""
    words, first, now = hugepages_words, did.moments[0], did.moments[-1]
    parts = []
    served = next((one.served for one in reversed(did.history) if one.served), None)
    if served:
        usual = compared(geometry_key(did.tlb))
        chart = words.served_chart(usual, served)
        table = words.served_table(chart, [*usual, served])
        parts.append(Part(chart.title, plots.bars(chart), table))
    shown = (words.numbers_table(first, now), words.buddy_table(first, now))
    parts += tables(*shown, words.reach_table(did.tlb))
    facts = [words.summary(now), *words.diagnoses(now, did.beginning)]
    scene = hugepages_scene(did.moments, did.deed, did.beginning).scene
    return single("hugepages", scene, facts, parts)
