"""nova's capacity and placement: cases 35 to 38 of the facts, and what a wrong ratio leads to.

The numbers were worked out of placement's source and nova's documentation, not measured.
"""

import pytest

from kvmlab.base.errors import BadSize
from kvmlab.management.placement import Inventory, PlacementError, place


def filled(host, size):
    """How many instances of ``size`` MiB fit."""
    count = 0
    while host.refusal(f"vm{count}", size) is None:
        host.allocate(f"vm{count}", size)
        count += 1
    return count


@pytest.mark.parametrize(
    "total,reserved,ratio,capacity,instances",
    [
        (131072, 512, 1.0, 130560, 31),
        (131072, 512, 1.5, 195840, 47),
        (65536, 4096, 1.5, 92160, 22),
    ],
)
def test_capacity_is_total_less_reserved_times_ratio(total, reserved, ratio, capacity, instances):
    host = Inventory("host1", total, reserved, ratio)
    assert int(host.capacity) == capacity
    assert filled(host, 4096) == instances


def test_one_instance_larger_than_the_host_is_refused_whatever_the_ratio():
    host = Inventory("host1", 65536, ratio=2.0)
    assert host.capacity > 70000
    with pytest.raises(PlacementError, match="violate inventory constraints"):
        host.allocate("big", 70000)
    assert host.used == 0


def test_a_lower_ratio_evicts_nobody_and_refuses_what_comes_next():
    host = Inventory("host1", 131072, 512, 1.5)
    filled(host, 4096)
    before = dict(host.allocations)
    host.set_ratio(1.0)
    assert host.allocations == before
    with pytest.raises(PlacementError) as refused:
        host.allocate("one-more", 4096)
    assert str(refused.value) == (
        "Unable to create allocation for 'MEMORY_MB' on resource provider 'host1'. "
        "The requested amount would exceed the capacity."
    )
    host.allocate("vm0", 2048)  # a shrink of an overage is let through
    assert host.allocations["vm0"] == 2048
    with pytest.raises(PlacementError):
        host.allocate("vm0", 4096)


def test_the_comparison_is_with_the_whole_float_not_with_the_number_shown():
    host = Inventory("host1", 1001, 1, 1.0015)  # 1001.5
    host.allocate("a", 1001)
    assert host.refusal("b", 1) is not None


def test_an_inventory_that_reserves_all_of_itself_is_refused():
    for reserved in (4096, 5000):
        with pytest.raises(PlacementError, match="greater than or equal to total"):
            Inventory("host1", 4096, reserved)


@pytest.mark.parametrize("ratio", [0, -1, float("nan")])
def test_a_ratio_that_is_not_above_zero_is_refused(ratio):
    with pytest.raises(BadSize):
        Inventory("host1", 4096, ratio=ratio)


def test_instances_go_where_most_memory_is_unpromised():
    hosts = [Inventory("a", 8192, 0), Inventory("b", 16384, 0), Inventory("c", 8192, 0)]
    went = [place(hosts, f"vm{number}", 4096).provider for number in range(8)]
    assert went == ["b", "b", "a", "b", "c", "a", "b", "c"]
    with pytest.raises(PlacementError, match="No valid host was found"):
        place(hosts, "ninth", 4096)
    hosts[0].free("vm2")
    assert place(hosts, "ninth", 4096).provider == "a"
