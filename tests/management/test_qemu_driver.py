"""libvirt's QEMU driver: what it asks of QEMU's monitor, and what it makes of the answers.

The QEMU here is a script; `QEMU_STATS` and the texts are those of a recording of libvirt 9.0 with
a real guest (tests/data/libvirt_dommemstat.json).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kvmlab.management.connection import virConnect
from kvmlab.management.drivers import QemuDriver
from kvmlab.management.libvirt_errors import libvirtError
from kvmlab.management.virsh import virsh

RECORDED = json.loads(
    (Path(__file__).parents[1] / "data" / "libvirt_dommemstat.json").read_text(encoding="utf-8")
)["log"]
UNKNOWN = (1 << 64) - 1
QEMU_STATS = {
    "stat-swap-in": 0,
    "stat-swap-out": 0,
    "stat-major-faults": 0,
    "stat-minor-faults": 942,
    "stat-free-memory": 452944 << 10,
    "stat-total-memory": 480284 << 10,
    "stat-available-memory": 452688 << 10,
    "stat-disk-caches": 2216 << 10,
    "stat-htlb-pgalloc": 0,
    "stat-htlb-pgfail": 0,
}
XML = """<domain type='kvm'><name>kvmlab</name><memory unit='MiB'>512</memory>%s
<os><type>hvm</type></os><devices>%s</devices></domain>"""


@dataclass
class Script:
    """A QEMU that answers from memory and keeps what it was asked."""

    definition: object
    actual: int = 512 << 20
    stats: dict = field(default_factory=lambda: dict(QEMU_STATS))
    last_update: int = 1795391808
    asked: list = field(default_factory=list)
    alive: bool = True
    balloon: bool = True

    def qmp(self, request):
        self.asked.append(request)
        arguments = request.get("arguments", {})
        if request["execute"] in ("balloon", "query-balloon") and not self.balloon:
            desc = "No balloon device has been activated"
            return {"error": {"class": "DeviceNotActive", "desc": desc}}
        if request["execute"] == "balloon":
            self.actual = arguments["value"]
        if request["execute"] == "query-balloon":
            return {"return": {"actual": self.actual}}
        if request["execute"] == "qom-get":
            return {"return": {"stats": self.stats, "last-update": self.last_update}}
        return {"return": {}}

    def rss(self):
        return 425316

    def cpu_time(self):
        return 5_400_000_000

    def stop(self):
        self.alive = False


class Host:
    """A connection whose QEMUs are scripts."""

    def __init__(self, **options):
        self.qemus = []
        driver = QemuDriver(self.launch, ["x86_64", 4096, 1, 3000, 1, 1, 1, 1], dict, **options)
        self.connection = virConnect(driver, "qemu:///system")

    def launch(self, definition):
        self.qemus.append(Script(definition))
        return self.qemus[-1]

    def start(self, extra="", devices="<memballoon model='virtio'/>"):
        domain = self.connection.createXML(XML % (extra, devices))
        return domain, self.qemus[-1]


def recorded(command):
    return next(one["out"] for one in RECORDED if one.get("cmd", "").endswith(command))


def test_dommemstat_prints_a_real_guest_s_statistics_line_for_line():
    host = Host()
    host.start()
    assert virsh(host.connection, "dommemstat kvmlab").out == recorded("dommemstat kvmlab")


def test_dominfo_prints_what_virsh_printed_for_the_real_guest():
    host = Host()
    host.start()
    ours = virsh(host.connection, "dominfo kvmlab").out.splitlines()
    real = recorded("dominfo kvmlab").splitlines()
    own = ("UUID", "Messages")  # another domain's, and a warning of how that libvirt was run
    assert [one for one in ours if not one.startswith(own)] == [
        one for one in real if not one.startswith(own)
    ]


def test_domstats_lists_the_balloon_under_its_own_names():
    host = Host()
    host.start()
    ours = virsh(host.connection, "domstats --balloon kvmlab").out.splitlines()
    real = recorded("domstats --balloon kvmlab").splitlines()
    assert [one.partition("=")[0] for one in ours] == [one.partition("=")[0] for one in real]


def test_without_a_device_there_is_only_rss_and_setmem_says_why_not():
    host = Host()
    domain, qemu = host.start(devices="<memballoon model='none'/>")
    assert domain.memoryStats() == {"rss": 425316}
    printed = virsh(host.connection, "setmem kvmlab 256M")
    assert printed.err == (
        "error: Requested operation is not valid: Unable to change memory of active domain "
        "without the balloon device and guest OS balloon driver\n"
    )
    assert printed.status == 1
    with pytest.raises(libvirtError, match="can not set the collection period"):
        domain.setMemoryStatsPeriod(10)
    assert qemu.asked == []


def test_without_a_driver_in_the_guest_only_actual_and_rss_are_known():
    host = Host()
    _, qemu = host.start()
    qemu.stats = dict.fromkeys(QEMU_STATS, UNKNOWN)
    qemu.last_update = 0
    assert virsh(host.connection, "dommemstat kvmlab").out == (
        "actual 524288\nlast_update 0\nrss 425316\n\n"
    )


@pytest.mark.parametrize("error", ["DeviceNotActive", "KVMMissingCap"])
def test_a_qemu_without_a_balloon_is_no_error(error):
    host = Host()
    domain, qemu = host.start()
    answer = {"error": {"class": error, "desc": "no balloon"}}
    qemu.qmp = lambda _request: answer
    assert domain.memoryStats() == {"rss": 425316}


@pytest.mark.parametrize(
    "version,absent",
    [
        (1_002_001, {"usable", "last_update", "disk_caches", "hugetlb_pgalloc", "hugetlb_pgfail"}),
        (2_001_000, {"disk_caches", "hugetlb_pgalloc", "hugetlb_pgfail"}),
        (4_006_000, {"hugetlb_pgalloc", "hugetlb_pgfail"}),
        (9_000_000, set()),
    ],
)
def test_an_older_libvirt_knows_fewer_statistics(version, absent):
    whole, old = Host(), Host(lib_version=version)
    new, found = (one.start()[0].memoryStats() for one in (whole, old))
    assert set(new) - set(found) == absent
    assert list(found) == [name for name in new if name not in absent]


def test_a_start_with_less_current_memory_and_a_period_sets_both():
    host = Host()
    extra = "<currentMemory unit='MiB'>256</currentMemory>"
    balloon = "<memballoon model='virtio'><stats period='10'/></memballoon>"
    _, qemu = host.start(extra, balloon)
    path = "/machine/peripheral/balloon0"
    assert qemu.asked == [
        {"execute": "balloon", "arguments": {"value": 256 << 20}},
        {
            "execute": "qom-set",
            "arguments": {"path": path, "property": "guest-stats-polling-interval", "value": 10},
        },
    ]


def test_live_and_config_may_be_set_in_one_call():
    host = Host()
    domain = host.connection.defineXML(XML % ("", "<memballoon model='virtio'/>"))
    domain.create()
    domain.setMemoryStatsPeriod(5, 3)
    domain.setMemoryFlags(262144, 3)
    assert "<stats period='5'/>" in domain.XMLDesc()
    assert "<currentMemory unit='KiB'>262144<" in domain.XMLDesc(2)
    assert host.qemus[0].actual == 256 << 20


def test_a_qemu_that_the_host_killed_leaves_a_domain_that_crashed():
    host = Host()
    domain = host.connection.defineXML(XML % ("", ""))
    domain.create()
    host.qemus[0].alive = False
    assert domain.state() == [5, 3]
    with pytest.raises(libvirtError, match="domain is not running"):
        domain.memoryStats()
    assert virsh(host.connection, "list --all").out.split()[-2:] == ["shut", "off"]
    domain.create()
    assert domain.isActive()


def test_what_qemu_refuses_comes_back_as_an_internal_error():
    host = Host()
    domain, qemu = host.start()
    qemu.qmp = lambda _request: {"error": {"class": "GenericError", "desc": "boom"}}
    with pytest.raises(libvirtError, match="unable to execute QEMU command: boom"):
        domain.setMemory(1024)


def test_a_device_is_added_to_a_kvm_guest_that_does_not_speak_of_one():
    host = Host()
    domain, _ = host.start(devices="")
    assert "<memballoon model='virtio'/>" in domain.XMLDesc()


@pytest.mark.parametrize("hidden", ["<!ENTITY", "&x;"])
def test_xml_that_cannot_be_read_is_one_error_and_defines_nothing(hidden):
    host = Host()
    with pytest.raises(libvirtError, match=r"\(domain_definition\):1"):
        host.connection.defineXML(f"<domain type='kvm'>{hidden}<name>x</name></domain>")
    assert host.connection.listAllDomains() == []


def test_a_qemu_that_refuses_what_the_definition_asks_is_ended():
    host = Host()
    balloon = "<memballoon model='virtio'><stats period='10'/></memballoon>"
    refused = {"error": {"class": "GenericError", "desc": "boom"}}

    def launch(definition):
        host.qemus.append(Script(definition))
        host.qemus[0].qmp = lambda _request: refused
        return host.qemus[0]

    host.connection.driver.launch = launch
    with pytest.raises(libvirtError, match="boom"):
        host.start(devices=balloon)
    assert not host.qemus[0].alive
    assert host.connection.listAllDomains() == []


DIGITS = "9" * 5000  # more than int() reads
ARABIC = "\u0661\u0662"  # digits to Python, not to C


@pytest.mark.parametrize("digits", [DIGITS, ARABIC, "9" * 20])
@pytest.mark.parametrize(
    "element,said",
    [
        ("<vcpu>{}</vcpu>", "maximum vcpus count must be an integer"),
        ("<currentMemory>{}</currentMemory>", "Invalid value '.*' for element or attribute"),
        (
            "<memoryBacking><hugepages><page size='{}'/></hugepages></memoryBacking>",
            "Invalid value '.*' for element or attribute './@size'",
        ),
        (
            "<devices><memballoon model='virtio'><stats period='{}'/></memballoon></devices>",
            "Expected integer value",
        ),
    ],
)
def test_a_number_that_c_cannot_read_is_refused_as_the_others(digits, element, said):
    host = Host()
    with pytest.raises(libvirtError, match=said):
        host.connection.defineXML(XML % (element.format(digits), ""))
    assert host.connection.listAllDomains() == []


@pytest.mark.parametrize(
    "line,said",
    [
        (f"dominfo {DIGITS}", "failed to get domain"),
        (f"setmem kvmlab {DIGITS}", "malformed or out of range"),
        (f"setmem kvmlab {ARABIC}", "malformed or out of range"),
        (f"dommemstat kvmlab --period {DIGITS}", "malformed or out of range"),
        (f"dommemstat kvmlab --period {ARABIC}", "malformed or out of range"),
        (f"dommemstat kvmlab --period {1 << 63}", "malformed or out of range"),
        ("dumpxml kvmlab --xpath //memory[", "is not one that can be followed"),
        ("destroy kvmlab#1", "failed to get domain 'kvmlab#1'"),
    ],
)
def test_a_line_that_means_nothing_is_one_error_and_does_nothing(line, said):
    host = Host()
    domain, qemu = host.start()
    printed = virsh(host.connection, line)
    assert said in printed.err
    assert printed.err.count("\n") == printed.status == 1
    assert domain.isActive()
    assert {one["execute"] for one in qemu.asked} <= {"query-balloon"}


def test_a_text_that_is_no_unicode_is_no_xml():
    with pytest.raises(libvirtError, match=r"\(domain_definition\):1: Input is not proper UTF-8"):
        Host().connection.defineXML("<domain>\ud800</domain>")
