"""What real tools say to bad input: section 8 of the facts, as libvirt 9.0 and virsh said it.

`test_against_libvirt` holds call for call against a recording; here the texts stand once more, as
they were measured, so that neither the recording nor the engine can change unseen.  Where a text
was read in source or recalled, the test says so.
"""

import re

import pytest

from kvmlab.machine import Server, connect
from kvmlab.management import libvirt
from kvmlab.management.libvirt_errors import libvirtError
from kvmlab.management.virsh import virsh
from kvmlab.management.virsh_line import commands_of

DOMAIN = "<domain type='test'><name>x</name>%s<os><type>hvm</type></os>%s</domain>"
MEMORY = "<memory unit='MiB'>64</memory>"
NOT_RUNNING = "Requested operation is not valid: domain is not running"
RESIZED = "cannot resize the maximum memory on an active domain"
NO_MOUNTS = "hugetlbfs filesystem is not mounted or disabled by administrator config"
MALFORMED = "Scaled numeric value '{}' for <size> option is malformed or out of range"


@pytest.mark.parametrize(
    "line, lines",
    [
        (
            "setmem test 99999999",  # 1
            ["invalid argument: cannot set memory higher than max memory"],
        ),
        ("setmem test 0", ["memory in virDomainSetMemoryFlags must not be zero"]),  # 2
        ("setmem test abc", [MALFORMED.format("abc")]),  # 3
        ("setmem test -5", [MALFORMED.format("-5")]),
        (
            "setmem test 1.5G",  # 4
            [MALFORMED.format("1.5G"), "invalid argument: unknown suffix '.5G'"],
        ),
        ("setmem nosuch 5", ["failed to get domain 'nosuch'"]),  # 5
        ("destroy test; setmem test 512M", [NOT_RUNNING]),  # 6
        (
            "destroy test; dommemstat test",  # 7
            ["Failed to get memory statistics for domain test", NOT_RUNNING],
        ),
        (
            "setmaxmem test 1048576",  # 9
            [
                "Unable to change MaxMemorySize",
                f"Requested operation is not valid: {RESIZED}",
            ],
        ),
        ("dommemstat test --period=-1", ["Invalid collection period value '-1'"]),  # 10
        (
            "setmem test 512M --live --current",  # 11
            ["Options --current and --live are mutually exclusive"],
        ),
    ],
)
def test_virsh_says_it_on_stderr_and_exits_with_1(line, lines):
    printed = virsh(libvirt.open("test:///default"), line)
    assert printed.err.splitlines() == [f"error: {one}" for one in lines]
    assert printed.status == 1


@pytest.mark.parametrize(
    "call, arguments, text, code",
    [
        (
            "setMemory",
            (99999999,),  # 1
            "invalid argument: cannot set memory higher than max memory",
            8,
        ),
        ("setMemory", (0,), "memory in virDomainSetMemory must not be zero", 8),  # 2
        (
            "setMaxMemory",
            (1048576,),  # 9
            f"Requested operation is not valid: {RESIZED}",
            55,
        ),
        (
            "setMemoryStatsPeriod",
            (-1,),  # 10
            "period in virDomainSetMemoryStatsPeriod must be zero or greater",
            8,
        ),
        (
            "setMemoryStatsPeriod",
            (10, 3),  # 12
            "Flags 'VIR_DOMAIN_AFFECT_LIVE' and 'VIR_DOMAIN_AFFECT_CONFIG' are mutually exclusive",
            8,
        ),
        (
            "setMemory",
            (-1,),  # 13
            "numerical overflow: input too large: 18446744073709551615",
            82,
        ),
    ],
)
def test_the_api_raises_it_with_its_code_and_changes_nothing(call, arguments, text, code):
    domain = libvirt.open("test:///default").lookupByName("test")
    before = (domain.info()[:3], domain.XMLDesc(), domain.XMLDesc(2))
    with pytest.raises(libvirtError) as refused:
        getattr(domain, call)(*arguments)
    found = refused.value
    assert text in str(found)
    assert (found.get_error_code(), found.get_error_level()) == (code, 2)
    assert (domain.info()[:3], domain.XMLDesc(), domain.XMLDesc(2)) == before


