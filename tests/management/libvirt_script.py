"""A program that uses libvirt's API, for whichever libvirt it is given; prints JSON.

    python tests/management/libvirt_script.py libvirt
    python tests/management/libvirt_script.py kvmlab.management.libvirt

The first runs the real one (libvirt-python), the second ours; tests hold the two against each
other.  Each call is recorded as [name, arguments, "returned" or the kind of error, what].
"""

import importlib
import json
import re
import sys
from pathlib import Path

DOMAIN = "<domain type='test'><name>%s</name>%s<os><type>hvm</type></os>%s</domain>"
MIB = "<memory unit='MiB'>1</memory>"
MEMORIES = (
    MIB,
    "<memory>1048576</memory>",
    "<memory>0</memory>",
    "<memory>-5</memory>",
    "<memory unit='XB'>5</memory>",
    "<memory unit='b'>1000001</memory>",
    "<memory unit='bytes'>4096</memory>",
    "<memory unit='GB'>1</memory>",
    "<memory unit='gb'>1</memory>",
    "<memory unit='MiB'>1024</memory><currentMemory unit='GiB'>2</currentMemory>",
    "<memory unit='MiB'>1024</memory><currentMemory unit='MiB'>300</currentMemory>",
    "<memory unit='PiB'>1</memory>",
    "<memory unit='EB'>1000000</memory>",
    "",
    "<memory>abc</memory>",
    "<memory>1.5</memory>",
    "<memory> 1024 </memory>",
    "<memory/>",
)
BALLOONS = (
    "<memballoon model='bogus'/>",
    "<memballoon/>",
    "<memballoon model='virtio' autodeflate='maybe'/>",
    "<memballoon model='virtio' freePageReporting='q'/>",
    "<memballoon model='none'/>",
    "<memballoon model='xen'/>",
    "<memballoon model='virtio-transitional'/>",
    "<memballoon model='virtio' autodeflate='on' freePageReporting='off'/>",
    "<memballoon model='virtio' autodeflate='off'><stats period='9'/></memballoon>",
    "<memballoon model='virtio'><stats period='-1'/></memballoon>",
    "<memballoon model='virtio'><stats period='0'/></memballoon>",
    "<memballoon model='virtio'><stats period='x'/></memballoon>",
    "<memballoon model='virtio'/><memballoon model='virtio'/>",
)
BACKINGS = (
    "<hugepages/>",
    "<hugepages><page/></hugepages>",
    "<hugepages><page size='2048'/></hugepages>",
    "<hugepages><page size='2' unit='M'/></hugepages>",
    "<hugepages><page size='0'/></hugepages>",
    "<hugepages><page size='x'/></hugepages>",
    "<nosharepages/><locked/>",
    "<source type='memfd'/><access mode='shared'/><allocation mode='immediate'/><discard/>",
    "<source type='zz'/>",
)
DOCUMENTS = (
    "<foo/>",
    "<domain><name>x</name></domain>",
    "<domain type='test'><memory>5</memory><os><type>hvm</type></os></domain>",
    "<domain type='zzz'><name>y</name><memory>5</memory><os><type>hvm</type></os></domain>",
    "<domain type='test'><name>y</name><memory>5</memory></domain>",
    "<domain type='test'><name>a/b</name><memory>5</memory><os><type>hvm</type></os></domain>",
    DOMAIN % ("y", "<uuid>zz</uuid>" + MIB, ""),
    DOMAIN % ("test", MIB, ""),
    DOMAIN % ("y", "<uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>" + MIB, ""),
    DOMAIN % ("y", MIB + "<vcpu>x</vcpu>", ""),
)


class Recorder:
    """Calls functions and keeps what came of them, without what differs from run to run."""

    def __init__(self, error):
        self.error = error
        self.calls = []

    def __call__(self, function, *arguments):
        try:
            result = function(*arguments)
        except self.error as error:
            found = [error.get_error_code(), error.get_error_level(), self.steady(str(error))]
            outcome = "libvirtError", found
        except (TypeError, OverflowError, LookupError) as error:
            # Whose argument it was, C's binding says with its own function's name.
            outcome = type(error).__name__, str(error).partition("virDomain.")[2] or str(error)
        else:
            outcome = "returned", self.plain(result)
            self.calls.append([function.__name__, list(arguments), *outcome])
            return result
        self.calls.append([function.__name__, list(arguments), *outcome])
        return None

    def plain(self, value):
        if isinstance(value, list) and len(value) == 5:  # info(): its last is CPU time
            return value[:4]
        if value is None or isinstance(value, int | list | dict):
            return value
        return self.steady(value) if isinstance(value, str) else "an object"

    @staticmethod
    def steady(text):
        return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "UUID", text)


