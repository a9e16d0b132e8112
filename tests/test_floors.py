"""The floors: every import points down, and what may not be imported is not."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "oread"

FLOORS: Mapping[str, int] = {
    "messages": 0,
    "errors": 0,
    "limits": 0,
    "dispatch": 1,
    "protocols": 1,
    "endpoints": 1,
    "registry": 2,
    "handlers": 2,
    "reactor": 3,
    "sockets": 3,
    "listeners": 4,
    "service": 5,
    "client": 5,
    "testing": 6,
    "daemon": 7,
    "cli": 8,
    "__init__": 9,
    "__main__": 9,
}
"""Room: its floor, as DESIGN and CONTRIBUTING have it."""

IO_FREE_FLOORS = (0, 1)
IO_MODULES = ("trio", "socket")
LOADERS = ("cli", "daemon")
"""Rooms that may load a module by its name: commands, a user's module, the format of logs."""


def read_modules(source: Path) -> dict[str, ast.Module]:
    """Parse every module, by its dotted name without `oread.`."""
    modules = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(parts if parts == ("__init__",) or parts[-1] != "__init__" else parts[:-1])
        modules[name] = ast.parse(path.read_text(), str(path))
    return modules


def room_of(module: str) -> str:
    """Return the room of a module."""
    return module.partition(".")[0]


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the full name of everything that is imported, anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.Module, modules: Mapping[str, ast.Module]) -> Iterator[str]:
    """Yield which modules of oread are imported, by their names here."""
    for name in imported(tree):
        top, _, rest = name.partition(".")
        if top != "oread":
            continue
        while rest and rest not in modules:
            rest = rest.rpartition(".")[0]
        yield rest or "__init__"


def find_faults(modules: Mapping[str, ast.Module]) -> list[str]:
    """Return every import that breaks a rule, as a sentence."""
    faults = []
    for name, tree in modules.items():
        room = room_of(name)
        floor = FLOORS.get(room)
        if floor is None:
            faults.append(f"{room} is on no floor")
            continue
        for target in own_imports(tree, modules):
            other = room_of(target)
            if other != room and FLOORS.get(other, 99) >= floor:
                faults.append(f"{name} (floor {floor}) imports {target} (floor {FLOORS.get(other)})")
        if floor in IO_FREE_FLOORS:
            faults += [
                f"{name} (floor {floor}) imports {found}"
                for found in imported(tree)
                if found.partition(".")[0] in IO_MODULES
            ]
        faults += _find_hidden_imports(name, tree)
    return faults


def _find_hidden_imports(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield imports that do not stand at the top of their module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            inner = [each for each in ast.walk(node) if isinstance(each, ast.Import | ast.ImportFrom)]
            if inner:
                yield f"{name} line {inner[0].lineno} imports inside {getattr(node, 'name', 'a lambda')}"
        if isinstance(node, ast.Name | ast.Attribute):
            text = node.id if isinstance(node, ast.Name) else node.attr
            if text == "TYPE_CHECKING":
                yield f"{name} line {node.lineno} looks at TYPE_CHECKING"
            if text in ("import_module", "__import__") and room_of(name) not in LOADERS:
                yield f"{name} line {node.lineno} loads a module by its name"


def find_circles(modules: Mapping[str, ast.Module]) -> list[str]:
    """Return the circles of imports, between rooms and inside packages."""
    graph = {name: set(own_imports(tree, modules)) - {name} for name, tree in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


MODULES = read_modules(SOURCE)


def test_imports_point_down_the_floors() -> None:
    """Every room imports from the floors below its own, openly."""
    assert len(MODULES) > 30
    assert find_faults(MODULES) == []


def test_there_are_no_circles() -> None:
    """No module imports itself by way of others."""
    assert find_circles(MODULES) == []


PLANTED = {
    "an upward import": ("dispatch.entry", "from oread.service import serve", "imports service (floor 5)"),
    "a sideways import": (
        "protocols.framing",
        "import oread.dispatch.table",
        "imports dispatch.table (floor 1)",
    ),
    "the package itself": ("client", "import oread", "imports __init__ (floor 9)"),
    "trio on floor 1": ("endpoints", "import trio", "imports trio"),
    "a socket on floor 0": ("messages", "from socket import AF_INET", "imports socket.AF_INET"),
    "an import in a function": ("client", "def f():\n    import json", "imports inside f"),
    "a TYPE_CHECKING block": ("client", "import typing\nif typing.TYPE_CHECKING:\n    pass", "TYPE_CHECKING"),
    "a module loaded by name": ("service", "import importlib\nimportlib.import_module('x')", "by its name"),
    "a room of no floor": ("helpers", "import json", "helpers is on no floor"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_fault_is_found(case: str) -> None:
    """What breaks a rule is found and named, alone."""
    module, text, expected = PLANTED[case]
    faults = find_faults({**MODULES, module: ast.parse(text)})
    assert len(faults) == 1
    assert expected in faults[0]


def test_a_planted_circle_is_found() -> None:
    """Two modules of one package that import each other are a circle."""
    planted = {
        "listeners.runtime": ast.parse("import oread.listeners.http"),
        "listeners.http": ast.parse("from oread.listeners import runtime"),
    }
    assert find_circles({**MODULES, **planted}) != []
