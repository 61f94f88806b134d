"""The engine put to the test: one access by a `Cpu`, told in the words of the test vectors.

    ask(controls, memory, access, nested) -> Answer

takes what `tests.reference.translate` takes and answers with fields of the same names, so that
an answer can be held against a vector or against the reference, field by field.  Nothing is
worked out here that the engine has not said: references are its `Step` records, page sizes the
levels of the entries that it called leaves, and a guest-physical address is put together from the
indices that the walk of the second dimension used.
"""

from dataclasses import dataclass, field
from typing import Any

from kvmlab.hardware import processor
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.ept import PageModificationLog
from kvmlab.hardware.instructions import mov_cr3
from kvmlab.hardware.processor import Processor
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import (
    ExitReason,
    GeneralProtection,
    Kind,
    PageFault,
    PmlLogged,
    Step,
    Verdict,
    VmExit,
)
from kvmlab.hardware.tlb import ArrayShape, Geometry
from kvmlab.hardware.vmcs import Vmcs
from tests import reference

NAMES = {12: "4K", 21: "2M", 22: "4M", 30: "1G"}
KINDS = {"read": Kind.READ, "write": Kind.WRITE, "fetch": Kind.FETCH}
RESULTS = {
    ExitReason.EPT_VIOLATION: "ept_violation",
    ExitReason.EPT_MISCONFIG: "ept_misconfig",
    ExitReason.PML_FULL: "pml_full",
    ExitReason.NPF: "npf",
}
RAM_SIZE = 1 << 52
PML_PAGE = RAM_SIZE - 0x1000  # where no case keeps its tables
ONE_ENTRY = Geometry("one entry", (ArrayShape(1, 1, (12, 21, 22, 30)),), (), ())


@dataclass
class Answer:
    """What came of one access; the fields mean what they mean in `reference.Outcome`."""

    result: str
    gpa: int | None = None
    hpa: int | None = None
    page_size: str | None = None
    ept_page: str | None = None
    error_code: int | None = None
    cr2: int | None = None
    when: str | None = None
    exit_reason: int | None = None
    qualification: int | None = None
    gla: int | None = None
    trace: list[tuple[str, int, int, int]] = field(default_factory=list)
    pml: list[int] = field(default_factory=list)

    @property
    def refs(self) -> int:
        return len(self.trace)


class _StoppedError(Exception):
    """An instruction that sets the case up was refused, or exited."""

    def __init__(self, outcome: GeneralProtection | VmExit) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class Engine:
    """A CPU with the controls of a case over a memory of its own."""

    def __init__(
        self,
        controls: reference.Controls,
        nested: reference.Ept | reference.Npt | None = None,
        *,
        eager: bool = False,
    ) -> None:
        self.controls, self.nested = controls, nested
        self.ram = Ram(RAM_SIZE)
        self.records: list[object] = []
        cpu = processor_of(controls, nested, eager=eager)
        self.cpu = Cpu(self.ram, cpu, geometry=ONE_ENTRY, tap=self.records.append)
        self.cpu.protection_fault_handler = self._stop
        if nested is None:
            self.cpu.start(registers(controls))
        else:
            self.vmcs = Vmcs(self._stop, registers(controls), **execution_controls(nested))
            self.cpu.enter(self.vmcs)

    def ask(self, access: reference.Access) -> Answer:
        """Load CR3 and do one access with all TLBs and walk caches empty."""
        if isinstance(self.nested, reference.Ept) and self.vmcs.pml:
            self.vmcs.pml.index = self.nested.pml_index  # a hypervisor has emptied the log
        self.records.clear()
        return self.load_cr3() or self.attempt(access)

    def load_cr3(self) -> Answer | None:
        """MOV CR3; None if it was done, else what stopped it."""
        if self.controls.mode == "nopaging":
            return None
        try:
            mov_cr3(self.cpu, self.controls.cr3)
        except _StoppedError as stop:
            answer = self._told(stop.outcome)
            answer.when = "mov_cr3"
            if isinstance(stop.outcome, VmExit) and not stop.outcome.qualification & 1 << 7:
                answer.gla = None  # the field is valid with bit 7 only
            return answer
        return None

    def attempt(self, access: reference.Access) -> Answer:
        """The access itself, on a complete miss."""
        self.cpu.flush_tlb()
        self.records.clear()
        self.cpu.cpl = access.cpl
        return self._told(
            self.cpu.attempt(access.va, KINDS[access.type], implicit=bool(access.implicit))
        )

    def again(self, access: reference.Access) -> tuple[Any, int]:
        """The same access once more, now that it may be cached: outcome and references."""
        self.records.clear()
        outcome = self.cpu.attempt(access.va, KINDS[access.type], implicit=bool(access.implicit))
        return outcome, sum(isinstance(one, Step) for one in self.records)

    def word(self, address: int, size: int) -> int:
        """What memory holds now."""
        return self.ram.load(address) if size == 8 else self.ram.load4(address)

    @staticmethod
    def _stop(outcome: Any) -> None:
        raise _StoppedError(outcome)

    def _told(self, outcome: int | PageFault | GeneralProtection | VmExit) -> Answer:
        if isinstance(outcome, PageFault):
            told = Answer("#PF", error_code=outcome.error_code, cr2=outcome.gva)
        elif isinstance(outcome, GeneralProtection):
            told = Answer("#GP", error_code=0)  # every one of them is a #GP(0)
        elif isinstance(outcome, VmExit):
            told = Answer(RESULTS[outcome.reason], exit_reason=int(outcome.reason))
            told.gpa = outcome.gpa
            if outcome.reason is ExitReason.EPT_VIOLATION:
                told.qualification, told.gla = outcome.qualification, outcome.gva
            elif outcome.reason is ExitReason.NPF:
                told.error_code = outcome.qualification
        else:
            told = self._arrived(outcome)
        table = "npt" if isinstance(self.nested, reference.Npt) else "ept"
        names = {"guest": "guest", "shadow": "shadow", "ept": table}
        steps = [one for one in self.records if isinstance(one, Step)]
        told.trace = [(names[one.table], one.level, one.hpa, one.entry) for one in steps]
        told.pml = [one.gpa for one in self.records if isinstance(one, PmlLogged)]
        return told

    def _arrived(self, address: int) -> Answer:
        """A translation that was found: both addresses and both page sizes."""
        told = Answer("ok", gpa=address, page_size="-")
        steps = [one for one in self.records if isinstance(one, Step)]
        guest = [at for at, one in enumerate(steps) if one.table != "ept"]
        if guest:
            assert self.cpu.context.tables is not None
            told.page_size = NAMES[leaf_shift(self.cpu.context.tables, steps[guest[-1]])]
        if self.nested is not None:
            assert self.cpu.context.ept is not None
            tables, last = self.cpu.context.ept.tables, steps[guest[-1] + 1 if guest else 0 :]
            shift, shifts = leaf_shift(tables, last[-1]), {r.level: r.shift for r in tables.rows}
            page = sum(one.index << shifts[one.level] for one in last)
            told.gpa, told.hpa = page | address & (1 << shift) - 1, address
            told.ept_page = NAMES[shift]
        return told


