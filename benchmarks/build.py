"""Build the suite's C and Go programs, anew when a source is newer.

The programs land in `benchmarks/build`, which git ignores.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / "build"
NATIVE = HERE / "native"
PEERS = HERE / "peers"
BUILD_SECONDS = 120  # a first `go build` compiles net/http: 20 s on a slow core


class MissingError(Exception):
    """Say why a program can't be had on this machine."""


def build_c(name: str) -> Path:
    """Return the program of every `native/NAME*.c`, built when stale.

    Raises:
        MissingError: there is no C compiler, or it refused the sources.
    """
    sources = sorted(NATIVE.glob(f"{name}*.c"))
    headers = sorted(NATIVE.glob(f"{name}*.h"))
    return _build("cc", ["-O2", "-o"], name, sources, headers)


def build_go(name: str) -> Path:
    """Return the program of `peers/NAME.go`, built when stale.

    Raises:
        MissingError: there is no Go toolchain, or it refused the source.
    """
    return _build("go", ["build", "-o"], f"go_{name}", [PEERS / f"{name}.go"], [])


def _build(tool: str, words: list[str], name: str, sources: list[Path], headers: list[Path]) -> Path:
    target = BUILD / name
    newest = max(source.stat().st_mtime for source in sources + headers)
    if target.exists() and target.stat().st_mtime > newest:
        return target
    if shutil.which(tool) is None:
        raise MissingError(f"{tool} is not installed")
    BUILD.mkdir(exist_ok=True)
    fresh = target.with_name(f"{name}.{os.getpid()}")  # another run must not start half a program
    command = [tool, *words, str(fresh), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    if done.returncode != 0:
        raise MissingError(f"{tool} could not build {name}: {done.stderr.strip()[-300:]}")
    fresh.replace(target)
    return target