def test_a_domain_that_is_not_there_or_does_not_run_has_its_code():
    """5, 6 and 7; the QEMU driver's longer text of 5 is recalled."""
    connection = libvirt.open("test:///default")
    with pytest.raises(libvirtError, match=r"^Domain not found$") as refused:
        connection.lookupByName("nosuch")
    assert refused.value.get_error_code() == 42
    domain = connection.lookupByName("test")
    domain.destroy()
    for call in (lambda: domain.setMemory(4096), domain.memoryStats):
        with pytest.raises(libvirtError, match=rf"^{NOT_RUNNING}$") as refused:
            call()
        assert refused.value.get_error_code() == 55
    with pytest.raises(libvirtError) as refused:
        connect(Server("64M")).lookupByName("nosuch")
    assert str(refused.value) == "Domain not found: no domain with matching name 'nosuch'"


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("x",), "'str' object cannot be interpreted as an integer"),
        ((1.5,), "'float' object cannot be interpreted as an integer"),
        ((), "missing 1 required positional argument: 'memory'"),
    ],
)
def test_what_is_no_integer_is_a_type_error(arguments, text):
    """14."""
    domain = libvirt.open("test:///default").lookupByName("test")
    with pytest.raises(TypeError, match=re.escape(text)):
        domain.setMemory(*arguments)


ATTRIBUTE = "XML error: Invalid value for attribute '{}' in element 'memballoon': '{}'."


@pytest.mark.parametrize(
    "memory, devices, text",
    [
        (
            MEMORY,
            "<memballoon model='virtio'/><memballoon model='virtio'/>",  # 21
            "internal error: only a single memory balloon device is supported",
        ),
        (
            "<memory>0</memory>",  # 24
            "",
            "XML error: Memory size must be specified via <memory> or in the <numa> configuration",
        ),
        (
            "<memory>-5</memory>",
            "",
            "XML error: Invalid value '-5' for element or attribute './memory[1]'",
        ),
        ("<memory unit='XB'>5</memory>", "", "invalid argument: unknown suffix 'XB'"),
        (MEMORY, "<memballoon model='bogus'/>", ATTRIBUTE.format("model", "bogus")),  # 25
        (
            MEMORY,
            "<memballoon/>",
            "XML error: Missing required attribute 'model' in element 'memballoon'",
        ),
        (
            MEMORY,
            "<memballoon model='virtio' autodeflate='maybe'/>",
            ATTRIBUTE.format("autodeflate", "maybe"),
        ),
        (
            MEMORY + "<memoryBacking><hugepages><page/></hugepages></memoryBacking>",  # 26
            "",
            "XML error: missing element or attribute './@size'",
        ),
    ],
)
def test_xml_that_asks_for_what_cannot_be_defines_nothing(memory, devices, text):
    connection = libvirt.open("test:///default")
    with pytest.raises(libvirtError) as refused:
        connection.defineXML(DOMAIN % (memory, f"<devices>{devices}</devices>"))
    assert str(refused.value) == text
    assert [one.name() for one in connection.listAllDomains()] == ["test"]


def test_qemu_has_no_balloon_of_xen():
    """libvirt's QEMU driver refuses it where it is defined; read in source."""
    connection = connect(Server("64M"))
    xml = DOMAIN % (MEMORY, "<devices><memballoon model='xen'/></devices>")
    with pytest.raises(libvirtError) as refused:
        connection.defineXML(xml.replace("'test'", "'kvm'"))
    assert refused.value.get_error_code() == libvirt.VIR_ERR_CONFIG_UNSUPPORTED
    assert str(refused.value) == (
        "unsupported configuration: Memory balloon device type 'xen' is not supported by this "
        "version of qemu"
    )
    assert connection.listAllDomains() == []
    libvirt.open("test:///default").defineXML(xml)


