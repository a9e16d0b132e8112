"""Describe the machine, its load, the versions and the commit of a run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

from benchmarks.process import ROOT, Cores

DISTRIBUTIONS = (
    "oread",
    "trio",
    "attrs",
    "msgspec",
    "uvloop",
    "anyio",
    "gevent",
    "twisted",
    "uvicorn",
    "httptools",
    "granian",
    "hypercorn",
    "aiohttp",
)
PROGRAMS = {
    "cc": ("cc", "--version"),
    "go": ("go", "version"),
    "node": ("node", "--version"),
    "nginx": ("nginx", "-v"),
    "wrk": ("wrk", "-v"),
}


def describe(cores: Cores) -> dict[str, str]:
    """Return what a reader must know to judge the figures, by name."""
    facts = {
        "cpu": _cpu_model(),
        "cores": f"{os.cpu_count()}; server on core {cores.server}, load on core {cores.load}",
        "system": f"{platform.system()} {platform.release()}",
        "load average": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "commit": _commit(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    if cores.server == cores.load:
        facts["warning"] = "one core only: server and load take turns, so rates and latencies mean little"
    return facts | versions()


def versions() -> dict[str, str]:
    """Return the versions of installed peers and tools, by name."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # its peers are skipped by name in the tables
    for name, command in PROGRAMS.items():
        if text := _first_line(command):
            found[name] = text
    return found


def _first_line(command: tuple[str, ...]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].split("Copyright")[0].strip() if lines else ""


def _commit() -> str:
    git = ("git", "-C", str(ROOT))
    commit = _first_line((*git, "rev-parse", "--short=12", "HEAD"))
    if not commit or " " in commit:
        return "unknown"
    return commit + (" with changes" if _first_line((*git, "status", "--porcelain")) else "")


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
