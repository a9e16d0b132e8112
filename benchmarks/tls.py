"""Compare TLS servers: CPU per echo of 13 B, rate, and bytes per idle connection.

`python -m benchmarks.tls`. Not a suite of the runner: its load generator
speaks no TLS. Here Python's own client drives all connections in turn, so it
is the bottleneck of the rate; what is told first is therefore the CPU that
the kernel charged the server for each message. HTTPS is driven by wrk.

Servers stay up and take turns; a ratio is the median of the rounds' quotients.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.process import Cores, Server, cpu_between, pick_port, spawn, stop
from benchmarks.table import Peer

MESSAGE = b"Hello, World!"
CONNECTIONS = 64
READY_SECONDS = 20.0
MAKE_CERTIFICATE = (
    *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
    *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
)


def echo_peers(folder: Path) -> list[Peer]:
    """Return the echo servers; the last is the one compared with."""
    files = f"{folder}/cert.pem", f"{folder}/key.pem"
    url = f"tls://127.0.0.1:{{port}}/echo?cert={files[0]}&key={files[1]}"
    return [
        Peer(name="oread", command=(sys.executable, "-m", "oread", "serve", url)),
        Peer(name="trio", command=(sys.executable, "-m", "benchmarks.peers.tls_trio", "{port}", *files)),
    ]


def http_peers(folder: Path) -> list[Peer]:
    """Return the HTTPS servers; uvicorn is left out where it is missing."""
    files = f"{folder}/cert.pem", f"{folder}/key.pem"
    url = f"https://127.0.0.1:{{port}}?cert={files[0]}&key={files[1]}"
    command = (sys.executable, "-m", "oread", "serve", url, "--app", "benchmarks.apps:registry")
    uvicorn = (
        *(sys.executable, "-m", "uvicorn", "benchmarks.peers.hello_asgi:app", "--port", "{port}"),
        *("--ssl-certfile", files[0], "--ssl-keyfile", files[1], "--no-access-log", "--log-level", "error"),
    )
    return [Peer(name="oread", command=command), Peer(name="uvicorn", command=uvicorn, modules=("uvicorn",))]


@contextlib.contextmanager
def serving(peers: list[Peer], context: ssl.SSLContext) -> Iterator[Mapping[str, Server]]:
    """Run every peer that can be had until the block ends."""
    core = Cores.of_this_machine().server
    servers: dict[str, Server] = {}
    with contextlib.ExitStack() as stack:
        for peer in peers:
            reason = peer.missing()
            if reason is not None:
                print(f"{peer.name} is skipped: {reason}")
                continue
            output = stack.enter_context(tempfile.TemporaryFile())
            port = pick_port("tcp")
            server = Server(peer, port, spawn(peer, port, core, output), output)
            stack.callback(stop, server.process)
            _wait_ready(server, context)
            servers[peer.name] = server
        yield servers


def _wait_ready(server: Server, context: ssl.SSLContext) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            connect(server.port, context).close()
        except OSError:
            if time.monotonic() > deadline or server.process.poll() is not None:
                raise
            time.sleep(0.1)
        else:
            return


def connect(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Connect and shake hands."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=READY_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain)


def echo(server: Server, socks: list[ssl.SSLSocket], seconds: float) -> tuple[float, float]:
    """Echo on all connections in turn; return CPU µs per message and messages per second."""
    before, begun, count = server.cpu_ns(), time.monotonic(), 0
    while time.monotonic() < begun + seconds:
        for sock in socks:
            sock.sendall(MESSAGE)
        for sock in socks:
            received = sock.recv(100)
            if received != MESSAGE:
                raise SystemExit(f"{server.peer.name} answered {received!r}")
        count += len(socks)
    elapsed = time.monotonic() - begun
    return cpu_between(before, server.cpu_ns()) / 1000 / count, count / elapsed


def idle_bytes(server: Server, context: ssl.SSLContext, count: int) -> float:
    """Return user-space bytes per held connection that has answered once."""
    before = server.anonymous_bytes()
    socks = []
    for _ in range(count):
        socks.append(connect(server.port, context))
        socks[-1].sendall(MESSAGE)
        socks[-1].recv(100)
    held = server.anonymous_bytes()
    for sock in socks:
        sock.close()
    return (held - before) / count


def https(server: Server, seconds: float) -> tuple[float, float]:
    """Load a server by wrk; return CPU µs per request and requests per second."""
    before = server.cpu_ns()
    url = f"https://127.0.0.1:{server.port}/hello"
    command = ("wrk", "-t1", "-c64", f"-d{max(1, round(seconds))}s", url)
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+) requests in", told)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    if found is None or found[1] == "0" or rate is None or "Non-2xx" in told:
        raise SystemExit(f"{server.peer.name}: {told}")
    return cpu_between(before, server.cpu_ns()) / 1000 / int(found[1]), float(rate[1])


def tell(title: str, samples: Mapping[str, list[tuple[float, float]]]) -> None:
    """Print medians, and what oread is of the others."""
    print(f"\n{title}")
    for name, pairs in samples.items():
        cpu, rate = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratios = [(b[0] / a[0], a[1] / b[1]) for a, b in zip(samples["oread"], pairs, strict=True)]
        by_cpu, by_rate = (statistics.median(column) for column in zip(*ratios, strict=True))
        quotients = f"oread: {by_cpu:.2f}x by CPU, {by_rate:.2f}x by rate"
        print(f"  {name:8} {cpu:7.1f} µs CPU each {rate:9,.0f}/s   {quotients}")


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--idle", type=int, default=500, help="connections held")
    options = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    Cores.of_this_machine().pin_load()
    with tempfile.TemporaryDirectory() as made_in:
        folder = Path(made_in)
        made = ("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"))
        subprocess.run((*MAKE_CERTIFICATE, *made), check=True, capture_output=True)
        with serving(echo_peers(folder), context) as servers:
            socks = {
                name: [connect(server.port, context) for _ in range(CONNECTIONS)]
                for name, server in servers.items()
            }
            samples: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
            for _ in range(options.rounds):
                for name, server in servers.items():
                    samples[name].append(echo(server, socks[name], options.seconds))
            tell(f"TLS echo of {len(MESSAGE)} B, {CONNECTIONS} connections", samples)
            print(f"\nidle TLS connections, {options.idle} held")
            for name, server in servers.items():
                print(f"  {name:8} {idle_bytes(server, context, options.idle):9,.0f} B each")
        if shutil.which("wrk") is None:
            print("\nHTTPS is skipped: wrk is not installed")
            return
        with serving(http_peers(folder), context) as servers:
            samples = {name: [] for name in servers}
            for _ in range(options.rounds):
                for name, server in servers.items():
                    samples[name].append(https(server, options.seconds))
            tell("HTTPS keep-alive, 64 connections", samples)


if __name__ == "__main__":
    main()
