"""The runner of test vectors can fail: wrong expectations and unknown fields are planted."""

import copy
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_vectors import GROUPS, SHIPPED, read

ROOT = Path(__file__).parents[1]
WITHOUT_NOTEBOOKS = ["-p", "no:nbval", "-p", "no:cacheprovider", "-o", "addopts=-ra"]
WITHOUT_NOTEBOOKS += ["--import-mode=importlib"]  # nbval costs seconds to import
SAMPLES = {"walk": "L4-001", "ept": "EPT-002", "refs": "REF-019", "tlb": "TLB-015"}


def sample(group):
    found = [one for one in read(SHIPPED)["vectors"] if one["id"] == SAMPLES[group]]
    return copy.deepcopy(found[0])


def places(part, path=()):
    """Where a field could be added: every object in a vector."""
    if isinstance(part, dict):
        yield path
    elif not isinstance(part, list):
        return
    for key, inner in part.items() if isinstance(part, dict) else enumerate(part):
        yield from places(inner, (*path, key))


def every_place():
    return [
        pytest.param(group, path, id=f"{group} {'.'.join(map(str, path)) or 'vector'}")
        for group in SAMPLES
        for path in places(sample(group))
    ]


@pytest.mark.parametrize("group, path", every_place())
def test_an_unknown_field_fails_wherever_it_stands(group, path):
    vector = sample(group)
    assert GROUPS[group](vector) == []
    functools.reduce(lambda part, key: part[key], path, vector)["surprise"] = 1

    with pytest.raises((ValueError, TypeError)):
        GROUPS[group](vector)


@pytest.mark.parametrize(
    "group, field, wrong",
    [
        ("walk", "gpa", "0x9124"),
        ("walk", "result", "#PF"),
        ("walk", "page_size", "2M"),
        ("ept", "refs", 23),
        ("ept", "hpa", "0x10009124"),
        ("ept", "qualification", "0x181"),
        ("ept", "mem_after", [{"addr": "0x103048", "value": "0x10009037"}]),
        ("refs", "native_refs", 2),
        ("refs", "ept_refs", 1),
        ("tlb", "expect", ["miss", "miss", None, "miss", "hit"]),
    ],
)
def test_a_wrong_expectation_is_told(group, field, wrong):
    vector = sample(group)
    (vector if field == "expect" else vector["expect"])[field] = wrong

    assert GROUPS[group](vector) != []


def test_files_are_run_as_the_manual_of_the_runner_says(tmp_path):
    good, wrong, odd, foreign = (sample("walk") for _ in range(4))
    wrong |= {"id": "WRONG", "expect": {**good["expect"], "gpa": "0x1"}}
    odd |= {"id": "ODD", "surprise": 1}
    foreign |= {"id": "FOREIGN", "group": "surprise"}
    slot = {**sample("walk"), "id": "SLOT", "group": "shadow"}
    first = written(tmp_path / "first.json", [good, wrong, slot])
    second = written(tmp_path / "second.json", [odd, foreign])

    asked = ["tests/test_vectors.py", "--vectors", first, "--vectors", second]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *WITHOUT_NOTEBOOKS, *asked],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    failed = [line.split("[")[1] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert {one.split("]")[0] for one in failed} == {"WRONG", "ODD", "FOREIGN"}
    assert "3 failed, 3 passed, 1 skipped" in done.stdout
    assert "group shadow" in done.stdout


def written(path, vectors):
    counts = {}
    for one in vectors:
        counts[one["group"]] = counts.get(one["group"], 0) + 1
    whole = {"schema": 1, "title": "planted", "counts": counts, "note": "", "vectors": vectors}
    path.write_text(json.dumps(whole), encoding="utf-8")
    return str(path)
