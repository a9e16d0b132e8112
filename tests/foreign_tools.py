"""Run the clients and proxies of others against a service; each is skipped by name when missing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

import pytest
import trio

LIMIT_SECONDS = 30


def need(tool: str) -> None:
    """Skip by the name of the tool that is missing."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")


async def run(command: Sequence[str], sent: bytes = b"", *, status: int | None = 0) -> str:
    """Run a client; return what it printed, errors included."""
    with trio.fail_after(LIMIT_SECONDS):
        result = await trio.run_process(
            command, stdin=sent, capture_stdout=True, stderr=subprocess.STDOUT, check=False
        )
    text = result.stdout.decode(errors="replace")
    if status is not None:
        assert result.returncode == status, text
    return text
