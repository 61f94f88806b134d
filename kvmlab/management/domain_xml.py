"""A domain's definition: the XML that libvirt reads and writes, as far as memory goes.

The elements that this package gives a meaning are fields of `Definition`; what else a learner
wrote (disks, consoles) is kept as it stands.  libvirt, src/conf/domain_conf.c; "Domain XML
format".
"""

import uuid as uuids
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from types import MappingProxyType
from xml.etree import ElementTree as ET

from kvmlab.management.libvirt_errors import (
    VIR_ERR_CONFIG_UNSUPPORTED,
    VIR_ERR_NO_NAME,
    VIR_ERR_XML_DETAIL,
    internal,
    libvirtError,
    xml_error,
)
from kvmlab.management.scaled import INT_MAX, KIB, LLONG_MAX, ULONG_MAX, kib, number, scale
from kvmlab.management.xml_text import to_text

DOMAIN_TYPES = ("test", "qemu", "kvm")
_MODELS = ("virtio", "virtio-transitional", "virtio-non-transitional", "xen", "none")
_TUNING = ("hard_limit", "soft_limit", "min_guarantee", "swap_hard_limit")
_LIFECYCLE = MappingProxyType(
    {"on_poweroff": "destroy", "on_reboot": "restart", "on_crash": "destroy"}
)
_TITLES = ("title", "description", "metadata")  # these stand before the memory
_KNOWN = frozenset(_LIFECYCLE) | {
    "name",
    "uuid",
    "memory",
    "currentMemory",
    "memtune",
    "memoryBacking",
    "vcpu",
    "os",
    "devices",
}
_SOURCES = ("file", "anonymous", "memfd")


@dataclass(slots=True)
class Memballoon:
    """``<memballoon>``: the model, what the device offers, and the statistics period."""

    model: str
    autodeflate: str = ""  # "on", "off" or not said: deflate on OOM
    free_page_reporting: str = ""
    period: int = 0  # seconds; 0: no statistics are collected
    rest: list[ET.Element] = field(default_factory=list)  # its address, its alias


@dataclass(slots=True)
class Definition:
    """What a domain is to be when it is started; memory in KiB."""

    type: str
    name: str
    uuid: str
    memory: int
    current_memory: int
    vcpus: int = 1
    os: ET.Element = field(default_factory=lambda: ET.Element("os"))
    memtune: dict[str, int] = field(default_factory=dict)
    backing: ET.Element | None = None
    memballoon: Memballoon | None = None
    devices: list[ET.Element] = field(default_factory=list)
    lifecycle: dict[str, str] = field(default_factory=lambda: dict(_LIFECYCLE))
    rest: list[ET.Element] = field(default_factory=list)

    @property
    def balloon(self) -> Memballoon | None:
        """The balloon device that guests get: None too for model ``none``."""
        found = self.memballoon
        return found if found and found.model != "none" else None

    @property
    def hugepage(self) -> int | None:
        """The huge page in KiB that ``<hugepages>`` asks for; 0: the host's default; or None."""
        pages = self.backing.find("hugepages") if self.backing is not None else None
        if pages is None:
            return None
        page = pages.find("page")
        return int(page.get("size", "0")) if page is not None else 0

    def copy(self) -> "Definition":
        """A definition of its own: the live one of a domain that starts."""
        return deepcopy(self)


# -- reading ------------------------------------------------------------------------------


def parse(text: str) -> Definition:
    """The definition that ``text`` holds; raises `libvirtError` with libvirt's own words."""
    root = _root(text)
    kind = root.get("type")
    if kind is None:
        raise internal("missing domain type attribute")
    if kind not in DOMAIN_TYPES:
        raise libvirtError(
            f"unsupported configuration: invalid domain type {kind}", VIR_ERR_CONFIG_UNSUPPORTED
        )
    memory = _memory(root, "memory") or 0
    if not memory:
        raise xml_error("Memory size must be specified via <memory> or in the <numa> configuration")
    current = _memory(root, "currentMemory") or memory
    return Definition(
        type=kind,
        name=_name(root),
        uuid=_uuid(root),
        memory=memory,
        current_memory=min(current, memory),
        vcpus=_vcpus(root.findtext("vcpu") or "1"),
        os=_os(root, "i686" if kind == "test" else "x86_64"),
        memtune=_memtune(root.find("memtune")),
        backing=_backing(root.find("memoryBacking")),
        memballoon=_memballoon(root.findall("devices/memballoon"), kind),
        devices=[one for one in root.findall("devices/*") if one.tag != "memballoon"],
        lifecycle={tag: root.findtext(tag) or action for tag, action in _LIFECYCLE.items()},
        rest=[one for one in root if one.tag not in _KNOWN],
    )


