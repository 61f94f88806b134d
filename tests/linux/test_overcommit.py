"""Memory that was promised twice: 16 guests of 8 GiB on a host of 64 GiB, all of it touched.

Case 39 of the facts (recalled, not measured) at its full sizes, in blocks of 2 MiB: `linux` knows
no page tables, so a "page" may be as large, and its owners here are dictionaries.
"""

from kvmlab.linux.records import OomKill
from tests.linux.kernel import Kernel

GIB = 512  # blocks of 2 MiB
HOST, GUESTS, GUEST = 64 * GIB, 16, 8 * GIB


def host(swap):
    kernel = Kernel(HOST, slots=swap)
    kernel.memory.reclaim.batch = 512
    return kernel, [kernel.process(f"qemu{number}") for number in range(GUESTS)]


def test_with_swap_enough_the_other_half_is_swapped_and_everybody_lives():
    kernel, guests = host(80 * GIB)
    for block in range(GUEST):
        for guest in guests:
            guest.touch(block)
    used = kernel.memory.swap.total - kernel.memory.swap.free
    assert 64 * GIB <= used < 66 * GIB  # the other half, and what the host keeps free
    assert sum(guest.rss + guest.swap_entries for guest in guests) == 128 * GIB
    assert kernel.stat["oom_kill"] == 0
    kernel.check()


def test_with_less_swap_the_oom_killer_takes_the_largest_guest():
    kernel, guests = host(32 * GIB)
    eager, others = guests[5], [guest for guest in guests if guest is not guests[5]]
    for block in range(GUEST):
        eager.touch(block)
    for block in range(GUEST):
        if kernel.stat["oom_kill"]:
            break
        for guest in others:
            guest.touch(block)
    (kill,) = [one for one in kernel.records if isinstance(one, OomKill)]
    assert (kill.victim, kill.badness) == ("qemu5", GUEST)  # its 8 GiB, in memory or in swap
    assert (eager.rss, eager.swap_entries) == (0, 0)
    assert all(0 < guest.rss + guest.swap_entries < GUEST for guest in others)
    kernel.check()
