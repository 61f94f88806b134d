"""HLT, IN and OUT: instructions that matter here because they leave the guest.

SDM, "Exit Qualification for I/O Instructions"; on the metal there is no device at any port, and
no interrupt to wait for.
"""

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.records import ExitReason, Kind, VmExit
from kvmlab.hardware.vmcs import Instruction

_IN, _PORT_SHIFT = 1 << 3, 16


def hlt(cpu: Cpu) -> None:
    """Wait for an interrupt.  Exits with HLT exiting."""
    if cpu.vmcs and cpu.vmcs.hlt_exiting:
        cpu.exit(VmExit(ExitReason.HLT, 0, 0, 0), Instruction(Kind.READ, 0, 0))


def port_out(cpu: Cpu, port: int, value: int, size: int = 4) -> None:
    """OUT: the low ``size`` (1, 2 or 4) bytes of ``value`` to a port.

    Exits with unconditional I/O exiting.
    """
    value &= (1 << 8 * size) - 1
    if cpu.vmcs and cpu.vmcs.io_exiting:
        instruction = Instruction(Kind.WRITE, 0, size, register="OUT", value=value)
        cpu.exit(VmExit(ExitReason.IO, port << _PORT_SHIFT | size - 1, 0, 0), instruction)


def port_in(cpu: Cpu, port: int, size: int = 4) -> int:
    """IN: what a port answers; all ones where nobody does."""
    if cpu.vmcs and cpu.vmcs.io_exiting:
        instruction = Instruction(Kind.READ, 0, size, register="IN")
        cpu.exit(VmExit(ExitReason.IO, port << _PORT_SHIFT | _IN | size - 1, 0, 0), instruction)
        return int.from_bytes(cpu.vmcs.loaded, "little")
    return (1 << 8 * size) - 1


def port_access(qualification: int) -> tuple[int, int, bool]:
    """(port, size in bytes, whether it is IN) of an I/O exit."""
    return qualification >> _PORT_SHIFT, (qualification & 7) + 1, bool(qualification & _IN)
