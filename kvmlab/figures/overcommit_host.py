"""A host of one's own and its VMs, look by look.

Pure functions of `study.overcommit_host`'s looks; sizes are pages of 4 KiB, shown in MiB.
"""

from collections.abc import Sequence

from kvmlab.figures.curves import Curves
from kvmlab.figures.modes import number
from kvmlab.figures.overcommit import BOXES, box_curves, draw_vms, lit_vms, states
from kvmlab.figures.scene import Scene, SceneStep, Table
from kvmlab.study.overcommit_host import Guest, Seen
from kvmlab.text import count, say

COLUMNS = ("promised", "used", "rss", "free", "swapped", "balloons")
TRAFFIC = ("swap_in", "swap_out", "guest_in")
_IN_MIB = 256  # pages


def mib(pages: int) -> str:
    """``pages`` of 4 KiB as MiB."""
    return number(round(pages / _IN_MIB))


def host_scene(seen: Sequence[Seen]) -> Scene:
    """One step for each look, every VM a row of its memory."""
    names = [one.name for one in seen[-1].vms]  # who came once stays, in its place
    steps = [_step(seen[max(at - 1, 0)], one) for at, one in enumerate(seen)]
    columns = [say("overcommit.own.when"), say("overcommit.own.promised")]
    columns += [say(f"overcommit.box.{name}") for name in COLUMNS[1:]]
    columns += [say(f"overcommit.traffic.{name}") for name in ("swap_in", "swap_out", "guest_in")]
    title = say("overcommit.own.title")
    return Scene(title, draw_vms(names, title), say("overcommit.own.caption"), columns, steps)


def _step(before: Seen, now: Seen) -> SceneStep:
    cells = [mib(getattr(now, name)) for name in (*COLUMNS, *TRAFFIC)]
    row = [f"{now.seconds:g} s", *cells]
    return SceneStep(look_sentence(now), lit_vms(now, before), _texts(now), [row])


def look_sentence(now: Seen) -> str:
    """The host at this look, and what happened since the one before."""
    running = sum(one.alive for one in now.vms)
    names = ("promised", "total", "used", "rss", "free")
    values = {name: mib(getattr(now, name)) for name in names}
    share = f"{100 * now.promised / now.total:.0f}"
    parts = [count("overcommit.own.look", running, share=share, **values)]
    if now.swap_out or now.swap_in or now.guest_in:
        moved = {name: mib(getattr(now, name)) for name in TRAFFIC}
        parts.append(say("overcommit.own.swap", **moved))
    if now.merged:
        parts.append(say("overcommit.step.merged", amount=mib(now.merged)))
    if now.kills:
        parts.append(count("overcommit.own.kills", now.kills))
    return " ".join(parts)


def _texts(now: Seen) -> dict[str, str]:
    texts = {f"n.{name}": mib(getattr(now, name)) for name, _ in BOXES}
    for at, one in enumerate(now.vms):
        texts |= {f"c.{at}.{n}": mark for n, mark in enumerate(states(one)) if mark != "·"}
        texts[f"t.{at}"] = _told(one)
    return texts


def _told(one: Guest) -> str:
    if not one.alive:
        return say("overcommit.own.off")
    return say("overcommit.own.row", used=mib(one.used), rss=mib(one.rss), of=mib(one.pages))


def guests_table(now: Seen) -> Table:
    """Every VM at this look, in MiB."""
    names = ("used", "rss", "host_swap", "guest_swap", "balloon")
    rows = [
        [
            one.name,
            say(f"overcommit.own.state.{'on' if one.alive else 'off'}"),
            mib(one.pages),
            *(mib(getattr(one, name)) for name in names),
        ]
        for one in now.vms
    ]
    columns = [say(f"overcommit.vm.{name}") for name in ("name", "state", *names)]
    columns.insert(2, say("overcommit.own.promised"))
    return Table(say("overcommit.own.table", when=f"{now.seconds:g}"), columns, rows)


def host_curves(seen: Sequence[Seen]) -> Curves:
    """What guests use, what the host keeps of it, what it swapped, what balloons hold; MiB."""
    curves = box_curves(seen, lambda pages: pages / _IN_MIB)
    title, caption = say("overcommit.own.chart"), say("overcommit.own.chart.caption")
    xs = [one.seconds for one in seen]
    return Curves(title, say("balloon.chart.x"), say("balloon.chart.y"), xs, curves, caption)
