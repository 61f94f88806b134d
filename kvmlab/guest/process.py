"""A process of the guest: an address space of mappings that fill by demand faults."""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from kvmlab.base.addresses import (
    PAGE_SHIFT,
    PAGE_SIZE,
    is_canonical,
    parse_address,
    parse_size,
    size_text,
)
from kvmlab.base.checks import expect
from kvmlab.base.errors import BadAddress, BadChoice, BadSize, Overlap

if TYPE_CHECKING:
    from kvmlab.guest.kernel import Kernel

_FILE_PAGES, _FILES = 1 << 32, 1 << 31  # as many as the page cache can tell apart


@dataclass(frozen=True, slots=True)
class FileRange:
    """Which file a mapping is of, and where its pages are (vm_file, vm_pgoff)."""

    number: int
    origin: int  # the address at which its page 0 is, or would be
    shared: bool  # MAP_SHARED; else a page that is written is copied first

    def page_at(self, gva: int) -> int:
        """The number of the page that is seen at ``gva``."""
        return gva - self.origin >> PAGE_SHIFT

    def address_of(self, page: int) -> int:
        """Where a page of the file is, or would be."""
        return self.origin + (page << PAGE_SHIFT)


@dataclass(frozen=True, slots=True)
class Vma:
    """One mapping: a range of user addresses, its rights, and its page size (vm_area_struct)."""

    start: int
    end: int
    write: bool
    execute: bool
    shift: int
    huge: bool | None = None  # MADV_HUGEPAGE, MADV_NOHUGEPAGE, or no advice
    file: FileRange | None = None  # None: anonymous memory


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
        shift = self.kernel.page_shift(parse_size(page))
        start, end = self._free_range(gva, length, shift)
        vma = self._add(Vma(start, end, write, execute, shift))
        if populate:
            self.kernel.populate(self, vma)
        return vma

    def mmap_file(
        self,
        gva: int | str,
        length: int | str,
        file: int,
        *,
        offset: int | str = 0,
        write: bool = True,
        execute: bool = False,
        private: bool = False,
    ) -> Vma:
        """Map a file of the guest's disk, by its number in `Reclaimer.cache`, from ``offset`` on.

        A touch maps the page of the page cache, read from the disk if need be: writes are seen by
        whoever reads or maps the file (MAP_SHARED).  With ``private`` a page that is written
        becomes the process's own (MAP_PRIVATE).  A file has no end: what nobody wrote is zero.

        Raises as `mmap` does; `BadChoice` for what is no file, or if no `Reclaimer` is attached.
        """
        start, end = self._free_range(gva, length, PAGE_SHIFT)
        skipped = parse_size(offset) if offset else 0
        if skipped % PAGE_SIZE or (skipped + end - start) >> PAGE_SHIFT > _FILE_PAGES:
            raise BadSize(
                f"offset {skipped:#x} in a file is no multiple of 4K, or the mapping ends beyond "
                f"page {_FILE_PAGES - 1:#x}"
            )
        expect("file", file, int, "the number of a file")
        if not 0 <= file < _FILES:
            raise BadChoice(f"file {file:#x} is no number of a file: 0 to {_FILES - 1:#x}")
        if not self.kernel.has_files:
            raise BadChoice("this guest has no page cache: attach a Reclaimer to its kernel first")
        mapped = FileRange(file, start - skipped, not private)
        return self._add(Vma(start, end, write, execute, PAGE_SHIFT, file=mapped))

    def _free_range(self, gva: int | str, length: int | str, shift: int) -> tuple[int, int]:
        """Start and end of ground for a new mapping of pages of 2**shift bytes.

        Raises `BadAddress`, `BadSize` and `Overlap`.
        """
        start, size, page_size = parse_address(gva), parse_size(length), 1 << shift
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
        return start, end

    def _add(self, vma: Vma) -> Vma:
        self.vmas.append(vma)
        if self.kernel.current is self:
            self.kernel.syscall()
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
        """Drop pages of one mapping: the next touch finds zeroes, or what the file has."""
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
