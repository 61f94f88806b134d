"""What a learner types for a range of pages, checked: where, how large, with which rights."""

from kvmlab.base.addresses import is_canonical, parse_address, parse_size, size_text
from kvmlab.base.errors import BadAddress, BadChoice, BadSize
from kvmlab.guest.kernel import Kernel
from kvmlab.guest.tables import NX, USER, WRITABLE
from kvmlab.hardware.formats import Format
from kvmlab.machine import Machine

MOST_PAGES = 512
_WIDE = 8  # bytes of an entry that has an XD bit


def user_range(guest: Kernel, gva: str, pages: int, page: str) -> tuple[int, int]:
    """The start and page shift of a range of user space; raises `BadAddress`, `BadSize`."""
    start, shift = parse_address(gva), guest.page_shift(parse_size(page))
    if not 1 <= pages <= MOST_PAGES:
        raise BadSize(f"choose 1 to {MOST_PAGES} pages at once, not {pages}")
    if start % (1 << shift):
        raise BadAddress(f"{start:#x} is not aligned to pages of {size_text(1 << shift)}")
    if start + (pages << shift) > guest.user_end:
        canonical = is_canonical(start, guest.width)
        why = "is not in user space" if canonical else "is not canonical"
        raise BadAddress(f"{start:#x} {why}: user addresses end at {guest.user_end:#x}")
    return start, shift


def check_target(machine: Machine, gpa: int, shift: int, pages: int) -> None:
    """Refuse a frame that no entry can name; one without memory is the learner's affair."""
    if gpa % (1 << shift):
        raise BadAddress(f"GPA {gpa:#x} is not aligned to pages of {size_text(1 << shift)}")
    wide = machine.guest.tables.format.entry_bytes == _WIDE
    bits = machine.cpu.processor.maxphyaddr if wide else 32
    if gpa + (pages << shift) > 1 << bits:
        raise BadAddress(f"GPA {gpa:#x} is beyond the {bits} bits of a physical address")


def rights_flags(fmt: Format, rights: str) -> int:
    """The bits of a leaf for letters of ``wux``; raises `BadChoice`."""
    if len(set(rights)) != len(rights) or set(rights) - set("wux"):
        raise BadChoice(f"rights are letters of wux, each once, not {rights!r:.40}")
    flags = (WRITABLE if "w" in rights else 0) | (USER if "u" in rights else 0)
    return flags | (0 if "x" in rights else rights_bits(fmt) & NX)


def rights_bits(fmt: Format) -> int:
    """All bits that rights are: 32-bit entries have no XD."""
    return USER | WRITABLE | (NX if fmt.entry_bytes == _WIDE else 0)
