"""A nested guest's hypervisors: L0's VM and KVM, and in it L1's kernel, VMM and KVM."""

from dataclasses import dataclass

from kvmlab.base.addresses import size_text
from kvmlab.base.clock import Clock
from kvmlab.base.errors import BadSize, KvmlabError
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.formats import Format, format_named
from kvmlab.host.kernel import Host
from kvmlab.kvm.ept_mmu import EptMmu
from kvmlab.kvm.mmu import Mmu
from kvmlab.kvm.nested_cpu import GuestRam, VirtualCpu
from kvmlab.kvm.nested_ept import MERGED
from kvmlab.kvm.nested_vmx import NestedVcpu
from kvmlab.kvm.policy import Policy
from kvmlab.kvm.shadow_mmu import ShadowMmu
from kvmlab.kvm.shadow_pages import ShadowPages
from kvmlab.kvm.tracked_ept import TrackedEpt
from kvmlab.kvm.vcpu import Vcpu
from kvmlab.qemu.firmware import boot_controls
from kvmlab.qemu.machine import LOW_MEMORY, Qemu, reserve_huge

_L1_MODE = "4-level"
_ROOM = 8 << 20  # that L1 needs for itself, at least


@dataclass(frozen=True, slots=True)
class Shape:
    """What nested guest there is to be, and how L0 and L1 run it."""

    design: str  # "l2-ept" or "l2-shadow"
    guest: Format
    size: int  # of L2's memory
    page_shift: int  # of what backs L1's memory, and in it L2's
    levels: int  # of each EPT
    policy: Policy  # of a shadow MMU in L1
    vmcs_shadowing: bool


class L1:
    """The hypervisor of a nested guest, on one virtual CPU of L0.

    L1 is the same code as L0: it takes its memory for RAM and a `VirtualCpu` for a processor.
    """

    def __init__(self, cpu: Cpu, host: Host, shape: Shape, clock: Clock) -> None:
        self._shape = shape
        memory = memory_of_l1(shape)
        self.below = Qemu(host, memory, shape.page_shift, clock, cpu.tap)  # L0's, which runs L1
        try:
            self._run(cpu, memory, clock)
        except KvmlabError:
            self.below.end()
            raise

    def _run(self, cpu: Cpu, memory: int, clock: Clock) -> None:
        """Start L1 in L0's VM, and in it the hypervisor of L2."""
        shape, tap, mode = self._shape, cpu.tap, format_named(_L1_MODE)
        self.below.load_firmware(mode)
        shadowing = shape.vmcs_shadowing
        self.l0 = NestedVcpu(cpu, boot_controls(mode), self._mmu01, vmcs_shadowing=shadowing)
        self.ram = GuestRam(self.l0, memory)
        self.host = Host(self.ram, tap)
        reserve_huge(self.host, shape.size, shape.page_shift)
        self.qemu = Qemu(self.host, shape.size, shape.page_shift, clock, tap)
        self.qemu.load_firmware(shape.guest)
        self.vcpu = Vcpu(VirtualCpu(self.l0), boot_controls(shape.guest), self._mmu12)

    def _mmu01(self, vcpu: Vcpu) -> Mmu:
        """L0's EPT; with an EPT12 to merge, one that notices what L1 writes there."""
        vm, levels = self.below.vm, self._shape.levels
        if self._shape.design == "l2-shadow":
            return EptMmu(vm, vcpu.vmcs, vcpu.cpu, levels)
        return TrackedEpt(vm, vcpu.vmcs, vcpu.cpu, levels, ShadowPages(vm, MERGED, vm.flushes))

    def _mmu12(self, vcpu: Vcpu) -> Mmu:
        vm = self.qemu.vm
        if self._shape.design == "l2-ept":
            return EptMmu(vm, vcpu.vmcs, vcpu.cpu, self._shape.levels)
        return ShadowMmu(vm, vcpu.vmcs, vcpu.cpu, vcpu.guest, self._shape.policy)

    def look(self, gpa: int) -> int | None:
        """The L1 guest-physical address of an L2 one, without effect; None if it has none."""
        self.ram.quiet = True
        try:
            backing = self.qemu.vm.look(gpa)
        finally:
            self.ram.quiet = False
        return backing.host.address if backing else None

    def table_frames(self) -> dict[str, int]:
        """Frames of the tables of both hypervisors, EPT02 included, by kind."""
        frames = {"ept": self.l0.mmu.table_frames, "shadow": 0}
        frames[self.vcpu.mmu.name] += self.vcpu.mmu.table_frames
        frames["ept"] += len(self.l0.merged.pages) if self.l0.merged else 0
        return frames


def memory_of_l1(shape: Shape) -> int:
    """How much memory L1 gets: twice that of its guest, below the PC's hole."""
    memory = min(2 * shape.size, LOW_MEMORY)
    room = max(_ROOM, 1 << shape.page_shift)
    if memory - shape.size < room:
        raise BadSize(
            f"a nested guest of {size_text(shape.size)} leaves L1, which has {size_text(memory)}, "
            f"less than {size_text(room)} for itself"
        )
    return memory
