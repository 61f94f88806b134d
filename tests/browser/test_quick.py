"""How quick the labs are: from a control's change to the last of its new numbers in the DOM."""

import statistics

import pytest

from tests.browser.controls import changes
from tests.browser.test_hosts import CELL, SCENES

ATTEMPTS = 3  # what else the machine does can only make a lab slower
LONG = "Records all"  # a million records are no program of the default size: 3 s are theirs


def measured(lab, name):
    """Each change that is seen, and the milliseconds to the first and the last of its numbers."""
    lab.run_all()
    lab.page.wait_for_selector(".kvmlab-player svg")
    lab.page.wait_for_timeout(1000)
    found = []
    for told, first, last in changes(lab.page):
        print(f"{name}, {told}: first {first:.0f} ms, last {last:.0f} ms")
        if last:  # some choices only matter to what is done next
            found.append((told, first, last))
    assert "Traceback" not in lab.page.locator(".kvmlab-notice").first.inner_text()
    return found


@pytest.mark.long
@pytest.mark.parametrize("name", SCENES)
def test_all_numbers_follow_each_control_within_three_tenths_of_a_second(open_notebook, name):
    for _ in range(ATTEMPTS):
        found = measured(open_notebook(CELL.format(name=name)), name)
        longest = max([0, *(last for told, _, last in found if told.endswith(LONG))])
        usual = [times for told, *times in found if not told.endswith(LONG)]
        first = statistics.median(one for one, _ in usual)
        middle = statistics.median(last for _, last in usual)
        worst = max(last for _, last in usual)
        print(
            f"{name}, {len(usual)} changes: median {first:.0f} ms to the first new number, "
            f"{middle:.0f} ms to the last; worst {worst:.0f} ms to the last"
        )
        if first < 100 and worst < 300 and longest < 3000:
            return
    pytest.fail(f"in {ATTEMPTS} attempts {name} was never quick enough")
