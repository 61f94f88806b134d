"""Privileged instructions: MOV to control registers and what invalidates cached translations.

SDM, "Control Registers", "Operations that Invalidate TLBs and Paging-Structure Caches", and
"VM-Execution Control Fields" for what exits instead.  Each takes the CPU that executes it.
What is dropped is the minimum that the manual demands; real processors may drop more.
"""

from kvmlab.base.addresses import is_canonical
from kvmlab.hardware.context import CR3_PAE, PCID
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.ept import nested, qualification
from kvmlab.hardware.fields import Switches
from kvmlab.hardware.formats import fields, format_named, reserved_bits
from kvmlab.hardware.processor import (
    CR0_CD,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    Controls,
    Processor,
)
from kvmlab.hardware.records import (
    READ,
    ControlWrite,
    ExitReason,
    Fault,
    GeneralProtection,
    Kind,
    VmExit,
)
from kvmlab.hardware.tlb import GLOBAL, Tag
from kvmlab.hardware.vmcs import Instruction

_NO_FLUSH = 1 << 63
# A change of one of these loads the PDPTEs again (SDM, "PDPTE Registers").
CR0_RELOADS = CR0_PG | CR0_NW | CR0_CD
CR4_RELOADS = CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP


def mov_cr3(cpu: Cpu, value: int) -> None:
    """Load CR3: a new root, and (unless bit 63 says otherwise) no stale translation of its PCID.

    Exits with CR3-load exiting.  #GP for bits beyond MAXPHYADDR and for a bad PDPTE.
    """
    controls, seen = cpu.controls, cpu.registers
    pcids = bool(seen.cr4 & CR4_PCIDE)
    keep = pcids and bool(value & _NO_FLUSH)
    stored = value & ~_NO_FLUSH if pcids else value
    if seen.long_mode and stored >> cpu.processor.maxphyaddr:
        _refuse(cpu, f"CR3 {value:#x} has bits beyond MAXPHYADDR {cpu.processor.maxphyaddr}")
        return
    if cpu.vmcs and cpu.vmcs.cr3_load_exiting:
        _exit_for_register(cpu, "CR3", 3, value)
        return
    if controls.mode == "PAE" and not load_pdptes(cpu, stored):
        return
    controls.cr3 = stored
    cpu.refresh()
    cpu.tap(ControlWrite("CR3", value))
    if not keep:
        tag = cpu.context.tag
        cpu.drop("MOV CR3", lambda one: (one.vpid, one.pcid) == (tag.vpid, tag.pcid))


def mov_cr0(cpu: Cpu, value: int) -> None:
    """Load CR0; a change of PG drops everything, PAE paging may load the PDPTEs.

    The SDM demands it of leaving paging.  What was cached before entering it, under EPT, is no
    translation by the guest's tables: those start with an empty TLB, whoever sets PG.
    """
    controls, seen = cpu.controls, cpu.registers
    changed = value ^ seen.cr0
    owned = cpu.vmcs.cr0_host_owned if cpu.vmcs else 0
    if why := _cr0_refusal(seen, value):
        _refuse(cpu, why)
        return
    if changed & owned:
        _exit_for_register(cpu, "CR0", 0, value)
        if cpu.context.ept and changed & value & CR0_PG:
            cpu.drop("MOV CR0", lambda one: one.vpid == cpu.context.tag.vpid)
        return
    old, controls.cr0 = controls.cr0, controls.cr0 & owned | value & ~owned
    if controls.mode == "PAE" and changed & CR0_RELOADS and not load_pdptes(cpu, controls.cr3):
        controls.cr0 = old
        return
    track_long_mode(controls)
    cpu.refresh()
    cpu.tap(ControlWrite("CR0", value))
    if changed & CR0_PG:
        cpu.drop("MOV CR0", lambda one: one.vpid == cpu.context.tag.vpid)


def _cr0_refusal(controls: Controls, value: int) -> str:
    """Why CR0 cannot take ``value``; empty if it can."""
    paging = value & CR0_PG
    if paging and not value & CR0_PE:
        return f"CR0 {value:#x} sets PG without PE"
    if paging and not controls.paging and controls.efer & EFER_LME and not controls.cr4 & CR4_PAE:
        return f"CR0 {value:#x} sets PG while EFER.LME is set and CR4.PAE is not"
    if controls.paging and not paging and controls.cr4 & CR4_PCIDE:
        return f"CR0 {value:#x} clears PG while CR4.PCIDE is set"
    return ""


