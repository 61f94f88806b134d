"""Leaves of the direct map that go table by table: just what goes when each is zapped alone."""

from hypothesis import given
from hypothesis import strategies as st

from kvmlab.base.tap import silent
from kvmlab.hardware.ram import Ram
from kvmlab.host.kernel import Host
from kvmlab.kvm.ept_entries import EPT, EPT_WITHOUT_AD, NPT
from kvmlab.kvm.ept_tree import EptTree
from kvmlab.kvm.vm import Vm

PAGES = 4 << 9  # four tables of small pages
STEPS = st.tuples(
    st.sampled_from(("small", "aged", "mmio", "large")),
    st.integers(0, PAGES - 1),
    st.integers(1, 600),
)


def tree_of(bits, steps, tap):
    """A tree in which runs of small pages, aged ones, MMIO and large ones replace each other."""
    host = Host(Ram(16 << 20), silent)
    vm = Vm(host, host.process(), tap)
    tree = EptTree(vm, bits, 4, legacy=False)
    for kind, first, count in steps:
        level = 2 if kind == "large" else 1
        for page in range(first, min(first + count, PAGES), 512 if level == 2 else 1):
            entry = tree.reach(page << 12, level)
            spte = bits.make(entry.gpa, large=level == 2, write=page % 3 > 0, execute=True)
            if kind == "mmio":
                vm.ram.store(entry.hpa, bits.mmio | page << 12)
            else:
                tree.set(entry, bits.aged(spte) if kind == "aged" else spte)
    tree.stale = False
    return tree, vm


@given(
    st.sampled_from((EPT, EPT_WITHOUT_AD, NPT)),
    st.lists(STEPS, max_size=6),
    st.integers(0, PAGES - 1),
    st.integers(1, PAGES),
)
def test_zapping_a_range_is_zapping_its_leaves_one_by_one(bits, steps, first, count):
    gpas = range(first << 12, min(first + count, PAGES) << 12)
    records, expected = [], []
    tree, vm = tree_of(bits, steps, records.append)
    quiet, quiet_vm = tree_of(bits, steps, silent)
    alone, alone_vm = tree_of(bits, steps, expected.append)
    tree.zap_leaves(gpas)
    quiet.zap_leaves(gpas)
    for gpa in gpas[::4096]:
        entry = alone.find(gpa)
        if bits.live(entry.spte):
            alone.zap(entry)
    assert vm.ram.image() == quiet_vm.ram.image() == alone_vm.ram.image()
    assert records == expected
    assert tree.stale == quiet.stale == alone.stale
