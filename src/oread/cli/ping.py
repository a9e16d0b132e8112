"""`oread ping`: probe a group or a peer, and tell who answers how."""

from __future__ import annotations

import math
import secrets
import sys

import attrs
import click
import msgspec
import trio

from oread.cli.errors import PeerError, explain_dialling
from oread.cli.interrupts import run_until_interrupted
from oread.cli.options import duration
from oread.cli.ping_report import answer_line, make_rows, summary_lines
from oread.cli.ping_table import show_table
from oread.client import open_datagram
from oread.client.destinations import MOST_HOPS
from oread.client.mailbox import MOST_BYTES
from oread.client.nursery import open_plain_nursery
from oread.client.ping import ping as send_probes
from oread.endpoints import Endpoint
from oread.protocols.probes import LEAST_BYTES, Answer, ProbeSession

LEAST_INTERVAL_SECONDS = 0.01
"""As ping(8) allows root; an oread endpoint answers another network 100 times a second."""


@attrs.frozen(kw_only=True)
class Settings:
    """What was asked for on the command line."""

    endpoint: Endpoint
    count: float
    seconds: float
    interval_seconds: float
    wait_seconds: float
    hops: int | None
    as_json: bool


@click.command()
@click.argument("url")
@click.option("--count", type=click.IntRange(1), help="Send so many probes. [default: until Ctrl-C]")
@click.option("--for", "seconds", type=duration, metavar="TIME", help="Go on so long, such as 30s or 10m.")
@click.option(
    "--interval",
    "interval_seconds",
    type=duration,
    default="1s",
    metavar="TIME",
    show_default=True,
    help="Between two probes; 10ms or more.",
)
@click.option(
    "--wait",
    "wait_seconds",
    type=duration,
    default="1s",
    metavar="TIME",
    show_default=True,
    help="For answers after the last probe.",
)
@click.option(
    "--loss",
    "most_loss_percent",
    type=click.FloatRange(0, 100),
    default=100.0,
    metavar="PERCENT",
    help="Loss of a responder that is still fine. [default: any]",
)
@click.option(
    "--size",
    type=click.IntRange(LEAST_BYTES, MOST_BYTES),
    default=64,
    show_default=True,
    help="Bytes of a probe.",
)
@click.option("--hops", type=click.IntRange(1, MOST_HOPS), help="Links to cross. [default: 1 for groups]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end, and nothing else.")
def ping(
    url: str,
    count: int | None,
    seconds: float | None,
    interval_seconds: float,
    wait_seconds: float,
    most_loss_percent: float,
    size: int,
    hops: int | None,
    *,
    as_json: bool,
) -> int:
    """Probe udp://HOST:PORT and tell who answers, how fast, and what is lost.

    A responder is whatever echoes: an oread endpoint of echo, on a group with
    ?reply=unicast. A group or broadcast is probed as a whole, and everyone
    who has answered by unicast too. The first loss is that of all probes, the
    one in brackets that from the first answer on. Answers to a group are
    delayed at random by 20 to 120 ms, which is in the times.

    Ctrl-C ends it and prints what was found. Exit status: 0 fine, 1 when
    nobody answered or somebody lost more than --loss, 2 usage.
    """
    endpoint = Endpoint.parse(url, calling=True)
    if endpoint.scheme != "udp":
        raise click.UsageError(
            f"ping is for udp only, not for {endpoint.scheme}", click.get_current_context()
        )
    if interval_seconds < LEAST_INTERVAL_SECONDS:
        raise click.UsageError("--interval is 10ms or more", click.get_current_context())
    settings = Settings(
        endpoint=endpoint,
        count=math.inf if count is None else count,
        seconds=math.inf if seconds is None else seconds,
        interval_seconds=interval_seconds,
        wait_seconds=wait_seconds,
        hops=hops,
        as_json=as_json,
    )
    session = ProbeSession(secrets.randbits(64), size=size, hops=hops or 1)
    try:
        trio.run(_run, settings, session)
    except BrokenPipeError:
        raise  # our own output
    except OSError as error:
        raise explain_dialling(url, error) from error
    return _conclude(settings, session, most_loss_percent)


async def _run(settings: Settings, session: ProbeSession) -> None:
    is_live = sys.stdout.isatty() and not settings.as_json

    def tell(answer: Answer) -> None:
        if not is_live and not settings.as_json:
            click.echo(answer_line(answer))

    async def probe() -> None:
        async with (
            open_datagram(settings.endpoint, hops=settings.hops) as datagrams,
            open_plain_nursery() as nursery,
        ):
            if is_live:
                nursery.start_soon(show_table, session, str(settings.endpoint))
            await send_probes(
                datagrams,
                session,
                tell,
                interval_seconds=settings.interval_seconds,
                wait_seconds=settings.wait_seconds,
                count=settings.count,
            )

    await run_until_interrupted(probe, settings.seconds)


def _conclude(settings: Settings, session: ProbeSession, most_loss_percent: float) -> int:
    """Print what was found; say with which status to end."""
    rows = make_rows(session)
    if settings.as_json:
        found = {
            "url": str(settings.endpoint),
            "sent": {kind: count for kind, count in session.sent.items() if count},
            "responders": [attrs.asdict(row) for row in rows],
            "refused": dict(session.refused),
        }
        click.echo(msgspec.json.encode(found))
    else:
        lines = summary_lines(session)
        click.echo("\n".join(["", *lines]) if lines else "", nl=bool(lines))
    url, sent = settings.endpoint, max(session.sent.values())
    if not rows:
        raise PeerError(
            f"{url}: nobody answered {sent} probe{'' if sent == 1 else 's'}",
            "it has to be an echo, a group's or broadcast's with reply=unicast",
        )
    worst = max(rows, key=lambda row: row.loss_percent)
    if worst.loss_percent > most_loss_percent:
        raise PeerError(
            f"{url}: {worst.responder} lost {worst.loss_percent:.3g} % of {worst.sent} {worst.kind} probes",
            f"--loss allows {most_loss_percent:g} %",
        )
    return 0
