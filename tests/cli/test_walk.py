"""``kvmlab walk``: the JSON that others build on, the table for people, one line for mistakes."""

import json

import pytest

from kvmlab import cli
from kvmlab.machine import DESIGNS

KEYS = ["mmu", "gva", "gpa", "hva", "hpa", "outcome", "references"]
KEYS += ["cycles", "costs", "steps"]
STEP_KEYS = ["n", "table", "level", "index", "entry_hpa", "entry", "verdict"]


def run(capsys, *arguments):
    """The exit status, and what was printed on standard output and on standard error."""
    status = cli.main(["walk", *arguments])
    return status, *capsys.readouterr()


def walked(capsys, *arguments):
    status, out, err = run(capsys, *arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize(
    "arguments, references",
    [
        (["--mmu", "native"], 4),
        (["--mmu", "native", "--guest-page", "2M"], 3),
        (["--mmu", "native", "--guest-levels", "5"], 5),
        (["--mmu", "shadow"], 4),
        (["--mmu", "shadow", "--guest-page", "2M", "--host-page", "2M"], 3),
        (["--mmu", "shadow", "--guest-page", "2M"], 4),
        (["--mmu", "ept"], 24),
        (["--mmu", "ept", "--guest-page", "2M", "--host-page", "2M"], 15),
        (["--mmu", "ept", "--guest-page", "2M"], 19),
        (["--mmu", "ept", "--guest-page", "1G", "--host-page", "1G"], 8),
        (["--mmu", "ept", "--guest-levels", "5", "--host-levels", "5"], 35),
        (["--mmu", "ept", "--guest-levels", "5"], 29),
        (["--mmu", "npt"], 24),
        (["--mmu", "npt", "--guest-levels", "2"], 14),
        (["--mmu", "agile"], 4),
        (["--mmu", "l2-ept"], 24),
        (["--mmu", "l2-ept", "--guest-levels", "3"], 14),
        (["--mmu", "l2-ept", "--host-levels", "5"], 29),
        (["--mmu", "l2-shadow"], 24),
        (["--mmu", "l2-shadow", "--guest-page", "1G", "--host-page", "1G"], 8),
        (["--mmu", "agile", "--guest-page", "2M", "--host-page", "2M"], 3),
        (["--mmu", "native", "--guest-levels", "2"], 2),
        (["--mmu", "native", "--guest-levels", "2", "--guest-page", "4M"], 1),
        (["--mmu", "native", "--guest-levels", "3"], 2),
        (["--mmu", "native", "--guest-levels", "3", "--guest-page", "2M"], 1),
        (["--mmu", "shadow", "--guest-levels", "2"], 2),
        (["--mmu", "shadow", "--guest-levels", "2", "--guest-page", "4M"], 2),
        (["--mmu", "shadow", "--guest-levels", "2", "--guest-page", "4M", "--host-page", "2M"], 1),
        (["--mmu", "shadow", "--guest-levels", "3"], 2),
        (["--mmu", "shadow", "--guest-levels", "3", "--guest-page", "2M", "--host-page", "2M"], 1),
        (["--mmu", "ept", "--guest-levels", "2"], 14),
        (["--mmu", "ept", "--guest-levels", "2", "--guest-page", "4M"], 9),
        (["--mmu", "ept", "--guest-levels", "3"], 14),
        (["--mmu", "ept", "--guest-levels", "3", "--guest-page", "2M"], 9),
    ],
)
def test_references_are_those_of_the_tables_walked(capsys, arguments, references):
    found = walked(capsys, *arguments)
    assert found["references"] == len(found["steps"]) == references
    assert found["outcome"] == "mapped"


def test_the_json_has_the_keys_that_others_build_on(capsys):
    found = walked(capsys)
    assert list(found) == KEYS
    assert all(list(step) == STEP_KEYS for step in found["steps"])
    assert [step["n"] for step in found["steps"]] == list(range(1, 25))
    assert [step["table"] for step in found["steps"]] == (["ept"] * 4 + ["guest"]) * 4 + ["ept"] * 4
    assert all(int(found[name], 16) & 0xFFF == 0xAB8 for name in ("gva", "gpa", "hva", "hpa"))


def test_native_has_guest_tables_only_and_no_hva(capsys):
    found = walked(capsys, "--mmu", "native", "--gva", "0x7f1234567000")
    assert {step["table"] for step in found["steps"]} == {"guest"}
    assert found["gva"] == "0x7f1234567000"
    assert found["hva"] is None
    assert found["gpa"] == found["hpa"]


def test_an_address_may_lack_its_0x(capsys):
    assert walked(capsys, "--gva", "400123")["gva"] == "0x400123"


def test_a_fault_is_an_outcome(capsys):
    found = walked(capsys, "--gva", "0xffff888000000000")
    assert found["outcome"] == "page_fault"
    assert found["references"] == len(found["steps"]) > 0


def test_a_page_that_is_read_first_is_told_before_the_walk(capsys):
    status, out, err = run(capsys)
    told = " ".join(out.split())
    assert (status, err) == (0, "")
    assert "EPT: 24 references (20 EPT + 4 guest)" in told
    assert told.index("memslot") < told.index("TLB: miss") < told.index("TLB: filled")
    assert "A reference is one page-table-entry read" in told
    assert all(f"{name} " in told for name in ("GVA", "GPA", "HVA", "HPA"))
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [[], ["--gva", "0xffff888000200000"]])
def test_everything_in_the_table_is_whole(capsys, arguments):
    """The second address has an entry of 16 digits."""
    steps = walked(capsys, *arguments)["steps"]
    _, out, _ = run(capsys, *arguments)
    whole = out.replace("_", "")
    assert all(step["entry_hpa"] in whole and step["entry"] in whole for step in steps)
    assert out.count("next table") + out.count("leaf") == len(steps)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--mmu", "native", "--host-page", "4K"], "native paging has none"),
        (["--mmu", "native", "--host-levels", "4"], "native paging has none"),
        (["--mmu", "tdp"], "tdp"),
        (["--guest-levels", "6"], "6"),
        (["--guest-page", "8M"], "8M"),
        (["--guest-page", "4M"], "4M is no page size of 4-level paging; there are 4K, 2M, 1G"),
        (["--guest-levels", "2", "--guest-page", "2M"], "32-bit paging; there are 4K, 4M"),
        (["--guest-levels", "3", "--guest-page", "1G"], "PAE paging; there are 4K, 2M"),
        (["--guest-levels", "2", "--host-page", "1G"], "cannot back a guest of 2 levels"),
        (["--guest-levels", "2", "--gva", "0x100000000"], "does not fit in the 32 bits"),
        (["--guest-levels", "3", "--gva", "7f1234567ab8"], "does not fit in the 32 bits of PAE"),
        (["--gva", "0x800000000000"], "not canonical"),
        (["--gva", "zz"], "hex digits"),
        (["--costs", "free"], "choose one of graded"),
        (["--cost", "exit"], "ROW=CYCLES"),
        (["--cost", "coffee=3"], "'coffee'"),
        (["--gva", "0x10000000000000000"], "hex digits"),
    ],
)
def test_a_bad_option_is_one_line_and_status_2(capsys, arguments, complaint):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert complaint in err
    assert err.count("\n") == 1


