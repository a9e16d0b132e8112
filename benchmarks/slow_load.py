"""Load an echo server from Python where there is no C compiler.

The same options, checks and result as `native/load.c`, at a tenth of its
rate: it is the bottleneck for every fast server and says so in its result.
Not here: `--reconnect` and `--train`.
"""

from __future__ import annotations

import argparse
import random
import selectors
import socket
import statistics
import sys
import time
from collections import deque
from pathlib import Path

import attrs
import msgspec

DRAIN_SECONDS = 2.0
PERIOD_BYTES = 65521  # a prime, as in load.c
TOOL = "slow_load.py (Python: slow, no cc)"


class WrongAnswerError(Exception):
    """Say what was wrong with what came back."""


@attrs.define
class Connection:
    """Hold one socket, what it still has to send and is still owed."""

    number: int
    sock: socket.socket
    options: argparse.Namespace
    unsent: bytearray = attrs.field(factory=bytearray)
    owed: deque[tuple[bytes, float]] = attrs.field(factory=deque)
    back: bytearray = attrs.field(factory=bytearray)
    issued: int = 0

    def issue(self, now: float) -> None:
        """Queue the next message."""
        message = message_of(self.number, self.issued, self.options)
        self.issued += 1
        self.owed.append((message, now))
        if self.options.udp:
            self.sock.send(message)
        else:
            self.unsent += message

    def flush(self) -> None:
        """Send what the socket takes."""
        if self.unsent:
            try:
                del self.unsent[: self.sock.send(self.unsent)]
            except BlockingIOError:
                return  # the loop comes back

    def receive(self) -> list[float]:
        """Verify what has come back and return when it was issued.

        Raises:
            WrongAnswerError: a byte differs, is early, or the peer closed.
        """
        data = self.sock.recv(262144)
        if not data and not self.options.udp:
            raise WrongAnswerError(f"connection {self.number}: closed by the server")
        if self.options.udp:
            return [self._take_datagram(data)]
        self.back += data
        times = []
        while self.back:
            if not self.owed:
                raise WrongAnswerError(f"connection {self.number}: more bytes came back than were sent")
            message, issued_at = self.owed[0]
            part = bytes(self.back[: len(message)])
            if not message.startswith(part):
                raise WrongAnswerError(
                    f"connection {self.number}: message {self.issued} or before is corrupt"
                )
            if len(part) < len(message):
                break
            del self.back[: len(message)]
            self.owed.popleft()
            times.append(issued_at)
        return times

    def _take_datagram(self, data: bytes) -> float:
        for place, (message, issued_at) in enumerate(self.owed):
            if message == data:
                del self.owed[place]
                return issued_at
        raise WrongAnswerError(f"socket {self.number}: a datagram is corrupt, late or came twice")


def message_of(number: int, turn: int, options: argparse.Namespace) -> bytes:
    """Return message `turn` of a connection: its place decides its bytes."""
    table: bytes = LETTERS if options.lines else NOISE
    size: int = options.size - options.lines
    at = (number * 7919 + turn * size) % PERIOD_BYTES
    message: bytes = (table[at:] + table * (size // PERIOD_BYTES + 1))[:size]
    return message + b"\n" if options.lines else message


def _read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="slow_load")
    for name in ("udp", "lines"):
        parser.add_argument(f"--{name}", action="store_true")
    for name, default in (("port", 0), ("connections", 64), ("size", 64), ("depth", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--warm-up", type=float, default=0.2)
    parser.add_argument("--lost-after", type=float, default=0.2)
    return parser.parse_args()


@attrs.define
class Loop:
    """Hold the closed loop over all connections, and what it has counted."""

    options: argparse.Namespace
    connections: list[Connection]
    measure_at: float
    stop_at: float
    measuring: bool = False
    answered: int = 0
    lost: int = 0
    latencies: list[float] = attrs.field(factory=list)

    def turn(self, poller: selectors.BaseSelector) -> float:
        """Send, receive and verify what is ready; return the time."""
        for one in self.connections:
            one.flush()
        patience_seconds = 0 if any(one.unsent for one in self.connections) else 0.01
        for key, _ in poller.select(patience_seconds):
            self._take(key.data)
        now = time.monotonic()
        if not self.measuring and now >= self.measure_at:
            self.measuring = True
            print("warm", file=sys.stderr, flush=True)
        if self.options.udp:
            for one in self.connections:
                self.lost += _give_up_overdue(one, now, again=now < self.stop_at)
        return now

    def is_owed(self) -> bool:
        """Return whether a message is still unanswered."""
        return any(one.owed for one in self.connections)

    def _take(self, one: Connection) -> None:
        times = one.receive()
        now = time.monotonic()
        if self.measuring:
            self.answered += len(times)
        if now >= self.stop_at:
            return
        for issued_at in times:
            if self.measuring:
                self.latencies.append(now - issued_at)
            one.issue(now)


def load(options: argparse.Namespace) -> dict[str, object]:
    """Run the closed loop and return the result.

    Raises:
        WrongAnswerError: something that came back, or did not, was wrong.
    """
    kind = socket.SOCK_DGRAM if options.udp else socket.SOCK_STREAM
    connections = [_connect(number, kind, options) for number in range(options.connections)]
    poller = selectors.DefaultSelector()
    for one in connections:
        poller.register(one.sock, selectors.EVENT_READ, one)
    now = time.monotonic()
    measure_at = now + options.warm_up
    loop = Loop(
        options=options, connections=connections, measure_at=measure_at, stop_at=measure_at + options.seconds
    )
    for one in connections * options.depth:
        one.issue(now)
    while now < loop.stop_at or loop.is_owed():
        now = loop.turn(poller)
        if now > loop.stop_at + DRAIN_SECONDS:
            raise WrongAnswerError("some bytes never came back")
    if not loop.latencies:
        raise WrongAnswerError("no message was answered")
    return _result(loop)


def _connect(number: int, kind: int, options: argparse.Namespace) -> Connection:
    sock = socket.socket(socket.AF_INET, kind)
    sock.settimeout(5)
    sock.connect((options.host, options.port))
    sock.settimeout(0)
    return Connection(number=number, sock=sock, options=options)


def _give_up_overdue(one: Connection, now: float, *, again: bool) -> int:
    overdue = 0
    while one.owed and now > one.owed[0][1] + one.options.lost_after:
        one.owed.popleft()
        overdue += 1
        if again:
            one.issue(now)
    return overdue


def _result(loop: Loop) -> dict[str, object]:
    cuts = statistics.quantiles([*loop.latencies, loop.latencies[-1]], n=1000, method="inclusive")
    return {
        "tool": TOOL,
        "seconds": loop.options.seconds,
        "messages": len(loop.latencies),
        "answered": loop.answered,
        "bytes": len(loop.latencies) * loop.options.size,
        "p50_us": cuts[499] * 1e6,
        "p99_us": cuts[989] * 1e6,
        "p999_us": cuts[998] * 1e6,
        "lost": loop.lost,
        "connects": 0 if loop.options.udp else loop.options.connections,
    }


_random = random.Random(7)  # any seed: it must only be the same in every run
NOISE = _random.randbytes(PERIOD_BYTES)
LETTERS = bytes(_random.choices(range(ord("A"), ord("Z") + 1), k=PERIOD_BYTES))


def main() -> int:
    """Run it, print the result as one line of JSON and return the status."""
    try:
        print(msgspec.json.encode(load(_read_options())).decode())
    except (WrongAnswerError, OSError) as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
