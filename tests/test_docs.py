"""The documentation: it builds without a warning, and its examples run as written."""

from __future__ import annotations

import importlib.util
import re
import shlex
import socket
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest
from fixed_ports import holding
from markdown_examples import (
    READY_LINE,
    ROOT,
    Block,
    by_name,
    check_console,
    read_blocks,
    read_commands,
    run,
    running,
)

import oread

DOCS = ROOT / "docs"
PAGES: Mapping[str, list[Block]] = {
    str(path.relative_to(DOCS)): read_blocks(path.read_text()) for path in sorted(DOCS.rglob("*.md"))
}
PLAIN_LANGUAGES = {"text", "toctree"}
"""Blocks that need no comment: what is no program can't be run."""


def _programs(*, tests: bool) -> list[tuple[str, str]]:
    return [
        (page, name)
        for page, blocks in PAGES.items()
        for name in by_name(blocks, "example")
        if name.endswith(".py") and name.startswith("test_") is tests
    ]


def write_files(page: str, folder: Path) -> None:
    """Put every file of a page where its programs find each other."""
    for name, text in by_name(PAGES[page], "example").items():
        (folder / name).write_text(text)


def load_generated() -> ModuleType:
    """Load what makes the reference's tables."""
    spec = importlib.util.spec_from_file_location("generated", DOCS / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    """No program, command or output is shown that no test runs."""
    unmarked = [
        block.text for block in PAGES[page] if block.role is None and block.language not in PLAIN_LANGUAGES
    ]
    assert unmarked == []
    outputs, examples = by_name(PAGES[page], "output"), by_name(PAGES[page], "example")
    assert set(outputs) <= set(examples)
    assert set(by_name(PAGES[page], "calls")) <= set(by_name(PAGES[page], "serves"))


@pytest.mark.parametrize(("page", "name"), _programs(tests=False))
def test_a_program_prints_what_its_page_says(page: str, name: str, tmp_path: Path) -> None:
    """Each program of the pages runs to its end; its output is the page's."""
    write_files(page, tmp_path)
    result = run([sys.executable, name], folder=tmp_path)
    expected = by_name(PAGES[page], "output").get(name, "")
    assert (result.stderr, result.stdout, result.returncode) == ("", expected, 0)


@pytest.mark.parametrize(("page", "name"), _programs(tests=True))
def test_the_tests_of_a_page_pass(page: str, name: str, tmp_path: Path) -> None:
    """The tests that the pages show are run by pytest, and pass."""
    write_files(page, tmp_path)
    if not (tmp_path / "pyproject.toml").exists():
        (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\ntrio_mode = true\n")
    installed = any(each.value == "oread_pytest" for each in entry_points(group="pytest11"))
    plugin = () if installed else ("-p", "oread_pytest")  # on the path only, as in a tree of sources
    options = ("-q", "-p", "no:cacheprovider", *plugin)
    result = run([sys.executable, "-m", "pytest", *options, name], folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page, blocks in PAGES.items() for name in by_name(blocks, "serves")]
)
def test_the_calls_of_a_page_are_answered_as_it_says(page: str, name: str, tmp_path: Path) -> None:
    """A served example answers the page's commands with the page's output."""
    write_files(page, tmp_path)
    ((command, _),) = read_commands(by_name(PAGES[page], "serves")[name])
    found = re.findall(r"(\w+)://127\.0\.0\.1:(\d+)", command)
    ports = [
        (int(port), socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM) for scheme, port in found
    ]
    if name in by_name(PAGES[page], "prints"):
        check_console(by_name(PAGES[page], "prints")[name], folder=tmp_path)
    with holding(ports), running(shlex.split(command), READY_LINE, folder=tmp_path):
        check_console(by_name(PAGES[page], "calls")[name], folder=tmp_path)


@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page, blocks in PAGES.items() for name in by_name(blocks, "prints")]
)
def test_a_command_prints_what_its_page_says(page: str, name: str, tmp_path: Path) -> None:
    """Commands that need no service print what stands below them."""
    write_files(page, tmp_path)
    check_console(by_name(PAGES[page], "prints")[name], folder=tmp_path)


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    """Every link leads somewhere, every docstring is well formed."""
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    python = (sys.executable, "-W", "ignore")  # what Python warns of is in Sphinx's parts, not here
    options = ("-W", "--keep-going", "-q", "-b", "html")
    result = run([*python, "-m", "sphinx", *options, str(DOCS), str(tmp_path)])
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)
    built = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.html")}
    assert {page.removesuffix(".md") + ".html" for page in PAGES} <= set(built)
    loaded = r'<(?:script|link|img)\b[^>]*\b(?:src|href)="(?:https?:)?//'
    assert [page for page, text in built.items() if re.search(loaded, text)] == [], "loads from other hosts"


