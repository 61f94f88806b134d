"""``kvmlab crossover``: a table for people, JSON for programs, one line for mistakes."""

import json

import pytest

from kvmlab import cli

QUICK = ("--pages", "64", "--tlb", "16x4", "--walk-caches", "on", "--rounds", "1")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Points of these sizes are run in less time than a process takes to start."""
    monkeypatch.setattr("kvmlab.study.executors.usual_jobs", lambda: 1)


def run(capsys, *arguments):
    """The exit status, and what was printed on standard output and on standard error."""
    status = cli.main(["crossover", *arguments])
    return status, *capsys.readouterr()


def test_json_has_the_bracket_and_both_curves(capsys):
    status, out, err = run(capsys, "remaps", *QUICK, "--low", "0", "--high", "8", "--json")
    found = json.loads(out)
    assert (status, err) == (0, "")
    low, high = found["between"]
    assert 0 <= low < high <= 8
    assert found["winners"] == found["designs"] == ["shadow", "ept"]
    assert found["costs"]["model"] == "graded"
    xs = [point["x"] for point in found["points"]]
    assert xs == sorted(xs)
    assert {low, high, 0, 8} <= set(xs)
    for point in found["points"]:
        cheaper = point["shadow"]["slowdown_ratio"] < point["ept"]["slowdown_ratio"]
        assert cheaper == (point["x"] <= low)
        assert {"cycles", "exits", "tlb_misses", "references"} <= point["native"].keys()


def test_the_table_comes_with_its_sentence_and_the_page_on_request(capsys, tmp_path):
    page = tmp_path / "x.html"
    status, out, err = run(capsys, *QUICK, "--low", "0", "--high", "8", "--html", str(page))
    told = " ".join(out.split())
    assert (status, err) == (0, "")
    assert "shadow paging is cheaper up to" in told
    assert "…" not in out
    assert "A reference is one page-table-entry read" in told
    assert "<svg" in page.read_text()


def test_without_a_crossing_the_line_says_who_wins_at_both_ends(capsys):
    status, out, err = run(capsys, *QUICK, "--low", "6", "--high", "9", "--cost", "exit=9000")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "ept wins at both ends, at 6 (" in err


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["colour"], "'colour' cannot be turned"),
        (["pages", "--pages", "9"], "pages is what is turned"),
        (["--low", "5", "--high", "4"], "from 5 to 4 is no interval"),
        (["--low", "few"], "'few' is no number"),
        (["--mmu", "ept"], "two designs cross, not 1"),
        (["--mmu", "ept", "--mmu", "ept"], "does not cross itself"),
        (["--tlb", "64x5"], "power-of-two"),
        (["--costs", "free"], "'free'"),
        (["--rounds", "0"], "0 rounds"),
        (["--html", "no/such/x.html"], "there is no directory"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, arguments, complaint):
    status, out, err = run(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert complaint in err
