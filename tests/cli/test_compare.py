"""``kvmlab compare``: a table for people, JSON for programs, one line for mistakes."""

import json
import sys

import pytest

from kvmlab import cli

TRACE = "".join(
    f" S {0x10000 + 0x1000 * n:08x},8\n" for n in range(20)
) + "I  0040_ffe,4\n".replace("_", "")


@pytest.fixture
def trace(tmp_path):
    """A short trace file: 20 pages written, one fetch that crosses a page."""
    path = tmp_path / "made.lackey"
    path.write_text(TRACE)
    return str(path)


def run(capsys, *arguments):
    """The exit status, and what was printed on standard output and on standard error."""
    status = cli.main(["compare", *arguments])
    return status, *capsys.readouterr()


def test_json_has_one_row_for_each_design_asked_for(capsys, trace):
    status, out, err = run(capsys, trace, "--mmu", "ept", "--mmu", "native", "--json")
    rows = json.loads(out)
    assert (status, err) == (0, "")
    assert [row["mmu"] for row in rows] == ["ept", "native"]
    assert all(row["records"] == 21 and row["accesses"] == 22 for row in rows)
    assert all(row["trace"] == "made.lackey" for row in rows)


def test_all_designs_are_compared_unless_some_are_chosen(capsys, trace):
    _, out, _ = run(capsys, trace, "--json")
    assert [row["mmu"] for row in json.loads(out)] == ["native", "shadow", "ept"]


def test_a_design_named_twice_is_run_once(capsys, trace):
    _, out, _ = run(capsys, trace, "--mmu", "ept", "--mmu", "ept", "--json")
    assert len(json.loads(out)) == 1


def test_the_table_shows_the_numbers_the_convention_and_the_policy(capsys, trace):
    _, found, _ = run(capsys, trace, "--json")
    status, out, err = run(capsys, trace)
    told = " ".join(out.split())
    assert (status, err) == (0, "")
    for row in json.loads(found):
        assert f"{sum(row['references'].values()):,}" in told
    assert "native paging shadow paging EPT" in told
    assert "A reference is one page-table-entry read" in told
    assert "every table write traps" in told
    assert "Most references are read under EPT" in told


def test_the_table_fits_eighty_columns(capsys, trace):
    _, out, _ = run(capsys, trace)
    assert max(map(len, out.splitlines())) <= 80


def test_a_limit_shortens_the_trace(capsys):
    _, out, _ = run(capsys, "sort", "--limit", "500", "--mmu", "native", "--json")
    (row,) = json.loads(out)
    assert (row["trace"], row["records"]) == ("sort", 500)


def test_a_synthetic_program_is_compared_by_its_name(capsys):
    status, out, err = run(capsys, "zipf:pages=20,count=300", "--mmu", "ept", "--json")
    (row,) = json.loads(out)
    assert (status, err) == (0, "")
    assert (row["trace"], row["accesses"]) == ("zipf:pages=20,count=300", 300)


def test_a_program_that_calls_its_kernel_is_compared_too(capsys):
    status, out, err = run(capsys, "fork:forks=2,pages=4")
    told = " ".join(out.split())
    assert (status, err) == (0, "")
    assert "fork:forks=2,pages=4: " in told
    assert " operations, " in told
    assert max(map(len, out.splitlines())) <= 80


def test_progress_goes_to_a_terminal_only(capsys, trace, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    status, out, err = run(capsys, trace, "--json")
    assert status == 0
    assert "shadow" in err
    assert len(json.loads(out)) == 3


@pytest.mark.parametrize(
    "contents, complaint",
    [
        (b" L 1000,8\n L zz,8\n", "line 2"),
        (b"", "is empty"),
        (b"\x00\x01\x02\n", "looks binary"),
        (b" L ffff888000000000,8\n", "kernel's half"),
        (b" L 800000000000,8\n", "not canonical"),
    ],
)
def test_a_bad_trace_is_one_line_and_status_2(capsys, tmp_path, contents, complaint):
    path = tmp_path / "bad"
    path.write_bytes(contents)
    status, out, err = run(capsys, str(path))
    assert (status, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["absent.lackey"], "absent.lackey"),
        (["sort", "--limit", "0"], "write 1 or more"),
        (["sort", "--limit", "many"], "'many' is no number"),
        (["sort", "--mmu", "tdp"], "native"),
        (["zipf:pages=0"], "zipf: pages=0 is not possible; write 1 to 65,536"),
        (["zipf:page=1"], "its keys are pages, count, skew, writes, seed"),
        ([], "TRACE"),
    ],
)
def test_a_bad_option_is_one_line_and_status_2(capsys, arguments, complaint):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


def test_the_shadow_policy_can_be_chosen_and_changes_the_exits(capsys):
    """Three exits a demand fault, two, one (tests/kvm/test_exits.py holds each alone)."""
    exits = {}
    for policy in ("naive", "update", "bypass", "today"):
        arguments = ["compare", "ls", "--limit", "5000", "--mmu", "shadow", "--policy", policy]
        assert cli.main([*arguments, "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["policy"] == policy
        exits[policy] = sum(row["exits"].values())
    assert exits["naive"] > exits["update"] > exits["bypass"] > 0
    assert exits["today"] < exits["naive"]
    assert cli.main([*arguments]) == 0
    assert "“today”" in capsys.readouterr().out


def test_every_design_has_a_table(capsys):
    designs = [word for mmu in cli.DESIGNS for word in ("--mmu", mmu)]
    status, out, err = run(capsys, "ls", "--limit", "200", *designs)
    assert (status, err) == (0, "")
    assert all(word in out for word in ("NPT", "INVVPID", "NPF"))
