"""The README: its programs and commands run as they are written there."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oread.endpoints import OPTIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = dict(re.findall(r"<!-- example: (.+?) -->\n```\w+\n(.*?)```\n", README, re.DOTALL))
FIXED_PORTS = ((7007, socket.SOCK_STREAM), (7007, socket.SOCK_DGRAM), (7080, socket.SOCK_STREAM))
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def skip_if_ports_are_taken() -> None:
    """The examples have fixed ports; somebody may use them."""
    for port, kind in FIXED_PORTS:
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.skip(f"port {port} is taken")


@contextmanager
def running(command: list[str], ready_line: str) -> Iterator[None]:
    """Run a server for the block, once its output has this line."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env=ENVIRONMENT
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        assert any(line.strip() == ready_line for line in process.stdout)
        yield
    finally:
        watchdog.cancel()
        process.terminate()
        process.communicate()


def parse_console(text: str) -> list[tuple[str, str]]:
    """Return each command of a console block with its output."""
    return [
        (command, output)
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
    ]


def check_console(example: str) -> None:
    """Run the commands of an example; compare what they print."""
    commands = parse_console(EXAMPLES[example])
    assert len(commands) == 3
    for command, expected in commands:
        tool = next(word for word in command.split() if word in ("nc", "socat", "curl", "oread"))
        if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None:
            pytest.skip(f"{tool} is not installed")
        result = subprocess.run(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            env=ENVIRONMENT,
            check=False,
        )
        assert (command, result.stdout.rstrip("\n")) == (command, expected.rstrip("\n"))


def test_the_first_program_answers_the_second_terminal(tmp_path: Path) -> None:
    """The first screen's program is called by the three tools, as printed."""
    skip_if_ports_are_taken()
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
    with running([sys.executable, str(tmp_path / "hello.py")], "ready"):
        check_console("second terminal")


def test_the_first_program_is_short() -> None:
    """It fits the first screen: about a dozen lines of code."""
    lines = [line for line in EXAMPLES["hello.py"].splitlines() if line]
    assert len(lines) <= 12


def test_the_embedding_example_runs() -> None:
    """The service inside somebody's own trio.run prints what is said."""
    result = subprocess.run(
        [sys.executable, "-c", EXAMPLES["embedding.py"]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("tcp: HELLO\n0 handlers had to be cancelled\n", "")


def test_the_calls_of_the_demo_set_print_what_they_say() -> None:
    """`oread call` against `oread serve`, as printed."""
    skip_if_ports_are_taken()
    with running([sys.executable, "-m", "oread", "serve"], "In a second terminal:"):
        check_console("call")


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
