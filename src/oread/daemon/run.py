"""Run a service as a process: announce it, drain it at a signal, end.

The first SIGTERM or SIGINT drains, and the process ends with status 0. A
second one cancels what is left, and the status is 128 plus the signal's
number, as a shell reports a process that a signal ended; a third one meets
the system's own answer to signals.
"""

from __future__ import annotations

import logging
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence

import trio

from oread.daemon.hints import suggest_call
from oread.daemon.logs import LazyFormatter, configure_logging, make_access_log
from oread.dispatch import Failed, isolate
from oread.endpoints import Endpoint
from oread.protocols.access_log import AccessRecord
from oread.registry import Registry
from oread.service import DRAIN_SECONDS, DrainReport, Service, open_service

NAMED_AT_MOST = 20
"""Cancelled handlers that are named one by one; the rest is a number."""

log = logging.getLogger("oread.daemon")


def run_daemon(
    registry: Registry,
    endpoints: Sequence[str | Endpoint],
    *,
    drain_seconds: float = DRAIN_SECONDS,
    access_log: str | None = None,
) -> int:
    """Serve until a signal; return the status for the process to end with.

    Takes the process over: its logs, its signals, its limit of descriptors.

    Args:
        registry: what is served.
        endpoints: where.
        drain_seconds: how long handlers have after the first signal.
        access_log: the form in which HTTP requests are logged on stdout; None does not.

    Returns:
        0 after a drain, 1 after a handler's failure where `failure=stop` is
        said, else 128 plus the number of the second signal.

    Raises:
        EndpointError, RegistrationError, OSError: it could not start; nothing is left open.
    """
    formatter = configure_logging(sys.stderr)
    raise_descriptor_limit()
    # While nobody listens for it, at start and at the very end, Ctrl-C needs no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    log_access = None if access_log is None else make_access_log(access_log, sys.stdout)
    return trio.run(_serve, registry, endpoints, drain_seconds, formatter, log_access)


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one.

    Every connection is a descriptor; the usual soft limit of 1,024 is there
    for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:  # macOS refuses "unlimited", which getrlimit reports there
        log.warning("the limit of open files stays at %d: %s", soft, error)


async def _serve(
    registry: Registry,
    endpoints: Sequence[str | Endpoint],
    drain_seconds: float,
    formatter: LazyFormatter,
    log_access: Callable[[AccessRecord], object] | None,
) -> int:
    service: Service | None = None

    async def run() -> int:
        nonlocal service
        async with open_service(registry, *endpoints, access_log=log_access) as service:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                announce(service)
                await trio.to_thread.run_sync(
                    formatter.load
                )  # beside the first messages, not before or between them
                return await _drain_at_signal(service, signals, drain_seconds)

    status = await isolate(run())
    if not isinstance(status, Failed):
        return int(status)
    if service is None or service.failed is None or service.failed.error is not status.error:
        raise status.error
    name = service.failed.handler or "a handler"
    log.error("stopped: %s failed with %r on an endpoint with failure=stop", name, status.error)
    return 1


def announce(service: Service) -> None:
    """Print the bound endpoints, one a line, and how to call each."""
    lines = [str(endpoint) for endpoint in service.endpoints]
    hints = [f"  {suggest_call(endpoint, service.registry)}" for endpoint in service.endpoints]
    sys.stdout.write("\n".join([*lines, "", "In a second terminal:", *hints, ""]))
    sys.stdout.flush()


async def _drain_at_signal(service: Service, signals: AsyncIterator[int], drain_seconds: float) -> int:
    first = signal.Signals(await anext(signals))
    log.info("%s: draining for at most %g s; a second signal stops at once", first.name, drain_seconds)
    report: DrainReport | None = None
    status = 0

    async def stop_at_second(scope: trio.CancelScope) -> None:
        nonlocal status
        second = signal.Signals(await anext(signals))
        log.warning("%s: stopping at once", second.name)
        status = 128 + second
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_at_second, nursery.cancel_scope)
        report = await service.drain(drain_seconds)
        nursery.cancel_scope.cancel()
    if report is not None and not status:
        _tell(report)
    return status


def _tell(report: DrainReport) -> None:
    """Say how the drain went, and whom it had to cancel."""
    for line in report.cancelled[:NAMED_AT_MOST]:
        log.warning("cancelled: %s", line)
    if len(report.cancelled) > NAMED_AT_MOST:
        log.warning("cancelled: %d more", len(report.cancelled) - NAMED_AT_MOST)
    log.info(
        "drained in %.3f s: %d handlers cancelled, %d connections closed unfinished",
        report.seconds,
        len(report.cancelled),
        report.closed,
    )
