"""A connection of libvirt: the domains of one host, looked up, defined and started."""

from kvmlab.management.domain import virDomain
from kvmlab.management.domain_xml import Definition, parse
from kvmlab.management.drivers import Driver
from kvmlab.management.libvirt_errors import (
    VIR_ERR_INVALID_ARG,
    VIR_ERR_NO_DOMAIN,
    VIR_ERR_NO_SUPPORT,
    VIR_ERR_OPERATION_FAILED,
    libvirtError,
)


class virConnect:
    """A connection to ``driver`` under ``uri``."""

    def __init__(self, driver: Driver, uri: str) -> None:
        self.driver, self._uri = driver, uri
        self._domains: list[virDomain] = []
        self._started = 0

    # -- the host -----------------------------------------------------------------------

    def getURI(self) -> str:
        """What was opened."""
        return self._uri

    def getType(self) -> str:
        """The driver's name: ``TEST``, ``QEMU``."""
        return self.driver.scheme.upper()

    def getLibVersion(self) -> int:
        """The version of libvirt: 9.0.0 is 9000000."""
        return self.driver.lib_version

    def getInfo(self) -> list[object]:
        """[arch, MiB, CPUs, MHz, NUMA nodes, sockets, cores, threads]."""
        return self.driver.node_info()

    def getMemoryStats(self, cellNum: int, flags: int = 0) -> dict[str, int]:  # noqa: ARG002
        """The host's memory in KiB where the driver knows it."""
        return self._host_memory("virNodeGetMemoryStats")

    def _host_memory(self, function: str) -> dict[str, int]:
        found = self.driver.node_memory()
        if found is None:
            raise _unsupported(function)
        return found

    def allocPages(
        self,
        pages: dict[int, int],  # noqa: ARG002
        startCell: int = -1,  # noqa: ARG002
        cellCount: int = 1,  # noqa: ARG002
        flags: int = 0,  # noqa: ARG002
    ) -> int:
        """Change the host's pool of huge pages; no driver here supports it."""
        raise _unsupported("virNodeAllocPages")

    def close(self) -> int:
        """Nothing is kept open; returns 0."""
        return 0

    # -- domains ------------------------------------------------------------------------

    def lookupByName(self, name: str) -> virDomain:
        """The domain of that name; `libvirtError` VIR_ERR_NO_DOMAIN if there is none."""
        return self._find([one for one in self._domains if one.name() == name], f"name '{name}'")

    def lookupByUUIDString(self, uuidstr: str) -> virDomain:
        """The domain of that UUID."""
        if len(uuidstr.replace("-", "")) != 32:
            raise libvirtError("Invalid UUID", VIR_ERR_INVALID_ARG)
        same = [one for one in self._domains if one.UUIDString() == uuidstr.lower()]
        return self._find(same, f"uuid '{uuidstr}'")

    def lookupByID(self, id: int) -> virDomain:  # noqa: A002
        """The running domain of that number."""
        return self._find([one for one in self._domains if one.ID() == id], f"id {id}")

    def _find(self, found: list[virDomain], wanted: str) -> virDomain:
        if not found:
            detail = f": no domain with matching {wanted}" if self.driver.scheme == "qemu" else ""
            raise libvirtError(f"Domain not found{detail}", VIR_ERR_NO_DOMAIN)
        return found[0]

    def listAllDomains(self, flags: int = 0) -> list[virDomain]:  # noqa: ARG002
        """All domains, those that run first."""
        for one in list(self._domains):
            one.reap()
        return sorted(self._domains, key=lambda one: (not one.isActive(), one.ID(), one.name()))

    def listDomainsID(self) -> list[int]:
        """The numbers of those that run."""
        return [one.ID() for one in self.listAllDomains() if one.isActive()]

    def listDefinedDomains(self) -> list[str]:
        """The names of those that are defined and do not run."""
        return [one.name() for one in self.listAllDomains() if not one.isActive()]

    def numOfDomains(self) -> int:
        """How many run."""
        return len(self.listDomainsID())

    def defineXML(self, xml: str) -> virDomain:
        """Define a domain, or define it anew; it is not started."""
        definition = parse(xml)
        known = self._same(definition)
        if known:
            known.redefine(definition)
            return known
        return self._add(definition)

    def _same(self, definition: Definition) -> virDomain | None:
        """The domain that ``definition`` defines anew; name and UUID must both be its own."""
        name, uuid = definition.name, definition.uuid
        for one in self._domains:
            if one.UUIDString() == uuid and one.name() != name:
                raise _failed(f"domain '{one.name()}' is already defined with uuid {uuid}")
            if one.name() == name and one.UUIDString() != uuid:
                raise _failed(f"domain '{name}' already exists with uuid {one.UUIDString()}")
            if one.UUIDString() == uuid:
                return one
        return None

    def createXML(self, xml: str, flags: int = 0) -> virDomain:  # noqa: ARG002
        """Start a domain that is forgotten when it stops."""
        definition = parse(xml)
        if self._same(definition):
            raise _failed(f"domain '{definition.name}' is already active")
        domain = self._add(definition)
        domain.be_transient()
        try:
            domain.create()
        except libvirtError:
            self.forget(domain)
            raise
        return domain

    def _add(self, definition: Definition) -> virDomain:
        domain = virDomain(self, definition)
        self._domains.append(domain)
        return domain

    # -- for its domains ----------------------------------------------------------------

    def next_id(self) -> int:
        """The number of the next run."""
        self._started += 1
        return self._started

    def forget(self, domain: virDomain) -> None:
        """A domain is gone."""
        self._domains.remove(domain)


def _failed(detail: str) -> libvirtError:
    return libvirtError(f"operation failed: {detail}", VIR_ERR_OPERATION_FAILED)


def _unsupported(function: str) -> libvirtError:
    return libvirtError(
        f"this function is not supported by the connection driver: {function}", VIR_ERR_NO_SUPPORT
    )
