"""A cell that kills the process which runs it, as the OOM killer would."""

import os
import signal

from kvmlab.study.cells import run_task


def deadly(task):
    """Run ``task``, unless it is EPT on the tiny TLB."""
    if (task.cell.mmu, task.cell.tlb) == ("ept", "tiny"):
        os.kill(os.getpid(), signal.SIGKILL)
    return run_task(task)
