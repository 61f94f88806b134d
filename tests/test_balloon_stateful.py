"""No byte is lost: a shadow copy of all contents through balloon cycles, reports and migrations."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvmlab.base.clock import SECOND
from kvmlab.base.errors import OutOfMemory
from tests.balloon_under_test import AREA, leaves, machine, qmp
from tests.kvm.test_invariants import check_frames

RAM, PAGES = 8, 700  # MiB of the guest; pages of its process
MIB = 1 << 20


class Ballooned(RuleBasedStateMachine):
    """A process writes, its guest is ballooned, compacted and reported; it reads what it wrote."""

    @initialize(mmu=st.sampled_from(["ept", "shadow"]), bit2=st.booleans(), report=st.booleans())
    def boot(self, mmu, bit2, report):
        self.made = machine(f"{RAM}M", mmu, deflate_on_oom=bit2, free_page_reporting=report)
        guest = self.made.guest
        self.process = guest.spawn("shadowed")
        guest.switch(self.process)
        self.process.mmap(AREA, PAGES * 4096)
        self.written = {}
        self.frames = guest.frames.buddy.total

    @rule(pages=st.lists(st.integers(0, PAGES - 1), max_size=25), value=st.integers(1, 1 << 60))
    def write(self, pages, value):
        for number, page in enumerate(pages):
            offset = 8 * (value % 512)
            try:
                self.made.guest.store(AREA + page * 4096 + offset, value + number)
            except OutOfMemory:
                return  # the balloon holds it all
            self.written[page, offset] = value + number

    @rule(left=st.integers(1, RAM * MIB), tenths=st.integers(0, 30))
    def balloon(self, left, tenths):
        qmp(self.made, "balloon", value=left)
        self.made.clock.sleep(tenths * SECOND // 10)

    @rule(tenths=st.integers(0, 50))
    def wait(self, tenths):
        self.made.clock.sleep(tenths * SECOND // 10)

    @rule(choice=st.integers(0, 10_000))
    def compact(self, choice):
        pages = self.made.balloon_driver.pages
        if pages:
            self.made.balloon_driver.migrate(pages[choice % len(pages)])

    @precondition(lambda self: self.written)
    @rule()
    def unmap(self):
        self.process.munmap(AREA)
        self.written.clear()
        self.process.mmap(AREA, PAGES * 4096)

    @rule()
    def reload(self):
        self.made.balloon_driver.unload()
        assert self.made.balloon.actual == 0
        self.made.load_balloon_driver()

    @rule()
    def fresh_pages_read_as_zeroes(self):
        guest = self.made.guest
        pages = guest.frames.take(64)
        for page in pages:
            assert guest.cpu.load(guest.direct_map + page, 4096) == 0
        guest.frames.give_back(pages)

    @invariant()
    def every_byte_is_where_it_was_written(self):
        for (page, offset), value in getattr(self, "written", {}).items():
            assert self.made.guest.load(AREA + page * 4096 + offset) == value

    @invariant()
    def the_numbers_agree(self):
        if not hasattr(self, "made"):
            return
        driver, frames = self.made.balloon_driver, self.made.guest.frames
        assert len(set(driver.pages)) == len(driver.pages)
        assert self.made.balloon.actual == len(driver.pages)
        bit2 = 2 in driver.features
        assert frames.managed == self.frames - (0 if bit2 else len(driver.pages))
        slot = self.made.vm.slots.find(0)
        backed = {hva - slot.hva for hva, _, _ in leaves(self.made)}
        assert backed.isdisjoint(driver.pages)  # what is in the balloon is not in the host

    def teardown(self):
        if hasattr(self, "made"):
            check_frames(self.made)


few = settings(
    max_examples=25, stateful_step_count=15, suppress_health_check=list(HealthCheck), deadline=None
)
TestBallooned = Ballooned.TestCase
TestBallooned.settings = few
