"""The same question as `batch_walk`, answered one access after the other by the scalar walker."""

import numpy as np
from numpy.typing import NDArray

from kvmlab.hardware.batch_pages import Ints
from kvmlab.hardware.batch_plan import meaning
from kvmlab.hardware.batch_tree import References
from kvmlab.hardware.cpu import Cpu, Outcome
from kvmlab.hardware.records import Step
from kvmlab.hardware.tlb import Geometry

NO_TLB = Geometry("none", data=(), fetch=(), second=())


def translate_singly(
    cpu: Cpu, gva: Ints, acc: NDArray[np.uint8]
) -> tuple[Ints, References, dict[int, Outcome]]:
    """Where each access goes (-1: it was stopped), entries read, and why some were stopped."""
    references, stopped = References(), dict[int, Outcome]()
    hpa = np.full(len(gva), -1, np.int64)

    def count(record: object) -> None:
        if isinstance(record, Step):
            references[record.table, record.level] += 1

    alone = Cpu(cpu.ram, cpu.processor, NO_TLB, count)
    alone.vmcs, alone.context = cpu.vmcs, cpu.context
    if alone.vmcs is None:
        alone.start(cpu.controls)
    for number, (address, kind) in enumerate(zip(gva.tolist(), acc.tolist(), strict=True)):
        what, user = meaning(kind)
        alone.cpl = 3 if user else 0
        outcome = alone.attempt(address & (1 << 64) - 1, what)
        if isinstance(outcome, int):
            hpa[number] = outcome
        else:
            stopped[number] = outcome
    return hpa, references, stopped
