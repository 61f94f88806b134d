"""What one CPU changes in a process's tables, the others on which it runs must forget."""

import pytest

from kvmlab.base.errors import BadChoice, SegmentationFault
from kvmlab.guest.records import TlbShootdown
from kvmlab.hardware.records import Data, Interrupt, IpiSent, TlbFlush
from tests.two_cpus import AREA, DESIGNS, TwoCpus, check_tlbs

PAGE = 4096


def of(guest, kind):
    return [one for one in guest.records if isinstance(one, kind)]


@pytest.mark.parametrize("mmu, policy", DESIGNS)
def test_after_munmap_on_one_cpu_the_other_one_faults(mmu, policy):
    two = TwoCpus(mmu, policy)
    two.store(0, 7)
    assert two.load(1) == 7
    two.process.munmap(AREA)
    assert of(two, TlbShootdown) == [TlbShootdown("demo", (1,), 1)]
    with pytest.raises(SegmentationFault, match="SIGSEGV"):
        two.load(1)
    with pytest.raises(SegmentationFault, match="SIGSEGV"):
        two.load(0)


@pytest.mark.parametrize("mmu, policy", DESIGNS)
def test_after_mprotect_on_one_cpu_the_other_one_cannot_write(mmu, policy):
    two = TwoCpus(mmu, policy)
    two.store(1, 7)
    two.process.mprotect(AREA, write=False)
    with pytest.raises(SegmentationFault):
        two.store(1, 8)
    assert (two.load(0), two.load(1)) == (7, 7)


@pytest.mark.parametrize("mmu, policy", DESIGNS)
def test_a_page_copied_on_write_is_the_new_one_on_both_cpus(mmu, policy):
    two = TwoCpus(mmu, policy)
    two.store(0, 7)
    two.load(1)
    child = two.guest.fork("child")
    assert two.load(1) == 7
    two.store(0, 8)
    assert (two.load(0), two.load(1)) == (8, 8)
    two.run(1, two.guest.switch, child)
    assert (two.load(0), two.load(1)) == (8, 7)
    check_tlbs(two.machine)


@pytest.mark.parametrize("mmu, policy", DESIGNS)
def test_two_processes_on_two_cpus_disturb_each_other_in_nothing(mmu, policy):
    two = TwoCpus(mmu, policy)
    other = two.guest.spawn("other")
    other.mmap(AREA, "1M")
    two.run(1, two.guest.switch, other)
    for page in range(8):
        two.store(0, page, AREA + page * PAGE)
        two.store(1, 100 + page, AREA + page * PAGE)
    two.process.mprotect(AREA, write=False)
    with two.guest.on(1):
        other.mprotect(AREA, write=False)
    assert not of(two, TlbShootdown)  # each runs on one CPU
    assert [two.load(0, AREA + page * PAGE) for page in range(8)] == list(range(8))
    assert [two.load(1, AREA + page * PAGE) for page in range(8)] == list(range(100, 108))
    two.process.munmap(AREA)
    assert two.load(1) == 100


@pytest.mark.parametrize("mmu, policy", DESIGNS)
def test_a_forgotten_shootdown_shows_where_nothing_else_flushes(mmu, policy):
    """KVM's shadow MMU drops the entry for all virtual CPUs, and so hides the mistake."""
    two = TwoCpus(mmu, policy)
    two.store(0, 7)
    two.load(1)
    two.guest.shootdown.forgetful = True
    two.process.munmap(AREA)
    assert not of(two, TlbShootdown)
    with pytest.raises(SegmentationFault):
        two.load(0)
    if mmu == "shadow":
        with pytest.raises(SegmentationFault):
            two.load(1)
    else:
        assert two.load(1) == 0  # the frame is another's by now, and was cleared
        with pytest.raises(AssertionError):
            check_tlbs(two.machine)


