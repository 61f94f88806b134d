"""Peers in Python: the page walk as a textbook writes it, and pycachesim where it is installed."""

from importlib import import_module, util

import numpy as np

from kvmlab.hardware.cpu import Cpu

ADDRESS = 0x000F_FFFF_FFFF_F000
NOWHERE = -1


class PlainWalker:
    """A walk for every access, over a dictionary from frame numbers to lists of 512 entries."""

    def __init__(self, cpu: Cpu) -> None:
        ram, ctx = cpu.ram, cpu.context
        self.frames = {
            pfn: [w & (1 << 64) - 1 for w in ram.frame(pfn).tolist()] for pfn in ram._base
        }
        self.root, self.ept_root = ctx.root, ctx.ept.root if ctx.ept else None
        self.references = 0

    def walk(self, gva, kinds, user):
        """Where each access goes, or -1."""
        one = self.one
        return [one(*row) for row in zip(gva, kinds, user, strict=True)]

    def one(self, gva: int, kind: int, by_user: bool) -> int:
        base, rights, path = self.root, 7, []
        executable = True
        for shift in (39, 30, 21, 12):
            at = base | (gva >> shift & 511) << 3
            if self.ept_root is not None:
                at = self.second(at, 3)
                if at == NOWHERE:
                    return NOWHERE
            frame, slot = self.frames.get(at >> 12), at >> 3 & 511
            entry = frame[slot] if frame else 0
            self.references += 1
            if not entry & 1:
                return NOWHERE
            path.append((frame, slot))
            rights &= entry
            executable &= not entry >> 63
            base = entry & ADDRESS
        if by_user and not rights & 4:
            return NOWHERE
        if (kind == 2 and not rights & 2) or (kind == 4 and not executable):
            return NOWHERE
        for frame, slot in path:
            frame[slot] |= 1 << 5
        if kind == 2:
            frame[slot] |= 1 << 6
        gpa = base | gva & 0xFFF
        return gpa if self.ept_root is None else self.second(gpa, kind)

    def second(self, gpa: int, wants: int) -> int:
        base, rights, path = self.ept_root, 7, []
        for shift in (39, 30, 21, 12):
            frame, slot = self.frames.get(base >> 12), gpa >> shift & 511
            entry = frame[slot] if frame else 0
            self.references += 1
            if not entry & 7:
                return NOWHERE
            path.append((frame, slot))
            rights &= entry
            base = entry & ADDRESS
        if wants & ~rights:
            return NOWHERE
        for frame, slot in path:
            frame[slot] |= 1 << 8
        if wants & 2:
            frame[slot] |= 1 << 9
        return base | gpa & 0xFFF


def has_pycachesim() -> bool:
    return util.find_spec("cachesim") is not None


def pycachesim_totals(addresses: list[int]) -> tuple[int, int, int]:
    """Hits of both levels and misses of a TLB of 64 x 4 and 1536 x 12, by its bulk call."""
    cachesim = import_module("cachesim")
    memory = cachesim.MainMemory()
    second = cachesim.Cache("L2", 128, 12, 4096, "LRU")
    first = cachesim.Cache("L1", 16, 4, 4096, "LRU", store_to=second, load_from=second)
    memory.load_to(second)
    memory.store_from(second)
    cachesim.CacheSimulator(first, memory).load(addresses)
    one, two = first.stats(), second.stats()
    return one["HIT_count"], two["HIT_count"], two["MISS_count"]


def totals(where: np.ndarray) -> tuple[int, int, int]:
    miss, first, second = np.bincount(where, minlength=3).tolist()
    return first, second, miss
