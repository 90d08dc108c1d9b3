"""The layers, read from every import, also those inside functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "guildhall"

MAY_IMPORT = {
    "errors": set(),
    "deadline": {"errors"},
    "store": {"errors", "store"},
    "primitives": {"errors", "store", "primitives"},
    "hosts": {"errors", "deadline", "store", "primitives", "hosts"},
    "engine": {"errors", "deadline", "store", "primitives", "hosts", "engine"},
    "client": {"errors", "deadline", "store", "primitives", "hosts", "engine", "client"},
    "aio": {"errors", "deadline", "store", "primitives", "hosts", "engine", "client"},
    "tools": {"client", "errors", "tools"},
}
HOSTS_MAY_SEE = {"primitives.op", "primitives.sessions", "primitives"}
PURE_NEVER = {"time", "random", "os", "socket", "threading", "logging", "lmdb", "pickle"}
IN_ONE_PLACE = ("lmdb", "distributed", "ray")


def imports(path: Path, module: str) -> Iterator[str]:
    """Every imported module, ours without the leading `guildhall.`."""
    package = module.split(".")[:-1] if path.name != "__init__.py" else module.split(".")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("guildhall.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
                target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
                for alias in node.names:
                    name = f"{target}.{alias.name}".strip(".")
                    ours = SOURCE / Path(*name.split("."))
                    yield name if ours.with_suffix(".py").exists() or ours.is_dir() else target
            else:
                yield (node.module or "").removeprefix("guildhall.")


def modules(source: Path) -> dict[str, list[str]]:
    found = {}
    for path in sorted(source.rglob("*.py")):
        module = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix("__init__").strip(".")
        if module:
            found[module] = list(imports(path, module))
    return found


def complaints(tree: dict[str, list[str]]) -> list[str]:
    """What is wrong with the arrows of a tree, in words."""
    wrong = []
    for module, targets in tree.items():
        layer = module.split(".")[0]
        for target in targets:
            other = target.split(".")[0]
            if other in MAY_IMPORT and other != layer and other not in MAY_IMPORT.get(layer, set()):
                wrong.append(
                    f"{module} is in layer {layer!r} and may not import {target}: move it to {other!r} or above"
                )
            if layer == "hosts" and other == "primitives" and target not in HOSTS_MAY_SEE:
                wrong.append(f"{module} is a host: of the primitives it may see op and sessions only, not {target}")
            if (layer == "primitives" or module == "engine.local.tasks") and other in PURE_NEVER:
                wrong.append(f"{module} holds ops, which are pure: it may not import {target}")
    for library in IN_ONE_PLACE:
        users = [module for module, targets in tree.items() if library in targets]
        if len(users) > 1:
            wrong.append(f"{library} is imported in {users}: one place is enough")
    return wrong + [f"import cycle: {' -> '.join(cycle)}" for cycle in cycles(tree)]


def cycles(tree: dict[str, list[str]]) -> list[list[str]]:
    found: list[list[str]] = []
    state: dict[str, int] = {}

    def visit(module: str, trail: list[str]) -> None:
        state[module] = 1
        for target in tree[module]:
            if target in tree and target != module:
                if state.get(target) == 1:
                    found.append([*trail[trail.index(target) :], target])
                elif target not in state:
                    visit(target, [*trail, target])
        state[module] = 2

    for module in tree:
        if module not in state:
            visit(module, [module])
    return found


def test_layers_hold() -> None:
    assert complaints(modules(SOURCE)) == []


@pytest.mark.parametrize(
    "tree",
    [
        {"store.keys": ["client.hall"]},
        {"primitives.lock": ["time"]},
        {"hosts.embedded": ["primitives.queue"]},
        {"store.a": ["store.b"], "store.b": ["store.a"]},
        {"store.a": ["lmdb"], "store.b": ["lmdb"]},
    ],
)
def test_a_broken_rule_is_reported(tree: dict[str, list[str]]) -> None:
    assert complaints(tree)


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ["distributed", "ray", "asyncio", "numpy", "psutil", "lmdb", "msgspec", "cloudpickle"]
    code = f"import sys, guildhall; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
