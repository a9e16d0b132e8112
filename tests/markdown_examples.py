"""Find the examples of a Markdown text, and run them as they are written.

A comment before a fenced block says what it is:
`<!-- example: hello.py -->` a file, or a command known by that name;
`<!-- output: hello.py -->` what that program prints;
`<!-- prints: shop -->` commands, each with its output below it;
`<!-- serves: shop -->` a command that runs, behind those of `prints: shop`
if there are any, while the commands of
`<!-- calls: shop -->` are called, whose output follows each of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONWARNINGS": "error",
}
TOOLS = ("nc", "socat", "curl", "openssl", "oread")
READY_LINE = "In a second terminal:"
"""What `oread serve` prints once it serves."""
MOST_SECONDS = 60

_BLOCK = re.compile(r"(?:^<!-- (\w+): ([^\n]+?) -->\n)?^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


@attrs.frozen
class Block:
    """One fenced block, and what the comment before it says it is."""

    role: str | None
    """`example`, `output`, `prints`, `serves`, `calls`, or None when no comment says."""
    name: str
    language: str
    text: str


def read_blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a Markdown text, in order."""
    return [
        Block(role or None, name or "", language, body) for role, name, language, body in _BLOCK.findall(text)
    ]


def by_name(blocks: Sequence[Block], role: str) -> dict[str, str]:
    """Return the texts of one role, by their names."""
    return {block.name: block.text for block in blocks if block.role == role}


@contextmanager
def running(command: Sequence[str], ready_line: str, *, folder: Path = ROOT) -> Iterator[None]:
    """Run a server for the block, once its output has this line."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder, env=ENVIRONMENT
    )
    watchdog = threading.Timer(MOST_SECONDS, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        assert any(line.strip() == ready_line for line in process.stdout)
        yield
    finally:
        watchdog.cancel()
        process.terminate()
        process.communicate()


def run(command: Sequence[str], *, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, within a minute."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        cwd=folder,
        env=ENVIRONMENT,
        check=False,
    )


def read_commands(text: str) -> list[tuple[str, str]]:
    """Return each command of a console block with its output."""
    return [(command, output) for command, output in _COMMAND.findall(text)]


def check_console(text: str, *, folder: Path = ROOT) -> None:
    """Run the commands of a console block; compare what they print."""
    commands = read_commands(text)
    assert commands
    for command, expected in commands:
        tool = next(word for word in command.split() if word in TOOLS)
        if shutil.which(tool, path=ENVIRONMENT["PATH"]) is None:
            pytest.skip(f"{tool} is not installed")
        result = run(["/bin/sh", "-c", command], folder=folder)
        assert (command, result.stdout.rstrip("\n")) == (command, expected.rstrip("\n"))
