"""Questions on the balloon: what is asked, what is reached, what the host gets."""

from kvmlab.course import runs_balloon
from kvmlab.course.draw import Draw
from kvmlab.course.problem import Number, Problem, Said, Words, kind, picked
from kvmlab.course.runs_balloon import GUEST, Setting, ballooned

_KIB = 1 << 10
_PFNS = 256  # in one buffer of Linux' driver


@kind("balloon.target")
def target(draw: Draw, difficulty: int) -> Problem:
    """What QEMU writes to num_pages."""
    memory = draw.choose((512, 1024, 2048, 4096)[: 1 + difficulty])
    left = draw.between(memory // 8, memory - 1)
    found = runs_balloon.target_pages(memory, left)
    return Problem(
        Number("pages"),
        found,
        {"memory": memory, "left": left},
        {
            "target-is-what-stays": left << 8,
            "target-in-kib": memory - left << 10,
            "target-in-bytes": memory - left << 20,
            "huge-pages-counted": memory - left >> 1,
        },
        steps=(Said("course.told.target", {"pages": found}),),
    )


@kind("balloon.buffers")
def buffers(draw: Draw, difficulty: int) -> Problem:
    """How many arrays of page frame numbers an inflation takes."""
    pages = draw.choose((256, 512, 1024, 1280) if difficulty == 1 else (300, 513, 640, 1000, 1279))
    found = ballooned(Setting(GUEST * _KIB - 4 * pages))
    return Problem(
        Number("buffers"),
        found.buffers,
        {"pages": pages, "memory": GUEST, "left": GUEST * _KIB - 4 * pages},
        {
            "a-buffer-a-page": pages,
            "rounded-down": pages // _PFNS,
            "buffer-of-512": -(-pages // (2 * _PFNS)),
            "buffer-of-4k": -(-pages // 1024),
        },
        steps=(Said("course.told.buffers", {"buffers": found.buffers, "actual": found.actual}),),
    )


_USES = ("returned", "kept", "hugetlb", "untouched")


@kind("balloon.freed")
def freed(draw: Draw, difficulty: int) -> Problem:
    """How many KiB the host has back after an inflation."""
    use = draw.choose(_USES[: 2 + difficulty - 1])
    touched = 0 if use == "untouched" else draw.choose((16, 64))
    left = 2
    found = ballooned(
        Setting(
            left * _KIB,
            touched,
            kept=use == "kept",
            host_page="2M" if use == "hugetlb" else "4K",
        )
    )
    asked = (GUEST - left) * _KIB
    return Problem(
        Number("KiB"),
        found.freed,
        {
            "memory": GUEST,
            "left": left,
            "touched": touched * 4,
            "use": Said(f"course.use.{use}"),
            "actual": found.actual,
        },
        {
            "balloon-is-freed": asked,
            "touched-is-freed": touched * 4,
            "kept-for-the-guest": asked - touched * 4,
            "nothing-comes-back": 0,
            "actual-is-freed": found.actual,
        },
        steps=(
            Said("course.told.buffers", {"buffers": found.buffers, "actual": found.actual}),
            Said("course.told.freed", {"freed": found.freed, "rss": found.rss}),
        ),
    )


_ENDS = ("reached", "stays", "between")


def _end(setting: Setting, actual: int) -> str:
    if actual == setting.target:
        return "reached"
    return "stays" if actual == GUEST * _KIB else "between"


@kind("balloon.outcome")
def outcome(draw: Draw, difficulty: int) -> Problem:
    """Where `actual` ends: at the target, where it was, or between."""
    pinned = draw.choose((0, 512, 1280))
    left = draw.choose((2, 5))
    driver = difficulty == 1 or draw.chance(60)
    setting = Setting(left * _KIB, pinned=pinned, driver=driver)
    found = ballooned(setting)
    answer = _end(setting, found.actual)
    options: dict[str, Words] = {one: Said(f"course.balloon.{one}") for one in _ENDS}
    return Problem(
        picked(draw, options),
        answer,
        {
            "memory": GUEST,
            "left": left,
            "used": pinned * 4,
            "driver": Said("course.driver.on" if driver else "course.driver.off"),
        },
        {
            "command-is-done": "reached",
            "too-much-is-refused": "stays" if answer == "between" else answer,
            "host-takes-it-anyway": "between" if answer == "stays" else answer,
        },
        steps=(Said("course.told.buffers", {"buffers": found.buffers, "actual": found.actual}),),
    )


@kind("balloon.memtotal")
def memtotal(draw: Draw, difficulty: int) -> Problem:
    """By how much the guest's MemTotal falls."""
    pages = draw.choose((256, 300, 512, 640, 1000))
    on_oom = difficulty > 1 and draw.chance(50)
    found = ballooned(Setting(GUEST * _KIB - 4 * pages, on_oom=on_oom))
    return Problem(
        Number("KiB"),
        found.total,
        {
            "memory": GUEST,
            "left": GUEST * _KIB - 4 * pages,
            "oom": Said("course.oom.on" if on_oom else "course.oom.off"),
        },
        {
            "memtotal-follows-always": 4 * pages,
            "memtotal-never-moves": 0,
            "counted-in-pages": pages,
            "target-is-what-stays": GUEST * _KIB - 4 * pages,
        },
        steps=(Said("course.told.total", {"total": found.total, "actual": found.actual}),),
    )


@kind("balloon.deflate")
def deflate(draw: Draw, difficulty: int) -> Problem:
    """What deflating brings into RSS: at once, and when the guest uses the memory."""
    touched = 32
    again = draw.choose((0, 16) if difficulty == 1 else (8, 16, 24))
    at_once, later = runs_balloon.deflated(touched, again)
    return Problem(
        Number("KiB"),
        later,
        {"memory": GUEST, "left": 3, "again": again * 4, "touched": touched * 4},
        {
            "deflating-brings-all": (GUEST - 3) * _KIB,
            "contents-come-back": touched * 4,
            "memory-stays-away": 0,
            "counted-in-pages": again,
        },
        steps=(Said("course.told.deflated", {"now": at_once, "later": later}),),
    )


@kind("balloon.oom")
def oom(draw: Draw, difficulty: int) -> Problem:
    """What the balloon holds after a guest that is starved took what it needed."""
    held = draw.choose((3, 5))
    more = draw.choose((256, 1200, 1400)[: 1 + difficulty])
    on_oom = draw.chance(60)
    served, left = runs_balloon.starved(held * _KIB, more, on_oom=on_oom)
    given = held * _KIB - left
    return Problem(
        Number("KiB"),
        left,
        {
            "memory": GUEST,
            "held": held,
            "more": more * 4,
            "oom": Said("course.oom.on" if on_oom else "course.oom.off"),
        },
        {
            "balloon-always-yields": max(0, held * _KIB - more * 4) if not given else 0,
            "balloon-never-yields": held * _KIB,
            "balloon-bursts": 0,
            "yields-what-is-asked": max(0, held * _KIB - more * 4),
        },
        steps=(
            Said(
                "course.told.starved.served" if served else "course.told.starved.refused",
                {"given": given, "left": left},
            ),
        ),
    )


KINDS = (target, buffers, freed, outcome, memtotal, deflate, oom)