def test_one_interrupt_flushes_all_pages_of_a_munmap_and_frames_go_after_it():
    two = TwoCpus("native")
    for page in range(5):
        two.store(0, 1, AREA + page * PAGE)
    del two.records[:]
    two.process.munmap(AREA)
    assert of(two, TlbShootdown) == [TlbShootdown("demo", (1,), 5)]
    assert of(two, IpiSent) == [IpiSent(1, 0xFC, 0)]
    (interrupted,) = [n for n, one in enumerate(two.records) if isinstance(one, Interrupt)]
    cleared = [n for n, one in enumerate(two.records) if isinstance(one, Data) and one.size == PAGE]
    assert len(cleared) == 5
    assert interrupted < cleared[0]


@pytest.mark.parametrize("pages, dropped", [(33, "INVLPG"), (34, "MOV CR3")])
@pytest.mark.parametrize("change", ["munmap", "mprotect"])
def test_more_than_33_pages_are_flushed_by_a_load_of_cr3_on_both_cpus(change, pages, dropped):
    """tlb_single_page_flush_ceiling: longer ranges are not worth an INVLPG for each page."""
    two = TwoCpus("native")
    for page in (0, 5, pages - 1):
        two.store(0, 1, AREA + page * PAGE)
        two.load(1, AREA + page * PAGE)
    del two.records[:]
    if change == "munmap":
        two.process.munmap(AREA)
    else:
        two.process.mprotect(AREA, write=False)
    assert [one.why for one in of(two, TlbFlush)] == [dropped] * (6 if dropped == "INVLPG" else 2)
    assert of(two, TlbShootdown) == [TlbShootdown("demo", (1,), 3 if dropped == "INVLPG" else 0)]
    check_tlbs(two.machine)


def test_a_cpu_that_runs_something_else_is_left_alone_and_flushes_when_it_switches_back():
    two = TwoCpus("native", pcid=True)
    two.store(0, 7)
    two.load(1)
    other = two.guest.spawn("other")
    two.run(1, two.guest.switch, other)
    two.process.munmap(AREA)
    assert not of(two, TlbShootdown)
    two.run(1, two.guest.switch, two.process)
    with pytest.raises(SegmentationFault):
        two.load(1)


@pytest.mark.parametrize("options", [{"kpti": True}, {"pcid": True}, {"kpti": True, "pcid": True}])
@pytest.mark.parametrize("mmu, policy", [DESIGNS[0], DESIGNS[1], DESIGNS[-1]])
def test_both_sides_of_an_isolated_kernel_are_flushed_on_the_other_cpu(mmu, policy, options):
    two = TwoCpus(mmu, policy, **options)
    two.store(0, 7)
    two.load(1)
    two.process.munmap(AREA)
    with pytest.raises(SegmentationFault):
        two.load(1)
    two.process.mmap(AREA, "64K")
    assert (two.load(1), two.load(0)) == (0, 0)
    check_tlbs(two.machine)


@pytest.mark.parametrize("mmu, policy", DESIGNS)
def test_exit_and_exec_end_the_threads_on_other_cpus(mmu, policy):
    two = TwoCpus(mmu, policy)
    two.store(1, 7)
    two.guest.exec("new")
    assert two.guest.current is two.process
    with two.guest.on(1):
        assert two.guest.current is None
    two.process.mmap(AREA, "64K")
    two.run(1, two.guest.switch, two.process)
    assert two.load(1) == 0
    two.guest.exit(two.process)
    for cpu in range(2):
        with two.guest.on(cpu):
            assert two.guest.current is None


def test_a_fault_is_served_on_the_cpu_that_has_it():
    """Even where a program drives a CPU without saying that it is its turn."""
    two = TwoCpus("native")
    other = two.guest.spawn("other")
    other.mmap(AREA, "64K")
    two.run(1, two.guest.switch, other)
    two.machine.cpus[1].cpl = 3
    two.machine.cpus[1].store(AREA, 9)
    two.machine.cpus[1].cpl = 0
    assert (two.load(0), two.load(1)) == (0, 9)


@pytest.mark.parametrize("cpu", [-1, 2, "1"])
def test_there_is_no_other_cpu(cpu):
    two = TwoCpus("native")
    with pytest.raises(BadChoice, match="this machine has CPUs 0 to 1"):
        two.load(cpu)
