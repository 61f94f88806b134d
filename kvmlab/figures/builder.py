"""The scene of tables that a learner builds: the tree, and the last access explained to the bit."""

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.figures import tree as drawn_tree
from kvmlab.figures.addresses import hex_text, index_text
from kvmlab.figures.scene import Role, Scene, SceneStep, Table
from kvmlab.figures.svg import drawing
from kvmlab.figures.tried import code_table, code_text, end_sentence, outcome_sentence
from kvmlab.figures.tried_asks import access_words, ask_code, ask_outcome
from kvmlab.hardware.fields import LEVEL_NAMES
from kvmlab.hardware.formats import Tables
from kvmlab.hardware.records import Step, Verdict
from kvmlab.machine import Machine
from kvmlab.study import tree as trees
from kvmlab.study.builder import Builder
from kvmlab.study.tried import Tried
from kvmlab.text import count, say


def builder_scene(builder: Builder) -> Scene:
    """The learner's tree; what the last deed changed is lit, an access is told step by step."""
    tables = trees.guest_tables(builder.machine)
    tree = builder.before if builder.tried else builder.tree  # A and D would tell too early
    drawn = drawn_tree.draw(tree, tables)
    changed = {key for place, key in drawn.keys.items() if place in builder.changed()}
    first = _whole(builder.machine, tree, tables)
    if builder.tried:
        telling = _Telling(builder.tried, tables, drawn, _used(builder, tables))
        first.sentence = access_words(builder.tried)
        return _scene(first, telling.steps(), tables, drawn)
    first.sentence = " ".join([deed_sentence(builder), first.sentence])
    first.lit = dict.fromkeys(changed, "now")
    return _scene(first, [], tables, drawn)


def machine_scene(machine: Machine) -> Scene:
    """The tables of the process that runs on a machine, as they stand."""
    tables, tree = trees.guest_tables(machine), trees.guest_tree(machine)
    drawn = drawn_tree.draw(tree, tables)
    return _scene(_whole(machine, tree, tables), [], tables, drawn)


def _scene(
    first: SceneStep, more: list[SceneStep], tables: Tables, drawn: drawn_tree.Drawn
) -> Scene:
    title = say("tables.title", format=tables.format.name)
    caption = say("tables.caption")
    if drawn.left_out:
        caption += " " + count("tables.left_out", drawn.left_out)
    return Scene(
        title=title,
        svg=drawing(drawn_tree.WIDTH, drawn.height, title, *drawn.parts),
        caption=caption,
        columns=[say(f"tables.column.{name}") for name in drawn_tree.COLUMNS],
        steps=[first, *more],
    )


def _whole(machine: Machine, tree: trees.Table, tables: Tables) -> SceneStep:
    return SceneStep(tree_sentence(machine, tree), rows=drawn_tree.rows(tree, tables))


def tree_sentence(machine: Machine, tree: trees.Table) -> str:
    """What there is: how many tables, how many pages of which sizes."""
    pages: dict[int, int] = {}
    for one in trees.entries(tree):
        if one.verdict is Verdict.LEAF:
            pages[one.shift] = pages.get(one.shift, 0) + 1
    tables = 1 + sum(1 for one in trees.entries(tree) if one.below)
    sizes = ", ".join(
        f"{number} × {say(f'walk.size.{shift}')}" for shift, number in sorted(pages.items())
    )
    process = machine.guest.current
    return say(
        "tables.tree",
        process=process.name if process else "",
        tables=count("tables.number", tables),
        bytes=f"{tables << PAGE_SHIFT - 10} KiB",
        pages=sizes or say("tables.no_pages"),
    )


def deed_sentence(builder: Builder) -> str:
    """What the last deed did: entries, stores of the guest, exits of the machine."""
    changed = len(builder.changed())
    stores = len(builder.written())
    exits = count("tables.exits", builder.exits)
    return count("tables.deed", changed, stores=count("tables.stores", stores), exits=exits)


def _used(builder: Builder, tables: Tables) -> dict[str, str]:
    """The A and D letters of every entry, as they are after the access."""
    return {
        f"used.{drawn_tree.entry_key(one.level, one.address)}": drawn_tree.used_text(tables, one)
        for one in trees.entries(builder.tree)
    }


class _Telling:
    """One access, told: what it is, what it comes to, and which entry says so."""

    def __init__(
        self, tried: Tried, tables: Tables, drawn: drawn_tree.Drawn, used: dict[str, str]
    ) -> None:
        self._tried, self._tables, self._keys, self._used = tried, tables, drawn.keys, used
        self._lit: dict[str, Role] = {}

    def steps(self) -> list[SceneStep]:
        """The outcome, the entries that lead to it, the end: an error code, or A and D."""
        tried = self._tried
        told = [
            SceneStep(
                outcome_sentence(tried, self._tables),
                self._all(),
                ask=ask_outcome(tried, self._tables),
            )
        ]
        told += [self._entry(step) for step in tried.path]
        told.append(self._end())
        for step in told:
            step.texts = self._used
        return told

    def _ask(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
        return ask_outcome(self._tried, self._tables)

    def _all(self) -> dict[str, Role]:
        """The path, with the entries that refuse as faults."""
        guilty = {one.level for one in self._tried.causes}
        found: dict[str, Role] = {}
        for step in self._tried.path:
            if key := self._key(step):
                found[key] = "fault" if step.level in guilty else "used"
        return found

    def _key(self, step: Step) -> str | None:
        row = self._tables.rows[len(self._tables.rows) - step.level]
        start = self._tried.gva >> row.shift << row.shift
        return self._keys.get((step.level, start))

    def _entry(self, step: Step) -> SceneStep:
        row = self._tables.rows[len(self._tables.rows) - step.level]
        entry = trees.Entry(
            step.level, 0, step.address, step.index, step.entry, step.verdict, 0, row.shift
        )
        bad = step.verdict in (Verdict.ABSENT, Verdict.RESERVED)
        key, lit = self._key(step), dict(self._lit)
        if key:
            lit[key] = "fault" if bad else "now"
            self._lit[key] = "done"
        sentence = say(
            f"tables.step.{step.verdict.value}",
            level=step.level,
            name=LEVEL_NAMES[step.level],
            index=index_text(step.index, row.index_mask.bit_length()),
            slot=hex_text(step.address),
            value=hex_text(step.entry),
            rights=drawn_tree.rights_text(self._tables, entry),
        )
        return SceneStep(sentence, lit)

    def _end(self) -> SceneStep:
        tried = self._tried
        sentence = end_sentence(tried)
        if tried.fault is None:
            return SceneStep(sentence, self._all())
        code = tried.fault.error_code
        said = say("tables.code", code=hex_text(code), bits=code_text(code))
        detail = code_table(code)
        ask = ask_code(tried)
        return SceneStep(f"{said} {sentence}", self._all(), detail=detail, ask=ask)


def changes_table(builder: Builder) -> Table:
    """The entries that the last deed changed, before and after."""
    old = {(one.level, one.address): one for one in trees.entries(builder.before)}
    new = {(one.level, one.address): one for one in trees.entries(builder.tree)}
    rows = []
    for place in sorted(builder.changed(), key=lambda one: (-one[0], one[1])):
        was, now = old.get(place), new.get(place)
        row = [
            f"L{place[0]}",
            hex_text(place[1]),
            *(hex_text(one.value if one else 0) for one in (was, now)),
        ]
        rows.append(row)
    columns = [say(f"tables.changes.{name}") for name in ("level", "first", "before", "after")]
    return Table(say("tables.changes"), columns, rows)
