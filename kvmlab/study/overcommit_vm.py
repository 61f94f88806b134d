"""One VM of a crowded host: a guest's kernel over guest frames, which the host backs or swaps.

Both levels are `linux`: the guest's memory is an instance of its own over guest frames, and each
guest frame is a page of a QEMU process of the real simulated host.  Page tables of the guest and
EPT are left out here: their A bits are an array, which the host's reclaim asks as it asks KVM.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.errors import OutOfMemory
from kvmlab.host.address_space import AddressSpace
from kvmlab.host.kernel import Host
from kvmlab.linux.buddy import Buddy
from kvmlab.linux.frames import Pages, Role, runs
from kvmlab.linux.lru import Lru
from kvmlab.linux.memory import Memory
from kvmlab.linux.swap import Swap
from kvmlab.linux.vmstat import VmStat

_FIRST = 1  # guest frame 0 stands for none
_ANON, _LIST = Role.ANON, Lru.INACTIVE_ANON  # of all pages of programs
_ZEROES = bytes(PAGE_SIZE)
_RESERVE = 16  # KiB, scaled: vm.min_free_kbytes of a guest of 4 GiB is 64 MiB with THP


class _Contents:
    """Guest memory as the guest's own swapping uses it: what it reads, the host must have."""

    def __init__(self, vm: "Vm") -> None:
        self._vm = vm

    def read(self, pfn: int) -> bytes:
        """A page goes to the guest's disk: if the host has swapped it, it comes in for that."""
        self._vm.use_one(pfn)
        return _ZEROES

    def write(self, pfn: int, _data: bytes) -> None:
        """A page comes from the guest's disk."""
        self._vm.use_one(pfn)

    def clear(self, first: int, count: int) -> None:
        """Nothing: freed memory is not touched."""


