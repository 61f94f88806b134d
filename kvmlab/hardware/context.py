"""What translation needs to know, worked out once from the control registers and the VMCS."""

from dataclasses import dataclass, replace

from kvmlab.hardware.agile import Shadow, shadow_of
from kvmlab.hardware.ept import Ept, decode_eptp, decode_ncr3
from kvmlab.hardware.fields import Switches
from kvmlab.hardware.formats import Tables, compile_tables, format_named, without_pointers
from kvmlab.hardware.processor import (
    CR4_PCIDE,
    CR4_PKE,
    CR4_PKS,
    CR4_PSE,
    EFER_NXE,
    Controls,
    Processor,
)
from kvmlab.hardware.tlb import GLOBAL, Tag
from kvmlab.hardware.vmcs import Vmcs

PCID = 0xFFF
_CR3_LEGACY = 0xFFFF_F000
CR3_PAE = 0xFFFF_FFE0  # the four PDPTEs are 32 bytes, aligned to that
_POINTER_ADDRESS = 0x000F_FFFF_FFFF_F000


@dataclass(frozen=True, slots=True)
class Context:
    """One state of the control registers, ready for the walker."""

    key: tuple[object, ...]  # what it was worked out from
    width: int  # bits of a linear address
    tables: Tables | None  # None: paging is off
    root: int
    pdptes: tuple[int, int, int, int] | None  # PAE: where the walk begins instead
    ept: Ept | None
    shadow: Shadow | None  # agile paging: the tree that the walk begins in
    mode_based: bool
    tag: Tag  # of translations made now
    tags: tuple[Tag, ...]  # of translations that may be used: that one, and global ones

    def first_table(self, gva: int) -> int | None:
        """The table in which a walk of ``gva`` begins; None if a PDPTE register says absent."""
        if self.pdptes is None:
            return self.root
        pointer = self.pdptes[gva >> 30 & 3]
        return pointer & _POINTER_ADDRESS if pointer & 1 else None


def context(controls: Controls, vmcs: Vmcs | None, cpu: Processor) -> Context:
    """The context that ``controls`` and ``vmcs`` call for.

    Without EPT the tables that the hardware walks inside a VM are the hypervisor's own, so
    they carry the name "shadow" in records; so do those that a guest hypervisor built.
    """
    mode, ept = controls.mode, _ept(vmcs, cpu)
    tables = None
    if mode != "none":
        fmt = format_named(mode)
        if vmcs and (ept is None or vmcs.shadowed):
            fmt = replace(fmt, table="shadow")
        tables = compile_tables(fmt, cpu, _switches(controls))
        if mode == "PAE" and controls.pdptes:
            tables = without_pointers(tables)
    shadow = None
    if vmcs and vmcs.agile and ept:
        ept = replace(ept, agile=True)
        if tables and vmcs.shadow_root is not None:
            shadow = shadow_of(tables, vmcs.shadow_root)
    pcid = controls.cr3 & PCID if controls.cr4 & CR4_PCIDE else 0
    tag = Tag(vmcs.vpid if vmcs else 0, pcid, ept.root if ept else 0)
    return Context(
        key=context_key(controls, vmcs),
        width=controls.linear_width,
        tables=tables,
        root=_root(controls, mode, cpu),
        pdptes=controls.pdptes if mode == "PAE" else None,
        ept=ept,
        shadow=shadow,
        mode_based=bool(vmcs and vmcs.mode_based_execute),
        tag=tag,
        tags=(tag, tag._replace(pcid=GLOBAL)),
    )


def context_key(controls: Controls, vmcs: Vmcs | None) -> tuple[object, ...]:
    """Everything that a context depends on: an equal key means an equal context."""
    own = (controls.cr0, controls.cr3, controls.cr4, controls.efer, controls.pdptes)
    if vmcs is None:
        return own
    nested = (vmcs.eptp, vmcs.ncr3, vmcs.nested_levels, vmcs.mode_based_execute, id(vmcs.pml))
    return (*own, vmcs.vpid, *nested, vmcs.agile, vmcs.shadow_root, vmcs.shadowed)


def _ept(vmcs: Vmcs | None, cpu: Processor) -> Ept | None:
    if vmcs is None:
        return None
    if vmcs.eptp is not None:
        return decode_eptp(vmcs.eptp, cpu, mode_based=vmcs.mode_based_execute, pml=vmcs.pml)
    if vmcs.ncr3 is not None:
        return decode_ncr3(vmcs.ncr3, cpu, vmcs.nested_levels)
    return None


def _switches(controls: Controls) -> Switches:
    return Switches(
        nxe=bool(controls.efer & EFER_NXE),
        pse=bool(controls.cr4 & CR4_PSE),
        keys=bool(controls.cr4 & (CR4_PKE | CR4_PKS)),
    )


def _root(controls: Controls, mode: str, cpu: Processor) -> int:
    if mode == "PAE":
        return controls.cr3 & CR3_PAE
    if mode in ("32-bit", "none"):
        return controls.cr3 & _CR3_LEGACY
    return controls.cr3 & ((1 << cpu.maxphyaddr) - 1) & ~PCID
