"""A guest that really ran, as a file: its page tables, registers, processes, and QEMU's answers.

The file is JSON, plain, gzip or xz: ``guest`` (what it was), ``levels``, ``regs`` by name,
``tables`` {address: level}, ``pages_zlib_b64`` (their pages of 4 KiB, in that order), ``proc``
(/proc/PID/maps of the process that ran, with more of /proc around it), ``gva2gpa`` [[gva, gpa or
null]] as the monitor translated them, ``info_tlb`` and ``info_mem`` as it printed them; numbers
are hex strings.  ``processes`` [{"cr3", "proc"}] may name further address spaces over the
same tables.  ``gva2gpa`` and ``processes`` may be absent.  ``kvmlab capture`` makes such a file.
"""

import base64
import json
import os
import re
import zlib
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

from kvmlab.base.addresses import PAGE_SIZE
from kvmlab.base.errors import BadChoice, TraceError
from kvmlab.hardware.fields import Switches
from kvmlab.hardware.formats import PS, XD
from kvmlab.hardware.processor import CR4_PKE, EFER_NXE
from kvmlab.workloads import maps
from kvmlab.workloads.files import opened, printable
from kvmlab.workloads.guest_tables import GuestTables, check_pages

MAX_JSON = 64 << 20  # bytes
MAX_PAGES = 1 << 14  # of tables: 64 MiB of them map 32 GiB
CAPTURES = ("debian",)
"""Names of the guests that come with kvmlab."""

_CR3_ROOT = 0x000F_FFFF_FFFF_F000  # without the PCID and the bits that no root has
_FLAGS = "GPDACTUW"  # of `info tlb`, after X, from bit 8 down
_HEX = re.compile(r"(?:0x)?[0-9a-fA-F]{1,16}")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Process:
    """One address space of the guest, and its mappings where they were recorded."""

    name: str
    tables: GuestTables
    mappings: list[maps.Mapping]

    def mapping_at(self, gva: int) -> maps.Mapping | None:
        """The mapping that holds ``gva``, or None."""
        return next((one for one in self.mappings if one.start <= gva < one.end), None)


@dataclass(frozen=True, slots=True)
class Capture:
    """A guest at one moment; the first of its processes is the one that ran."""

    name: str
    guest: str
    registers: dict[str, int]
    table_levels: dict[int, int]  # of each table at a guest-physical address
    processes: list[Process]
    gva2gpa: list[tuple[int, int | None]]
    info_tlb: list[str]
    info_mem: list[str]

    @property
    def running(self) -> Process:
        """The process that ran."""
        return self.processes[0]

    @property
    def levels(self) -> int:
        """Of its page tables: 4 or 5."""
        return self.running.tables.levels

    def search(self, gpa: int) -> list[tuple[str, int]]:
        """Who maps the byte at ``gpa``: names of processes, and the virtual addresses of each."""
        return [(one.name, gva) for one in self.processes for gva in one.tables.search(gpa)]


def shipped(name: str = CAPTURES[0]) -> Capture:
    """A guest that comes with kvmlab, read anew on each call; raises `BadChoice`."""
    if name not in CAPTURES:
        raise BadChoice(f"no captured guest {name!r}; choose one of: {', '.join(CAPTURES)}")
    data = resources.files("kvmlab.workloads") / "data" / "debian-guest-4level.json.gz"
    with resources.as_file(data) as path:
        return read(path)


def read(path: str | os.PathLike[str]) -> Capture:
    """The guest captured at ``path``; raises `TraceError` with one line that says what is wrong."""
    with opened(path) as source:
        held = bytearray()
        for piece in source.pieces():
            held += piece
            if len(held) > MAX_JSON:
                raise TraceError(f"{source.shown} holds more than {MAX_JSON:,} bytes of JSON")
        return _Reader(source.shown).capture(held)


def tlb_lines(tables: GuestTables) -> list[str]:
    """What QEMU's ``info tlb`` prints for these tables: a line a page, the flags of its leaf.

    The format is QEMU's (target/i386/monitor.c: print_pte()): X, then G, P (a large page), D, A,
    C, T, U, W.
    """
    lines = []
    for leaf in tables.leaves().tolist():
        gva, gpa, shift, entry, _ = leaf
        shown = entry & ~PS if shift == 12 else entry  # there the bit is PAT
        flags = "X" if entry & XD else "-"
        flags += "".join(c if shown >> 8 - n & 1 else "-" for n, c in enumerate(_FLAGS))
        lines.append(f"{gva:016x}: {gpa:016x} {flags}")
    return lines