def _root(text: str) -> ET.Element:
    try:
        root = ET.fromstring(text)  # noqa: S314  the learner's own text; expat bounds entities
    except ET.ParseError as error:
        line = error.position[0]
        why = "Document is empty" if not text.strip() else str(error).partition(":")[0]
        raise libvirtError(f"(domain_definition):{line}: {why}", VIR_ERR_XML_DETAIL) from None
    except UnicodeEncodeError:  # a lone surrogate
        why = "Input is not proper UTF-8"
        raise libvirtError(f"(domain_definition):1: {why}", VIR_ERR_XML_DETAIL) from None
    if root.tag != "domain":
        raise xml_error(f"expecting root element of 'domain', not '{root.tag}'")
    return root


def _name(root: ET.Element) -> str:
    name = root.findtext("name")
    if not name:
        raise libvirtError("missing name information", VIR_ERR_NO_NAME)
    if "/" in name:
        raise xml_error(f"name {name} cannot contain '/'")
    return name


def _uuid(root: ET.Element) -> str:
    text = root.findtext("uuid")
    if text is None:
        return str(uuids.uuid4())
    try:
        return str(uuids.UUID(text))
    except ValueError:
        raise internal("malformed uuid element") from None


def _os(root: ET.Element, arch: str) -> ET.Element:
    found, kind = root.find("os"), root.find("os/type")
    if found is None or kind is None or not kind.text:
        raise xml_error("an os <type> must be specified")
    kind.attrib.setdefault("arch", arch)
    if found.find("boot") is None:
        ET.SubElement(found, "boot", {"dev": "hd"})
    return found


def _vcpus(text: str) -> int:
    count = number(text, INT_MAX)
    if not count:
        raise xml_error("maximum vcpus count must be an integer")
    return count


def _memory(root: ET.Element, tag: str) -> int | None:
    """The memory element ``tag`` in KiB, rounded up; None if there is none."""
    element = root.find(tag)
    if element is None or element.text is None:
        return None
    return _scaled(element.text, element.get("unit", "KiB"), f"./{tag}[1]")


def _scaled(text: str, unit: str, where: str) -> int:
    value = number(text, ULONG_MAX)
    if value is None:
        raise xml_error(f"Invalid value '{text}' for element or attribute '{where}'")
    return kib(scale(value, unit, default=KIB, limit=LLONG_MAX))


def _memtune(element: ET.Element | None) -> dict[str, int]:
    found = {} if element is None else {tag: _memory(element, tag) for tag in _TUNING}
    return {tag: value for tag, value in found.items() if value is not None}


def _backing(element: ET.Element | None) -> ET.Element | None:
    """``<memoryBacking>`` with every page size in KiB."""
    if element is None:
        return None
    source = element.find("source")
    if source is not None and source.get("type") not in _SOURCES:
        raise libvirtError(
            f"unsupported configuration: unknown memoryBacking/source/type '{source.get('type')}'",
            VIR_ERR_CONFIG_UNSUPPORTED,
        )
    for page in element.findall("hugepages/page"):
        size = page.get("size")
        if size is None:
            raise xml_error("missing element or attribute './@size'")
        found = _scaled(size, page.get("unit", "KiB"), "./@size")
        if not found:
            raise libvirtError("hugepage size can't be zero", VIR_ERR_XML_DETAIL)
        nodes = {"nodeset": page.attrib["nodeset"]} if "nodeset" in page.attrib else {}
        page.attrib.clear()
        page.attrib.update({"size": str(found), "unit": "KiB", **nodes})
    return element


