"""No byte is lost: reclaim, swap, KSM, split, collapse and migration against a shadow copy."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvmlab.host.ksm import RUN, STOP, UNMERGE
from tests.host.setting import HUGE, Setting

PAGES = 1024  # of each process: two blocks of 2 MiB
WHO = st.integers(0, 1)
WORD = st.sampled_from([0, 511])
PAGE = st.one_of(st.integers(0, PAGES - 1), st.integers(0, 15))


class ContentsSurvive(RuleBasedStateMachine):
    """Two processes of 4 MiB on a host of 9, with 8 MiB of swap."""

    @initialize(enabled=st.sampled_from(["always", "never"]), empty=st.sampled_from([511, 64]))
    def boot(self, enabled, empty):
        self.setting = Setting(9, 8, min_free_kbytes=128)
        self.host = self.setting.host
        self.host.huge.enabled = enabled
        self.host.khugepaged.settings.max_ptes_none = empty
        self.host.ksm.run = RUN
        self.places = []
        for _ in range(2):
            space, hva = self.setting.process(6)
            space.advise_mergeable(hva, wanted=True)
            self.places.append((space, -(-hva // HUGE) * HUGE))
        self.shadow = {}
        for who in (0, 1):
            self.fill(who, 0, 300, 1, 0)
            self.fill(who, 0, 300, 1, 511)

    def at(self, who, page):
        space, base = self.places[who]
        return space, base + page * 4096

    @rule(who=WHO, page=PAGE, value=st.integers(0, 5), word=WORD)
    def write(self, who, page, value, word):
        space, hva = self.at(who, page)
        self.setting.write(space, hva + word * 8, value)
        self.shadow[who, page, word] = value

    @rule(who=WHO, first=PAGE, count=st.integers(1, 600), value=st.integers(1, 5), word=WORD)
    def fill(self, who, first, count, value, word):
        for page in range(first, min(first + count, PAGES)):
            self.write(who, page, value + page % 7, word)

    @rule(who=WHO, page=PAGE, word=WORD)
    def read(self, who, page, word):
        space, hva = self.at(who, page)
        found = self.setting.read(space, hva + word * 8)
        assert found == self.shadow.get((who, page, word), 0)

    @rule(who=WHO, page=PAGE, count=st.integers(1, 600))
    def drop(self, who, page, count):
        count = min(count, PAGES - page)
        space, hva = self.at(who, page)
        space.madvise_dontneed(hva, count * 4096)
        for one in range(page, page + count):
            for word in (0, 511):
                self.shadow.pop((who, one, word), None)

    @rule(who=WHO, page=PAGE)
    def migrate(self, who, page):
        space, hva = self.at(who, page)
        leaf = space.table.find(hva)
        if leaf and leaf.present and self.host.buddy.has(leaf.shift - 12):
            space.migrate(hva)

    @rule(count=st.integers(1, 400))
    def reclaim(self, count):
        self.host.memory.reclaim.shrink(count, "direct")

    @rule()
    def split(self):
        self.host.huge.split_deferred()

    @rule(enabled=st.sampled_from(["always", "never"]))
    def collapse(self, enabled):
        self.host.huge.enabled = enabled
        self.host.khugepaged.scan()

    @rule(batches=st.integers(1, 4))
    def merge(self, batches):
        for _ in range(batches):
            self.host.ksm.scan(5000)

    @rule(value=st.sampled_from([STOP, UNMERGE]))
    def unmerge(self, value):
        self.host.ksm.run = value
        self.host.ksm.run = RUN

    @invariant()
    def every_frame_has_one_role(self):
        if hasattr(self, "setting"):
            self.setting.check()

    def teardown(self):
        if hasattr(self, "setting"):
            for (who, page, word), value in self.shadow.items():
                space, hva = self.at(who, page)
                assert self.setting.read(space, hva + word * 8) == value
            assert self.setting.stat["oom_kill"] == 0


TestContentsSurvive = ContentsSurvive.TestCase
TestContentsSurvive.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
