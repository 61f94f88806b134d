"""The designs on offer, and which choices go together."""

from types import MappingProxyType

from kvmlab.base.addresses import parse_size, size_text
from kvmlab.base.errors import BadChoice, BadSize
from kvmlab.hardware.formats import Format, format_named
from kvmlab.hardware.ram import PAGE_SIZE

MMUS = ("native", "shadow", "ept")
DESIGNS = (*MMUS, "npt", "agile", "l2-ept", "l2-shadow")
_HOST_SHIFTS = (12, 21, 30)
MOST_VCPUS = 32  # as Firecracker allows; the pictures would not hold more
_LOW_MEMORY = 896 << 20  # what a 32-bit Linux maps directly


def check_vcpus(count: int, mmu: str) -> None:
    """Refuse a number of virtual CPUs that cannot be; raises `BadChoice`."""
    if mmu.startswith("l2-") and count != 1:
        raise BadChoice(f"a nested guest has one virtual CPU here, not {count!r}")
    if type(count) is not int or not 1 <= count <= MOST_VCPUS:
        raise BadChoice(f"{count!r} virtual CPUs are not on offer; choose 1 to {MOST_VCPUS}")


def guest_format(levels: int, mmu: str) -> Format:
    """The format of a guest's tables; raises `BadChoice`."""
    names = MappingProxyType({2: "32-bit", 3: "PAE", 4: "4-level", 5: "5-level"})
    if type(levels) is not int or levels not in names:
        raise BadChoice(f"{levels!r} guest levels are not on offer; choose 2, 3, 4 or 5")
    if mmu == "agile" and levels < 4:
        raise BadChoice(f"agile paging shadows guests of 4 or 5 levels, not of {levels}")
    return format_named(names[levels])


def ept_levels(levels: int) -> int:
    """``levels`` if EPT has so many; raises `BadChoice`."""
    if levels not in (4, 5):
        raise BadChoice(f"EPT has 4 or 5 levels, not {levels}")
    return levels


def host_shift(page: int | str) -> int:
    """The shift of a page size of the host; raises `BadSize`."""
    size = parse_size(page)
    if size not in [1 << shift for shift in _HOST_SHIFTS]:
        raise BadSize(f"{size_text(size)} is no host page; choose 4K, 2M or 1G")
    return size.bit_length() - 1


def check_guest(size: int, fmt: Format, host_shift: int) -> None:
    """Refuse a guest's memory that is misaligned, or more than its tables map; `BadSize`."""
    grain = max(1 << fmt.page_shifts[1], 1 << host_shift)
    if size % grain:
        raise BadSize(f"guest memory {size_text(size)} is no multiple of {size_text(grain)}")
    if not fmt.long_mode and size > _LOW_MEMORY:
        raise BadSize(
            f"a {fmt.name} guest maps its memory above 0xc0000000: {size_text(size)} is more "
            f"than the {size_text(_LOW_MEMORY)} that fit there"
        )


def check_host(guest: int, host: int, *, native: bool) -> None:
    """Refuse a host that is misaligned or smaller than its only guest; raises `BadSize`."""
    if host % PAGE_SIZE:
        raise BadSize(f"host memory {size_text(host)} is no multiple of 4K")
    if not native and guest >= host:
        raise BadSize(
            f"a guest of {size_text(guest)} does not fit in a host of {size_text(host)}: "
            "the host needs room for page tables too"
        )
