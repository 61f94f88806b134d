"""Two CPUs: native, shadow and EPT are one machine to the guest, whatever runs where."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvmlab.base.errors import SegmentationFault
from kvmlab.hardware.records import OnCpu, PageFault
from kvmlab.machine import Machine
from tests.test_modes_agree import Seen, guest_memory
from tests.two_cpus import AREA, DESIGNS, check_tlbs

VIRTUAL = [*DESIGNS[1:], ("npt", "naive"), ("agile", "naive")]
PAGES = 3  # few, so that operations meet
CPU, WHO, PAGE = st.integers(0, 1), st.integers(0, 1), st.integers(0, PAGES)

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("load"), CPU, WHO, PAGE),
        st.tuples(st.just("store"), CPU, WHO, PAGE, st.integers(0, 255)),
        st.tuples(st.just("protect"), CPU, WHO, st.booleans()),
        st.tuples(st.just("remap"), CPU, WHO, st.booleans()),
        st.tuples(st.just("fork"), CPU, WHO),
        st.tuples(st.just("restart"), CPU, WHO),
        st.tuples(st.just("reclaim"), CPU, WHO, PAGE),
    ),
    min_size=8,
    max_size=30,
)

OTHERS = (
    {"kpti": True, "pcid": True},
    {"pcid": True},
    {"vcpus": 3},
    {"guest_levels": 2},
    {"guest_levels": 3},
)


def run(mmu, policy, operations, **options):
    faults, cpu = [], 0

    def tap(record):
        nonlocal cpu
        cpu = record.cpu if isinstance(record, OnCpu) else cpu
        if isinstance(record, PageFault):
            faults.append((cpu, record.gva, record.error_code))

    options = {"guest_memory": "16M", "host_memory": "64M", "vcpus": 2} | options
    machine = Machine(mmu, policy=policy, tap=tap, **options)
    guest = machine.guest
    processes = [start(guest, name) for name in "ab"]
    values = []
    for operation, on, who, *rest in operations:
        with guest.on(on):
            if processes[who] is not guest.current:
                guest.switch(processes[who])
            try:
                values.append(perform(machine, processes, operation, who, rest))
            except SegmentationFault:
                values.append("SIGSEGV")
        check_tlbs(machine)
    return Seen(values, faults, guest_memory(machine))


def start(guest, name):
    process = guest.spawn(name)
    process.mmap(AREA, PAGES << 12)
    return process


def perform(machine, processes, operation, who, rest):
    guest, process = machine.guest, processes[who]
    if operation == "load":
        return guest.load(AREA + rest[0] * 4096 + 8)
    if operation == "store":
        return guest.store(AREA + rest[0] * 4096 + 8, rest[1])
    if operation == "fork":  # the other process ends, and a copy of this one takes its place
        guest.exit(processes[1 - who])
        processes[1 - who] = guest.fork("ab"[1 - who])
    elif operation == "restart":
        guest.exit(process)
        processes[who] = start(guest, process.name)
        guest.switch(processes[who])
    elif operation == "protect":
        process.mprotect(AREA, write=rest[0])
    elif operation == "remap":
        process.munmap(AREA)
        process.mmap(AREA, PAGES << 12, write=rest[0])
    elif operation == "reclaim":
        reclaim(machine, AREA + rest[0] * 4096)
    return None


def reclaim(machine, gva):
    """The host takes a page back; on the metal nobody does, and it is cleared there."""
    chain = machine.chain(gva)
    if machine.vm is None:
        if chain.hpa is not None:
            machine.ram.write(chain.hpa, bytes(4096))
    elif chain.hpa is not None:
        machine.qemu.process.madvise_dontneed(chain.hva, 4096)


@settings(max_examples=6)
@given(st.permutations(VIRTUAL).map(lambda some: some[:3]), OPERATIONS)
@example(
    VIRTUAL, [("store", 0, 0, 1, 7), ("load", 1, 0, 1), ("remap", 0, 0, True), ("load", 1, 0, 1)]
)
@example(VIRTUAL, [("store", 0, 0, 1, 7), ("load", 1, 0, 1), ("fork", 0, 0), ("store", 0, 0, 1, 9)])
@example(
    VIRTUAL, [("load", 1, 0, 0), ("store", 0, 0, 0, 5), ("reclaim", 1, 0, 0), ("load", 0, 0, 0)]
)
def test_two_cpus_agree_across_designs(designs, operations):
    native = run(*DESIGNS[0], operations)
    for design in designs:
        assert run(*design, operations) == native, design


@settings(max_examples=5)
@given(st.sampled_from(OTHERS), OPERATIONS)
def test_they_agree_with_isolation_pcids_an_idle_third_and_other_formats_too(options, operations):
    native = run(*DESIGNS[0], operations, **options)
    for design in (DESIGNS[1], DESIGNS[-1]):
        assert run(*design, operations, **options) == native, design
