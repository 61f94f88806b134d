"""A machine that cannot be is refused with one clear line."""

import pytest

from kvmlab.base.errors import BadChoice, BadSize
from kvmlab.machine import Machine


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"mmu": "xen"}, BadChoice, "choose one of native, shadow, ept"),
        ({"guest_memory": "1G"}, BadSize, "a guest of 1G does not fit in a host of 256M"),
        ({"guest_memory": "256M"}, BadSize, "does not fit"),
        ({"guest_memory": "63M"}, BadSize, "no multiple of 2M"),
        ({"guest_memory": "lots"}, BadSize, "'lots'"),
        ({"host_page": "3K"}, BadSize, "choose 4K, 2M or 1G"),
        ({"guest_page": "4M"}, BadSize, "there are 4K, 2M, 1G"),
        ({"guest_levels": 6}, BadChoice, "6 guest levels"),
        ({"guest_levels": 2, "guest_memory": "2G", "host_memory": "4G"}, BadSize, "896M"),
        ({"host_levels": 3}, BadChoice, "EPT has 4 or 5 levels"),
        ({"host_page": "1G"}, BadSize, "no multiple of 1G"),
        ({"vcpus": 0}, BadChoice, "0 virtual CPUs are not on offer; choose 1 to 32"),
        ({"vcpus": -1}, BadChoice, "choose 1 to 32"),
        ({"vcpus": 33}, BadChoice, "choose 1 to 32"),
        ({"vcpus": "2"}, BadChoice, "'2' virtual CPUs"),
        ({"vcpus": True}, BadChoice, "True virtual CPUs"),
    ],
)
def test_impossible_machines_are_refused(options, error, text):
    with pytest.raises(error) as refused:
        Machine(**{"mmu": "ept", **options})
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_host_of_a_tebibyte_costs_nothing_until_it_is_used():
    machine = Machine("ept", guest_memory="64M", host_memory="1T")
    assert machine.ram.frames_in_use < 64
