"""Translate a million accesses as `Cpu.attempt` would, each on a complete miss, in a few passes.

    pages   which pages occur, and how often                                  (per access)
    tree    walk each distinct page once, in both dimensions                  (per page)
    verdict which kinds of access each page refuses, and which would set A or D  (per page)
    answer  one gather gives an access its frame and its verdict              (per access)
    effects set A and D, count references, explain what was refused           (what is left)

Only the second half of the line "answer" and what it finds depends on single accesses, and A and
D bits can be set in any order.  Where the order would matter all the same (see `_Batch.unusual`)
each access is walked alone, by the scalar path.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kvmlab.hardware.batch_pages import CHUNK, Ints, chunks, occurrences, page_keys
from kvmlab.hardware.batch_plan import KINDS, MARK, REFUSED, Plan, plan_pages
from kvmlab.hardware.batch_scalar import translate_singly
from kvmlab.hardware.batch_tree import References
from kvmlab.hardware.cpu import Cpu, Outcome
from kvmlab.hardware.records import GeneralProtection, Kind

NOWHERE = -1
"""The host-physical address of an access that did not arrive."""


@dataclass(slots=True)
class Walked:
    """What came of a batch: where each access goes, and how many entries were read for it.

    ``hpa`` is `NOWHERE` for an access that was stopped; `outcome` says why.
    """

    hpa: Ints
    references: References
    _outcomes: "dict[int, Outcome] | _Stops" = field(repr=False)

    def outcome(self, number: int) -> Outcome:
        """What `Cpu.attempt` would have returned for this access."""
        address = int(self.hpa[number])
        return address if address != NOWHERE else self._outcomes[number]


def translate(
    cpu: Cpu,
    addresses: NDArray[np.uint64],
    kinds: NDArray[np.uint8] | Kind,
    user: NDArray[np.bool_] | bool = True,
) -> Walked:
    """Translate accesses in order, each with TLB and walk caches empty; sets A and D.

    ``kinds`` and ``user`` (made at CPL 3) are one value for each access, or one for all.  The
    CPU's own TLB is neither asked nor filled, and nothing is emitted.
    """
    gva = np.ascontiguousarray(addresses).view(np.int64)
    if cpu.context.width == 32:
        gva = gva & 0xFFFF_FFFF
    acc, end = _acc(len(gva), kinds, user), 1 << cpu.context.width - 1
    ends = (int(gva.min()), int(gva.max())) if len(gva) else (0, 0)
    if cpu.context.width == 32 or (-end <= ends[0] and ends[1] < end):
        return _translate(cpu, gva, acc, ends)
    bad = np.flatnonzero((gva < -end) | (gva >= end))
    good = np.setdiff1d(np.arange(len(gva)), bad, assume_unique=True)
    part = _translate(cpu, gva[good], acc[good])
    hpa = np.full(len(gva), NOWHERE, np.int64)
    hpa[good] = part.hpa
    why: dict[int, Outcome] = {
        int(n): GeneralProtection(int(addresses[n]), "the address is not canonical") for n in bad
    }
    stopped = np.flatnonzero(part.hpa == NOWHERE)
    why |= {int(good[n]): part.outcome(int(n)) for n in stopped}
    return Walked(hpa, part.references, why)


def _acc(
    count: int, kinds: NDArray[np.uint8] | Kind, user: NDArray[np.bool_] | bool
) -> NDArray[np.uint8]:
    """A small number for what is asked: `KINDS` tells which."""
    kind = np.right_shift(kinds, 1, dtype=np.uint8) if isinstance(kinds, np.ndarray) else kinds >> 1
    found = kind + np.multiply(user, 3, dtype=np.uint8)
    return np.broadcast_to(np.asarray(found, np.uint8), count)


def _translate(
    cpu: Cpu, gva: Ints, acc: NDArray[np.uint8], ends: tuple[int, int] | None = None
) -> Walked:
    """Translate canonical accesses, the lowest and the highest of which are ``ends``."""
    if not len(gva):
        return Walked(gva.copy(), References(), {})
    if cpu.context.ept and cpu.context.ept.agile:  # each walk is of two kinds of tables
        return Walked(*translate_singly(cpu, gva, acc))
    keys = page_keys(gva, (1 << cpu.context.width - 12) - 1, ends)
    plan = plan_pages(cpu, keys.numbers)
    words = np.zeros(keys.size, np.int64)
    words[keys.used] = plan.words
    hpa = np.empty(len(gva), np.int64)
    flagged, flags = _answers(words, keys.of_access, gva, acc, hpa)
    place = np.zeros(keys.size if len(flagged) else 0, np.int64)  # of a key among the pages
    if len(flagged):
        place[keys.used] = np.arange(len(keys.used))
    page = place.take(keys.of_access.take(flagged))
    asked = _asked(page, acc.take(flagged), len(keys.used))
    if plan.unusual(asked):
        return Walked(*translate_singly(cpu, gva, acc))
    plan.mark(asked)
    refused = np.flatnonzero(flags & REFUSED)
    stopped, page = flagged.take(refused), page.take(refused)
    hpa[stopped] = NOWHERE
    by_guest = page[plan.guest_refuses(page, acc.take(stopped))]
    passed = keys.counts
    if len(by_guest):
        passed = passed - occurrences(by_guest, len(keys.used))
    references = plan.count(keys.counts, passed)
    stops = _Stops(plan, gva, acc, place, keys.of_access)
    return Walked(hpa, references, stops)


def _answers(
    words: Ints, keys: Ints, gva: Ints, acc: NDArray[np.uint8], hpa: Ints
) -> tuple[Ints, NDArray[np.int16]]:
    """Write where each access goes; returns the accesses about which there is more to say."""
    flagged, flags = [], []
    word = np.empty(CHUNK, np.int64)
    quiet = not np.count_nonzero(words & 0xFFF)
    for part in chunks(len(gva)):
        size = part.stop - part.start
        found, out = word[:size], hpa[part]
        words.take(keys[part], out=found, mode="clip")
        np.bitwise_xor(found, gva[part], out=out)  # the frame, with the offset of the address:
        np.bitwise_and(out, ~0xFFF, out=out)
        np.bitwise_xor(out, gva[part], out=out)
        if quiet:
            continue
        said = found.astype(np.int16)  # the two masks are its low bits
        said >>= acc[part]
        said &= REFUSED | MARK
        some = np.flatnonzero(said != 0)
        if len(some):
            flag = said.take(some)
            some += part.start
            flags.append(flag)
            flagged.append(some)
            marks = some.take(np.flatnonzero(flag & MARK))
            # One access of a kind sets the bits of its page.  (A page that occurs here with two
            # kinds may keep one of them: it is then said twice.)
            words[keys.take(marks)] &= ~(MARK << acc.take(marks).astype(np.int64))
    if not flagged:
        return np.zeros(0, np.int64), np.zeros(0, np.int16)
    return np.concatenate(flagged), np.concatenate(flags)


def _asked(page: Ints, acc: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """For each page, which kinds of access were made to it, as bits."""
    asked = np.zeros(count, np.uint8)
    for kind in range(KINDS) if len(page) else ():
        asked[page.take(np.flatnonzero(acc == kind))] |= 1 << kind
    return asked


@dataclass(slots=True)
class _Stops:
    """Why accesses were stopped, told when somebody asks."""

    plan: Plan
    gva: Ints
    acc: NDArray[np.uint8]
    place: Ints
    keys: Ints

    def __getitem__(self, number: int) -> Outcome:
        page = int(self.place[self.keys[number]])
        gva = int(self.gva[number]) & (1 << 64) - 1
        return self.plan.explain(page, gva, int(self.acc[number]))
