"""What is going wrong with a balloon, in words: the usual mistakes, as far as they are seen."""

from collections.abc import Sequence

from kvmlab.figures.modes import number
from kvmlab.study.inflation_beginning import Known
from kvmlab.study.inflation_moments import Moment
from kvmlab.text import say


def summary(moment: Moment) -> str:
    """The three numbers, and RSS, in one sentence."""
    sizes = {
        "target": moment.target,
        "actual": moment.actual,
        "returned": moment.returned,
        "rss": moment.rss,
    }
    return say("balloon.summary", **{name: number(size >> 10) for name, size in sizes.items()})


def diagnoses(history: Sequence[Moment], beginning: Known) -> list[str]:
    """Each mistake that shows in ``history``, the last of which is now."""
    now = history[-1]
    deed = _last_deed(history)
    given = now.ram - now.actual
    moved = [one.event for one in history if one.event in ("puff", "deflate")]
    short = now.driver and now.actual > now.target
    settled = now.event in ("before", "after", "puff")
    starved = moved[-1:] == ["deflate"] and beginning.deflate_on_oom
    found = {
        "driver": not now.driver,
        "stalled": short and settled and not starved,
        "huge": beginning.backing != "4K" and given > 0,
        "untouched": beginning.backing == "4K" and given > 0 and now.returned < given,
        "kill": any(one.event == "kill" for one in deed),
        "oom": short and starved,
        "reported": now.returned > 0 and not given and beginning.reporting,
        "period": not now.interval and now.driver,
        "legacy": beginning.driver == "2014" and now.driver,
    }
    values = {
        "given": number(given >> 10),
        "returned": number(now.returned >> 10),
        "missing": number(now.actual - now.target >> 10),
        "victim": next((one.note for one in deed if one.event == "kill"), ""),
    }
    return [say(f"balloon.mistake.{name}", **values) for name, seen in found.items() if seen]


def _last_deed(history: Sequence[Moment]) -> Sequence[Moment]:
    """What belongs to the deed that is shown."""
    starts = [at for at, one in enumerate(history) if one.event == "before"]
    return history[starts[-1] if starts else 0 :]