def leaf_shift(tables: Any, step: Step) -> int:
    """The size of the page that this step's entry maps, as a shift."""
    assert step.verdict is Verdict.LEAF
    return next(row.shift for row in tables.rows if row.level == step.level)


def ask(
    controls: reference.Controls,
    memory: reference.Memory,
    access: reference.Access,
    nested: reference.Ept | reference.Npt | None = None,
    *,
    eager: bool = False,
) -> tuple[Answer, Engine]:
    """One access over a copy of ``memory``; with the engine, to look at its memory afterwards."""
    engine = Engine(controls, nested, eager=eager)
    for address, word in memory.words.items():
        engine.ram.store4(address, word)
    return engine.ask(access), engine


def registers(c: reference.Controls) -> processor.Controls:
    """The control registers that a case describes; CR3 is loaded by an instruction."""
    long_mode = c.mode in ("4level", "5level")
    switches = {
        processor.CR4_PSE: c.cr4_pse,
        processor.CR4_PAE: c.mode == "pae" or long_mode,
        processor.CR4_LA57: c.mode == "5level",
        processor.CR4_SMEP: c.cr4_smep,
        processor.CR4_SMAP: c.cr4_smap,
        processor.CR4_PKE: c.cr4_pke,
        processor.CR4_PKS: c.cr4_pks,
    }
    paging = processor.CR0_PG if c.mode != "nopaging" else 0
    long_bits = processor.EFER_LME | processor.EFER_LMA if long_mode else 0
    return processor.Controls(
        cr0=processor.CR0_PE | paging | (processor.CR0_WP if c.cr0_wp else 0),
        cr4=sum(bit for bit, on in switches.items() if on),
        efer=long_bits | (processor.EFER_NXE if c.efer_nxe else 0),
        pkru=c.pkru,
        pkrs=c.pkrs,
        ac=bool(c.rflags_ac),
    )


def processor_of(
    c: reference.Controls, nested: reference.Ept | reference.Npt | None, *, eager: bool
) -> Processor:
    """The processor of a case: one, but the host's tables may be wider than the guest's."""
    facts: dict[str, Any] = {}
    if isinstance(nested, reference.Ept):
        facts = {
            "host_maxphyaddr": nested.maxphyaddr,
            "ept_execute_only": bool(nested.exec_only),
            "ept_2m": bool(nested.page_2m),
            "ept_1g": bool(nested.page_1g),
            "advanced_exit_information": bool(nested.adv_info),
        }
    elif isinstance(nested, reference.Npt):
        if nested.host.vendor != c.vendor or not nested.host.efer_nxe:
            raise ValueError("one processor runs guest and host, and the host has NX on")
        facts = {"pdptes_in_memory": True, "host_maxphyaddr": nested.host.maxphyaddr}
    return Processor(
        vendor=c.vendor,
        maxphyaddr=c.maxphyaddr,
        gigabyte_pages=bool(c.gbpages),
        accessed_while_walking=eager,
        **facts,
    )


def execution_controls(nested: reference.Ept | reference.Npt) -> dict[str, Any]:
    """The fields of the VMCS that a second dimension asks for."""
    if isinstance(nested, reference.Npt):
        return {"ncr3": nested.host.cr3, "nested_levels": 5 if "5" in nested.host.mode else 4}
    fields = {"eptp": nested.eptp, "mode_based_execute": bool(nested.mbec)}
    if nested.eptp & 0x40:  # EPTP bit 6: without A and D there is nothing to log
        fields["pml"] = PageModificationLog(PML_PAGE, nested.pml_index)
    return fields
