"""The experiment of huge pages: what it says is what the tables of guest, EPT and host hold."""

import pytest

from kvmlab.base.errors import BadAddress, BadChoice, OutOfMemory
from kvmlab.study import hugepages_served
from kvmlab.study.costs import GRADED
from kvmlab.study.hugepages import PAIRS, VERBS, WRITES, HugePages, compared
from kvmlab.study.hugepages_beginning import BLOCK, CHOICES, MIB, Beginning
from kvmlab.study.hugepages_moments import BLOCKS, Leaves
from kvmlab.study.hugepages_served import ACCESSES, REQUESTS
from kvmlab.study.inflation_moments import mapped_pages
from kvmlab.study.story import Story

KIB = 1024
HUGE, NOTHING = Leaves(0, (21,)), Leaves(0)


def after(*deeds, **chosen):
    """The experiment after some deeds: names, or a name with its values."""
    experiment = HugePages(Beginning(**chosen))
    for deed in deeds:
        verb, *values = deed if isinstance(deed, tuple) else (deed,)
        getattr(experiment, verb)(*values)
    return experiment


def now(*deeds, **chosen):
    return after(*deeds, **chosen).history[-1]


@pytest.mark.parametrize(
    "guest, host, references",
    [
        ("4K", "4K", 24),
        ("2M", "4K", 19),
        ("4K", "thp", 19),
        ("4K", "2M", 19),
        ("2M", "thp", 15),
        ("thp", "thp", 15),
        ("thp", "4K", 19),
        ("2M", "2M", 15),
        ("1G", "1G", 8),
        ("4K", "1G", 14),
        ("1G", "2M", 11),
    ],
)
def test_a_cold_access_reads_what_the_formula_says(guest, host, references):
    levels = {"4K": 4, "thp": 3, "2M": 3, "1G": 2}
    ept = levels[host]
    assert references == (levels[guest] + 1) * (ept + 1) - 1
    assert now("access", guest=guest, host=host).references == references


@pytest.mark.parametrize("offset, leaf", [(0, HUGE), (2048, HUGE), (4, None), (1024, None)])
def test_a_leaf_is_huge_only_where_gpa_and_hva_are_congruent(offset, leaf):
    moment = now("fill", offset=offset)
    at = moment.at + 1
    assert moment.host[at].large, "the host has huge pages there either way"
    assert moment.ept[at] == (leaf or Leaves(512))
    assert moment.references == 0


def test_sparse_use_takes_whole_huge_pages():
    small, large = now("sparse", host="4K"), now("sparse")
    assert small.touched == large.touched == BLOCKS * 4 * KIB
    assert large.rss - small.rss > 3 * BLOCK
    assert small.rss < 200 * KIB
    assert (large.thp, small.thp) == (large.rss, 0)


def test_hugetlbfs_is_in_no_rss_and_is_neither_dropped_in_pieces_nor_merged():
    experiment = after("fill", host="2M")
    before = experiment.history[-1]
    assert (before.rss, before.hugetlb) == (0, 5 * BLOCK)
    with pytest.raises(BadAddress, match="whole pages of 2M"):
        experiment.drop()
    experiment.balloon()
    experiment.ksm()
    assert experiment.history[-1].host_free == before.host_free
    assert experiment.history[-1].ept == before.ept


def test_a_dropped_piece_splits_the_leaf_and_frees_nothing_until_the_deferred_split():
    experiment = after("fill", "drop", "drop")
    full, _first, moment = experiment.history[1:4]
    at = moment.at
    assert (full.ept[at], moment.ept[at]) == (HUGE, NOTHING)
    assert moment.host[at] == Leaves(510)
    assert moment.rss == full.rss - 8 * KIB
    assert moment.host_free == full.host_free
    experiment.reclaim()
    assert experiment.history[-1].host_free == full.host_free + 8 * KIB


@pytest.mark.parametrize("limit, rss", [(511, 0), (0, 8 * KIB)])
def test_khugepaged_fills_up_what_was_dropped_unless_max_ptes_none_is_0(limit, rss):
    experiment = after("fill", "drop", "drop", "reclaim", ("wait", 10), max_ptes_none=limit)
    full, last = experiment.history[1], experiment.history[-1]
    assert full.rss - last.rss == rss
    assert last.host[last.at].huge is (limit == 511)


