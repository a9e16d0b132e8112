"""What tests ask of a service whose endpoints speak UDP."""

from __future__ import annotations

import trio

from oread.listeners.runtime import EndpointStatistics
from oread.service import Service

LIMIT_SECONDS = 10
"""Far beyond what loopback needs: only what never comes gets here."""


def statistics(service: Service, index: int = 0) -> EndpointStatistics:
    """Return what an endpoint has counted."""
    return service.statistics().endpoints[index]


async def wait_messages(service: Service, count: int, index: int = 0) -> None:
    """Wait until an endpoint has taken so many datagrams."""
    with trio.fail_after(LIMIT_SECONDS):
        while statistics(service, index).messages < count:
            await trio.lowlevel.checkpoint()
