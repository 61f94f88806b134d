"""Random page tables to try a walker on, with controls and one access each.

Every generator yields cases in the schema of tests/data/vectors-mmu.json, without `expect`: a
mode, `ctrl`, `mem`, `access`, and `ept` or `npt` where there is a second dimension.  They
know where an entry points, and nothing of what is allowed.

* `walk_cases(mode, seed, count)`: one dimension.
* `ept_cases(mode, seed, count)`: a guest in `mode` over EPT.
* `npt_cases(seed, count)`: a 4-level guest over 4-level nested tables.

With `unicorn=True` they keep to what QEMU models.  A case depends on its seed and number alone:
`walk_cases("pae", 7, 3)` begins as `walk_cases("pae", 7, 9)` does.  Most entries are sound, so
that most walks get far.  `tables_regular` has tables without chance.
"""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

Case = dict[str, Any]

LEVELS = {"nopaging": 0, "32bit": 2, "pae": 3, "4level": 4, "5level": 5}
FRAME = 0x000F_FFFF_FFFF_F000
PS, XD = 1 << 7, 1 << 63
UNICORN_BITS = 40  # MAXPHYADDR of every CPU model there


class Words:
    """Physical memory under construction; an entry that a walk met keeps its address."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {}

    def visit(self, address: int, size: int, make: Callable[[], int]) -> int:
        """Return the entry at `address`; the first visitor makes it."""
        if not any(address + n in self.words for n in range(0, size, 4)):
            self.store(address, size, make())
        return sum(self.words.get(address + n, 0) << 8 * n for n in range(0, size, 4))

    def store(self, address: int, size: int, value: int) -> None:
        for n in range(0, size, 4):
            self.words[address + n] = value >> 8 * n & 0xFFFF_FFFF

    def listed(self) -> list[Case]:
        """As a vector lists memory: 8 bytes a line."""
        lines = []
        for address in sorted({address & ~7 for address in self.words}):
            value = self.words.get(address, 0) | self.words.get(address + 4, 0) << 32
            lines.append({"addr": hex(address), "size": 8, "value": hex(value)})
        return lines


def finished(name: str, group: str, mode: str, ctrl: Case, words: Words, access: Case) -> Case:
    """The case as a vector: what is wide is written in hex."""
    wide = {key: hex(ctrl[key]) for key in ("cr3", "pkru", "pkrs") if key in ctrl}
    access = access | {"va": hex(access["va"])}
    head: Case = {"id": name, "group": group, "mode": mode, "ctrl": ctrl | wide}
    return head | {"mem": words.listed(), "access": access}


# ----- cases --------------------------------------------------------------------------------


def walk_cases(mode: str, seed: int, count: int, *, unicorn: bool = False) -> Iterator[Case]:
    """Random guest tables, where they lie."""
    for n in range(count):
        rng = Random(f"walk {mode} {seed} {n}")
        guest = Guest(rng, mode, 0.03, unicorn=unicorn)
        guest.build(lambda gpa: gpa)
        name = f"walk-{mode}-{seed}-{n}"
        yield finished(name, "walk", mode, guest.ctrl, guest.words, guest.access)


def ept_cases(mode: str, seed: int, count: int) -> Iterator[Case]:
    """Random guest tables over random EPT tables."""
    for n in range(count):
        yield ept_case(Random(f"ept {mode} {seed} {n}"), mode, f"ept-{mode}-{seed}-{n}")


def ept_case(rng: Random, mode: str, name: str) -> Case:
    guest = Guest(rng, mode, 0.01)
    ept: Case = {"levels": rng.choice((4, 4, 4, 5)), "maxphyaddr": rng.choice((39, 46, 52))}
    ept |= {"exec_only": chance(rng, 0.7), "mbec": chance(rng, 0.4)}
    ept |= {"page_2m": chance(rng, 0.9), "page_1g": chance(rng, 0.8), "adv_info": chance(rng, 0.5)}
    root = frame(rng, ept["maxphyaddr"])
    eptp = root | rng.choice((0, 6)) | ept["levels"] - 1 << 3 | chance(rng, 0.5) << 6

    def make(level: int) -> int:
        return ept_entry(rng, ept, level)

    def reach(gpa: int) -> int | None:
        return follow(guest.words, root, ept["levels"], gpa, make, present=0x407)

    final = guest.build(reach)
    if final is not None:
        reach(final)
    case = finished(name, "ept", mode, guest.ctrl, guest.words, guest.access)
    return case | {"ept": ept | {"eptp": hex(eptp)}, "mem_space": "hpa"}


def npt_cases(seed: int, count: int, *, unicorn: bool = False) -> Iterator[Case]:
    """Random guest tables over random nested tables, as AMD walks them.

    With `unicorn` no guest table lies in a nested page with NX, which crashes QEMU 5.0.
    """
    for n in range(count):
        yield npt_case(Random(f"npt {seed} {n}"), f"npt-{seed}-{n}", unicorn=unicorn)


def npt_case(rng: Random, name: str, *, unicorn: bool) -> Case:
    guest = Guest(rng, "4level", 0.01, unicorn=unicorn)
    guest.ctrl |= {"cr4_pke": 0, "cr4_pks": 0}  # the AMD model has no keys
    host: Case = {"mode": "4level", "efer_nxe": chance(rng, 0.85), "gbpages": 1}
    host |= {"maxphyaddr": UNICORN_BITS, "vendor": "intel" if unicorn else "amd"}
    root, tables = frame(rng, UNICORN_BITS), list[int]()

    def make(level: int) -> int:
        entry = guest_entry(rng, "4level", host, level, 0.002)
        return entry & ~0x100 if level > 3 else entry  # reserved by AMD, ignored by QEMU

    def reach(gpa: int) -> int | None:
        return follow(guest.words, root, 4, gpa, make, present=1)

    def reach_table(gpa: int) -> int | None:
        tables.append(gpa)
        return reach(gpa)

    final = guest.build(reach_table)
    if final is not None:
        reach(final)
    for gpa in tables if unicorn else ():
        follow(guest.words, root, 4, gpa, make, present=1, clear=XD)
    case = finished(name, "npt", "4level", guest.ctrl, guest.words, guest.access)
    return case | {"npt": host | {"cr3": hex(root)}, "mem_space": "hpa"}


def follow(
    words: Words,
    root: int,
    levels: int,
    address: int,
    make: Callable[[int], int],
    *,
    present: int,
    clear: int = 0,
) -> int | None:
    """Walk a second dimension, making what is missing and clearing bits; where it leads."""
    for level in range(levels, 0, -1):
        place = root + (address >> 9 * level + 3 & 511) * 8
        entry = words.visit(place, 8, partial(make, level))
        if entry & clear:
            words.store(place, 8, entry & ~clear)
        if not entry & present:
            return None
        root = entry & FRAME
        if level in (2, 3) and entry & PS:
            break
    offset = (1 << 9 * level + 3) - 1
    return root & ~offset | address & offset


# ----- controls, accesses, frames -----------------------------------------------------------


def chance(rng: Random, probability: float) -> int:
    return int(rng.random() < probability)


def controls(rng: Random, mode: str, *, unicorn: bool) -> Case:
    """Control registers and CPUID; `cr3` is added when the root is placed."""
    ctrl: Case = {"cr0_wp": chance(rng, 0.7), "efer_nxe": chance(rng, 0.85)}
    ctrl |= {"cr4_smep": chance(rng, 0.5), "cr4_smap": chance(rng, 0.5)}
    ctrl |= {"rflags_ac": chance(rng, 0.5), "cr4_pse": chance(rng, 0.7)}
    ctrl |= {"cr4_pke": chance(rng, 0.4), "pkru": keys(rng), "cr4_la57": int(mode == "5level")}
    if unicorn:
        return ctrl | {"maxphyaddr": UNICORN_BITS, "gbpages": 1, "vendor": "intel"}
    ctrl |= {"cr4_pks": chance(rng, 0.3), "pkrs": keys(rng), "gbpages": chance(rng, 0.8)}
    ctrl |= {"maxphyaddr": rng.choice((36, 39, 40, 46, 52))}
    return ctrl | {"vendor": rng.choice(("intel", "amd"))}


def keys(rng: Random) -> int:
    """PKRU or PKRS: each key denies all access, or writes, now and then."""
    return sum(chance(rng, 0.15) << n for n in range(32))


def random_access(rng: Random, mode: str, *, unicorn: bool) -> Case:
    """One access, to a canonical address nearly always."""
    width = {"4level": 48, "5level": 57}.get(mode, 32)
    va = rng.getrandbits(rng.choice((width, width, 22)))
    if width > 32:
        va |= -(va >> width - 1) << width & (1 << 64) - 1
        if chance(rng, 0.03):
            va ^= 1 << rng.randrange(width - 1, 64)
    kind = rng.choice(("read", "write", "fetch"))
    access: Case = {"va": va, "type": kind, "cpl": rng.choice((0, 3))}
    if not unicorn and kind != "fetch" and chance(rng, 0.15):
        access["implicit"] = True
    return access


def frame(rng: Random, maxphyaddr: int, shift: int = 12) -> int:
    """A frame of 2**shift bytes, never in the fourth GiB, where Unicorn's boot area lies."""
    top = max(rng.choice((20, 20, 32, maxphyaddr)), shift + 2)
    address = rng.getrandbits(top) >> shift << shift
    return 0x1000 << shift - 12 if address >> 30 == 3 else address