def test_a_page_for_the_balloon_splits_a_huge_page_of_the_host():
    experiment = after("fill", "balloon")
    full, moment = experiment.history[1:]
    assert sum(one.huge for one in full.host) == sum(one.huge for one in moment.host) + 1
    assert moment.host_free <= full.host_free
    assert moment.rss == full.rss - 4 * KIB


def test_the_log_of_writes_maps_small_and_its_end_maps_huge_again():
    experiment = after("fill", "log")
    logged = experiment.history[-1]
    assert logged.ept[logged.at] == Leaves(512)
    assert logged.host[logged.at] == HUGE
    experiment.write()
    assert experiment.history[-1].dirty >= experiment.history[-1].written
    experiment.log()
    assert experiment.history[-1].ept[logged.at] == HUGE


def test_ksm_splits_what_it_merges():
    moment = now("fill", "ksm")
    assert moment.thp == 0
    assert moment.host[moment.at].small == 512
    assert moment.host_free > now("fill").host_free + 8 * MIB


def test_a_fragmented_host_has_no_2m_until_the_others_leave_and_khugepaged_comes():
    experiment = after("fill", fragmented=True)
    first, full = experiment.history
    assert sum(first.blocks[9:]) == 0
    assert first.host_free > 25 * MIB
    assert full.thp == 0
    experiment.leave()
    left = experiment.history[-1]
    assert sum(left.blocks[9:]) > 0
    assert left.ept == full.ept
    with pytest.raises(BadChoice, match="nobody else"):
        experiment.leave()
    experiment.wait(10)
    assert experiment.history[-1].thp >= 8 * MIB - BLOCK


def test_a_pool_of_hugetlbfs_cannot_be_filled_in_a_fragmented_host():
    with pytest.raises(OutOfMemory, match="unable to map backing store for guest RAM"):
        HugePages(Beginning(host="2M", fragmented=True))


@pytest.mark.parametrize("guest, page", [("4K", 4 * KIB), ("2M", BLOCK)])
def test_a_write_beside_a_snapshot_copies_a_whole_page_once(guest, page):
    experiment = after("fill", "snapshot", "write", guest=guest)
    moment = experiment.history[-1]
    assert moment.snapshot
    assert moment.written == WRITES
    assert 0 < moment.copied <= WRITES * page
    assert moment.copied % page == 0
    if guest == "4K":
        assert moment.copied == WRITES * page
    experiment.snapshot()
    assert not experiment.history[-1].snapshot


def test_a_write_beside_a_snapshot_splits_a_huge_page_of_the_guest_and_copies_4k():
    """Linux, mm/huge_memory.c: do_huge_pmd_wp_page() falls back to small pages since 5.8."""
    experiment = after("fill", "snapshot", "write", guest="thp")
    full, moment = experiment.history[1], experiment.history[-1]
    assert full.guest == (HUGE,) * BLOCKS
    assert moment.copied == WRITES * 4 * KIB
    assert any(one == Leaves(512) for one in moment.guest)


def test_accesses_made_one_by_one_and_together_cost_the_same():
    thp, large = (now("fill", "serve", guest=guest).served for guest in ("thp", "2M"))
    assert thp.tally.lookups == large.tally.lookups
    assert thp.cycles == large.cycles == thp.data


def test_single_requests_have_the_latencies_that_their_walks_add_up_to():
    """A second statement of the sum: five walks of EPT, one of the guest, and the data."""
    cost = dict(zip(PAIRS, compared("64x4+512x8"), strict=True))
    level = {n: GRADED.rows[f"reference.{n}"].cycles for n in (1, 2, 3, 4)}
    nested = sum(level.values())  # EPT-4 with small leaves
    walk, data = sum(level.values()) + 5 * nested, GRADED.rows["access"].cycles
    possible = [4 * data + misses * walk for misses in range(5)]
    small = cost["4K", "4K"].latencies
    assert list(small) == sorted(small)
    assert set(small) <= set(possible)
    assert small[0] < small[-1] == possible[-1]  # the tail of the distribution misses each time
    assert cost["2M", "thp"].latencies == (possible[0],) * 3


