"""The naive C program, compiled where a compiler is found, with the tables of a `Cpu`."""

import ctypes
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.formats import Tables

u64 = ctypes.c_uint64
FIVE = u64 * 5


class Masks(ctypes.Structure):
    _fields_ = (("table", FIVE), ("page", FIVE), ("leaf", FIVE))


class State(ctypes.Structure):
    _fields_ = (
        ("memory", ctypes.c_void_p),
        ("size", u64),
        ("root", u64),
        ("ept_root", u64),
        ("guest", Masks),
        ("ept", Masks),
        ("guest_refs", FIVE),
        ("ept_refs", FIVE * 5),
    )


class Array(ctypes.Structure):
    _fields_ = (("sets", u64), ("ways", u64), ("tags", ctypes.c_void_p))


def compiled() -> ctypes.CDLL | None:
    """The program as a library; None where there is no C compiler."""
    compiler = next(filter(None, map(shutil.which, ("gcc", "clang", "cc"))), None)
    if compiler is None:
        return None
    source = Path(__file__).with_name("naive.c")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "naive.so"
        options = ("-O3", "-march=native", "-shared", "-fPIC")
        subprocess.run([compiler, *options, "-o", library, source], check=True)
        program = ctypes.CDLL(str(library))
    program.reserve.restype = ctypes.c_void_p
    program.reserve.argtypes = (u64,)
    program.release.argtypes = (ctypes.c_void_p, u64)
    return program


def masks(tables: Tables) -> Masks:
    found = Masks()
    for row in tables.rows:
        found.table[row.level], found.page[row.level] = row.table_reserved, row.page_reserved
        found.leaf[row.level] = row.leaf
    return found


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


class Walker:
    """The C program with a copy of the tables that a `Cpu` uses."""

    def __init__(self, program: ctypes.CDLL, cpu: Cpu) -> None:
        ctx, ram = cpu.context, cpu.ram
        self.program, self.ram = program, ram
        self.state = State(program.reserve(ram.size), ram.size, ctx.root)
        self.state.guest = masks(ctx.tables)
        if ctx.ept:
            self.state.ept_root, self.state.ept = ctx.ept.root, masks(ctx.ept.tables)
        self.nested = int(ctx.ept is not None)
        for pfn, base in ram._base.items():
            source = ram.words.ctypes.data + 8 * base
            ctypes.memmove(self.state.memory + (pfn << 12), source, 4096)

    def walk(self, gva, kinds, user):
        hpa, status = np.empty(len(gva), np.int64), np.empty(len(gva), np.uint8)
        self.program.walk(
            ctypes.byref(self.state),
            self.nested,
            u64(len(gva)),
            pointer(gva),
            pointer(kinds),
            pointer(user),
            pointer(hpa),
            pointer(status),
        )
        return hpa, status

    def both(self, tlb, gva, kinds, user):
        hpa, where = np.empty(len(gva), np.int64), np.empty(len(gva), np.uint8)
        self.program.both(
            ctypes.byref(self.state),
            *tlb.arrays(),
            u64(len(gva)),
            pointer(gva),
            pointer(kinds),
            pointer(user),
            pointer(hpa),
            pointer(where),
        )
        return hpa, where

    def references(self) -> Counter:
        found = Counter()
        for level in range(1, 5):
            found["guest", level] = self.state.guest_refs[level]
            found["ept", level] = sum(one[level] for one in self.state.ept_refs)
        return +found

    def image(self) -> dict[int, bytes]:
        frames = {
            pfn: ctypes.string_at(self.state.memory + (pfn << 12), 4096) for pfn in self.ram._base
        }
        return {pfn: data for pfn, data in sorted(frames.items()) if any(data)}

    def close(self) -> None:
        self.program.release(self.state.memory, self.state.size)


class TwoLevels:
    """Two arrays of tags, 64 in 4 ways and 1536 in 12."""

    def __init__(self, program: ctypes.CDLL) -> None:
        self.program = program
        self.tags = [np.zeros(64, np.uint64), np.zeros(1536, np.uint64)]

    def arrays(self):
        ways = (4, 12)
        pairs = zip(self.tags, ways, strict=True)
        return [ctypes.byref(Array(len(one) // n, n, one.ctypes.data)) for one, n in pairs]

    def lookups(self, gva):
        where = np.empty(len(gva), np.uint8)
        self.program.lookups(*self.arrays(), u64(len(gva)), pointer(gva), pointer(where))
        return where
