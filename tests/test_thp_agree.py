"""A guest with transparent huge pages sees the same under every design, and loses no byte.

Programs that map, fork, write, unmap parts, drop, swap and collapse run on native, EPT, shadow,
agile paging and NPT at once; what differs is what the hypervisor does, never what the guest finds.
"""

import random

import pytest

from kvmlab.base.errors import SegmentationFault
from kvmlab.guest.reclaim import Reclaimer
from kvmlab.guest.records import EntrySplit, PagesCollapsed
from kvmlab.hardware.records import Kind, PageFault, Step
from kvmlab.kvm.policy import POLICIES
from kvmlab.machine import Machine, Server

HUGE, AREA = 2 << 20, 0x1000_0000
AREAS = (AREA, AREA + 0x41_0000)  # the second begins 64 KiB into a block
SIZE, PAGES = 0x40_0000, (0, 1, 300, 511, 512, 700, 1023)
DESIGNS = (
    ("native", {}),
    ("ept", {}),
    ("npt", {}),
    ("agile", {}),
    *(("shadow", {"policy": one.name}) for one in POLICIES),
)
HOSTS = ("never", "always")  # THP of the host


class World:
    """One guest, its processes, and a shadow copy of what each wrote."""

    def __init__(self, design, options, host="never", levels=4):
        self.seen = []
        common = {"guest_memory": "16M", "guest_levels": levels, "tap": self.tap} | options
        if design == "native":
            self.machine = Machine(design, **common)
        else:
            server = Server("64M")
            server.host.huge.enabled = host
            self.machine = Machine(design, server=server, **common)
        self.guest = self.machine.guest
        self.reclaimer = Reclaimer(self.guest, swap=64 << 20, min_free_kbytes=256)
        self.reclaimer.huge.enabled = "always"
        self.words = {}
        self.spawn()

    def tap(self, record):
        if isinstance(record, PageFault | EntrySplit | PagesCollapsed):
            self.seen.append(record)

    def spawn(self):
        process = self.guest.spawn("p")
        self.words[process] = {}
        self.guest.switch(process)

    @property
    def process(self):
        return self.guest.current

    def do(self, operation):
        """Perform one operation; returns what the guest can tell of it.

        A bits that reclaim clears without a flush are set anew once nothing is in the TLB, which
        the guest sees to here: when else is up to each design.
        """
        name, *rest = operation
        self.guest.switch(self.process)
        self.seen.clear()
        try:
            found = getattr(self, name)(*rest)
        except SegmentationFault:
            found = "SIGSEGV"
        return found, [str(one) for one in self.seen], self.reclaimer.stat.fields()

    def store(self, area, page, value):
        self.guest.store(AREAS[area] + page * 4096 + 8, value)
        self.words[self.process][area, page] = value

    def load(self, area, page):
        value = self.guest.load(AREAS[area] + page * 4096 + 8)
        assert value == self.words[self.process].get((area, page), 0)
        return value

    def map(self, area):
        if not any(AREAS[area] <= one.start < AREAS[area] + SIZE for one in self.process.vmas):
            self.process.mmap(AREAS[area], SIZE)

    def _within(self, area, page, count):
        start = AREAS[area] + page * 4096
        vma = self.process.vma_at(start)
        length = min(count * 4096, vma.end - start) if vma else 0
        return start, length

    def _gone(self, area, page, length):
        for one in range(page, page + length // 4096):
            self.words[self.process].pop((area, one), None)

    def unmap(self, area, page, count):
        start, length = self._within(area, page, count)
        if length:
            self.process.munmap(start, length)
            self._gone(area, page, length)

    def drop(self, area, page, count):
        start, length = self._within(area, page, count)
        if length:
            self.process.madvise_dontneed(start, length)
            self._gone(area, page, length)

    def protect(self, area, page, count, write):
        start, length = self._within(area, page, count)
        if length:
            self.process.mprotect(start, length, write=write)

    def advise(self, area, wanted):
        if self.process.vma_at(AREAS[area]):
            self.process.advise_huge(AREAS[area], wanted=wanted)

    def fork(self):
        if len(self.words) < 3:
            self.words[self.guest.fork("child")] = dict(self.words[self.process])

    def switch(self, who):
        processes = list(self.words)
        self.guest.switch(processes[who % len(processes)])

    def exit(self):
        del self.words[self.process]
        self.guest.exit(self.process)
        if self.words:
            self.switch(0)
        else:
            self.spawn()

    def reclaim(self, pages):
        self.reclaimer.memory.reclaim.shrink(pages, "direct")

    def collapse(self):
        self.reclaimer.khugepaged.scan()

    def split(self):
        return self.reclaimer.huge.split_deferred()

    def check(self):
        """Every byte is where it was written."""
        for process, words in self.words.items():
            self.guest.switch(process)
            for (area, page), value in words.items():
                gva = AREAS[area] + page * 4096
                assert self.guest.load(gva + 8) == value


def operations(seed, count):
    """A random program."""
    choose = random.Random(seed)
    names = ("store",) * 12 + ("load",) * 6 + ("map",) * 4 + ("unmap", "drop", "protect") * 2
    names += ("advise", "fork", "switch", "switch", "exit", "reclaim", "collapse", "split")
    yield ("map", 0)
    for _ in range(count):
        area, page, many = choose.randrange(2), choose.choice(PAGES), choose.choice((1, 212, 512))
        name = choose.choice(names)
        flag = choose.random() < 0.7
        rest = {
            "store": (area, page, choose.getrandbits(16)),
            "load": (area, page),
            "map": (area,),
            "unmap": (area, page, many),
            "drop": (area, page, many),
            "protect": (area, page, many, flag),
            "advise": (area, flag),
            "switch": (choose.randrange(3),),
            "reclaim": (choose.choice((30, 300)),),
        }.get(name, ())
        yield (name, *rest)


@pytest.mark.parametrize("seed", range(3))
def test_every_design_shows_the_guest_the_same(seed):
    worlds = [World(design, options, HOSTS[seed % 2]) for design, options in DESIGNS]
    for number, operation in enumerate(operations(seed, 60)):
        first, *others = [world.do(operation) for world in worlds]
        for (design, options), found in zip(DESIGNS[1:], others, strict=True):
            assert found == first, f"{design} {options} differs at {number}: {operation}"
    images = [world.guest.frames.buddy.free_blocks() for world in worlds]
    assert images == [images[0]] * len(images)
    for world in worlds:
        world.check()


@pytest.mark.long
@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("seed", range(10, 18))
def test_every_design_shows_the_guest_the_same_for_longer(seed, levels):
    designs = [one for one in DESIGNS if levels > 3 or one[0] != "agile"]
    worlds = [World(*one, HOSTS[seed % 2], levels) for one in designs]
    for number, operation in enumerate(operations(seed, 200)):
        first, *others = [world.do(operation) for world in worlds]
        assert others == [first] * len(others), f"differs at {number}: {operation}"
    for world in worlds:
        world.check()


@pytest.mark.parametrize("seed", range(100, 106))
def test_a_long_program_on_the_metal_loses_no_byte(seed):
    world = World("native", {})
    for operation in operations(seed, 150):
        world.do(operation)
    world.check()


@pytest.mark.parametrize(
    "guest, host, references",
    [
        ("never", "never", 24),
        ("always", "never", 19),
        ("never", "always", 19),
        ("always", "always", 15),
    ],
)
def test_references_of_a_complete_miss_are_24_19_19_and_15(guest, host, references):
    records = []
    server = Server("128M", tap=records.append)
    server.host.huge.enabled = host
    machine = Machine("ept", guest_memory="32M", server=server, tap=records.append)
    Reclaimer(machine.guest).huge.enabled = guest
    process = machine.guest.spawn("demo")
    machine.guest.switch(process)
    process.mmap(AREA, "8M")
    machine.guest.touch(AREA + 0x20_3000, Kind.WRITE)
    machine.cpu.flush_tlb()
    records.clear()
    machine.guest.touch(AREA + 0x20_3000, Kind.READ)
    assert sum(isinstance(one, Step) for one in records) == references


def test_a_huge_page_of_the_guest_is_huge_in_ept_only_where_the_hosts_is_congruent():
    """The guest's 2 MiB lie on 2 MiB of its memory; whether EPT's leaf is large is the host's."""
    for host, level in (("never", 1), ("always", 2)):
        server = Server("128M")
        server.host.huge.enabled = host
        machine = Machine("ept", guest_memory="32M", server=server)
        Reclaimer(machine.guest).huge.enabled = "always"
        process = machine.guest.spawn("demo")
        machine.guest.switch(process)
        process.mmap(AREA, HUGE)
        machine.guest.store(AREA + 0x3000, 1)
        chain = machine.chain(AREA + 0x3000)
        assert chain.gpa % HUGE == 0x3000
        assert (chain.hva - chain.gpa) % HUGE == 0
        assert machine.vcpu.mmu.direct.tree.find(chain.gpa).level == level
        assert (chain.hpa % HUGE == 0x3000) == (level == 2)
