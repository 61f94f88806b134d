"""A virtual machine as KVM sees it: memslots over the VMM's address space."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kvmlab.base.errors import BadSize
from kvmlab.base.tap import Tap
from kvmlab.hardware.ram import PAGE_SHIFT, Ram
from kvmlab.hardware.records import Mapped
from kvmlab.host.address_space import AddressSpace
from kvmlab.host.kernel import Host
from kvmlab.kvm.bus import Bus
from kvmlab.kvm.dirty_log import DirtyLogs
from kvmlab.kvm.flushes import RemoteFlushes
from kvmlab.kvm.memslots import Memslot, Memslots
from kvmlab.kvm.mmio_sptes import GENERATIONS
from kvmlab.kvm.records import SlotLookup

if TYPE_CHECKING:
    from kvmlab.kvm.vcpu import Vcpu

_LEAST_SHADOW_PAGES = 64  # KVM_MIN_ALLOC_MMU_PAGES
_FRAMES_PER_SHADOW_PAGE = 50  # KVM_MEMSLOT_PAGES_TO_MMU_PAGES_RATIO


class Ager(Protocol):
    """How an MMU says, of a range of guest-physical addresses, whether the guest used it."""

    def __call__(self, gpas: range, /, *, clear: bool) -> bool:
        """Whether it was used since it was last cleared."""


@dataclass(slots=True)
class Backing:
    """Where a guest-physical address really is: its slot, its HVA, its frame in the host."""

    slot: Memslot
    hva: int
    host: Mapped

    @property
    def rights(self) -> int:
        """What the guest may do there: what slot and host page both allow.

        The host's page is read-only while it is shared by KSM, until a write asks for a copy.
        """
        return self.slot.rights & self.host.rights


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
        self._nr_mmu_pages = 0  # 0: follows the slots
        self.logs = DirtyLogs(self.slots, tap)
        self.on_slot_gone: list[Callable[[], None]] = []  # MMUs drop all: kvm_mmu_zap_all_fast()
        self.on_end: list[Callable[[], None]] = []  # MMUs give up their roots: kvm_mmu_destroy()
        self.on_unmap: list[Callable[[range], None]] = []  # MMUs drop some: kvm_unmap_gfn_range()
        self.on_age: list[Ager] = []  # MMUs age some: kvm_age_gfn(), kvm_test_age_gfn()
        self.mmio, self.ports = Bus("GPA", tap), Bus("port", tap)  # devices behind addresses
        vmm.notifiers.append(self._host_takes)
        vmm.agers.append(self.clear_flush_young)
        vmm.on_exit.append(self._vmm_gone)

    @property
    def ram(self) -> Ram:
        """The host's physical memory."""
        return self.host.ram

    def set_region(self, slot: int, gpa: int, size: int, hva: int, flags: int = 0) -> None:
        """KVM_SET_USER_MEMORY_REGION: change the slots; what MMUs built of a lost one goes.

        All goes too when the generation wraps around: an MMIO entry from long ago could pass for
        a new one (kvm_mmu_invalidate_mmio_sptes).
        """
        old, generation = self.slots.get(slot), self.slots.generation
        gone = self.slots.set_region(slot, gpa, size, hva, flags)
        wraps = generation != self.slots.generation and not self.slots.generation % GENERATIONS
        with self._changing():
            for drop in self.on_slot_gone if gone or wraps else ():
                drop()
            self.logs.follow(old, self.slots.get(slot))

    @property
    def shadow_page_budget(self) -> int:
        """How many shadow pages there may be: as set, or one for every 50 frames of the slots.

        Linux, arch/x86/kvm/x86.c: kvm_arch_commit_memory_region().
        """
        frames = sum(one.size for one in self.slots) >> PAGE_SHIFT
        return self._nr_mmu_pages or max(frames // _FRAMES_PER_SHADOW_PAGE, _LEAST_SHADOW_PAGES)

    def set_nr_mmu_pages(self, count: int) -> None:
        """KVM_SET_NR_MMU_PAGES: a budget of shadow pages that changes of slots leave alone.

        Raises `BadSize`, where the ioctl returns EINVAL, for fewer than 64.
        """
        if count < _LEAST_SHADOW_PAGES:
            raise BadSize(
                f"a budget of {count} shadow pages: KVM needs at least {_LEAST_SHADOW_PAGES}"
            )
        self._nr_mmu_pages = count

    def get_dirty_log(self, slot: int) -> bytes:
        """KVM_GET_DIRTY_LOG: bit n is set if the guest wrote page n of the slot since last time."""
        with self._changing():
            return self.logs.get(slot)

    def clear_dirty_log(self, slot: int, first: int, count: int, pages: bytes) -> None:
        """KVM_CLEAR_DIRTY_LOG, after ``logs.manual_protect``: forget those of ``pages``."""
        with self._changing():
            self.logs.clear(slot, first, count, pages)

    def mark_dirty(self, gpa: int) -> None:
        """The guest's page of ``gpa`` was written, by the guest or for it."""
        self.logs.mark(gpa)

    @property
    def sync_mmu(self) -> bool:
        """KVM_CAP_SYNC_MMU: whether what the host does to the VMM's memory reaches the guest."""
        return self._host_takes in self.vmm.notifiers

    def _host_takes(self, start: int, end: int) -> None:
        """HVAs are about to lose their frames: what depends on them goes (MMU notifier)."""
        with self._changing():
            for gpas in [slot.gpas(start, end) for slot in self.slots]:
                for drop in self.on_unmap if gpas else ():
                    drop(gpas)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Around what the host changes: one flush at the end, which no guest goes on without."""
        try:
            with self.flushes.together():
                yield
        finally:
            self.go_on()

    def _vmm_gone(self) -> None:
        """The VMM ended, so what the MMUs built is of no use (mmu_notifier_release)."""
        with self._changing():
            for drop in self.on_slot_gone:
                drop()
        for end in self.on_end:
            end()

    def go_on(self) -> None:
        """The host changed something: its virtual CPUs do what that asks of them, at once.

        What the host does between two exits it does in the thread of the virtual CPU that exited
        last, as QEMU does when the guest notified a device: that one is not in the guest, and
        needs no kick.  During an exit all waits for its end.
        """
        if self.loaded and self.loaded.cpu.in_guest:
            self.loaded.enter_anew()

    def clear_flush_young(self, start: int, end: int) -> bool:
        """Whether the guest used HVAs ``[start, end)`` since this was last asked (MMU notifier).

        The host's reclaim asks before it takes a page: `test_young` without any effect.
        """
        return self._ask_young(start, end, clear=True)

    def test_young(self, start: int, end: int) -> bool:
        """Whether the guest used HVAs ``[start, end)`` since they were last cleared."""
        return self._ask_young(start, end, clear=False)

    def _ask_young(self, start: int, end: int, *, clear: bool) -> bool:
        ranges = [gpas for slot in self.slots if (gpas := slot.gpas(start, end))]
        with self._changing():
            young = [age(gpas, clear=clear) for gpas in ranges for age in self.on_age]
        return any(young)

    def back(self, gpa: int, *, write: bool = True) -> Backing | None:
        """Where ``gpa`` is, faulted into the host if need be; None outside every slot.

        The host lets the page be until VM entry.  Raises `ProcessKilled` if the VMM is no more.
        """
        slot = self.slots.find(gpa)
        if slot is None:
            return None
        hva = slot.hva_of(gpa)
        self.tap(SlotLookup(gpa, slot.slot, hva))
        self.vmm.hold(hva)
        return Backing(slot, hva, self.vmm.fault_in(hva, write=write))

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
        if self.loaded is None or self.loaded.cpu.in_guest:
            self.vmm.release()
