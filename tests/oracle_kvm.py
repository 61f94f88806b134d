"""The live KVM API as an oracle, by ioctl alone: what `/dev/kvm` makes of tables and accesses.

    with Kvm() as kvm:
        kvm.translate(case) -> (guest-physical address or None, tables afterwards)
        kvm.run(case) -> Answer

`case` is in the schema of the vectors and must be `kvm.fitted`: moved into a VM of 4 MiB (see
`kvm_guest`), with those features off that this KVM does not offer.  Each answer comes from a fresh
VM, which takes some milliseconds, so nothing of another case is cached.

`translate` is KVM_TRANSLATE, the software walk of a supervisor's read.  `run` makes the access with
one instruction of a 4-level guest, at its CPL.

Everything is bounded: a signal ends a KVM_RUN after some seconds, and every descriptor is closed.
KVM_SET_CPUID2 says the vendor and MAXPHYADDR of a case; without it KVM takes 36 bits.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from tests import kvm_guest as guest
from tests.reference import number
from tests.tables import Case

DEVICE = "/dev/kvm"
CREATE_VM, GET_VCPU_MMAP_SIZE, CREATE_VCPU, RUN = 0xAE01, 0xAE04, 0xAE41, 0xAE80
GET_SUPPORTED_CPUID, SET_CPUID2, SET_USER_MEMORY_REGION = 0xC008AE05, 0x4008AE90, 0x4020AE46
GET_REGS, SET_REGS, GET_SREGS, SET_SREGS = 0x8090AE81, 0x4090AE82, 0x8138AE83, 0x4138AE84
TRANSLATE = 0xC018AE85
EXIT_IO = 2
SECONDS = 5  # the longest KVM_RUN; a healthy one takes a millisecond

CR0 = 0x8000_0031  # PG, NE, ET, PE
CR0_WP = 1 << 16
CR4_PSE, CR4_PAE, CR4_LA57, CR4_SMEP, CR4_SMAP = (1 << n for n in (4, 5, 12, 20, 21))
EFER_LONG, EFER_NXE = 0x500, 1 << 11  # LMA and LME
RFLAGS_AC = 1 << 18

VENDORS = {"intel": b"GenuntelineI", "amd": b"AuthcAMDenti"}  # as EBX, ECX and EDX hold it
CPUID_ENTRY = struct.Struct("<7I12x")  # function, index, flags, EAX, EBX, ECX, EDX


class Unavailable(Exception):
    """There is no KVM here, or it may not be used: why."""


@dataclass
class Answer:
    """What came of one access: `pa`, or `vector` with `error` and CR2.

    `tables` is the memory of the tables' area afterwards.
    """

    pa: int | None = None
    vector: int | None = None
    error: int | None = None
    cr2: int | None = None
    tables: bytes = field(default=b"", repr=False)


class Kvm:
    """`/dev/kvm` opened, and the memory that each VM gets in turn."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack, unavailable():
            self.device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, self.device)
            self.cpuid = supported_cpuid(self.device)
            self.shared = fcntl.ioctl(self.device, GET_VCPU_MMAP_SIZE, 0)
            self.memory = stack.enter_context(mmap.mmap(-1, guest.SIZE))
            self._closing = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    # ----- what this KVM offers -------------------------------------------------------------

    @property
    def maxphyaddr(self) -> int:
        return self.cpuid[0x8000_0008, 0][1] & 0xFF

    @property
    def vendor(self) -> str:
        found = struct.pack("<III", *self.cpuid[0, 0][2:])
        return "intel" if found == VENDORS["intel"] else "amd"

    def fitted(self, case: Case) -> Case:
        """The case as this KVM can be asked: moved into the VM, features as CPUID offers them."""
        _, _, features, _, _ = self.cpuid.get((7, 0), [0] * 5)
        ctrl = case["ctrl"] | {"cr4_pke": 0, "cr4_pks": 0}  # PKRU is out of reach of these ioctls
        ctrl["cr4_smep"] &= features >> 7
        ctrl["cr4_smap"] &= features >> 20
        ctrl["gbpages"] = self.cpuid[0x8000_0001, 0][4] >> 26 & 1
        access = {key: value for key, value in case["access"].items() if key != "implicit"}
        return guest.fitted(case | {"ctrl": ctrl, "access": access})

    # ----- asking ---------------------------------------------------------------------------

    def translate(self, case: Case) -> tuple[int | None, bytes]:
        """Where KVM_TRANSLATE finds the case's address, and the tables afterwards."""
        self._load(case)
        with self._vcpu(case) as (vcpu, _):
            asked = struct.pack("<Q16x", number(case["access"]["va"]))
            address, valid = struct.unpack_from("<8xQB", fcntl.ioctl(vcpu, TRANSLATE, asked))
        return address if valid else None, self._tables()

    def run(self, case: Case) -> Answer:
        """Make the access, and say what the guest saw of it."""
        self._load(case)
        access = {key: number(value) for key, value in case["access"].items()}
        base = guest.harness_base(access["va"])
        code = guest.probe(base, access["type"], access["cpl"])
        general = [guest.MARK, access["va"], 0, 0, 0, base + guest.MAGIC, base + guest.STACK_TOP]
        flags = 2 | RFLAGS_AC * case["ctrl"]["rflags_ac"]
        with self._vcpu(case) as (vcpu, shared):
            fcntl.ioctl(vcpu, SET_REGS, struct.pack("<18Q", *general, *[0] * 9, code, flags))
            vector = run_to_port(vcpu, shared)
            (rax,) = struct.unpack_from("<Q", fcntl.ioctl(vcpu, GET_REGS, bytes(144)))
            (cr2,) = struct.unpack_from("<232xQ", fcntl.ioctl(vcpu, GET_SREGS, bytes(312)))
        if (vector, cr2) == (14, base + guest.MAGIC):
            return Answer(pa=self._arrived(access["type"], rax), tables=self._tables())
        (error,) = struct.unpack_from("<Q", self.memory, guest.ERROR_CODE)
        return Answer(None, vector, error, cr2 if vector == 14 else None, self._tables())

    def _arrived(self, kind: str, rax: int) -> int:
        """The physical address of an access that was made."""
        if kind == "write":
            return self.memory.find(struct.pack("<Q", guest.MARK), guest.PAGES)
        return rax if kind == "fetch" else rax >> 8 & 0xFFFF_FFFF

    def _load(self, case: Case) -> None:
        base = guest.harness_base(number(case["access"]["va"]))
        self.memory[: guest.TABLES] = guest.harness(base)
        self.memory[guest.TABLES : guest.TABLES_END] = bytes(guest.TABLES_END - guest.TABLES)
        self.memory[guest.PAGES :] = guest.landings()
        for word in case["mem"]:
            form = "<Q" if word["size"] == 8 else "<I"
            struct.pack_into(form, self.memory, number(word["addr"]), number(word["value"]))

    def _tables(self) -> bytes:
        return self.memory[guest.TABLES : guest.TABLES_END]

    @contextlib.contextmanager
    def _vcpu(self, case: Case) -> Iterator[tuple[int, mmap.mmap]]:
        """A VM with one vCPU, its registers set for `case`: the descriptor, and kvm_run."""
        with contextlib.ExitStack() as stack:
            vm = fcntl.ioctl(self.device, CREATE_VM, 0)
            stack.callback(os.close, vm)
            address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
            region = struct.pack("<IIQQQ", 0, 0, 0, guest.SIZE, address)
            fcntl.ioctl(vm, SET_USER_MEMORY_REGION, region)
            vcpu = fcntl.ioctl(vm, CREATE_VCPU, 0)
            stack.callback(os.close, vcpu)
            shared = stack.enter_context(mmap.mmap(vcpu, self.shared))
            fcntl.ioctl(vcpu, SET_CPUID2, self._cpuid_of(case["ctrl"]), True)
            state = fcntl.ioctl(vcpu, GET_SREGS, bytes(312))
            fcntl.ioctl(vcpu, SET_SREGS, system_registers(case, state))
            yield vcpu, shared

    def _cpuid_of(self, ctrl: dict[str, Any]) -> bytearray:
        """The supported CPUID with the vendor and MAXPHYADDR of a case."""
        rows = {key: list(row) for key, row in self.cpuid.items()}
        for function in (0, 0x8000_0000):
            rows[function, 0][2:] = struct.unpack("<III", VENDORS[ctrl["vendor"]])
        widths = rows[0x8000_0008, 0]
        widths[1] = widths[1] & ~0xFF | ctrl["maxphyaddr"]
        listed = [CPUID_ENTRY.pack(*key, *row) for key, row in rows.items()]
        return bytearray(struct.pack("<II", len(rows), 0) + b"".join(listed))


