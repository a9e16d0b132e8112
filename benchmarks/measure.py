"""Measure a case: interleaved rounds, idle memory, or time to start.

A peer that is missing, ends or answers wrongly is named with its reason and
left out; it never ends the run.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import attrs

from benchmarks.load import Load, LoadError, missing_for, run
from benchmarks.process import (
    HELLO_BODY,
    HELLO_REQUEST,
    PING,
    Cores,
    Server,
    ServerError,
    answers,
    cpu_between,
    exchange,
    pick_port,
    raise_file_limit,
    running,
    spawn,
    stop,
)
from benchmarks.results import Result, Sample
from benchmarks.suites import Case
from benchmarks.table import Peer

SPARE_FILES = 200  # for the interpreter, wrk and the servers' own
START_SECONDS = 20.0
EQUAL_READINGS, MOST_READINGS = 5, 30
WARM_CONNECTIONS = 200  # so that a runtime's first growth is not charged to the held ones
EXCHANGE_SECONDS = 10.0

Progress = Callable[[str], None]


@attrs.define
class Bench:
    """Hold the servers of a suite, kept over its cases."""

    cores: Cores
    progress: Progress
    servers: dict[Peer, Server] = attrs.field(factory=dict)
    broken: dict[Peer, str] = attrs.field(factory=dict)
    _stack: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack)

    def server(self, peer: Peer) -> Server | None:
        """Return a peer's server, started if need be; None if it can't be."""
        if peer in self.broken:
            return None
        if peer not in self.servers:
            reason = peer.missing()
            try:
                if reason is None:
                    self.servers[peer] = self._stack.enter_context(running(peer, self.cores))
            except ServerError as error:
                reason = str(error)
            if reason is not None:
                self.broken[peer] = reason
        return self.servers.get(peer)

    def close(self) -> None:
        """Stop every server."""
        self._stack.close()


@contextlib.contextmanager
def bench(progress: Progress) -> Iterator[Bench]:
    """Open a bench on this machine's cores; its servers end with the block."""
    cores = Cores.of_this_machine()
    cores.pin_load()
    opened = Bench(cores=cores, progress=progress)
    try:
        yield opened
    finally:
        opened.close()


def measure(case: Case, table: Bench) -> Result:
    """Measure a case by the method of its suite."""
    methods = {"idle": _measure_idle, "start": _measure_start}
    samples, skipped = methods.get(case.suite, _measure_rounds)(case, table)
    return Result(
        suite=case.suite,
        case=case.name,
        baseline=case.baseline,
        metrics=case.metrics,
        samples=tuple(samples),
        skipped=skipped,
    )


def _measure_rounds(case: Case, table: Bench) -> tuple[list[Sample], dict[str, str]]:
    samples: list[Sample] = []
    skipped: dict[str, str] = {}
    for turn in range(case.rounds):
        # Who comes first changes, so that nobody always follows the same neighbour.
        shift = turn % max(1, len(case.trials))
        for peer, load in case.trials[shift:] + case.trials[:shift]:
            table.progress(f"{case.suite}: {case.name}: {peer.name}")
            if peer.name in skipped:
                continue
            reason = missing_for(load)
            server = None if reason else table.server(peer)
            if server is None:
                skipped[peer.name] = reason or table.broken[peer]
                continue
            try:
                samples.append(Sample(peer=peer.name, round=turn, figures=_load_once(server, load)))
            except LoadError as error:
                skipped[peer.name] = str(error)
    order = [peer.name for peer, _ in case.trials]
    samples.sort(key=lambda sample: (order.index(sample.peer), sample.round))
    return samples, skipped


def _load_once(server: Server, load: Load) -> dict[str, float]:
    before: dict[str, int] = {}
    printed = 0

    def on_measured() -> None:
        nonlocal printed
        printed = len(server.printed()) if server.peer.ticks else 0
        before.update(server.cpu_ns())

    found = run(load, server.port, on_measured)
    after = server.cpu_ns()
    figures: dict[str, float] = {
        "messages_per_second": found.messages / found.seconds,
        "megabytes_per_second": found.bytes / found.seconds / 1e6,
        "p50_us": found.p50_us,
        "p99_us": found.p99_us,
        "p999_us": found.p999_us,
    }
    if before and after:
        spent_us = cpu_between(before, after) / 1000
        figures["cpu_us_per_message"] = spent_us / (found.answered or found.messages)
    if server.peer.ticks:
        figures |= _lateness(server.printed(printed))
    if load.udp:
        figures |= {"lost": found.lost, "late": found.late, "reordered": found.reordered}
    return figures


