"""python -m tests.bench [--full] [--json]: kvmlab's batches beside plain C, pycachesim, Python.

Every result is first compared with the peer's, access by access where the peer says so much.
Then both take turns, and what is printed is the median of the ratios (our time over the peer's,
below 1 is faster), with the least and the greatest.  Times are of the process, so that another
program on the machine lengthens neither.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import median
from time import process_time

import numpy as np

from kvmlab.hardware.batch_tlb import MISS, BatchTlb
from kvmlab.hardware.batch_walk import NOWHERE, translate
from tests.bench import data, in_python, peers

ROUNDS = 7
SAMPLE = 20_000  # accesses that a walker in Python makes
KEYS = ("name", "peer", "ratio_median", "ratio_min", "ratio_max", "equal")
SIZES = (("1 MiB", 1 << 20), ("16 MiB", 1 << 24), ("256 MiB", 1 << 28), ("4 GiB", 1 << 32))


@dataclass
class Result:
    """One line of the table; ``ours_ns`` and ``peer_ns`` are medians for one access."""

    name: str
    peer: str
    ratio_median: float
    ratio_min: float
    ratio_max: float
    equal: bool
    ours_ns: float
    peer_ns: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="also the traces' data accesses alone")
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    args = parser.parse_args()
    program = peers.compiled()
    if program is None:
        print("no C compiler is found: nothing is compared with C", file=sys.stderr)
    if not in_python.has_pycachesim():
        print("pycachesim is not installed: nothing is compared with it", file=sys.stderr)
    found = []
    if not args.json:
        print(
            f"{'what':38}{'peer':15}{'ratio':>7}{'min':>7}{'max':>7}{'ours':>9}{'peer':>9}  equal"
        )
    for one in sets(full=args.full):
        for result in measured(one, program):
            found.append(result)
            if not args.json:
                show(result)
    if args.json:
        print(as_json(found))
    return 0 if all(one.equal for one in found) else 1


def as_json(found: list[Result]) -> str:
    """All lines as a list of objects: ratios, without the times of this machine."""
    rows = [asdict(one) for one in found]
    return json.dumps([{key: row[key] for key in KEYS} for row in rows], indent=1)


def show(one: Result) -> None:
    ratios = f"{one.ratio_median:7.3f}{one.ratio_min:7.3f}{one.ratio_max:7.3f}"
    times = f"{one.ours_ns:7.1f}ns{one.peer_ns:7.1f}ns"
    print(f"{one.name:38}{one.peer:15}{ratios}{times}  {'yes' if one.equal else 'NO'}", flush=True)


def sets(*, full: bool) -> Iterator[data.Data]:
    """The data, one set after the other, so that only one is in memory."""
    for name, size in SIZES:
        yield data.uniform(name, size)
    for name in ("ls", "sort"):
        yield data.traced(name)
        if full:
            yield data.traced(name, data_only=True)


def measured(one: data.Data, program: peers.ctypes.CDLL | None) -> Iterator[Result]:
    """Everything about one set of accesses."""
    for nested in (False, True):
        if program:
            yield walks(one, program, nested=nested)
        if one.name in ("1 MiB", "sort"):
            yield beside_python(one, nested=nested)
    if program:
        yield lookups(one, program)
        yield both(one, program)
    if in_python.has_pycachesim():
        yield beside_pycachesim(one)


def walks(one: data.Data, program: peers.ctypes.CDLL, *, nested: bool) -> Result:
    """A walk for every access: addresses, outcomes, counts by level, and memory afterwards."""
    cpu = one.machine(nested=nested)
    naive = peers.Walker(program, cpu)
    accesses = one.gva, one.kinds, one.user
    hpa, _ = naive.walk(*accesses)
    walked = translate(cpu, *accesses)
    equal = bool((hpa == walked.hpa).all()) and naive.references() == walked.references
    equal = equal and naive.image() == cpu.ram.image()
    name = f"{'nested' if nested else 'native'} walk, {one.name}"
    times = turns(lambda: translate(cpu, *accesses), lambda: naive.walk(*accesses))
    naive.close()
    return result(name, "naive C", times, equal, len(one), len(one))


def lookups(one: data.Data, program: peers.ctypes.CDLL) -> Result:
    """An exact TLB: where every access is found."""
    equal = BatchTlb().lookups(one.gva) == peers.TwoLevels(program).lookups(one.gva)
    times = turns(
        lambda: BatchTlb().lookups(one.gva), lambda: peers.TwoLevels(program).lookups(one.gva)
    )
    return result(f"TLB, {one.name}", "naive C", times, bool(equal.all()), len(one), len(one))


def both(one: data.Data, program: peers.ctypes.CDLL) -> Result:
    """A TLB, and a nested walk for each of its misses, over tables that refuse nothing."""
    cpu = one.machine(nested=True, flawed=False)
    naive = peers.Walker(program, cpu)

    def ours() -> tuple[np.ndarray, np.ndarray]:
        where = BatchTlb().lookups(one.gva)
        missed = np.flatnonzero(where == MISS)
        parts = (one.gva.take(missed), one.kinds.take(missed), one.user.take(missed))
        hpa = np.full(len(one), NOWHERE)
        hpa[missed] = translate(cpu, *parts).hpa
        return hpa, where

    def theirs() -> tuple[np.ndarray, np.ndarray]:
        return naive.both(peers.TwoLevels(program), one.gva, one.kinds, one.user)

    equal = all(bool((a == b).all()) for a, b in zip(ours(), theirs(), strict=True))
    equal = equal and naive.image() == cpu.ram.image()
    times = turns(ours, theirs)
    naive.close()
    return result(f"TLB + nested walk, {one.name}", "naive C", times, equal, len(one), len(one))


def beside_python(one: data.Data, *, nested: bool) -> Result:
    """The same walks by a textbook's loop; it makes the first accesses only."""
    cpu = one.machine(nested=nested)
    plain = in_python.PlainWalker(cpu)
    part = [column[:SAMPLE].tolist() for column in (one.gva, one.kinds, one.user)]
    walked = translate(cpu, one.gva[:SAMPLE], one.kinds[:SAMPLE], one.user[:SAMPLE])
    equal = plain.walk(*part) == walked.hpa.tolist()
    equal = equal and plain.references == walked.references.total()
    times = turns(
        lambda: translate(cpu, one.gva, one.kinds, one.user), lambda: plain.walk(*part), rounds=3
    )
    name = f"{'nested' if nested else 'native'} walk, {one.name}"
    return result(name, "plain Python", times, equal, len(one), SAMPLE)


