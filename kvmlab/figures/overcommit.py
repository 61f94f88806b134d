"""A day of a crowded host: each VM's memory by the hour, and what the promise costs.

Pure functions of `study.overcommit`'s ticks.  Sizes are those of the real thing that the small one
stands for: a page is 16 MiB.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvmlab.figures.curves import Curve, Curves
from kvmlab.figures.modes import Party, number
from kvmlab.figures.overcommit_asks import hour_ask, nova_ask
from kvmlab.figures.scene import Role, Scene, SceneStep, Table
from kvmlab.figures.svg import drawing, element, group, text
from kvmlab.study.overcommit import (
    HOST_MIB,
    HOST_OWN,
    PAGE_MIB,
    SATA_MIB,
    Placed,
    Sample,
    Setting,
    Tick,
)
from kvmlab.study.overcommit_host import Guest, Seen
from kvmlab.text import count, say

COLUMNS = ("hour", "used", "rss", "free", "swapped", "balloons", "in", "out", "guest", "killed")
BOXES = (("free", "H"), ("rss", "H"), ("swapped", "H"), ("used", "G"), ("balloons", "G"))
CELLS, CELL_WIDTH, ROW, TOP = 8, 36, 26, 88
LEFT, RIGHT, WIDTH = 184, 488, 720
LONGEST = 22  # letters of a name that are drawn; the rest is in the tables
ASKED = 14  # the hour at which offices are busiest


def mib(pages: int) -> str:
    """``pages`` as the MiB that they stand for."""
    return number(pages * PAGE_MIB)


def gib(pages: int) -> float:
    """``pages`` as the GiB that they stand for."""
    return pages * PAGE_MIB / 1024


@dataclass(frozen=True, slots=True)
class Costs:
    """What a part of a day cost, added up."""

    swap_out: int
    swap_in: int
    guest_in: int
    worst: int  # refaults in the worst hour
    killed: tuple[str, ...]
    peak: int  # of what all programs use

    @property
    def stall(self) -> float:
        """Seconds that VMs waited at least for what came back from a disk."""
        return (self.swap_in + self.guest_in) * PAGE_MIB / SATA_MIB


def costs(ticks: Sequence[Tick]) -> Costs:
    """The sums over ``ticks``."""
    return Costs(
        sum(one.swap_out for one in ticks),
        sum(one.swap_in for one in ticks),
        sum(one.guest_in for one in ticks),
        max(one.swap_in + one.guest_in for one in ticks),
        tuple(name for one in ticks for name in one.killed),
        max(one.used for one in ticks),
    )


# -- the scene ------------------------------------------------------------------------------


def day_scene(setting: Setting, placed: Placed, ticks: Sequence[Tick]) -> Scene:
    """One step for each hour, every VM a row of its memory."""
    names = setting.called()
    steps = [_step(setting, placed, ticks, at) for at in range(len(ticks))]
    columns = [say(f"overcommit.column.{name}") for name in COLUMNS]
    title = say("overcommit.title")
    return Scene(title, draw_vms(names, title), say("overcommit.caption"), columns, steps)


def _step(setting: Setting, placed: Placed, ticks: Sequence[Tick], at: int) -> SceneStep:
    tick = ticks[at]
    before = ticks[max(at - 1, 0)]
    row = [f"{tick.hour}:00", *(mib(getattr(tick, name)) for name in COLUMNS[1:6])]
    row += [mib(tick.swap_in), mib(tick.swap_out), mib(tick.guest_in), ", ".join(tick.killed)]
    ask = nova_ask(setting, placed) if not at else None
    if tick.hour == ASKED:
        ask = hour_ask(tick)
    lit = lit_vms(tick, before)
    lit |= {f"vm.{n}": "fault" for n, one in enumerate(tick.vms) if one.name in tick.killed}
    if not at:
        lit |= {f"vm.{n}": "fault" for n in range(len(placed.names), setting.wanted)}
    sentence = step_sentence(setting, placed, tick)
    return SceneStep(sentence, lit, _texts(setting, tick), [row], ask=ask)


def step_sentence(setting: Setting, placed: Placed, tick: Tick) -> str:
    """The hour in words; at midnight what nova did."""
    parts = [] if tick.hour else [placed_sentence(setting, placed)]
    values = {name: mib(getattr(tick, name)) for name in ("used", "rss", "free")}
    parts.append(say("overcommit.step", hour=f"{tick.hour}:00", **values))
    if tick.swap_out:
        parts.append(say("overcommit.step.out", out=mib(tick.swap_out)))
    if tick.swap_in:
        parts.append(say("overcommit.step.in", amount=mib(tick.swap_in)))
    if tick.guest_in:
        parts.append(say("overcommit.step.guest", amount=mib(tick.guest_in)))
    if tick.merged:
        parts.append(say("overcommit.step.merged", amount=mib(tick.merged)))
    if tick.killed:
        parts.append(say("overcommit.step.killed", names=", ".join(tick.killed)))
    return " ".join(parts)


def placed_sentence(setting: Setting, placed: Placed) -> str:
    """What nova promised, and why it stopped."""
    stock = placed.inventory
    values = {
        "placed": len(placed.names),
        "wanted": setting.wanted,
        "total": number(stock.total),
        "reserved": number(stock.reserved),
        "ratio": f"{stock.ratio:g}",
        "capacity": number(int(stock.capacity)),
        "used": number(stock.used),
    }
    line = say("overcommit.placed", **values)
    return f"{line} {placed.refusal}".strip()


def states(one: "Sample | Guest") -> str:
    """The cells of one VM: R resident, S in the host's swap, B balloon, a point for the rest."""
    if not one.alive:
        return "×" * CELLS
    bounds = [one.rss, one.rss + one.host_swap, one.rss + one.host_swap + one.balloon]
    middles = [(2 * cell + 1) * one.pages / (2 * CELLS) for cell in range(CELLS)]
    return "".join("RSB·"[sum(at >= bound for bound in bounds)] for at in middles)