def _memballoon(found: list[ET.Element], kind: str) -> Memballoon | None:
    if len(found) > 1:
        raise internal("only a single memory balloon device is supported")
    if not found:  # QEMU's guests have one unless they say none
        return None if kind == "test" else Memballoon("virtio")
    element = found[0]
    model = element.get("model")
    if model is None:
        raise xml_error("Missing required attribute 'model' in element 'memballoon'")
    _one_of(element, "model", _MODELS)
    if model == "xen" and kind != "test":  # qemuValidateDomainDeviceDefMemballoon()
        raise libvirtError(
            f"unsupported configuration: Memory balloon device type '{model}' is not supported "
            "by this version of qemu",
            VIR_ERR_CONFIG_UNSUPPORTED,
        )
    stats = element.find("stats")
    return Memballoon(
        model,
        _one_of(element, "autodeflate", ("on", "off")),
        _one_of(element, "freePageReporting", ("on", "off")),
        _period(stats) if stats is not None else 0,
        [one for one in element if one.tag != "stats"],
    )


def _one_of(element: ET.Element, name: str, choices: Iterable[str]) -> str:
    value = element.get(name, "")
    if name in element.attrib and value not in choices:
        raise xml_error(
            f"Invalid value for attribute '{name}' in element '{element.tag}': '{value}'."
        )
    return value


def _period(stats: ET.Element) -> int:
    text = stats.get("period", "0")
    seconds = number(text.removeprefix("-"), INT_MAX)
    if seconds is None:
        raise xml_error(
            f"Invalid value for attribute 'period' in element 'stats': '{text}'. "
            "Expected integer value"
        )
    return 0 if text.startswith("-") else seconds  # libvirt drops a negative period without a word


# -- writing ------------------------------------------------------------------------------


def element_of(definition: Definition, domain_id: int | None = None) -> ET.Element:
    """The definition as libvirt arranges it; with ``domain_id`` that of a running domain."""
    root = ET.Element("domain", {"type": definition.type})
    if domain_id is not None:
        root.set("id", str(domain_id))
    _text(root, "name", definition.name)
    _text(root, "uuid", definition.uuid)
    root.extend(deepcopy([one for one in definition.rest if one.tag in _TITLES]))
    _text(root, "memory", definition.memory, unit="KiB")
    _text(root, "currentMemory", definition.current_memory, unit="KiB")
    if definition.memtune:
        tune = ET.SubElement(root, "memtune")
        for tag in _TUNING:
            if tag in definition.memtune:
                _text(tune, tag, definition.memtune[tag], unit="KiB")
    if definition.backing is not None:
        root.append(deepcopy(definition.backing))
    _text(root, "vcpu", definition.vcpus, placement="static")
    root.append(deepcopy(definition.os))
    root.extend(deepcopy([one for one in definition.rest if one.tag not in _TITLES]))
    if not any(one.tag == "clock" for one in definition.rest):
        ET.SubElement(root, "clock", {"offset": "utc"})
    for tag, action in definition.lifecycle.items():
        _text(root, tag, action)
    devices = ET.SubElement(root, "devices")
    devices.extend(deepcopy(definition.devices))
    if definition.memballoon:
        devices.append(_balloon_element(definition.memballoon))
    return root


def describe(definition: Definition, domain_id: int | None = None) -> str:
    """The XML text, as virDomainGetXMLDesc() returns it."""
    return to_text(element_of(definition, domain_id))


def _balloon_element(balloon: Memballoon) -> ET.Element:
    element = ET.Element("memballoon", {"model": balloon.model})
    if balloon.autodeflate:
        element.set("autodeflate", balloon.autodeflate)
    if balloon.free_page_reporting:
        element.set("freePageReporting", balloon.free_page_reporting)
    if balloon.period:
        ET.SubElement(element, "stats", {"period": str(balloon.period)})
    element.extend(deepcopy(balloon.rest))
    return element


def _text(parent: ET.Element, tag: str, value: object, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = str(value)