class Vm:
    """``pages`` guest frames under the name ``name``, backed by a process of ``host``.

    ``image`` of its pages hold what they hold in every VM, so that KSM may merge them.
    """

    def __init__(self, host: Host, name: str, pages: int, *, image: int = 0) -> None:
        self.name, self.pages, self._image = name, pages, image
        self.space: AddressSpace = host.process(name)
        self._base = self.space.mmap(pages + _FIRST << PAGE_SHIFT)
        self._ram = host.ram
        self.space.agers.append(self._age)
        self.space.notifiers.append(self._taken)
        self._backed = np.zeros(pages + _FIRST, np.bool_)
        self._accessed = np.zeros(pages + _FIRST, np.bool_)  # EPT's A bits
        self.stat = VmStat()
        self.memory = Memory(
            Buddy(_FIRST, pages),
            _Contents(self),
            self.stat,
            swap=Swap(pages << PAGE_SHIFT),
            min_free_kbytes=_RESERVE,
        )
        self._number = self.memory.register(self)
        self._frame = np.zeros(pages, np.int64)  # of each page of the guest's programs
        self._slot = np.zeros(pages, np.int64)
        self._young = np.zeros(pages, np.bool_)
        self.used = 0  # pages that its programs have now
        self.touched = 0  # the most that they ever had
        self._balloon: list[int] = []
        self.refaults = 0  # pages that came back from the host's swap
        self.own = pages // 16  # the guest kernel's
        self.use(self.memory.alloc_pages(Role.KERNEL, self.own))

    def merge(self) -> None:
        """QEMU's mem-merge: all of its memory is offered to KSM."""
        self.space.advise_mergeable(self._base, wanted=True)

    # -- programs ---------------------------------------------------------------------------

    def resize(self, used: int) -> None:
        """Programs take memory and write to it, or free it."""
        if used < self.used:
            self._free(np.arange(used, self.used))
        fresh = np.arange(self.used, used)
        self.used, self.touched = used, max(used, self.touched)
        self.touch(fresh)

    def touch(self, pages: Pages) -> None:
        """Programs use these pages of theirs; what is missing is faulted in, at either level."""
        self._young[pages] = True
        missing = pages[self._frame[pages] == 0]
        spare = self.memory.buddy.free_frames - self.memory.zone.marks.low
        if len(missing) and len(missing) < spare and not self._slot[missing].any():
            frames = self.memory.alloc_pages(_ANON, len(missing))
            self._frame[missing] = frames
            self.memory.frames.mapping[frames] = self._number
            self.memory.frames.index[frames] = missing
            self.memory.lists.add(frames, _LIST)
        else:
            for page in missing.tolist():
                self._fault(page)
        frames = self._frame[pages]
        self.use(frames[frames > 0])

    def _fault(self, page: int) -> None:
        frame = self.memory.alloc(_ANON)
        if slot := int(self._slot[page]):
            self.memory.swap_in(slot, frame)
            self._slot[page] = 0
        self._frame[page] = frame
        self.memory.add_page(frame, self._number, page, _LIST)

    def _free(self, pages: Pages) -> None:
        slots = self._slot[pages]
        for slot in slots[slots > 0].tolist():
            self.memory.swap.release(slot)
        frames = self._frame[pages]
        self.memory.free_pages(frames[frames > 0])
        self._frame[pages] = self._slot[pages] = 0

    # -- what the guest's reclaim asks (linux/mapping.py) -------------------------------------

    def referenced(self, pages: Pages) -> NDArray[np.int64]:
        """By the A bits of the guest's own tables."""
        mine = self.memory.frames.index[pages]
        found = self._young[mine].astype(np.int64)
        self._young[mine] = False
        return found

    def unmap(self, pages: Pages, slots: Pages) -> NDArray[np.bool_]:
        """Pages go to the guest's swap."""
        mine = self.memory.frames.index[pages]
        self._frame[mine], self._slot[mine] = 0, slots
        return np.ones(len(pages), np.bool_)

    def write_back(self, pages: Pages) -> None:
        """Nothing: there is no page cache here."""

    def split(self, page: int) -> Pages:
        """Nothing to do: its pages are small."""
        return np.array([page], np.int64)

    # -- the host's side ----------------------------------------------------------------------

    def use(self, frames: Pages) -> None:
        """The guest uses frames of its own: the host backs those that it has not.

        Raises `ProcessKilled` if that cost the VM its life.
        """
        self._accessed[frames] = True
        missing = frames[~self._backed[frames]]
        for first, count in runs(missing) if len(missing) else ():
            self._back(first, count)

    def use_one(self, frame: int) -> None:
        """The same for one frame."""
        self._accessed[frame] = True
        if not self._backed[frame]:
            self._back(frame, 1)

    def _back(self, first: int, count: int) -> None:
        hva, end = self._hva(first), self._hva(first + count)
        while hva < end:
            frame = hva - self._base >> PAGE_SHIFT
            leaf = self.space.table.find(hva)
            fresh = leaf is None
            self.refaults += leaf is not None and not leaf.present
            self.space.fault_in(hva, write=frame > self._image)  # the image is only read
            onward = self.space.fill_table(hva + PAGE_SIZE, end) if fresh else hva + PAGE_SIZE
            many = onward - hva >> PAGE_SHIFT
            self._backed[frame : frame + many] = True
            if fresh and self._image:
                self._write(frame, many)
            hva = onward

    def _write(self, first: int, count: int) -> None:
        """Give fresh pages their contents: the same as elsewhere, or nobody else's."""
        for leaf in self.space.table.between(self._hva(first), self._hva(first + count)):
            frame = leaf.hva - self._base >> PAGE_SHIFT
            own = 0 if frame <= self._image else self.space.number << 32
            if leaf.present:
                self._ram.store(leaf.pfn << PAGE_SHIFT, own | frame)

    def _hva(self, frame: int) -> int:
        return self._base + (frame << PAGE_SHIFT)

    def _age(self, start: int, end: int) -> bool:
        """KVM's clear_flush_young: were these pages used through EPT?"""
        first, last = start - self._base >> PAGE_SHIFT, end - self._base >> PAGE_SHIFT
        used = self._accessed[first:last]
        young = True in used.tolist()
        used[:] = False
        return young

    def _taken(self, start: int, end: int) -> None:
        """The MMU notifier: EPT's entries for these pages go."""
        self._backed[start - self._base >> PAGE_SHIFT : end - self._base >> PAGE_SHIFT] = False

    # -- the balloon ---------------------------------------------------------------------------

    @property
    def current(self) -> int:
        """Pages that the balloon leaves to the guest."""
        return self.pages - len(self._balloon)

    @property
    def unused(self) -> int:
        """MemFree, in pages."""
        return self.memory.buddy.free_frames

    def balloon(self, left: int) -> None:
        """Inflate or deflate until ``left`` pages stay, as far as the guest can give them."""
        taken = list(self._inflated(self.current - left))
        hvas = [self._hva(frame) for frame in taken]
        self._balloon += taken
        if hvas:
            self.space.madvise_dontneed_each(hvas)
        while self._balloon and self.current < left:
            frame = self._balloon.pop()
            self.memory.frames.release(frame, 0)
            self.memory.buddy.free(frame)

    def _inflated(self, count: int) -> Iterator[int]:
        """Frames for the balloon, each by one light attempt (guest/balloon.py)."""
        spare = self.memory.buddy.free_frames - self.memory.zone.marks.low
        easy = max(min(count, spare), 0)
        yield from self.memory.alloc_pages(Role.BALLOON, easy).tolist()
        for _ in range(max(count, 0) - easy):
            try:
                yield self.memory.alloc(Role.BALLOON, light=True)
            except OutOfMemory:
                return