@pytest.mark.parametrize(
    "line, words",
    [
        ("list; domstate 'a;b'", [["list"], ["domstate", "a;b"]]),
        ("domstate ';'", [["domstate", ";"]]),
        ('domstate ";" ;; list', [["domstate", ";"], ["list"]]),
        ("domstate a\\;b\\ c", [["domstate", "a;b c"]]),
        ('domstate \'a\\b\' "c\\"d"', [["domstate", "a\\b", 'c"d']]),
        ("domstate a'b c'd ''", [["domstate", "ab cd", ""]]),
        (";;", []),
    ],
)
def test_a_quoted_semicolon_ends_no_command(line, words):
    assert commands_of(line) == words


@pytest.mark.parametrize("line, said", [('list "', 'missing "'), ("list \\", "dangling \\")])
def test_a_line_that_does_not_end_runs_nothing(line, said):
    printed = virsh(libvirt.open("test:///default"), line)
    assert (printed.out, printed.err, printed.status) == ("", f"error: {said}\n", 1)


GUEST = """<domain type='kvm'><name>vm</name><memory unit='MiB'>%d</memory>%s
<os><type>hvm</type></os></domain>"""
HUGE = "<memoryBacking><hugepages>%s</hugepages></memoryBacking>"


@pytest.mark.parametrize(
    "mounts, page, text",
    [
        (
            (2048,),
            "<page size='1' unit='G'/>",
            "internal error: Unable to find any usable hugetlbfs mount for 1048576 KiB",
        ),
        (
            (),
            "",
            f"internal error: {NO_MOUNTS}",
        ),
    ],
)
def test_a_page_size_without_a_mount_is_refused(mounts, page, text):
    """27, read in libvirt's source; an empty `hugetlbfs_mount` of qemu.conf disables all."""
    server = Server("128M")
    connection = connect(server, hugetlbfs=mounts)
    with pytest.raises(libvirtError) as refused:
        connection.createXML(GUEST % (64, HUGE % page))
    assert str(refused.value) == text
    assert connection.listAllDomains() == []


def test_a_guest_larger_than_memory_and_swap_together_is_refused_and_leaves_nothing():
    """28: Linux refuses the mmap that could never be held; QEMU's text, measured.

    More guests than fit are no such case: each of them could be held alone.
    """
    server = Server("64M", swap="32M")
    free, connection = server.host.buddy.free_frames, connect(server)
    with pytest.raises(libvirtError) as refused:
        connection.createXML(GUEST % (128, ""))
    assert str(refused.value).endswith(
        "cannot set up guest memory 'pc.ram': Cannot allocate memory"
    )
    assert connection.listAllDomains() == []
    assert server.host.buddy.free_frames == free
    for name in ("one", "two"):
        connection.createXML((GUEST % (96, "")).replace(">vm<", f">{name}<"))
    assert connection.numOfDomains() == 2


def test_a_call_that_a_driver_does_not_have_is_named():
    """29."""
    with pytest.raises(libvirtError) as refused:
        libvirt.open("test:///default").allocPages({2048: 4})
    assert str(refused.value) == (
        "this function is not supported by the connection driver: virNodeAllocPages"
    )
    assert refused.value.get_error_code() == 3


# -- sizes as libvirt takes them -------------------------------------------------------------


def test_memory_stats_of_the_test_driver_are_made_of_its_current_memory():
    """Case 61."""
    domain = libvirt.open("test:///default").lookupByName("test")
    assert domain.setMemory(4194304) == 0
    found = domain.memoryStats()
    assert (found["actual"], found["available"]) == (4194304, 4194304)
    assert (found["unused"], found["usable"], found["rss"]) == (2097152,) * 3
    assert found["disk_caches"] == 524288


@pytest.mark.parametrize("text, kib", [("unit='GB'>1", 976563), ("unit='b'>1000001", 977)])
def test_sizes_are_rounded_up_to_kib(text, kib):
    """Case 62."""
    domain = libvirt.open("test:///default").defineXML(DOMAIN % (f"<memory {text}</memory>", ""))
    assert domain.maxMemory() == domain.info()[1] == kib
    assert f"<memory unit='KiB'>{kib}</memory>" in domain.XMLDesc()
