"""A process of the guest: an address space of mappings that fill by demand faults."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from kvmlab.base.addresses import is_canonical, parse_address, parse_size, size_text
from kvmlab.base.errors import BadAddress, BadSize, Overlap

if TYPE_CHECKING:
    from kvmlab.guest.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Vma:
    """One mapping: a range of user addresses, its rights, and its page size (vm_area_struct)."""

    start: int
    end: int
    write: bool
    execute: bool
    shift: int
    huge: bool | None = None  # MADV_HUGEPAGE, MADV_NOHUGEPAGE, or no advice


@dataclass(eq=False, slots=True)
class Process:
    """A process with its own page-table root."""

    name: str
    root: int
    kernel: "Kernel" = field(repr=False)
    space: int  # names its address space (mm_struct); never used again (ctx_id)
    vmas: list[Vma] = field(default_factory=list)
    generation: int = 0  # how often something of its translations was flushed (tlb_gen)
    parent: "Process | None" = field(default=None, repr=False)

    def mmap(
        self,
        gva: int | str,
        length: int | str,
        *,
        write: bool = True,
        execute: bool = False,
        page: int | str = "4K",
        populate: bool = False,
    ) -> Vma:
        """Declare a mapping; its pages appear when they are touched, or at once (MAP_POPULATE).

        Raises `BadAddress` for an address that is misaligned or not a user's, `BadSize` for a
        length or page size that cannot be, `Overlap` for ground already taken.
        """
        start, size, page_size = parse_address(gva), parse_size(length), parse_size(page)
        shift = self.kernel.page_shift(page_size)
        end = start + size
        if start % page_size:
            raise BadAddress(f"mapping at {start:#x} is not aligned to {size_text(page_size)}")
        if size % page_size:
            raise BadSize(f"length {size:#x} is no multiple of the page of {size_text(page_size)}")
        if end > self.kernel.user_end:
            why = "is not in user space"
            if not is_canonical(start, self.kernel.width):
                why = "is not canonical"
            raise BadAddress(
                f"mapping at {start:#x} {why}; user addresses end at {self.kernel.user_end:#x}"
            )
        for other in self.vmas:
            if start < other.end and other.start < end:
                raise Overlap(
                    f"mapping at {start:#x} to {end - 1:#x} overlaps the one at "
                    f"{other.start:#x} to {other.end - 1:#x}"
                )
        vma = Vma(start, end, write, execute, shift)
        self.vmas.append(vma)
        if self.kernel.current is self:
            self.kernel.syscall()
        if populate:
            self.kernel.populate(self, vma)
        return vma

    def vma_at(self, gva: int) -> Vma | None:
        """The mapping that holds ``gva``, if any."""
        return next((one for one in self.vmas if one.start <= gva < one.end), None)

    def mprotect(self, gva: int | str, length: int | str | None = None, *, write: bool) -> None:
        """Allow or forbid writes to the mapping that starts at ``gva``, or to some of one."""
        vma = self._alone(gva, length)
        changed = replace(vma, write=write)
        self.vmas[self.vmas.index(vma)] = changed
        self.kernel.protect_pages(self, changed)

    def munmap(self, gva: int | str, length: int | str | None = None) -> None:
        """Remove the mapping that starts at ``gva``, or some of one, and give its frames back."""
        vma = self._alone(gva, length)
        self.kernel.unmap_pages(self, vma)
        self.vmas.remove(vma)

    def advise_huge(self, gva: int | str, length: int | str | None = None, *, wanted: bool) -> None:
        """MADV_HUGEPAGE or MADV_NOHUGEPAGE for the mapping that starts there, or some of one."""
        vma = self._alone(gva, length)
        self.vmas[self.vmas.index(vma)] = replace(vma, huge=wanted)

    def madvise_dontneed(self, gva: int | str, length: int | str) -> None:
        """Drop pages of one mapping: the next touch finds zeroes."""
        start, end, vma = self._within(gva, length)
        self.kernel.drop_pages(self, vma, start, end)

    def _alone(self, gva: int | str, length: int | str | None) -> Vma:
        """The mapping that starts at ``gva``; with a length, such part of one made its own.

        Linux, mm/mmap.c: __split_vma().
        """
        if length is None:
            return self._starting_at(parse_address(gva))
        start, end, whole = self._within(gva, length)
        edges = [edge for edge in (start, end) if whole.start < edge < whole.end]
        if edges:
            self.kernel.split_mapping(self, edges)
        bounds = [whole.start, *edges, whole.end]
        parts = [replace(whole, start=a, end=b) for a, b in pairwise(bounds)]
        at = self.vmas.index(whole)
        self.vmas[at : at + 1] = parts
        return next(one for one in parts if one.start == start)

    def _within(self, gva: int | str, length: int | str) -> tuple[int, int, Vma]:
        """Start and end of a range of whole pages of one mapping, and the mapping.

        Raises `BadAddress` and `BadSize`.
        """
        start, size = parse_address(gva), parse_size(length)
        vma = self.vma_at(start)
        if vma is None or start + size > vma.end:
            raise BadAddress(f"{start:#x} to {start + size - 1:#x} lies in no one mapping")
        page = 1 << vma.shift
        if start % page or size % page or not size:
            raise BadSize(
                f"{start:#x} with {size:#x} bytes is no range of whole pages of {size_text(page)}"
            )
        return start, start + size, vma

    def _starting_at(self, start: int) -> Vma:
        for one in self.vmas:
            if one.start == start:
                return one
        raise BadAddress(f"no mapping starts at {start:#x}")
