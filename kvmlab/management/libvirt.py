"""libvirt's Python API: ``from kvmlab.management import libvirt`` instead of ``import libvirt``.

A program written for one runs unchanged on the other as far as memory goes.  ``open`` knows
``test:///default``; a simulated host gives its own connection (`kvmlab.machine`).
"""

import time

from kvmlab.management.connection import virConnect
from kvmlab.management.domain import (
    VIR_DOMAIN_AFFECT_CONFIG,
    VIR_DOMAIN_AFFECT_CURRENT,
    VIR_DOMAIN_AFFECT_LIVE,
    VIR_DOMAIN_MEM_CONFIG,
    VIR_DOMAIN_MEM_CURRENT,
    VIR_DOMAIN_MEM_LIVE,
    VIR_DOMAIN_MEM_MAXIMUM,
    VIR_DOMAIN_RUNNING,
    VIR_DOMAIN_SHUTOFF,
    VIR_DOMAIN_XML_INACTIVE,
    virDomain,
)
from kvmlab.management.drivers import TestDriver
from kvmlab.management.libvirt_errors import (
    VIR_ERR_CONFIG_UNSUPPORTED,
    VIR_ERR_INTERNAL_ERROR,
    VIR_ERR_INVALID_ARG,
    VIR_ERR_NO_DOMAIN,
    VIR_ERR_NO_SUPPORT,
    VIR_ERR_OPERATION_FAILED,
    VIR_ERR_OPERATION_INVALID,
    VIR_ERR_OVERFLOW,
    VIR_ERR_XML_ERROR,
    libvirtError,
)

VIR_ERR_NO_CONNECT = 5
_DEFAULT = """\
<domain type='test'>
  <name>test</name>
  <uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>
  <memory>8388608</memory>
  <currentMemory>2097152</currentMemory>
  <vcpu>2</vcpu>
  <os><type>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <source file='/guest/diskimage1'/>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </disk>
    <interface type='network'>
      <mac address='aa:bb:cc:dd:ee:ff'/>
      <source network='default'/>
      <target dev='testnet0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
    </interface>
    <memballoon model='virtio'>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
    </memballoon>
  </devices>
</domain>
"""


def open(name: str | None = None) -> virConnect:  # noqa: A001  libvirt-python's own name
    """A connection; only ``test:///default`` is there without a host, fresh at each call."""
    if name != "test:///default":
        raise libvirtError(
            f"no connection driver available for {name}; test:///default needs no host, and "
            "a simulated host gives its own connection",
            VIR_ERR_NO_CONNECT,
        )
    connection = virConnect(TestDriver(time.time_ns), name)
    connection.defineXML(_DEFAULT).begin(0)
    return connection


__all__ = [
    "VIR_DOMAIN_AFFECT_CONFIG",
    "VIR_DOMAIN_AFFECT_CURRENT",
    "VIR_DOMAIN_AFFECT_LIVE",
    "VIR_DOMAIN_MEM_CONFIG",
    "VIR_DOMAIN_MEM_CURRENT",
    "VIR_DOMAIN_MEM_LIVE",
    "VIR_DOMAIN_MEM_MAXIMUM",
    "VIR_DOMAIN_RUNNING",
    "VIR_DOMAIN_SHUTOFF",
    "VIR_DOMAIN_XML_INACTIVE",
    "VIR_ERR_CONFIG_UNSUPPORTED",
    "VIR_ERR_INTERNAL_ERROR",
    "VIR_ERR_INVALID_ARG",
    "VIR_ERR_NO_CONNECT",
    "VIR_ERR_NO_DOMAIN",
    "VIR_ERR_NO_SUPPORT",
    "VIR_ERR_OPERATION_FAILED",
    "VIR_ERR_OPERATION_INVALID",
    "VIR_ERR_OVERFLOW",
    "VIR_ERR_XML_ERROR",
    "libvirtError",
    "open",
    "virConnect",
    "virDomain",
]
