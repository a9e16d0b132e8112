"""`oread listen`: print what arrives at one endpoint, and answer nothing."""

from __future__ import annotations

import math
import time

import attrs
import click
import trio

from oread.cli.errors import PeerError, explain_listening
from oread.cli.interrupts import run_until_interrupted
from oread.cli.listen_report import message_json, message_lines
from oread.cli.options import duration
from oread.endpoints import JSONRPC, Endpoint
from oread.messages import Message
from oread.registry import Registry
from oread.service import Service, open_service

WAITING = 1_024
"""Messages that wait to be printed; further ones are counted and dropped: a terminal is slow."""
SHOWN_BYTES = 1_024


@attrs.define(eq=False)
class Printer:
    """Print messages, until there are enough."""

    as_json: bool
    shown_bytes: int
    left: float
    """How many more are wanted."""
    printed: int = 0
    dropped: int = 0
    _into: trio.MemorySendChannel[str | bytes] = attrs.field(init=False)
    _out: trio.MemoryReceiveChannel[str | bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make the bounded queue."""
        self._into, self._out = trio.open_memory_channel[str | bytes](WAITING)

    def take(self, message: Message) -> None:
        """Take one message in, as a handler: here its peer is still known."""
        now = time.time()
        line = message_json(message, now) if self.as_json else message_lines(message, now, self.shown_bytes)
        try:
            self._into.send_nowait(line)
        except trio.WouldBlock:
            self.dropped += 1

    async def run(self) -> None:
        """Print what was taken in, until it is enough."""
        while self.left > 0:
            click.echo(await self._out.receive())
            self.printed += 1
            self.left -= 1


@click.command()
@click.argument("url")
@click.option("--count", type=click.IntRange(1), help="End after so many messages.")
@click.option(
    "--for", "seconds", type=duration, metavar="TIME", help="End after so long, such as 30s or 10m."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line, payloads in full.")
@click.option(
    "--bytes",
    "shown_bytes",
    type=click.IntRange(0),
    default=SHOWN_BYTES,
    show_default=True,
    help="Bytes of a payload that are shown.",
)
def listen(url: str, count: int | None, seconds: float | None, shown_bytes: int, *, as_json: bool) -> int:
    """Print what arrives at an endpoint: time, way, size and payload.

    udp: a group is joined, a broadcast heard; nothing is answered. tcp and
    unix: what connections send, cut as framing= says. http: every request,
    which is answered with 204. Where the URL names an event it is ignored.

    Text is shown as text, JSON in one line, anything else as a hex dump.
    Ctrl-C ends it. Exit status: 0 fine, 1 when --for is over and nothing
    came, or less than --count, 2 usage.
    """
    endpoint = _parse(url)
    printer = Printer(as_json, shown_bytes, math.inf if count is None else count)
    timed_out = False

    async def work() -> None:
        nonlocal timed_out
        registry = Registry()
        registry.on(endpoint.event or "{path:path}", printer.take)
        async with open_service(registry, endpoint) as service:
            bound = attrs.evolve(service.endpoints[0], event="")
            click.echo(f"oread: listening on {bound}", err=True)
            try:
                with trio.move_on_after(math.inf if seconds is None else seconds) as scope:
                    await printer.run()
                timed_out = scope.cancelled_caught
            finally:
                _tell_refused(service, printer)

    try:
        trio.run(run_until_interrupted, work)
    except OSError as error:
        if error.filename is None:  # not a bind that failed: our own output
            raise
        raise explain_listening(error) from error
    if timed_out and printer.printed < (count or 1):
        raise PeerError(
            f"{url}: {printer.printed} of {count or 1} messages came within {seconds:g} s",
            "check the address and the interface",
        )
    return 0


def _parse(url: str) -> Endpoint:
    """Read the URL; whatever its event, all that comes is listened to."""
    endpoint = Endpoint.parse(url, calling=True)
    if endpoint.framing == JSONRPC:
        raise click.UsageError(
            "framing=jsonrpc has no messages to print: use lines", click.get_current_context()
        )
    if endpoint.is_http:
        return Endpoint.parse(url)
    if endpoint.scheme == "udp":
        # As a listener on the wire would: what this machine sends as well.
        endpoint = attrs.evolve(endpoint, receive_own=True, reply="none")
    return attrs.evolve(endpoint, event="listen")


def _tell_refused(service: Service, printer: Printer) -> None:
    """Say what came and was not printed."""
    (found,) = service.statistics().endpoints
    reasons = [f"{reason} {count}" for reason, count in sorted(found.refused.items())]
    reasons += [f"not printed in time {printer.dropped}"] if printer.dropped else []
    if reasons:
        click.echo(f"oread: not shown: {', '.join(reasons)}", err=True)