# ----- random entries -----------------------------------------------------------------------


def guest_entry(rng: Random, mode: str, ctrl: Case, level: int, odd: float) -> int:
    """An entry of the guest's format; `odd` is how often something is wrong with it."""
    entry = (1 - chance(rng, odd)) | (1 - chance(rng, 4 * odd)) << 1
    entry |= (1 - chance(rng, 5 * odd)) << 2 | chance(rng, 0.1) << 3 | chance(rng, 0.1) << 4
    entry |= rng.getrandbits(2) << 5 | rng.getrandbits(3) << 9
    entry |= chance(rng, 0.5 if level <= 3 else odd) << 8  # which AMD reserves above level 3
    large = bool(level in (2, 3) and chance(rng, 0.2))
    if large or chance(rng, {1: 0.4, 4: odd / 2, 5: odd / 2}.get(level, 0)):
        entry |= PS
    if mode == "32bit":
        entry |= frame(rng, 32, 22 if large else 12)  # and bit 12 (PAT), 20:13 (PSE-36), bit 21
        return entry | (rng.getrandbits(9) << 12 | chance(rng, odd) << 21 if large else 0)
    return entry | wide_bits(rng, mode, ctrl, odd, 9 * level + 3 if large else 12)


def wide_bits(rng: Random, mode: str, ctrl: Case, odd: float, shift: int) -> int:
    """Bits 63:12 of an 8-byte entry that points to 2**shift bytes."""
    top: int = ctrl["maxphyaddr"]
    entry = frame(rng, min(top, 48), shift)
    if shift > 12:
        entry |= chance(rng, 0.3) << 12 | chance(rng, odd) << rng.randrange(12, shift)  # PAT
    if top < 52:
        entry |= chance(rng, odd) << rng.randrange(top, 52)
    if mode == "pae":
        entry |= chance(rng, odd) << rng.randrange(52, 63)
    elif chance(rng, 0.5):
        entry |= rng.getrandbits(11) << 52
    return entry | chance(rng, 3 * odd if ctrl["efer_nxe"] else odd / 2) << 63