def defining(call, connection):
    """Definitions, good and bad, as they are read and written."""
    bodies = [(one, "") for one in MEMORIES]
    bodies += [(MIB, f"<devices>{one}</devices>") for one in BALLOONS]
    bodies += [(f"{MIB}<memoryBacking>{one}</memoryBacking>", "") for one in BACKINGS]
    bodies += [(f"{MIB}<memtune><hard_limit unit='M'>5</hard_limit></memtune><vcpu>3</vcpu>", "")]
    bodies += [(f"{MIB}<title>T &amp; t</title><features><acpi/></features>", "")]
    bodies += [(f"{MIB}<on_crash>preserve</on_crash><clock offset='localtime'/>", "")]
    for before, after in bodies:
        domain = call(connection.defineXML, DOMAIN % ("x", before, after))
        if domain:
            call(domain.XMLDesc)
            call(domain.setMemoryStatsPeriod, 7)
            call(domain.undefine)
    for document in DOCUMENTS:
        call(connection.defineXML, document)


def sizes(call, domain):
    """What setMemory and its kin take and refuse."""
    for size in (1000, 1, True, 0, -1, "x", 1.5, 99999999, 2**53, 2**53 - 1, 2**63, 2**64):
        call(domain.setMemory, size)
        call(domain.memoryStats)
    for flags in range(10):
        for size in (4096, 0, 99999999):
            call(domain.setMemoryFlags, size, flags)
            call(domain.info)
    for size in (5, 0, -1):
        call(domain.setMaxMemory, size)


def periods(call, domain):
    """What setMemoryStatsPeriod takes and refuses."""
    for flags in (0, 1, 2, 3, 8):
        for period in (10, 0, -1, "x"):
            call(domain.setMemoryStatsPeriod, period, flags)
            call(domain.XMLDesc)
            call(domain.XMLDesc, 2)


def limits(call, domain):
    """The memory parameters."""
    call(domain.memoryParameters)
    for parameters in ({"hard_limit": 5}, {"zz": 5}, {}, {"hard_limit": 50, "swap_hard_limit": 5}):
        call(domain.setMemoryParameters, parameters)
        call(domain.memoryParameters)


def listed(connection):
    """listDomainsID(), whose order libvirt leaves to a hash."""

    def listed_domains():
        return sorted(connection.listDomainsID())

    return listed_domains


def life(call, connection):
    """Domains that start, stop, are forgotten and come back."""
    domain = connection.defineXML(
        DOMAIN % ("y", MIB, "<devices><memballoon model='virtio'/></devices>")
    )
    about = (domain.ID, domain.state, domain.info, domain.isActive, domain.isPersistent)
    asked = (domain.memoryStats, domain.maxMemory, connection.listDefinedDomains)
    for act in (domain.destroy, domain.create, domain.create, domain.destroy, domain.create):
        call(act)
        for ask in (*about, *asked, connection.numOfDomains, listed(connection)):
            call(ask)
    for act in (domain.undefine, domain.destroy, domain.undefine, domain.info, domain.memoryStats):
        call(act)
    transient = call(connection.createXML, DOMAIN % ("z", MIB, ""))
    call(transient.isPersistent)
    call(transient.setMemoryFlags, 1000, 2)
    call(transient.memoryStats)
    call(transient.destroy)
    call(transient.isActive)


def looking_up(call, connection):
    """Domains that are there, and that are not."""
    for name in ("test", "nosuch", ""):
        call(connection.lookupByName, name)
    for uuid in ("6695eb01-f6a4-8304-79aa-97f2502e193f", "zz"):
        call(connection.lookupByUUIDString, uuid)
    for number in (1, 99):
        call(connection.lookupByID, number)
    call(connection.getType)
    call(connection.getURI)
    call(connection.getInfo)
    call(connection.getMemoryStats, -1)


def run(libvirt):
    """All of it, on fresh connections; the list of calls."""
    call = Recorder(libvirt.libvirtError)
    for part in (sizes, periods, limits):
        connection = libvirt.open("test:///default")
        part(call, connection.lookupByName("test"))
        call(connection.lookupByName("test").destroy)
        part(call, connection.lookupByName("test"))
        del connection
    for part in (defining, life, looking_up):
        connection = libvirt.open("test:///default")
        part(call, connection)
        del connection
    return call.calls


if __name__ == "__main__":
    if hasattr(sys.modules.get("libvirt"), "virEventRegisterImpl"):
        raise SystemExit("libvirt is loaded already")
    sys.path.insert(0, str(Path(__file__).parents[2]))
    module = importlib.import_module(sys.argv[1])
    if sys.argv[1] == "libvirt":
        module.registerErrorHandler(lambda *_: None, None)  # it prints every error otherwise
    print(json.dumps(run(module)))