def mov_cr4(cpu: Cpu, value: int) -> None:
    """Load CR4; changes of PGE, PCIDE, PAE and SMEP drop what they must."""
    controls, seen = cpu.controls, cpu.registers
    changed = value ^ seen.cr4
    owned = cpu.vmcs.cr4_host_owned if cpu.vmcs else 0
    if why := _cr4_refusal(seen, value):
        _refuse(cpu, why)
        return
    if changed & owned:
        _exit_for_register(cpu, "CR4", 4, value)
        return
    cleared, raised = changed & ~value, changed & value
    old, controls.cr4 = controls.cr4, controls.cr4 & owned | value & ~owned
    if controls.mode == "PAE" and changed & CR4_RELOADS and not load_pdptes(cpu, controls.cr3):
        controls.cr4 = old
        return
    vpid, pcid = cpu.context.tag.vpid, cpu.context.tag.pcid
    cpu.refresh()
    cpu.tap(ControlWrite("CR4", value))
    if changed & CR4_PGE or cleared & CR4_PCIDE:
        cpu.drop("MOV CR4", lambda one: one.vpid == vpid)
    elif changed & CR4_PAE or raised & CR4_SMEP:
        cpu.drop("MOV CR4", lambda one: (one.vpid, one.pcid) == (vpid, pcid))


def _cr4_refusal(controls: Controls, value: int) -> str:
    """Why CR4 cannot take ``value``; empty if it can."""
    changed = value ^ controls.cr4
    if controls.long_mode and changed & CR4_LA57:
        return f"CR4 {value:#x} changes LA57 in long mode"
    if controls.long_mode and not value & CR4_PAE:
        return f"CR4 {value:#x} clears PAE in long mode"
    if value & changed & CR4_PCIDE and (not controls.long_mode or controls.cr3 & PCID):
        return f"CR4 {value:#x} sets PCIDE, which needs long mode and CR3[11:0] = 0"
    return ""


def wrmsr_efer(cpu: Cpu, value: int) -> None:
    """Write EFER; LME cannot change while paging is on."""
    controls, seen = cpu.controls, cpu.registers
    if seen.paging and (value ^ seen.efer) & EFER_LME:
        _refuse(cpu, f"EFER {value:#x} changes LME while CR0.PG is set")
        return
    if cpu.vmcs and cpu.vmcs.efer_exiting:
        instruction = Instruction(Kind.READ, 0, 8, register="EFER", value=value)
        cpu.exit(VmExit(ExitReason.WRMSR, 0, 0, 0), instruction)
        return
    controls.efer = value
    track_long_mode(controls)
    cpu.refresh()
    cpu.tap(ControlWrite("EFER", value))


def track_long_mode(controls: Controls) -> None:
    """LMA is the processor's: set while long mode is in force."""
    controls.efer = controls.efer & ~EFER_LMA | (EFER_LMA if controls.long_mode else 0)


def load_pdptes(cpu: Cpu, cr3: int) -> bool:
    """PAE on Intel: read the four PDPTEs into registers; #GP if one has a reserved bit.

    Processors that walk them in memory (AMD with nested paging) load nothing.
    """
    if cpu.processor.pdptes_in_memory:
        return True
    if (hpa := _locate_pdptes(cpu, cr3 & CR3_PAE)) is None:
        return False
    load = cpu.ram.load
    loaded = load(hpa), load(hpa + 8), load(hpa + 16), load(hpa + 24)
    if why := pdpte_refusal(loaded, cpu.processor):
        _refuse(cpu, why)
        return False
    cpu.controls.pdptes = loaded
    return True


def pdpte_refusal(loaded: tuple[int, ...], processor: Processor) -> str:
    """Why the PDPTE registers cannot take these four entries; empty if they can."""
    pae = format_named("PAE")
    known = fields(pae, pae.levels, leaf=False, cpu=processor, switches=Switches())
    for number, entry in enumerate(loaded):
        if entry & 1 and entry & reserved_bits(pae, known):
            return f"PDPTE {number} is {entry:#x}: a reserved bit is set"
    return ""


