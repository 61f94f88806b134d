"""A machine with a balloon, as the tests of device, driver and monitor drive it."""

from kvmlab.base.clock import SECOND
from kvmlab.guest.balloon import BalloonDriver
from kvmlab.machine import Machine
from kvmlab.qemu.balloon import BalloonOptions
from kvmlab.qemu.machine import VIRTIO_MMIO

PATH = "/machine/peripheral/balloon0"
AREA = 0x1000_0000


def machine(memory="64M", mmu="ept", tap=None, **options):
    """An EPT machine whose balloon has these properties; ``driver`` says whether it is loaded."""
    driver = options.pop("driver", True)
    chosen = {name: options.pop(name) for name in list(options) if name in FIELDS}
    host = options.pop("host", f"{int(memory[:-1]) * 5 // 4 + 16}{memory[-1]}")
    given = {"tap": tap} if tap else {}
    made = Machine(mmu, guest_memory=memory, host_memory=host, **given, **options)
    made.attach_balloon(BalloonOptions(**chosen), driver=driver)
    return made


FIELDS = BalloonOptions.__dataclass_fields__


def load_driver(made, stats=None, poison=None):
    """Load the driver with statistics of the test's own."""
    made.balloon_driver = BalloonDriver(
        made.guest, VIRTIO_MMIO, made.clock, stats=stats, poison=poison, tap=made.tap
    )
    return made.balloon_driver


def qmp(made, command, **arguments):
    """What a command returns; fails if it returns an error."""
    answer = made.vmm.monitor.execute({"execute": command, "arguments": arguments})
    assert "error" not in answer, answer
    return answer["return"]


def refusal(made, command, **arguments):
    """The class and the text with which a command is refused."""
    error = made.vmm.monitor.execute({"execute": command, "arguments": arguments})["error"]
    return error["class"], error["desc"]


def resize(made, left, seconds=5):
    """Ask for ``left`` bytes, give the guest time, and return what query-balloon says then."""
    qmp(made, "balloon", value=left)
    made.clock.sleep(seconds * SECOND)
    return qmp(made, "query-balloon")["actual"]


def stats(made):
    """The guest's statistics as QOM shows them: (stats, last-update)."""
    shown = qmp(made, "qom-get", path=PATH, property="guest-stats")
    return shown["stats"], shown["last-update"]


def poll_every(made, seconds):
    """Set the polling interval."""
    qmp(made, "qom-set", path=PATH, property="guest-stats-polling-interval", value=seconds)


def mem_total(made):
    """MemTotal in KiB."""
    return made.guest.frames.managed * 4


def resident(made):
    """Bytes of the guest's memory that the host backs, from QEMU's own page table."""
    return sum(1 << shift for _hva, _hpa, shift in leaves(made))


def leaves(made):
    """(HVA, HPA, shift) of each page of QEMU's page table."""
    return list(_below(made.ram, made.qemu.process.root, 4, 0))


def _below(ram, table, level, base):
    shift = 12 + 9 * (level - 1)
    for index, entry in enumerate(ram.frame(table >> 12).tolist()):
        if entry & 1:
            target, hva = entry & 0x000F_FFFF_FFFF_F000, base | index << shift
            if level == 1 or entry & 0x80:
                yield hva, target, shift
            else:
                yield from _below(ram, target, level - 1, hva)


def process_with(made, pages, area=AREA):
    """A process that has written to so many pages; page n holds n + 1."""
    process = made.guest.spawn("demo")
    made.guest.switch(process)
    process.mmap(area, pages * 4096)
    for page in range(pages):
        made.guest.store(area + page * 4096, page + 1)
    return process
