"""What must hold of a machine between any two operations, read from the bytes in its RAM.

Nothing here asks the engine to translate: trees are read entry by entry, so that a walker or a
reverse map that errs cannot hide its own mistake.
"""

from typing import NamedTuple

import numpy as np

FRAME = 0x000F_FFFF_FFFF_F000
PRESENT, WRITE, USER, DIRTY, PS = 1, 1 << 1, 1 << 2, 1 << 6, 1 << 7
TRAP = 0xFFFF_FFFF_FFFF_F001  # a shadow entry of the bypass policy that is there only to fault


class Leaf(NamedTuple):
    """What one leaf of a tree says, with the rights of all entries above it."""

    address: int  # that it translates, the first byte
    shift: int
    target: int
    write: bool
    user: bool
    entry: int


def tree(ram, root, levels, present=PRESENT, locate=lambda address: address):
    """All tables (where they are in RAM) and all leaves of a tree of 8-byte entries."""
    tables, leaves = [], []
    todo = [(root, levels, 0, True, True)]
    while todo:
        table, level, base, write, user = todo.pop()
        hpa = locate(table)
        tables.append(hpa)
        words = ram.frame(hpa >> 12).view(np.uint64)
        shift = 12 + 9 * (level - 1)
        for index in np.flatnonzero(words).tolist():
            entry = int(words[index])
            if not entry & present or entry == TRAP or notes_mmio(entry, present):
                continue
            address = base | index << shift
            may_write, may_user = write and bool(entry & WRITE), user and bool(entry & USER)
            if level == 1 or entry & PS:
                target = entry & FRAME & -(1 << shift)
                leaves.append(Leaf(address, shift, target, may_write, may_user, entry))
            else:
                todo.append((entry & FRAME, level - 1, address, may_write, may_user))
    return tables, leaves


def notes_mmio(entry, present):
    """Whether an entry is there only to be refused: 110b in EPT, else bit 51 (KVM's MMIO sptes)."""
    return entry & 7 == 6 if present == 7 else bool(entry >> 51 & 1)