def _locate_pdptes(cpu: Cpu, gpa: int) -> int | None:
    """Where the four PDPTEs live; an EPT violation here has no linear address."""
    ept = cpu.context.ept
    if ept is None:
        return gpa
    instruction = Instruction(Kind.READ, gpa, 8, register="CR3")
    for _ in range(8):
        found = nested(ept, cpu.ram, gpa, READ, cpu.tap)
        if not isinstance(found, Fault):
            return found.address
        reserved = found.why == "reserved"
        reason = ExitReason.EPT_MISCONFIG if reserved else ExitReason.EPT_VIOLATION
        mode_based = cpu.context.mode_based
        code = qualification(found, final=False, linear=False, mode_based=mode_based)
        cpu.exit(VmExit(reason, 0 if reserved else code, 0, gpa), instruction)
    return None


# -- invalidation ---------------------------------------------------------------------------


def invlpg(cpu: Cpu, gva: int) -> None:
    """Drop the translation of one page: of this PCID, and the global one.

    A non-canonical address makes it a no-op.  Exits with INVLPG exiting.
    """
    if cpu.vmcs and cpu.vmcs.invlpg_exiting:
        instruction = Instruction(Kind.READ, gva, 1, register="INVLPG")
        cpu.exit(VmExit(ExitReason.INVLPG, gva, gva, 0), instruction)
        return
    if not is_canonical(gva, cpu.context.width) and cpu.controls.long_mode:
        return
    cpu.forget(gva, "INVLPG")


def invpcid(cpu: Cpu, kind: int, pcid: int = 0, gva: int = 0) -> None:
    """INVPCID: 0 one page, 1 one PCID, 2 all with global ones, 3 all but global ones.

    Exits with INVLPG exiting; the exit carries the type, the address and the PCID.
    """
    if kind in (0, 1) and pcid and not cpu.controls.cr4 & CR4_PCIDE:
        _refuse(cpu, f"INVPCID names PCID {pcid:#x} while CR4.PCIDE is 0")
        return
    if kind not in (0, 1, 2, 3) or pcid > PCID:
        _refuse(cpu, f"INVPCID type {kind}, PCID {pcid:#x}: there are types 0 to 3 and 4096 PCIDs")
        return
    if kind == 0 and cpu.controls.long_mode and not is_canonical(gva, cpu.context.width):
        _refuse(cpu, f"INVPCID address {gva:#x} is not canonical")
        return
    if cpu.vmcs and cpu.vmcs.invlpg_exiting:
        instruction = Instruction(Kind.READ, gva, 16, register="INVPCID", value=pcid)
        cpu.exit(VmExit(ExitReason.INVPCID, kind, gva, 0), instruction)
        return
    vpid = cpu.context.tag.vpid

    def concerned(one: Tag) -> bool:
        if one.vpid != vpid:
            return False
        if kind in (0, 1):
            return one.pcid == pcid
        return kind == 2 or one.pcid != GLOBAL

    cpu.drop("INVPCID", concerned, gva if kind == 0 else None)


def invvpid(cpu: Cpu, kind: int, vpid: int = 0, gva: int = 0) -> bool:
    """INVVPID by the hypervisor: 0 one address, 1 one VPID, 2 all VPIDs, 3 one but its globals.

    Returns False where the instruction fails (VMfail): VPID 0 or a bad type or address.
    """
    if kind not in (0, 1, 2, 3) or (kind != 2 and vpid == 0):
        return False
    if kind == 0 and not is_canonical(gva, max(48, cpu.context.width)):
        return False

    def concerned(one: Tag) -> bool:
        if kind == 2:
            return one.vpid != 0
        return one.vpid == vpid and (kind in (0, 1) or one.pcid != GLOBAL)

    cpu.drop("INVVPID", concerned, gva if kind == 0 else None)
    return True


def invept(cpu: Cpu, kind: int, eptp: int = 0) -> bool:
    """INVEPT by the hypervisor: 1 one EPT root, 2 all of them.  False where it fails."""
    if kind not in (1, 2):
        return False
    root = eptp & 0x000F_FFFF_FFFF_F000
    cpu.drop("INVEPT", lambda one: one.ept_root and (kind == 2 or one.ept_root == root))
    if cpu.nested_tlb:
        cpu.nested_tlb.drop(root if kind == 1 else None)
    return True


def _refuse(cpu: Cpu, why: str) -> None:
    cpu.protection_fault(GeneralProtection(0, why))


def _exit_for_register(cpu: Cpu, register: str, number: int, value: int) -> None:
    """Exit for a MOV to a control register; qualification bits 3:0 number the register."""
    instruction = Instruction(Kind.READ, 0, 8, register=register, value=value)
    cpu.exit(VmExit(ExitReason.CR_ACCESS, number, 0, 0), instruction)
