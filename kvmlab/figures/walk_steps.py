"""One walk told step by step: the lookups, each reference, what is written back, and the end.

A step is complete in itself: which cells are lit, what the caches have said, how the references
add up so far, and, where it is wanted, the question to answer before it is told.
"""

from collections import Counter
from collections.abc import Iterator

from kvmlab.figures import lattice
from kvmlab.figures.addresses import bar_texts, groups, hex_text, index_text
from kvmlab.figures.entry import entry_table, set_flags
from kvmlab.figures.fold import DATA_ROW, Reference, Walk
from kvmlab.figures.formula import formula, total
from kvmlab.figures.scene import Ask, Role, SceneStep
from kvmlab.figures.setting import Setting
from kvmlab.figures.touch import event_row
from kvmlab.figures.walk_asks import Asking
from kvmlab.hardware.fields import LEVEL_NAMES
from kvmlab.hardware.records import GeneralProtection, PageFault, Verdict, VmExit
from kvmlab.text import count, say


class Telling:
    """Tells one walk step by step, remembering which cells are behind us."""

    def __init__(self, walk: Walk, setting: Setting) -> None:
        self.walk, self.setting, self.grid = walk, setting, setting.grid
        self.behind: dict[str, Role] = {}
        self.texts: dict[str, str] = {}  # what caches have said, and the sum so far
        self.where = _where(walk, setting)
        self.asking = Asking(walk, setting, self.where)

    def steps(self) -> list[SceneStep]:
        """All steps of the walk, in order, each with its texts and its question."""
        told: list[SceneStep] = []
        for step, ask in self._told():
            step.texts = self.texts | step.texts
            step.ask = ask
            told.append(step)
        return told

    def _told(self) -> Iterator[tuple[SceneStep, Ask | None]]:
        walk, asking = self.walk, self.asking
        if walk.lookup:
            yield self._lookup(), asking.lookup()
        if walk.upper:
            yield self._upper(walk.upper.level), None
        if self.setting.register and walk.lookup and not walk.hit and not walk.begun:
            yield self._register(self.setting.register), None
            self.behind["register"] = "done"
        yield from self._references()
        if DATA_ROW in walk.known:
            yield self._known(DATA_ROW), None
        if walk.marked:
            done = self._flags()
            yield self._marked(done), asking.marked(done)
        if walk.fill:
            yield self._fill(), None
        if walk.arrived:
            yield self._data(), asking.data()
        if walk.end:
            yield self._end(), asking.end()

    def _references(self) -> Iterator[tuple[SceneStep, Ask | None]]:
        """Each reference, and in a row whose GPA is known already that instead of an EPT walk."""
        walk, row = self.walk, -1
        for reference in walk.references:
            if reference.row in walk.known and reference.row != row:
                yield self._known(reference.row), None
            row = reference.row
            self.texts["sum"] = say("walk.sum", sum=total(walk.references[: reference.number]))
            yield self._reference(reference), self.asking.reference(reference)
            self.behind[reference.key] = self.behind[f"row.{_row_key(row)}"] = "done"

    def _lookup(self) -> SceneStep:
        lookup = self.walk.lookup
        assert lookup is not None  # noqa: S101  narrowed by the caller
        begins = ".register" if self.setting.register else ""
        key = "walk.hit" if self.walk.hit else f"walk.miss.{self.setting.mmu}{begins}"
        sentence = say(
            key,
            who=say("walk.user" if lookup.user else "walk.supervisor"),
            kind=say(f"walk.kind.{lookup.kind.name.lower()}"),
            gva=hex_text(lookup.gva),
        )
        answer = say("walk.tlb.hit" if self.walk.hit else "walk.tlb.miss")
        self.texts["tlb"] = answer
        lit: dict[str, Role] = {"tlb": "now", "chain.gva": "used"}
        return SceneStep(sentence, lit, rows=[event_row("TLB", answer)])

    def _upper(self, level: int) -> SceneStep:
        """The paging-structure caches are asked where the walk may begin."""
        name = LEVEL_NAMES[level]
        key = "walk.upper.hit" if level else "walk.upper.miss"
        answer = say(key, level=level)
        self.texts["upper"] = answer
        sentence = say(f"{key}.sentence", level=level, name=name, next=level - 1)
        lit: dict[str, Role] = {"upper": "now"}
        if level:
            lit["cached"] = "now"
            self.behind["cached"] = "done"
        row = event_row(say("walk.cpu"), answer)
        return SceneStep(sentence, lit, rows=[row])

    def _known(self, row: int) -> SceneStep:
        """The nested TLB knows the HPA of a row's GPA: no EPT is walked for it."""
        answer = say("walk.nested.hit")
        self.texts["nested"] = answer
        gpa = hex_text(self.where.get(row))
        sentence = say(f"walk.known.{'row' if row else 'data'}", row=row, gpa=gpa)
        lit: dict[str, Role] = {"nested": "now", f"known.{row}": "now"}
        step = SceneStep(sentence, self.behind | lit, rows=[event_row(say("walk.cpu"), answer)])
        self.behind[f"known.{row}"] = "done"
        return step

    def _register(self, register: lattice.Register) -> SceneStep:
        level, value = self.grid.levels, hex_text(register.value)
        part, index, bits = groups(self.setting.chain.gva, level)[0]
        sentence = say(f"walk.register.{self.setting.mmu}", bits=bits, index=index, value=value)
        lit: dict[str, Role] = {f"gva.{part}": "now", f"row.{part}": "used", "register": "now"}
        row = ["–", say("walk.cpu"), str(level), "", index, "", value, say("walk.short.register")]
        detail = entry_table(register.value, level, self.setting.formats[self.setting.main])
        return SceneStep(sentence, lit, rows=[row], detail=detail)

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
            self._gpa_texts(row) | self._nested_text(row),
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

    def _nested_text(self, row: int) -> dict[str, str]:
        known = "nested" in self.setting.caches and row not in self.walk.known
        return {"nested": say("walk.nested.miss")} if known else {}

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

    def _flags(self) -> str:
        """Which bits were written back, and in how many entries."""
        formats = self.setting.formats
        flags = Counter(
            flag for mark in self.walk.marked for flag in set_flags(mark, formats[mark.table])
        )
        return ", ".join(count(f"walk.marked.{flag}", n) for flag, n in sorted(flags.items()))

    def _marked(self, done: str) -> SceneStep:
        cells = {one.step.hpa: one.key for one in self.walk.references}
        lit: dict[str, Role] = {
            cells[mark.hpa]: "used" for mark in self.walk.marked if mark.hpa in cells
        }
        rows = [event_row(say("walk.cpu"), done)]
        return SceneStep(say("walk.marked", done=done), self.behind | lit, rows=rows)

    def _fill(self) -> SceneStep:
        fill = self.walk.fill
        assert fill is not None  # noqa: S101  narrowed by the caller
        size = say(f"walk.size.{fill.shift}")
        sentence = say("walk.fill", gva=hex_text(fill.gva), hpa=hex_text(fill.hpa), size=size)
        lit: dict[str, Role] = {"tlb": "now", "chain.gva": "used", "chain.hpa": "used"}
        row = event_row("TLB", say("walk.tlb.filled"))
        self.texts["tlb"] = say("walk.tlb.filled")
        return SceneStep(sentence, self.behind | lit, rows=[row])

    def _data(self) -> SceneStep:
        hpa = hex_text(self.setting.chain.hpa)
        references = count("walk.references", len(self.walk.references))
        whole = formula(self.walk.references)
        sentence = say("walk.data", hpa=hpa, references=references)
        if whole:
            sentence += f" {say('walk.formula', formula=whole)}"
            self.texts["sum"] += f" = {whole}".removesuffix(f" = {len(self.walk.references)}")
        lit: dict[str, Role] = {"data": "now", "chain.hpa": "used", "row.data": "used"}
        leaf = min((one.row for one in self.walk.references if one.row), default=0)
        lit |= {f"gva.L{level}": "used" for level in range(leaf - 1, 0, -1)}
        lit["gva.offset"] = "now"
        row = event_row(say("walk.row.data"), say("walk.data.row", hpa=hpa))
        return SceneStep(sentence, self.behind | lit, rows=[row])

    def _end(self) -> SceneStep:
        sentence = end_sentence(self.walk, self.setting.mmu)
        lit: dict[str, Role] = {"chain.gva": "used"}
        if self.walk.culprit:
            lit[self.walk.culprit.key] = "fault"
        row = event_row(say("walk.cpu"), say(f"outcome.{self.walk.outcome}"))
        return SceneStep(sentence, self.behind | lit, rows=[row])


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
    elif arrived is not None and walk.arrived:
        where[DATA_ROW] = arrived
    return where


def _row_key(row: int) -> str:
    return f"L{row}" if row else "data"


def _only_arrow(mmu: str) -> str:
    return "tables" if mmu == "native" else "shadow"
