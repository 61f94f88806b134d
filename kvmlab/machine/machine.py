"""One host with one VM, wired; or a VM on a server that others share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import NoneType

from kvmlab.base.addresses import parse_address, parse_size
from kvmlab.base.checks import expect, expect_callable
from kvmlab.base.clock import Clock, MortalClock
from kvmlab.base.errors import BadChoice, KvmlabError
from kvmlab.base.tap import Tap, silent
from kvmlab.guest.balloon import BalloonDriver
from kvmlab.guest.balloon_stats import Stats
from kvmlab.guest.kernel import Kernel
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.formats import ALL_RIGHTS, Format, compile_tables
from kvmlab.hardware.instructions import load_pdptes
from kvmlab.hardware.processor import Controls
from kvmlab.hardware.ram import PAGE_SHIFT, PAGE_SIZE, Ram
from kvmlab.hardware.records import Fault, Mapped
from kvmlab.hardware.tlb import UNIFIED, Geometry
from kvmlab.hardware.turns import Turns
from kvmlab.hardware.walker import Walked, walk
from kvmlab.host.kernel import Host
from kvmlab.kvm.agile_mmu import AgileMmu
from kvmlab.kvm.ept_mmu import EptMmu
from kvmlab.kvm.mmu import Mmu
from kvmlab.kvm.policy import NAIVE, policy_named
from kvmlab.kvm.shadow_mmu import ShadowMmu
from kvmlab.kvm.vcpu import Vcpu
from kvmlab.kvm.vm import Vm
from kvmlab.machine.designs import (
    DESIGNS,
    check_guest,
    check_host,
    check_vcpus,
    ept_levels,
    guest_format,
    host_shift,
)
from kvmlab.machine.server import Server
from kvmlab.qemu.balloon import Balloon, BalloonOptions
from kvmlab.qemu.firmware import boot_controls, identity_tables
from kvmlab.qemu.machine import VIRTIO_MMIO, Qemu, memory_map, reserve_huge
from kvmlab.qemu.nested import L1, Shape, memory_of_l1


@dataclass(frozen=True, slots=True)
class Chain:
    """One address in all four spaces; None where the chain ends."""

    gva: int
    gpa: int | None
    hva: int | None
    hpa: int | None


class Machine:
    """A host, a VM and the guest's kernel, booted; or (``native``) that kernel on the metal.

    Sizes are bytes or texts such as ``64M``.  ``guest_levels`` is 2 (32-bit), 3 (PAE), 4 or 5,
    ``host_levels`` (of EPT) 4 or 5; ``host_page`` backs the guest's memory, ``guest_page`` is
    the page size that those who use the machine are to map; ``hva`` is where QEMU puts that memory,
    if not where mmap() does; ``policy`` is how the shadow MMU
    keeps its tables true (kvm/policy.py), which the other designs have no need of; ``kpti`` and
    ``pcid`` are what the guest's kernel does about CR3 (guest/contexts.py).
    ``vcpus`` logical CPUs share the memory; in a VM each has a VMCS, and all have the same tables.
    A nested guest (``l2-ept``, ``l2-shadow``) runs under L1, which without ``vmcs_shadowing``
    exits for each VMREAD and VMWRITE; there ``host_levels`` and ``host_page`` are L0's and L1's.
    On a ``server`` its host, clock and memory are used, and what it promised others is no matter;
    what the machine set on that clock ends with it.
    Raises `BadChoice` and `BadSize`.
    """

    def __init__(  # noqa: PLR0913  the options of the house, by name
        self,
        mmu: str = "ept",
        *,
        guest_memory: int | str = "64M",
        host_memory: int | str = "256M",
        guest_levels: int = 4,
        host_levels: int = 4,
        guest_page: int | str = "4K",
        host_page: int | str = "4K",
        hva: int | None = None,
        policy: str = NAIVE.name,
        kpti: bool = False,
        pcid: bool = False,
        vcpus: int = 1,
        vmcs_shadowing: bool = True,
        geometry: Geometry = UNIFIED,
        server: Server | None = None,
        tap: Tap = silent,
    ) -> None:
        if mmu not in DESIGNS:
            raise BadChoice(f"there is no design {mmu!r}; choose one of {', '.join(DESIGNS)}")
        expect("server", server, (Server, NoneType), "a Server")
        guest_size, host_size = parse_size(guest_memory), parse_size(host_memory)
        fmt, shift = guest_format(guest_levels, mmu), host_shift(host_page)
        check_guest(guest_size, fmt, 0 if mmu == "native" else shift)
        if not server:
            check_host(guest_size, host_size, native=mmu == "native")
        check_vcpus(vcpus, mmu)
        if server and mmu == "native":
            raise BadChoice("a kernel on the metal owns all of it; on a server choose another mmu")
        self.mmu, self.tap, self._server = mmu, tap, server
        self.clock = MortalClock(server.clock, self._alive) if server else Clock()
        self.balloon: Balloon | None = None  # the device; its driver is the guest's
        self.balloon_driver: BalloonDriver | None = None
        self.guest_page, self._hva = parse_size(guest_page), hva
        self._shadow_policy = policy_named(policy)
        size = guest_size if mmu == "native" else host_size
        self.ram = server.ram if server else Ram(size)
        self.cpus = _cpus(vcpus, self.ram, geometry, tap)
        self.cpu = self.cpus[0]
        self.host: Host | None = None
        self.qemu: Qemu | None = None
        self.vcpu: Vcpu | None = None
        self.l1: L1 | None = None  # of a nested guest: the hypervisor between it and the host
        try:
            if mmu == "native":
                identity_tables(fmt, memory_map(guest_size), self.ram.write)
                for cpu in self.cpus:
                    cpu.start(boot_controls(fmt))
            else:
                shadowing = vmcs_shadowing
                self._power_on(fmt, guest_size, shift, ept_levels(host_levels), shadowing)
            self.guest = self._boot(fmt, guest_size, kpti=kpti, pcid=pcid)
        except KvmlabError:
            self.power_off()
            raise

    def _power_on(
        self, fmt: Format, size: int, host_shift: int, levels: int, shadowing: bool
    ) -> None:
        """Start QEMU, its VM, and virtual CPUs in the mode that firmware leaves."""
        self.host = self._server.host if self._server else Host(self.ram, self.tap)
        if self.mmu.startswith("l2-"):
            shape = Shape(self.mmu, fmt, size, host_shift, levels, self._shadow_policy, shadowing)
            if not self._server:
                reserve_huge(self.host, memory_of_l1(shape), host_shift)
            self.l1 = L1(self.cpu, self.host, shape, self.clock)
            self.qemu, self.vcpu = self.l1.below, self.l1.l0
            return
        if not self._server:  # there the pools are the administrator's affair
            reserve_huge(self.host, size, host_shift)
        self.qemu = Qemu(self.host, size, host_shift, self.clock, self.tap, hva=self._hva)
        self.qemu.load_firmware(fmt)
        vm, boot = self.qemu.vm, boot_controls(fmt)

        def mmu(vcpu: Vcpu) -> Mmu:
            if self.mmu in ("ept", "npt"):
                return EptMmu(vm, vcpu.vmcs, self.cpu, levels, npt=self.mmu == "npt")
            if self.mmu == "agile":
                return AgileMmu(vm, vcpu.vmcs, self.cpu, boot, levels)
            return ShadowMmu(vm, vcpu.vmcs, self.cpu, boot, self._shadow_policy)

        self.vcpu = first = Vcpu(self.cpu, boot, mmu)
        for cpu in self.cpus[1:]:
            guest = boot_controls(fmt)
            Vcpu(cpu, guest, partial(_sibling, first, guest))

    def _boot(self, fmt: Format, size: int, *, kpti: bool, pcid: bool) -> Kernel:
        """What firmware still does, and then the kernel."""
        if fmt.mode == "PAE" and "shadow" not in self.mmu:  # where CR3 loads exit KVM has done so
            load_pdptes(self.cpu, self.cpu.controls.cr3)  # firmware's own MOV CR3
            self.cpu.refresh()
        memory, others = memory_map(size), self.cpus[1:]
        kernel = Kernel(self.cpu, memory, self.tap, others=others, kpti=kpti, pcid=pcid)
        kernel.page_shift(self.guest_page)
        return kernel

    def power_off(self) -> None:
        """End QEMU, if it has not ended: its memory goes back to the host.  Not on the metal."""
        if self.qemu:
            self.qemu.end()

    def _alive(self) -> bool:
        """Whether no hypervisor under the kernel has ended."""
        return all(one.process.alive for one in (self.qemu, self.vmm) if one)

    def attach_balloon(
        self, options: BalloonOptions | None = None, *, driver: bool = True, name: str = "balloon0"
    ) -> Balloon:
        """Plug a balloon device in, and have the guest load its driver unless told otherwise.

        Raises `BadChoice` for a second balloon, and for a kernel on the metal.
        """
        expect("options", options, (BalloonOptions, NoneType), "BalloonOptions(...)")
        expect("name", name, str, "a text such as 'balloon0'")
        if self.vmm is None:
            raise BadChoice("a balloon needs a hypervisor; this kernel runs on the metal")
        self.balloon, registers = self.vmm.add_balloon(options or BalloonOptions(), name)
        registers.interrupt = self._interrupt
        if driver:
            self.load_balloon_driver()
        return self.balloon

    def load_balloon_driver(
        self, poison: int | None = None, stats: Callable[[], Stats] | None = None
    ) -> BalloonDriver:
        """Modprobe virtio_balloon, in a guest that poisons free pages or not.

        ``stats`` gives the statistics that it sends.  Raises `BadChoice` without such a device,
        and while a driver has it.
        """
        expect("poison", poison, (int, NoneType), "a byte such as 0xAA, or None")
        if stats is not None:
            expect_callable("stats", stats, "a function that returns (tag, value) pairs")
        if self.balloon_driver and self.balloon_driver.bound:
            raise BadChoice("the balloon has its driver already; unload that one first")
        self.balloon_driver = BalloonDriver(
            self.guest, VIRTIO_MMIO, self.clock, stats=stats, poison=poison, tap=self.tap
        )
        return self.balloon_driver

    def _interrupt(self) -> None:
        """The balloon's interrupt line went up: the guest takes it as soon as time goes on."""
        self.clock.after(0, self._deliver)

    def _deliver(self) -> None:
        if self.balloon_driver:
            self.balloon_driver.interrupt()

    @property
    def vmm(self) -> Qemu | None:
        """The QEMU whose guest the kernel is, in L1 for a nested guest; None on the metal."""
        return self.l1.qemu if self.l1 else self.qemu

    @property
    def vm(self) -> Vm | None:
        """The VM in which the kernel runs, L1's of a nested guest; None on the metal."""
        return self.vmm.vm if self.vmm else None

    @property
    def policy(self) -> str:
        """How this design works, in a few words for the screen."""
        native = "no hypervisor: the guest's tables are the only ones"
        vcpu = self.l1.vcpu if self.l1 else self.vcpu
        return vcpu.mmu.policy if vcpu else native

    def chain(self, gva: int | str) -> Chain:
        """Follow an address of the current process through all four spaces, without effect."""
        address = parse_address(gva)
        process = self.guest.current
        gpa = self._gpa(process.root, address) if process else None
        if self.vm is None:
            return Chain(address, gpa, None, gpa)
        if gpa is None:
            return Chain(address, None, None, None)
        slot = self.vm.slots.find(gpa)
        return Chain(address, gpa, slot.hva_of(gpa) if slot else None, self.host_address(gpa))

    def host_address(self, gpa: int) -> int | None:
        """Where guest-physical ``gpa`` is in the host, without effect; through L1 if need be."""
        if self.l1:
            found = self.l1.look(gpa)
            if found is None:
                return None
            gpa = found
        backing = self.qemu.vm.look(gpa) if self.qemu else None
        return backing.host.address if backing else None

    def _gpa(self, root: int, gva: int) -> int | None:
        tables = compile_tables(self.guest.tables.format, self.cpu.processor)
        found = walk(tables, root, gva, self.ram, silent, self._look if self.vm else None)
        return None if isinstance(found, Fault) else found.address

    def _look(self, gpa: int) -> Walked:
        hpa = self.host_address(gpa)
        if hpa is None:
            return Fault("guest", 0, "absent", gpa, 0, 0)
        return Mapped("host", hpa, PAGE_SHIFT, ALL_RIGHTS, 0, [])

    def table_bytes(self) -> dict[str, int]:
        """Page-table memory now, in bytes: the guest's, EPT's and the shadow's."""
        frames = {"guest": self.guest.table_frames, "ept": 0, "shadow": 0}
        mmu = self.vcpu.mmu if self.vcpu else None
        if self.l1:
            frames |= self.l1.table_frames()
        elif isinstance(mmu, AgileMmu):
            frames |= {"ept": mmu.ept.table_frames, "shadow": len(mmu.pages)}
        elif mmu:
            frames[mmu.name] = mmu.table_frames
        return {table: number * PAGE_SIZE for table, number in frames.items()}

    def tick(self) -> None:
        """One interval of the host's timer passes: agile paging scans the tables it left nested."""
        if self.vcpu and isinstance(self.vcpu.mmu, AgileMmu):
            self.vcpu.mmu.scan()


def _cpus(count: int, ram: Ram, geometry: Geometry, tap: Tap) -> list[Cpu]:
    """Logical CPUs over one RAM; of several, the stream tells which one speaks."""
    turns = Turns(tap)
    taps = [turns.of(number) for number in range(count)] if count > 1 else [tap]
    cpus = [Cpu(ram, geometry=geometry, tap=one, number=n) for n, one in enumerate(taps)]
    for cpu in cpus:
        cpu.peers = cpus
    return cpus


def _sibling(first: Vcpu, guest: Controls, vcpu: Vcpu) -> Mmu:
    """The MMU of another virtual CPU of the VM of ``first``."""
    return first.mmu.sibling(vcpu.vmcs, vcpu.cpu, guest)
