"""The map of the course: boxes, lines and table tell the same, in both languages."""

import re
from itertools import combinations
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmlab.figures.course_map import course_map, course_table, needed, whole_time
from kvmlab.text import speaking
from kvmlab.text.lessons import Lesson, lessons

COURSE = lessons()[1:]


def boxes(svg: str) -> dict[str, tuple[float, ...]]:
    """x, y, width and height of each lesson's box."""
    return {
        group.get("data-key")[7:]: tuple(
            float(group[0].get(name)) for name in ("x", "y", "width", "height")
        )
        for group in ET.fromstring(svg).iter()  # noqa: S314  drawn a moment ago
        if group.get("data-key")
    }


def ends(svg: str) -> set[tuple[float, ...]]:
    """Where each line begins, and the tip of the arrow where it ends."""
    begins = re.findall(r'd="M([\d.]+) ([\d.]+)H', svg)
    tips = re.findall(r'points="([\d.]+),([\d.]+) ', svg)
    return {tuple(map(float, (*a, *b))) for a, b in zip(begins, tips, strict=True)}


@st.composite
def courses(draw) -> list[Lesson]:
    """Lessons of which each needs some of those before it."""
    found: list[Lesson] = []
    for number in range(draw(st.integers(1, 14))):
        before = [one.number for one in found]
        needs = draw(st.lists(st.sampled_from(before), unique=True)) if before else []
        name = f"{number:02}"
        found.append(Lesson(name, f"{name}.ipynb", "A title", "what?", 10, needs=tuple(needs)))
    return found


@given(courses())
def test_no_two_boxes_meet_and_each_stands_right_of_what_it_needs(course):
    found = boxes(course_map(course).svg)

    assert set(found) == {one.number for one in course}
    for (x1, y1, wide, tall), (x2, y2, _, _) in combinations(found.values(), 2):
        assert abs(x1 - x2) >= wide or abs(y1 - y2) >= tall
    for one in course:
        assert all(found[need][0] < found[one.number][0] for need in one.needs)


@given(courses())
def test_along_the_lines_one_comes_to_all_that_a_lesson_needs(course):
    svg = course_map(course).svg
    places = boxes(svg)
    right = {(x + wide, y + tall / 2): n for n, (x, y, wide, tall) in places.items()}
    left = {(x, y + tall / 2): n for n, (x, y, _, tall) in places.items()}
    lines = {(right[one[:2]], left[one[2:]]) for one in ends(svg)}
    for one in course:
        reached: set[str] = set()
        waiting = {one.number}
        while waiting:
            waiting = {start for start, end in lines if end in waiting} - reached
            reached |= waiting
        assert reached == needed(one, course)
    assert all(start in needed(one, course) for start, end in lines for one in course
               if one.number == end)  # fmt: skip


def test_every_step_is_a_lesson_and_the_table_has_the_same_rows():
    scene, table = course_map(COURSE), course_table(COURSE)

    assert [row for step in scene.steps for row in step.rows] == table.rows
    assert scene.columns == table.columns
    assert table.rows[2] == ["03", "Faults, A and D bits", "30", "01, 02"]
    assert [[key for key, how in step.lit.items() if how == "now"] for step in scene.steps] == [
        [f"lesson.{one.number}"] for one in COURSE
    ]


def test_a_step_adds_up_the_minutes_of_all_that_comes_before():
    """By hand for 12: it needs 01 and 03, and 03 needs 02."""
    step = course_map(COURSE).steps[11]
    by_number = {one.number: one.minutes for one in COURSE}

    assert f"takes {by_number['01'] + by_number['02'] + by_number['03']} minutes." in step.sentence
    assert {key for key, how in step.lit.items() if how == "done"} == {"lesson.02"}
    assert whole_time(COURSE) == sum(by_number.values())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_both_languages(language):
    with speaking(language):
        scene = course_map(COURSE, language)
    said = scene.svg + "".join(step.sentence for step in scene.steps)

    assert ("影子分页" in said) == (language == "zh")
    assert ("minutes" in said) == (language == "en")


def test_a_hostile_title_stays_text():
    one = Lesson("01", "01.ipynb", "<img src=x onerror=alert(1)>", "what?", 10)

    assert "<img" not in course_map([one]).svg
