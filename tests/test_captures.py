"""Guests that really ran, captured under QEMU, held against what QEMU's monitor said of them.

    pytest tests/test_captures.py --captured FILE --captured ANOTHER

takes captures of one's own, which `kvmlab capture` makes; the default are one of 4 levels and one
of 5.  A capture passes if every recorded answer comes out of the engine.
"""

import functools
import re
from itertools import islice
from pathlib import Path

import pytest

from kvmlab.base.errors import BadAddress
from kvmlab.hardware.records import EXECUTE, USER, WRITE, Fault, Kind, Step
from kvmlab.workloads import capture
from kvmlab.workloads.capture import tlb_lines
from kvmlab.workloads.captured_vm import HOLE, CapturedVm

SHIPPED = (
    Path(capture.__file__).parent / "data" / "debian-guest-4level.json.gz",
    Path(__file__).parent / "data" / "linux-guest-5level.json.gz",
)


@functools.cache
def read(path):
    return capture.read(path)


def pytest_generate_tests(metafunc):
    paths = metafunc.config.getoption("captured") or list(map(str, SHIPPED))
    if "guest" in metafunc.fixturenames:
        metafunc.parametrize("guest", paths, ids=[Path(path).name for path in paths], indirect=True)


@pytest.fixture
def guest(request):
    return read(request.param)


def test_every_answer_of_gva2gpa_is_what_the_walk_finds(guest):
    tables = guest.running.tables
    ram = tables.memory()
    wrong = []
    for gva, gpa in guest.gva2gpa:
        _, end = tables.walk(gva, ram)
        found = None if isinstance(end, Fault) else end.address
        if found != gpa:
            wrong.append((hex(gva), gpa, found))
    assert wrong == []
    assert guest.gva2gpa, "nothing was asked"


def test_every_line_of_info_tlb_is_what_the_list_of_leaves_says(guest):
    assert tlb_lines(guest.running.tables) == guest.info_tlb


def info_mem(tables):
    """`info mem` from the leaves: ranges of equal rights, u and w ANDed over all levels."""
    ranges = []
    for gva, _, shift, _, rights in tables.leaves().tolist():
        flags = ("u" if rights & USER else "-") + "r" + ("w" if rights & WRITE else "-")
        if ranges and ranges[-1][1] == gva and ranges[-1][2] == flags:
            ranges[-1][1] = gva + (1 << shift)
        else:
            ranges.append([gva, gva + (1 << shift), flags])
    # Addresses of the last page end at 2**64, which the monitor prints as it fits in 64 bits.
    return [f"{a:016x}-{b & (1 << 64) - 1:016x} {b - a:016x} {flags}" for a, b, flags in ranges]


def test_every_line_of_info_mem_follows_from_the_same_leaves(guest):
    if not guest.info_mem:
        pytest.skip("QEMU printed no info mem (7.2 prints none with 5 levels)")
    assert info_mem(guest.running.tables) == guest.info_mem


def test_the_tables_of_the_file_are_those_that_the_trees_refer_to(guest):
    """Each at the level that the file states, and none besides."""
    found = {}
    for process in guest.processes:
        ram = process.tables.memory()
        for gva in process.tables.leaves()["gva"].tolist():
            steps, _ = process.tables.walk(gva, ram)
            found |= {step.hpa & ~0xFFF: step.level for step in steps}
    listed = guest.table_levels
    assert {gpa: listed[gpa] for gpa in found} == found
    empty = {gpa for gpa in listed if gpa not in found}
    assert all(not any(word & 1 for word in words(guest, gpa)) for gpa in empty)


def words(guest, gpa):
    return memoryview(guest.running.tables.pages[gpa]).cast("Q")


def in_memory(gpa):
    return gpa is not None and gpa not in HOLE


@pytest.mark.parametrize("mmu, host_levels", [("native", 0), ("ept", 4), ("shadow", 0)])
def test_in_a_vm_the_cpu_finds_the_same_page_with_the_references_of_the_formula(
    guest, mmu, host_levels
):
    """(g + 1)(h + 1) - 1 entries for g levels of the guest's and h of the host's."""
    vm = CapturedVm(guest, mmu)
    asked = [(gva, gpa) for gva, gpa in guest.gva2gpa if in_memory(gpa)]
    for gva, gpa in islice(asked, 0, None, max(1, len(asked) // 25)):
        records = vm.cold_walk(gva)
        references = sum(isinstance(one, Step) for one in records)
        levels = len(guest.running.tables.walk(gva)[0])
        if mmu != "shadow":  # there the host's 4 KiB pages make each walk a full one
            assert references == (levels + 1) * (host_levels + 1) - 1
        backing = vm.vm.look(gpa).host.address if vm.vm else gpa
        assert vm.access(gva) == backing == vm.chain(gva).hpa
        assert vm.chain(gva).gpa == gpa


def test_what_the_guest_does_not_map_is_refused_by_its_own_tables(guest):
    vm = CapturedVm(guest)
    absent = next(gva for gva, gpa in guest.gva2gpa if gpa is None)
    with pytest.raises(BadAddress, match=r"the guest's own tables refuse 0x\w+: "):
        vm.access(absent)
    assert vm.chain(absent).gpa is None


def test_the_process_may_not_touch_its_kernel(guest):
    kernel = next(gva for gva, gpa in guest.gva2gpa if in_memory(gpa) and gva >> 63)
    vm = CapturedVm(guest)
    with pytest.raises(BadAddress, match="#PF, error code 0x5"):
        vm.access(kernel, user=True)
    assert vm.access(kernel) > 0


def test_the_program_could_go_on_where_it_was_stopped(guest):
    """The instruction at RIP is fetched in user mode, and the stack is written."""
    vm = CapturedVm(guest)
    rip, rsp = guest.registers["RIP"], guest.registers["RSP"]
    assert vm.access(rip, Kind.FETCH, user=True) != vm.access(rsp, Kind.WRITE, user=True)


def test_every_user_page_lies_in_a_mapping_that_allows_what_its_entries_do(guest):
    for process in guest.processes:
        if not process.mappings:
            pytest.skip("no mappings were recorded")
        for gva, _, _, _, rights in process.tables.leaves().tolist():
            if gva >> 63 or not rights & USER:
                continue
            mapping = process.mapping_at(gva)
            assert mapping is not None, hex(gva)
            assert mapping.write or not rights & WRITE, hex(gva)
            assert mapping.execute or not rights & EXECUTE, hex(gva)


def test_a_physical_page_is_found_wherever_it_is_mapped(guest):
    for process in guest.processes:
        leaves = process.tables.leaves()
        for gva, gpa, shift, _, _ in leaves.tolist()[:: max(1, len(leaves) // 50)]:
            inside = (1 << shift) - 7
            found = process.tables.search(gpa + inside, leaves)
            assert gva + inside in found
            ram = process.tables.memory()
            for one in found:
                assert process.tables.walk(one, ram)[1].address == gpa + inside


def test_two_processes_share_the_text_of_their_program():
    guest = read(str(SHIPPED[1]))
    rip = guest.registers["RIP"]
    owners = guest.search(guest.running.tables.walk(rip)[1].address)
    names = [one.name for one in guest.processes]
    assert len(set(names)) == 2
    assert {(name, rip) for name in names} <= set(owners)


def test_the_shipped_captures_say_what_they_are():
    four, five = map(read, map(str, SHIPPED))
    assert (four.levels, five.levels) == (4, 5)
    assert (len(four.gva2gpa), len(four.info_tlb)) == (896, 8510)
    assert re.search("Debian 6.1 .* QEMU 7.2", four.guest)
