"""Page tables without chance: every combination of bits on one page, and one page of each size.

Cases as `tables` makes them.

* `AccessTest(mode)` numbers all legal combinations of entry bits, control bits and kinds of
  access on one page, in the spirit of kvm-unit-tests' `access.c`: take its length, index it, run
  through it or through a sample.
* `regular_case(mode, page, ept=(levels, page))`: tables that map one page, nothing odd in them.
"""

from collections.abc import Sequence

from tests.tables import LEVELS, PS, Case, Words, finished, follow

Fields = dict[str, int]


class AccessTest:
    """All combinations on one page of `mode`: the fields of its number choose.

    Two entries vary: of the last table P, W, U, A, D, XD and a reserved bit, of the one above
    P, W, U, PS, XD and a reserved bit; with them WP, SMEP, SMAP, AC, NXE, the kind of access, and
    in the long modes the rule of the page's protection key.  32-bit entries have no XD, and a
    reserved bit only in a 4 MiB page.  No CPU can be asked for an implicit fetch.
    """

    CONTROLS = ("cr0_wp", "cr4_smep", "cr4_smap", "rflags_ac", "efer_nxe")
    ACCESSES = (
        *(
            (kind, cpl, implicit)
            for kind in ("read", "write")
            for cpl, implicit in ((0, 0), (3, 0), (3, 1))
        ),
        *(("fetch", cpl, 0) for cpl in (0, 3)),
    )
    VA = 0x60_5123

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.low: tuple[str, ...] = ("p", "w", "u", "a", "x", "xd", "reserved")  # x: D
        self.high: tuple[str, ...] = ("p", "w", "u", "x", "xd", "reserved")  # x: PS
        self.keys: tuple[str, ...] = ("on", "ad", "wd") if mode in ("4level", "5level") else ()
        if mode == "32bit":
            self.low, self.high = ("p", "w", "u", "a", "x"), ("p", "w", "u", "x", "reserved")

    def __len__(self) -> int:
        fields = (*self.low, *self.high, *self.keys, *self.CONTROLS)
        return len(self.ACCESSES) << len(fields)

    def __getitem__(self, number: int) -> Case:
        if not 0 <= number < len(self):
            raise IndexError(number)
        rest, which = divmod(number, len(self.ACCESSES))
        rest, ctrl = take(rest, self.CONTROLS)
        rest, low = take(rest, self.low)
        rest, high = take(rest, self.high)
        _, key = take(rest, self.keys)
        kind, cpl, implicit = self.ACCESSES[which]
        access: Case = {"va": self.VA, "type": kind, "cpl": cpl}
        access |= {"implicit": True} if implicit else {}
        name = f"access-{self.mode}-{number}"
        words = self.tables(low, high)
        return finished(name, "walk", self.mode, self.controls(ctrl, key), words, access)

    def controls(self, varied: Fields, key: Fields) -> Case:
        ctrl: Case = {**varied, "cr3": 0x1000, "cr4_pse": 1, "cr4_la57": int(self.mode == "5level")}
        if key:
            rule = (key["ad"] | key["wd"] << 1) << 2 * 5  # of key 5
            ctrl |= {"cr4_pke": key["on"], "cr4_pks": key["on"], "pkru": rule, "pkrs": rule}
        return ctrl | {"maxphyaddr": 40, "gbpages": 1, "vendor": "intel"}

    def tables(self, low: Fields, high: Fields) -> Words:
        """The two varied entries under upper ones that allow everything."""
        words, base = Words(), 0x1000
        size, width = (4, 10) if self.mode == "32bit" else (8, 9)
        for level in range(LEVELS[self.mode], 0, -1):
            slot = base + (self.VA >> 12 + width * (level - 1) & (1 << width) - 1) * size
            base += 0x1000
            if level > 2:
                entry = base | (1 if self.mode == "pae" else 7)
            elif level == 2:
                entry = self.entry(high, 0x80_0000 if high["x"] else base, PS)
            else:
                entry = self.entry(low, 0x9000, 0x40)
            words.store(slot, size, entry)
        return words

    def entry(self, fields: Fields, address: int, x: int) -> int:
        value = fields["p"] | fields["w"] << 1 | fields["u"] << 2 | fields.get("a", 0) << 5
        value |= address | (x if fields["x"] else 0)
        if self.mode == "32bit":
            return value | (fields["x"] & fields.get("reserved", 0)) << 21
        return value | fields["xd"] << 63 | fields["reserved"] << 45 | (5 << 59 if self.keys else 0)