class Picture:
    """A machine's trees at one moment; ``check`` compares them."""

    def __init__(self, machine):
        self.machine, self.ram = machine, machine.ram
        self.kind = machine.mmu
        self.host_leaves, self.host_tables = {}, []
        if machine.vm:
            tables, leaves = tree(self.ram, machine.qemu.process.root, 4)
            self.host_tables = tables
            self.host_leaves = {one.address: one for one in leaves}
        self.guest = self._guest_leaves()

    def hpa(self, gpa):
        """Where a guest-physical address is by the host's tables; None if it is not backed."""
        if not self.machine.vm:
            return gpa
        slot = self.machine.vm.slots.find(gpa)
        hva = slot.hva_of(gpa) if slot else -1
        for shift in (12, 21, 30):
            found = self.host_leaves.get(hva & -(1 << shift))
            if found and found.shift == shift:
                return found.target | hva & (1 << shift) - 1
        return None

    def _guest_leaves(self):
        """The guest's own leaves under the root that CR3 has now, by address."""
        shadow = self.kind == "shadow"
        cr3 = self.machine.vcpu.guest.cr3 if shadow else self.machine.cpu.context.root
        levels = self.machine.guest.tables.format.levels
        _, leaves = tree(self.ram, cr3 & FRAME, levels, locate=self.hpa)
        return {one.address: one for one in leaves}

    def guest_leaf(self, gva):
        for shift in (12, 21, 30):
            found = self.guest.get(gva & -(1 << shift))
            if found and found.shift == shift:
                return found
        return None

    # -- what must hold -----------------------------------------------------------------

    def check(self):
        self.cached_translations_are_true()
        if self.machine.vm:
            self.host_frames_have_one_role()
            self.ept_leaves_are_true()
            self.shadow_leaves_point_where_the_host_says()
            if self.kind == "shadow":
                self.reachable_shadow_leaves_are_what_the_guest_says()

    def host_frames_have_one_role(self):
        """Frames are free, back the guest, or hold a table; none twice, none lost."""
        backing = set()
        for one in self.host_leaves.values():
            first = one.target >> 12
            backing.update(range(first, first + (1 << one.shift - 12)))
        slots = {}  # two slots may show the same HVAs
        for slot in self.machine.vm.slots:
            slots.update(dict.fromkeys(range(slot.hva, slot.hva + slot.size, 4096)))
        assert len(backing) <= len(slots)
        assert set(self.host_leaves) <= set(slots)
        host = {one >> 12 for one in self.host_tables}
        mmu = {one >> 12 for one in self.mmu_tables()}
        assert len(mmu) == self.machine.vcpu.mmu.table_frames
        assert not host & backing
        assert not mmu & (host | backing)
        buddy = self.machine.host.buddy
        assert buddy.free_frames + len(host) + len(mmu) + len(backing) == buddy.total

    def mmu_tables(self):
        return [*self.ept()[0], *(page.hpa for page in self.shadow_pages())]

    def ept(self):
        """The tables and leaves of EPT; none of either where there is no EPT."""
        ept = self.machine.cpu.context.ept
        return tree(self.ram, ept.root, 4, present=7) if ept else ([], [])

    def shadow_pages(self):
        """All of them, reachable now or not; none where there is no shadow."""
        pages = getattr(self.machine.vcpu.mmu, "pages", None)
        return pages.oldest_first() if pages else []

    def ept_leaves_are_true(self):
        for one in self.ept()[1]:
            assert self.hpa(one.address) == one.target, f"EPT leaf for GPA {one.address:#x}"

    def shadow_leaves_point_where_the_host_says(self):
        for page in self.shadow_pages():
            words = self.ram.frame(page.hpa >> 12).view(np.uint64)
            for index in np.flatnonzero(words).tolist():
                spte = int(words[index])
                if spte & PRESENT and spte != TRAP and (page.role.level == 1 or spte & PS):
                    gpa = page.maps[index] << 12
                    assert self.hpa(gpa) == spte & FRAME, f"shadow leaf for GPA {gpa:#x}"

    def reachable_shadow_leaves_are_what_the_guest_says(self):
        """The hardware may find less than the guest's tables allow, never more or other."""
        context = self.machine.cpu.context
        levels = self.machine.guest.tables.format.levels
        for one in tree(self.ram, context.root, levels)[1]:
            self.allowed(one.address, one.target, one.write, one.user)

    def cached_translations_are_true(self):
        """TLB entries that the running context can use."""
        cpu = self.machine.cpu
        backing = {one.target >> 12 for one in self.host_leaves.values() if one.shift == 12}
        large = {one.target >> 21 for one in self.host_leaves.values() if one.shift > 12}
        for entry in cpu.tlb.entries():
            if self.machine.vm:
                assert entry.page >> 12 in backing or entry.page >> 21 in large
            if entry.tag in cpu.context.tags:
                gva = entry.vpn << entry.shift & (1 << cpu.context.width) - 1
                self.allowed(
                    gva, entry.page, bool(entry.rights & 2 and entry.allows & 2), entry.rights & 8
                )

    def allowed(self, gva, hpa, write, user):
        guest = self.guest_leaf(gva)
        assert guest, f"{gva:#x} is not mapped by the guest"
        gpa = guest.target | gva & (1 << guest.shift) - 1
        assert self.hpa(gpa) == hpa, f"{gva:#x} is GPA {gpa:#x}, which is elsewhere"
        assert guest.write or not write, f"{gva:#x} is read-only to the guest"
        assert guest.entry & DIRTY or not write, f"{gva:#x} is clean to the guest"
        assert guest.user or not user, f"{gva:#x} is the guest kernel's"


def check(machine):
    """Every invariant of the machine as it is now."""
    Picture(machine).check()
