"""List the peers: name, how each is started, what it needs to be there.

In a command `{port}` becomes the port and `{c}` or `{go}` the built program.
A peer whose needs are not met is skipped by name.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from typing import Literal

import attrs

from benchmarks.build import MissingError, build_c, build_go

Probe = Literal["tcp", "udp", "http"]


@attrs.frozen(kw_only=True)
class Peer:
    """Say how one server of one suite is started and what it needs.

    One that `ticks` prints the lateness of a task beside it (`peers.ticker`).
    """

    name: str
    command: tuple[str, ...]
    probe: Probe = "tcp"
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    c: str = ""
    go: str = ""
    ticks: bool = False

    def missing(self) -> str | None:
        """Return why this peer can't run here, or None when it can."""
        for program in self.programs:
            if shutil.which(program) is None:
                return f"{program} is not installed"
        for module in self.modules:
            if not _is_installed(module):
                return f"Python module {module} is not installed"
        try:
            self.command_on(0)
        except MissingError as error:
            return str(error)
        return None

    def command_on(self, port: int) -> list[str]:
        """Return the command that serves on a port; build what it runs.

        Raises:
            MissingError: its program could not be built.
        """
        words = {"port": port, "c": "", "go": ""}
        if self.c:
            words["c"] = str(build_c(self.c))
        if self.go:
            words["go"] = str(build_go(self.go))
        return [word.format_map(words) for word in self.command]


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False  # a parent package is missing, or does not import


def _python(
    name: str, program: str, *modules: str, words: tuple[str, ...] = (), probe: Probe = "tcp"
) -> Peer:
    command = (sys.executable, "-m", f"benchmarks.peers.{program}", "{port}", *words)
    return Peer(name=name, command=command, modules=modules, probe=probe)


def _node(program: str, probe: Probe) -> Peer:
    return Peer(
        name="node",
        command=("node", f"benchmarks/peers/{program}.js", "{port}"),
        programs=("node",),
        probe=probe,
    )


def _go(probe: Probe) -> Peer:
    return Peer(name="go", command=("{go}", "{port}"), go=probe, probe=probe)


def _c(name: str, source: str, *words: str, probe: Probe = "tcp") -> Peer:
    return Peer(name=name, command=("{c}", *words, "{port}"), c=source, probe=probe)


def oread(name: str, endpoint: str, *, app: bool = False, probe: Probe = "tcp") -> Peer:
    """Describe `oread serve` of one endpoint, as a user would start it.

    Args:
        name: the name in the tables.
        endpoint: its URL with `{port}` in it.
        app: whether it serves `benchmarks.apps` or the stock handlers.
        probe: what tells that it is ready.
    """
    words = ("--app", "benchmarks.apps:registry") if app else ()
    command = (sys.executable, "-m", "oread", "serve", endpoint, *words)
    return Peer(name=name, command=command, modules=("oread.__main__",), probe=probe)


TCP = (
    oread("oread", "tcp://127.0.0.1:{port}/echo"),
    _c("c", "echo_tcp"),
    _python("uvloop", "tcp_asyncio", "uvloop", words=("uvloop",)),
    _go("tcp"),
    _python("asyncio", "tcp_asyncio"),
    _node("tcp_node", "tcp"),
    _python("asyncio-streams", "tcp_asyncio_streams"),
    _python("trio", "tcp_trio", "trio"),
    _python("anyio", "tcp_anyio", "anyio", "trio"),
    _python("gevent", "tcp_gevent", "gevent"),
    _python("twisted", "tcp_twisted", "twisted"),
)
ASYNC = (
    oread("oread", "tcp://127.0.0.1:{port}/async-echo", app=True),
    _python("asyncio-streams", "tcp_asyncio_streams"),
    _python("trio", "tcp_trio", "trio"),
    _python("anyio", "tcp_anyio", "anyio", "trio"),
    _python("gevent", "tcp_gevent", "gevent"),
)
ASYNC_CHECKPOINT = (
    oread("oread", "tcp://127.0.0.1:{port}/async-checkpoint", app=True),
    _python("asyncio-streams", "tcp_asyncio_streams", words=("checkpoint",)),
    _python("trio", "tcp_trio", "trio", words=("checkpoint",)),
)
TICKING = tuple(
    attrs.evolve(peer, ticks=True)
    for peer in (
        _python("oread", "ticking_oread", "oread.service"),
        _python("trio", "ticking_trio", "trio"),
        _python("bare reactor", "ticking_trio", "trio", words=("bare",)),
    )
)
UDP = (
    oread("oread", "udp://127.0.0.1:{port}/echo", probe="udp"),
    oread("oread-wildcard", "udp://0.0.0.0:{port}/echo", probe="udp"),
    _c("c", "echo_udp", probe="udp"),
    _c("c-batch", "echo_udp", "--batch", probe="udp"),
    _c("c-trains", "echo_udp", "--trains", probe="udp"),
    _go("udp"),
    _python("uvloop", "udp_asyncio", "uvloop", words=("uvloop",), probe="udp"),
    _node("udp_node", "udp"),
    _python("asyncio", "udp_asyncio", probe="udp"),
    _python("trio", "udp_trio", "trio", probe="udp"),
)
HTTP = (
    oread("oread", "http://127.0.0.1:{port}", app=True, probe="http"),
    _go("http"),
    Peer(
        name="nginx",
        command=(sys.executable, "-m", "benchmarks.peers.http_nginx", "{port}"),
        programs=("nginx",),
        probe="http",
    ),
    _node("http_node", "http"),
    _python("granian", "http_granian", "granian", "uvloop", probe="http"),
    _python("uvicorn", "http_uvicorn", "uvicorn", "uvloop", "httptools", probe="http"),
    _python("aiohttp", "http_aiohttp", "aiohttp", "uvloop", probe="http"),
    _python("hypercorn-trio", "http_hypercorn", "hypercorn", "trio", probe="http"),
)
# By default the longest idle of 1,000 connections gives way; nginx's cap is raised in its settings too.
HTTP_IDLE = (oread("oread", "http://127.0.0.1:{port}", app=True, probe="http"), *HTTP[1:])
LADDER = (
    _c("0 C epoll", "echo_tcp"),
    _python("1 bare reactor", "tcp_bare", "trio"),
    oread("2 stock echo", "tcp://127.0.0.1:{port}/echo"),
    oread("3 your handler: bytes", "tcp://127.0.0.1:{port}/bytes-echo", app=True),
    oread("4 lines: bytes", "tcp://127.0.0.1:{port}/bytes-echo?framing=lines", app=True),
    oread("5 lines: str", "tcp://127.0.0.1:{port}/text-echo?framing=lines", app=True),
)
LADDER_HTTP = (oread("6 HTTP: bytes", "http://127.0.0.1:{port}", app=True, probe="http"),)


def peer_names() -> list[str]:
    """Return every name that `--peers` knows; the ladder's rungs have none."""
    rows = (TCP, ASYNC, ASYNC_CHECKPOINT, TICKING, UDP, HTTP)
    return list(dict.fromkeys(peer.name for row in rows for peer in row))