def take(rest: int, names: Sequence[str]) -> tuple[int, Fields]:
    """The lowest bits of `rest`, one for each name, and what is left of it."""
    return rest >> len(names), {name: rest >> n & 1 for n, name in enumerate(names)}


def regular_case(mode: str, page: str | None, ept: tuple[int, str] | None = None) -> Case:
    """Map one page of a size, all rights, A and D set; under EPT with pages of one size."""
    va = 0x7F_0040_3123 if LEVELS[mode] > 3 else 0x40_3123
    guest, gpa = regular_guest(mode, page, va)
    words, size = Words(), 4 if mode == "32bit" else 8
    home = regular_ept(words, *ept, [*guest, gpa]) if ept else {slot: slot for slot in guest}
    for slot, entry in guest.items():
        words.store(home[slot], size, entry)
    ctrl: Case = {"cr3": 0x1000, "cr0_wp": 1, "efer_nxe": 1, "cr4_pse": 1, "vendor": "intel"}
    ctrl |= {"cr4_smep": 0, "cr4_smap": 0, "rflags_ac": 0, "maxphyaddr": 46, "gbpages": 1}
    ctrl |= {"cr4_la57": int(mode == "5level"), "cr4_pke": 0, "pkru": 0}
    access = {"va": va, "type": "read", "cpl": 0}
    case = finished(f"regular-{mode}-{page}-{ept}", "walk", mode, ctrl, words, access)
    if not ept:
        return case
    row = {"eptp": hex(0x8000_0000 | ept[0] - 1 << 3 | 6), "levels": ept[0], "maxphyaddr": 46}
    row |= {"exec_only": 1, "page_2m": 1, "page_1g": 1, "mbec": 0, "adv_info": 0}
    return case | {"group": "ept", "ept": row, "mem_space": "hpa"}


def regular_guest(mode: str, page: str | None, va: int) -> tuple[dict[int, int], int]:
    """Guest tables in consecutive frames from 0x1000 up: entries by address, the page's address."""
    if mode == "nopaging":
        return {}, va
    size, width = (4, 10) if mode == "32bit" else (8, 9)
    last = {"4K": 1, "2M": 2, "4M": 2, "1G": 3}[page or "4K"]
    guest, base = {}, 0x1000
    for level in range(LEVELS[mode], last - 1, -1):
        slot = base + (va >> 12 + width * (level - 1) & (1 << width) - 1) * size
        base += 0x1000
        if level == last:
            guest[slot] = 0x4000_0067 | (PS if last > 1 else 0)
        else:
            guest[slot] = base | (1 if mode == "pae" and level == 3 else 0x67)
    return guest, 0x4000_0000 | va & (1 << 12 + width * (last - 1)) - 1


def regular_ept(words: Words, levels: int, page: str, gpas: list[int]) -> dict[int, int]:
    """EPT tables from 2 GiB up that add 4 GiB to each guest address; where each one lies."""
    last = {"4K": 1, "2M": 2, "1G": 3}[page]
    fresh = iter(range(0x8000_1000, 0xC000_0000, 0x1000))

    def place(gpa: int) -> int:
        def make(level: int) -> int:
            if level > last:
                return next(fresh) | 7
            shift = 9 * level + 3
            return (gpa >> shift << shift) + (4 << 30) | 0x37 | (PS if level > 1 else 0)

        found = follow(words, 0x8000_0000, levels, gpa, make, present=7)
        assert found is not None
        return found

    return {gpa: place(gpa) for gpa in gpas}
