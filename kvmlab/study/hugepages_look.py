"""A look at the pages of a guest of one's own, and at those of its host."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import size_text
from kvmlab.base.checks import expect
from kvmlab.base.errors import BadChoice
from kvmlab.guest.process import Process
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.hardware.tlb import Geometry
from kvmlab.kvm.memslots import LOG_DIRTY_PAGES
from kvmlab.machine import Machine, machine_of
from kvmlab.management.domain import virDomain
from kvmlab.study.hugepages_beginning import BLOCK
from kvmlab.study.hugepages_moments import Moment, blocks_of, look
from kvmlab.study.inflation_moments import ept_of


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a guest of one's own (`hugepages_beginning.Known`)."""

    guest: str
    host: str
    ram: int

    @property
    def gigantic(self) -> bool:
        """Whether pages of 1 GiB take part."""
        return "1G" in (self.guest, self.host)


class PagesLook:
    """The first 8 MiB of the process that runs in a guest, which the look does not change.

    ``moments`` are the last look and the one before, ``history`` all of them.  What the guest maps
    counts as used.  Raises `BadChoice` for a guest without a process, or without EPT.
    """

    def __init__(self, own: virDomain | Machine) -> None:
        expect("domain", own, (virDomain, Machine), "a domain of connect(), or a Machine")
        self.machine = machine_of(own) if isinstance(own, virDomain) else own
        ept_of(self.machine)  # or there is nothing to draw
        if self.machine.guest.tables.format.levels < _LONG:
            raise BadChoice("a guest with 4 or 5 levels of tables is looked at here, not a smaller")
        self.deed: tuple[object, ...] = ("own",)
        self.moments = self.history = [self._now()]
        self.beginning = self._found()

    @property
    def tlb(self) -> Geometry:
        """The arrays of the processor's TLB."""
        return self.machine.cpu.tlb.geometry

    def again(self) -> None:
        """Look again."""
        now = self._now()
        self.deed, self.moments = ("since",), [self.history[-1], now]
        self.history = [*self.history, now]

    def _process(self) -> Process:
        process = self.machine.guest.current
        if process is None or not process.vmas:
            raise BadChoice("no process with a mapping runs in this guest: spawn, switch and mmap")
        return process

    def _now(self) -> Moment:
        process, vm = self._process(), self.machine.vm
        assert vm is not None  # noqa: S101  it has EPT
        area = process.vmas[0].start & -BLOCK
        children = [one for one in self.machine.guest.processes if one.parent is process]
        return look(
            self.machine,
            process,
            area,
            self._mapped(process, area),
            "after",
            logging=any(slot.flags & LOG_DIRTY_PAGES for slot in vm.slots),
            snapshot=bool(children),
        )

    def _mapped(self, process: Process, area: int) -> NDArray[np.bool_]:
        blocks = blocks_of(self.machine, process, area)
        found: NDArray[np.bool_] = np.concatenate([gpas for _, gpas in blocks]) >= 0
        return found

    def _found(self) -> Found:
        machine, vma = self.machine, self._process().vmas[0]
        assert machine.host is not None  # noqa: S101  it has EPT
        assert machine.vmm is not None  # noqa: S101  likewise
        guest, host = size_text(1 << vma.shift), size_text(1 << _backing(machine))
        linux = machine.guest.frames.manager
        if guest == "4K" and isinstance(linux, Reclaimer) and linux.huge.enabled == "always":
            guest = "thp"
        if host == "4K" and machine.host.huge.enabled == "always":
            host = "thp"
        ram = sum(length for _, length in machine.vmm.memory)
        return Found(guest, host, ram)


_LONG = 4  # levels, from which on every table has 512 entries of 8 bytes


def _backing(machine: Machine) -> int:
    """The shift of the pages that QEMU mapped its guest's memory with."""
    assert machine.vmm is not None  # noqa: S101  it has EPT
    return next(iter(machine.vmm.process.areas)).shift
