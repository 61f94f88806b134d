"""Which address comes next?  The wrong ones are those of common misconceptions.

Each is worked out from the same machine: what the address would be if GPAs were HPAs, if what is
contiguous in one space were so in the next, if all slots had one offset, and so on.
"""

from dataclasses import dataclass

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.figures.scene import Ask
from kvmlab.machine import Machine
from kvmlab.study.follow import SPACES, Page, Trail, pages_of, slot_of
from kvmlab.text import say

MOST = 4
_OFFSET = PAGE_SIZE - 1


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of a trail: from an address of one space to one of another, or to nothing."""

    space: str
    address: int
    to: str
    found: int | None


def hops(trail: Trail) -> list[Hop]:
    """The steps of a trail, the first of each kind: away from what was chosen."""
    first = {
        "gva": [gva for _, gva in trail.gva],
        "gpa": trail.gpa,
        "hva": trail.hva,
        "hpa": trail.hpa,
    }
    start = SPACES.index(trail.space)
    orders = {0: (1, 2, 3), 1: (0, 2, 3), 2: (1, 0, 3), 3: (2, 1, 0)}
    made: list[Hop] = []
    for number in orders[start]:
        to = SPACES[number]
        space = SPACES[number - 1] if number > start else SPACES[number + 1]
        if first[space]:
            found = first[to][0] if first[to] else None
            made.append(Hop(space, first[space][0], to, found))
    return made


def ask_hop(machine: Machine, trail: Trail, hop: Hop) -> Ask | None:
    """The question of one step; None if no mistake leads anywhere else."""
    wrong = _mistakes(machine, trail, hop)
    choices: dict[str, str] = {_words(hop.found): say("spaces.ask.right")}
    for name, address in wrong:
        choices.setdefault(_words(address), say(f"spaces.ask.{name}"))
    choices.setdefault(_words(None), say("spaces.ask.nowhere"))
    kept = [*list(choices)[: MOST - 1], _words(None)]
    kept = sorted(dict.fromkeys(kept))
    turn = (hop.address >> 12) % len(kept)
    kept = kept[turn:] + kept[:turn]
    if len(kept) == 1:
        return None
    question = say(
        "spaces.ask", space=hop.space.upper(), address=f"{hop.address:#x}", to=hop.to.upper()
    )
    feedback = [choices[one] for one in kept]
    return Ask(question, kept, kept.index(_words(hop.found)), feedback)


def _words(address: int | None) -> str:
    return say("spaces.nowhere") if address is None else f"{address:#x}"


def _mistakes(machine: Machine, trail: Trail, hop: Hop) -> list[tuple[str, int]]:
    """(what was believed, the address that follows), the likeliest first."""
    number, to = SPACES.index(hop.space), SPACES.index(hop.to)
    found = [] if to < number else _contiguous(machine, hop)
    found += _slot_mistakes(machine, trail, hop)
    found.append(("same", hop.address))
    skipped = {"hva": trail.gpa, "gpa": trail.hpa, "hpa": trail.gpa, "gva": trail.gpa}[hop.to]
    found += [("skipped", one) for one in skipped[:1]]
    if hop.found is not None and hop.found & _OFFSET:
        found.append(("offset", hop.found & -PAGE_SIZE))
    return [(name, one) for name, one in found if one >= 0 and one != hop.found]


def _contiguous(machine: Machine, hop: Hop) -> list[tuple[str, int]]:
    """One page after the page that is its neighbour in this space."""
    process = machine.guest.current
    pages = list(pages_of(machine, process)) if process else []
    here = hop.address & -PAGE_SIZE
    near = [one for one in pages if _of(one, hop.space) == here - PAGE_SIZE]
    ahead = [_of(one, hop.to) for one in near]
    return [("contiguous", one + PAGE_SIZE + (hop.address & _OFFSET)) for one in ahead if one]


def _of(page: Page, space: str) -> int | None:
    found: int | None = getattr(page, space)
    return found


def _slot_mistakes(machine: Machine, trail: Trail, hop: Hop) -> list[tuple[str, int]]:
    """GPA to HVA by the base alone, or by the offset of another slot; and the same way back."""
    slot = slot_of(machine, trail.gpa[0]) if trail.gpa else None
    if slot is None or machine.vm is None:
        return []
    others = [one for one in machine.vm.slots if one.slot != slot.slot]
    if hop.to == "hva":
        wrong = [("slot", one.hva - one.gpa + trail.gpa[0]) for one in others]
        return [("base", slot.hva + trail.gpa[0]), *wrong] if slot.gpa else wrong
    if hop.to == "gpa" and hop.space == "hva":
        wrong = [("slot", hop.address - one.hva + one.gpa) for one in others]
        return [("base", hop.address - slot.hva), *wrong] if slot.gpa else wrong
    return []


CHANGES = ((), ("hpa",), ("gpa", "hva", "hpa"), ("hva", "hpa"))


def changed_spaces(before: Page, after: Page) -> tuple[str, ...]:
    """In which spaces the page of a GVA is elsewhere now."""
    return tuple(space for space in SPACES[1:] if _of(before, space) != _of(after, space))


def ask_change(before: Page, after: Page, deed: str) -> Ask:
    """After a deed: which of a page's addresses have changed?"""
    right = changed_spaces(before, after)
    options = list(CHANGES) if right in CHANGES else [*CHANGES[:3], right]
    words = [say("spaces.change.none") if not one else " + ".join(one).upper() for one in options]
    why = say(f"spaces.why.{deed}")
    feedback = [
        f"{say('spaces.ask.right') if one == right else _change_mistake(one)} {why}"
        for one in options
    ]
    question = say("spaces.ask.change", deed=say(f"spaces.deed.{deed}"), gva=f"{before.gva:#x}")
    return Ask(question, words, options.index(right), feedback)


def _change_mistake(choice: tuple[str, ...]) -> str:
    """What is wrong with a choice of spaces that is not what happened."""
    if not choice:
        return say("spaces.ask.change.none")
    if "gpa" in choice:
        return say("spaces.ask.change.guest")
    return say("spaces.ask.change.slot" if "hva" in choice else "spaces.ask.change.frame")
