"""What a learner is asked about a balloon before it is shown, and what each answer says of them.

The right choice is what the engine did; the wrong ones are what usual misconceptions make of the
same state.
"""

from collections.abc import Mapping, Sequence

from kvmlab.figures.modes import number
from kvmlab.figures.scene import Ask
from kvmlab.study.inflation_beginning import Known
from kvmlab.study.inflation_moments import Buffer, Moment
from kvmlab.text import say

_PAGE = 4096
_LARGE = 2 << 20
_SMALL = 12  # the shift of a 4K leaf
EPT_CHOICES = ("small", "hole", "large")
GROW_CHOICES = ("cache", "free", "kill", "swap", "balloon")


def amounts_ask(topic: str, question: str, right: int, why: str, wrong: Mapping[str, int]) -> Ask:
    """A question for an amount in bytes: ``wrong`` by the name of its misconception.

    Wrong amounts that are the right one, or one another, are left out.
    """
    reasons = {right: say(f"{topic}.right.{why}")}
    for name, amount in wrong.items():
        if amount >> 10 not in {one >> 10 for one in reasons}:
            reasons[amount] = say(f"{topic}.wrong.{name}")
    ordered = sorted(reasons)
    choices = [say("balloon.ask.kib", number=number(one >> 10)) for one in ordered]
    return Ask(question, choices, ordered.index(right), [reasons[one] for one in ordered])


def returned_ask(moment: Moment, change: int, beginning: Known) -> Ask:
    """How much of the first buffer does the host get back?"""
    assert moment.buffer is not None  # noqa: S101  the caller looked
    named = len(moment.buffer.pfns) * _PAGE
    question = say("balloon.ask.returned", pages=len(moment.buffer.pfns))
    backed = "all" if moment.freed == named else "some"
    why = "huge" if beginning.backing != "4K" else backed
    wrong = {"nothing": 0, "named": named, "change": change, "large": _LARGE}
    return amounts_ask("balloon.ask.returned", question, moment.freed, why, wrong)


def leaf_kind(buffer: Buffer) -> str:
    """What EPT has for the page that was named first: a leaf, a hole, or what never was there."""
    if buffer.leaf is None:
        return "hole" if buffer.was else "never"
    return "small" if buffer.leaf == _SMALL else "large"


def ept_ask(buffer: Buffer) -> Ask:
    """Is the page that was named first mapped in EPT?"""
    kind = leaf_kind(buffer)
    there = "hole" if kind == "never" else kind
    question = say(f"balloon.ask.ept.{buffer.queue}", gpa=f"{buffer.pfns[0] << 12:#_x}")
    choices = [say(f"balloon.ask.ept.choice.{one}") for one in EPT_CHOICES]
    told = [
        say(f"balloon.ask.ept.right.{kind}.{buffer.queue}")
        if one == there
        else say(f"balloon.ask.ept.wrong.{one}.{buffer.queue}")
        for one in EPT_CHOICES
    ]
    return Ask(question, choices, EPT_CHOICES.index(there), told)


def lines_of(stats: str) -> dict[str, int]:
    """The numbers that virsh dommemstat printed, by name."""
    return {name: int(value) for name, value in map(str.split, stats.split("\n")[:-2])}


def stats_ask(before: Moment, after: Moment) -> Ask | None:
    """What does ``available`` read now?  None where the guest never said."""
    was, now = lines_of(before.stats), lines_of(after.stats)
    if "available" not in was or "available" not in now:
        return None
    right = now["available"] << 10
    stale = now["last_update"] == was["last_update"]
    why = "stale" if stale else "same" if now["available"] == was["available"] else "shrunk"
    wrong = {
        "total": was["available"] << 10,
        "balloon": (was["available"] + now["actual"] - was["actual"]) << 10,
        "free": after.free,
        "actual": now["actual"] << 10,
    }
    topic = "balloon.ask.stats"
    return amounts_ask(topic, say(topic), right, why, wrong)


def grow_ask(moments: Sequence[Moment]) -> Ask:
    """Where does the memory come from that a process takes?  The last resort that was needed."""
    events, counts = {one.event for one in moments}, dict(moments[-1].counts)
    if "kill" in events:
        right = "kill"
    elif "deflate" in events:
        right = "balloon"
    elif counts.get("pswpout"):
        right = "swap"
    else:
        right = "cache" if counts.get("pgsteal_file") else "free"
    choices = [say(f"balloon.ask.grow.choice.{one}") for one in GROW_CHOICES]
    told = [
        say(f"balloon.ask.grow.{'right' if one == right else 'wrong'}.{one}")
        for one in GROW_CHOICES
    ]
    question = say("balloon.ask.grow", free=number(moments[0].free >> 10))
    return Ask(question, choices, GROW_CHOICES.index(right), told)