def test_what_is_not_canonical_depends_on_the_levels(capsys):
    assert walked(capsys, "--gva", "0x800000000000", "--guest-levels", "5")["outcome"] == "mapped"


@pytest.mark.parametrize(
    "levels, address",
    [("2", "0xb7123ab8"), ("3", "0xb7123ab8"), ("4", "0x7f1234567ab8"), ("5", "0x7f1234567ab8")],
)
def test_without_an_address_one_is_taken_that_fits_and_the_help_says_which(capsys, levels, address):
    assert walked(capsys, "--guest-levels", levels)["gva"] == address
    with pytest.raises(SystemExit):
        cli.main(["walk", "--help"])
    assert address in capsys.readouterr().out


def test_the_register_of_a_pae_guest_is_told_and_not_counted(capsys):
    found = walked(capsys, "--guest-levels", "3", "--mmu", "native")
    assert [(step["level"], step["index"]) for step in found["steps"]] == [(2, 0x1B8), (1, 0x123)]
    _, out, _ = run(capsys, "--guest-levels", "3", "--mmu", "native")
    (line,) = (line for line in out.splitlines() if "register" in line)
    assert line.split()[:4] == ["–", "CPU", "3", "2"]


@pytest.mark.parametrize("mmu, name", [("native", "native paging"), ("shadow", "shadow paging")])
def test_a_design_has_the_name_that_it_has_in_the_labs(capsys, mmu, name):
    _, out, _ = run(capsys, "--mmu", mmu)
    assert out.startswith(f"{name}: 4 references")


def test_cycles_are_those_of_the_cost_model_that_is_named(capsys):
    assert walked(capsys)["cycles"] == 6 * (54 + 14 + 4 + 4)
    found = walked(capsys, "--costs", "dram", "--cost", "reference.1=300")
    assert found["cycles"] == 18 * 200 + 6 * 300
    assert found["costs"] == {"model": "dram", "edited": {"reference.1": 300}}
    _, out, _ = run(capsys, "--costs", "l1", "--cost", "reference.1=5")
    assert "102 cycles" in out
    assert "“l1”" in out
    assert "reference.1 = 5" in " ".join(out.split())


def test_the_designs_offered_are_those_of_the_machine():
    assert cli.DESIGNS == DESIGNS
