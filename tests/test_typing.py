"""What a type checker sees of a user's handlers."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import oread

ROOT = Path(__file__).parent.parent
MODULE = Path(__file__).parent / "typing" / "handlers.py"


def test_the_module_that_is_checked_is_served() -> None:
    """What the type checker accepts is what registration accepts."""
    registry = runpy.run_path(str(MODULE))["registry"]
    assert registry.events() == ["echo", "orders/{order_id}", "items", "lines"]


@pytest.mark.slow
def test_handlers_keep_their_types(tmp_path: Path) -> None:
    """A strict type checker sees each decorated function as it was written, and a wrong call of one."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context"),
            *("--no-pretty", "--config-file", os.devnull, "--cache-dir", str(tmp_path), str(MODULE)),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(oread.__file__).parent.parent)},
    )
    told = result.stdout.replace("builtins.", "").replace("'", "")  # as versions of mypy differ
    seen = [line.partition(": ")[2] for line in told.splitlines()]
    order = (
        "(order_id: int, body: handlers.Order, message: oread.messages.Message) "
        "-> typing.Coroutine[Any, Any, TypedDict(handlers.Receipt, {total: float}) | None]"
    )
    signatures = [
        "(data: bytes) -> bytes",
        order,
        "(count: int =) -> typing.Iterator[handlers.Order]",
        "(request: oread.messages.HttpRequest | None =) -> typing.AsyncIterator[str]",
    ]
    assert seen[:4] == [f'note: Revealed type is "def {each}"' for each in signatures], told + result.stderr
    assert seen[4:] == [
        'error: Argument 1 to "echo" has incompatible type "str"; expected "bytes"  [arg-type]'
    ], result.stdout
