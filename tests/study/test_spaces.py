"""A page in four address spaces: followed in both directions, and moved by guest and host."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmlab.base.errors import BadAddress, BadChoice, BadSize, KvmlabError
from kvmlab.hardware.records import Kind
from kvmlab.machine import Machine
from kvmlab.study.follow import SPACES, all_pages, direct, follow
from kvmlab.study.spaces import DESIGNS, VERBS, VIDEO, Spaces, usual_deeds

HEAP = 0x400000
PAGE = 4096


def done(*more, mmu="ept"):
    spaces = Spaces(mmu)
    for verb, *values in [*usual_deeds(), *more]:
        VERBS[verb].act(spaces, *values)
    return spaces


def page(spaces, gva=HEAP, name="app"):
    return all_pages(spaces.machine)[name, gva]


@pytest.mark.parametrize("mmu", DESIGNS)
def test_a_page_is_found_from_each_of_its_four_addresses(mmu):
    spaces = done(mmu=mmu)
    for one in spaces.pages:
        addresses = (one.gva, one.gpa, one.hva, one.hpa)
        for space, address in zip(SPACES, addresses, strict=True):
            trail = spaces.follow(space, address + 0xABC)
            found = (trail.gva, trail.gpa, trail.hva, trail.hpa)
            assert found == (
                [("app", one.gva + 0xABC)],
                *([other + 0xABC] for other in addresses[1:]),
            )
            assert trail.end == ""


@pytest.mark.parametrize("mmu", DESIGNS)
def test_the_way_down_is_the_machines_own_chain(mmu):
    spaces = done(mmu=mmu)
    for one in spaces.pages:
        chain = spaces.machine.chain(one.gva)
        assert (one.gpa, one.hva, one.hpa) == (chain.gpa, chain.hva, chain.hpa)


@pytest.mark.parametrize("mmu", DESIGNS)
def test_what_the_cpu_walks_last_leads_to_the_same_frame(mmu):
    spaces = done(mmu=mmu)
    assert [direct(spaces.machine, one) for one in spaces.pages] == [
        one.hpa for one in spaces.pages
    ]
    spaces.migrate(hex(page(spaces).hva))
    assert direct(spaces.machine, page(spaces)) is None
    spaces.read(hex(HEAP))
    assert direct(spaces.machine, page(spaces)) == page(spaces).hpa


def test_slots_keep_one_distance_each_and_frames_are_scattered():
    spaces = done()
    heap = [one for one in spaces.pages if one.gpa < VIDEO]
    (video,) = [one for one in spaces.pages if one.gpa >= VIDEO]
    (distance,) = {one.hva - one.gpa for one in heap}
    assert video.hva - video.gpa != distance
    by_hva = sorted(heap, key=lambda one: one.hva)
    steps = {b.hpa - a.hpa for a, b in pairwise(by_hva)}
    assert len(steps) > 1
    assert sorted(heap, key=lambda one: one.gva) != sorted(heap, key=lambda one: one.gpa)


@pytest.mark.parametrize("mmu", DESIGNS)
def test_migration_moves_the_frame_alone_and_kvm_is_told(mmu):
    spaces = done(mmu=mmu)
    before = page(spaces)
    spaces.migrate(hex(before.hva))
    after = page(spaces)
    assert (after.gpa, after.hva) == (before.gpa, before.hva)
    assert after.hpa != before.hpa
    assert spaces.told["HostMigrated"] == spaces.told["Zap"] == 1
    assert spaces.told["VmExit"] == 0
    assert spaces.before["app", HEAP] == before


def test_ksm_merges_equal_contents_and_a_write_parts_them_in_the_host_alone():
    spaces = done(["merge"])
    one, two = page(spaces, HEAP + PAGE), page(spaces, HEAP + 3 * PAGE)  # both hold 7
    assert one.hpa == two.hpa
    assert one.gpa != two.gpa
    trail = spaces.follow("hpa", one.hpa)
    assert set(trail.gva) >= {("app", one.gva), ("app", two.gva)}
    assert sorted(trail.hva) == sorted({one.hva, two.hva})
    spaces.write(hex(one.gva), 8)
    again = page(spaces, one.gva)
    assert (again.gpa, again.hva) == (one.gpa, one.hva)
    assert again.hpa != two.hpa
    assert spaces.told["HostUnshared"] == 1


@pytest.mark.parametrize("mmu", DESIGNS)
def test_after_fork_a_gpa_has_two_gvas_until_one_process_writes(mmu):
    spaces = done(["fork"], mmu=mmu)
    shared = page(spaces)
    assert set(spaces.follow("hpa", shared.hpa).gva) == {("app", HEAP), ("child1", HEAP)}
    spaces.write(hex(HEAP), 5)
    assert page(spaces).gpa != shared.gpa
    assert page(spaces, name="child1").gpa == shared.gpa
    spaces.switch("child1")
    assert spaces.follow("gva", HEAP).gpa == [shared.gpa]


def test_a_page_in_swap_has_an_hva_and_no_frame_until_it_is_touched():
    spaces = done(*[["reclaim", 64]] * 3)
    gone = [one for one in spaces.pages if one.hpa is None]
    assert gone, "three rounds of reclaim swap out what is not used"
    trail = spaces.follow("gva", gone[0].gva)
    assert (trail.hva, trail.hpa, trail.end) == ([gone[0].hva], [], "swapped")
    spaces.read(hex(gone[0].gva))
    assert page(spaces, gone[0].gva).hpa is not None
    assert spaces.told["HostSwappedIn"] >= 1


def test_even_when_its_tables_are_in_swap_the_guest_is_seen_whole():
    spaces = done()
    before = {one.gva: one.gpa for one in spaces.pages}
    for _ in range(4):
        spaces.reclaim(64)
    assert {one.gva: one.gpa for one in spaces.pages} == before


def test_a_balloon_takes_frames_of_free_pages_and_the_host_gets_them():
    spaces = done(["munmap", hex(HEAP)])
    before = spaces.machine.host.buddy.free_frames
    spaces.balloon(512)
    assert spaces.told["HostTookBack"] == len(spaces.taken) > 0
    assert spaces.machine.host.buddy.free_frames > before
    trail = spaces.follow("hva", spaces.taken[0])
    assert (trail.hpa, trail.end) == ([], "untouched")
    spaces.balloon(0)
    assert spaces.machine.balloon.left == 16 << 20


def test_where_nothing_is_the_trail_says_why():
    spaces = done()
    for space, address, end in (
        ("gva", HEAP + 2 * PAGE, "unmapped"),
        ("gva", 0xDEAD_0000, "unmapped"),
        ("gpa", 0x9000_0000, "hole"),
        ("gpa", 0xFEB0_0000, "device"),
        ("gpa", 0x80_0000, "untouched"),
        ("hpa", 0x1000, "frame"),
    ):
        assert spaces.follow(space, address).end == end
    assert spaces.follow("hpa", spaces.machine.qemu.process.root).role == "TABLE"


@pytest.mark.parametrize(
    "error, deed",
    [
        (BadAddress, ("read", "0xdead0000")),
        (BadAddress, ("read", "<img src=x>")),
        (BadAddress, ("munmap", "0xdead0000")),
        (BadAddress, ("migrate", "0x1000")),
        (BadAddress, ("video", hex(HEAP))),
        (BadSize, ("write", hex(HEAP), -1)),
        (BadSize, ("mmap", "0x600000", 65)),
        (BadSize, ("reclaim", 0)),
        (BadSize, ("balloon", 4096)),
        (BadSize, ("balloon", -1)),
        (BadChoice, ("switch", "nobody")),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(error, deed):
    spaces = done()
    before = all_pages(spaces.machine)
    with pytest.raises(error) as refused:
        VERBS[deed[0]].act(spaces, *deed[1:])
    assert "\n" not in str(refused.value)
    assert all_pages(spaces.machine) == before


@pytest.mark.parametrize(
    "error, space, address",
    [
        (BadChoice, "xpa", 0),
        (BadAddress, "hpa", 1 << 40),
        (BadAddress, "hva", 0x1000),
        (BadAddress, "gpa", 1 << 60),
    ],
)
def test_an_address_of_the_wrong_kind_is_refused(error, space, address):
    with pytest.raises(error):
        done().follow(space, address)


def test_a_machine_without_all_four_spaces_is_refused():
    with pytest.raises(BadChoice, match="no HVA"):
        follow(Machine("native"), "gva", 0)
    with pytest.raises(BadChoice, match="more than four"):
        follow(Machine("l2-ept", guest_memory="16M", host_memory="256M"), "gva", 0)


ANY = st.one_of(
    st.tuples(st.sampled_from(["read"]), st.integers(0, 9).map(lambda n: hex(HEAP + n * PAGE))),
    st.tuples(
        st.just("write"),
        st.integers(0, 7).map(lambda n: hex(HEAP + n * PAGE)),
        st.integers(0, 3),
    ),
    st.sampled_from([("fork",), ("merge",), ("reclaim", 16), ("balloon", 300), ("balloon", 0)]),
    st.sampled_from([("switch", "child1"), ("switch", "app"), ("munmap", hex(HEAP))]),
    st.just(("migrate", "")),
)


@pytest.mark.parametrize("mmu", DESIGNS)
@settings(max_examples=12)
@given(deeds=st.lists(ANY, max_size=8))
def test_whatever_happens_no_entry_leads_to_a_frame_that_is_anothers(mmu, deeds):
    spaces = done(mmu=mmu)
    for verb, *values in deeds:
        try:
            if verb == "migrate":
                spaces.migrate(hex(next((one.hva for one in spaces.pages if one.hpa), 0)))
            else:
                VERBS[verb].act(spaces, *values)
        except KvmlabError:
            continue
    for one in spaces.pages:
        assert direct(spaces.machine, one) in (None, one.hpa)
        if one.hpa is not None:
            assert (spaces.process.name, one.gva) in spaces.follow("hpa", one.hpa).gva


def test_a_learners_own_machine_is_followed_too():
    machine = Machine("ept", host_page="2M")
    process = machine.guest.spawn("mine")
    machine.guest.switch(process)
    process.mmap(0x200000, "2M", page="2M")
    machine.guest.touch(0x212345, Kind.WRITE)
    trail = follow(machine, "gva", 0x212345)
    chain = machine.chain(0x212345)
    assert (trail.gpa, trail.hva, trail.hpa) == ([chain.gpa], [chain.hva], [chain.hpa])
    assert follow(machine, "hpa", chain.hpa).gva == [("mine", 0x212345)]
