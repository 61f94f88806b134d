"""Where designs cross: the cycles of the values that were tried, and what was found so far."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from kvmlab.figures.curves import Curve, Curves
from kvmlab.figures.modes import Party, design, number
from kvmlab.text import say

PARTIES: Mapping[str, Party] = MappingProxyType({"shadow": "shadow", "ept": "host"})


def curves(cycles: Mapping[str, Sequence[int]], tried: Sequence[int]) -> Curves:
    """The cycles of each design over the values that were ``tried``, in order."""
    lines = [Curve(design(mmu), PARTIES[mmu], values) for mmu, values in cycles.items()]
    return Curves(
        say("modes.crossing.title"),
        say("modes.crossing.x"),
        say("modes.crossing.y"),
        list(tried),
        lines,
        say("modes.crossing.caption"),
    )


def found(cycles: Mapping[str, Sequence[int]], tried: Sequence[int], calm: int) -> list[str]:
    """Which design is cheapest at ``calm``, and between which values that changed."""
    best = [min((values[at], mmu) for mmu, values in cycles.items())[1] for at in range(len(tried))]
    at = list(tried).index(calm)
    told = [
        say(
            "modes.crossing.cheapest",
            calm=calm,
            design=design(best[at]),
            cycles=number(cycles[best[at]][at]),
            tried=len(tried),
        )
    ]
    changes = [n for n in range(1, len(best)) if best[n] != best[n - 1]]
    return told + [
        say("modes.crossing.crossed", below=tried[n - 1], above=tried[n]) for n in changes
    ]
