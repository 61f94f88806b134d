"""A virtual machine as KVM sees it: memslots over the VMM's address space."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmlab.base.tap import Tap
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import Mapped
from kvmlab.host.address_space import AddressSpace
from kvmlab.host.kernel import Host
from kvmlab.kvm.bus import Bus
from kvmlab.kvm.flushes import RemoteFlushes
from kvmlab.kvm.memslots import Memslot, Memslots
from kvmlab.kvm.records import SlotLookup

if TYPE_CHECKING:
    from kvmlab.kvm.vcpu import Vcpu


@dataclass(slots=True)
class Backing:
    """Where a guest-physical address really is: its slot, its HVA, its frame in the host."""

    slot: Memslot
    hva: int
    host: Mapped


class Vm:
    """Guest-physical memory: GPA -> HVA by memslot, HVA -> HPA by the VMM's page table.

    All that KVM knows of guest memory goes through here; what it reads there is the guest's
    word and is treated as hostile.
    """

    def __init__(self, host: Host, vmm: AddressSpace, tap: Tap) -> None:
        self.host, self.vmm, self.tap = host, vmm, tap
        self.slots = Memslots()
        self.vcpus: list[Vcpu] = []
        self.loaded: Vcpu | None = None  # whose thread was in KVM last (kvm_get_running_vcpu)
        self.flushes = RemoteFlushes(self.vcpus, tap)
        self.on_slot_gone: list[Callable[[], None]] = []  # MMUs drop all: kvm_mmu_zap_all_fast()
        self.on_unmap: list[Callable[[range], None]] = []  # MMUs drop some: kvm_unmap_gfn_range()
        self.mmio = Bus("GPA", tap)  # devices behind addresses
        vmm.notifiers.append(self._host_takes)

    @property
    def ram(self) -> Ram:
        """The host's physical memory."""
        return self.host.ram

    def set_region(self, slot: int, gpa: int, size: int, hva: int, flags: int = 0) -> None:
        """KVM_SET_USER_MEMORY_REGION: change the slots; what MMUs built of a lost one goes."""
        if self.slots.set_region(slot, gpa, size, hva, flags):
            for drop in self.on_slot_gone:
                drop()
            self.go_on()

    @property
    def sync_mmu(self) -> bool:
        """KVM_CAP_SYNC_MMU: whether what the host does to the VMM's memory reaches the guest."""
        return self._host_takes in self.vmm.notifiers

    def _host_takes(self, start: int, end: int) -> None:
        """HVAs are about to lose their frames: what depends on them goes (MMU notifier)."""
        with self.flushes.together():
            for gpas in [slot.gpas(start, end) for slot in self.slots]:
                for drop in self.on_unmap if gpas else ():
                    drop(gpas)
        self.go_on()

    def go_on(self) -> None:
        """The host changed something: its virtual CPUs do what that asks of them, at once.

        What the host does between two exits it does in the thread of the virtual CPU that exited
        last, as QEMU does when the guest notified a device: that one is not in the guest, and
        needs no kick.  During an exit all waits for its end.
        """
        if self.loaded and self.loaded.cpu.in_guest:
            self.loaded.enter_anew()

    def back(self, gpa: int) -> Backing | None:
        """Where ``gpa`` is, faulted into the host if need be; None outside every slot."""
        slot = self.slots.find(gpa)
        if slot is None:
            return None
        hva = slot.hva_of(gpa)
        self.tap(SlotLookup(gpa, slot.slot, hva))
        return Backing(slot, hva, self.vmm.fault_in(hva))

    def look(self, gpa: int) -> Backing | None:
        """Where ``gpa`` is now, without any effect; None if it is in no slot or not backed."""
        slot = self.slots.find(gpa)
        if slot is None:
            return None
        hva = slot.hva_of(gpa)
        host = self.vmm.translate(hva)
        return Backing(slot, hva, host) if host else None

    def write(self, gpa: int, data: bytes) -> None:
        """Write guest memory from the host's side, within one page."""
        if backing := self.back(gpa):
            self.ram.write(backing.host.address, data)
