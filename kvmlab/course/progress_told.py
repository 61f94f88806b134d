"""Progress in words and tables."""

from kvmlab.course.progress import Progress
from kvmlab.figures.scene import Table
from kvmlab.text import say


def sentences(progress: Progress, path: str) -> list[str]:
    """How far it is, where it is kept, and what happens to it."""
    scores = progress.scores().values()
    asked, right = sum(one.asked for one in scores), sum(one.right for one in scores)
    far = say("progress.sum", right=right, asked=asked) if asked else say("progress.none")
    return [far, say("progress.where", path=path)]


def score_table(progress: Progress) -> Table:
    """For each kind of question: how many were asked, answered, and answered at once."""
    columns = [say(f"progress.{name}") for name in ("kind", "asked", "right", "at_once")]
    rows = [
        [name, *(str(one) for one in (score.asked, score.right, score.at_once))]
        for name, score in progress.scores().items()
    ]
    return Table(say("progress.caption"), columns, rows)


def kept_labs(progress: Progress) -> Table:
    """The labs that were saved, newest first, each by the line that opens it again."""
    columns = [say(f"progress.{name}") for name in ("lab", "saved_at", "share")]
    rows = [
        [one.lab, one.time.replace("T", " ")[:16], one.share] for one in reversed(progress.shares)
    ]
    return Table(say("progress.labs", example='labs.walk(share="…")'), columns, rows)
