"""The layers of the design, checked on every import of the package, also those inside functions.

`LAYERS` is the table of the design. A new module must fit into a row before it passes. This file must
not import guildhall: it reads the sources, so that a broken import cannot hide from it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[1] / "src"
ROOT = "guildhall"


@dataclass(frozen=True)
class Layer:
    """A row of the table. Places are dotted paths below the package and stand for all that is under them."""

    name: str
    places: tuple[str, ...]
    may_import: tuple[str, ...] = ()  # Places, or names of whole rows.
    never: frozenset[str] = frozenset()  # Top-level modules from outside.


STORE_WORDS = ("store.transaction", "store.keys", "store.records")
IMPURE = frozenset({"time", "random", "os", "socket", "threading", "logging", "lmdb", "pickle"})

ALL = ("errors", "deadline", "store", "primitives", "hosts", "engine", "client", "tools")

# Lowest first. A module belongs to the row with the longest place that fits: tasks.py to primitives, not to engine.
LAYERS = (
    Layer("errors", ("errors",)),
    Layer("deadline", ("deadline",)),
    Layer("store", ("store",), ALL[:1]),
    Layer("primitives", ("primitives", "engine.local.tasks"), ("errors", *STORE_WORDS), IMPURE),
    Layer("hosts", ("hosts",), (*ALL[:3], "primitives.op", "primitives.sessions")),
    Layer("engine", ("engine",), ALL[:5]),
    Layer("client", ("client", "aio", "joblib"), ALL[:6]),
    Layer("tools", ("tools", "__main__"), ("client", "errors", "public names")),
    Layer("public names", ("",), ALL),
    Layer("testing", ("testing",), (*ALL, "public names")),
)
ONE_PLACE = ("lmdb", "distributed", "ray", "dask", "joblib", "tqdm", "ipywidgets", "xarray")
BESIDES = {"distributed": {"guildhall.engine.dask"}, "dask": {"guildhall.engine.dask"}}
"""What may be imported in a second layer, and where: docs/decisions/0013-two-layers-know-dask.md."""
LATE = (
    "distributed", "ray", "asyncio", "numpy", "psutil", "lmdb", "msgspec", "cloudpickle", "click",
    "dask", "joblib", "rich", "tqdm", "ipywidgets", "xarray",
)  # fmt: skip


@dataclass(frozen=True)
class Import:
    """`importer` imports `target`, both dotted. The target is a module of ours, or a top-level one from outside."""

    importer: str
    target: str
    line: int
    is_ours: bool


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package under `root`, by dotted name."""
    found = {}
    for path in sorted((root / ROOT).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(root: Path) -> list[Import]:
    """Every import in the package under `root`, at whatever depth it stands."""
    ours = modules(root)
    return [found for name, path in ours.items() for found in dict.fromkeys(_imports_of(name, path, ours))]


def _imports_of(name: str, path: Path, ours: dict[str, Path]) -> Iterator[Import]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _statements(ast.parse(path.read_text(), str(path)), skips_typing=name == ROOT):
        for target in _targets(node, package, ours):
            is_ours = target in ours
            yield Import(name, target if is_ours else target.partition(".")[0], node.lineno, is_ours)


def _statements(node: ast.AST, skips_typing: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements below a node. The root names everything for type checkers only, and loads it lazily."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif skips_typing and isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from _statements(ast.Module([other], []), skips_typing)
        else:
            yield from _statements(child, skips_typing)


def _targets(node: ast.Import | ast.ImportFrom, package: str, ours: dict[str, Path]) -> Iterator[str]:
    """What a statement imports: a module rather than the package around it, wherever the name is a module."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield _known(alias.name, ours)
        return
    base = node.module or ""
    if node.level:
        parts = package.split(".")
        base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        yield inner if inner in ours else _known(base, ours)


def _known(name: str, ours: dict[str, Path]) -> str:
    """A name under our package must be one of our modules; a misspelt one is nobody's and is better said at once."""
    if name.partition(".")[0] == ROOT and name not in ours:
        raise LookupError(f"{name}: imported, but there is no such module")
    return name


def layer_of(module: str) -> Layer | None:
    """The row that a module belongs to."""
    fits = [(len(place), row) for row in LAYERS for place in row.places if _is_at(module, place)]
    return max(fits, key=lambda fit: fit[0])[1] if fits else None


def _is_at(module: str, place: str) -> bool:
    path = module.removeprefix(ROOT).removeprefix(".")
    return path == place or (bool(place) and path.startswith(place + "."))


def is_allowed(row: Layer, found: Import) -> bool:
    """Whether code of that row may import what was found."""
    if not found.is_ours:
        return found.target not in row.never
    home = layer_of(found.target)
    if home is row:
        return True
    return any(_is_at(found.target, place) or (home and home.name == place) for place in row.may_import)


def violations(root: Path) -> list[str]:
    """Every arrow that the table forbids, in words, and every module that has no row."""
    by_module: dict[str, list[Import]] = {name: [] for name in modules(root)}
    for found in imports(root):
        by_module[found.importer].append(found)
    complaints = []
    for module, arrows in by_module.items():
        row = layer_of(module)
        if row is None:
            complaints.append(f"{module} is in no layer: give it a place in the table of the design, or move it")
            continue
        home = next((layer.name for layer in LAYERS if all(is_allowed(layer, arrow) for arrow in arrows)), None)
        advice = f"with these imports it belongs to layer '{home}'" if home else "no layer may import all it does"
        complaints += [_complaint(row, arrow, advice) for arrow in arrows if not is_allowed(row, arrow)]
    return complaints


def _complaint(row: Layer, arrow: Import, advice: str) -> str:
    where = f"{arrow.importer}, line {arrow.line}, imports {arrow.target}"
    if not arrow.is_ours:
        return f"{where}: layer '{row.name}' never imports {', '.join(sorted(row.never))}; {advice}"
    allowed = ", ".join(row.may_import) or "the standard library"
    return f"{where}: layer '{row.name}' may import {allowed} only; {advice}"


def cycle(root: Path) -> list[str]:
    """Modules that import each other in a circle, or nothing."""
    arrows: dict[str, set[str]] = {}
    for found in imports(root):
        if found.is_ours and found.importer != found.target:
            arrows.setdefault(found.importer, set()).add(found.target)
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def importers(root: Path, target: str) -> set[str]:
    """The modules that import a top-level module from outside."""
    return {found.importer for found in imports(root) if not found.is_ours and found.target == target}


# The package.


def test_every_import_follows_the_layers() -> None:
    assert imports(SOURCES), "no imports found: is the package where this test looks?"
    complaints = violations(SOURCES)
    assert not complaints, "\n" + "\n".join(complaints)


def test_modules_import_each_other_in_no_circle() -> None:
    circle = cycle(SOURCES)
    assert not circle, f"{' -> '.join(circle)}: move what both ends need below them"


@pytest.mark.parametrize("outside", ONE_PLACE)
def test_engine_of_others_is_imported_in_one_module(outside: str) -> None:
    found = importers(SOURCES, outside) - BESIDES.get(outside, set())
    assert len(found) <= 1, f"{outside} is imported in {', '.join(sorted(found))}: keep one, let the others call it"


@pytest.mark.parametrize("outside", BESIDES)
def test_what_is_imported_in_two_layers_is_needed_in_both(outside: str) -> None:
    assert BESIDES[outside] < importers(SOURCES, outside), "what is not needed is no longer allowed"


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = f"import sys; sys.path.insert(0, {str(SOURCES)!r}); before = set(sys.modules); import {ROOT}; "
    script += f"print(*({set(LATE)!r} & (set(sys.modules) - before)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"import {ROOT} also imports {done.stdout.strip()}: import it where it is used"


# The checker, on small trees made up for it.


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package of one empty module for each layer, with nothing to complain about."""
    for path in (
        "__init__", "errors", "deadline", "testing", "store/__init__", "store/keys", "store/lmdb",
        "primitives/__init__", "primitives/lock", "primitives/sessions", "hosts/__init__", "hosts/embedded",
        "engine/__init__", "engine/local/__init__", "engine/local/tasks", "engine/local/pool",
        "client/__init__", "client/client", "tools/__init__", "tools/cli",
    ):  # fmt: skip
        write(tmp_path, path, "")
    return tmp_path


def write(tree: Path, path: str, text: str) -> None:
    file = tree / ROOT / f"{path}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_checker_is_content_with_empty_modules(tree: Path) -> None:
    assert violations(tree) == []
    assert cycle(tree) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("store/keys", "from ..errors import Misuse"),
        ("primitives/lock", "from ..store.keys import pack_int"),
        ("primitives/sessions", "from . import lock"),
        ("engine/local/tasks", "from ...primitives import lock"),
        ("hosts/embedded", "from ..primitives.sessions import bury"),
        ("hosts/embedded", "import threading, time, lmdb"),
        ("engine/local/pool", "from . import tasks"),
        ("engine/local/pool", "from ...hosts.embedded import EmbeddedHost"),
        ("client/client", "from ..engine.local import tasks, pool\nfrom ..store.keys import pack"),
        ("tools/cli", "from guildhall import Client"),
        ("testing", "from .tools import cli\nfrom .store import lmdb"),
        ("__init__", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .tools.cli import main"),
    ],
)
def test_allowed_arrow_passes(tree: Path, path: str, text: str) -> None:
    write(tree, path, text)
    assert violations(tree) == []
    assert cycle(tree) == []


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("store/keys", "from ..client import client", "layer 'store' may import errors only"),
        ("store/keys", "import guildhall.client.client", "layer 'store'"),
        ("store/keys", "from .. import deadline", "imports guildhall.deadline"),
        ("errors", "from . import deadline", "layer 'errors' may import the standard library only"),
        ("deadline", "from .errors import Misuse", "layer 'deadline' may import the standard library only"),
        ("primitives/lock", "from ..store import lmdb", "imports guildhall.store.lmdb"),
        ("primitives/lock", "import time", "never imports"),
        ("primitives/lock", "import os.path", "never imports"),
        ("primitives/lock", "from threading import Lock", "never imports"),
        ("engine/local/tasks", "import pickle", "layer 'primitives' never imports"),
        ("engine/local/tasks", "from ...hosts import embedded", "layer 'primitives' may import"),
        ("hosts/embedded", "from ..primitives import lock", "layer 'hosts' may import"),
        ("hosts/embedded", "from ..engine.local import tasks", "layer 'hosts' may import"),
        ("engine/local/pool", "from ...client.client import Client", "layer 'engine' may import"),
        ("engine/local/pool", "from guildhall import Client", "imports guildhall: layer 'engine'"),
        ("client/client", "from ..tools import cli", "layer 'client' may import"),
        ("tools/cli", "from ..store import keys", "layer 'tools' may import client, errors, public names only"),
        ("tools/cli", "from .. import testing", "layer 'tools'"),
    ],
)
def test_forbidden_arrow_is_caught(tree: Path, path: str, text: str, said: str) -> None:
    write(tree, path, f"\n{text}\n")
    (complaint,) = violations(tree)
    assert said in complaint
    assert ", line 2, " in complaint


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    from ..client import client",
        "class C:\n    def f(self):\n        if self:\n            import guildhall.client.client",
        "async def f():\n    with open('x'):\n        from guildhall.client.client import Client",
        "try:\n    pass\nexcept OSError:\n    from ..client.client import Client",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..client import client",
    ],
)
def test_forbidden_arrow_is_caught_at_any_depth(tree: Path, text: str) -> None:
    write(tree, "store/keys", text)
    assert len(violations(tree)) == 1


def test_complaint_says_where_the_code_belongs(tree: Path) -> None:
    write(tree, "store/keys", "from ..hosts import embedded\nfrom ..primitives import lock")
    assert all("it belongs to layer 'engine'" in complaint for complaint in violations(tree))


def test_module_without_layer_is_caught(tree: Path) -> None:
    write(tree, "helpers", "")
    (complaint,) = violations(tree)
    assert complaint.startswith("guildhall.helpers is in no layer")


def test_import_of_missing_module_is_caught(tree: Path) -> None:
    write(tree, "store/keys", "import guildhall.nowhere")
    with pytest.raises(LookupError, match=r"guildhall\.nowhere"):
        violations(tree)


def test_cycle_is_caught_also_through_functions(tree: Path) -> None:
    write(tree, "primitives/lock", "from . import sessions")
    write(tree, "primitives/sessions", "from . import waiters")
    write(tree, "primitives/waiters", "def f():\n    from .lock import release")
    assert violations(tree) == []
    circle = cycle(tree)
    assert circle[0] == circle[-1]
    assert set(circle) == {f"guildhall.primitives.{name}" for name in ("lock", "sessions", "waiters")}


def test_module_that_imports_itself_is_no_cycle(tree: Path) -> None:
    write(tree, "engine/local/pool", "if __name__ == '__main__':\n    from guildhall.engine.local.pool import main")
    assert cycle(tree) == []


def test_second_importer_of_an_engine_is_seen(tree: Path) -> None:
    write(tree, "store/lmdb", "import lmdb")
    write(tree, "hosts/embedded", "def f():\n    from lmdb import open")
    assert importers(tree, "lmdb") == {"guildhall.store.lmdb", "guildhall.hosts.embedded"}
