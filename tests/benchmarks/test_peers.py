"""Start peers, skip those that can't be had, and run the suite briefly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import msgspec
import pytest
from benchmarks import build, table
from benchmarks.build import MissingError, build_c
from benchmarks.load import Load
from benchmarks.measure import bench, measure
from benchmarks.process import ROOT, Cores, ServerError, cpu_between, running
from benchmarks.results import CPU, ECHO_METRICS, IDLE_METRICS, RATE
from benchmarks.suites import SUITES, Case, Settings, cases_of
from benchmarks.table import Peer

BRIEF = Load(connections=2, seconds=0.2, warm_up_seconds=0.05)
C_ECHO = next(peer for peer in table.TCP if peer.name == "c")
ASYNCIO = next(peer for peer in table.TCP if peer.name == "asyncio")


@pytest.fixture(autouse=True)
def affinity() -> Iterator[None]:
    """Give this process its cores back: a bench pins it to one."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


# It answers the probe, then adds a byte to every reply.
SPOILING = """
import socket, sys, threading
def serve(connection):
    while data := connection.recv(64):
        connection.sendall(data if data.startswith(b"ping") else data + b"x")
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def case_of(*peers: Peer) -> Case:
    """Make a case of one brief round over some peers."""
    trials = tuple((peer, BRIEF) for peer in peers)
    return Case(suite="tcp", name="brief", baseline="c", metrics=ECHO_METRICS, trials=trials, rounds=1)


def needs_c() -> None:
    """Skip by name where there is no C compiler."""
    try:
        build_c("echo_tcp")
        build_c("load")
    except MissingError as error:
        pytest.skip(str(error))


def test_a_missing_module_program_or_toolchain_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each unmet need gives its own reason, and a met one gives none."""
    module = Peer(name="m", command=(), modules=("no_such_module.inner",))
    program = Peer(name="p", command=(), programs=("no-such-program",))
    assert module.missing() == "Python module no_such_module.inner is not installed"
    assert program.missing() == "no-such-program is not installed"
    assert Peer(name="n", command=(sys.executable,), modules=("trio",)).missing() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "BUILD", tmp_path / "build")
    assert C_ECHO.missing() == "cc is not installed"
    assert table._go("tcp").missing() == "go is not installed"


def test_a_source_that_does_not_compile_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A compiler's refusal skips the peer with the compiler's words."""
    needs_c()
    (tmp_path / "broken.c").write_text("int main(void) { return nonsense; }\n")
    monkeypatch.setattr(build, "NATIVE", tmp_path)
    monkeypatch.setattr(build, "BUILD", tmp_path / "build")
    reason = Peer(name="b", command=("{c}",), c="broken").missing()
    assert reason is not None
    assert "could not build broken" in reason
    assert "nonsense" in reason


def test_a_program_is_built_anew_when_its_source_is_newer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A fresh program is kept; after its source changed it is another one."""
    needs_c()
    source = tmp_path / "answer.c"
    monkeypatch.setattr(build, "NATIVE", tmp_path)
    monkeypatch.setattr(build, "BUILD", tmp_path / "build")
    source.write_text("int main(void) { return 3; }\n")
    os.utime(source, (1, 1))
    program = build_c("answer")
    built_at = program.stat().st_mtime_ns
    assert build_c("answer").stat().st_mtime_ns == built_at
    source.write_text("int main(void) { return 4; }\n")
    os.utime(source, ns=(built_at, built_at + 1))
    assert subprocess.run([build_c("answer")], check=False).returncode == 4


def test_skipped_and_failing_peers_do_not_end_the_run() -> None:
    """Who is missing, dies or spoils bytes is named; the rest is measured."""
    needs_c()
    missing = Peer(name="missing", command=(), programs=("no-such-program",))
    dying = Peer(name="dying", command=(sys.executable, "-c", "raise SystemExit('no such luck')"))
    spoiling = Peer(name="spoiling", command=(sys.executable, "-c", SPOILING, "{port}"))
    with bench(lambda _step: None) as opened:
        result = measure(case_of(missing, dying, spoiling, C_ECHO), opened)
    assert result.peers() == ["c"]
    assert result.skipped["missing"] == "no-such-program is not installed"
    assert result.skipped["dying"] == "ended with status 1: no such luck"
    assert "came back" in result.skipped["spoiling"] or "instead of" in result.skipped["spoiling"]