def beside_pycachesim(one: data.Data) -> Result:
    """The TLB again; pycachesim tells totals only."""
    addresses = one.gva.tolist()
    equal = in_python.pycachesim_totals(addresses) == in_python.totals(BatchTlb().lookups(one.gva))
    times = turns(
        lambda: BatchTlb().lookups(one.gva),
        lambda: in_python.pycachesim_totals(addresses),
        rounds=3,
    )
    return result(f"TLB, {one.name}", "pycachesim", times, equal, len(one), len(one))


def turns(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS
) -> list[tuple[float, float]]:
    """Seconds of both, one after the other, several times."""
    return [(seconds(ours), seconds(theirs)) for _ in range(rounds)]


def seconds(action: Callable[[], object]) -> float:
    start = process_time()
    action()
    return process_time() - start


def result(
    name: str, peer: str, times: list[tuple[float, float]], equal: bool, ours: int, theirs: int
) -> Result:
    ratios = [one / ours / (other / theirs) for one, other in times]
    mine, other = (median(column) for column in zip(*times, strict=True))
    return Result(
        name,
        peer,
        round(median(ratios), 4),
        round(min(ratios), 4),
        round(max(ratios), 4),
        equal,
        round(mine / ours * 1e9, 2),
        round(other / theirs * 1e9, 2),
    )


if __name__ == "__main__":
    sys.exit(main())
