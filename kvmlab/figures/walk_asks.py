"""What to predict on a walk: how many references, which table, which index, where, which bits.

The right choice is what the records say happened.  The wrong ones are derived from the same walk
in the ways in which it is usually misunderstood: EPT walked only once (8), not for the data (20),
a GPA taken for an HPA, the data access counted (25), 24 explained as 6 x 4.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from kvmlab.figures.addresses import hex_text, index_of, index_text
from kvmlab.figures.asking import ask
from kvmlab.figures.fold import Reference, Walk
from kvmlab.figures.formula import formula
from kvmlab.figures.lattice import table_name
from kvmlab.figures.scene import Ask
from kvmlab.figures.setting import Setting
from kvmlab.hardware.formats import format_named
from kvmlab.text import say

OUTCOMES = ("page_fault", "exception", "ept_violation", "mapped")
Wrong = Iterator[tuple[str, str]]


class Asking:
    """The questions of one walk; ``where`` is the address that each row looks for."""

    def __init__(self, walk: Walk, setting: Setting, where: Mapping[int, int]) -> None:
        self.walk, self.setting, self.where = walk, setting, where
        self.grid, self.total = setting.grid, len(walk.references)
        self.guest = self.total - walk.counts["ept"]  # entries of the tables that the GVA is in
        self.per_row = max(
            Counter(one.row for one in walk.references if _ept(one)).values(), default=0
        )

    # -- how many -------------------------------------------------------------------------

    def lookup(self) -> Ask | None:
        """Before anything is read: how many references it will take."""
        lookup = self.walk.lookup
        if lookup is None or not self.walk.arrived:
            return None
        kind = say(f"walk.kind.{lookup.kind.name.lower()}")
        question = say("ask.total", kind=kind, gva=hex_text(lookup.gva))
        praise = say("ask.total.right", number=self.total)
        return ask(question, str(self.total), praise, self._totals(), self.total + self.guest)

    def _totals(self) -> Wrong:
        guest, ept, whole = self.grid.top, self.grid.ept, self._complete()
        if self.walk.hit or self.walk.begun or self.walk.known:
            yield str(whole), say("ask.total.complete", number=whole)
        if self.walk.hit:
            yield "1", say("ask.total.tlb")
            return
        if ept:
            guest, ept = self.guest, self.per_row
            table = table_name("ept", self.setting.mmu)
            values = {"guest": guest, "ept": ept, "table": table}
            yield str(guest * (ept + 1)), say("ask.total.data", **values, number=guest * (ept + 1))
            yield str(guest * ept), say("ask.total.product", **values, number=guest * ept)
            yield str(guest + ept), say("ask.total.once", **values, number=guest + ept)
        elif self.grid.levels and self.setting.mmu != "native":
            twice = (guest + 1) * (guest + 1) - 1
            yield str(twice), say("ask.total.shadow", number=twice)
            yield str(2 * guest), say("ask.total.both", number=2 * guest)
        else:
            yield str(self.total - 1), say("ask.total.root", number=self.total - 1)
        yield str(self.total + 1), say("ask.total.access", number=self.total + 1)

    def _complete(self) -> int:
        guest, ept = self.grid.top, self.grid.ept
        return (guest + 1) * (ept + 1) - 1 if ept else guest

    def data(self) -> Ask | None:
        """At the end: how the references of a two-dimensional walk come about."""
        if not formula(self.walk.references):
            return None
        values: dict[str, object] = {"guest": self.guest, "ept": self.per_row}
        values["number"] = self.total
        values["table"] = table_name("ept", self.setting.mmu)
        right = say("ask.split.walks", **values, walks=self.guest + 1)
        return ask(
            say("ask.split", **values), right, say("ask.split.right"), self._splits(values), 1
        )

    def _splits(self, values: Mapping[str, object]) -> Wrong:
        walks, rest = divmod(self.total, self.per_row)
        if not rest:
            yield say("ask.split.six", **values, walks=walks), say("ask.split.six.no", walks=walks)
        yield say("ask.split.access", **values), say("ask.split.access.no", **values)

    # -- one reference ----------------------------------------------------------------------

    def reference(self, one: Reference) -> Ask | None:
        """Before a reference: whose table in a new row, else the index or the place, in turn."""
        rows = [other for other in self.walk.references if other.row == one.row]
        if self.grid.ept and one is rows[0] and one.row not in self.walk.known:
            return self._whose(one)
        if _ept(one):
            return self._index(one) if one is rows[1] and one.row == self.grid.top else None
        return self._index(one) if one.step.level % 2 else self._place(one)

    def _whose(self, one: Reference) -> Ask | None:
        table, row = table_name("ept", self.setting.mmu), one.row
        values = {"table": table, "row": row, "gpa": hex_text(self.where.get(row))}
        key = "row" if row else "data"
        right = say("ask.whose.ept", **values)
        wrong = [
            (say(f"ask.whose.{key}.now", **values), say(f"ask.whose.{key}.now.no", **values)),
            (say("ask.whose.slot"), say("ask.whose.slot.no", **values)),
        ]
        praise = say("ask.whose.right", **values)
        return ask(say(f"ask.whose.{key}", **values), right, praise, wrong, row)

    def _index(self, one: Reference) -> Ask | None:
        step, gva = one.step, self.setting.chain.gva
        ept = _ept(one)
        own, other = (self.where.get(one.row, 0), gva) if ept else (gva, self.where.get(one.row, 0))
        levels = self.grid.ept if ept else self.grid.levels
        space, wrong_space = ("GPA", "GVA") if ept else ("GVA", "GPA")
        values = {
            "table": table_name(step.table, self.setting.mmu),
            "level": step.level,
            "space": space,
            "address": hex_text(own),
        }
        wrong = []
        if self.grid.ept:
            text = index_text(index_of(other, levels, step.level))
            wrong.append((text, say("ask.index.space", **values, other=wrong_space)))
        for level in (step.level - 1, step.level + 1):
            if 1 <= level <= levels:
                text = index_text(index_of(own, levels, level))
                wrong.append((text, say("ask.index.level", **values, other=level)))
        praise = say("ask.index.right", **values)
        turn = one.number
        return ask(say("ask.index", **values), index_text(step.index), praise, wrong[:3], turn)

    def _place(self, one: Reference) -> Ask | None:
        step = one.step
        entry = format_named(self.setting.formats[step.table]).entry_bytes
        base, table = step.hpa - entry * step.index, step.address - entry * step.index
        values = {
            "level": step.level,
            "index": index_text(step.index),
            "base": hex_text(base),
            "bytes": entry,
            "gpa": hex_text(table),
        }
        nested = "gpa" if step.hpa != step.address else "hpa"
        wrong = []
        if nested == "gpa":
            wrong.append((hex_text(step.address), say("ask.place.gpa")))
        wrong.append((hex_text(base + step.index), say("ask.place.bytes", **values)))
        wrong.append((hex_text(base), say("ask.place.base", **values)))
        praise = say("ask.place.right", **values)
        return ask(say(f"ask.place.{nested}.how", **values), hex_text(step.hpa), praise, wrong, 3)

    # -- how it ends ------------------------------------------------------------------------

    def marked(self, done: str) -> Ask | None:
        """Before the write-backs: which bits the CPU sets."""
        wrong = [
            (say("ask.marked.none"), say("ask.marked.none.no")),
            (say("ask.marked.all"), say("ask.marked.all.no")),
        ]
        return ask(say("ask.marked"), done, say("ask.marked.right"), wrong, len(done))

    def end(self) -> Ask | None:
        """Before it is told why the access did not arrive: what it comes to."""
        if self.walk.outcome not in OUTCOMES:
            return None
        shadowed = self.walk.outcome == "page_fault" and "shadow" in self.setting.formats
        both = {self.walk.outcome, "exception" if shadowed else ""}  # an exit, then handed on
        wrong = [
            (say(f"outcome.{one}"), say(f"ask.outcome.{one}.no"))
            for one in OUTCOMES
            if one not in both
        ]
        right, praise = say(f"outcome.{self.walk.outcome}"), say("ask.outcome.right")
        return ask(say("ask.outcome"), right, praise, wrong, self.total)


def _ept(one: Reference) -> bool:
    return one.step.table == "ept"
