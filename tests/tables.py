"""Page tables to try a walker on: random ones, every combination of bits, and regular ones.

Every generator yields cases in the schema of tests/data/vectors-mmu.json, without `expect`: a
mode, `ctrl`, `mem`, `access`, and `ept` or `npt` where there is a second dimension.  They
know where an entry points, and nothing of what is allowed.

* `walk_cases(mode, seed, count)`: one dimension.  With `unicorn=True` only what QEMU models.
* `ept_cases(mode, seed, count)`, `npt_cases(seed, count)`: two dimensions.
* `AccessTest(mode)`: a sequence of all combinations of entry bits, control bits and kinds of
  access on one page, as long as they are legal; index it, sample it or run through it.
* `regular_case(mode, page, ept=(levels, page))`: tables that map one page, nothing odd in them.

A random case depends on its seed and number alone: `walk_cases("pae", 7, 3)` begins as
`walk_cases("pae", 7, 9)` does.  Most entries are sound, so that most walks get far.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

Case = dict[str, Any]

LEVELS = {"nopaging": 0, "32bit": 2, "pae": 3, "4level": 4, "5level": 5}
FRAME = 0x000F_FFFF_FFFF_F000
PS, XD = 1 << 7, 1 << 63
UNICORN_BITS = 40  # MAXPHYADDR of every CPU model there


class Words:
    """Physical memory under construction; a word that was looked at never changes its address."""

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

    def listed(self) -> list[dict[str, Any]]:
        """As a vector lists memory: 8 bytes a line."""
        lines = []
        for address in sorted({address & ~7 for address in self.words}):
            value = self.words.get(address, 0) | self.words.get(address + 4, 0) << 32
            lines.append({"addr": hex(address), "size": 8, "value": hex(value)})
        return lines


# ----- random cases -------------------------------------------------------------------------


def walk_cases(mode: str, seed: int, count: int, *, unicorn: bool = False) -> Iterator[Case]:
    """Random tables, controls and one access each, in one dimension."""
    for n in range(count):
        rng = Random(f"walk {mode} {seed} {n}")
        ctrl, access, words = (
            controls(rng, mode, unicorn),
            random_access(rng, mode, unicorn),
            Words(),
        )
        build_guest(rng, mode, ctrl, access, words, 0.03, lambda gpa: gpa, unicorn=unicorn)
        yield finished(f"walk-{mode}-{seed}-{n}", "walk", mode, ctrl, words, access)


def ept_cases(mode: str, seed: int, count: int) -> Iterator[Case]:
    """Random guest tables over random EPT tables."""
    for n in range(count):
        rng = Random(f"ept {mode} {seed} {n}")
        ctrl, access, words = controls(rng, mode), random_access(rng, mode), Words()
        ept: dict[str, Any] = {"levels": rng.choice((4, 4, 4, 5))}
        ept |= {"maxphyaddr": rng.choice((39, 46, 52)), "exec_only": chance(rng, 0.7)}
        ept |= {"page_2m": chance(rng, 0.9), "page_1g": chance(rng, 0.8)}
        ept |= {"mbec": chance(rng, 0.4), "adv_info": chance(rng, 0.5)}
        root = frame(rng, ept["maxphyaddr"])
        ept["eptp"] = root | rng.choice((0, 6)) | ept["levels"] - 1 << 3 | chance(rng, 0.5) << 6

        def reach(gpa: int) -> int | None:
            make = lambda level: ept_entry(rng, ept, level)  # noqa: E731
            return follow(words, root, ept["levels"], gpa, make, lambda value: value & 0x407)

        final = build_guest(rng, mode, ctrl, access, words, 0.01, reach)
        if final is not None:
            reach(final)
        case = finished(f"ept-{mode}-{seed}-{n}", "ept", mode, ctrl, words, access)
        hexed = {**ept, "eptp": hex(ept["eptp"])}
        yield {**case, "ept": hexed, "mem_space": "hpa"}


def npt_cases(seed: int, count: int, *, unicorn: bool = False) -> Iterator[Case]:
    """Random 4-level guest tables over random 4-level nested tables, as AMD walks them.

    With `unicorn` no guest table lies in a nested page with NX, which crashes QEMU 5.0.
    """
    for n in range(count):
        rng = Random(f"npt {seed} {n}")
        ctrl, words = controls(rng, "4level", unicorn), Words()
        ctrl |= {"cr4_pke": 0, "cr4_pks": 0}  # the AMD model has no keys
        access = random_access(rng, "4level", unicorn)
        host = {"mode": "4level", "efer_nxe": chance(rng, 0.85), "gbpages": 1}
        host |= {"maxphyaddr": UNICORN_BITS, "vendor": "intel" if unicorn else "amd"}
        root, tables = frame(rng, UNICORN_BITS), list[int]()

        def reach(gpa: int) -> int | None:
            make = lambda level: nested_entry(rng, host, level)  # noqa: E731
            return follow(words, root, 4, gpa, make, lambda value: value & 1)

        def reach_table(gpa: int) -> int | None:
            tables.append(gpa)
            return reach(gpa)

        final = build_guest(rng, "4level", ctrl, access, words, 0.01, reach_table, unicorn=unicorn)
        if final is not None:
            reach(final)
        if unicorn:
            for gpa in tables:
                follow(words, root, 4, gpa, None, lambda value: value & 1, clear=XD)
        case = finished(f"npt-{seed}-{n}", "npt", "4level", ctrl, words, access)
        yield {**case, "npt": {**host, "cr3": hex(root)}, "mem_space": "hpa"}


def finished(name: str, group: str, mode: str, ctrl: Case, words: Words, access: Case) -> Case:
    """The case as a vector: what is wide is written in hex."""
    wide = {k: hex(ctrl[k]) for k in ("cr3", "pkru", "pkrs") if k in ctrl}
    return {
        "id": name,
        "group": group,
        "mode": mode,
        "ctrl": ctrl | wide,
        "mem": words.listed(),
        "access": {**access, "va": hex(access["va"])},
    }


def chance(rng: Random, probability: float) -> int:
    return int(rng.random() < probability)


def controls(rng: Random, mode: str, unicorn: bool = False) -> Case:
    """Control registers and CPUID; `cr3` is added when the root is placed."""
    ctrl: Case = {"cr0_wp": chance(rng, 0.7), "efer_nxe": chance(rng, 0.85)}
    ctrl |= {"cr4_smep": chance(rng, 0.5), "cr4_smap": chance(rng, 0.5)}
    ctrl |= {"rflags_ac": chance(rng, 0.5), "cr4_pse": chance(rng, 0.7)}
    ctrl |= {"cr4_pke": chance(rng, 0.4), "pkru": keys(rng), "cr4_la57": int(mode == "5level")}
    ctrl |= {"maxphyaddr": UNICORN_BITS, "gbpages": 1, "vendor": "intel"}
    if not unicorn:
        ctrl |= {"cr4_pks": chance(rng, 0.3), "pkrs": keys(rng), "gbpages": chance(rng, 0.8)}
        ctrl["maxphyaddr"] = rng.choice((36, 39, 40, 46, 52))
        ctrl["vendor"] = rng.choice(("intel", "amd"))
    return ctrl


def keys(rng: Random) -> int:
    """PKRU or PKRS: each key denies all access or writes now and then."""
    return sum(chance(rng, 0.15) << n for n in range(32))


def random_access(rng: Random, mode: str, unicorn: bool = False) -> Case:
    """One access, to a canonical address nearly always."""
    width = {"4level": 48, "5level": 57}.get(mode, 32)
    va = rng.getrandbits(rng.choice((width, width, 22)))
    if width > 32:
        va |= -(va >> (width - 1)) << width & (1 << 64) - 1
        if chance(rng, 0.03):
            va ^= 1 << rng.randrange(width - 1, 64)
    access = {"va": va, "type": rng.choice(("read", "write", "fetch")), "cpl": rng.choice((0, 3))}
    if not unicorn and access["type"] != "fetch" and chance(rng, 0.15):
        access["implicit"] = True
    return access


def frame(rng: Random, maxphyaddr: int, shift: int = 12) -> int:
    """A frame of 2**shift bytes, never in the fourth GiB (where Unicorn's boot area lies)."""
    top = rng.choice((20, 20, 32, maxphyaddr))
    address = rng.getrandbits(max(top, shift + 2)) >> shift << shift
    return address if address >> 30 != 3 and (address or shift > 12) else 0x1000 << shift - 12


# ----- random entries -----------------------------------------------------------------------


def guest_entry(rng: Random, mode: str, ctrl: Case, level: int, odd: float) -> int:
    """An entry of the guest's format; `odd` is how often something in it is wrong."""
    entry = (1 - chance(rng, odd)) | (1 - chance(rng, 4 * odd)) << 1
    entry |= (1 - chance(rng, 5 * odd)) << 2 | chance(rng, 0.1) << 3 | chance(rng, 0.1) << 4
    entry |= rng.getrandbits(2) << 5 | rng.getrandbits(3) << 9
    entry |= chance(rng, 0.5 if level <= 3 else odd) << 8  # which AMD reserves above level 3
    large = level in (2, 3) and chance(rng, 0.2)
    if large or chance(rng, 0.4 if level == 1 else odd / 2 if level > 3 else 0):
        entry |= PS
    if mode == "32bit":
        entry |= frame(rng, 32, 22 if large else 12)
        if large:  # bits 12 (PAT) and 20:13 (the address above 4 GiB), seldom the rest
            entry |= rng.getrandbits(9) << 12 | chance(rng, odd) << 21
        return entry
    shift = 9 * level + 3 if large else 12
    entry |= frame(rng, min(ctrl["maxphyaddr"], 48), shift) | (large and chance(rng, 0.3)) << 12
    if large and chance(rng, odd):
        entry |= 1 << rng.randrange(12, shift)
    if chance(rng, odd) and ctrl["maxphyaddr"] < 52:
        entry |= 1 << rng.randrange(ctrl["maxphyaddr"], 52)
    if mode == "pae":
        entry |= chance(rng, odd) << rng.randrange(52, 63)
    elif chance(rng, 0.5):
        entry |= rng.getrandbits(11) << 52
    return entry | chance(rng, 3 * odd if ctrl["efer_nxe"] else odd / 2) << 63


def pdpte(rng: Random, ctrl: Case, unicorn: bool) -> int:
    """A PAE PDPTE.  QEMU does not refuse bits 2:1, 8:5, and 63 where NXE is set."""
    entry = 1 - chance(rng, 0.03) | rng.getrandbits(2) << 3 | rng.getrandbits(3) << 9
    entry |= frame(rng, ctrl["maxphyaddr"])
    if chance(rng, 0.02):
        legal = (1, 2, 5, 6, 7, 8, 63)
        odd = [n for n in range(ctrl["maxphyaddr"], 63)] + ([] if unicorn else [*legal])
        entry |= 1 << rng.choice(odd)
    return entry


def nested_entry(rng: Random, host: Case, level: int) -> int:
    """An entry of nested tables: the guest's format; bit 8 of a PML4E, which QEMU ignores, clear."""
    entry = guest_entry(rng, "4level", host, level, 0.002)
    return entry & ~0x100 if level > 3 else entry


def ept_entry(rng: Random, ept: Case, level: int) -> int:
    """An EPT entry: nearly always RWX and sound."""
    rights = rng.choices((7, 5, 1, 3, 4, 0, 2, 6), (400, 6, 4, 4, 4, 2, 1, 1))[0]
    entry = rights | rng.getrandbits(2) << 8 | chance(rng, 0.8) << 10 | chance(rng, 0.1) << 11
    large = level in (2, 3) and chance(rng, 0.2)
    if large or level == 1:
        entry |= rng.choices((6, 0, 1, 4, 5, 2, 3, 7), (300, 30, 9, 9, 9, 1, 1, 1))[0] << 3
        entry |= rng.getrandbits(1) << 6
    elif chance(rng, 0.005):
        entry |= 1 << rng.randrange(3, 7)
    entry |= PS if large or chance(rng, 0.5 if level == 1 else 0.003) else 0
    shift = 9 * level + 3 if large else 12
    entry |= frame(rng, ept["maxphyaddr"], shift)
    if large and chance(rng, 0.01):
        entry |= 1 << rng.randrange(12, shift)
    if chance(rng, 0.004) and ept["maxphyaddr"] < 52:
        entry |= 1 << rng.randrange(ept["maxphyaddr"], 52)
    return entry | (rng.getrandbits(12) << 52 if chance(rng, 0.3) else 0)


# ----- placing entries where walks will look ------------------------------------------------


def build_guest(
    rng: Random,
    mode: str,
    ctrl: Case,
    access: Case,
    words: Words,
    odd: float,
    reach: Callable[[int], int | None],
    *,
    unicorn: bool = False,
) -> int | None:
    """Make the guest's entries on the way of `access`, set CR3, return the final address.

    `reach` finds where a guest-physical address lies (None: nowhere).
    """
    root = frame(rng, 32 if mode in ("32bit", "pae") else min(ctrl["maxphyaddr"], 48))
    ctrl["cr3"] = root | (rng.choice((8, 16, 24)) if chance(rng, 0.2) else 0)
    va, levels = access["va"], LEVELS[mode]
    if mode == "nopaging":
        return va & 0xFFFF_FFFF
    if mode == "pae":
        root |= rng.randrange(128) << 5
        ctrl["cr3"] |= root
        home = reach(root)
        if home is None:
            return None
        entries = [
            words.visit(home + 8 * n, 8, lambda: pdpte(rng, ctrl, unicorn)) for n in range(4)
        ]
        entry, levels = entries[va >> 30 & 3], 2
        if not entry & 1:
            return None
        root = entry & FRAME
    elif levels >= 4 and not unicorn and chance(rng, 0.01):
        ctrl["cr3"] |= 1 << rng.randrange(ctrl["maxphyaddr"], 64)
    size, width = (4, 10) if mode == "32bit" else (8, 9)
    for level in range(levels, 0, -1):
        shift = 12 + width * (level - 1)
        home = reach(root + (va >> shift & (1 << width) - 1) * size)
        if home is None:
            return None
        entry = words.visit(home, size, lambda: guest_entry(rng, mode, ctrl, level, odd))
        if not entry & 1:
            return None
        root = entry & FRAME
        if level in (2, 3) and entry & PS and (mode != "32bit" or ctrl["cr4_pse"]):
            break
    offset = (1 << shift) - 1
    if mode == "32bit" and shift == 22:
        root |= entry >> 13 << 32 & 0xFF_0000_0000
    return root & ~offset | va & offset


def follow(
    words: Words,
    root: int,
    levels: int,
    address: int,
    make: Callable[[int], int] | None,
    present: Callable[[int], int],
    *,
    clear: int = 0,
) -> int | None:
    """Go through a second dimension, making what is missing, or clearing bits on the way."""
    for level in range(levels, 0, -1):
        place = root + (address >> 9 * level + 3 & 511) * 8
        entry = words.visit(place, 8, lambda: make(level) if make else 0)
        if entry & clear:
            words.store(place, 8, entry & ~clear)
        if not present(entry):
            return None
        root = entry & FRAME
        if level in (2, 3) and entry & PS:
            break
    offset = (1 << 9 * level + 3) - 1
    return root & ~offset | address & offset


# ----- every combination --------------------------------------------------------------------


class AccessTest(Sequence[Case]):
    """All combinations on one page of `mode`, numbered: bit fields of the index choose.

    Two entries vary: of the last table P, W, U, A, D, XD and a reserved bit, of the one above
    P, W, U, PS, XD and a reserved bit; with them WP, SMEP, SMAP, AC, NXE, the kind of access, and
    in the long modes the rule of the page's protection key.  32-bit entries have no XD, and a
    reserved bit only in a 4 MiB page.  No CPU can be asked for an implicit fetch.
    """

    CONTROLS = ("cr0_wp", "cr4_smep", "cr4_smap", "rflags_ac", "efer_nxe")
    ACCESSES = [(t, c, i) for t in ("read", "write") for c, i in ((0, 0), (3, 0), (3, 1))]
    ACCESSES += [("fetch", 0, 0), ("fetch", 3, 0)]
    VA = 0x60_5123

    def __init__(self, mode: str) -> None:
        self.mode = mode
        narrow = mode == "32bit"
        self.low = (
            ("p", "w", "u", "a", "x") if narrow else ("p", "w", "u", "a", "x", "xd", "reserved")
        )
        self.high = (
            ("p", "w", "u", "x", "reserved") if narrow else ("p", "w", "u", "x", "xd", "reserved")
        )
        self.keyed = mode in ("4level", "5level")
        self.keys = ("on", "ad", "wd") if self.keyed else ()

    def __len__(self) -> int:
        fields = (*self.low, *self.high, *self.keys, *self.CONTROLS)
        return len(self.ACCESSES) << len(fields)

    def __getitem__(self, number: Any) -> Case:
        if not 0 <= number < len(self):
            raise IndexError(number)
        rest, which = divmod(number, len(self.ACCESSES))
        kind, cpl, implicit = self.ACCESSES[which]
        rest, ctrl = self.take(rest, self.CONTROLS)
        rest, low = self.take(rest, self.low)
        rest, high = self.take(rest, self.high)
        rest, keyed = self.take(rest, self.keys)
        if self.keyed:
            rule = (keyed["ad"] | keyed["wd"] << 1) << 2 * 5
            ctrl |= {"cr4_pke": keyed["on"], "cr4_pks": keyed["on"], "pkru": rule, "pkrs": rule}
        ctrl |= {"cr3": 0x1000, "cr4_pse": 1, "cr4_la57": int(self.mode == "5level")}
        ctrl |= {"maxphyaddr": 40, "gbpages": 1, "vendor": "intel"}
        access = {"va": self.VA, "type": kind, "cpl": cpl}
        if implicit:
            access["implicit"] = True
        words = self.tables(low, high)
        return finished(f"access-{self.mode}-{number}", "walk", self.mode, ctrl, words, access)

    @staticmethod
    def take(rest: int, names: Sequence[str]) -> tuple[int, dict[str, int]]:
        """The next bits of an index, one for each name."""
        return rest >> len(names), {name: rest >> n & 1 for n, name in enumerate(names)}

    def tables(self, low: dict[str, int], high: dict[str, int]) -> Words:
        words, base = Words(), 0x1000
        size, width = (4, 10) if self.mode == "32bit" else (8, 9)
        for level in range(LEVELS[self.mode], 0, -1):
            slot = base + (self.VA >> 12 + width * (level - 1) & (1 << width) - 1) * size
            base += 0x1000
            upper = base | (1 if self.mode == "pae" and level == 3 else 7)
            if level == 2:
                frame_of_page = 0x40_0000 * (1 + (self.mode == "32bit")) if high["x"] else base
                upper = self.entry(high, frame_of_page, PS)
            words.store(slot, size, self.entry(low, 0x9000, 0x40) if level == 1 else upper)
        return words

    def entry(self, bits: dict[str, int], address: int, x: int) -> int:
        value = bits["p"] | bits["w"] << 1 | bits["u"] << 2 | bits.get("a", 0) << 5 | address
        value |= x if bits["x"] else 0
        if self.mode == "32bit":
            return value | (bits["x"] & bits.get("reserved", 0)) << 21
        return value | bits["xd"] << 63 | bits["reserved"] << 45 | (5 << 59) * self.keyed


# ----- regular tables -----------------------------------------------------------------------


def regular_case(mode: str, page: str | None, ept: tuple[int, str] | None = None) -> Case:
    """Map one page of a size, all rights; under EPT every guest address is mapped by one size."""
    va, words = 0x7F_0040_3123 if mode in ("4level", "5level") else 0x40_3123, Words()
    ctrl: Case = {"cr3": 0x1000, "cr0_wp": 1, "efer_nxe": 1, "cr4_pse": 1, "vendor": "intel"}
    ctrl |= {"cr4_smep": 0, "cr4_smap": 0, "rflags_ac": 0, "maxphyaddr": 46, "gbpages": 1}
    ctrl["cr4_la57"] = int(mode == "5level")
    size, width = (4, 10) if mode == "32bit" else (8, 9)
    last = {"4K": 1, "2M": 2, "4M": 2, "1G": 3}.get(page or "", 1)
    root = 0x2000
    guest, base = {}, 0x1000
    for level in range(LEVELS[mode], last - 1, -1):
        slot = base + (va >> 12 + width * (level - 1) & (1 << width) - 1) * size
        leaf = level == last
        entry = 0x4000_0000 | 0x67 | (PS if last > 1 else 0) if leaf else root | 0x67
        if mode == "pae" and level == 3:
            entry = root | 1
        guest[slot] = entry
        base, root = root, root + 0x1000
    shift = 12 + width * (last - 1)
    gpa = 0x4000_0000 | va & (1 << shift) - 1 if guest else va
    if ept:
        home = _regular_ept(words, ept, [*guest, gpa])
        guest = {home[slot]: entry for slot, entry in guest.items()}
    for slot, entry in guest.items():
        words.store(slot, size, entry)
    access = {"va": va, "type": "read", "cpl": 0}
    case = finished(f"regular-{mode}-{page}-{ept}", "walk", mode, ctrl, words, access)
    if ept:
        row = {"eptp": hex(0x8000_0000 | ept[0] - 1 << 3 | 6), "levels": ept[0], "maxphyaddr": 46}
        row |= {"exec_only": 1, "page_2m": 1, "page_1g": 1, "mbec": 0, "adv_info": 0}
        case |= {"group": "ept", "ept": row, "mem_space": "hpa"}
    return case


def _regular_ept(words: Words, ept: tuple[int, str], gpas: list[int]) -> dict[int, int]:
    """EPT tables from 2 GiB up that add 4 GiB to each guest address; where each one lies."""
    levels, page = ept
    last = {"4K": 1, "2M": 2, "1G": 3}[page]
    fresh = iter(range(0x8000_1000, 0xC000_0000, 0x1000))
    home = {}
    for gpa in gpas:

        def make(level: int, gpa: int = gpa) -> int:
            if level > last:
                return next(fresh) | 7
            shift = 9 * level + 3
            return (gpa >> shift << shift) + (4 << 30) | 0x37 | (PS if level > 1 else 0)

        found = follow(words, 0x8000_0000, levels, gpa, make, lambda value: value & 7)
        assert found is not None
        home[gpa] = found
    return home
