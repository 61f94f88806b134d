"""The engine's KVM counts what Linux KVM counted for the same guest programs.

    pytest tests/test_kvm_counters.py --counters FILE --counters ANOTHER

takes recordings of the schema of tests/data/kvm-counters.json.gz, which is the default.  All
(workload, configuration, counter) are compared, a counter that is absent being 0.  A difference
is explained by a rule about the operations of a workload, or the test fails.
"""

import functools
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kvmlab.kvm.statistics import STATISTICS
from tests.recorded_guest import CONFIGURATIONS, OPERATIONS, replay

SHIPPED = Path(__file__).parent / "data" / "kvm-counters.json.gz"
RECORDABLE = frozenset(OPERATIONS) - {"report"}
KNOWN = {one.name for one in STATISTICS}
LEAST_SHARE = 0.9


@dataclass(frozen=True)
class Rule:
    """A known difference, and why it is one."""

    configurations: frozenset[str]
    counters: frozenset[str]
    applies: Callable[[list], bool]  # to the operations of a workload
    cause: str

    def explains(self, difference, operations):
        _, configuration, counter = difference
        return (
            configuration in self.configurations
            and counter in self.counters
            and self.applies(operations)
        )


def reads_after_a_table_write(operations):
    """A read follows a store to a page table with no INVLPG and no MOV CR3 in between."""
    pending = False
    for operation, _, _ in operations:
        if pending and operation in ("read", "write", "fetch"):
            return True
        if operation in ("write_pte", "invlpg", "mov_cr3"):
            pending = operation == "write_pte"
    return False


RULES = (
    Rule(
        frozenset(name for name, one in CONFIGURATIONS.items() if one.npt),
        frozenset({"pf_taken", "pf_fixed", "pages_4k"}),
        reads_after_a_table_write,
        "without INVLPG a stale translation lives until the processor drops it: QEMU's, on which "
        "these were recorded, keeps it for a while, Bochs's and the replay's do not keep it",
    ),
)


@functools.cache
def read(path):
    data = Path(path).read_bytes()
    return json.loads(gzip.decompress(data) if path.endswith(".gz") else data)


def pytest_generate_tests(metafunc):
    paths = metafunc.config.getoption("counters") or [str(SHIPPED)]
    if "path" in metafunc.fixturenames:
        metafunc.parametrize("path", paths, ids=[Path(path).name for path in paths])


def check_known(found):
    """Refuse what the replay would pass over in silence."""
    for workload in found["workloads"]:
        operations = {one[0] for one in [*workload["warm"], *workload["script"]]}
        assert operations <= RECORDABLE, f"unknown operations {operations - RECORDABLE}"
        recorded = workload["counters"]
        assert set(recorded) <= set(CONFIGURATIONS), f"unknown in {set(recorded)}"
        counters = {name for values in recorded.values() for name in values}
        assert counters <= KNOWN, f"unknown counters {counters - KNOWN}"


def compare(found):
    """All values as (workload, configuration, counter) -> (recorded, counted)."""
    workloads = found["workloads"]
    names = {n for one in workloads for values in one["counters"].values() for n in values}
    compared = {}
    for workload in workloads:
        for configuration, recorded in workload["counters"].items():
            counted, faults = replay(workload, found["harness"], CONFIGURATIONS[configuration])
            assert faults == workload["guest_page_faults"], workload["name"]
            for name in sorted(names):
                key = workload["name"], configuration, name
                compared[key] = recorded.get(name, 0), counted[name]
    return compared


def test_the_engine_counts_what_linux_kvm_counted(path, capsys):
    found = read(path)
    check_known(found)
    compared = compare(found)
    operations = {one["name"]: one["script"] for one in found["workloads"]}
    different = {key for key, (recorded, counted) in compared.items() if recorded != counted}
    used = {
        rule: [key for key in different if rule.explains(key, operations[key[0]])] for rule in RULES
    }
    unexplained = different.difference(*used.values())
    equal, explained = len(compared) - len(different), len(different) - len(unexplained)
    with capsys.disabled():
        print(
            f"\nequal {equal} of {len(compared)}, explained {explained}, "
            f"unexplained {len(unexplained)}"
        )
    lines = [
        f"{' | '.join(key)}: {compared[key][0]}, not {compared[key][1]}"
        for key in sorted(unexplained)
    ]
    assert not lines, "\n".join(lines)
    assert equal / len(compared) >= LEAST_SHARE
    if path == str(SHIPPED):
        assert all(used.values()), "a rule explains nothing"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: one["script"].append(["clflush", "0x0", "0x0"]),
        lambda one: one["counters"].update({"kvm_intel ept=2": {}}),
        lambda one: one["counters"][next(iter(CONFIGURATIONS))].update({"pf_odd": 1}),
    ],
)
def test_an_unknown_operation_configuration_or_counter_is_refused(spoil):
    found = json.loads(json.dumps({"workloads": read(str(SHIPPED))["workloads"][:1]}))
    check_known(found)
    spoil(found["workloads"][0])
    with pytest.raises(AssertionError, match="unknown"):
        check_known(found)


def test_a_difference_that_no_rule_knows_is_unexplained():
    operations = [["write_pte", "0x0", "0x0"], ["read", "0x0", "0x0"]]
    npt, ept = "kvm_amd npt=1 (TDP MMU), Linux 6.1", "kvm_intel ept=1 (TDP MMU), Linux 6.1"
    (rule,) = RULES
    assert rule.explains(("any", npt, "pf_taken"), operations)
    assert not rule.explains(("any", npt, "pf_guest"), operations)
    assert not rule.explains(("any", ept, "pf_taken"), operations)
    assert not rule.explains(("any", npt, "pf_taken"), operations[1:])
