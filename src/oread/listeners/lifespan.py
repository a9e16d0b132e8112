"""The lifespans of mounted applications: one task each, around all their calls.

All have started before anything is served, or nothing is. They end when no
call of theirs runs any more, within a bound. An application that raises when
it is asked has none, and is called all the same, as ASGI says.

Source: https://asgi.readthedocs.io/en/latest/specs/lifespan.html.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from oread.dispatch import Application, Failed, isolate
from oread.errors import ApplicationError

STOP_SECONDS = 5.0
"""What applications get, together, to end; beyond it they are cancelled."""
ASGI_VERSIONS = {"version": "3.0", "spec_version": "2.3"}
"""By 2.4 frameworks learn that a peer is gone by sending to it alone; by 2.3 they listen and hear at once."""

log = logging.getLogger("oread")


class Lifespan:
    """One application, from its start to its end."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.state: dict[str, Any] = {}
        """What it wants its calls to share."""
        self.failed: ApplicationError | None = None
        self.ready = trio.Event()
        self._stopping = trio.Event()
        self._ended = trio.Event()
        self._asked = False

    async def run(self) -> None:
        """Run until it has ended, or been cancelled."""
        try:
            result = await isolate(self._call())
        finally:
            self._ended.set()
        if isinstance(result, Failed):
            if self.ready.is_set() and self.failed is None:
                log.error("an application's lifespan failed: %r", result.error, exc_info=result.error)
            else:
                log.debug("an application has no lifespan: %r", result.error)
        self.ready.set()

    async def _call(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        await self.application(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if not self._asked:
            self._asked = True
            return {"type": "lifespan.startup"}
        await self._stopping.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        kind = message["type"]
        if kind == "lifespan.startup.failed":
            details = str(message.get("message", "")).strip()
            words = details.splitlines()[-1].strip() if details else "it does not say why"
            self.failed = ApplicationError(f"an application could not start: {words}", details)
        elif kind == "lifespan.shutdown.failed":
            log.error("an application could not end: %s", message.get("message", ""))
        elif kind not in ("lifespan.startup.complete", "lifespan.shutdown.complete"):
            raise ApplicationError(f"a lifespan can't send {kind!r}")
        self.ready.set()

    async def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self._stopping.set()
        await self._ended.wait()


class Applications:
    """The applications of one service that have begun."""

    def __init__(self) -> None:
        self._lifespans: dict[int, Lifespan] = {}
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def running(self, applications: Sequence[Application]) -> AsyncIterator[None]:
        """Start them all for the length of the block, then have them end.

        Raises:
            ApplicationError: one could not start; those that could have ended.

        Cancellation: they get `STOP_SECONDS` to end all the same.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for application in applications:
                    await self.enter(application)
                yield
            finally:
                self._nursery = None
                with trio.move_on_after(STOP_SECONDS, shield=True):
                    async with trio.open_nursery() as stopping:
                        for lifespan in self._lifespans.values():
                            stopping.start_soon(lifespan.stop)
                nursery.cancel_scope.cancel()

    async def enter(self, application: Application) -> Mapping[str, Any]:
        """Return the state of an application; start it, if it was mounted while serving.

        Raises:
            ApplicationError: it could not start.
        """
        lifespan = self._lifespans.get(id(application))
        if lifespan is None:
            if self._nursery is None:
                raise ApplicationError("the service is stopping")
            lifespan = self._lifespans[id(application)] = Lifespan(application)
            self._nursery.start_soon(lifespan.run)
        if not lifespan.ready.is_set():
            await lifespan.ready.wait()
        if lifespan.failed is not None:
            raise lifespan.failed
        return lifespan.state
