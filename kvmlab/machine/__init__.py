"""The composition root: the only room that knows every party."""

from kvmlab.machine.designs import DESIGNS, MMUS, MOST_VCPUS
from kvmlab.machine.libvirtd import connect, machine_of
from kvmlab.machine.machine import Chain, Machine
from kvmlab.machine.server import Server

__all__ = ["DESIGNS", "MMUS", "MOST_VCPUS", "Chain", "Machine", "Server", "connect", "machine_of"]
