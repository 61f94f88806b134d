"""TLB shootdown: what one CPU changed in a process's tables, the others are told to forget.

An INVLPG or a load of CR3 concerns the CPU that executes it alone, so the kernel interrupts those
on which the process runs (mm_cpumask) and waits until each has flushed too.  A CPU that runs
something else finds out when it switches back.  Linux, arch/x86/mm/tlb.c: flush_tlb_mm_range(),
flush_tlb_func().
"""

from collections.abc import Callable, Sequence

from kvmlab.base.tap import Tap
from kvmlab.guest.contexts import Contexts
from kvmlab.guest.process import Process
from kvmlab.guest.records import TlbShootdown
from kvmlab.guest.smp import Smp
from kvmlab.hardware.apic import end_of_interrupt, send_ipi

CALL_FUNCTION_VECTOR = 0xFC  # arch/x86/include/asm/irq_vectors.h
_CEILING = 33  # pages: tlb_single_page_flush_ceiling


class Shootdown:
    """Flushes translations of processes wherever they may be cached.

    ``forgetful`` leaves the other CPUs out, as a kernel with that mistake would: for a lesson.
    """

    def __init__(self, smp: Smp, tap: Tap) -> None:
        self._smp, self._tap = smp, tap
        self.forgetful = False
        self._asked: Callable[[Contexts], None] = _nothing

    def flush_pages(self, process: Process, gvas: Sequence[int], shift: int) -> None:
        """Drop some pages of 2**shift bytes of ``process``, in order (flush_tlb_mm_range).

        One by one if the range that they span is short; else all of the process at once.
        """
        if gvas and gvas[-1] - gvas[0] >> shift >= _CEILING:
            self.flush(process)
            return

        def drop(contexts: Contexts) -> None:
            for gva in gvas:
                contexts.flush_page(process, gva)

        if gvas:
            self._everywhere(process, drop, len(gvas))

    def flush(self, process: Process) -> None:
        """Drop all of ``process`` that is not global (flush_tlb_mm)."""
        self._everywhere(process, lambda contexts: contexts.flush(process), 0)

    def _everywhere(self, process: Process, drop: Callable[[Contexts], None], pages: int) -> None:
        process.generation += 1
        here = self._smp.here
        drop(here)
        others = [
            one.cpu.number
            for one in self._smp.contexts
            if one.current is process and one is not here
        ]
        if not others or self.forgetful:
            return
        self._tap(TlbShootdown(process.name, tuple(others), pages))
        self._asked = drop
        for number in others:
            send_ipi(here.cpu, number, CALL_FUNCTION_VECTOR)

    def interrupt(self, _vector: int) -> None:
        """The handler of the interrupt, on each CPU that gets one."""
        here = self._smp.here
        with here.entered():
            end_of_interrupt(here.cpu)
            self._asked(here)


def _nothing(_contexts: Contexts) -> None:
    """Do what was asked before anything was."""
