"""Host-physical memory: one growable pool of frames, sparse, the same bytes for every reader.

Only frames that hold something take space, so a host of 1 TiB costs nothing until it is used.
The pool is a NumPy array for batches; the scalar path sees the same bytes as a memoryview of
unsigned 64-bit words, so NumPy stores and Python's integers compute.  Slot 0 of the pool is an
all-zero null frame that stands for every frame without contents; nothing ever writes to it.
"""

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.errors import BadAddress, BadSize

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
WORDS = PAGE_SIZE // 8
ALL_ONES = (1 << 64) - 1
_FIRST_SLOTS, _STEP = 64, 128


class Ram:
    """Physical memory of ``size`` bytes, in frames of 4 KiB that read as zero until written.

    An address beyond ``size`` behaves as on a PC, where nobody answers on the bus: loads read
    all ones and stores are lost.  Misaligned words are misuse and raise `BadAddress`.
    """

    def __init__(self, size: int) -> None:
        if size <= 0 or size % PAGE_SIZE:
            raise BadSize(f"memory of {size:#x} bytes is not a positive multiple of 4 KiB")
        self.size = size
        self._pool: NDArray[np.int64] = np.zeros((_FIRST_SLOTS, WORDS), dtype=np.int64)
        self._words = self._view()
        self._base: dict[int, int] = {}  # frame number -> first word in the pool
        self._free: list[int] = []  # words of slots that were given back
        self._next = WORDS  # slot 0 is the null frame

    def load(self, hpa: int) -> int:
        """The 8-byte word at ``hpa``, unsigned."""
        base = self._base.get(hpa >> PAGE_SHIFT)
        if hpa & 7:
            raise BadAddress(f"8-byte load at {hpa:#x} is not aligned to 8 bytes")
        if base is None:
            return 0 if hpa < self.size else ALL_ONES
        return self._words[base + (hpa >> 3 & 511)]

    def store(self, hpa: int, value: int) -> None:
        """Write the 8-byte word at ``hpa``."""
        if hpa & 7:
            raise BadAddress(f"8-byte store at {hpa:#x} is not aligned to 8 bytes")
        if hpa < self.size:
            base = self._slot(hpa >> PAGE_SHIFT)
            self._words[base + (hpa >> 3 & 511)] = value

    def load4(self, hpa: int) -> int:
        """The 4-byte word at ``hpa``: an entry of 32-bit paging."""
        if hpa & 3:
            raise BadAddress(f"4-byte load at {hpa:#x} is not aligned to 4 bytes")
        return self.load(hpa & ~7) >> 8 * (hpa & 4) & 0xFFFF_FFFF

    def store4(self, hpa: int, value: int) -> None:
        """Write the 4-byte word at ``hpa``."""
        if hpa & 3:
            raise BadAddress(f"4-byte store at {hpa:#x} is not aligned to 4 bytes")
        shift = 8 * (hpa & 4)
        other = self.load(hpa & ~7) & ~(0xFFFF_FFFF << shift)
        self.store(hpa & ~7, other | value << shift)

    def read(self, hpa: int, size: int) -> bytes:
        """``size`` bytes from ``hpa``, which may span frames."""
        out = bytearray()
        while size:
            offset = hpa & PAGE_SIZE - 1
            count = min(size, PAGE_SIZE - offset)
            out += self._frame_bytes(hpa >> PAGE_SHIFT)[offset : offset + count]
            hpa, size = hpa + count, size - count
        return bytes(out)

    def write(self, hpa: int, data: bytes) -> None:
        """Write ``data`` at ``hpa``; it may span frames."""
        while data:
            offset = hpa & PAGE_SIZE - 1
            part, data = data[: PAGE_SIZE - offset], data[PAGE_SIZE - offset :]
            pfn = hpa >> PAGE_SHIFT
            if hpa < self.size and (pfn in self._base or any(part)):
                start = self._slot(pfn) * 8 + offset
                self._pool.reshape(-1).view(np.uint8)[start : start + len(part)] = np.frombuffer(
                    part, dtype=np.uint8
                )
            hpa += len(part)

    def words_at(self, hpa: int, count: int) -> NDArray[np.int64]:
        """A view of ``count`` words of one frame, to be read only; signed, as NumPy stores them."""
        first = self._base.get(hpa >> PAGE_SHIFT, 0) + (hpa >> 3 & 511)
        words: NDArray[np.int64] = self._pool.reshape(-1)[first : first + count]
        return words

    def store_words(self, hpa: int, words: NDArray[np.int64]) -> None:
        """Write ``words`` from ``hpa`` on, within one frame; signed, as NumPy stores them."""
        if hpa < self.size:
            self._slot(hpa >> PAGE_SHIFT)
            self.words_at(hpa, len(words))[:] = words

    def clear_words(self, hpa: int, count: int) -> None:
        """Set ``count`` words of one frame to zero."""
        if hpa >> PAGE_SHIFT in self._base:
            self.words_at(hpa, count)[:] = 0

    def discard(self, pfn: int) -> None:
        """Forget the contents of a frame: it reads as zero again and takes no space."""
        base = self._base.pop(pfn, None)
        if base is not None:
            self._pool[base // WORDS] = 0
            self._free.append(base)

    def discard_run(self, first: int, count: int) -> None:
        """Forget the contents of ``count`` neighbouring frames."""
        held = self._base
        for pfn in [pfn for pfn in range(first, first + count) if pfn in held]:
            self.discard(pfn)

    def frame(self, pfn: int) -> NDArray[np.int64]:
        """A copy of one frame as 512 words (signed, as NumPy stores them)."""
        words: NDArray[np.int64] = self._pool[self._base.get(pfn, 0) // WORDS].copy()
        return words

    def frames(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """A copy of many frames, each a row as `frame` has it."""
        base = self._base
        slots = [base.get(pfn, 0) // WORDS for pfn in pfns.tolist()]
        return self._pool[slots]

    @property
    def words(self) -> NDArray[np.int64]:
        """The pool as one row of words, for batches: `find_words` says whose is where.

        It is good until a frame is added, and only words of frames in use may be written.
        """
        return self._pool.reshape(-1)

    def find_words(
        self, pfns: NDArray[np.int64], wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
        """Where in `words` each frame begins, and which frames lie beyond the memory (or None).

        A frame without contents, one beyond the memory and one that is not ``wanted`` is the
        null frame.
        """
        base = self._base
        found = np.array([base.get(pfn, 0) for pfn in pfns.tolist()], dtype=np.int64) * wanted
        outside = pfns >= self.size >> PAGE_SHIFT
        return found, outside & wanted if np.count_nonzero(outside) else None

    @property
    def frames_in_use(self) -> int:
        """How many frames hold contents, so take space in the pool."""
        return len(self._base)

    def image(self) -> dict[int, bytes]:
        """Every frame that holds anything but zeroes, by frame number: to compare machines."""
        found = {pfn: self._frame_bytes(pfn) for pfn in sorted(self._base)}
        return {pfn: data for pfn, data in found.items() if any(data)}

    def _frame_bytes(self, pfn: int) -> bytes:
        if pfn << PAGE_SHIFT >= self.size:
            return b"\xff" * PAGE_SIZE
        return bytes(self._pool[self._base.get(pfn, 0) // WORDS].tobytes())

    def _slot(self, pfn: int) -> int:
        base = self._base.get(pfn)
        if base is None:
            base = self._free.pop() if self._free else self._grow()
            self._base[pfn] = base
        return base

    def _grow(self) -> int:
        if self._next == self._pool.size:
            old = len(self._pool)  # doubled while small, then by little, so that little is unused
            pool = np.zeros((old + min(old, max(_STEP, old >> 3)), WORDS), dtype=np.int64)
            pool[: len(self._pool)] = self._pool
            self._pool = pool
            self._words = self._view()
        self._next += WORDS
        return self._next - WORDS

    def _view(self) -> memoryview:
        return self._pool.reshape(-1).data.cast("B").cast("Q")
