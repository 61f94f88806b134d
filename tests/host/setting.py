"""A host for tests: its records, its vmstat, and pages of its processes with known contents."""

from kvmlab.hardware.ram import Ram
from kvmlab.host.kernel import Host
from kvmlab.linux.frames import Role
from kvmlab.linux.lru import Lru
from kvmlab.linux.vmstat import VmStat

MIB = 1 << 20
HUGE = 2 * MIB


class Setting:
    """A host of ``mib`` MiB with ``swap`` MiB of swap."""

    def __init__(self, mib=16, swap=0, min_free_kbytes=256):
        self.stat, self.records = VmStat(), []
        self.host = Host(Ram(mib * MIB), self.tap, swap=swap * MIB, min_free_kbytes=min_free_kbytes)

    def tap(self, record):
        self.stat(record)
        self.records.append(record)

    def process(self, mib, name="qemu", shift=12):
        """A process with one area of ``mib`` MiB; the process and the area's HVA."""
        space = self.host.process(name)
        return space, space.mmap(mib * MIB, shift)

    def write(self, space, hva, value):
        """Write a word, as a vCPU or QEMU does after the fault."""
        self.host.ram.store(space.fault_in(hva).address, value)

    def read(self, space, hva):
        return self.host.ram.load(space.fault_in(hva, write=False).address)

    def count(self, kind):
        return sum(isinstance(one, kind) for one in self.records)

    def check(self):
        """Frames are free or in exactly one role, and each role is what the tables say."""
        host, frames = self.host, self.host.memory.frames
        counts = frames.counts()
        assert sum(counts.values()) + host.buddy.free_frames == host.buddy.total
        anon, tables, swapped, mapped = set(), 0, {}, {}
        for space in host.processes:
            tables += space.table_pages
            rss = entries = 0
            for leaf in space.table.between(0, 1 << 47):
                if not leaf.present:
                    entries += 1
                    swapped[leaf.slot] = swapped.get(leaf.slot, 0) + 1
                elif frames.role[leaf.pfn] != Role.HUGETLB:
                    rss += 1 << leaf.shift - 12
                    mapped[leaf.pfn] = mapped.get(leaf.pfn, 0) + 1
                    anon |= set(range(leaf.pfn, leaf.pfn + (1 << leaf.shift - 12)))
            assert (space.rss, space.swap_entries) == (rss, entries)
        assert counts[Role.TABLE] == tables
        waiting = sum(512 - host.huge.mapped_pieces(head) for head in host.huge._deferred)
        assert counts[Role.ANON] + counts[Role.KSM] == len(anon) + waiting
        assert swapped == host.memory.swap.used_slots()
        shared = {pfn: len(node.mappers) for pfn, node in host.ksm._nodes.items()}
        assert shared == {pfn: count for pfn, count in mapped.items() if pfn in shared}
        assert {pfn for pfn, count in mapped.items() if count > 1} <= set(shared)
        assert set(frames.with_role(Role.KSM).tolist()) == set(shared)
        for lru in Lru:
            pages = host.memory.lists.pages(lru)
            assert host.memory.lists.size[lru] == int(frames.sizes(pages).sum())
