"""A CPU with TLB, walk caches and nested TLB, driven by the steps of a vector of group "tlb".

    TlbUnderTest(setup, steps).run() -> what each step showed, or totals

Two things a vector does not say are chosen here.  The page at `va` lies at the guest-physical
address `va` + 0x4000, so that the page 0x1000 is found at 0x5000 by a lookup; and every root that
a step names holds the same tables, as kernels do with several PCIDs.
"""

from dataclasses import replace
from typing import Any

from kvmlab.hardware import instructions, processor
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import ExitReason, Kind, TlbLookup, VmExit
from kvmlab.hardware.tlb import SKYLAKE, ArrayShape, Geometry
from kvmlab.hardware.vmcs import Instruction, Vmcs
from tests.reference import number

ROOT, EPT_TABLES, TABLES, DATA = 0x1000, 0x1000_0000, 0x10_0000, 0x4000
GUEST_MEMORY = 0x20_0000  # 512 pages: one EPT table maps them
EPTPS = {"A": EPT_TABLES | 0x1E, "B": EPT_TABLES + 0x10_0000 | 0x1E}
SERIES_TOTALS = {"l1_hits", "l1_misses"}


class TlbUnderTest:
    """The machine of one vector; each step is the method of its name."""

    def __init__(
        self,
        steps: list[dict[str, Any]],
        *,
        pcide: int = 0,
        pge: int = 0,
        pages: dict[str, dict[str, int]] | None = None,
        vpid: int | None = None,
        eptp: str | None = None,
        ept: bool = True,
        geometry: dict[str, list[int]] | None = None,
    ) -> None:
        self.steps, self.lookups = steps, list[TlbLookup]()
        self.base = EPT_TABLES + GUEST_MEMORY if eptp and ept else 0  # HPA of GPA 0
        self.ram = Ram(1 << 30)
        self.cpu = Cpu(self.ram, geometry=geometry_of(geometry), tap=self._listen)
        self._write_guest({number(va): is_global(page) for va, page in (pages or {}).items()})
        self._write_ept()
        switches = processor.CR4_PCIDE * pcide | processor.CR4_PGE * pge
        controls = processor.Controls(
            cr0=processor.CR0_PE | processor.CR0_PG,
            cr3=ROOT | pcide,  # a vector begins in PCID 1
            cr4=processor.CR4_PAE | switches,
            efer=processor.EFER_LME | processor.EFER_LMA,
        )
        if vpid is None:
            self.cpu.start(controls)
            return
        root = EPTPS[eptp] if eptp and ept else None
        self.vmcs = Vmcs(self._hypervisor, controls, vpid=vpid, eptp=root)
        self.next_vpid = vpid
        self.cpu.enter(self.vmcs)

    def run(self) -> list[str | None] | dict[str, int]:
        """What each step showed: "hit", "miss" or None; for a series, totals."""
        shown = [getattr(self, step["op"])(**_arguments(step)) for step in self.steps]
        if not any(step["op"] == "access_series" for step in self.steps):
            return shown
        hits = sum(one.where == "L1" for one in self.lookups)
        return {"l1_hits": hits, "l1_misses": len(self.lookups) - hits}

    # ----- steps ----------------------------------------------------------------------------

    def access(self, va: int) -> str:
        assert isinstance(self.cpu.attempt(va, Kind.READ), int)
        return "miss" if self.lookups[-1].where == "miss" else "hit"

    def access_series(self, va: int, stride: int, count: int, repeat: int) -> None:
        for _ in range(repeat):
            for one in range(count):
                self.access(va + one * stride)

    def mov_cr3(self, value: int = ROOT, pcid: int = 0, bit63: int = 0) -> None:
        instructions.mov_cr3(self.cpu, value | pcid | bit63 << 63)

    def invlpg(self, va: int) -> None:
        instructions.invlpg(self.cpu, va)

    def invpcid(self, type: int, pcid: int = 0, va: int = 0) -> None:  # noqa: A002
        instructions.invpcid(self.cpu, type, pcid, va)

    def invvpid(self, type: int, vpid: int = 0, va: int = 0) -> None:  # noqa: A002
        assert instructions.invvpid(self.cpu, type, vpid, va)

    def invept(self, type: int, eptp: str = "A") -> None:  # noqa: A002
        assert instructions.invept(self.cpu, type, EPTPS[eptp])

    def toggle_pge(self) -> None:
        instructions.mov_cr4(self.cpu, self.cpu.controls.cr4 ^ processor.CR4_PGE)

    def vmexit_vmentry(self, vpid: int) -> None:
        self.next_vpid = vpid
        self.cpu.exit(VmExit(ExitReason.CR_ACCESS, 0, 0, 0), Instruction(Kind.READ, 0, 8))

    def guest_physical_lookup(self, gpa: int) -> str:
        assert self.cpu.nested_tlb is not None
        assert self.cpu.context.ept is not None
        root = self.cpu.context.ept.root
        return "hit" if self.cpu.nested_tlb.find(gpa, int(Kind.READ), root) else "miss"

    # ----- the machine ----------------------------------------------------------------------

    def _listen(self, record: object) -> None:
        if isinstance(record, TlbLookup):
            self.lookups.append(record)

    def _hypervisor(self, _reason: VmExit) -> None:
        self.vmcs.vpid = self.next_vpid

    def _write_guest(self, pages: dict[int, int]) -> None:
        """Guest tables for every page that is listed or touched, the same under each root."""
        for step in self.steps:
            if step["op"] == "access_series":
                series = _arguments(step)
                for one in range(series["count"]):
                    pages.setdefault(series["va"] + one * series["stride"], 0)
        fresh = iter(range(TABLES, GUEST_MEMORY, 0x1000))
        top = next(fresh)
        for root in {ROOT} | {number(step["value"]) for step in self.steps if "value" in step}:
            self.ram.store(self.base + root, top | 7)
        for va, one_global in pages.items():
            table = top
            for shift in (30, 21):
                slot = self.base + table + (va >> shift & 511) * 8
                if not self.ram.load(slot):
                    self.ram.store(slot, next(fresh) | 7)
                table = self.ram.load(slot) & ~0xFFF
            page = DATA + va % (TABLES >> 1)
            self.ram.store(self.base + table + (va >> 12 & 511) * 8, page | one_global << 8 | 7)

    def _write_ept(self) -> None:
        """Two EPTs that map the guest's memory alike, page by page."""
        for eptp in EPTPS.values():
            table = eptp & ~0xFFF
            for level in range(3):
                self.ram.store(table + level * 0x1000, table + (level + 1) * 0x1000 | 7)
            for page in range(0, GUEST_MEMORY, 0x1000):
                self.ram.store(table + 0x3000 + page // 512, self.base + page | 0x37)


def is_global(page: dict[str, int]) -> int:
    if set(page) != {"g"}:
        raise ValueError(f"unknown fields in page {page}")
    return page["g"]


def geometry_of(stated: dict[str, list[int]] | None) -> Geometry:
    """Skylake's, or just the first level that a vector states."""
    if stated is None:
        return SKYLAKE
    if set(stated) != {"l1_4k"}:
        raise ValueError(f"unknown arrays in geometry {stated}")
    entries, ways = stated["l1_4k"]
    first = (ArrayShape(entries, ways, (12,)),)
    return replace(SKYLAKE, name="stated", data=first, fetch=(), second=())


def _arguments(step: dict[str, Any]) -> dict[str, Any]:
    return {name: number(value) for name, value in step.items() if name != "op"}
