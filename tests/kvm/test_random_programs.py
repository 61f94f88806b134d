"""Random guest programs on every design: one machine to the guest, and invariants all the way.

After every operation of guest or host: frames have one role; no EPT leaf, shadow leaf or TLB
entry leads to a frame that the host took back or moved; what the hardware can reach is what the
guest's tables say; loaded values, page faults and guest memory are those of the bare machine.
"""

import functools
import hashlib
import random
from itertools import islice

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvmlab.hardware.tlb import SKYLAKE, TINY, UNIFIED
from tests.invariants import check
from tests.worlds import AREAS, DESIGNS, PAGES, PROCESSES, SKIP, World, operations

AREA, PAGE = st.integers(0, len(AREAS) - 1), st.integers(0, PAGES)
WHO = st.integers(0, PROCESSES - 1)
SETTINGS = (
    {"geometry": UNIFIED},
    {"geometry": SKYLAKE, "pcid": True},
    {"geometry": TINY, "kpti": True},
    {"geometry": TINY, "kpti": True, "pcid": True},
    {"geometry": SKYLAKE, "guest_levels": 5},
)


class Programs(RuleBasedStateMachine):
    """One program on all designs at once."""

    @initialize(options=st.sampled_from(SETTINGS), write=st.booleans())
    def begin(self, options, write):
        self.worlds = [World(design, {**more, **options}) for design, more in DESIGNS]
        for area in range(len(AREAS)):
            self.all("map", area, write or area > 0, large=area == 1)

    def all(self, *operation, **named):
        operation = (*operation, *named.values())
        native, *others = [(one.do(operation), list(one.faults)) for one in self.worlds]
        for world, seen in zip(self.worlds[1:], others, strict=True):
            assert seen == native, (world.design, world.options, operation)

    @rule(area=AREA, page=PAGE)
    def load(self, area, page):
        self.all("load", area, page)

    @rule(area=AREA, page=PAGE, value=st.integers(0, 255))
    def store(self, area, page, value):
        self.all("store", area, page, value)

    @rule(area=AREA, page=PAGE)
    def fetch(self, area, page):
        self.all("fetch", area, page)

    @rule(area=AREA, write=st.booleans(), large=st.booleans())
    def map(self, area, write, large):
        self.all("map", area, write, large)

    @rule(area=AREA)
    def unmap(self, area):
        self.all("unmap", area)

    @rule(area=AREA, write=st.booleans())
    def protect(self, area, write):
        self.all("protect", area, write)

    @rule(who=WHO, then=st.booleans())
    def fork(self, who, then):
        self.all("fork", who)
        if then:
            self.all("switch", who)

    @rule()
    def exec(self):
        self.all("exec")

    @rule(who=WHO)
    def exit(self, who):
        self.all("exit", who)
        self.all("wait")

    @rule(who=WHO)
    def switch(self, who):
        self.all("switch", who)
        self.all("syscall")

    @rule(inflate=st.booleans())
    def balloon(self, inflate):
        self.all("inflate" if inflate else "deflate")

    @rule(area=AREA, page=PAGE)
    def reclaim(self, area, page):
        self.all("reclaim", area, page)

    @rule(area=AREA, page=PAGE)
    def migrate(self, area, page):
        self.all("migrate", area, page)

    @rule()
    def slot(self):
        self.all("slot")

    @invariant()
    def holds(self):
        for world in getattr(self, "worlds", ()):
            check(world.machine)

    def teardown(self):
        native, *others = getattr(self, "worlds", [None])
        for world in others:
            assert world.memory() == native.memory(), (world.design, world.options)


class TestPrograms(Programs.TestCase):
    settings = settings(max_examples=8, stateful_step_count=30)


@pytest.mark.long
class TestManyPrograms(Programs.TestCase):
    settings = settings(max_examples=150, stateful_step_count=50)


def run(design, options, seed, count, every):
    """A digest of all that the guest saw of ``count`` operations and of its memory at the end."""
    world, seen = World(design, options), hashlib.sha256()
    done = 0
    for number, operation in enumerate(islice(operations(random.Random(seed)), count)):
        result = world.do(operation)
        done += result != SKIP
        seen.update(repr((result, world.faults)).encode())
        if number % every == 0:
            check(world.machine)
    check(world.machine)
    seen.update(repr(sorted(world.memory().items())).encode())
    return seen.hexdigest(), done


def test_a_few_hundred_random_operations_end_alike_and_true():
    """A sample of the long test below."""
    native, done = run("native", SETTINGS[0], 1, 300, 50)
    assert done > 150
    for design, options in DESIGNS[1:]:
        assert run(design, {**options, **SETTINGS[0]}, 1, 300, 50)[0] == native, (design, options)


@functools.cache
def native_run(part):
    return run("native", SETTINGS[part], part, 20_000, 1000)


@pytest.mark.long
@pytest.mark.parametrize("design, options", DESIGNS[1:], ids=str)
def test_100_000_random_operations_of_a_design_end_alike_and_true(design, options):
    """A fuzz run for each design, in parts with other machines; invariants as it goes."""
    total = 0
    for part, more in enumerate(SETTINGS):
        native, done = native_run(part)
        seen, same = run(design, {**options, **more}, part, 20_000, 100)
        assert (seen, same) == (native, done), (design, options, more)
        total += done
    print(f"{design} {options}: {total} of 100000 operations had something to do")
