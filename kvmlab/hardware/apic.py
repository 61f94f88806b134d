"""Interrupts from one logical CPU to another: the local APIC in x2APIC mode, physical destinations.

Each is a WRMSR to the interrupt command register (MSR 830H), and the handler ends with one to the
EOI register (80BH).  SDM, "Extended XAPIC (x2APIC)".  In a VM without virtual-interrupt delivery
(APICv) both exit: KVM sends the interrupt on, and injects it when the target enters its guest.
"""

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.records import ExitReason, IpiSent, Kind, VmExit
from kvmlab.hardware.vmcs import Instruction

FIXED, STARTUP = 0, 6  # delivery modes: an interrupt; SIPI, which makes a waiting CPU run


def send_ipi(cpu: Cpu, destination: int, vector: int, mode: int = FIXED) -> None:
    """Interrupt the CPU whose APIC ID is ``destination``; one that does not exist hears nothing."""
    cpu.tap(IpiSent(destination, vector, mode))
    if cpu.vmcs:
        _exit(cpu, "ICR", destination << 32 | mode << 8 | vector)
        return
    for target in cpu.peers:
        if target.number == destination and mode == FIXED:
            target.interrupt(vector)


def end_of_interrupt(cpu: Cpu) -> None:
    """The handler has taken up its interrupt: the APIC may deliver the next."""
    if cpu.vmcs:
        _exit(cpu, "EOI", 0)


def decode_command(value: int) -> tuple[int, int, int]:
    """Destination, vector and delivery mode of a value written to the ICR."""
    return value >> 32, value & 0xFF, value >> 8 & 7


def _exit(cpu: Cpu, register: str, value: int) -> None:
    instruction = Instruction(Kind.READ, 0, 8, register=register, value=value)
    cpu.exit(VmExit(ExitReason.WRMSR, 0, 0, 0), instruction)
