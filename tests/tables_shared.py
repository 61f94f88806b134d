"""Small tables that many accesses share: to walk in batches, and one by one beside them.

`shared(seed, mode, second)` builds a CPU over tables in which a few frames point to one another,
and accesses that go through the same entries again and again.  With ``tangled`` an entry of EPT
may be an entry of the guest too, and tables may contain themselves.  Where entries point and which
slots are in use is decided here; what is in an entry besides is `tests.tables`' business.
"""

from random import Random
from typing import Any

import numpy as np

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.records import Kind
from tests import reference, tables
from tests.engine_under_test import Engine

SLOTS = (0, 1, 5, 511)
GUEST_FRAMES, DATA_FRAMES = 8, 4
EPT_FRAMES = {
    level: [0x40_0000 + level * 0x1_0000 + n * 0x1000 for n in range(3)] for level in range(1, 6)
}
HOST_FRAMES = [0x80_0000 + n * 0x1000 for n in range(GUEST_FRAMES)]
MODES = ("nopaging", "32bit", "pae", "4level", "5level")


def shared(
    seed: int, mode: str, second: str = "", *, tangled: bool = False, eager: bool = False
) -> tuple[Cpu, np.ndarray, np.ndarray, np.ndarray]:
    """A CPU, and the addresses, kinds and privilege (user or not) of accesses to make on it."""
    rng = Random(f"shared {seed} {mode} {second} {tangled}")
    case = _case(rng, mode, second)
    controls, _, _, nested = reference.from_case(case)
    engine = Engine(controls, nested, eager=eager)
    if second:
        frames = [_address(rng, (9, 9, 9, 9), 12) & (1 << 31) - 1 for _ in range(GUEST_FRAMES)]
        if mode in ("4level", "5level") and tables.chance(rng, 0.5):
            frames = [_address(rng, (9, 9, 9, 9), 12) for _ in range(GUEST_FRAMES)]
        _write_second(rng, engine, case, tangled=tangled)
    else:
        frames = HOST_FRAMES
    _write_guest(rng, engine, case, frames)
    _set_root(rng, engine.cpu, mode, frames)
    return engine.cpu, *_accesses(rng, mode)


def _case(rng: Random, mode: str, second: str) -> dict[str, Any]:
    seed = rng.getrandbits(30)
    if second == "npt":
        case = next(tables.npt_cases(seed, 1))
        guest, other = case["ctrl"], case["npt"]
        guest |= {"vendor": other["vendor"], "gbpages": 1}
        other["efer_nxe"] = 1
        if mode != "4level":
            fresh = next(tables.walk_cases(mode, seed, 1))
            case |= {
                "mode": mode,
                "ctrl": fresh["ctrl"] | {"vendor": other["vendor"], "gbpages": 1},
            }
        return case
    if second:
        return next(tables.ept_cases(mode, seed, 1))
    return next(tables.walk_cases(mode, seed, 1))


def _write_second(rng: Random, engine: Engine, case: dict[str, Any], *, tangled: bool) -> None:
    """EPT or NPT tables; what they map are the host's frames that hold guest tables, and data."""
    ept = case.get("ept")
    levels = ept["levels"] if ept else 4
    for level in range(1, levels + 1):
        below = HOST_FRAMES if level == 1 else EPT_FRAMES[level - 1]
        if tangled:
            below = [*below, *EPT_FRAMES[1][:1], *EPT_FRAMES[level]]
        for frame in EPT_FRAMES[level]:
            for slot in SLOTS:
                if ept:
                    entry = tables.ept_entry(rng, ept, level)
                else:
                    entry = tables.guest_entry(rng, "4level", case["npt"], level, 0.01)
                    entry &= ~0x100 if level > 3 else ~0
                engine.ram.store(frame + 8 * slot, _pointed(rng, entry, below, level))
    vmcs, root = engine.vmcs, EPT_FRAMES[levels][0]
    if ept:
        assert vmcs.eptp is not None
        vmcs.eptp = vmcs.eptp & 0xFFF | root
        if rng.random() < 0.7:
            vmcs.pml = None
    else:
        vmcs.ncr3 = root


def _write_guest(rng: Random, engine: Engine, case: dict[str, Any], frames: list[int]) -> None:
    """The guest's entries, in every host frame that may hold a guest table."""
    mode = case["mode"]
    if mode == "nopaging":
        return
    for frame in HOST_FRAMES:
        level = rng.choice((1, 1, 2, 3, 4))
        for slot in SLOTS:
            entry = tables.guest_entry(rng, mode, case["ctrl"], level, rng.choice((0.005, 0.03)))
            entry = _pointed(rng, entry, frames, level)
            if mode == "32bit":
                engine.ram.store4(frame + 4 * (slot * 2 + slot % 2), entry & 0xFFFF_FFFF)
                engine.ram.store4(frame + 4 * slot, entry & 0xFFFF_FFFF)
            else:
                engine.ram.store(frame + 8 * slot, entry)


def _pointed(rng: Random, entry: int, frames: list[int], level: int) -> int:
    """The entry, made to point to one of ``frames`` unless it maps a large page."""
    if level in (2, 3) and entry & tables.PS:
        return entry
    return (
        entry & ~tables.FRAME
        | rng.choice(frames)
        | entry & tables.FRAME & ~((1 << 36) - 1) * (rng.random() < 0.02)
    )


def _set_root(rng: Random, cpu: Cpu, mode: str, frames: list[int]) -> None:
    root = rng.choice(frames)
    cpu.controls.cr3 = root & 0xFFFF_FFFF if mode in ("32bit", "pae") else root
    if mode == "pae" and not cpu.processor.pdptes_in_memory:
        cpu.controls.pdptes = tuple(rng.choice(frames) | (rng.random() < 0.9) for _ in range(4))
    cpu.refresh()


def _accesses(rng: Random, mode: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = rng.choice((1, 5, 40, 200))
    bits = {"32bit": (10, 10), "pae": (2, 9, 9), "nopaging": (2, 9, 9), "5level": (9,) * 5}
    width = {"4level": 48, "5level": 57}.get(mode, 32)
    made = []
    for _ in range(count):
        va = _address(rng, bits.get(mode, (9,) * 4), 12) | rng.getrandbits(12)
        if width > 32:
            va |= -(va >> width - 1) << width & (1 << 64) - 1
            if rng.random() < 0.01:
                va ^= 1 << rng.randrange(width - 1, 64)
        made.append(va)
    kinds = rng.choices([int(kind) for kind in Kind], k=count)
    user = rng.choices((True, False), k=count)
    return np.array(made, np.uint64), np.array(kinds, np.uint8), np.array(user)


def _address(rng: Random, bits: tuple[int, ...], shift: int) -> int:
    """An address whose indices are among the slots in use."""
    found = 0
    for width in reversed(bits):
        slot = rng.choice(SLOTS) if width > 2 else rng.randrange(4)
        found |= (slot & (1 << width) - 1) << shift
        shift += width
    return found
