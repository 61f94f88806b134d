"""What a learner is asked about a crowded host; the right answers are the engine's."""

from kvmlab.figures.scene import Ask
from kvmlab.study.overcommit import Placed, Setting, Tick
from kvmlab.text import say

HOUR_CHOICES = ("swap", "fits", "killed", "guests")


def nova_ask(setting: Setting, placed: Placed) -> Ask:
    """How many VMs does nova place?"""
    stock, size = placed.inventory, setting.flavour
    right = len(placed.names)
    wrong = {
        "physical": stock.total // size,
        "unreserved": int(stock.total * stock.ratio) // size,
        "ratioless": (stock.total - stock.reserved) // size,
        "all": setting.wanted,
        "half": right // 2,
    }
    topic = "overcommit.ask.nova"
    all_placed = right == setting.wanted
    reasons = {right: say(f"{topic}.right.{'all' if all_placed else 'some'}")}
    for name, amount in wrong.items():
        if amount > 0:
            reasons.setdefault(amount, say(f"{topic}.wrong.{name}"))
    ordered = sorted(reasons)
    question = say(topic, wanted=setting.wanted, size=f"{size:,}", ratio=f"{stock.ratio:g}")
    choices = [str(one) for one in ordered]
    return Ask(question, choices, ordered.index(right), [reasons[one] for one in ordered])


def worst_of(tick: Tick) -> str:
    """The worst that happened in an hour."""
    if tick.killed:
        return "killed"
    if tick.swap_in or tick.swap_out:
        return "swap"
    return "guests" if tick.guest_in else "fits"


def hour_ask(tick: Tick) -> Ask:
    """What is the worst that happens in the hour of the peak?"""
    right, topic = worst_of(tick), "overcommit.ask.hour"
    told = [say(f"{topic}.{'right' if one == right else 'wrong'}.{one}") for one in HOUR_CHOICES]
    choices = [say(f"{topic}.choice.{one}") for one in HOUR_CHOICES]
    question = say(topic, hour=f"{tick.hour}:00")
    return Ask(question, choices, HOUR_CHOICES.index(right), told)
