"""The engine says everything that a file of test vectors states.

    pytest tests/test_vectors.py --vectors FILE --vectors ANOTHER

takes files of the schema of tests/data/vectors-mmu.json, which is the default.  A vector passes
if all that it states comes out of the engine: nothing in it is left unread, and a field, a step or
a group that is not known here fails.
"""

import functools
import json
from collections import Counter
from pathlib import Path

import pytest

from tests import reference
from tests.engine_under_test import Answer, ask
from tests.memslots_under_test import MemslotsUnderTest
from tests.reference import number
from tests.tables_regular import regular_case
from tests.tlb_under_test import SERIES_TOTALS, TlbUnderTest

SHIPPED = Path(__file__).parent / "data" / "vectors-mmu.json"
NOT_SERVED = {
    "shadow": "group shadow: cases told in words, which are tests of KVM written by hand",
}
EXPECTED = {"result", "gpa", "hpa", "page_size", "ept_page", "refs", "mem_after", "pml"}
EXPECTED |= {"error_code", "cr2", "when", "exit_reason", "qualification", "gla"}


@functools.cache
def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def pytest_generate_tests(metafunc):
    paths = metafunc.config.getoption("vectors") or [str(SHIPPED)]
    if "path" in metafunc.fixturenames:
        metafunc.parametrize("path", paths, ids=[Path(path).name for path in paths])
    if "vector" in metafunc.fixturenames:
        vectors = [vector for path in paths for vector in read(path)["vectors"]]
        metafunc.parametrize("vector", vectors, ids=[vector["id"] for vector in vectors])


def test_file_holds_what_it_counts(path):
    found = read(path)
    groups = Counter(vector["group"] for vector in found["vectors"])
    names = [vector["id"] for vector in found["vectors"]]

    assert set(found) == {"schema", "title", "counts", "note", "vectors"}
    assert found["schema"] == 1
    assert found["counts"] == groups
    assert len(set(names)) == len(names)


def test_engine_says_all_that_a_vector_states(vector):
    if vector["group"] in NOT_SERVED:
        pytest.skip(NOT_SERVED[vector["group"]])
    assert GROUPS[vector["group"]](vector) == [], vector["why"]


# ----- each group: what a vector states and the engine does not say -------------------------


def walk_shortfalls(vector):
    """Groups walk and ept: one access, alone on the machine."""
    if vector["mode"] not in reference.MODES:
        raise ValueError(f"unknown mode {vector['mode']}")
    if vector.get("mem_space", "gpa") != ("hpa" if "ept" in vector else "gpa"):
        raise ValueError(f"mem_space is {vector.get('mem_space')}")
    if any(word["size"] not in (4, 8) for word in vector["mem"]):
        raise ValueError("a word of memory is of neither 4 nor 8 bytes")
    answer, engine = ask(*reference.from_case(vector))
    stated = dict(vector["expect"])
    return [
        *changed_memory(engine, vector["mem"], stated.pop("mem_after", [])),
        *unsaid(answer, stated),
    ]


def unsaid(answer: Answer, stated):
    for name, value in stated.items():
        if name not in EXPECTED:
            raise ValueError(f"unknown field {name} in expect")
        wanted = [number(one) for one in value] if isinstance(value, list) else number(value)
        if getattr(answer, name) != wanted:
            yield f"{name} is {getattr(answer, name)!r}, not {wanted!r}"


def changed_memory(engine, before, after):
    sizes = {word["addr"]: word["size"] for word in before}
    for word in after:
        if set(word) != {"addr", "value"}:
            raise ValueError(f"unknown fields in {word}")
        value = engine.word(number(word["addr"]), sizes.get(word["addr"], 8))
        if value != number(word["value"]):
            yield f"{word['addr']} holds {value:#x}, not {word['value']}"


def cost_shortfalls(vector):
    """Group refs: tables that map one page are built in memory and walked, twice."""
    only(vector, {"id", "group", "guest", "ept", "expect", "why", "checked"})
    guest, ept, expect = vector["guest"], vector["ept"], vector["expect"]
    only(guest, {"mode", "page", "entries_read"})
    only(ept, {"levels", "page", "entries_read"})
    only(expect, {"native_refs", "two_dim_refs", "guest_table_refs", "ept_refs"})
    page = None if guest["mode"] == "nopaging" else guest["page"]
    native = read_entries(regular_case(guest["mode"], page))
    nested = read_entries(regular_case(guest["mode"], page, (ept["levels"], ept["page"])))
    said = {
        "native_refs": native.total(),
        "two_dim_refs": nested.total(),
        "guest_table_refs": nested["guest"],
        "ept_refs": nested["ept"],
        "entries_read": native["guest"],
    }
    stated = {**expect, "entries_read": guest["entries_read"]}
    found = [
        f"{name} is {said[name]}, not {stated[name]}"
        for name in stated
        if said[name] != stated[name]
    ]
    walks = nested["guest"] + 1  # one of the second dimension for each guest entry and the page
    if nested["ept"] != walks * ept["entries_read"]:
        found.append(f"{walks} EPT walks read {nested['ept']}, not {ept['entries_read']} each")
    return found


def read_entries(case):
    """How many entries of each kind of table one access reads."""
    answer, _ = ask(*reference.from_case(case))
    assert answer.result == "ok"
    return Counter(table for table, _, _, _ in answer.trace)


def tlb_shortfalls(vector):
    """Group tlb: steps on one machine, which remembers from step to step."""
    only(vector, {"id", "group", "setup", "steps", "expect", "why", "checked"})
    shown, expect = TlbUnderTest(vector["steps"], **vector["setup"]).run(), vector["expect"]
    if isinstance(expect, dict):
        only(expect, SERIES_TOTALS)
        return [f"{k} is {shown[k]}, not {v}" for k, v in expect.items() if shown[k] != v]
    pairs = zip(vector["steps"], shown, expect, strict=True)
    return [
        f"step {at}, {step}, is a {said}, not a {wanted}"
        for at, (step, said, wanted) in enumerate(pairs)
        if wanted not in (None, said)
    ]


def memslot_shortfalls(vector):
    """Group memslot: requests to KVM and accesses of a guest, in order; the last one tells."""
    only(vector, {"id", "group", "slots", "op", "expect", "why", "checked"})
    operations = vector["op"] if isinstance(vector["op"], list) else [vector["op"]]
    said = MemslotsUnderTest(vector["slots"]).run(operations)
    stated = {k: number(v) if k == "hva" and v else v for k, v in vector["expect"].items()}
    return [f"{k} is {said[k]}, not {v}" for k, v in stated.items() if said[k] != v]


def only(found, known):
    if set(found) != known:
        raise ValueError(f"unknown or missing fields {sorted(set(found) ^ known)}")


GROUPS = {
    "walk": walk_shortfalls,
    "ept": walk_shortfalls,
    "refs": cost_shortfalls,
    "tlb": tlb_shortfalls,
    "memslot": memslot_shortfalls,
}
