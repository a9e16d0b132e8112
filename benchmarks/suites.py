"""Say which cases each suite has: peers, load, baseline.

The order of `SUITES` is the order of a run. Naming sizes, connections or
depths replaces the cases of `tcp`, `async` and `udp` by their product.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import attrs

from benchmarks.load import Load
from benchmarks.results import (
    ECHO_METRICS,
    IDLE_METRICS,
    START_METRICS,
    TICK_METRICS,
    UDP_METRICS,
    Metric,
)
from benchmarks.table import (
    ASYNC,
    ASYNC_CHECKPOINT,
    HTTP,
    HTTP_IDLE,
    LADDER,
    LADDER_HTTP,
    TCP,
    TICKING,
    UDP,
    Peer,
)

SUITES = ("tcp", "udp", "http", "idle", "start", "async", "ladder")
IDLE_CONNECTIONS = 8000  # PERFORMANCE: what the idle figures are told for
IDLE_ROUNDS = 3  # each with fresh servers: the least that have a median
TICKING_SECONDS = 1.0  # 200 ticks: the least that have a 99th percentile
# Peers of the cases beside the main ones: the others would tell nothing new, and ten minutes are the limit.
LEAN = {"oread", "c", "uvloop", "go", "asyncio-streams", "trio", "node", "uvicorn"}


@attrs.frozen(kw_only=True)
class Settings:
    """Hold what the command line asked for; empty tuples mean the default."""

    peers: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    connections: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    rounds: int = 7
    seconds: float = 0.3
    quick: bool = False


@attrs.frozen(kw_only=True)
class Case:
    """Hold one table: who is measured under which load, and how."""

    suite: str
    name: str
    baseline: str
    metrics: tuple[Metric, ...]
    trials: tuple[tuple[Peer, Load], ...]
    rounds: int
    idle_connections: int = 0


def cases_of(suite: str, settings: Settings) -> list[Case]:
    """Return the cases of a suite under these settings."""
    makers = {
        "tcp": _tcp,
        "udp": _udp,
        "http": _http,
        "idle": _idle,
        "start": _start,
        "async": _async,
        "ladder": _ladder,
    }
    return makers[suite](settings)


def _chosen(peers: Iterable[Peer], settings: Settings) -> list[Peer]:
    return [peer for peer in peers if not settings.peers or peer.name in settings.peers]


def _echo_case(
    suite: str, name: str, baseline: str, peers: Iterable[Peer], load: Load, settings: Settings
) -> Case:
    load = attrs.evolve(load, seconds=settings.seconds)
    return Case(
        suite=suite,
        name=name,
        baseline=baseline,
        metrics=UDP_METRICS if load.udp else ECHO_METRICS,
        trials=tuple((peer, load) for peer in _chosen(peers, settings)),
        rounds=settings.rounds,
    )


def _asked(settings: Settings, plain: Load) -> list[Load]:
    """Return the product of the sizes, connections and depths asked for."""
    if not (settings.sizes or settings.connections or settings.depths):
        return []
    sizes = settings.sizes or (plain.size,)
    connections = settings.connections or (plain.connections,)
    depths = settings.depths or (plain.depth,)
    return [
        attrs.evolve(plain, size=size, connections=count, depth=depth)
        for size, count, depth in itertools.product(sizes, connections, depths)
    ]


def _words(load: Load) -> str:
    text = f"{load.size} B, {load.connections} {'sockets' if load.udp else 'connections'}"
    return text + (f", {load.depth} in flight" if load.depth > 1 else "")


def _tcp(settings: Settings) -> list[Case]:
    plain = Load()
    loads = _asked(settings, plain)
    if not loads and settings.quick:
        loads = [plain]
    elif not loads:
        loads = [
            plain,
            Load(size=1024),
            Load(size=16384),
            Load(connections=1000),
            Load(connections=1),
            Load(connections=16, reconnect=True),
        ]
    cases = []
    for load in loads:
        name = _words(load) + (", each for one message" if load.reconnect else "")
        peers = TCP if load == plain or settings.sizes else _lean(TCP, settings)
        cases.append(_echo_case("tcp", name, "c", peers, load, settings))
    return cases


def _udp(settings: Settings) -> list[Case]:
    plain = Load(udp=True, connections=16, depth=4)
    loads = _asked(settings, plain) or [plain]
    if len(loads) == 1 and not settings.quick:
        loads.append(Load(udp=True, connections=16, depth=32, train=True))
    return [
        _echo_case("udp", _words(load) + (" as trains" if load.train else ""), "c", UDP, load, settings)
        for load in loads
    ]


def _http(settings: Settings) -> list[Case]:
    scripts = {"same request": "hello.lua", "every request different": "different.lua"}
    if settings.quick:
        settings = attrs.evolve(settings, rounds=1)
        del scripts["every request different"]
    return [
        _echo_case("http", f"{name}, 64 connections", "go", HTTP, Load(script=script), settings)
        for name, script in scripts.items()
    ]


def _lean(peers: Iterable[Peer], settings: Settings) -> list[Peer]:
    return [peer for peer in _chosen(peers, settings) if settings.peers or peer.name in LEAN]


def _idle(settings: Settings) -> list[Case]:
    return [
        Case(
            suite="idle",
            name=f"{kind} connections held after one message each",
            baseline=baseline,
            metrics=IDLE_METRICS,
            trials=tuple((peer, Load()) for peer in _lean(peers, settings)),
            rounds=1 if settings.quick else min(settings.rounds, IDLE_ROUNDS),
            idle_connections=1000 if settings.quick else IDLE_CONNECTIONS,
        )
        for kind, baseline, peers in (("TCP", "trio", TCP), ("HTTP", "go", HTTP_IDLE))
    ]


def _start(settings: Settings) -> list[Case]:
    return [
        Case(
            suite="start",
            name="from exec to the first answer",
            baseline="trio",
            metrics=START_METRICS,
            trials=tuple((peer, Load()) for peer in _lean(TCP, settings)),
            rounds=settings.rounds,
        )
    ]


def _async(settings: Settings) -> list[Case]:
    cases = []
    for load in _asked(settings, Load()) or [Load()]:
        name = f"async handlers, {_words(load)}"
        cases.append(_echo_case("async", name, "trio", ASYNC, load, settings))
        cases.append(_echo_case("async", f"{name}, one checkpoint", "trio", ASYNC_CHECKPOINT, load, settings))
    longer = attrs.evolve(settings, seconds=max(settings.seconds, TICKING_SECONDS))
    ticking = _echo_case(
        "async", "a task that ticks each 5 ms beside 64 connections", "trio", TICKING, Load(), longer
    )
    cases.append(attrs.evolve(ticking, metrics=TICK_METRICS))
    return cases


def _ladder(settings: Settings) -> list[Case]:
    raw, lines = Load(seconds=settings.seconds), Load(lines=True, seconds=settings.seconds)
    post = Load(script="post_echo.lua", seconds=settings.seconds)
    trials = [(peer, lines if "lines" in peer.name else raw) for peer in LADDER]
    deep = attrs.evolve(lines, depth=16)
    pipelined = [
        (peer, attrs.evolve(load, depth=16)) for peer, load in trials if load.lines or peer is LADDER[0]
    ]
    return [
        Case(
            suite="ladder",
            name="what each layer adds, 64 B, 64 connections",
            baseline="1 bare reactor",
            metrics=ECHO_METRICS,
            trials=(*trials, *((peer, post) for peer in LADDER_HTTP)),
            rounds=settings.rounds,
        ),
        Case(
            suite="ladder",
            name=f"lines, {_words(deep)}",
            baseline=LADDER[0].name,
            metrics=ECHO_METRICS,
            trials=tuple(pipelined),
            rounds=settings.rounds,
        ),
    ]
