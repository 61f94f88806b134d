"""virsh: libvirt's command line as text, to the character.

`virsh(connection, "dommemstat test")` returns what the program would print, to whom, and its
exit status.
"""

from dataclasses import dataclass

from kvmlab.management.connection import virConnect
from kvmlab.management.libvirt_errors import libvirtError
from kvmlab.management.virsh_commands import COMMANDS
from kvmlab.management.virsh_line import Refused, commands_of, parse


@dataclass(slots=True)
class Printed:
    """What a run of virsh leaves: standard output, standard error, exit status."""

    out: str
    err: str
    status: int


def virsh(connection: virConnect, line: str) -> Printed:
    """Run ``line``: one command, or several with ``;`` between them.  The status is the last's.

    A line with a command that cannot be read runs none of them.
    """
    try:
        commands = [parse(words, COMMANDS) for words in commands_of(line)]
    except Refused as refused:
        return Printed("", _errors(refused.lines), 1)
    printed = Printed("", "", 0)
    for command, options in commands:
        try:
            printed.out += command.run(connection, options)
            printed.status = 0
        except (Refused, libvirtError) as refused:
            printed.err += _errors(refused.lines if isinstance(refused, Refused) else (refused,))
            printed.status = 1
        printed.out += "\n"
    return printed


def _errors(lines: tuple[object, ...]) -> str:
    return "".join(f"error: {line}\n" for line in lines)
