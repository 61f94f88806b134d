"""A recorded trace: what a real program fetched, read and wrote, in order.

A trace holds virtual addresses of one program.  Whatever reads a trace file checks each
record by the one rule here, so an engine that replays a `Trace` never meets a bad address.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvmlab.base.addresses import PAGE_SHIFT, PAGE_SIZE, is_canonical
from kvmlab.base.errors import BadSize, TraceError
from kvmlab.hardware.records import Kind

USER_END = 1 << 47  # first address past the user half of 48-bit virtual addresses
MAX_SIZE = PAGE_SIZE  # so that one access touches two pages at most


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Trace:
    """Accesses of one program, one row each, as three read-only arrays of equal length.

    `kinds` holds values of `Kind`; a modify (a load and a store of the same bytes by one
    instruction) is one WRITE.  Raises `TraceError` when the arrays do not fit together or
    a row breaks the rule of `refusal`.
    """

    name: str
    kinds: NDArray[np.uint8]
    addresses: NDArray[np.uint64]
    sizes: NDArray[np.uint16]

    def __post_init__(self) -> None:
        for column, dtype in (("kinds", "u1"), ("addresses", "u8"), ("sizes", "u2")):
            array = getattr(self, column)
            if array.dtype != np.dtype(dtype) or array.shape != (len(self.kinds),):
                raise TraceError(
                    f"trace {self.name}: {column} has type {array.dtype} and shape {array.shape};"
                    f" it takes {np.dtype(dtype)} and one value a record"
                )
            view = array.view()
            view.flags.writeable = False
            object.__setattr__(self, column, view)
        self._check_rows()

    def __len__(self) -> int:
        """The number of records."""
        return len(self.kinds)

    def __repr__(self) -> str:
        return f"<Trace {self.name}: {len(self):,} records>"

    def head(self, count: int) -> "Trace":
        """The first `count` records, or all where there are fewer; no array is copied.

        Raises `BadSize` for a negative count.
        """
        if count < 0:
            raise BadSize(f"{count} records cannot be taken; write a count of 0 or more")
        return Trace(self.name, self.kinds[:count], self.addresses[:count], self.sizes[:count])

    def pages(self) -> NDArray[np.uint64]:
        """The 4 KiB pages touched, each page number (address >> 12) once, rising.

        An access that crosses the end of a page touches both.
        """
        first = self.addresses >> np.uint64(PAGE_SHIFT)
        last = (self.addresses + self.sizes - np.uint64(1)) >> np.uint64(PAGE_SHIFT)
        return np.union1d(first, last[last != first])

    def _check_rows(self) -> None:
        known = np.isin(self.kinds, [kind.value for kind in Kind])
        if not known.all():
            row = int(np.argmin(known))
            raise TraceError(f"trace {self.name}, record {row}: {self.kinds[row]} is no Kind")
        good = acceptable(self.addresses, self.sizes)
        if not good.all():
            row = int(np.argmin(good))
            why = refusal(int(self.addresses[row]), int(self.sizes[row]))
            raise TraceError(f"trace {self.name}, record {row}: {why}")


def refusal(address: int, size: int) -> str | None:
    """Why a program cannot have accessed `size` bytes at `address`, or None if it can.

    The bytes must lie in the lower half of 48-bit canonical addresses, which Linux leaves
    to user mode, and be 1 to `MAX_SIZE`.
    """
    if not 1 <= size <= MAX_SIZE:
        return f"size {size} is not one of 1 to {MAX_SIZE} bytes"
    if not is_canonical(address, 48):
        return f"address {address:#x} is not canonical: its bits 63 to 47 differ"
    if address >= USER_END:
        return f"address {address:#x} is in the kernel's half; a program's are below {USER_END:#x}"
    if address + size > USER_END:
        return f"{size} bytes at {address:#x} run past the end of user space at {USER_END:#x}"
    return None


def acceptable(
    addresses: NDArray[np.uint64], sizes: NDArray[np.uint64] | NDArray[np.uint16]
) -> NDArray[np.bool_]:
    """For each row, whether `refusal` has nothing against it."""
    # A size beyond USER_END makes the last term wrap; by then the second has refused the row.
    return (sizes >= 1) & (sizes <= MAX_SIZE) & (addresses <= np.uint64(USER_END) - sizes)