def pdpte(rng: Random, ctrl: Case, *, unicorn: bool) -> int:
    """A PAE PDPTE.  QEMU does not refuse bits 2:1 and 8:5, nor bit 63 where NXE is set."""
    entry = 1 - chance(rng, 0.03) | rng.getrandbits(2) << 3 | rng.getrandbits(3) << 9
    entry |= frame(rng, ctrl["maxphyaddr"])
    top: int = ctrl["maxphyaddr"]
    odd = list(range(top, 63)) if unicorn else [1, 2, 5, 6, 7, 8, *range(top, 64)]
    return entry | chance(rng, 0.02) << rng.choice(odd)


def ept_entry(rng: Random, ept: Case, level: int) -> int:
    """An EPT entry: nearly always RWX and sound."""
    rights = rng.choices((7, 5, 1, 3, 4, 0, 2, 6), (400, 6, 4, 4, 4, 2, 1, 1))[0]
    entry = rights | rng.getrandbits(2) << 8 | chance(rng, 0.8) << 10 | chance(rng, 0.1) << 11
    large = bool(level in (2, 3) and chance(rng, 0.2))
    if large or level == 1:
        memory_types = (300, 30, 9, 9, 9, 1, 1, 1)
        entry |= rng.choices((6, 0, 1, 4, 5, 2, 3, 7), memory_types)[0] << 3
        entry |= rng.getrandbits(1) << 6
    else:
        entry |= chance(rng, 0.005) << rng.randrange(3, 7)
    if large or chance(rng, 0.5 if level == 1 else 0.003):
        entry |= PS
    shift = 9 * level + 3 if large else 12
    entry |= frame(rng, ept["maxphyaddr"], shift)
    if large:
        entry |= chance(rng, 0.01) << rng.randrange(12, shift)
    if ept["maxphyaddr"] < 52:
        entry |= chance(rng, 0.004) << rng.randrange(ept["maxphyaddr"], 52)
    return entry | (rng.getrandbits(12) << 52 if chance(rng, 0.3) else 0)