class _Reader:
    """Takes a capture from JSON that nobody vouches for."""

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def capture(self, text: bytes | bytearray) -> Capture:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            raise self._bad(f"is no JSON: {why}") from None
        if not isinstance(found, dict):
            raise self._bad("is no captured guest: its JSON is no object")
        levels = self._of(found, "levels", int)
        if levels not in (4, 5):
            raise self._bad(f"has tables of {levels} levels; 4 or 5 can be walked")
        named = self._of(found, "regs", dict)
        registers = {str(name)[:16]: self._number(named[name], "regs") for name in named}
        tables = {self._number(k, "tables"): v for k, v in self._of(found, "tables", dict).items()}
        processes = self._processes(found, levels, registers, self._pages(found, list(tables)))
        return Capture(
            name=os.path.basename(self._shown),  # noqa: PTH119  text for the screen
            guest=self._of(found, "guest", str)[:200],
            registers=registers,
            table_levels=tables,
            processes=processes,
            gva2gpa=[
                self._answer(one) for one in self._of({"gva2gpa": []} | found, "gva2gpa", list)
            ],
            info_tlb=self._lines(found, "info_tlb"),
            info_mem=self._lines(found, "info_mem"),
        )

    def _pages(self, found: dict[str, Any], addresses: list[int]) -> dict[int, bytes]:
        if not 1 <= len(addresses) <= MAX_PAGES:
            raise self._bad(f"has {len(addresses):,} tables; 1 to {MAX_PAGES:,} can be read")
        size = len(addresses) * PAGE_SIZE
        try:
            packed = base64.b64decode(self._of(found, "pages_zlib_b64", str), validate=True)
            pages = zlib.decompressobj().decompress(packed, size + 1)
        except (ValueError, zlib.error) as error:
            raise self._bad(f"has damaged pages: {error}") from None
        if len(pages) != size:
            raise self._bad(f"has {len(pages):,} bytes of pages or more; its tables take {size:,}")
        cut = {gpa: pages[n * PAGE_SIZE :][:PAGE_SIZE] for n, gpa in enumerate(addresses)}
        why = check_pages(cut)
        if why:
            raise self._bad(f"is no captured guest: {why}")
        return cut

    def _processes(
        self, found: dict[str, Any], levels: int, regs: dict[str, int], pages: dict[int, bytes]
    ) -> list[Process]:
        missing = [name for name in ("CR0", "CR3", "CR4", "EFER") if name not in regs]
        if missing:
            raise self._bad(f"lacks the register {missing[0]}")
        switches = Switches(nxe=bool(regs["EFER"] & EFER_NXE), keys=bool(regs["CR4"] & CR4_PKE))
        listed: list[Any] = [{"cr3": hex(regs["CR3"]), "proc": found.get("proc")}]
        listed += self._of({"processes": []} | found, "processes", list)
        processes: list[Process] = []
        for one in listed:
            root = self._number(self._of(one, "cr3", str), "cr3") & _CR3_ROOT
            if root not in pages:
                raise self._bad(f"has no table at {root:#x}, where CR3 points")
            tables = GuestTables(levels, root, pages, switches)
            proc = self._of(one, "proc", str)
            named = re.search(r"^Name:\s+(.{1,40})$", proc, re.MULTILINE)
            name = printable(named[1]) if named else f"process {len(processes) + 1}"
            processes.append(Process(name, tables, self._mappings(proc)))
        return processes

    def _mappings(self, text: str) -> list[maps.Mapping]:
        lines = [line for line in text.split("\n") if maps.fits(line.encode(errors="replace"))]
        return maps.parse(lines, self._shown) if lines else []

    def _answer(self, one: object) -> tuple[int, int | None]:
        if not isinstance(one, list) or len(one) != 2:
            raise self._bad("has an answer that is not [gva, gpa]")
        gva = self._number(one[0], "gva2gpa")
        return gva, None if one[1] is None else self._number(one[1], "gva2gpa")

    def _lines(self, found: dict[str, Any], key: str) -> list[str]:
        text = self._of({key: ""} | found, key, str)
        return [line.rstrip() for line in text.split("\n") if line.strip()]

    def _of(self, found: object, key: str, kind: type[_Value]) -> _Value:
        value = found.get(key) if isinstance(found, dict) else None
        if not isinstance(value, kind):
            raise self._bad(f"is no captured guest: its {key!r} is no {kind.__name__}")
        return value

    def _number(self, text: object, where: str) -> int:
        if not isinstance(text, str) or not _HEX.fullmatch(text):
            raise self._bad(f"has {str(text)[:40]!r} where a hex number belongs, in {where}")
        return int(text, 16)

    def _bad(self, why: str) -> TraceError:
        return TraceError(f"{self._shown} {why}".encode("ascii", "backslashreplace").decode())
