"""Four memory maps side by side: a column for each address space, a line for each translation.

A column lists pages, not bytes: only those that the process has, and what was chosen.  Lines
between columns show who keeps order and who does not: a memslot's run in parallel, others cross.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from kvmlab.base.addresses import PAGE_SIZE, size_text
from kvmlab.figures.scene import Table
from kvmlab.figures.svg import element, group, text
from kvmlab.kvm.memslots import Memslot
from kvmlab.machine import Machine
from kvmlab.qemu.machine import VIRTIO_MMIO
from kvmlab.study.follow import SPACES, Trail, check, follow, gpa_of, pages_of, slot_of
from kvmlab.text import say

WIDTH, COLUMN, GAP, ROW, CELL, HEAD, REGION = 720, 138, 56, 25, 22, 24, 22
PARTY = ("G", "G", "H", "H")
MOST = 14  # pages of the process, and others besides


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of one address space: a mapping, a memslot, a hole, QEMU's area, the host's RAM."""

    space: str
    start: int
    end: int
    name: str


@dataclass(slots=True)
class Map:
    """What is drawn: regions and pages of each space, and which page leads to which."""

    regions: dict[str, list[Region]]
    cells: dict[str, dict[int, bool]] = field(default_factory=dict)  # page -> anything there
    links: set[tuple[str, int, int]] = field(default_factory=set)  # from the space to the next

    def add(self, space: str, address: int, *, there: bool = True) -> int:
        """Draw a page; returns its address."""
        page = address & -PAGE_SIZE
        cells = self.cells.setdefault(space, {})
        cells[page] = cells.get(page, False) or there
        return page

    def link(self, space: str, start: int, end: int) -> None:
        """Draw a line from a page of ``space`` to one of the next."""
        self.links.add((space, start & -PAGE_SIZE, end & -PAGE_SIZE))


def key_of(space: str, address: int) -> str:
    """The key of a page in a scene."""
    return f"{space}.{address & -PAGE_SIZE:#x}"


def read_key(key: str) -> tuple[str, int] | None:
    """The space and the address in a page's key; None if it is no such key."""
    space, _, address = key.partition(".")
    return (space, int(address, 16)) if space in SPACES and address.startswith("0x") else None


def regions(machine: Machine) -> dict[str, list[Region]]:
    """The memory maps of the process, the guest, QEMU and the host."""
    vm, qemu = check(machine)
    process = machine.guest.current
    found: dict[str, list[Region]] = {space: [] for space in SPACES}
    for vma in sorted(process.vmas, key=lambda one: one.start) if process else ():
        found["gva"].append(Region("gva", vma.start, vma.end, say("spaces.region.vma")))
    slots = sorted(vm.slots, key=lambda one: one.gpa)
    found["gpa"] = list(_guest_map(slots, machine))
    named = {one.hva: one.slot for one in slots}
    for area in qemu.areas:
        inside = [slot for hva, slot in named.items() if area.start <= hva < area.end]
        slot = ", ".join(map(str, sorted(inside))) or "–"
        name = say("spaces.region.area", slot=slot)
        found["hva"].append(Region("hva", area.start, area.end, name))
    found["hpa"] = [Region("hpa", 0, machine.ram.size, say("spaces.region.ram"))]
    return found


def _guest_map(slots: list[Memslot], machine: Machine) -> Iterator[Region]:
    """Slots, and the holes between them up to 4 GiB."""
    here = 0
    for slot in slots:
        if here < slot.gpa:
            yield Region("gpa", here, slot.gpa, say("spaces.region.hole"))
        here = slot.gpa + slot.size
        name = say("spaces.region.slot", slot=slot.slot)
        yield Region("gpa", slot.gpa, here, name)
    if here < 1 << 32:
        key = "spaces.region.devices" if machine.balloon else "spaces.region.hole"
        yield Region("gpa", here, 1 << 32, say(key))


def draw_map(machine: Machine, trail: Trail, others: Iterable[int]) -> Map:
    """The pages of the process that runs, those of ``trail``, and HVAs of ``others``."""
    vm, _ = check(machine)
    shown = Map(regions(machine))
    process = machine.guest.current
    for page in list(pages_of(machine, process))[:MOST] if process else ():
        _thread(shown, (page.gva, page.gpa, page.hva, page.hpa))
    for vma in process.vmas if process else ():
        for gva in range(vma.start, min(vma.end, vma.start + MOST * PAGE_SIZE), PAGE_SIZE):
            if len(shown.cells.get("gva", ())) < MOST:
                shown.add("gva", gva, there=False)
    if machine.balloon:
        shown.add("gpa", VIRTIO_MMIO, there=False)
    for hva in list(others)[:2]:
        for slot in vm.slots:
            for gpa in slot.gpas(hva, hva + 1):
                _join(machine, shown, follow(machine, "gpa", gpa))
    _join(machine, shown, trail)
    return shown


def _thread(shown: Map, chain: tuple[int | None, ...]) -> None:
    """One page through all spaces; a page is there if it leads on."""
    for number, address in enumerate(chain):
        if address is not None:
            there = number == 3 or chain[number + 1] is not None
            shown.add(SPACES[number], address, there=there)
    for space, (start, end) in zip(SPACES, pairwise(chain), strict=False):
        if start is not None and end is not None:
            shown.link(space, start, end)


