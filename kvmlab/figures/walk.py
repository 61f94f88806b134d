"""The scene of one walk, folded from the records of one cold access.

Each reference is one step, in the order it happened; so are the TLB's miss, the write-back of A
and D, the TLB's fill and the data access, which are no references and are shown without a number.
"""

from collections import Counter
from collections.abc import Iterable

from kvmlab.figures import chain as chain_drawing
from kvmlab.figures import lattice
from kvmlab.figures.addresses import bar, bar_texts, groups, hex_text, index_text
from kvmlab.figures.entry import entry_table, set_flags
from kvmlab.figures.fold import DATA_ROW, Reference, Walk
from kvmlab.figures.scene import Role, Scene, SceneStep
from kvmlab.figures.setting import Setting, design_name, read_walk
from kvmlab.figures.svg import drawing, element
from kvmlab.figures.touch import COLUMNS, event_row, touch_costs, touch_steps
from kvmlab.hardware.fields import LEVEL_NAMES
from kvmlab.hardware.records import GeneralProtection, PageFault, Verdict, VmExit
from kvmlab.study.access import Before
from kvmlab.text import count, say

__all__ = ["Setting", "design_name", "end_sentence", "read_walk", "summary", "walk_scene"]

WIDTH = 720
BARS = 88
GPA_BAR_LEFT = 376


def walk_scene(records: Iterable[object], setting: Setting, before: Before | None = None) -> Scene:
    """The scene of the walk in ``records``, and of what happened once ``before`` it."""
    walk = read_walk(records, setting)
    telling = _Telling(walk, setting)
    steps = touch_steps(before, setting.mmu, setting.chain) if before else []
    steps += telling.steps()
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
    return " ".join([say(f"walk.caption.{setting.mmu}"), *register, say("walk.convention")])


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
        top + BARS + grid.height,
        say(f"walk.title.{setting.mmu}"),
        element("g", chain_drawing.draw(setting.mmu, setting.chain)),
        element("g", bars, transform=f"translate(0 {top})"),
        element(
            "g",
            lattice.draw(walk, setting.mmu, grid, where, setting.register),
            transform=f"translate(0 {top + BARS})",
        ),
    )