# It answers each connection once and closes those before the last.
DROPPING = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = listener.accept()
    connection.sendall(connection.recv(64))
"""


def test_a_server_that_drops_held_connections_is_not_called_thrifty() -> None:
    """Name a server whose idle connections do not answer again."""
    dropping = Peer(name="dropping", command=(sys.executable, "-c", DROPPING, "{port}"))
    case = attrs.evolve(case_of(dropping, ASYNCIO), suite="idle", metrics=IDLE_METRICS, idle_connections=20)
    with bench(lambda _step: None) as opened:
        result = measure(case, opened)
    assert result.peers() == ["asyncio"]
    assert "holding 20 connections" in result.skipped["dropping"]


def test_a_server_is_stopped_with_its_block() -> None:
    """After the block the process has ended and its port refuses."""
    needs_c()
    with running(C_ECHO, Cores.of_this_machine()) as server:
        assert server.process.poll() is None
        assert server.process.pid in server.pids()
    assert server.process.poll() is not None


def test_a_server_that_never_serves_is_told_with_its_last_words() -> None:
    """What a server printed before it ended is part of the reason."""
    peer = Peer(name="x", command=(sys.executable, "-c", "raise ValueError('bad settings')"))
    with (
        pytest.raises(ServerError, match="status 1: ValueError: bad settings"),
        running(peer, Cores.of_this_machine()),
    ):
        pass


def test_cpu_time_sums_over_threads_also_new_ones() -> None:
    """A thread that was not there before counts from zero."""
    assert cpu_between({"1": 100, "2": 50}, {"1": 180, "3": 7}) == 87


def test_c_echo_under_the_c_generator_gives_whole_figures() -> None:
    """A brief run against C echo has a rate and, on Linux, a CPU price."""
    needs_c()
    with bench(lambda _step: None) as opened:
        result = measure(case_of(C_ECHO), opened)
    assert result.skipped == {}
    rate = result.spread("c", RATE)
    assert rate is not None
    assert rate.median > 0
    if sys.platform == "linux":
        cpu = result.spread("c", CPU)
        assert cpu is not None
        assert cpu.median > 0
    assert result.ratio("c", "c", RATE) == 1.0


@pytest.mark.parametrize("suite", SUITES)
def test_each_suite_measures_its_baseline_and_oread(suite: str) -> None:
    """Each case's baseline is one of its peers, and oread is there."""
    for case in cases_of(suite, Settings()):
        names = [peer.name for peer, _ in case.trials]
        assert case.baseline in names
        assert any(module.startswith("oread.") for peer, _ in case.trials for module in peer.modules)
        assert len(names) == len(set(names))


def test_asked_sizes_connections_and_depths_are_multiplied() -> None:
    """Two sizes by two depths are four cases, of the peers asked for only."""
    settings = Settings(peers=("c", "trio"), sizes=(64, 1024), depths=(1, 16), connections=(5,))
    cases = cases_of("tcp", settings)
    loads = [(load.size, load.depth, load.connections) for case in cases for _, load in case.trials[:1]]
    assert loads == [(64, 1, 5), (64, 16, 5), (1024, 1, 5), (1024, 16, 5)]
    assert {peer.name for case in cases for peer, _ in case.trials} == {"c", "trio"}


def test_peers_are_values() -> None:
    """Two descriptions of one peer are one key: a suite starts it once."""
    assert {ASYNCIO, attrs.evolve(ASYNCIO)} == {ASYNCIO}


@pytest.mark.slow
def test_the_command_prints_tables_and_writes_json_and_svg(tmp_path: Path) -> None:
    """`python -m benchmarks` prints tables and leaves both files."""
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    needs_c()
    found, chart = tmp_path / "found.json", tmp_path / "chart.svg"
    words = ["tcp", "idle", "start", "--quick", "--peers=c,asyncio", "--rounds=1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words, f"--json={found}", f"--plot={chart}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "tcp: 64 B, 64 connections" in done.stdout
    document = msgspec.json.decode(found.read_bytes())
    assert {result["suite"] for result in document["results"]} == {"tcp", "idle", "start"}
    assert set(document["results"][0]["peers"]) == {"c", "asyncio"}
    assert chart.read_text().lstrip().startswith("<?xml")


def test_an_unknown_peer_is_a_usage_error() -> None:
    """A name that is no peer's is status 2, with the names there are."""
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "tcp", "--peers=nobody"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "uvloop" in done.stderr