def _join(machine: Machine, shown: Map, trail: Trail) -> None:
    """All that a trail leads to; of GVAs those of the process that runs."""
    process = machine.guest.current
    for name, gva in trail.gva:
        if process and name == process.name:
            page = gpa_of(machine, process, gva)
            _thread(shown, (gva, page, None, None))
    for gpa in trail.gpa:
        slot = slot_of(machine, gpa)
        hva = slot.hva_of(gpa) if slot else None
        _thread(shown, (None, gpa, hva, machine.host_address(gpa)))
    for hva in trail.hva:
        shown.add("hva", hva, there=bool(trail.hpa))
    for hpa in trail.hpa:
        shown.add("hpa", hpa, there=bool(trail.hva))


def draw(shown: Map, trail: Trail) -> tuple[list[str], float]:
    """The map as markup, and how tall it is; lines of ``trail`` are hidden until they are lit."""
    places: dict[tuple[str, int], float] = {}
    parts, height = [], 0.0
    for number, space in enumerate(SPACES):
        x = number * (COLUMN + GAP)
        title = say(f"spaces.column.{space}")
        parts.append(text(PARTY[number], x, 12, class_="kvm-letter"))
        parts.append(text(title, x + 12, 12, class_="kvm-label"))
        drawn, bottom = _column(shown, space, x, places)
        parts += drawn
        height = max(height, bottom)
    return [*_links(shown, places, trail), *parts], height


def _column(
    shown: Map, space: str, x: float, places: dict[tuple[str, int], float]
) -> tuple[list[str], float]:
    """One column: its regions in order, the pages of each below its name."""
    parts: list[str] = []
    y: float = HEAD
    left = dict(sorted(shown.cells.get(space, {}).items()))
    nowhere = Region(space, 0, 1 << 64, say("spaces.region.other"))
    for region in [*shown.regions[space], nowhere]:
        mine = [page for page in left if region.start <= page < region.end]
        if not mine and region is nowhere:
            continue
        size = "" if region is nowhere else size_text(region.end - region.start)
        parts.append(text(f"{region.name} {_short(size)}".strip(), x, y + 14, class_="kvm-small"))
        y += REGION
        last = None
        for page in mine:
            y += 8 if last is not None and page != last + PAGE_SIZE else 0
            parts.append(_cell(space, page, x, y, there=left.pop(page)))
            places[space, page] = y + CELL / 2
            y, last = y + ROW, page
        y += 6
    return parts, y


def _short(size: str) -> str:
    """A size if it is a round one."""
    return size if size[-1:] in "KMGT" else ""


def _cell(space: str, page: int, x: float, y: float, *, there: bool) -> str:
    number = SPACES.index(space)
    state = "spaces.page.there" if there else f"spaces.page.{space}"
    return group(
        key_of(space, page),
        say("spaces.page.name", space=space.upper(), address=f"{page:#x}", state=say(state)),
        PARTY[number],
        element(
            "rect",
            x=x,
            y=y,
            width=COLUMN,
            height=CELL,
            class_="kvm-cell" if there else "kvm-cell kvm-open",
        ),
        text(f"{page:#x}", x + 8, y + 15, class_="kvm-mono" + ("" if there else " kvm-minor")),
    )


def _links(shown: Map, places: dict[tuple[str, int], float], trail: Trail) -> Iterator[str]:
    told = {
        "gva": {gva & -PAGE_SIZE for _, gva in trail.gva},
        "gpa": {one & -PAGE_SIZE for one in trail.gpa},
        "hva": {one & -PAGE_SIZE for one in trail.hva},
    }
    for space, start, end in sorted(shown.links):
        number = SPACES.index(space)
        following = SPACES[number + 1]
        if (space, start) not in places or (following, end) not in places:
            continue
        x = number * (COLUMN + GAP) + COLUMN
        y1, y2 = places[space, start], places[following, end]
        path = f"M{x} {y1:g}L{x + GAP} {y2:g}"
        secret = " kvm-secret" if start in told[space] else ""
        yield element(
            "g",
            element("path", class_="kvm-line", d=path, fill="none"),
            class_=f"kvm-part kvm-{PARTY[number].lower()}{secret}",
            data_key=link_key(space, start, end),
        )


def link_key(space: str, start: int, end: int) -> str:
    """The key of the line from a page of ``space`` to one of the next."""
    return f"link.{space}.{start & -PAGE_SIZE:#x}.{end & -PAGE_SIZE:#x}"


def maps_table(machine: Machine) -> Table:
    """The four memory maps as a table: every region with its bounds."""
    rows = [
        [
            space.upper(),
            f"{one.start:#x}",
            f"{one.end - 1:#x}",
            size_text(one.end - one.start),
            one.name,
        ]
        for space, found in regions(machine).items()
        for one in found
    ]
    columns = [say(f"spaces.maps.{name}") for name in ("space", "first", "last", "size", "what")]
    return Table(say("spaces.maps"), columns, rows)