def lit_vms(tick: "Tick | Seen", before: "Tick | Seen") -> dict[str, Role]:
    """The cells of all VMs by their state, and the numbers that changed."""
    roles: dict[str, Role] = {"R": "used", "S": "fault", "B": "now"}
    lit: dict[str, Role] = {}
    vms: Sequence[Sample | Guest] = tick.vms
    for vm, one in enumerate(vms):
        marks = states(one)
        lit |= {f"c.{vm}.{n}": roles[mark] for n, mark in enumerate(marks) if mark in roles}
    for name, _ in BOXES:
        if getattr(tick, name) != getattr(before, name):
            lit[f"n.{name}"] = "used"
    return lit


def _texts(setting: Setting, tick: Tick) -> dict[str, str]:
    texts = {f"n.{name}": mib(getattr(tick, name)) for name, _ in BOXES}
    for vm, one in enumerate(tick.vms):
        marks = states(one)
        texts |= {f"c.{vm}.{n}": mark for n, mark in enumerate(marks) if mark != "·"}
        load = say(f"overcommit.profile.{one.profile}")
        values = {"used": mib(one.used), "rss": mib(one.rss), "load": load}
        key = "overcommit.row" if one.alive else "overcommit.row.dead"
        texts[f"t.{vm}"] = say(key, **values)
    for vm in range(len(tick.vms), setting.wanted):
        texts[f"t.{vm}"] = say("overcommit.row.refused")
    return texts


def draw_vms(names: Sequence[str], title: str) -> str:
    """A row for each VM, below the numbers of the host."""
    rows = [_row(at, name) for at, name in enumerate(names)]
    boxes = [_box(at, name, party) for at, (name, party) in enumerate(BOXES)]
    heads = [
        text(say("overcommit.head.name"), 0, TOP - 10, class_="kvm-minor"),
        text(say("overcommit.head.cells"), LEFT, TOP - 10, class_="kvm-minor"),
        text(say("overcommit.head.now"), RIGHT, TOP - 10, class_="kvm-minor"),
    ]
    return drawing(WIDTH, TOP + ROW * len(names), title, *boxes, *heads, *rows)


def _box(at: int, name: str, party: str) -> str:
    x, width, key = 144 * at, 136, f"n.{name}"
    label = say(f"overcommit.box.{name}")
    return group(
        key,
        label,
        party,
        element("rect", class_="kvm-cell", x=x, y=0, width=width, height=44, rx=2),
        text(label, x + 8, 17),
        text(party, x + width - 8, 17, text_anchor="end", class_="kvm-letter"),
        element("text", "–", x=x + 8, y=35, data_text=key, class_="kvm-mono kvm-value"),
    )


