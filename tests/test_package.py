"""The package as a whole: what it says of itself, and what a stranger's clone needs."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import kvmlab
from kvmlab.base import errors

ROOT = Path(__file__).parents[1]
CODE = (".py", ".js", ".css")
NOT_OURS = frozenset({"build", "dist", "kvmlab-course", "__pycache__"})


def project_files() -> list[Path]:
    """The files of the project: what git has or would take; in a copy without git, all."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        files = [path for path in ROOT.rglob("*") if not foreign(path.relative_to(ROOT))]
    return sorted(path for path in files if path.is_file())


def foreign(path: Path) -> bool:
    """Whether a path is an environment, a cache or a product of a build."""
    hidden = [part for part in path.parts[:-1] if part.startswith(".") and part != ".ci"]
    return bool(hidden or NOT_OURS & set(path.parts))


def modules() -> list[tuple[Path, ast.Module]]:
    """The package's modules, parsed."""
    paths = sorted((ROOT / "kvmlab").rglob("*.py"))
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def test_the_version_is_the_same_everywhere():
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)

    assert cited
    assert cited[1] == kvmlab.__version__


def test_importing_the_package_is_light():
    """It stands in front of every command: no arrays, no widgets, no charts."""
    heavy = {"numpy", "ipywidgets", "bqplot", "rich"}
    script = f"import sys, kvmlab; print(*{heavy} & set(sys.modules))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "\n"


def test_the_package_gives_what_it_names():
    assert kvmlab.errors is errors
    assert [name for name in kvmlab.__all__ if not hasattr(kvmlab, name)] == []
    assert set(kvmlab.__all__) <= set(dir(kvmlab))
    with pytest.raises(AttributeError, match="no attribute 'ballast'"):
        _ = kvmlab.ballast


def order(name: str) -> tuple[bool, bool, str]:
    """Constants, then classes, then the rest, each by name: the order that ruff keeps too."""
    return not name.isupper(), not name[0].isupper(), name


def test_every_all_is_sorted_and_true():
    seen = 0
    for path, tree in modules():
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                seen += 1
                names = list(ast.literal_eval(node.value))
                dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                module = import_module(dotted.removesuffix(".__init__"))
                assert names == sorted(names, key=order), path
                assert [name for name in names if not hasattr(module, name)] == [], path

    assert seen


def test_only_the_command_line_prints():
    printing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, tree in modules()
        if path.parent.name != "cli"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]

    assert printing == []


def test_no_file_of_code_is_long():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_bytes().splitlines())
        for path in project_files()
        if path.suffix in CODE
    }

    assert {name: n for name, n in lengths.items() if n > 400} == {}


def test_no_file_names_a_place_on_the_machine_of_its_author():
    somewhere = re.compile(rb"/(?:work|root|Users)/|/home/\w|/tmp/\w|\.\./shared")
    naming = [
        f"{path.relative_to(ROOT)}: {found[0].decode()}"
        for path in project_files()
        if (found := somewhere.search(path.read_bytes()))
        and b"\0" not in path.read_bytes()
        and path != Path(__file__)
    ]

    assert naming == []


@pytest.mark.parametrize("name, ends", [("lab", "kvmlab lab"), ("test", "python -m pytest")])
def test_the_readme_has_its_two_commands(name: str, ends: str):
    """`.ci/run` takes them from here and runs them as they stand."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(rf"<!-- command: {name} -->\n```sh\n(.+)\n```\n", readme)

    assert len(commands) == 1
    assert commands[0].startswith("python3 -m venv .venv && .venv/bin/pip install ")
    assert f"'.[{name}]'" in commands[0]
    assert commands[0].endswith(ends)


def test_binder_pins_what_the_package_depends_on():
    """JupyterLab and ipywidgets come with Binder's base image; the rest is pinned exactly."""
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[<>=]", line)[0] for line in project["dependencies"]}

    assert needed - set(pins) == {"ipywidgets"}
    assert "jupyterlab" not in pins


def test_binder_stops_when_a_step_of_its_build_fails():
    build = ROOT / "binder" / "postBuild"

    assert build.read_text().startswith("#!/bin/bash\nset -euo pipefail\n")
    assert build.stat().st_mode & 0o111 == 0o111


def test_the_workflow_runs_what_everybody_runs_with_actions_that_cannot_change():
    steps = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")

    assert re.findall(r"^\s+- run: (.+)$", steps, re.MULTILINE) == ["bash .ci/run"]
    used = re.findall(r"uses: (\S+)", steps)
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", one)] == []
    assert "permissions:\n  contents: read\n" in steps


DISTRIBUTIONS = {"dask": "distributed"}  # what is imported of a package that has another name


def imported() -> set[str]:
    """The top-level names that the package imports."""
    nodes = [node for _, tree in modules() for node in ast.walk(tree)]
    names = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


def required(*extras: str) -> set[str]:
    """The packages that ``pip install kvmlab`` brings, with those of some extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    lines += [line for name in extras for line in project["optional-dependencies"][name]]
    return {re.split(r"[<>=\[]", line)[0] for line in lines}


def test_the_package_imports_what_it_depends_on_and_depends_on_what_it_imports():
    """traitlets and IPython are ipywidgets' own ground, and asked for where ipywidgets is."""
    ours = imported() - set(sys.stdlib_module_names) - {"kvmlab", "traitlets", "IPython"}
    needed = {DISTRIBUTIONS.get(name, name) for name in required("cluster")}

    assert needed == ours


def test_what_a_wheel_takes_in_is_under_3_mb(tmp_path: Path):
    """Packed as a wheel packs it; `.ci/run` builds the real one and looks again."""
    wheel = tmp_path / "wheel.zip"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in project_files():
            if path.relative_to(ROOT).parts[0] in ("kvmlab", "notebooks"):
                packed.write(path)

    assert 500_000 < wheel.stat().st_size < 3_000_000


def test_the_hubs_promise_what_the_page_says_that_a_learner_takes():
    """And its sums are sums: server and kernel, and how many learners fit."""
    page = (ROOT / "binder" / "README.md").read_text(encoding="utf-8")
    server, kernel, both = map(int, re.findall(r"^\| [^|]+ \| (\d+) \|$", page, re.MULTILINE))
    room = {int(gib): int(n) for n, gib in re.findall(r"(\d+) on (\d+) GiB", page)}
    promised = {
        int(mib)
        for name in ("jupyterhub_config.py", "zero-to-jupyterhub.yaml")
        for mib in re.findall(r"guarantee\W+(\d+)M", (ROOT / "binder" / name).read_text("utf-8"))
    }

    assert server + kernel == both
    assert room == {gib: (gib - 2) * 1024 // both for gib in (8, 16, 24)}
    assert len(promised) == 1
    assert both <= promised.pop() <= both * 1.1
