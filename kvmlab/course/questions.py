"""Questions by kind and seed, and what is said about an answer to one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvmlab.base.errors import BadChoice
from kvmlab.course.answers import BadAnswer, read, slip
from kvmlab.course.catalogue import KINDS
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Answer, Choice, Form, Kind, Said, Words, distinct
from kvmlab.text import say

DIFFICULTIES = (1, 2, 3)
HINTS = ("rule", "hint")
_MOST = 1 << 63
_VERSION = 1
"""Of the generators: it changes when a seed would give another question than before."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question; what it says is said in the language that is spoken when it is read.

    ``answer`` is the engine's; ``wrong`` are the answers of misconceptions, by their names.
    """

    kind: str
    seed: int
    difficulty: int
    form: Form
    answer: Answer = field(repr=False)
    wrong: Mapping[str, Answer] = field(repr=False)
    values: Mapping[str, object] = field(repr=False)
    given: tuple[Words, ...] = field(repr=False)
    steps: tuple[Words, ...] = field(repr=False)

    @property
    def id(self) -> str:
        """A name under which anybody gets the same question."""
        return f"{self.kind}-{self.difficulty}-{self.seed}@v{_VERSION}"

    @property
    def topic(self) -> str:
        """What it is about."""
        return self.kind.partition(".")[0]

    @property
    def prompt(self) -> str:
        """The question alone, in a paragraph."""
        return self._say("ask")

    @property
    def text(self) -> str:
        """The question, with what is given and the options, one to a line."""
        lines = [self.prompt, *(f"  {line}" for line in self.given)]
        if isinstance(self.form, Choice):
            lines += [f"  {self.form.show(name)}" for name, _ in self.form.options]
        return "\n".join(lines)

    @property
    def expects(self) -> str:
        """How an answer is to be written, in a line."""
        form = type(self.form).__name__.lower()
        values = {
            "unit": say(f"course.unit.{unit}") if (unit := getattr(self.form, "unit", "")) else "",
            "count": getattr(self.form, "count", 0),
            "names": ", ".join(getattr(self.form, "names", ())),
        }
        base = getattr(self.form, "base", "")
        return say(f"course.expects.{form}{base}{'.unit' if unit else ''}", **values)

    @property
    def hints(self) -> tuple[str, ...]:
        """Hints, from the rule to the first step."""
        return tuple(self._say(name) for name in HINTS)

    @property
    def solution(self) -> str:
        """The engine's answer, as it would be written."""
        return self.form.show(self.answer)

    @property
    def explanation(self) -> str:
        """The rule, what the engine did step by step, and the answer; one to a line."""
        told = [str(step) for step in self.steps]
        return "\n".join([self._say("rule"), *told, say("course.answer", answer=self.solution)])

    def _say(self, part: str) -> str:
        return str(Said(f"course.{self.kind}.{part}", self.values))

    def __repr__(self) -> str:
        """How to get it."""
        return f"question({self.kind!r}, seed={self.seed}, difficulty={self.difficulty})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said about an answer: ``right``, ``wrong``, or ``unclear`` if it cannot be read.

    ``mistake`` is the name of the misconception that gives this very answer, if one is known.
    """

    outcome: str
    feedback: str
    mistake: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the answer is right."""
        return self.outcome == "right"

    def __bool__(self) -> bool:
        """Whether the answer is right, so that ``assert course.check(..)`` grades."""
        return self.ok


def kinds(topic: str | None = None) -> tuple[str, ...]:
    """The kinds of questions, of one topic or of all; raises `BadChoice` for no topic."""
    if topic is not None and topic not in topics():
        raise BadChoice(f"there is no topic {topic!r}; choose one of {', '.join(topics())}")
    return tuple(name for name, one in KINDS.items() if topic in (None, one.topic))


def topics() -> tuple[str, ...]:
    """What there are questions about, in the order of the course."""
    return tuple(dict.fromkeys(one.topic for one in KINDS.values()))


def question(kind: str, seed: int = 7, difficulty: int = 1) -> Question:
    """The question of a kind with this seed; the same on every machine.

    For a topic such as ``walk`` the seed draws one of its kinds.  Raises `BadChoice` for a kind, a
    seed or a difficulty that there is not.
    """
    if kind in topics():
        kind = Draw(f"topic/{kind}/{seed}").choose(kinds(kind))
    found = _kind(kind)
    if type(seed) is not int or not 0 <= seed < _MOST:
        raise BadChoice(f"{seed!r} is no seed; write a whole number from 0 to 2**63 - 1")
    if difficulty not in DIFFICULTIES:
        raise BadChoice(f"{difficulty!r} is no difficulty; there are 1, 2 and 3")
    made = found.make(Draw(f"{kind}/{difficulty}/{seed}"), difficulty)
    wrong = distinct(made.answer, made.wrong)
    rest = made.values, made.given, made.steps
    return Question(kind, seed, difficulty, made.form, made.answer, wrong, *rest)


def check(question: Question, answer: object) -> Verdict:
    """Judge an answer, given as text or as a Python value; never raises for a bad one."""
    try:
        understood = read(answer, question.form)
    except BadAnswer as error:
        return Verdict("unclear", str(error))
    if understood == question.answer:
        return Verdict("right", say("course.right", answer=question.solution))
    shown = question.form.show(understood)
    for name, value in question.wrong.items():
        if value == understood:
            why = say(f"course.mistake.{name}")
            return Verdict("wrong", say("course.wrong.known", answer=shown, why=why), name)
    if line := slip(answer, question.form, question.answer):
        return Verdict("unclear", line)
    return Verdict("wrong", say("course.wrong.other", answer=shown))


def quiz(
    seed: int, count: int, topic: str | None = None, difficulty: int | None = None
) -> list[Question]:
    """So many questions: kinds in a drawn order, each once before one comes again.

    Without a ``difficulty`` they grow harder.  Raises `BadChoice`.
    """
    if type(count) is not int or not 1 <= count <= 1000:
        raise BadChoice(f"{count!r} questions cannot be asked; choose 1 to 1000")
    names = kinds(topic)
    draw = Draw(f"quiz/{topic or ''}/{seed}")
    order: list[str] = []
    while len(order) < count:
        order += draw.shuffled(names)
    return [
        question(name, seed + number, difficulty or 1 + number * len(DIFFICULTIES) // count)
        for number, name in enumerate(order[:count])
    ]


def _kind(name: str) -> Kind:
    if name not in KINDS:
        near = [one for one in KINDS if str(name).partition(".")[0] == one.partition(".")[0]]
        among = ", ".join(near or topics())
        what = "kinds" if near else "topics"
        raise BadChoice(f"there is no kind of question {name!r}; {what} are {among}")
    return KINDS[name]