class _Telling:
    """Tells one walk step by step, remembering which cells are behind us."""

    def __init__(self, walk: Walk, setting: Setting) -> None:
        self.walk, self.setting, self.grid = walk, setting, setting.grid
        self.behind: dict[str, Role] = {}
        self.where = _where(walk, setting)

    def steps(self) -> list[SceneStep]:
        """All steps of the walk, in order."""
        told = [self._miss()] if self.walk.lookup else []
        if self.setting.register and self.walk.lookup:
            told.append(self._register(self.setting.register))
            self.behind["register"] = "done"
        for reference in self.walk.references:
            told.append(self._reference(reference))
            self.behind[reference.key] = "done"
        if self.walk.marked:
            told.append(self._marked())
        if self.walk.fill:
            told.append(self._fill())
        if self.walk.fill or self.walk.data:
            told.append(self._data())
        if self.walk.end:
            told.append(self._end())
        return told

    def _miss(self) -> SceneStep:
        lookup = self.walk.lookup
        assert lookup is not None  # noqa: S101  narrowed by the caller
        begins = ".register" if self.setting.register else ""
        sentence = say(
            f"walk.miss.{self.setting.mmu}{begins}",
            who=say("walk.user" if lookup.user else "walk.supervisor"),
            kind=say(f"walk.kind.{lookup.kind.name.lower()}"),
            gva=hex_text(lookup.gva),
        )
        texts = {"tlb": say("walk.tlb.miss")}
        lit: dict[str, Role] = {"tlb": "now", "chain.gva": "used"}
        return SceneStep(sentence, lit, texts, [event_row("TLB", say("walk.tlb.miss"))])

    def _register(self, register: lattice.Register) -> SceneStep:
        level, value = self.grid.levels, hex_text(register.value)
        part, index, bits = groups(self.setting.chain.gva, level)[0]
        sentence = say(f"walk.register.{self.setting.mmu}", bits=bits, index=index, value=value)
        lit: dict[str, Role] = {f"gva.{part}": "now", f"row.{part}": "used", "register": "now"}
        row = ["–", say("walk.cpu"), str(level), "", index, "", value, say("walk.short.register")]
        detail = entry_table(register.value, level, self.setting.formats[self.setting.main])
        return SceneStep(sentence, lit, self._missed(), [row], detail)

    def _reference(self, reference: Reference) -> SceneStep:
        step, row = reference.step, reference.row
        table = lattice.table_name(step.table, self.setting.mmu)
        values = {
            "table": table,
            "number": reference.number,
            "total": len(self.walk.references),
            "level": step.level,
            "name": LEVEL_NAMES[step.level],
            "index": index_text(step.index),
            "address": hex_text(step.address),
            "hpa": hex_text(step.hpa),
            "row": row,
            "target": hex_text(self.where.get(row)),
        }
        nested = step.table == "ept"
        key = f"ept.{'row' if row else 'data'}" if nested else f"{step.table}.{self.setting.mmu}"
        verdict = say(
            f"walk.verdict.{step.verdict.value}.{'ept' if nested else 'page'}", table=table
        )
        return SceneStep(
            f"{say(f'walk.reference.{key}', **values)} {verdict}",
            self.behind | self._lit(reference),
            {"tlb": say("walk.tlb.miss")} | self._gpa_texts(row),
            [self._row(reference)],
            entry_table(step.entry, step.level, self.setting.formats[step.table]),
        )

    def _lit(self, reference: Reference) -> dict[str, Role]:
        step, row = reference.step, reference.row
        failed = step.verdict in (Verdict.ABSENT, Verdict.RESERVED)
        lit: dict[str, Role] = {reference.key: "fault" if failed else "now"}
        lit["row.data" if row == DATA_ROW else f"row.L{row}"] = "used"
        if step.table == "ept":
            lit |= {f"gpa.L{step.level}": "now", f"by.{self.setting.mmu}": "used"}
        lit |= {f"gva.L{row}": "used" if step.table == "ept" else "now"} if row else {}
        if step.table != "ept":
            lit[f"by.{'guest' if self.grid.ept else _only_arrow(self.setting.mmu)}"] = "used"
        return lit

    def _gpa_texts(self, row: int) -> dict[str, str]:
        if row not in self.walk.nested or row not in self.where:
            return {}
        target = say("walk.row.data") if row == DATA_ROW else say("walk.row.entry", row=row)
        heading = say(
            "walk.bar.gpa", target=target, table=lattice.table_name("ept", self.setting.mmu)
        )
        return bar_texts("gpa", heading, self.where[row], self.grid.ept)

    def _row(self, reference: Reference) -> list[str]:
        step = reference.step
        serves = say("walk.row.data") if reference.row == DATA_ROW else f"L{reference.row}"
        return [
            str(reference.number),
            lattice.table_name(step.table, self.setting.mmu),
            str(step.level),
            serves,
            index_text(step.index),
            hex_text(step.hpa),
            hex_text(step.entry),
            say(f"walk.short.{step.verdict.value}"),
        ]

    def _marked(self) -> SceneStep:
        cells = {one.step.hpa: one.key for one in self.walk.references}
        formats = self.setting.formats
        flags = Counter(
            flag for mark in self.walk.marked for flag in set_flags(mark, formats[mark.table])
        )
        done = ", ".join(count(f"walk.marked.{flag}", n) for flag, n in sorted(flags.items()))
        lit: dict[str, Role] = {
            cells[mark.hpa]: "used" for mark in self.walk.marked if mark.hpa in cells
        }
        rows = [event_row(say("walk.cpu"), done)]
        return SceneStep(say("walk.marked", done=done), self.behind | lit, self._missed(), rows)

    def _fill(self) -> SceneStep:
        fill = self.walk.fill
        assert fill is not None  # noqa: S101  narrowed by the caller
        size = say(f"walk.size.{fill.shift}")
        sentence = say("walk.fill", gva=hex_text(fill.gva), hpa=hex_text(fill.hpa), size=size)
        lit: dict[str, Role] = {"tlb": "now", "chain.gva": "used", "chain.hpa": "used"}
        row = event_row("TLB", say("walk.tlb.filled"))
        return SceneStep(sentence, self.behind | lit, {"tlb": say("walk.tlb.filled")}, [row])

    def _data(self) -> SceneStep:
        hpa = hex_text(self.setting.chain.hpa)
        references = count("walk.references", len(self.walk.references))
        sentence = say("walk.data", hpa=hpa, references=references)
        lit: dict[str, Role] = {"data": "now", "chain.hpa": "used", "row.data": "used"}
        leaf = min((one.row for one in self.walk.references if one.row), default=0)
        lit |= {f"gva.L{level}": "used" for level in range(leaf - 1, 0, -1)}
        lit["gva.offset"] = "now"
        texts = {"tlb": say("walk.tlb.filled")}
        row = event_row(say("walk.row.data"), say("walk.data.row", hpa=hpa))
        return SceneStep(sentence, self.behind | lit, texts, [row])

    def _end(self) -> SceneStep:
        sentence = end_sentence(self.walk, self.setting.mmu)
        lit: dict[str, Role] = {"chain.gva": "used"}
        if self.walk.culprit:
            lit[self.walk.culprit.key] = "fault"
        row = event_row(say("walk.cpu"), say(f"outcome.{self.walk.outcome}"))
        return SceneStep(sentence, self.behind | lit, self._missed(), [row])

    def _missed(self) -> dict[str, str]:
        return {"tlb": say("walk.tlb.miss")} if self.walk.lookup else {}


def end_sentence(walk: Walk, mmu: str) -> str:
    """How an attempt that did not arrive ended: why, and who must answer."""
    end, reason = walk.end, ""
    if walk.culprit:
        step = walk.culprit.step
        table = lattice.table_name(step.table, mmu)
        reason = say(f"walk.why.{step.verdict.value}", table=table, level=step.level)
    elif walk.references:
        reason = say("walk.why.rights")
    if isinstance(end, PageFault):
        kind = say(f"walk.kind.{end.kind.name.lower()}")
        code, gva = hex_text(end.error_code), hex_text(end.gva)
        return f"{reason} {say('walk.end.page_fault', kind=kind, code=code, gva=gva)}".strip()
    if isinstance(end, GeneralProtection):
        return say("walk.end.protection", gva=hex_text(end.gva), why=end.why)
    if end is None:
        return reason
    code = hex_text(end.qualification)
    outcome = say(f"outcome.{walk.outcome}")
    return f"{reason} {say('walk.end.exit', reason=outcome, code=code)}".strip()


def _where(walk: Walk, setting: Setting) -> dict[int, int]:
    """The address that each reached row looks for: of the guest's entry, or of the data."""
    where = {one.row: one.step.address for one in walk.references if one.step.table != "ept"}
    arrived = setting.chain.gpa if DATA_ROW in walk.nested else setting.chain.hpa
    if isinstance(walk.end, VmExit) and walk.nested:
        where.setdefault(walk.references[-1].row, walk.end.gpa)
    elif arrived is not None and (walk.fill or walk.data):
        where[DATA_ROW] = arrived
    return where


def _only_arrow(mmu: str) -> str:
    return "tables" if mmu == "native" else "shadow"
