"""Make the reference's tables and lists from the code itself.

A page asks for one by a line `<!-- generated: NAME -->`. Names, defaults and
words are read where they stand: options from the URL grammar and the README's
table (a test holds the two together), limits with their docstrings, errors
with theirs, public names from `oread.__all__`.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import click

import oread
from oread import errors, testing
from oread.cli import COMMANDS
from oread.cli import oread as group
from oread.endpoints import LIMITS

README = Path(__file__).parent.parent / "README.md"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _table_of_readme(first_head: str) -> str:
    """Return a table of the README by the first word of its head."""
    found = re.search(rf"^\| {first_head} \|.*\n(\|.*\n)+", README.read_text(), re.MULTILINE)
    assert found is not None, f"README.md has no table whose head begins with {first_head}"
    return found[0]


def _field_words(kind: type[Any]) -> Mapping[str, str]:
    """Return the docstring of each field of a class."""
    (body,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(body, ast.ClassDef)
    words: dict[str, str] = {}
    for node, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = (
                getattr(getattr(after, "value", None), "value", None) if isinstance(after, ast.Expr) else None
            )
            words[node.target.id] = " ".join(text.split()) if isinstance(text, str) else ""
    return words


def _number(value: float) -> str:
    if value == math.inf:
        return "`inf`: no bound"
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def limits_table(scheme: str) -> str:
    """List every limit of one scheme: name, default, meaning."""
    kind = LIMITS[scheme]
    words: dict[str, str] = {}
    for parent in reversed(kind.__mro__[:-1]):
        words |= {name: text for name, text in _field_words(parent).items() if text or name not in words}
    rows = [
        (f"`{field.name}`", _number(field.default), words.get(field.name, "")) for field in attrs.fields(kind)
    ]
    return _table(("option", "default", "meaning"), rows)


def errors_table() -> str:
    """List the errors about messages: status, counter, meaning."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    messages = [kind for kind in kinds if issubclass(kind, errors.MessageError)]
    rows = [
        (f"`{kind.__name__}`", str(kind.status), f"`{kind.reason}`", _first_line(kind))
        for kind in messages
        if kind is not errors.MessageError
    ]
    return _table(("error", "HTTP status", "counted as", "says"), rows)


def _first_line(item: object) -> str:
    return (inspect.getdoc(item) or "").partition("\n")[0]


SECTIONS: Mapping[str, tuple[str, ...]] = {
    "registry": ("oread.registry", "oread.dispatch"),
    "service": ("oread.service", "oread.listeners"),
    "client": ("oread.client",),
    "messages": ("oread.messages",),
    "errors": ("oread.errors",),
    "endpoints": ("oread.endpoints", "oread.limits"),
}
"""Section of the API page: the modules whose public names it lists."""


def names_of(section: str) -> list[str]:
    """Return the public names of a section; `more` has those of no other."""

    def belongs(name: str, prefixes: tuple[str, ...]) -> bool:
        return getattr(getattr(oread, name), "__module__", "").startswith(prefixes)

    if section != "more":
        return [name for name in oread.__all__ if belongs(name, SECTIONS[section])]
    every = tuple(prefix for prefixes in SECTIONS.values() for prefix in prefixes)
    return [name for name in oread.__all__ if not belongs(name, every)]


def _documented(module: ModuleType, names: Iterable[str]) -> str:
    lines = ["```{eval-rst}"]
    for name in names:
        item = getattr(module, name)
        kind = "class" if isinstance(item, type) else "function" if callable(item) else "data"
        lines += [f".. auto{kind}:: {module.__name__}.{name}", ""]
    return "\n".join([*lines, "```"])


def names(section: str) -> str:
    """Document every public name of a section."""
    return _documented(oread, names_of(section))


def names_of_testing() -> str:
    """Document the kit for tests."""
    found = [
        name
        for name, item in sorted(vars(testing).items())
        if not name.startswith("_") and getattr(item, "__module__", "").startswith("oread.testing")
    ]
    return _documented(testing, found)


def help_of(command: str) -> str:
    """Show what a command says of itself."""
    context = click.Context(group, info_name="oread", max_content_width=100)
    found = group.get_command(context, command)
    assert found is not None
    with click.Context(found, info_name=command, parent=context, max_content_width=100) as inner:
        return f"```text\n{found.get_help(inner)}\n```"


GENERATED: Mapping[str, Callable[[], str]] = {
    "endpoints": partial(_table_of_readme, "URL"),
    "options": partial(_table_of_readme, "option"),
    **{f"limits of {scheme}": partial(limits_table, scheme) for scheme in ("tcp", "http", "udp")},
    "errors": errors_table,
    **{f"names of {section}": partial(names, section) for section in (*SECTIONS, "more")},
    "names of testing": names_of_testing,
    **{f"help of {command}": partial(help_of, command) for command in COMMANDS},
}
"""What a page may ask for."""
