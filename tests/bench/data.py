"""What is measured: page tables with everything in them, and accesses to them.

``uniform(size)`` is a million random reads, writes and fetches, by user and supervisor, over that
many bytes of 4 KiB pages, 2 % of which are absent, read-only, the supervisor's or not executable,
in the guest's tables and in EPT.  ``traced(name)`` is a recorded program, over tables that allow
everything.  Frames are shuffled, so that neighbours in one space are none in the next.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kvmlab import workloads
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import CR0_PE, CR0_PG, CR0_WP, CR4_PAE, EFER_LME, EFER_NXE, Controls
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.vmcs import Vmcs
from kvmlab.study.replay import accesses

XD = -(1 << 63)
RWX, WRITE_BACK = 7, 6 << 3
EPTP_FLAGS = 0x5E  # 4 levels, write-back, A and D
GUEST_FLAWS = ((~1, 0), (~2, 0), (~4, 0), (-1, XD))  # absent, read-only, supervisor, no execute
EPT_FLAWS = ((~7, 0), (~2, 0), (~4, 0))


@dataclass
class Data:
    """Accesses to pages, and what is wrong with some of the pages."""

    name: str
    gva: np.ndarray
    kinds: np.ndarray
    user: np.ndarray
    pages: np.ndarray  # rising
    flawed: bool

    def __len__(self) -> int:
        return len(self.gva)

    def machine(self, *, nested: bool, flawed: bool | None = None) -> Cpu:
        """A CPU over fresh tables, the same ones on each call."""
        flaws = self.flawed if flawed is None else flawed
        return build(self.pages, nested=nested, flawed=flaws)


def uniform(name: str, size: int, count: int = 1_000_000) -> Data:
    rng = np.random.default_rng(size)
    first = 0x5555_0000_0000
    gva = (first + rng.integers(0, size, count)).astype(np.uint64)
    kinds = np.array([1, 2, 4], np.uint8)[rng.choice(3, count, p=(0.6, 0.3, 0.1))]
    pages = (first >> 12) + np.arange(size >> 12)
    return Data(name, gva, kinds, rng.random(count) < 0.8, pages, flawed=True)


def traced(name: str, *, data_only: bool = False) -> Data:
    what = accesses(workloads.shipped(name))
    keep = np.flatnonzero(what.kinds != 4) if data_only else slice(None)
    gva, kinds = what.addresses[keep].copy(), what.kinds[keep].copy()
    pages = np.unique(gva >> np.uint64(12)).astype(np.int64)
    title = f"{name}, data only" if data_only else name
    return Data(title, gva, kinds, np.full(len(gva), fill_value=True), pages, flawed=False)


def build(pages: np.ndarray, *, nested: bool, flawed: bool) -> Cpu:
    """Tables that map ``pages``, natively or over EPT, and a CPU that uses them."""
    rng = np.random.default_rng(len(pages))
    room = len(pages) + 4 * (len(pages) // 128 + 64)  # pages, and more tables than there can be
    ram = Ram(16 * room << 12)
    frames = rng.permutation(len(pages))
    leaves = flaw(rng, frames << 12 | RWX, GUEST_FLAWS if flawed else ())
    home = np.arange(room) + room if nested else np.arange(room)
    if nested:
        home = rng.permutation(room) + room
        ept_leaves = home << 12 | RWX | WRITE_BACK
        ept_leaves[: len(pages)] = flaw(rng, ept_leaves[: len(pages)], EPT_FLAWS if flawed else ())
        ept_root = write_tables(ram, np.arange(room), ept_leaves, 2 * room, lambda pfn: pfn)
    root = write_tables(ram, pages, leaves, len(pages), lambda pfn: home[pfn])
    controls = Controls(
        cr0=CR0_PE | CR0_PG | CR0_WP, cr3=root << 12, cr4=CR4_PAE, efer=EFER_LME | EFER_NXE
    )
    cpu = Cpu(ram)
    if nested:
        cpu.enter(Vmcs(lambda _exit: None, controls, eptp=ept_root << 12 | EPTP_FLAGS))
    else:
        cpu.start(controls)
    return cpu


def flaw(rng: np.random.Generator, entries: np.ndarray, flaws: tuple) -> np.ndarray:
    """Spoil 0.4 % of the entries in each way."""
    for keep, add in flaws:
        some = rng.random(len(entries)) < 0.004
        entries = np.where(some, entries & keep | add, entries)
    return entries


def write_tables(
    ram: Ram, pages: np.ndarray, leaves: np.ndarray, frame: int, home: Callable
) -> int:
    """Four levels of tables in the frames from ``frame`` on; returns the root's frame."""
    entries, numbers = leaves, pages
    for _level in range(4):
        tables, which = np.unique(numbers >> 9, return_inverse=True)
        content = np.zeros((len(tables), 512), np.int64)
        content[which, numbers & 511] = entries
        own = np.arange(frame, frame + len(tables))
        for pfn, words in zip(home(own).tolist(), content, strict=True):
            ram.write(pfn << 12, words.tobytes())
        frame += len(tables)
        entries, numbers = own << 12 | RWX, tables
    return int(own[0])
