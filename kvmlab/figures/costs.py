"""What walks cost, in words: the model that priced them is always named."""

from kvmlab.figures.fold import Walk
from kvmlab.study.costs import MODELS, CostTable
from kvmlab.text import say


def costs_text(prices: CostTable) -> str:
    """Which table of costs was used, and what was changed in it."""
    edited = ", ".join(f"{row} = {cycles:,}" for row, cycles in prices.edited.items())
    key = "costs.edited" if edited else "costs.model"
    return say(key, model=prices.name, summary=_summary(prices), edited=edited)


def cycles_text(walk: Walk, prices: CostTable) -> str:
    """What the references of ``walk`` come to in cycles, and by which table of costs."""
    cycles = prices.references(walk.levels)
    return say("walk.cycles", number=f"{cycles:,}", costs=costs_text(prices))


def model_names() -> list[tuple[str, str]]:
    """Every model: what it is called in a list to choose from, and its name."""
    return [
        (say("costs.option", model=one.name, summary=_summary(one)), one.name) for one in MODELS
    ]


def _summary(prices: CostTable) -> str:
    return say(f"costs.summary.{prices.name}")
