"""One page in all four address spaces, in both directions: GVA, GPA, HVA, HPA and back.

Downwards as the machine goes: guest tables, memslots, QEMU's page table.  Back by asking all that
might lead there, as a reverse map does.  Nothing is touched.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE
from kvmlab.base.errors import BadAddress, BadChoice
from kvmlab.guest.process import Process
from kvmlab.hardware.records import Verdict
from kvmlab.host.address_space import AddressSpace
from kvmlab.kvm.memslots import Memslot
from kvmlab.kvm.vm import Vm
from kvmlab.linux.frames import Role
from kvmlab.machine import Machine
from kvmlab.qemu.machine import VIRTIO_MMIO
from kvmlab.study.tree import entries, ept_tree, guest_tree, shadow_tree
from kvmlab.virtio.mmio import WINDOW

SPACES = ("gva", "gpa", "hva", "hpa")


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a process: where it is in each space, None where it is not."""

    process: str
    gva: int
    gpa: int | None = None
    hva: int | None = None
    hpa: int | None = None
    size: int = PAGE_SIZE


@dataclass(slots=True)
class Trail:
    """An address followed: what stands for it in each space, and why that is nothing."""

    space: str
    address: int
    gva: list[tuple[str, int]] = field(default_factory=list)  # by process
    gpa: list[int] = field(default_factory=list)
    hva: list[int] = field(default_factory=list)
    hpa: list[int] = field(default_factory=list)
    # what ends it: "unmapped", "hole", "device", "untouched", "swapped", "frame" (no guest's)
    end: str = ""
    role: str = ""  # of a host frame that is no guest's


def check(machine: Machine) -> tuple[Vm, AddressSpace]:
    """The VM of ``machine`` and QEMU's memory; raises `BadChoice` without four spaces."""
    if machine.vm is None or machine.vmm is None:
        raise BadChoice("native: there is one physical memory, and no HVA; choose EPT or shadow")
    if machine.l1:
        raise BadChoice("a nested guest has more than four address spaces; look at its L1 or at L0")
    return machine.vm, machine.vmm.process


def slot_of(machine: Machine, gpa: int) -> Memslot | None:
    """The memslot that holds ``gpa``."""
    return check(machine)[0].slots.find(gpa)


def pages_of(machine: Machine, process: Process) -> Iterator[Page]:
    """Every page that the process maps, in the order of its addresses."""
    for one in entries(guest_tree(machine, process)):
        if one.verdict is Verdict.LEAF:
            yield _page(machine, process.name, one.address, one.target, 1 << one.shift)


def _page(machine: Machine, name: str, gva: int, gpa: int, size: int = PAGE_SIZE) -> Page:
    slot = slot_of(machine, gpa)
    hva = slot.hva_of(gpa) if slot else None
    return Page(name, gva, gpa, hva, machine.host_address(gpa) if slot else None, size)


def all_pages(machine: Machine) -> dict[tuple[str, int], Page]:
    """The pages of all processes, by process and GVA."""
    return {
        (process.name, page.gva): page
        for process in machine.guest.processes
        for page in pages_of(machine, process)
    }


def gpa_of(machine: Machine, process: Process, gva: int) -> int | None:
    """Where the process's own tables put ``gva``."""
    for page in pages_of(machine, process):
        if page.gpa is not None and page.gva <= gva < page.gva + page.size:
            return page.gpa + gva - page.gva
    return None


def gvas_of(machine: Machine, gpa: int) -> list[tuple[str, int]]:
    """Every (process, GVA) that leads to ``gpa``."""
    return [
        (page.process, page.gva + gpa - page.gpa)
        for page in all_pages(machine).values()
        if page.gpa is not None and page.gpa <= gpa < page.gpa + page.size
    ]


def gpas_of(machine: Machine, hva: int) -> list[int]:
    """Every GPA that a memslot puts at ``hva``."""
    vm, _ = check(machine)
    return [gpa for slot in vm.slots for gpa in slot.gpas(hva, hva + 1)]