@contextlib.contextmanager
def unavailable() -> Iterator[None]:
    """Tell a refusal of the system as `Unavailable`."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{DEVICE}: {error.strerror}") from None


def supported_cpuid(device: int) -> dict[tuple[int, int], list[int]]:
    """{(function, index): [flags, EAX, EBX, ECX, EDX]}, as KVM_GET_SUPPORTED_CPUID says."""
    most = 256
    raw = bytearray(struct.pack("<II", most, 0) + bytes(most * CPUID_ENTRY.size))
    fcntl.ioctl(device, GET_SUPPORTED_CPUID, raw, True)
    (count,) = struct.unpack_from("<I", raw)
    rows = [CPUID_ENTRY.unpack_from(raw, 8 + n * CPUID_ENTRY.size) for n in range(count)]
    return {row[:2]: list(row[2:]) for row in rows}


def system_registers(case: Case, state: bytes) -> bytes:
    """struct kvm_sregs for a case: segments of its CPL, descriptor tables, control registers."""
    cpl, ctrl, mode = case["access"]["cpl"], case["ctrl"], case["mode"]
    long_mode = mode in ("4level", "5level")
    base = guest.harness_base(number(case["access"]["va"]))
    further = 0x10 | cpl if cpl else 0
    # base, limit, selector; type, present, DPL, D/B, S, L, G, AVL; unusable, padding
    code = (0, 0xFFFF_FFFF, guest.CODE_SELECTOR + further)
    code += (11, 1, cpl, not long_mode, 1, long_mode, 1, 0, 0, 0)
    data = (0, 0xFFFF_FFFF, guest.DATA_SELECTOR + further, 3, 1, cpl, 1, 1, 0, 1, 0, 0, 0)
    task = (base + guest.TSS, 0x67, guest.TSS_SELECTOR, 11, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    none = (*[0] * 11, 1, 0)
    segments = [code, data, data, data, data, data, task, none]
    cr4 = CR4_PAE * (mode != "32bit") | CR4_LA57 * (mode == "5level")
    cr4 |= CR4_PSE * ctrl.get("cr4_pse", 0)
    cr4 |= CR4_SMEP * ctrl["cr4_smep"] | CR4_SMAP * ctrl["cr4_smap"]
    efer = EFER_LONG * long_mode | EFER_NXE * ctrl["efer_nxe"]
    (apic_base,) = struct.unpack_from("<272xQ", state)
    out = b"".join(struct.pack("<QIH10B", *segment) for segment in segments)
    out += struct.pack("<QH6x", base + guest.GDT, 0x37)
    out += struct.pack("<QH6x", base + guest.IDT, 16 * guest.VECTORS - 1)
    control = [CR0 | CR0_WP * ctrl["cr0_wp"], 0, number(ctrl["cr3"]), cr4, 0, efer, apic_base]
    return out + struct.pack("<7Q32x", *control)


def run_to_port(vcpu: int, shared: mmap.mmap) -> int:
    """KVM_RUN until the guest writes to a port: which one.  Raises if it does anything else."""
    with deadline(SECONDS):
        fcntl.ioctl(vcpu, RUN, 0)
    (reason,) = struct.unpack_from("<8xI", shared)
    if reason != EXIT_IO:
        raise RuntimeError(f"KVM_RUN ended with exit reason {reason}, not with a port's number")
    (port,) = struct.unpack_from("<34xH", shared)
    return port


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread if the block takes longer."""

    def ring(*_: object) -> None:
        raise TimeoutError(errno.ETIMEDOUT, f"KVM_RUN took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.1)  # again, should one come between calls
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
