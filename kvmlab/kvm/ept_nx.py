"""Large pages that must not be executable: the mitigation of iTLB multihit (CVE-2018-12207).

A fetch from a large page splits it; a worker later gives such tables up, oldest first.  Linux,
arch/x86/kvm/mmu/mmu.c: disallowed_hugepage_adjust(), kvm_recover_nx_huge_pages().
"""

from kvmlab.hardware.ram import PAGE_SHIFT
from kvmlab.kvm.ept_entries import ADDRESS
from kvmlab.kvm.ept_tree import EptTree
from kvmlab.kvm.records import NxRecovered, NxSplit
from kvmlab.kvm.vm import Vm

RECOVERY_RATIO = 60  # nx_huge_pages_recovery_ratio: one in 60 each period


class NxPages:
    """The tables of ``tree`` that exist only because a large page may not be executable."""

    def __init__(self, vm: Vm, tree: EptTree) -> None:
        self._vm, self._tree = vm, tree
        self._tables: dict[int, int] = {}  # frame -> first GPA, oldest first
        tree.on_free.append(self._gone)

    def track(self, gpa: int, level: int) -> None:
        """The tables below an entry at ``level`` on the way to ``gpa`` were made for a fetch."""
        for one in range(level, 1, -1):
            entry = self._tree.reach(gpa, one)
            self._tables[entry.spte & ADDRESS] = entry.gpa
            self._vm.tap(NxSplit(entry.gpa >> PAGE_SHIFT))

    def recover(self) -> int:
        """What the worker does in one period; returns how many tables it gave up."""
        count = -(-len(self._tables) // RECOVERY_RATIO)
        for table, gpa in list(self._tables.items())[:count]:
            for entry in list(self._tree.entries(range(gpa, gpa + 1))):
                if not entry.leaf and entry.spte & ADDRESS == table:
                    self._tree.zap(entry)
        if count:
            self._tree.stale = False
            self._vm.flushes.request("NX recovery")
            self._vm.go_on()
        return count

    def _gone(self, table: int) -> None:
        gpa = self._tables.pop(table, None)
        if gpa is not None:
            self._vm.tap(NxRecovered(gpa >> PAGE_SHIFT))
