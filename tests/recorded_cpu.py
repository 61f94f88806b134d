"""A CPU over empty memory that lists what it emits and the #GPs it raises."""

from kvmlab.hardware.cpu import Cpu
from kvmlab.hardware.processor import CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, Controls
from kvmlab.hardware.ram import Ram
from kvmlab.hardware.records import Step

ON, LONG = CR0_PE | CR0_PG, EFER_LME | EFER_LMA
ROOT = 0x1000


class Recorded(Cpu):
    """The CPU, begun with these controls."""

    def __init__(self, ram_size=1 << 30, *, processor=None, **controls):
        self.records, self.faults = [], []
        super().__init__(Ram(ram_size), processor, tap=self.records.append)
        self.protection_fault_handler = self.faults.append
        self.start(Controls(**controls))

    def steps(self):
        return [one for one in self.records if isinstance(one, Step)]


def long_mode(**more):
    return {"cr0": ON, "cr3": ROOT, "cr4": CR4_PAE, "efer": LONG} | more


def pae(**more):
    return {"cr0": ON, "cr3": ROOT, "cr4": CR4_PAE} | more
