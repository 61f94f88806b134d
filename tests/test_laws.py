"""The laws of the house: who may import whom, what labs may do, where state may live.

Each law is a function from the source of one module to the list of what breaks it.  It is asked
about every module of the package and, so that we know that it can say no, about planted ones.
"""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kvmlab"

FLOORS = (
    ("base",),
    ("hardware",),
    ("virtio", "linux"),
    ("guest", "host"),
    ("kvm",),
    ("qemu",),
    ("management",),
    ("machine",),
    ("workloads",),
    ("study",),
    ("text",),
    ("figures",),
    ("course",),
    ("labs",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ROOT = ""  # the room of the package itself, as room_of says it
HOST_SIDE = frozenset({"host", "kvm", "qemu", "management"})
TOOLKITS = ("ipywidgets", "bqplot", "anywidget", "IPython")

Law = Callable[[str, ast.Module], list[str]]


def room_of(module: str) -> str:
    """The room of ``kvmlab.room.file``; the package itself and ``__main__`` have none."""
    return module.partition(".")[2].partition(".")[0]


def package_modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package, by its dotted name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        yield name, ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all that ``tree`` imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            taken = [f"{origin}.{name.name}" for name in node.names]
            yield from ((node.lineno, name) for name in (taken if origin == "kvmlab" else [origin]))


def rooms_imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, room) of each import from our own package; ``errors`` of the root live in base."""
    for line, name in imports(tree):
        if name.partition(".")[0] == "kvmlab" and name != "kvmlab.__version__":
            yield line, {"errors": "base"}.get(room_of(name), room_of(name))


def floors(module: str, tree: ast.Module) -> list[str]:
    """A room imports only from itself and from floors below it, by absolute names."""
    room = room_of(module)
    if room not in FLOOR:
        return [] if module in ("kvmlab", "kvmlab.__main__") else [f"{module}: a room of no floor"]
    relative = [f"{module}:{line} imports {name}" for line, name in imports(tree) if name[0] == "."]
    known = {**FLOOR, ROOT: FLOOR["cli"] - 1}  # what the package itself offers comes from all over
    above = [
        f"{module}:{line} imports {other or 'the package'}"
        for line, other in rooms_imported(tree)
        if other != room and known.get(other, len(FLOORS)) >= FLOOR[room]
    ]
    return relative + above


def ground(module: str, tree: ast.Module) -> list[str]:
    """base takes nothing but the standard library, hardware that, base and NumPy."""
    extra = {"base": frozenset(), "hardware": frozenset({"numpy"})}.get(room_of(module))
    if extra is None:
        return []
    allowed = sys.stdlib_module_names | extra | {"kvmlab"}
    return [
        f"{module}:{line} imports {name}"
        for line, name in imports(tree)
        if name.partition(".")[0] not in allowed
    ]


def strangers(module: str, tree: ast.Module) -> list[str]:
    """The guest and those who host it know nothing of each other; linux knows neither."""
    room = room_of(module)
    forbidden = {
        "guest": HOST_SIDE,
        "linux": HOST_SIDE | {"guest"},
        **dict.fromkeys(HOST_SIDE, frozenset({"guest"})),
    }.get(room, frozenset())
    return [
        f"{module}:{line} imports {other}"
        for line, other in rooms_imported(tree)
        if other in forbidden
    ]


def toolkits(module: str, tree: ast.Module) -> list[str]:
    """Nothing below the labs imports a widget toolkit."""
    if FLOOR.get(room_of(module), len(FLOORS)) >= FLOOR["labs"]:
        return []
    return [
        f"{module}:{line} imports {name}"
        for line, name in imports(tree)
        if name.partition(".")[0] in TOOLKITS
    ]


BIT_OPERATORS = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.LShift, ast.RShift, ast.Invert)


def thin_labs(module: str, tree: ast.Module) -> list[str]:
    """labs work no bits and reach for no memory.  (``int | None`` in an annotation is no mask.)"""
    if room_of(module) != "labs":
        return []
    types = {id(part) for whole in annotations(tree) for part in ast.walk(whole)}
    return [
        f"{module}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(tree)
        if id(node) not in types
        and (
            isinstance(getattr(node, "op", None), BIT_OPERATORS)
            or (isinstance(node, ast.Name) and node.id == "ram")
            or (isinstance(node, ast.Attribute) and node.attr == "ram")
        )
    ]


def annotations(tree: ast.AST) -> Iterator[ast.expr]:
    """Every annotation of an argument, a result or a variable."""
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if isinstance(found := getattr(node, name, None), ast.expr):
                yield found


def late_charts(module: str, tree: ast.Module) -> list[str]:
    """bqplot is imported inside a function, when a chart is first drawn."""
    return [
        f"{module}:{line} imports {name} at once"
        for statement in executed_on_import(tree)
        for line, name in imports(statement)
        if name.partition(".")[0] in ("bqplot", "bqscales")
    ]


def no_formula(module: str, tree: ast.Module) -> list[str]:
    """figures and course multiply no level counts: the number of references is counted."""
    if room_of(module) not in ("figures", "course"):
        return []
    return [
        f"{module}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, (ast.Mult, ast.Pow))
        and "level" in ast.unparse(node.left)
        and "level" in ast.unparse(node.right)
    ]


MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)
CONTAINERS = ("list", "dict", "set", "bytearray", "deque", "defaultdict", "Counter", "OrderedDict")
ITERATORS = ("iter", "count", "cycle")
ARRAYS = ("array", "asarray", "arange", "zeros", "ones", "empty", "full", "fromiter")
MAKERS = frozenset(CONTAINERS + ITERATORS + ARRAYS)


def no_state(module: str, tree: ast.Module) -> list[str]:
    """No name of a module is bound to what can change; ``__all__`` is Python's own."""
    bound = [
        f"{module}:{node.lineno} {ast.unparse(node)[:60]}"
        for node in executed_on_import(tree)
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign))
        and node.value is not None
        and "__all__" not in ast.unparse(node).partition("=")[0]
        and mutable(node.value)
    ]
    declared = [
        f"{module}:{node.lineno} {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Global)
    ]
    return bound + declared


