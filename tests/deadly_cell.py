"""Cells that go wrong in ways that no cell does by itself; workers import them from here."""

import os
import signal
import time

from kvmlab.study.cells import run_task


def deadly(task):
    """Run ``task``; EPT on the tiny TLB kills its process, as the OOM killer would."""
    if (task.cell.mmu, task.cell.tlb) == ("ept", "tiny"):
        os.kill(os.getpid(), signal.SIGKILL)
    return run_task(task)


def sleepy(task):
    """Run ``task``; one of another TLB than the tiny one takes two minutes first."""
    if task.cell.tlb != "tiny":
        time.sleep(120)
    return run_task(task)
