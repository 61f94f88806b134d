"""A real guest's balloon, recorded while it moved, and the same actions here.

Linux 6.1 in QEMU 7.2 with 512 MiB (tests/data/balloon_series.json and libvirt_dommemstat.json);
our guest is a 16th as large, and full size in the long run.  RSS is compared by its changes:
the real QEMU has memory of its own.  A change below 16 MiB is none (1 MiB here).  `minor_fault` is
left out of the first recording, whose guest ran a shell every second.
"""

import json
from pathlib import Path

import pytest

from kvmlab.base.clock import SECOND
from kvmlab.machine import Server, connect
from kvmlab.management.virsh import virsh

DATA = Path(__file__).parent / "data"
SERIES = json.loads((DATA / "balloon_series.json").read_text(encoding="utf-8"))
LIBVIRT = json.loads((DATA / "libvirt_dommemstat.json").read_text(encoding="utf-8"))["log"]
MIB, LEAST = 512, 16 << 10  # KiB
XML = """<domain type='kvm'><name>kvmlab</name><memory unit='MiB'>{}</memory>
<os><type>hvm</type></os><devices><memballoon model='virtio' {}><stats period='1'/></memballoon>
</devices></domain>"""
QMP = {
    "swap-in": "swap_in",
    "swap-out": "swap_out",
    "major-faults": "major_fault",
    "free-memory": "unused",
    "available-memory": "usable",
    "total-memory": "available",
    "disk-caches": "disk_caches",
}
sizes = pytest.mark.parametrize(
    "scale", [pytest.param(16, id="a 16th"), pytest.param(1, id="whole", marks=pytest.mark.long)]
)


class Guest:
    """A domain under libvirt; its numbers are given as those of the recorded size."""

    def __init__(self, scale, options=""):
        self.scale, self.server = scale, Server(f"{2 * MIB // scale}M")
        self.connection = connect(self.server)
        self.domain = self.connection.createXML(XML.format(MIB // scale, options))
        self.tmpfs = self.domain._run.emulator.machine.guest.frames.manager.tmpfs

    def fill(self, file, mib):
        for page in range((mib << 8) // self.scale):
            self.tmpfs.write(file, page, (page + 1).to_bytes(4096, "little"))

    def setmem(self, mib):
        printed = virsh(self.connection, f"setmem kvmlab {(mib << 10) // self.scale}")
        assert (printed.out, printed.err) == ("\n", "")

    def settled(self):
        """What libvirt knows when all work is done, after enough polls."""
        self.server.clock.sleep(5 * SECOND)
        return {name: value * self.scale for name, value in self.domain.memoryStats().items()}


def did(guest, note):
    """The action that a note of the recording names."""
    match note.split():
        case ["guest", "filled", mib, *_]:
            guest.fill(1, int(mib))
        case ["guest", "freed", *_]:
            guest.tmpfs.remove(1)
        case ["balloon", "->", mib, "MiB"]:
            guest.setmem(int(mib))
        case ["deflated", *_] | ["deflated;", *_]:
            guest.fill(2, 200)


def moments(run):
    """Each action of a recording, and what it had led to when the next one began.

    Statistics are of the last row before, since polls are a second apart; RSS is of the moment.
    """
    found = []
    for row in SERIES[run]["rows"]:
        if row["note"] and not row["note"].startswith("at "):
            if found and row["note"].startswith("balloon"):  # a note before the deed
                found[-1][1] |= {"rss": row["host_kB"]["VmRSS"]}
            found.append([row["note"], {}])
        found[-1][1] = in_kib(row)
    return found


def in_kib(row):
    """A recorded row under libvirt's names."""
    stats = {name: row["stats"][key] for key, name in QMP.items()}
    for name in set(stats) - {"major_fault"}:
        stats[name] >>= 10
    return stats | {"actual": row["actual"] >> 10, "rss": row["host_kB"]["VmRSS"]}


def reserved(row):
    """What MemTotal is short of `actual`: always the same, but while the balloon moves."""
    return row["actual"] - row["available"]


def change(name, before, after):
    moved = after[name] - before[name]
    return 0 if abs(moved) < LEAST else moved


def same_change(ours, real, *, signs):
    """Of two (before, after): `actual` must agree, and RSS within a tenth; then, by sign, the rest.

    The change of MemTotal must be the same.  Returns False if a poll found the balloon half way:
    then nothing is said of the statistics.
    """
    assert ours[1]["actual"] == real[1]["actual"]
    assert change("rss", *ours) == pytest.approx(change("rss", *real), rel=0.1)
    if reserved(real[0]) != reserved(real[1]):
        return False
    totals = [now["available"] - was["available"] for was, now in (ours, real)]
    assert totals[0] == totals[1]
    for name in signs:
        one, other = change(name, *ours), change(name, *real)
        assert (one > 0, one < 0) == (other > 0, other < 0), name
    return True


@sizes
@pytest.mark.parametrize("run, settled", [("plain", 6), ("free_page_reporting", 2)])
def test_the_recorded_series_of_a_balloon_comes_from_the_same_actions(run, settled, scale):
    guest = Guest(scale, "freePageReporting='on'" if run == "free_page_reporting" else "")
    (filled, real), *others = moments(run)
    did(guest, filled)
    ours, found = guest.settled(), 0
    for note, then in others:
        did(guest, note)
        now = guest.settled()
        found += same_change((ours, now), (real, then), signs=QMP.values())
        ours, real = now, then
    assert found == settled


@sizes
def test_what_libvirt_recorded_comes_from_the_same_commands(scale):
    """What the guest touched before is not recorded: here, as much as the balloon then found."""
    rows = [one for one in LIBVIRT if "memoryStats" in one]
    first = next(one["out"] for one in LIBVIRT if one["cmd"].endswith("dommemstat kvmlab"))
    real = {
        name: int(value) for name, value in (line.split() for line in first.split("\n") if line)
    }
    guest = Guest(scale)
    guest.fill(1, real["rss"] - rows[0]["memoryStats"]["rss"] >> 10)
    guest.tmpfs.remove(1)
    ours = guest.settled()
    commands = [one["cmd"] for one in LIBVIRT if " setmem " in one.get("cmd", "")]
    for command, row in zip(commands, rows, strict=True):
        guest.setmem(int(command.split()[5].rstrip("M")))
        now, then = guest.settled(), row["memoryStats"]
        assert same_change((ours, now), (real, then), signs=[*QMP.values(), "minor_fault"])
        state, most, used, cpus, _time = guest.domain.info()
        assert [state, most * scale, used * scale, cpus] == row["info"][:4]
        ours, real = now, then
