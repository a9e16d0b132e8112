"""The README: its programs and commands run as they are written there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from fixed_ports import DEMO_PORTS, holding
from markdown_examples import (
    ROOT,
    by_name,
    check_console,
    read_blocks,
    read_commands,
    run,
    running,
)

from oread.endpoints import OPTIONS

README = (ROOT / "README.md").read_text()
EXAMPLES = by_name(read_blocks(README), "example")


def test_the_first_program_answers_the_second_terminal(tmp_path: Path) -> None:
    """The first screen's program is called by the three tools, as printed."""
    announcing = EXAMPLES["hello.py"].replace(
        "trio.run(oread.serve, registry, *urls)",
        "async def main():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        await nursery.start(oread.serve, registry, *urls)\n"
        "        print('ready', flush=True)\n\n"
        "trio.run(main)",
    )
    assert announcing != EXAMPLES["hello.py"]
    (tmp_path / "hello.py").write_text(announcing)
    with holding(DEMO_PORTS), running([sys.executable, str(tmp_path / "hello.py")], "ready"):
        check_console(EXAMPLES["second terminal"])


def test_the_consoles_show_each_transport_once() -> None:
    """The first console has three commands; that of `oread call` one for WebSocket too."""
    assert [len(read_commands(EXAMPLES[name])) for name in ("second terminal", "call")] == [3, 4]


def test_the_first_program_is_short() -> None:
    """It fits the first screen: about a dozen lines of code."""
    lines = [line for line in EXAMPLES["hello.py"].splitlines() if line]
    assert len(lines) <= 12


def test_the_embedding_example_runs() -> None:
    """The service inside somebody's own trio.run prints what is said."""
    result = run([sys.executable, "-c", EXAMPLES["embedding.py"]])
    assert (result.stdout, result.stderr) == ("tcp: HELLO\n0 handlers had to be cancelled\n", "")


def test_the_calls_of_the_demo_set_print_what_they_say() -> None:
    """`oread call` against `oread serve`, as printed."""
    with holding(DEMO_PORTS), running([sys.executable, "-m", "oread", "serve"], "In a second terminal:"):
        check_console(EXAMPLES["call"])


@pytest.mark.parametrize("example", ["serve", "test"])
def test_the_two_commands_are_one_line_each(example: str) -> None:
    """Each makes its own virtual environment and starts nothing by itself."""
    (line,) = EXAMPLES[example].splitlines()
    assert line.startswith("python3 -m venv .venv && .venv/bin/pip install --quiet ")


def test_ci_runs_the_test_command_from_here() -> None:
    """The script reads the command out of README.md, so they can't differ."""
    script = (ROOT / ".ci" / "run").read_text()
    assert "/^<!-- example: test -->$/" in script
    assert "-m pytest" not in script


def test_every_link_leads_somewhere() -> None:
    """A file that the README or CONTRIBUTING names exists."""
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_option_of_the_table_exists() -> None:
    """The table of options and the URL grammar name the same ones."""
    rows = re.findall(r"^\| `(\w+)=[^|]*\| ([a-z, ]+) \|", README, re.MULTILINE)
    told = {name: set(schemes.split(", ")) for name, schemes in rows}
    names = {name for options in OPTIONS.values() for name in options}
    there = {name: {scheme for scheme, options in OPTIONS.items() if name in options} for name in names}
    assert told == there
