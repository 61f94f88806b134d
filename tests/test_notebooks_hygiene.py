"""The shipped notebooks: all run, clean, and stable under version control.

nbval compares what a cell gives with what is stored; where nothing is stored it compares nothing
and passes.  So these tests demand that there is something to compare.
"""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
COURSE = (
    "00_index.ipynb",
    "01_four_address_spaces.ipynb",
    "02_building_page_tables.ipynb",
    "03_faults_and_bits.ipynb",
    "04_shadow_paging.ipynb",
    "05_ept_and_the_24_references.ipynb",
    "06_tlbs_and_walk_caches.ipynb",
    "07_shadow_versus_ept.ipynb",
    "08_huge_pages.ipynb",
    "09_the_balloon.ipynb",
    "10_what_libvirt_sees.ipynb",
    "11_overcommit.ipynb",
    "12_a_real_guest.ipynb",
    "13_nested_virtualization.ipynb",
    "14_size_a_host.ipynb",
)
PATHS = sorted(NOTEBOOKS.rglob("[!.]*.ipynb"))
KERNEL = {"name": "python3", "language": "python"}
STABLE = re.compile(r"0{24}[0-9a-f]{8}")  # the id of a widget in a stored output

every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)


def code_cells(path: Path) -> list[dict]:
    """The cells of code that have any."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c for c in cells if c["cell_type"] == "code" and source(c).strip()]


def source(cell: dict) -> str:
    """A cell's text; in the file it may be a string or a list of lines."""
    return "".join(cell["source"])


def speaks(code: str) -> bool:
    """Whether a cell is bound to give an output: it prints, or ends in a name or an attribute."""
    body = ast.parse(code).body
    prints = any(
        isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
        for statement in body
        for node in ast.walk(statement)
    )
    last = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
    shows = isinstance(last, (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp, ast.Compare))
    return prints or (shows and not code.rstrip().endswith(";"))


@pytest.mark.parametrize("name", COURSE)
def test_the_course_is_there(name: str):
    assert (NOTEBOOKS / name).is_file()


@every_notebook
def test_a_notebook_is_valid(path: Path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)

    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)


@every_notebook
def test_every_cell_was_run_in_order(path: Path):
    counts = [cell["execution_count"] for cell in code_cells(path)]

    assert counts == list(range(1, len(counts) + 1))


@every_notebook
def test_every_cell_that_says_something_has_it_stored(path: Path):
    silent = [source(c) for c in code_cells(path) if speaks(source(c)) and not c["outputs"]]

    assert silent == []


@every_notebook
def test_no_cell_failed_complained_or_escapes_comparison(path: Path):
    cells = code_cells(path)
    outputs = [output for cell in cells for output in cell["outputs"]]
    tags = {tag for cell in cells for tag in cell["metadata"].get("tags", [])}

    assert [o for o in outputs if o["output_type"] == "error"] == []
    assert [o["text"] for o in outputs if o.get("name") == "stderr"] == []
    assert {tag for tag in tags if tag.startswith("nbval-")} - {"nbval-check-output"} == set()
    assert [source(c) for c in cells if "NBVAL" in source(c)] == []


@every_notebook
def test_metadata_is_bare(path: Path):
    """A kernel that everyone has, no versions, no times, no state of widgets."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    metadata, spec = notebook["metadata"], notebook["metadata"]["kernelspec"]

    assert set(metadata) <= {"kernelspec", "language_info"}
    assert {key: spec[key] for key in KERNEL} == KERNEL
    assert "version" not in metadata.get("language_info", {})
    allowed = {"slideshow"} if path.parent.name == "lecture" else {"tags"}
    assert {key for cell in notebook["cells"] for key in cell["metadata"]} <= allowed


@every_notebook
def test_outputs_are_stable(path: Path):
    """Fixed ids of widgets, no address of an object: a second run changes no line of the file."""
    outputs = [output for cell in code_cells(path) for output in cell["outputs"]]
    views = [
        output["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
        for output in outputs
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ]

    assert [view for view in views if not STABLE.fullmatch(view)] == []
    assert re.findall(r"<[\w.]+ (?:object )?at 0x[0-9a-f]+>", json.dumps(outputs)) == []


@pytest.mark.parametrize("name", COURSE[1:])
def test_a_lesson_states_facts_that_are_checked(name: str):
    cells = code_cells(NOTEBOOKS / name)

    assert sum(bool(cell["outputs"]) for cell in cells) >= 3


@pytest.mark.parametrize(
    "code, expected",
    [
        ("print(1)", True),
        ("x = 1\nx", True),
        ("lab.references", True),
        ("lab.references;", False),
        ("x = 1", False),
        ("p.mmap(0x1000, 4096)", False),
    ],
)
def test_which_cells_must_have_an_output(code: str, expected: bool):
    assert speaks(code) is expected


@pytest.mark.parametrize("name", COURSE[1:])
def test_every_lesson_has_the_one_shape(name):
    cells = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]
    prose = "\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
    parts = ("Goals", "What you need", "The question", "Summary", "Self-test", "Further reading")
    places = [prose.find(f"\n## {part}\n") for part in parts]

    assert -1 not in places, dict(zip(parts, places, strict=True))
    assert places == sorted(places)
    assert re.search(r"\*\*What real (KVM|Linux) does", prose)
    assert sum(bool(cell["outputs"]) for cell in code_cells(NOTEBOOKS / name)) >= 10
