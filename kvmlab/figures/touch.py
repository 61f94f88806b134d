"""What happened once, before the walk: the page was touched for the first time.

The guest's kernel got a #PF and wrote its own entry; the hypervisor was told, looked up the memslot
(GPA to HVA), and the host's kernel backed that page (HVA to HPA).  None of it is a reference of
the walk, so none of it has a number.
"""

from collections.abc import Sequence

from kvmlab.figures.addresses import hex_text
from kvmlab.figures.fold import exits, page_faults
from kvmlab.figures.scene import Role, SceneStep
from kvmlab.host.records import HostFault
from kvmlab.kvm.records import SlotLookup, SpteSet
from kvmlab.machine import Chain
from kvmlab.study.access import Before
from kvmlab.text import count, say

COLUMNS = ("number", "table", "level", "serves", "index", "address", "entry", "verdict")
"""The columns of the table of a walk, and of what led to it."""


def event_row(who: str, what: str) -> list[str]:
    """A row of the table for what is no reference: it has no number."""
    return ["–", who, *[""] * (len(COLUMNS) - 3), what]


def touch_steps(before: Before, mmu: str, chain: Chain) -> list[SceneStep]:
    """The steps of the first touch; those that the records do not tell of are left out."""
    events = "; ".join(_deeds(before.touch, mmu)) or say("touch.nothing")
    told = [_once(say("touch.sentence", events=events), {"chain.gva": "used"})]
    lookup = _slot(before, chain)
    if lookup:
        sentence = say(
            "touch.slot", gpa=hex_text(chain.gpa), slot=lookup.slot, hva=hex_text(chain.hva)
        )
        told.append(_once(sentence, {"by.slot": "now", "chain.gpa": "used", "chain.hva": "used"}))
    backed = _backed(before, chain)
    if backed:
        size = say(f"walk.size.{backed.shift}")
        ends = {"hva": hex_text(chain.hva), "hpa": hex_text(chain.hpa)}
        sentence = say("touch.host", size=size, **ends)
        told.append(_once(sentence, {"by.host": "now", "chain.hva": "used", "chain.hpa": "used"}))
    written = sum(isinstance(record, SpteSet) for record in before.touch)
    if written:
        sentence = count(f"touch.written.{mmu}", written)
        told.append(_once(sentence, {f"by.{mmu}": "now", "chain.hpa": "used"}))
    return told


def touch_costs(touch: Sequence[object]) -> str:
    """What the first touch cost: page faults and exits by reason, as many as there were."""
    found = exits(touch)
    reasons = dict.fromkeys(reason for reason, _ in found)
    numbers = {one: sum(n for (reason, _), n in found.items() if reason == one) for one in reasons}
    told = [count(f"touch.exits.{reason}", number) for reason, number in numbers.items()]
    faults = page_faults(touch)
    return ", ".join([*_faults(faults, "touch.fault"), *told]) or say("touch.nothing")


def _deeds(touch: Sequence[object], mmu: str) -> list[str]:
    """The same with what KVM did about each exit."""
    told = [
        say("touch.deed", exits=count(f"touch.exits.{reason}", n), deed=say(f"exit.deed.{deed}"))
        for (reason, deed), n in exits(touch).items()
    ]
    served = "touch.served.native" if mmu == "native" else "touch.served"
    return [*_faults(page_faults(touch), served), *told]


def _faults(number: int, key: str) -> list[str]:
    return [count(key, number)] if number else []


def _once(sentence: str, lit: dict[str, Role]) -> SceneStep:
    return SceneStep(sentence, lit, rows=[event_row(say("touch.row"), sentence)])


def _slot(before: Before, chain: Chain) -> SlotLookup | None:
    """A lookup that used the slot of the page: in one slot HVA and GPA lie a constant apart."""
    if chain.gpa is None or chain.hva is None:
        return None
    found = (one for one in (*before.touch, *before.earlier) if isinstance(one, SlotLookup))
    return next((one for one in found if one.hva - one.gpa == chain.hva - chain.gpa), None)


def _backed(before: Before, chain: Chain) -> HostFault | None:
    """The host's fault that backed the page, now or earlier as part of a larger one."""
    found = (one for one in (*before.touch, *before.earlier) if isinstance(one, HostFault))
    hva = chain.hva
    return next(
        (one for one in found if hva is not None and one.hva >> one.shift == hva >> one.shift), None
    )
