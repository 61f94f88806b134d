"""Which processor this is, and what its control registers switch on."""

from dataclasses import dataclass

CR0_PE, CR0_WP, CR0_NW, CR0_CD, CR0_PG = 1 << 0, 1 << 16, 1 << 29, 1 << 30, 1 << 31
CR4_PSE, CR4_PAE, CR4_PGE = 1 << 4, 1 << 5, 1 << 7
CR4_LA57, CR4_PCIDE = 1 << 12, 1 << 17
CR4_SMEP, CR4_SMAP, CR4_PKE, CR4_PKS = 1 << 20, 1 << 21, 1 << 22, 1 << 24
EFER_LME, EFER_LMA, EFER_NXE = 1 << 8, 1 << 10, 1 << 11


@dataclass(frozen=True, slots=True)
class Processor:
    """What CPUID and the VMX capability registers say, as far as translation depends on it."""

    vendor: str = "intel"
    maxphyaddr: int = 46
    # What the hypervisor's own tables obey, where the guest is shown a smaller width than the
    # silicon has (KVM's allow_smaller_maxphyaddr); None: the same.
    host_maxphyaddr: int | None = None
    gigabyte_pages: bool = True
    ept_execute_only: bool = True
    ept_2m: bool = True
    ept_1g: bool = True
    advanced_exit_information: bool = False
    pdptes_in_memory: bool = False  # AMD with nested paging reads them on each walk
    # QEMU's walker sets A as it descends, even if the walk then faults; KVM's walker (and
    # this engine by default) changes nothing on a faulting walk.  Both are legal.
    accessed_while_walking: bool = False


@dataclass(slots=True)
class Controls:
    """The control state of one logical CPU that translation depends on."""

    cr0: int = CR0_PE
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    pkru: int = 0
    pkrs: int = 0
    ac: bool = False  # RFLAGS.AC
    # The PDPTE registers (in a VMCS: GUEST_PDPTE0 to 3); None: not loaded, or this processor
    # has none and reads the pointers in memory on each walk.
    pdptes: tuple[int, int, int, int] | None = None

    @property
    def paging(self) -> bool:
        """CR0.PG."""
        return bool(self.cr0 & CR0_PG)

    @property
    def long_mode(self) -> bool:
        """IA-32e paging is in force: PG, PAE and LME."""
        return bool(self.paging and self.cr4 & CR4_PAE and self.efer & EFER_LME)

    @property
    def mode(self) -> str:
        """The paging mode: a name of a row in `formats`, or ``"none"``."""
        if not self.paging:
            return "none"
        if not self.cr4 & CR4_PAE:
            return "32-bit"
        if not self.efer & EFER_LME:
            return "PAE"
        return "5-level" if self.cr4 & CR4_LA57 else "4-level"

    @property
    def linear_width(self) -> int:
        """Bits of a linear address that are translated: 32, 48 or 57."""
        return {"4-level": 48, "5-level": 57}.get(self.mode, 32)