@pytest.mark.slow
def test_the_programs_of_the_pages_are_typed(tmp_path: Path) -> None:
    """A user who copies an example has a file that mypy takes as strict."""
    options = ("--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache"))
    alone = ("--namespace-packages", "--explicit-package-bases")
    common, together = tmp_path / "pages", tmp_path / "together"
    for number, (page, name) in enumerate(_programs(tests=False)):
        code = by_name(PAGES[page], "example")
        imports = any(f"from {other.removesuffix('.py')} import" in code[name] for other in code)
        folder = (together if imports else common) / f"page{number}"
        folder.mkdir(parents=True)
        if imports:
            write_files(page, folder)
            result = run([sys.executable, "-m", "mypy", *options, name], folder=folder)
            assert (result.stdout, result.returncode) == ("", 0)
        else:
            (folder / name).write_text(code[name])
    result = run([sys.executable, "-m", "mypy", *options, *alone, str(common)], folder=tmp_path)
    assert (result.stdout, result.returncode) == ("", 0)


def test_the_api_page_lists_every_public_name_once() -> None:
    """What `import oread` gives is documented, in one place."""
    generated = load_generated()
    page = (DOCS / "reference" / "api.md").read_text()
    sections = re.findall(r"^<!-- generated: names of (\w+) -->$", page, re.MULTILINE)
    listed = [name for section in sections for name in generated.names_of(section)]
    assert sorted(listed) == sorted(oread.__all__)


def test_every_limit_has_a_row_with_its_default() -> None:
    """The tables of limits are the limits."""
    table = load_generated().limits_table("http")
    assert "| `body_bytes` | 1,048,576 | A body as the handler gets it, decoded from its framing;" in table
    assert "| `idle_seconds` | `inf`: no bound |" in table


def test_every_error_has_a_row_with_its_status() -> None:
    """The table of errors is the vocabulary."""
    table = load_generated().errors_table()
    assert (
        "| `Busy` | 503 | `busy` | The service has no room for this message now; ask again later. |" in table
    )
    assert "`EndpointError`" not in table


NODE_NAMES = (
    *(
        "addListener",
        "emit",
        "eventNames",
        "getMaxListeners",
        "listenerCount",
        "listeners",
        "off",
        "on",
        "once",
    ),
    *("prependListener", "prependOnceListener", "removeAllListeners", "removeListener", "setMaxListeners"),
    *("rawListeners", "nodejs.rejection", "'newListener'", "'removeListener'", "'error'"),
    *(
        "errorMonitor",
        "captureRejections",
        "captureRejectionSymbol",
        "defaultMaxListeners",
        "getEventListeners",
    ),
    *("addAbortListener", "EventEmitterAsyncResource", "EventTarget"),
)
"""Everything that the page of Node's documentation on events describes."""


def _rows_of_emitters() -> list[list[str]]:
    text = (DOCS / "reference" / "emitters.md").read_text()
    return [
        [cell.strip() for cell in row.strip("|").split(" | ")]
        for row in re.findall(r"^\| .*\|$", text, re.MULTILINE)
    ]


def test_the_emitter_table_has_every_name_of_node() -> None:
    """Whoever comes from Node finds each method, or why it is not there."""
    left = " ".join(row[0] for row in _rows_of_emitters())
    assert [name for name in NODE_NAMES if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", left)] == []


def test_the_emitter_table_has_every_name_of_pyee() -> None:
    """Whoever comes from pyee finds each public method of its emitters."""
    pytest.importorskip("pyee")
    left = " ".join(row[0] for row in _rows_of_emitters())
    code = (
        "import pyee, pyee.asyncio, pyee.trio, pyee.executor\n"
        "kinds = (pyee.EventEmitter, pyee.asyncio.AsyncIOEventEmitter, pyee.trio.TrioEventEmitter,"
        " pyee.executor.ExecutorEventEmitter)\n"
        "print(*sorted({name for kind in kinds for name in vars(kind) if name[0] != '_'}))\n"
        "print(*pyee.__all__)"
    )
    names = run([sys.executable, "-W", "ignore", "-c", code]).stdout.split()
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"(?<!\w){name}(?!\w)", left)] == []


def test_the_emitter_table_names_what_there_is() -> None:
    """Each `registry.name` of the table is a method of Registry."""
    named = set(re.findall(r"registry\.(\w+)", " ".join(row[1] for row in _rows_of_emitters())))
    assert len(named) > 10
    assert [name for name in sorted(named) if not hasattr(oread.Registry, name)] == []
