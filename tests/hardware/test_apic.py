"""Interrupts from one logical CPU to another, and whose records the stream holds."""

import pytest

from kvmlab.base.errors import MachineCheck
from kvmlab.hardware.apic import STARTUP, decode_command, end_of_interrupt, send_ipi
from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import ExitReason, Interrupt, IpiSent, OnCpu, VmExit
from kvmlab.hardware.turns import Turns
from kvmlab.hardware.vmcs import Vmcs

VECTOR = 0xFC


def two_cpus():
    records, ram = [], Ram(1 << 20)
    turns = Turns(records.append)
    cpus = [Cpu(ram, tap=turns.of(number), number=number) for number in range(2)]
    for cpu in cpus:
        cpu.peers = cpus
    return cpus, records


def test_an_ipi_runs_the_handler_of_its_target_at_cpl_0_and_only_there():
    (here, there), records = two_cpus()
    seen = []
    there.cpl = 3
    there.interrupt_handler = lambda vector: seen.append((vector, there.cpl))
    here.interrupt_handler = lambda vector: seen.append("the wrong CPU")
    send_ipi(here, 1, VECTOR)
    end_of_interrupt(there)
    assert seen == [(VECTOR, 0)]
    assert there.cpl == 3
    assert records == [IpiSent(1, VECTOR, 0), OnCpu(1), Interrupt(VECTOR)]


def test_an_interrupt_without_a_handler_stops_the_machine():
    (here, _), _ = two_cpus()
    with pytest.raises(MachineCheck, match="interrupt 0xfc on CPU 1: no handler"):
        send_ipi(here, 1, VECTOR)


@pytest.mark.parametrize("destination, mode", [(2, 0), (1, STARTUP)])
def test_nobody_and_a_cpu_that_runs_already_hear_nothing(destination, mode):
    (here, _), records = two_cpus()
    send_ipi(here, destination, VECTOR, mode)
    assert records == [IpiSent(destination, VECTOR, mode)]


def test_in_a_vm_both_register_writes_exit_and_say_what_was_written():
    (here, there), records = two_cpus()
    written = []
    vmcs = Vmcs(host_entry=lambda _: written.append((vmcs.instruction.register, command())))
    command = lambda: decode_command(vmcs.instruction.value)  # noqa: E731
    here.enter(vmcs)
    send_ipi(here, 1, VECTOR)
    end_of_interrupt(here)
    exits = [one.reason for one in records if isinstance(one, VmExit)]
    assert exits == [ExitReason.WRMSR, ExitReason.WRMSR]
    assert written == [("ICR", (1, VECTOR, 0)), ("EOI", (0, 0, 0))]
    assert there.interrupt_handler is None  # and was not asked for: only a hypervisor sends it on


def test_the_hypervisor_delivers_an_interrupt_behind_vm_entry():
    (here, _), records = two_cpus()
    vmcs = Vmcs(host_entry=lambda _: setattr(vmcs, "interrupt", VECTOR))
    here.enter(vmcs)
    here.interrupt_handler = lambda _: None
    here.exit(VmExit(ExitReason.EXTERNAL_INTERRUPT, 0, 0, 0))
    assert [type(one).__name__ for one in records] == ["VmExit", "VmEntry", "Interrupt"]
    assert vmcs.interrupt is None


def test_whoever_speaks_after_another_cpu_is_named_first():
    records = []
    turns = Turns(records.append)
    zero, one = turns.of(0), turns.of(1)
    for tap, word in ((zero, "a"), (one, "b"), (one, "c"), (zero, OnCpu(0)), (zero, "d")):
        tap(word)
    assert records == ["a", OnCpu(1), "b", "c", OnCpu(0), "d"]
