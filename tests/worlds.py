"""One guest program on every design at once: what the guest sees must not tell them apart.

An operation is a plain tuple, so that a failing sequence can be read and repeated.  Operations
of the guest act for the process that runs; those of the host name a page of that process, whose
guest-physical address is the same under every design.
"""

from dataclasses import dataclass, field

from kvmlab.base.errors import SegmentationFault
from kvmlab.hardware.records import Kind, PageFault
from kvmlab.kvm.policy import POLICIES
from kvmlab.machine import Machine

DESIGNS = (
    ("native", {}),
    ("ept", {}),
    ("npt", {}),
    ("agile", {}),
    *(("shadow", {"policy": one.name}) for one in POLICIES),
)
AREAS = (0x1000_0000, 0x1020_0000, 0x7F12_3440_0000)  # two share a table, one has its own
PAGES = 3  # few, so that operations meet
LARGE = 2 << 20
PROCESSES = 4
BALLOON = 4
EXTRA = (9, 1 << 32, 1 << 16)  # a slot that the guest never uses: number, GPA, size
MEMORY = {"guest_memory": "16M", "host_memory": "32M"}
FIRMWARE = 256  # frames that are not the guest kernel's
SKIP = "-"


@dataclass
class World:
    """One machine, its processes, and what the guest has seen."""

    design: str
    options: dict
    faults: list = field(default_factory=list)

    def __post_init__(self):
        self.machine = Machine(self.design, tap=self._tap, **{**MEMORY, **self.options})
        self.guest = self.machine.guest
        self.family = [None] * PROCESSES
        self.family[0] = self.guest.spawn("p0")
        self.guest.switch(self.family[0])
        self.inflated = []
        self.slot_there = False
        self.words = {self.family[0]: {}}  # what each process wrote last, by area and page

    def _tap(self, record):
        if isinstance(record, PageFault):
            self.faults.append((record.gva, record.error_code))

    def do(self, operation):
        """Perform one operation; returns what the guest can tell of it."""
        name, *rest = operation
        del self.faults[:-64]
        try:
            return getattr(self, name)(*rest)
        except SegmentationFault:
            return "SIGSEGV"

    # -- the guest ----------------------------------------------------------------------

    @property
    def process(self):
        return self.guest.current

    def load(self, area, page):
        value = self.guest.load(AREAS[area] + page * 4096 + 8)
        assert value == self.words[self.process].get((area, page), 0), "another process's word"
        return value

    def store(self, area, page, value):
        self.guest.store(AREAS[area] + page * 4096 + 8, value)
        self.words[self.process][area, page] = value

    def fetch(self, area, page):
        return self.guest.touch(AREAS[area] + page * 4096, Kind.FETCH)

    def map(self, area, write, large):
        if self.process.vma_at(AREAS[area]):
            return SKIP
        size, page = (LARGE, LARGE) if large else (PAGES << 12, 4096)
        return self.process.mmap(AREAS[area], size, write=write, execute=write, page=page).end

    def unmap(self, area):
        if not self.process.vma_at(AREAS[area]):
            return SKIP
        for page in range(PAGES + 1):
            self.words[self.process].pop((area, page), None)
        return self.process.munmap(AREAS[area])

    def protect(self, area, write):
        if not self.process.vma_at(AREAS[area]):
            return SKIP
        return self.process.mprotect(AREAS[area], write=write)

    def fork(self, who):
        if self.family[who]:
            return SKIP
        self.family[who] = self.guest.fork(f"p{who}")
        self.words[self.family[who]] = dict(self.words[self.process])
        return len(self.guest.processes)

    def exec(self):
        self.words[self.process] = {}
        self.guest.exec(self.process.name + "x" if len(self.process.name) < 4 else "p")
        return self.process.name

    def exit(self, who):
        others = [one for number, one in enumerate(self.family) if one and number != who]
        process = self.family[who]
        if not process or not others:
            return SKIP
        if process is self.process:
            self.guest.switch(others[0])
        self.guest.exit(process)
        self.family[who] = None
        del self.words[process]
        return len(self.guest.processes)

    def wait(self):
        found = self.guest.wait()
        return found.name if found else None

    def switch(self, who):
        if not self.family[who]:
            return SKIP
        return self.guest.switch(self.family[who])

    def syscall(self):
        return self.guest.syscall()

    def inflate(self):
        """The balloon driver takes a free page, and the host takes the frame behind it."""
        if len(self.inflated) == BALLOON:
            return SKIP
        gpa = self.guest.frames.alloc()
        self.inflated.append(gpa)
        self._take(gpa)
        return gpa

    def deflate(self):
        if not self.inflated:
            return SKIP
        with self.guest.contexts.entered():
            return self.guest.frames.release(self.inflated.pop(), 0)

    def memory(self):
        """The guest's memory that is not zero: its tables with their A and D bits, its data."""
        image = self.machine.ram.image()
        if not self.machine.vm:
            return {pfn << 12: image[pfn] for pfn in image if pfn >= FIRMWARE}
        pages = range(FIRMWARE << 12, self.machine.vm.slots.find(0).size, 4096)
        found = {gpa: self.machine.vm.look(gpa) for gpa in pages}
        return {
            gpa: image[one.host.address >> 12]
            for gpa, one in found.items()
            if one and one.host.address >> 12 in image
        }

    # -- the host -----------------------------------------------------------------------

    def reclaim(self, area, page):
        """Give a page of the process back to the host: it reads as zeroes afterwards."""
        gpa = self.machine.chain(AREAS[area] + page * 4096).gpa
        if gpa is not None:
            for process, words in self.words.items():
                if self.machine._gpa(process.root, AREAS[area] + page * 4096) == gpa:
                    words.pop((area, page), None)  # a page that fork shares goes for all
            self._take(gpa)
        return gpa

    def _take(self, gpa):
        if self.machine.vm:
            self.machine.qemu.process.madvise_dontneed(self.hva(gpa), 4096)
        else:
            self.machine.ram.discard(gpa >> 12)

    def migrate(self, area, page):
        """Move the frame behind a page of the process, or behind the table that maps it."""
        gva = AREAS[area] + page * 4096
        for gpa in (self.machine.chain(gva).gpa, self.process.root):
            if self.machine.vm and gpa is not None and self.machine.vm.look(gpa):
                self.machine.qemu.process.migrate(self.hva(gpa))

    def slot(self):
        """Add a slot that the guest does not use, or delete it: KVM may drop all it has built."""
        if self.machine.vm:
            number, gpa, size = EXTRA
            hva = self.machine.vm.slots.find(0).hva
            self.machine.vm.set_region(number, gpa, 0 if self.slot_there else size, hva)
            self.slot_there = not self.slot_there

    def hva(self, gpa):
        return self.machine.vm.slots.find(gpa).hva_of(gpa)


def operations(choose):
    """Random operations for ever, as one program; ``choose`` is a `random.Random`."""
    while True:
        area, page = choose.randrange(len(AREAS)), choose.randrange(PAGES + 1)
        who, flag = choose.randrange(PROCESSES), choose.random() < 0.7
        [kind] = choose.choices([*_WEIGHTS], [*_WEIGHTS.values()])
        yield {
            "store": ("store", area, page, choose.getrandbits(16)),
            "map": ("map", area, flag, choose.random() < 0.1),
            "protect": ("protect", area, flag),
            **{one: (one, area, page) for one in ("load", "fetch", "reclaim", "migrate")},
            **{one: (one, who) for one in ("fork", "exit", "switch")},
            "unmap": ("unmap", area),
        }.get(kind, (kind,))


_WEIGHTS = {
    "store": 30,
    "load": 20,
    "fetch": 4,
    "map": 24,
    "unmap": 5,
    "protect": 4,
    "fork": 4,
    "exec": 1,
    "exit": 2,
    "wait": 1,
    "switch": 6,
    "syscall": 2,
    "inflate": 2,
    "deflate": 2,
    "reclaim": 2,
    "migrate": 2,
    "slot": 0.5,
}
