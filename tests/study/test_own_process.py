"""The process of a machine of one's own, run again under other designs."""

import pytest

from kvmlab.base.errors import BadChoice, KvmlabError
from kvmlab.hardware.records import Kind
from kvmlab.machine import Machine, Server, connect, machine_of
from kvmlab.study.compare import compare
from kvmlab.study.counters import Counters
from kvmlab.study.own_process import ROUNDS, OwnProcess

HEAP, TEXT = 0x4000_0000, 0x5000_0000


def running(**options):
    """A machine whose process wrote 40 pages, read 20 others, and fetched from one."""
    machine = Machine(**{"guest_memory": "32M", "host_memory": "128M", **options})
    guest = machine.guest
    guest.switch(guest.spawn("mine"))
    guest.current.mmap(HEAP, "2M")
    guest.current.mmap(TEXT, "64K", write=False, execute=True)
    for page in range(40):
        guest.store(HEAP + (page << 12), page)
    for page in range(100, 120):
        guest.load(HEAP + (page << 12))
    guest.touch(TEXT + 0x3000, Kind.FETCH)
    return machine


def test_what_was_used_is_what_the_process_used_and_nothing_else():
    own = OwnProcess(running())
    assert (own.pages, own.written) == (61, 40)
    pages = [*range(40), *range(100, 120)]
    addresses = [*(HEAP + (page << 12) for page in pages), TEXT + 0x3000]
    kinds = [Kind.WRITE] * 40 + [Kind.READ] * 20 + [Kind.FETCH]
    assert own.trace.addresses.tolist() == ROUNDS * addresses
    assert own.trace.kinds.tolist() == ROUNDS * kinds


@pytest.mark.parametrize("mmu", ["native", "ept", "shadow", "agile", "npt"])
def test_a_twin_of_the_same_design_has_the_same_tables_and_faults(mmu):
    counters = Counters()
    machine = running(mmu=mmu, tap=counters)
    own = OwnProcess(machine)
    row = compare(own.trace, [mmu], **own.options)[0]
    mine, twins = machine.table_bytes(), row.table_bytes
    assert twins["guest"] == mine["guest"]
    assert row.total.page_faults == counters.total.page_faults == own.pages


@pytest.mark.parametrize(
    "options",
    [
        {"guest_levels": 5},
        {"host_page": "2M"},
        {"kpti": True},
        {"vcpus": 2},
        {"mmu": "l2-ept", "host_memory": "256M"},
    ],
)
def test_every_design_runs_what_any_machine_ran(options):
    own = OwnProcess(running(**options))
    assert own.kpti == options.get("kpti", False)
    assert own.vcpus == options.get("vcpus", 1)
    assert own.options["guest_levels"] == options.get("guest_levels", 4)
    rows = compare(own.trace, ["native", "shadow", "ept", "agile", "l2-ept"], **own.options)
    assert [row.total.page_faults for row in rows] == [61] * 5
    huge = options.get("host_page") == "2M"
    assert own.options.get("host_page") == ("2M" if huge else "4K")
    native, _, ept = (row.total.all_references for row in rows[:3])
    assert ept > native


def test_a_process_of_huge_pages_stays_one():
    machine = Machine(guest_memory="32M", host_memory="128M")
    guest = machine.guest
    guest.switch(guest.spawn("huge"))
    guest.current.mmap(HEAP, "8M", page="2M")
    for part in range(3):
        guest.store(HEAP + (part << 21), 1)
    own = OwnProcess(machine)
    assert (own.pages, own.options["guest_page"]) == (3, "2M")
    row = compare(own.trace, ["ept"], **own.options)[0]
    assert row.total.page_faults == 3
    assert row.table_bytes["guest"] == machine.table_bytes()["guest"]


def test_a_look_changes_nothing_and_the_next_one_sees_what_came_since():
    records = []
    machine = running(tap=records.append)
    told, tables = len(records), machine.table_bytes()
    own = OwnProcess(machine)
    assert (len(records), machine.table_bytes()) == (told, tables)
    machine.guest.store(HEAP + (200 << 12), 1)
    machine.guest.store(HEAP + (100 << 12), 1)  # it was read before
    own.again()
    assert (own.looks, own.pages, own.written) == (2, 62, 42)


def test_a_domain_is_looked_at_as_its_machine_is():
    connection = connect(Server("128M"))
    domain = connection.createXML(
        "<domain type='kvm'><name>vm</name><memory unit='MiB'>32</memory>"
        "<os><type>hvm</type></os></domain>"
    )
    guest = machine_of(domain).guest
    guest.switch(guest.spawn("app"))
    guest.current.mmap(HEAP, "1M")
    guest.store(HEAP, 7)
    own = OwnProcess(domain)
    assert (own.pages, own.written) == (1, 1)
    assert own.options["guest_memory"] == 32 << 20


def test_a_machine_without_a_used_page_is_refused_in_one_line():
    machine = Machine(guest_memory="32M", host_memory="128M")
    with pytest.raises(BadChoice, match="has used a page"):
        OwnProcess(machine)
    machine.guest.switch(machine.guest.spawn("idle"))
    machine.guest.current.mmap(HEAP, "1M")
    with pytest.raises(BadChoice, match="has used a page"):
        OwnProcess(machine)


def test_a_guest_that_not_every_design_runs_is_refused():
    machine = Machine(guest_memory="32M", host_memory="128M", guest_levels=2)
    with pytest.raises(BadChoice, match="4 or 5 levels"):
        OwnProcess(machine)


@pytest.mark.parametrize("other", [None, 7, b"sort", object()])
def test_what_is_no_machine_is_refused(other):
    with pytest.raises(KvmlabError, match="Machine"):
        OwnProcess(other)
