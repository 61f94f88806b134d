"""What a learner is asked about huge pages before it is shown.

The right choice is what the engine did; the wrong ones are what usual misconceptions make of the
same state.
"""

from collections.abc import Callable, Mapping, Sequence

from kvmlab.figures.addresses import hex_text
from kvmlab.figures.balloon_asks import amounts_ask
from kvmlab.figures.modes import number
from kvmlab.figures.scene import Ask
from kvmlab.study.hugepages_beginning import BLOCK, Known
from kvmlab.study.hugepages_moments import BLOCKS, Moment
from kvmlab.study.hugepages_served import ACCESSES
from kvmlab.text import say

_PAGE, _LARGE = 4096, 21
_LARGE_ORDER = 9
WALKS = (24, 19, 15, 4)
"""References of a cold walk that one hears of: 4K twice, one side huge, both, and no EPT."""

LOOKED = ("fill", "sparse", "drop", "balloon", "log", "ksm", "reclaim", "wait", "leave")
"""Deeds after which EPT is looked at."""


def leaf_name(shift: int) -> str:
    """The size of a page as one says it."""
    return {12: "4K", 21: "2M", 30: "1G"}[shift]


def asks(
    before: Moment, now: Moment, deed: Sequence[object], beginning: Known
) -> tuple[Ask | None, Ask | None]:
    """What is asked about the numbers of a deed, and about the EPT leaf that it left."""
    verb = str(deed[0])
    about: Mapping[str, Callable[[], Ask]] = {
        "fill": lambda: backed_ask(now, beginning),
        "sparse": lambda: backed_ask(now, beginning),
        "access": lambda: references_ask(now),
        "serve": lambda: misses_ask(now),
        "drop": lambda: returned_ask(before, now),
        "balloon": lambda: returned_ask(before, now),
        "reclaim": lambda: returned_ask(before, now),
    }
    asked = about[verb]() if verb in about else None
    if verb == "write" and now.snapshot:
        asked = copied_ask(now, beginning)
    row = changed_row(before, now)
    return asked, leaf_ask(now, row, beginning) if verb in LOOKED else None


def changed_row(before: Moment, now: Moment) -> int:
    """Where to look: the first row whose host pages changed, or EPT's, else the process's first."""
    for was, is_now in ((before.host, now.host), (before.ept, now.ept)):
        for row, (one, other) in enumerate(zip(was, is_now, strict=True)):
            if one != other and before.base == now.base:
                return row
    return now.at


def row_gpa(moment: Moment, row: int) -> str:
    """The first guest-physical address of a row."""
    return hex_text(moment.base + row * BLOCK)


def why(moment: Moment, row: int, beginning: Known) -> str:
    """Why EPT maps a row as it does."""
    leaves, host = moment.ept[row], moment.host[row]
    if leaves.large:
        return "gigantic" if leaves.large[0] > _LARGE else "huge"
    if not leaves.small:
        return "none"
    if moment.logging and host.large:
        return "logging"
    if host.large:
        return "incongruent"
    if beginning.host == "4K":
        return "small"
    return "split" if sum(moment.blocks[_LARGE_ORDER:]) else "fragmented"


def leaf_ask(moment: Moment, row: int, beginning: Known) -> Ask:
    """What leaves of EPT map a row?"""
    leaves = moment.ept[row]
    right = leaf_name(leaves.large[0]) if leaves.large else "4K" if leaves.small else "none"
    choices = ["2M", "4K", "none", *(["1G"] if beginning.gigantic else [])]
    told = [
        say(f"huge.ask.leaf.right.{why(moment, row, beginning)}")
        if one == right
        else say(f"huge.ask.leaf.wrong.{one}")
        for one in choices
    ]
    words = [say(f"huge.ask.leaf.choice.{one}") for one in choices]
    return Ask(say("huge.ask.leaf", gpa=row_gpa(moment, row)), words, choices.index(right), told)


def backed_ask(moment: Moment, beginning: Known) -> Ask:
    """How much has the host given the guest?"""
    kind = "hugetlb" if moment.hugetlb else "thp" if moment.thp else "small"
    wrong = {
        "touched": moment.touched,
        "blocks": BLOCKS * BLOCK,
        "all": beginning.ram,
        "nothing": 0,
    }
    question = say("huge.ask.backed", touched=number(moment.touched >> 10))
    return amounts_ask("huge.ask.backed", question, moment.backed, kind, wrong)


def returned_ask(before: Moment, now: Moment) -> Ask:
    """How much more memory is free in the host?"""
    right = max(now.host_free - before.host_free, 0)
    kind = "some" if right else "nothing"
    wrong = {"nothing": 0, "page": _PAGE, "block": BLOCK}
    return amounts_ask("huge.ask.returned", say("huge.ask.returned"), right, kind, wrong)


def copied_ask(moment: Moment, beginning: Known) -> Ask:
    """How much did the guest copy for a few writes after fork?"""
    kind = "some" if moment.copied else "nothing"
    wrong = {
        "nothing": 0,
        "pages": moment.written * _PAGE,
        "large": moment.written * BLOCK,
        "all": moment.touched,
    }
    page = say(f"huge.page.{beginning.guest}")
    question = say("huge.ask.copied", written=moment.written, page=page)
    return amounts_ask("huge.ask.copied", question, moment.copied, kind, wrong)


def references_ask(moment: Moment) -> Ask:
    """How many entries does a cold access read?"""
    kind = "cached" if moment.spared else "walked"
    wrong = {one: str(one) for one in WALKS}
    return _counts_ask("huge.ask.references", moment.references, kind, wrong)


def misses_ask(moment: Moment) -> Ask:
    """How many of the accesses did no TLB know?"""
    assert moment.served is not None  # noqa: S101  the deed served
    misses = moment.served.misses
    kind = "none" if not misses else "few" if misses < ACCESSES // 2 else "many"
    wrong = {0: "none", ACCESSES: "all", ACCESSES // 2: "half"}
    return _counts_ask("huge.ask.misses", misses, kind, wrong)


def _counts_ask(topic: str, right: int, kind: str, wrong: Mapping[int, str]) -> Ask:
    """A question for a number: ``wrong`` are misconceptions by what they would say."""
    reasons = {one: say(f"{topic}.wrong.{name}") for one, name in wrong.items()}
    reasons[right] = say(f"{topic}.right.{kind}", number=right)
    ordered = sorted(reasons)
    question = say(topic, accesses=number(ACCESSES))
    choices = [number(one) for one in ordered]
    return Ask(question, choices, ordered.index(right), [reasons[one] for one in ordered])
