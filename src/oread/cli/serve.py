"""`oread serve`: run a registry as a daemon."""

from __future__ import annotations

import math

import click

from oread.cli.application import load_registry
from oread.cli.errors import explain_listening
from oread.cli.options import APP_HELP, seconds_up_to
from oread.daemon import ACCESS_LOGS, DEMO_ENDPOINTS, make_demo_registry, run_daemon
from oread.endpoints import Endpoint
from oread.service import DRAIN_SECONDS


@click.command()
@click.argument("endpoints", nargs=-1, metavar="[ENDPOINT]...")
@click.option("--app", metavar="MODULE:NAME", help=APP_HELP)
@click.option(
    "--drain",
    "drain_seconds",
    type=seconds_up_to(math.inf),
    metavar="SECONDS",
    default=DRAIN_SECONDS,
    show_default=True,
    help="How long handlers have to end after the first signal.",
)
@click.option(
    "--access-log",
    type=click.Choice(ACCESS_LOGS),
    help="Write a line on stdout for every HTTP request.",
)
@click.pass_context
def serve(
    context: click.Context,
    endpoints: tuple[str, ...],
    app: str | None,
    drain_seconds: float,
    access_log: str | None,
) -> int:
    """Serve a registry on these endpoints until a signal.

    An ENDPOINT is a URL, such as tcp://127.0.0.1:7007/echo or
    http://127.0.0.1:7080. With neither ENDPOINT nor --app the demo set is
    served, on loopback.

    The first SIGTERM or SIGINT drains and ends with status 0, a second one
    stops at once with 128 plus its number.
    """
    if app is not None and not endpoints:
        raise click.UsageError("--app needs at least one ENDPOINT, such as http://127.0.0.1:7080", context)
    parsed = [Endpoint.parse(url) for url in endpoints or DEMO_ENDPOINTS]
    registry = make_demo_registry() if app is None else load_registry(app)
    try:
        return run_daemon(registry, parsed, drain_seconds=drain_seconds, access_log=access_log)
    except OSError as error:
        if error.filename is None:  # not a bind that failed: ours to answer for, or a closed stdout
            raise
        raise explain_listening(error) from error
