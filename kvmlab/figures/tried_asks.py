"""Questions before an access is shown: mapped or which fault, and which bits of the error code.

The right answer is what the machine did.  The wrong ones are what it would have done by a common
mistake, worked out from the same access.
"""

from kvmlab.base.addresses import PAGE_SHIFT
from kvmlab.figures.addresses import hex_text
from kvmlab.figures.scene import Ask
from kvmlab.figures.tried import because, category, code_text
from kvmlab.hardware.formats import Tables
from kvmlab.study.tried import CODE_BITS, Tried
from kvmlab.text import say

USUAL = ("mapped", "absent", "rights", "reserved")
MISTAKES = ("P", "U/S", "W/R", "I/D", "RSVD")
MOST = 4


def ask_outcome(tried: Tried, tables: Tables) -> Ask:
    """Mapped, or which fault?"""
    right = category(tried)
    choices = list(USUAL) if right in USUAL else [*USUAL[:3], right]
    why = say("tables.outcome.stale") if tried.stale else because(tried, tables)
    feedback = [
        f"{say('tables.ask.right')} {why}".strip()
        if one == right
        else why  # what the entries say is no answer where the TLB answered
        if tried.stale
        else f"{say(f'tables.ask.{right}.{one}')} {why}".strip()
        for one in choices
    ]
    if _leaf_alone_allows(tried):
        feedback[choices.index("mapped")] = say("tables.ask.leaf") + " " + why
    words = [say(f"tables.choice.{one}") for one in choices]
    return Ask(
        f"{access_words(tried)} {say('tables.ask.outcome')}", words, choices.index(right), feedback
    )


def access_words(tried: Tried) -> str:
    """Which access it is."""
    who = say("walk.user" if tried.user else "walk.supervisor")
    kind = say(f"walk.kind.{tried.kind.name.lower()}")
    return say("tables.try", who=who, kind=kind, gva=hex_text(tried.gva))


def _leaf_alone_allows(tried: Tried) -> bool:
    """Whether only upper levels refuse: who looks at the leaf alone expects a mapping."""
    leaf = tried.path[-1].level if tried.path else 0
    upper = all(one.level > leaf for one in tried.causes)
    return category(tried) == "rights" and bool(tried.causes) and upper


def ask_code(tried: Tried) -> Ask | None:
    """Which bits are set in the error code?  None without a fault."""
    if tried.fault is None:
        return None
    code, bits = tried.fault.error_code, dict(CODE_BITS)
    wrong = {code ^ bits[name]: name for name in _mistakes(tried)[: MOST - 1]}
    codes = sorted([code, *wrong])
    turn = (tried.gva >> PAGE_SHIFT) % len(codes)  # so that the right one is not always the last
    codes = codes[turn:] + codes[:turn]
    feedback = [
        say(f"tables.ask.code.{wrong[one]}") if one in wrong else say("tables.ask.right")
        for one in codes
    ]
    words = [f"{hex_text(one)}: {code_text(one)}" for one in codes]
    return Ask(say("tables.ask.code"), words, codes.index(code), feedback)


def _mistakes(tried: Tried) -> list[str]:
    """The bits that a learner is likely to get wrong, the likeliest first."""
    kind = {"WRITE": "W/R", "FETCH": "I/D"}.get(tried.kind.name, "RSVD")
    return [kind, *(name for name in MISTAKES if name != kind)]