def _row(at: int, name: str) -> str:
    """One VM: its name, its cells, its numbers."""
    y = TOP + ROW * at
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    cells = [
        element(
            "g",
            element(
                "rect",
                class_="kvm-cell",
                x=LEFT + CELL_WIDTH * n,
                y=y,
                width=CELL_WIDTH - 2,
                height=ROW - 6,
                rx=2,
            ),
            element(
                "text",
                "·",
                x=LEFT + CELL_WIDTH * n + (CELL_WIDTH - 2) / 2,
                y=y + 14,
                text_anchor="middle",
                data_text=f"c.{at}.{n}",
                class_="kvm-mono",
            ),
            class_="kvm-h",
            data_key=f"c.{at}.{n}",
        )
        for n in range(CELLS)
    ]
    return group(
        f"vm.{at}",
        name,
        "H",
        element("rect", class_="kvm-hit", x=0, y=y, width=WIDTH, height=ROW - 6, rx=2),
        text(short, 0, y + 14),
        *cells,
        element("text", "", x=RIGHT, y=y + 14, data_text=f"t.{at}", class_="kvm-mono"),
    )


# -- sentences, tables, charts --------------------------------------------------------------


def price_sentences(placed: Placed, ticks: Sequence[Tick]) -> list[str]:
    """What the ratio costs up to the last of ``ticks``: by promise, by touch, in swap, in VMs."""
    paid, host = costs(ticks), HOST_MIB // PAGE_MIB - HOST_OWN
    promise = say(
        "overcommit.price.promise",
        promised=f"{100 * placed.inventory.used / HOST_MIB:.0f}",
        touched=f"{100 * paid.peak / host:.0f}",
    )
    if not (paid.swap_out or paid.guest_in or paid.killed):
        return [promise, say("overcommit.price.none")]
    lines = [
        promise,
        say(
            "overcommit.price.swap",
            out=mib(paid.swap_out),
            amount=mib(paid.swap_in),
            guest=mib(paid.guest_in),
            stall=f"{paid.stall:,.0f}",
            worst=number(paid.worst),
        ),
    ]
    if paid.killed:
        names = ", ".join(paid.killed)
        lines.append(count("overcommit.price.killed", len(paid.killed), names=names))
    return lines


def vm_table(tick: Tick) -> Table:
    """Every VM at this hour, in MiB."""
    names = ("profile", "state", "used", "rss", "host_swap", "guest_swap", "balloon", "refaults")
    rows = [
        [
            one.name,
            say(f"overcommit.profile.{one.profile}"),
            say(f"overcommit.state.{'on' if one.alive else 'killed'}"),
            *(mib(getattr(one, name)) for name in names[2:7]),
            number(one.refaults),
        ]
        for one in tick.vms
    ]
    columns = [say(f"overcommit.vm.{name}") for name in ("name", *names)]
    return Table(say("overcommit.vm.caption", hour=f"{tick.hour}:00"), columns, rows)


def box_curves(seen: Sequence[object], size: Callable[[int], float]) -> list[Curve]:
    """A curve for each of four numbers kept apart; ``size`` makes of pages what is drawn."""
    lines: tuple[tuple[str, Party], ...] = (
        ("used", "guest"),
        ("rss", "host"),
        ("swapped", "shadow"),
        ("balloons", "quiet"),
    )
    letters = dict(BOXES)
    return [
        Curve(
            f"{say(f'overcommit.box.{name}')} ({letters[name]})",
            party,
            [size(getattr(one, name)) for one in seen],
        )
        for name, party in lines
    ]


def memory_curves(ticks: Sequence[Tick]) -> Curves:
    """What programs use, what the host keeps of it, what it swapped, what balloons hold; GiB."""
    return _curves("memory", ticks, box_curves(ticks, gib))


def traffic_curves(ticks: Sequence[Tick]) -> Curves:
    """What went to disks and came back in each hour; GiB."""
    lines: tuple[tuple[str, Party, str], ...] = (
        ("swap_out", "shadow", "H"),
        ("swap_in", "host", "H"),
        ("guest_in", "guest", "G"),
    )
    curves = [
        Curve(
            f"{say(f'overcommit.traffic.{name}')} ({letter})",
            party,
            [gib(getattr(one, name)) for one in ticks],
        )
        for name, party, letter in lines
    ]
    return _curves("traffic", ticks, curves)


def _curves(what: str, ticks: Sequence[Tick], curves: Sequence[Curve]) -> Curves:
    names = ("title", "y", "caption")
    title, up, caption = (say(f"overcommit.chart.{what}.{name}") for name in names)
    hours = [float(one.hour) for one in ticks]
    return Curves(title, say("overcommit.chart.x"), up, hours, curves, caption)