def _lateness(printed: bytes) -> dict[str, float]:
    """Return percentiles of the lateness, in ms, that a ticking peer printed."""
    late_us = sorted(int(word) for word in printed.split(b"\n")[1:-1])
    if len(late_us) < 2:
        return {}
    cuts = statistics.quantiles(late_us, n=100, method="inclusive")
    return {"late_p50_ms": cuts[49] / 1000, "late_p99_ms": cuts[98] / 1000}


def _measure_idle(case: Case, table: Bench) -> tuple[list[Sample], dict[str, str]]:
    """Hold connections on a fresh server each round: how a heap has grown is a matter of chance."""
    samples: list[Sample] = []
    skipped: dict[str, str] = {}
    count = min(case.idle_connections, raise_file_limit() - SPARE_FILES)
    for turn in range(case.rounds):
        for peer, _ in case.trials:
            table.progress(f"{case.suite}: {case.name}: {peer.name}")
            reason = skipped.get(peer.name) or peer.missing()
            try:
                if reason is None:
                    figures = _hold_once(peer, table.cores, count)
                    samples.append(Sample(peer=peer.name, round=turn, figures=figures))
            except (OSError, ServerError) as error:
                reason = f"holding {count} connections: {error}"
            if reason is not None:
                skipped[peer.name] = reason
    order = [peer.name for peer, _ in case.trials]
    samples.sort(key=lambda sample: order.index(sample.peer))
    return samples, skipped


def _hold_once(peer: Peer, cores: Cores, count: int) -> dict[str, float]:
    with running(peer, cores) as server:
        with _held(peer, server.port, WARM_CONNECTIONS):
            pass
        before = _settled_bytes(server)
        with _held(peer, server.port, count):
            each = (server.anonymous_bytes() - before) / count
    return {"bytes_per_connection": each, "connections": count}


def _settled_bytes(server: Server) -> int:
    """Return a server's memory once it has stayed the same for half a second.

    What it still loads after its first answers is not its connections'.
    """
    readings = [server.anonymous_bytes()]
    while len(readings) < MOST_READINGS and readings[-EQUAL_READINGS:] != readings[-1:] * EQUAL_READINGS:
        time.sleep(0.1)
        readings.append(server.anonymous_bytes())
    return readings[-1]


@contextlib.contextmanager
def _held(peer: Peer, port: int, count: int) -> Iterator[None]:
    """Hold connections; each is answered before the block and again after it.

    Without the second answer a server that drops idle connections would look
    thrifty.
    """
    http = peer.probe == "http"
    request, ending = (HELLO_REQUEST, HELLO_BODY) if http else (PING, PING)
    with contextlib.ExitStack() as sockets:
        held = []
        for number in range(count):
            sock = sockets.enter_context(
                socket.create_connection(("127.0.0.1", port), timeout=EXCHANGE_SECONDS)
            )
            if not exchange(sock, request, ending):
                raise ServerError(f"connection {number} was not answered")
            held.append(sock)
        yield
        for number, sock in enumerate(held):
            if not exchange(sock, request, ending):
                raise ServerError(f"connection {number} was dropped while it was held")


def _measure_start(case: Case, table: Bench) -> tuple[list[Sample], dict[str, str]]:
    samples: list[Sample] = []
    skipped: dict[str, str] = {}
    for turn in range(case.rounds):
        for peer, _ in case.trials:
            table.progress(f"{case.suite}: {case.name}: {peer.name}")
            if peer.name in skipped:
                continue
            reason = peer.missing()
            try:
                if reason is None:
                    samples.append(Sample(peer=peer.name, round=turn, figures=_start_once(peer, table.cores)))
            except ServerError as error:
                reason = str(error)
            if reason is not None:
                skipped[peer.name] = reason
    return samples, skipped


def _start_once(peer: Peer, cores: Cores) -> dict[str, float]:
    port = pick_port(peer.probe)
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        process = spawn(peer, port, cores.server, output)
        try:
            while not answers(peer.probe, port):
                if process.poll() is not None or time.monotonic() > began + START_SECONDS:
                    raise ServerError(f"did not answer within {START_SECONDS:.0f} s of its start")
                time.sleep(0.0005)  # a bound on the error: 0.5 ms; refused connects cost the load's core only
            figures = {"start_ms": (time.monotonic() - began) * 1000}
            if spent := Server(peer=peer, port=port, process=process, output=output).cpu_ns():
                figures["start_cpu_ms"] = sum(spent.values()) / 1e6
        finally:
            stop(process)
    return figures