# ----- the guest's side of a case -----------------------------------------------------------


class Guest:
    """Controls, an access, and tables with entries where that access will look."""

    def __init__(self, rng: Random, mode: str, odd: float, *, unicorn: bool = False) -> None:
        self.rng, self.mode, self.odd, self.unicorn = rng, mode, odd, unicorn
        self.ctrl = controls(rng, mode, unicorn=unicorn)
        self.access = random_access(rng, mode, unicorn=unicorn)
        self.words = Words()

    def build(self, reach: Callable[[int], int | None]) -> int | None:
        """Make the entries on the way of the access, set CR3, return the final address.

        `reach` finds where a guest-physical address lies; None is nowhere.
        """
        va: int = self.access["va"]
        root, levels = self.place_root(reach)
        size, width = (4, 10) if self.mode == "32bit" else (8, 9)
        shift = 12
        for level in range(levels, 0, -1):
            shift = 12 + width * (level - 1)
            slot = (va >> shift & (1 << width) - 1) * size
            home = None if root is None else reach(root + slot)
            if home is None:
                return None
            entry = self.words.visit(home, size, partial(self.entry, level))
            root = entry & FRAME if entry & 1 else None
            if level in (2, 3) and entry & PS and (size == 8 or self.ctrl["cr4_pse"]):
                break
        if root is None or not levels:
            return root
        offset = (1 << shift) - 1
        if shift == 22:
            root |= entry >> 13 << 32 & 0xFF_0000_0000
        return root & ~offset | va & offset

    def entry(self, level: int) -> int:
        return guest_entry(self.rng, self.mode, self.ctrl, level, self.odd)

    def place_root(self, reach: Callable[[int], int | None]) -> tuple[int | None, int]:
        """Set CR3; the table where the walk begins (None: nowhere) and the levels from there."""
        rng, ctrl, levels = self.rng, self.ctrl, LEVELS[self.mode]
        root = frame(rng, min(ctrl["maxphyaddr"], 48) if levels > 3 else 32)
        ctrl["cr3"] = root | (rng.choice((8, 16, 24)) if chance(rng, 0.2) else 0)
        if self.mode == "nopaging":
            return self.access["va"] & 0xFFFF_FFFF, 0
        if self.mode == "pae":
            return self.place_pdpt(root | rng.randrange(128) << 5, reach), 2
        if levels > 3 and not self.unicorn and chance(rng, 0.01):
            ctrl["cr3"] |= 1 << rng.randrange(ctrl["maxphyaddr"], 64)
        return root, levels

    def place_pdpt(self, pdpt: int, reach: Callable[[int], int | None]) -> int | None:
        """Set CR3 to a PDPT of four entries; the directory that the access goes on with."""
        self.ctrl["cr3"] |= pdpt
        home = reach(pdpt)
        if home is None:
            return None
        make = partial(pdpte, self.rng, self.ctrl, unicorn=self.unicorn)
        entries = [self.words.visit(home + 8 * n, 8, make) for n in range(4)]
        entry = entries[self.access["va"] >> 30 & 3]
        return entry & FRAME if entry & 1 else None
