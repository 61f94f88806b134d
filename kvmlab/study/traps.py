"""The first traps of a shadowed guest, and what both trees of tables look like after each."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Unpack

from kvmlab.base.addresses import parse_size
from kvmlab.hardware.records import VmEntry, VmExit
from kvmlab.machine import Machine
from kvmlab.study.compare import HOST_PER_GUEST, Options
from kvmlab.study.replay import accesses, guest_memory_for, replay
from kvmlab.study.tree import Table, guest_tree, shadow_tree
from kvmlab.workloads.trace import Trace

MOST = 12
ENOUGH = 400  # records of a trace, in which so many traps surely are

Node = tuple[int, int]
"""One table: its level, and where it is in the space of its tables."""


@dataclass(frozen=True, slots=True)
class Held:
    """How many entries a table holds, and which table leads to it (None: a register)."""

    entries: int
    parent: Node | None


Trees = dict[Node, Held]


@dataclass(slots=True)
class Trap:
    """One VM exit: what KVM did until the guest went on, and the trees as they then were."""

    exit: VmExit
    records: list[object] = field(default_factory=list)
    guest: Trees = field(default_factory=dict)
    shadow: Trees = field(default_factory=dict)


def first_traps(trace: Trace, most: int = MOST, **options: Unpack[Options]) -> list[Trap]:
    """The first ``most`` traps of ``trace`` under shadow paging, counted from its first access.

    Raises what `Machine` refuses.
    """
    part, page = accesses(trace.head(ENOUGH)), options.get("guest_page", "4K")
    found: list[Trap] = []
    listening = False

    def hear(record: object) -> None:
        if not listening:
            return
        if isinstance(record, VmExit) and len(found) < most:
            found.append(Trap(record))
        elif found and not found[-1].guest:
            if isinstance(record, VmEntry):
                found[-1].guest, found[-1].shadow = snapshot(machine)
            else:
                found[-1].records.append(record)

    guest = options.setdefault("guest_memory", guest_memory_for(part, page))
    options.setdefault("host_memory", HOST_PER_GUEST * parse_size(guest))
    machine = Machine(mmu="shadow", tap=hear, **options)
    for _ in replay(machine, part, page):
        listening = True
        if len(found) == most:
            break
    return [one for one in found if one.guest]


def snapshot(machine: Machine) -> tuple[Trees, Trees]:
    """The tables of the process that runs, and those that shadow them, of its own half."""
    shadow = shadow_tree(machine)
    end = machine.guest.user_end
    return dict(_held(guest_tree(machine), end)), dict(_held(shadow, end) if shadow else ())


def _held(table: Table, end: int, parent: Node | None = None) -> Iterator[tuple[Node, Held]]:
    own = [one for one in table.entries or () if one.address < end]
    here = table.level, table.base
    yield here, Held(len(own), parent)
    for one in own:
        if one.below:
            yield from _held(one.below, end, here)
