"""A VM of 4 MiB for one access: random tables moved into it, and the code that makes the access.

`fitted(case)` moves a case of `tests.tables` here: each table of its walk gets a frame of its own
in the tables' area, its page a place in the pages' area; other bits of the entries stay.

The harness is the guest's program, mapped by one entry of the root (`harness_base`): GDT, IDT, TSS,
a stack, and one page of code for each CPL.  Its entries have A and D set from the start.

* A probe is one instruction that makes the access, and one that reads MAGIC, where nothing is
  mapped: the page fault there is the arrival.
* Each fault goes through the IDT to an OUT to the port of the vector's number: an exit.
* In the pages' area every 16 bytes hold code that loads their own address and then reads MAGIC.
  So what a read returns, where a fetch arrives and where a write's mark is found is the address.
"""

import functools
import struct

from tests.reference import from_case
from tests.reference_entries import MODES
from tests.tables import FRAME, PS, Case

# The VM's memory: the harness, tables, nothing, and pages to access.
TABLES, TABLES_END, PAGES, SIZE = 0x1_0000, 0x2_0000, 0x20_0000, 0x40_0000

# Pages of the harness: where they lie, and at these offsets from its base where they are mapped.
GDT, IDT, TSS, HANDLERS, STACK, KERNEL, USER, PDPT, PD, PT = (n * 0x1000 for n in range(1, 11))
STACK_TOP = STACK + 0x1000
ERROR_CODE = STACK_TOP - 48  # above it are SS, RSP, RFLAGS, CS and RIP
MAGIC = 0x10_0000
TABLE, KERNEL_PAGE, USER_PAGE = 0x67, 0x63, 0x67  # P, W, A, D; with U

MARK = 0x5A17_C0DE_600D_F00D  # what a write stores
READ_MAGIC = b"\x8a\x17"  # mov dl,[rdi]
PROBES = {"read": b"\x48\x8b\x03", "write": b"\x48\x89\x03", "fetch": b"\xff\xe3"}
OUT, MOV_EAX, VECTORS = 0xE6, 0xB8, 32

CODE, DATA = 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF  # descriptors for CPL 0
FOR_CPL_3 = 3 << 45
CODE_SELECTOR, DATA_SELECTOR, TSS_SELECTOR = 0x08, 0x10, 0x28  # those of CPL 3 are 0x10 further


# ----- the guest's program ------------------------------------------------------------------


def harness_base(va: int) -> int:
    """Where the harness is mapped: the last 512 GiB of the lower half that `va` is not in."""
    return (254 if va >> 39 & 511 == 255 else 255) << 39


def probe(base: int, kind: str, cpl: int) -> int:
    """The linear address of the instruction that makes an access of this kind."""
    return base + (USER if cpl == 3 else KERNEL) + 16 * list(PROBES).index(kind)


@functools.cache
def harness(base: int) -> bytes:
    """The memory of the harness, from 0 up to the tables' area."""
    memory = bytearray(TABLES)
    tss = base + TSS
    low = 0x89 << 40 | (tss & 0xFF_FFFF) << 16 | (tss >> 24 & 0xFF) << 56 | 0x67
    descriptors = [0, CODE, DATA, CODE | FOR_CPL_3, DATA | FOR_CPL_3, low, tss >> 32]
    struct.pack_into("<7Q", memory, GDT, *descriptors)
    struct.pack_into("<Q", memory, TSS + 4, base + STACK_TOP)
    for vector in range(VECTORS):
        handler = base + HANDLERS + 16 * vector
        struct.pack_into("<BB", memory, HANDLERS + 16 * vector, OUT, vector)
        gate = handler & 0xFFFF, CODE_SELECTOR, 0x8E00, handler >> 16 & 0xFFFF, handler >> 32
        struct.pack_into("<HHHHI", memory, IDT + 16 * vector, *gate)
    for page in (KERNEL, USER):
        for at, code in enumerate(PROBES.values()):
            struct.pack_into("<8s", memory, page + 16 * at, code + READ_MAGIC)
    struct.pack_into("<Q", memory, PDPT, PD | TABLE)
    struct.pack_into("<Q", memory, PD, PT | TABLE)
    for page in range(0, TABLES, 0x1000):
        entry = page | (USER_PAGE if page == USER else KERNEL_PAGE)
        struct.pack_into("<Q", memory, PT + page // 0x1000 * 8, entry)
    return bytes(memory)


@functools.cache
def landings() -> bytes:
    """The memory of the pages' area: mov eax,<here>; mov dl,[rdi]; and nothing up to 16 bytes."""
    here = range(PAGES, SIZE, 16)
    return b"".join(struct.pack("<BI2s9x", MOV_EAX, place, READ_MAGIC) for place in here)


# ----- the tables under test ----------------------------------------------------------------


def fitted(case: Case) -> Case:
    """The case with the tables of its walk, and those alone, in this VM.

    The address is moved too: to a multiple of 16, and at CPL 3 to the lower half, which is all
    that a KVM without hardware virtualization lets such a guest use.  A root of four levels gets
    the entry of the harness.
    """
    controls, memory, access, _ = from_case(case)
    levels, width, size, _ = MODES[controls.mode]
    old, new = access.va, access.va & ~0xF
    if access.cpl == 3 and old >> 47 == 0x1FFFF:
        new &= (1 << 47) - 1
    base = controls.cr3 & (0xFFFF_FFE0 if controls.mode == "pae" else FRAME)
    base &= (1 << controls.maxphyaddr) - 1
    root = place = TABLES
    words: dict[int, int] = {}
    for level in range(levels, 0, -1):
        shift, count = 12 + width * (level - 1), 1 << width
        entry = memory.load(base + (old >> shift) % count * size, size)
        large = level == 2 and entry & PS and (size == 8 or controls.cr4_pse)
        leaf = level == 1 or bool(large)
        base = entry & FRAME
        slot = place + (new >> shift) % count * size
        place += 0x1000
        words[slot] = moved(entry, place, controls.maxphyaddr, leaf=leaf, size=size)
        if leaf or not entry & 1:
            break
    if controls.mode == "4level":
        words[root + (harness_base(new) >> 39) * 8] = PDPT | TABLE
    lines = [{"addr": hex(a), "size": size, "value": hex(word)} for a, word in words.items()]
    ctrl = case["ctrl"] | {"cr3": hex(root | controls.cr3 & 0x18)}
    return case | {"mem": lines, "access": case["access"] | {"va": hex(new)}, "ctrl": ctrl}


def moved(entry: int, table: int, maxphyaddr: int, *, leaf: bool, size: int) -> int:
    """The entry, pointing to `table` or into the pages' area; bits beyond MAXPHYADDR stay."""
    if size == 4:
        return entry if leaf else entry & 0xFFF | table
    place = PAGES | entry & 0x1F_F000 if leaf else table
    return entry & ~FRAME | (entry & FRAME) >> maxphyaddr << maxphyaddr | place
