"""nova.conf and qemu.conf: what an administrator writes about memory, and what it decides."""

import pytest

from kvmlab.base.errors import BadChoice
from kvmlab.machine import Server, connect
from kvmlab.management.conf import NovaMemory, hugetlbfs_sizes, nova_conf
from kvmlab.management.libvirt_errors import libvirtError
from kvmlab.management.placement import RATIO_UNTIL_ZED, Inventory

GUEST = """<domain type='kvm'><name>vm</name><memory unit='MiB'>4</memory>
<os><type>hvm</type></os><memoryBacking><hugepages/></memoryBacking></domain>"""


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", NovaMemory(1.0, 512)),
        ("[DEFAULT]\nram_allocation_ratio = 1.5\n", NovaMemory(1.5, 512)),
        (
            "[DEFAULT]\nram_allocation_ratio=2\nreserved_host_memory_mb = 4096",
            NovaMemory(2.0, 4096),
        ),
        ("[DEFAULT]\n# ram_allocation_ratio = 1.5\n[compute]\ncpu_mode = host", NovaMemory()),
        ("[DEFAULT]\ninitial_ram_allocation_ratio = 1.2\n", NovaMemory(1.2)),
        (
            "[DEFAULT]\ninitial_ram_allocation_ratio = 1.2\nram_allocation_ratio = 3\n",
            NovaMemory(3.0),
        ),
        ("[DEFAULT]\nram_allocation_ratio = 0.0\n", NovaMemory(1.0)),
        ("[DEFAULT]\nram_allocation_ratio = 1.5\nram_allocation_ratio = 1.1\n", NovaMemory(1.1)),
        ("[compute]\nram_allocation_ratio = 9\n", NovaMemory(1.0)),
    ],
)
def test_nova_conf_says_ratio_and_reserve(text, expected):
    assert nova_conf(text) == expected


def test_a_release_has_a_ratio_of_its_own():
    assert nova_conf("[DEFAULT]\nram_allocation_ratio = 0.0", usual=RATIO_UNTIL_ZED).ratio == 1.5


def test_an_inventory_is_made_of_it():
    said = nova_conf("[DEFAULT]\nram_allocation_ratio = 1.5\n")
    assert Inventory("host1", 32768, said.reserved, said.ratio).capacity == (32768 - 512) * 1.5


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "[DEFAULT]\nram_allocation_ratio = much",
            "ratio is 'much'; write a number",
        ),
        ("[DEFAULT]\nram_allocation_ratio = -1", "'-1'"),
        ("[DEFAULT]\nram_allocation_ratio = nan", "'nan'"),
        ("[DEFAULT]\nram_allocation_ratio = inf", "'inf'"),
        ("[DEFAULT]\nram_allocation_ratio", "None"),
        ("[DEFAULT]\nreserved_host_memory_mb = 4G", "'4G'; write a whole number of MiB"),
        ("[DEFAULT]\nreserved_host_memory_mb = -1", "'-1'"),
        ("ram_allocation_ratio = 1.5", "no section headers"),
    ],
)
def test_a_bad_nova_conf_is_refused_in_one_line(text, said):
    with pytest.raises(BadChoice, match=r"^nova\.conf: ") as error:
        nova_conf(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


MOUNTED = {"/dev/hugepages": 2048, "/dev/hugepages1G": 1 << 20}


@pytest.mark.parametrize(
    "text, sizes",
    [
        ("", (2048, 1 << 20)),
        ("# hugetlbfs_mount = ''\nuser = 'qemu'\n", (2048, 1 << 20)),
        ('hugetlbfs_mount = "/dev/hugepages"\n', (2048,)),
        ("hugetlbfs_mount='/dev/hugepages1G'", (1 << 20,)),
        ('hugetlbfs_mount = ["/dev/hugepages",\n  "/dev/hugepages1G"]\n', (2048, 1 << 20)),
        ('hugetlbfs_mount = ""\n', ()),
        ("hugetlbfs_mount = []\n", ()),
        ('hugetlbfs_mount = ""\nhugetlbfs_mount = "/dev/hugepages"\n', (2048,)),
    ],
)
def test_qemu_conf_says_which_huge_pages_there_are(text, sizes):
    assert hugetlbfs_sizes(text, MOUNTED) == sizes


@pytest.mark.parametrize(
    "text, said",
    [
        ('hugetlbfs_mount = "/mnt/huge"', "names '/mnt/huge', and hugetlbfs is mounted at /dev"),
        ("hugetlbfs_mount = /dev/hugepages", "'/dev/hugepages'; write"),
        ("hugetlbfs_mount = 1", "'1'; write"),
        ("hugetlbfs_mount = [1]", "write"),
        ("hugetlbfs_mount =", "''; write"),
    ],
)
def test_a_bad_qemu_conf_is_refused_in_one_line(text, said):
    with pytest.raises(BadChoice, match=r"^qemu\.conf: ") as error:
        hugetlbfs_sizes(text, MOUNTED)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_guest_gets_huge_pages_only_where_qemu_conf_lets_it():
    server = Server("64M")
    server.host.hugetlb[21].set_nr(2)
    off = connect(server, hugetlbfs=hugetlbfs_sizes('hugetlbfs_mount = ""'))
    with pytest.raises(libvirtError, match="disabled by administrator config"):
        off.createXML(GUEST)
    on = connect(server, hugetlbfs=hugetlbfs_sizes('hugetlbfs_mount = "/dev/hugepages"'))
    on.createXML(GUEST)
    pool = server.host.hugetlb[21]
    assert pool.free == pool.reserved  # two pages of 2 MiB are its memory