def mutable(value: ast.expr) -> bool:
    """Whether evaluating ``value`` gives something that can change."""
    if isinstance(value, ast.Tuple):
        return any(map(mutable, value.elts))
    if isinstance(value, ast.Call):
        maker = ast.unparse(value.func).rpartition(".")[2]
        if maker == "MappingProxyType":  # its dict is out of reach, but not what is in there
            inside = [x for arg in value.args if isinstance(arg, ast.Dict) for x in arg.values]
            return any(map(mutable, inside))
        return maker in MAKERS
    return isinstance(value, MUTABLE)


def executed_on_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """The simple statements that run when the module is imported, type checking left out."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop(0)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.For, ast.While, ast.ClassDef)):
            inner = (getattr(node, field, []) for field in ("body", "orelse", "finalbody"))
            pending += [statement for body in inner for statement in body]
            pending += [s for handler in getattr(node, "handlers", []) for s in handler.body]
        else:
            yield node


LAWS = (floors, ground, strangers, toolkits, thin_labs, late_charts, no_formula, no_state)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_house_keeps_its_laws(law: Law):
    broken = [line for name, tree in package_modules() for line in law(name, tree)]

    assert broken == []


@pytest.mark.parametrize(
    "law, module, source",
    [
        (floors, "kvmlab.base.sizes", "from kvmlab.hardware import ram"),
        (floors, "kvmlab.base.sizes", "def f():\n    import kvmlab.machine"),
        (floors, "kvmlab.hardware.cpu", "from kvmlab import labs"),
        (floors, "kvmlab.hardware.cpu", "from kvmlab import Machine"),
        (floors, "kvmlab.hardware.cpu", "from ..kvm import ept"),
        (floors, "kvmlab.virtio.ring", "from kvmlab.linux import buddy"),
        (floors, "kvmlab.labs.walk", "from kvmlab.cli import main"),
        (floors, "kvmlab.attic.things", ""),
        (ground, "kvmlab.base.sizes", "import numpy as np"),
        (ground, "kvmlab.hardware.ram", "from rich import print"),
        (strangers, "kvmlab.guest.kernel", "from kvmlab.kvm.ept import zap"),
        (strangers, "kvmlab.kvm.shadow", "import kvmlab.guest.process"),
        (strangers, "kvmlab.qemu.balloon", "from kvmlab import guest"),
        (strangers, "kvmlab.linux.buddy", "from kvmlab.guest import kernel"),
        (toolkits, "kvmlab.figures.scene", "def f():\n    from IPython.display import SVG"),
        (toolkits, "kvmlab.course.checks", "import ipywidgets as w"),
        (thin_labs, "kvmlab.labs.walk", "index = gva >> 12"),
        (thin_labs, "kvmlab.labs.walk", "def f(e: int | None):\n    e &= 511"),
        (thin_labs, "kvmlab.labs.walk", "flags = ~mask"),
        (thin_labs, "kvmlab.labs.walk", "entry = machine.ram.load(8)"),
        (late_charts, "kvmlab.labs.charts", "from bqplot import Bars"),
        (late_charts, "kvmlab.labs.charts", "try:\n    import bqplot.marks\nfinally:\n    pass"),
        (no_formula, "kvmlab.figures.lattice", "n = (guest_levels + 1) * (host_levels + 1) - 1"),
        (no_state, "kvmlab.kvm.slots", "SLOTS = []"),
        (no_state, "kvmlab.kvm.slots", "if True:\n    cache: dict[int, int] = {}"),
        (no_state, "kvmlab.kvm.slots", "class Slots:\n    all = set()"),
        (no_state, "kvmlab.kvm.slots", "ids = itertools.count()"),
        (no_state, "kvmlab.kvm.slots", "ROWS = ({'a': 1}, {'b': 2})"),
        (no_state, "kvmlab.kvm.slots", "ROWS = MappingProxyType({'a': [1]})"),
        (no_state, "kvmlab.kvm.slots", "n = 0\ndef f():\n    global n\n    n += 1"),
    ],
)
def test_each_law_can_say_no(law: Law, module: str, source: str):
    assert law(module, ast.parse(source)) != []


@pytest.mark.parametrize(
    "law, module, source",
    [
        (
            floors,
            "kvmlab.hardware.cpu",
            "from kvmlab import errors\nfrom kvmlab.hardware import ram",
        ),
        (floors, "kvmlab.cli.walk", "from kvmlab.machine import Machine\nimport kvmlab"),
        (floors, "kvmlab.study.compare", "from kvmlab import __version__"),
        (strangers, "kvmlab.machine", "from kvmlab.guest import kernel\nfrom kvmlab.kvm import vm"),
        (
            thin_labs,
            "kvmlab.labs.walk",
            "def f(level: int | None) -> int | None:\n    return level",
        ),
        (thin_labs, "kvmlab.hardware.walker", "index = gva >> 12 & 511"),
        (late_charts, "kvmlab.labs.charts", "def draw():\n    import bqplot"),
        (late_charts, "kvmlab.labs.charts", "if TYPE_CHECKING:\n    from bqplot import Figure"),
        (no_formula, "kvmlab.figures.lattice", "width = host_levels * CELL"),
        (no_state, "kvmlab.kvm.slots", "ROWS = MappingProxyType({'a': (1, 2)})\n__all__ = ['f']"),
        (no_state, "kvmlab.kvm.slots", "X = frozenset({1})\nY = tuple(f(n) for n in Z)"),
    ],
)
def test_the_laws_allow_what_the_house_does(law: Law, module: str, source: str):
    assert law(module, ast.parse(source)) == []


IMPORT_ALL = textwrap.dedent(
    """
    import importlib, pkgutil, sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in %(toolkits)r:
                raise ImportError(f"{name} is blocked")

    sys.meta_path.insert(0, Blocker())
    package = importlib.import_module(%(package)r)
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if found.name.split(".")[1] not in ("labs", "__main__"):
            importlib.import_module(found.name)
    """
)


def import_without_toolkits(package: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Import every module of ``package`` but its labs where no widget toolkit is installed."""
    script = IMPORT_ALL % {"toolkits": TOOLKITS, "package": package}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )


def test_everything_below_the_labs_runs_without_a_widget_toolkit():
    done = import_without_toolkits("kvmlab", PACKAGE.parent)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_hidden_import_of_a_toolkit_is_found(tmp_path: Path):
    (tmp_path / "planted" / "figures").mkdir(parents=True)
    (tmp_path / "planted" / "__init__.py").touch()
    (tmp_path / "planted" / "figures" / "__init__.py").write_text("__import__('ipywidgets')")

    assert "ipywidgets is blocked" in import_without_toolkits("planted", tmp_path).stderr


def test_one_module_alone_knows_bqplot():
    """Its traps are many; all of them are dealt with in one adapter."""
    knowing = [
        module
        for module, tree in package_modules()
        if any(name.partition(".")[0] in ("bqplot", "bqscales") for _, name in imports(tree))
    ]

    assert len(knowing) <= 1, knowing


def test_importing_the_labs_loads_no_chart_library():
    script = "import sys, kvmlab.labs; print({'bqplot', 'pandas'} & set(sys.modules))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=False)

    assert done.stdout == "set()\n", done.stderr