def hvas_of(machine: Machine, hpa: int) -> list[int]:
    """Every HVA of QEMU's guest memory that its page table maps to ``hpa``."""
    vm, qemu = check(machine)
    return [
        leaf.hva + hpa - (leaf.pfn << PAGE_SHIFT)
        for slot in vm.slots
        for leaf in qemu.table.between(slot.hva, slot.hva + slot.size)
        if leaf.present
        and leaf.pfn << PAGE_SHIFT <= hpa < (leaf.pfn << PAGE_SHIFT) + (1 << leaf.shift)
    ]


def follow(machine: Machine, space: str, address: int) -> Trail:
    """``address`` of ``space`` in the other three; of a GVA, in the process that runs.

    Raises `BadChoice`, `BadAddress`.
    """
    check(machine)
    if space not in SPACES:
        raise BadChoice(f"an address is one of {', '.join(SPACES)}, not {space!r:.20}")
    trail = Trail(space, address)
    {"gva": _from_gva, "gpa": _from_gpa, "hva": _from_hva, "hpa": _from_hpa}[space](machine, trail)
    return trail


def _from_gva(machine: Machine, trail: Trail) -> None:
    process = machine.guest.current
    if process is None:
        raise BadChoice("no process runs on this machine: switch to one first")
    trail.gva = [(process.name, trail.address)]
    gpa = gpa_of(machine, process, trail.address)
    if gpa is None:
        trail.end = "unmapped"
        return
    trail.gpa = [gpa]
    _down(machine, trail)


def _from_gpa(machine: Machine, trail: Trail) -> None:
    if trail.address >> 52:
        raise BadAddress(f"GPA {trail.address:#x} has more than the 52 bits of an address")
    trail.gpa = [trail.address]
    trail.gva = gvas_of(machine, trail.address)
    _down(machine, trail)


def _from_hva(machine: Machine, trail: Trail) -> None:
    _, qemu = check(machine)
    qemu.areas.find(trail.address)  # raises BadAddress outside them
    trail.hva = [trail.address]
    trail.gpa = gpas_of(machine, trail.address)
    trail.gva = [one for gpa in trail.gpa for one in gvas_of(machine, gpa)]
    _find_frame(machine, trail)


def _from_hpa(machine: Machine, trail: Trail) -> None:
    if trail.address >= machine.ram.size:
        end = machine.ram.size
        raise BadAddress(
            f"HPA {trail.address:#x} is beyond the host's memory, which ends at {end:#x}"
        )
    trail.hpa = [trail.address]
    trail.hva = hvas_of(machine, trail.address)
    trail.gpa = [gpa for hva in trail.hva for gpa in gpas_of(machine, hva)]
    trail.gva = [one for gpa in trail.gpa for one in gvas_of(machine, gpa)]
    if not trail.hva and machine.host:
        role = machine.host.memory.frames.role
        pfn = trail.address // PAGE_SIZE
        trail.end, trail.role = "frame", Role(role[pfn]).name if pfn < len(role) else "FREE"


def _down(machine: Machine, trail: Trail) -> None:
    """From the GPA on: memslot, then QEMU's page table."""
    vm, _ = check(machine)
    (gpa,) = trail.gpa
    slot = vm.slots.find(gpa)
    if slot is None:
        window = machine.balloon and VIRTIO_MMIO <= gpa < VIRTIO_MMIO + WINDOW
        trail.end = "device" if window else "hole"
        return
    trail.hva = [slot.hva_of(gpa)]
    _find_frame(machine, trail)


def _find_frame(machine: Machine, trail: Trail) -> None:
    _, qemu = check(machine)
    (hva,) = trail.hva
    leaf = qemu.table.find(hva)
    if leaf is None:
        trail.end = "untouched"
    elif not leaf.present:
        trail.end = "swapped"
    else:
        trail.hpa = [(leaf.pfn << PAGE_SHIFT) + hva - leaf.hva]


def direct(machine: Machine, page: Page) -> int | None:
    """Where the tables that the CPU walks last lead: EPT of a GPA, a shadow table of a GVA.

    None while there is no entry: the next access exits.
    """
    tree = ept_tree(machine) or shadow_tree(machine)
    key = page.gpa if machine.cpu.context.ept else page.gva
    for one in entries(tree):
        span = 1 << one.shift
        if (
            key is not None
            and one.verdict is Verdict.LEAF
            and one.address <= key < one.address + span
        ):
            return one.target + key - one.address
    return None
