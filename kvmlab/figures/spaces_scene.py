"""The scene of one page in four spaces: what happened to it, then one translation at a time."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.figures import spaces
from kvmlab.figures.scene import Role, Scene, SceneStep, Table
from kvmlab.figures.spaces_asks import Hop, ask_change, ask_hop, changed_spaces, hops
from kvmlab.figures.svg import drawing
from kvmlab.machine import Machine
from kvmlab.study.follow import SPACES, Page, Trail, all_pages, direct, slot_of
from kvmlab.text import count, say

TOLD = MappingProxyType(
    {
        "PageFault": "S",
        "DemandFault": "G",
        "PageCopied": "G",
        "PageReused": "G",
        "Forked": "G",
        "BalloonMoved": "G",
        "VmExit": "S",
        "HostFault": "H",
        "HostSwappedIn": "H",
        "HostSwappedOut": "H",
        "HostTookBack": "H",
        "HostMigrated": "H",
        "HostMerged": "H",
        "HostUnshared": "H",
        "BalloonServed": "H",
        "Aged": "H",
        "Zap": "H",
        "RemoteFlush": "H",
        "SpteSet": "H",
        "TlbFlush": "S",
    }
)
"""The records that are told of, and the letter of who speaks."""

NOTIFYING = ("HostSwappedOut", "HostTookBack", "HostMigrated", "HostMerged", "HostUnshared")
COLUMNS = ("from", "to", "how")


@dataclass(frozen=True, slots=True)
class Deed:
    """What was done last: its verb, all pages before, and how many records of each kind."""

    verb: str
    before: Mapping[tuple[str, int], Page]
    told: Mapping[str, int] = field(default_factory=Counter)


def spaces_scene(
    machine: Machine, trail: Trail, others: Iterable[int] = (), deed: Deed | None = None
) -> Scene:
    """The four maps, with ``trail`` lit step by step; ``deed`` is told first."""
    shown = spaces.draw_map(machine, trail, others)
    parts, height = spaces.draw(shown, trail)
    steps = [_first(machine, trail, deed)]
    lit: dict[str, Role] = dict(steps[0].lit)
    for hop in hops(trail):
        steps.append(_hop(machine, trail, hop, lit))
        lit |= dict.fromkeys(steps[-1].lit, "used")
    if trail.hpa and trail.gpa:
        steps.append(SceneStep(_direct(machine, trail), lit))
    title = say("spaces.title")
    return Scene(
        title=title,
        svg=drawing(spaces.WIDTH, height, title, *parts),
        caption=say("spaces.caption"),
        columns=[say(f"spaces.row.{name}") for name in COLUMNS],
        steps=steps,
    )


def _first(machine: Machine, trail: Trail, deed: Deed | None) -> SceneStep:
    here: dict[str, Role] = {spaces.key_of(trail.space, trail.address): "now"}
    chosen = chosen_text(trail)
    if deed is None:
        return SceneStep(chosen, here)
    ask = None
    if pages := _before_and_after(machine, trail, deed):
        ask = ask_change(*pages, deed.verb)
    return SceneStep(f"{deed_sentence(machine, trail, deed)} {chosen}", here, ask=ask)


def _before_and_after(machine: Machine, trail: Trail, deed: Deed) -> tuple[Page, Page] | None:
    """The page of the trail, as it was before the deed and as it is."""
    if not trail.gva:
        return None
    name, gva = trail.gva[0][0], trail.gva[0][1] & -PAGE_SIZE
    nothing = Page(name, gva)
    return deed.before.get((name, gva), nothing), all_pages(machine).get((name, gva), nothing)


def deed_sentence(machine: Machine, trail: Trail, deed: Deed) -> str:
    """What was done, what changed for the chosen page, and who was told."""
    parts = [f"{say(f'spaces.deed.{deed.verb}')}."]
    if pages := _before_and_after(machine, trail, deed):
        changed = changed_spaces(*pages)
        names = " + ".join(changed).upper()
        key = "spaces.changed" if changed else "spaces.unchanged"
        parts.append(say(key, gva=f"{pages[0].gva:#x}", spaces=names))
    if any(deed.told.get(name) for name in NOTIFYING):
        parts.append(count("spaces.notified", deed.told.get("Zap", 0)))
    return " ".join(parts)


def _hop(machine: Machine, trail: Trail, hop: Hop, behind: Mapping[str, Role]) -> SceneStep:
    lit: dict[str, Role] = {**behind, spaces.key_of(hop.space, hop.address): "used"}
    found = {"gva": [gva for _, gva in trail.gva], "gpa": trail.gpa, "hva": trail.hva}
    found["hpa"] = trail.hpa
    for one in found[hop.to]:
        lit[spaces.key_of(hop.to, one)] = "now"
        lit |= _links(hop, found[hop.space], one)
    sentence = _sentence(machine, trail, hop)
    to = ", ".join(f"{one:#x}" for one in found[hop.to]) or say("spaces.nowhere")
    row = [f"{hop.space.upper()} {hop.address:#x}", f"{hop.to.upper()} {to}", sentence]
    return SceneStep(sentence, lit, rows=[row], ask=ask_hop(machine, trail, hop))


def _links(hop: Hop, starts: list[int], end: int) -> dict[str, Role]:
    """The lines between the pages of a step, whichever way it goes."""
    down = SPACES.index(hop.to) > SPACES.index(hop.space)
    pairs = [(hop.space, one, end) if down else (hop.to, end, one) for one in starts]
    return {spaces.link_key(*pair): "now" for pair in pairs}


def _sentence(machine: Machine, trail: Trail, hop: Hop) -> str:
    """How the next address is found, with the numbers put in; or why there is none."""
    values = {"address": f"{hop.address:#x}", "found": f"{hop.found or 0:#x}"}
    if hop.found is None:
        end = trail.end if hop.to in ("gpa", "hva", "hpa") and trail.end else "nobody"
        return say(f"spaces.end.{end}", role=trail.role, **values)
    gpa = trail.gpa[0] if trail.gpa else 0
    slot = slot_of(machine, gpa)
    if slot:
        values |= {"slot": str(slot.slot), "base": f"{slot.hva:#x}", "start": f"{slot.gpa:#x}"}
    if hop.to == "gva":
        values["found"] = ", ".join(f"{name} {gva:#x}" for name, gva in trail.gva)
    if (hop.space, hop.to) == ("hpa", "hva"):
        values["found"] = ", ".join(f"{one:#x}" for one in trail.hva)
    return say(f"spaces.hop.{hop.space}.{hop.to}", **values)


def _direct(machine: Machine, trail: Trail) -> str:
    """What the CPU walks instead of all that."""
    gva = trail.gva[0][1] if trail.gva else 0
    gpa = trail.gpa[0]
    found = direct(machine, Page("", gva, gpa))
    design = "ept" if machine.cpu.context.ept else "shadow"
    if design == "shadow" and not trail.gva:
        return say("spaces.direct.nobody")
    values = {"gva": f"{gva:#x}", "gpa": f"{gpa:#x}"}
    if found is None:
        return say(f"spaces.direct.{design}.none", **values)
    return say(f"spaces.direct.{design}", hpa=f"{found:#x}", **values)


def chosen_text(trail: Trail) -> str:
    """What is chosen, and nothing of where it leads."""
    return say("spaces.chosen", space=trail.space.upper(), address=f"{trail.address:#x}")


def trail_text(trail: Trail) -> str:
    """A trail in one line: ``GVA app 0x400000, GPA 0x113000, ...``."""
    found = {
        "gva": [f"{name} {gva:#x}" for name, gva in trail.gva],
        "gpa": [f"{one:#x}" for one in trail.gpa],
        "hva": [f"{one:#x}" for one in trail.hva],
        "hpa": [f"{one:#x}" for one in trail.hpa],
    }
    nowhere = say("spaces.nowhere")
    parts = [f"{space.upper()} {', '.join(found[space]) or nowhere}" for space in SPACES]
    return "; ".join(parts) + "."


def told_table(told: Mapping[str, int]) -> Table:
    """Who did or was told what by the last deed, and how many times."""
    rows = [
        [say(f"spaces.told.{name}"), party, str(told[name])]
        for name, party in TOLD.items()
        if told.get(name)
    ]
    columns = [say(f"spaces.told.{one}") for one in ("what", "who", "times")]
    return Table(say("spaces.told"), columns, rows)
