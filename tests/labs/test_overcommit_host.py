"""The lab of overcommitment around a host of the learner's own."""

import pytest

from kvmlab import labs
from kvmlab.base.errors import BadChoice
from kvmlab.machine import Server, connect, machine_of
from tests.labs.wire import heard

pytestmark = pytest.mark.filterwarnings(
    "ignore:metadata .* from the constructor:DeprecationWarning"
)
XML = """<domain type='kvm'><name>{}</name><memory unit='MiB'>32</memory><os><type>hvm</type></os>
</domain>"""
AREA, MOST = 0x1000_0000, 6


@pytest.fixture
def crowd():
    """A connection to a host, with a domain under a hostile name."""
    connection = connect(Server("128M", swap="64M"))
    connection.createXML(XML.format("&lt;b&gt;mine"))
    return connection


def test_each_look_is_a_step_and_all_views_follow(crowd, tmp_path):
    lab = labs.overcommit(crowd)
    assert "One VM runs: 32 MiB promised on a host of 128 MiB (25 %)" in lab.desk.value
    domain = crowd.createXML(XML.format("two"))
    guest = machine_of(domain).guest
    process = guest.spawn("app")
    guest.switch(process)
    process.mmap(AREA, 8 << 20)
    for page in range(8 << 8):
        guest.store(AREA + (page << 12), page)
    sent = heard(lab)
    lab.again.click()
    assert len(sent) <= MOST
    assert lab.notice.value == ""
    assert lab.player.step == 1
    assert "2 VMs run" in lab.desk.value
    assert lab.seen.vms[1].rss * 4 == domain.memoryStats()["rss"]
    assert lab.charts.lines._lines.y[1][-1] == lab.seen.rss / 256
    assert "<b>mine" not in lab.desk.value + lab.player.scene["svg"]
    lab.player.step = 0
    assert "One VM runs" in lab.desk.value
    lab.language.value = "zh"
    assert "一台虚拟机在运行" in lab.desk.value
    space = {"connection": crowd}
    exec(lab.code, space)  # noqa: S102
    assert space["look"].seen[-1].vms == lab.host.seen[-1].vms
    lab.export(tmp_path / "host.html")
    assert lab.share.startswith("kvmlab1.overcommit.")


def test_it_changes_nothing_and_says_so(crowd):
    lab = labs.overcommit(crowd)
    lab.do("setmem", 1)
    assert "your own" in lab.notice.value
    with pytest.raises(BadChoice, match="no domain runs"):
        labs.overcommit(connect(Server("64M")))
    with pytest.raises(BadChoice, match="one of connect"):
        labs.overcommit("kvmlab1.overcommit.x")
