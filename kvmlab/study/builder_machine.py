"""The machine on which a learner builds tables, with the switches that rights depend on."""

from collections.abc import Sequence
from types import MappingProxyType

from kvmlab.base.errors import BadAddress, BadChoice
from kvmlab.base.tap import Tap
from kvmlab.hardware import instructions
from kvmlab.hardware.processor import CR0_WP, CR4_PKE, CR4_SMAP, CR4_SMEP
from kvmlab.machine import Machine
from kvmlab.study.access import page_sizes

HOST = MappingProxyType({"64M": "256M", "2G": "8G"})
"""How much memory the guest may have, and what its host then has."""

DESIGNS = ("native", "shadow", "ept")
SWITCHES = ("wp", "smep", "smap", "ac", "pke")
"""CR0.WP, CR4.SMEP, CR4.SMAP, EFLAGS.AC and CR4.PKE."""

_CR4 = MappingProxyType({"smep": CR4_SMEP, "smap": CR4_SMAP, "pke": CR4_PKE})
_WIDE = 4  # levels from which on a guest is a 64-bit one


def learner_machine(mmu: str, levels: int, memory: str, tap: Tap) -> Machine:
    """A machine of one of `DESIGNS`; raises `BadChoice`."""
    if mmu not in DESIGNS or memory not in HOST:
        raise BadChoice(f"choose one of {', '.join(DESIGNS)} with {' or '.join(HOST)}")
    if levels < _WIDE and memory != "64M":
        raise BadChoice("a guest of 2 or 3 levels has 64M here: its direct map is no larger")
    host = HOST[memory]
    return Machine(mmu, guest_memory=memory, host_memory=host, guest_levels=levels, tap=tap)


def switch_on(machine: Machine, switches: Sequence[str], pkru: int) -> None:
    """Set the control registers by the guest's own instructions; raises `BadChoice`."""
    odd = [one for one in switches if one not in SWITCHES]
    if odd:
        raise BadChoice(f"nothing is called {odd[0]!r:.40}; there are {', '.join(SWITCHES)}")
    if "pke" in switches and not machine.guest.tables.format.long_mode:
        raise BadChoice("protection keys need 4 or 5 levels")
    if "pke" in switches and machine.mmu == "shadow":
        raise BadChoice("KVM shows no protection keys to a guest whose tables it shadows")
    if pkru >> 32:
        raise BadAddress(f"PKRU {pkru:#x} does not fit in 32 bits")
    cpu = machine.cpu
    if "wp" not in switches:
        instructions.mov_cr0(cpu, cpu.registers.cr0 & ~CR0_WP)
    if more := sum(bit for name, bit in _CR4.items() if name in switches):
        instructions.mov_cr4(cpu, cpu.registers.cr4 | more)
    for one in (cpu.controls, cpu.registers):  # WRPKRU and STAC never exit
        one.pkru, one.ac = pkru, "ac" in switches


def usual_deeds(levels: int) -> list[list[object]]:
    """What a lab begins with: code, data, a large page, a stack, and a write to the code."""
    stack = "0x7fffffffe000" if levels >= _WIDE else "0xbfffe000"
    return [
        ["map", "0x400000", 2, "4K", "", "ux"],
        ["map", "0x402000", 2, "4K", "", "wu"],
        ["map", "0x800000", 1, page_sizes(levels)[1], "", "wu"],
        ["map", stack, 2, "4K", "", "wu"],
        ["access", "0x400010", "write", True, True],
    ]