@pytest.mark.parametrize("geometry", ["64x4+512x8", "skylake"])
@pytest.mark.parametrize(
    "guest, host, deeds",
    [
        ("4K", "4K", ("fill", "serve", "drop", "serve")),
        ("thp", "thp", ("fill", "snapshot", "write", "serve")),
        ("2M", "4K", ("fill", "drop", "serve", "serve")),
        ("1G", "2M", ("fill", "serve")),
    ],
)
def test_requests_made_at_once_are_those_made_one_by_one(monkeypatch, guest, host, deeds, geometry):
    """Counts of a batch against the records of every single walk."""
    beginning = {"guest": guest, "host": host, "geometry": geometry}
    at_once = after(*deeds, **beginning)
    monkeypatch.setattr(hugepages_served, "_quietly", lambda *_: None)
    singly = after(*deeds, **beginning)
    served = [one.served for one in singly.history if one.served]
    assert [one.served for one in at_once.history if one.served] == served
    assert singly.machine.ram.image() == at_once.machine.ram.image()


def test_requests_are_cheap_only_with_huge_pages_on_both_sides():
    cost = dict(zip(PAIRS, compared("64x4+512x8"), strict=True))
    small, host, guest, both = (cost[pair] for pair in PAIRS)
    assert small.cycles > guest.cycles > host.cycles > both.cycles == both.data
    assert small.misses == host.misses == guest.misses > ACCESSES // 2
    assert both.misses == 0
    assert small.tally.all_references == 24 * small.misses
    assert host.tally.all_references == guest.tally.all_references == 19 * small.misses
    parts = (small.data, small.guest, small.ept, small.cached, small.exits)
    assert sum(parts) == small.cycles
    assert sum(small.tally.lookups.values()) == ACCESSES == REQUESTS * 4


@pytest.mark.parametrize("guest, host", [("4K", "4K"), ("2M", "thp"), ("thp", "thp")])
def test_the_rows_add_up_to_what_process_and_ept_map(guest, host):
    experiment = after("fill", "drop", "balloon", "access", guest=guest, host=host)
    moment = experiment.history[-1]

    def size(rows):
        return sum((one.small << 12) + len(one.large) * BLOCK for one in rows)

    assert size(moment.host) == moment.rss
    ram = experiment.beginning.ram
    assert size(moment.ept) == int(mapped_pages(experiment.machine, ram).sum()) << 12
    assert size(moment.guest) == BLOCKS * BLOCK


def test_frames_lie_scattered_in_a_fragmented_host():
    fresh, fragmented = (now("fill", host="4K", fragmented=broken) for broken in (False, True))
    row = fresh.at + 1
    assert fresh.host[row] == fragmented.host[row] == Leaves(512)
    assert fragmented.runs[row] == 512
    assert fresh.runs[row] < 4
    assert now("fill").runs[row] == 1


def test_looking_changes_nothing():
    experiment = after("sparse")
    image = experiment.machine.ram.image()
    cached = len(experiment.machine.cpu.tlb.entries())
    experiment._note("after")
    assert experiment.machine.ram.image() == image
    assert len(experiment.machine.cpu.tlb.entries()) == cached
    first, again = experiment.history[-2:]
    assert (first.ept, first.host, first.guest) == (again.ept, again.host, again.guest)


@pytest.mark.parametrize(
    "deed, words",
    [
        (("serve",), "nothing is stored"),
        (("write",), "nothing is stored"),
        (("drop",), "no page of the process"),
        (("wait", 0), "1 to 600"),
        (("wait", 10**9), "1 to 600"),
    ],
)
def test_a_deed_that_cannot_be_is_refused_and_changes_nothing(deed, words):
    experiment = after()
    image = experiment.machine.ram.image()
    with pytest.raises(BadChoice, match=words):
        getattr(experiment, deed[0])(*deed[1:])
    assert experiment.machine.ram.image() == image
    assert len(experiment.history) == 1


@pytest.mark.parametrize(
    "wrong",
    [{name: "odd"} for name in CHOICES] + [{"fragmented": True, "host": "1G"}],
)
def test_a_wrong_beginning_is_refused(wrong):
    with pytest.raises(BadChoice):
        Beginning(**wrong)


def test_hugetlbfs_lies_at_multiples_of_its_page():
    with pytest.raises(BadAddress, match="not aligned to 2M"):
        HugePages(Beginning(host="2M", offset=4))


def test_a_gigantic_page_is_not_copied_or_logged_here():
    experiment = after("sparse", guest="1G", host="1G")
    for verb in ("snapshot", "log"):
        with pytest.raises(BadChoice, match="1G"):
            getattr(experiment, verb)()


def test_the_same_deeds_make_the_same_machine():
    plan = {"did": [["fill"], ["drop"], ["wait", 10], ["serve"]]}
    one, other = (
        Story(lambda _: HugePages(Beginning()), VERBS).reach(plan).machine.ram.image()
        for _ in range(2)
    )
    assert one == other
