"""The process that runs in a machine of one's own, as a program that other designs can run.

What it did is gone, but its page tables tell what it touched: the processor sets A in the entry of
each page that is used, and D in that of each page that is written (SDM, "Accessed and Dirty
Flags").
"""

import numpy as np

from kvmlab.base.addresses import size_text
from kvmlab.base.checks import expect
from kvmlab.base.errors import BadChoice
from kvmlab.guest.process import Process
from kvmlab.guest.tables import ACCESSED, DIRTY
from kvmlab.hardware.records import Kind, Verdict
from kvmlab.machine import Machine, machine_of
from kvmlab.management.domain import virDomain
from kvmlab.study.compare import Options
from kvmlab.study.tree import Entry, entries, guest_tree
from kvmlab.workloads.trace import Trace

ROUNDS = 2
"""How often each page is used: once to bring it, and once more when all of them are there."""

MOST_ENTRIES = 1 << 18  # a process of up to a GiB in pages of 4K

_LONG = 4  # levels, from which on every design can run the guest


class OwnProcess:
    """The process that runs in ``own``, which is not changed.

    ``trace`` are its pages in the order of their addresses, `ROUNDS` times: a byte of each is
    written where D was set, else fetched where the mapping is executable, else read.  ``looks`` is
    how often it was looked at.  A page that was mapped but never used is left out; what the kernel
    populated counts as used, for it says so in A, and pages of files as any others.

    Raises `BadChoice` for a machine in which no process has used a page.
    """

    def __init__(self, own: virDomain | Machine) -> None:
        expect("machine", own, (virDomain, Machine), "a Machine, or a domain of connect()")
        self._machine = machine_of(own) if isinstance(own, virDomain) else own
        levels = self._machine.guest.tables.format.levels
        if levels < _LONG:
            raise BadChoice(
                f"not every design runs a guest of {levels} levels; take one of 4 or 5 levels"
            )
        self.looks = 0
        self.again()

    def again(self) -> None:
        """Look again."""
        process = self._machine.guest.current
        used = [one for one in self._leaves() if one.value & ACCESSED]
        if process is None or not used:
            raise BadChoice("no process that runs in this guest has used a page: touch one first")
        kinds = [_kind(process, one) for one in used]
        self.pages, self.written = len(used), kinds.count(Kind.WRITE)
        self._smallest = 1 << min(one.shift for one in used)
        count = ROUNDS * self.pages
        self.trace = Trace(
            process.name,
            np.array(ROUNDS * kinds, np.uint8),
            np.array(ROUNDS * [one.address for one in used], np.uint64),
            np.ones(count, np.uint16),
        )
        self.looks += 1

    def _leaves(self) -> list[Entry]:
        if self._machine.guest.current is None:
            return []
        tree = guest_tree(self._machine, most=MOST_ENTRIES)
        return [one for one in entries(tree) if one.verdict is Verdict.LEAF]

    @property
    def options(self) -> Options:
        """What a machine is to be told that is to be like this one, its design left open."""
        machine = self._machine
        vmm = machine.vmm
        found: Options = {
            "guest_memory": sum(size for _, size in vmm.memory) if vmm else machine.ram.size,
            "guest_levels": machine.guest.tables.format.levels,
            "guest_page": size_text(self._smallest),
            "geometry": machine.cpu.tlb.geometry,
        }
        if vmm:
            found["host_page"] = size_text(1 << next(iter(vmm.process.areas)).shift)
        return found

    @property
    def kpti(self) -> bool:
        """Whether the guest's kernel has tables apart from its programs'."""
        return self._machine.guest.tables.isolated

    @property
    def vcpus(self) -> int:
        """How many virtual CPUs the machine has."""
        return len(self._machine.cpus)


def _kind(process: Process, leaf: Entry) -> Kind:
    vma = process.vma_at(leaf.address)
    if leaf.value & DIRTY:
        return Kind.WRITE
    return Kind.FETCH if vma and vma.execute else Kind.READ
