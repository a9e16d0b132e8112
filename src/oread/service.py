"""The running tree: listeners, reactor and runners under one nursery.

Lifetimes nest, reactor around runners around listeners. Starting is all or
nothing: every socket is bound and every event found before the first message
is served, and when one fails all are closed. A drain stops the listeners, lets
what has begun come to its end until one deadline, then cancels and says whom.
Cancelling closes everything at once, after the handlers' own clean-up: the
reactor is shielded until the last of them has ended, so that a shielded
goodbye is still sent.

An embedded service takes no signals and never ends the process.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import attrs
import trio

from oread.dispatch import Application, Failed
from oread.endpoints import JSONRPC, Endpoint
from oread.errors import ApplicationError, EndpointError
from oread.listeners.datagrams import DatagramListener
from oread.listeners.http_listener import HttpListener
from oread.listeners.jsonrpc_http import JsonRpcHttpListener
from oread.listeners.jsonrpc_streams import JsonRpcListener
from oread.listeners.runtime import EndpointStatistics, Failures, Listener, Runtime
from oread.listeners.stream_listener import StreamListener
from oread.protocols.access_log import AccessRecord
from oread.reactor import STALL_SECONDS, Poller, Reactor, RunnerPool, Watchdog, open_poller
from oread.registry import Registry
from oread.sockets.datagrams import DatagramSocket, adopt_datagram_socket, open_datagram_sockets
from oread.sockets.interfaces import is_address
from oread.sockets.streams import descriptor_room, open_stream_sockets, path_inode, remove_unix_path

DRAIN_SECONDS = 30.0
"""How long `drain` waits by default (as Kubernetes does between SIGTERM and SIGKILL)."""
CLEAN_UP_SECONDS = 1.0
"""What handlers get for their own clean-up after the deadline cancelled them."""


@attrs.frozen
class Bound:
    """An open socket to be served as an endpoint, instead of binding one.

    Args:
        socket: bound, and listening if it is a stream's; the service owns and
            closes it from then on.
        endpoint: what it is served as; its host and port are not used.
    """

    socket: socket.socket
    endpoint: Endpoint | str


@attrs.frozen(kw_only=True)
class Statistics:
    """A snapshot of a service's counters."""

    uptime_seconds: float
    endpoints: tuple[EndpointStatistics, ...]
    stalls: int
    """Times that an inline handler held up every other one for `stall_seconds`."""


@attrs.frozen(kw_only=True)
class DrainReport:
    """How a drain went."""

    seconds: float
    cancelled: tuple[str, ...]
    """Handlers that the deadline cancelled, one line each; empty when all came to their end."""
    closed: int
    """Connections that still had something to send, or to read away, at the deadline."""


class Service:
    """A running service; made by `open_service`."""

    def __init__(self, runtime: Runtime, listeners: Sequence[Listener], watchdog: Watchdog) -> None:
        self._runtime = runtime
        self._watchdog = watchdog
        self._listeners = tuple(listeners)
        self._begun = trio.current_time()
        self._drain_lock = trio.Lock()
        self._report: DrainReport | None = None
        self._drained = trio.Event()

    @property
    def registry(self) -> Registry:
        """The registry it serves."""
        return self._runtime.registry

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The endpoints as bound, with their real ports, in the order given."""
        return tuple(listener.endpoint for listener in self._listeners)

    @property
    def failed(self) -> Failed | None:
        """The handler's failure that ends it, on an endpoint with `failure=stop`."""
        return self._runtime.failed

    def statistics(self) -> Statistics:
        """Return a snapshot of all counters."""
        return Statistics(
            uptime_seconds=trio.current_time() - self._begun,
            endpoints=tuple(listener.statistics() for listener in self._listeners),
            stalls=self._watchdog.stalls,
        )

    async def drain(self, seconds: float = DRAIN_SECONDS) -> DrainReport:
        """Take nothing new, let what has begun end, then cancel the rest.

        Args:
            seconds: one deadline over all transports; 0 cancels at once.

        Returns:
            Who had to be cancelled. A second call waits for the first.

        Cancellation: leaves the service draining; leaving it closes the rest.
        """
        async with self._drain_lock:  # a second caller goes on where a cancelled first one stopped
            if self._report is None:
                self._report = await self._drain(seconds)
                self._drained.set()
            return self._report

    async def _drain(self, seconds: float) -> DrainReport:
        begun = self._runtime.reactor.tick()
        for listener in self._listeners:
            listener.begin_drain()
        with trio.move_on_after(seconds):
            for listener in self._listeners:
                await listener.drained.wait()
        cancelled = tuple(line for listener in self._listeners for line in listener.cancel_handlers())
        closed = sum(item.open for item in self.statistics().endpoints) - len(cancelled)
        with trio.move_on_after(CLEAN_UP_SECONDS):
            await self._runtime.runners.wait_idle()
        for listener in self._listeners:
            listener.abort()
        return DrainReport(seconds=trio.current_time() - begun, cancelled=cancelled, closed=max(0, closed))

    async def wait_idle(self) -> None:
        """Wait until no async handler runs, and none is about to."""
        await self._runtime.runners.wait_idle()

    async def wait_drained(self) -> None:
        """Wait until a drain, begun by whomever, has ended."""
        await self._drained.wait()


@contextlib.asynccontextmanager
async def open_service(
    registry: Registry,
    *endpoints: str | Endpoint | Bound,
    poller: Poller | None = None,
    stall_seconds: float = STALL_SECONDS,
    tls: ssl.SSLContext | None = None,
    access_log: Callable[[AccessRecord], object] | None = None,
) -> AsyncIterator[Service]:
    """Serve a registry on these endpoints for the length of the block.

    Leaving the block cancels at once; call `drain` first to be gentle.

    Args:
        registry: may be changed while it is served.
        endpoints: URLs, `Endpoint`s, or sockets already open as `Bound`.
        poller: another source of readiness, for in-memory transports.
        stall_seconds: how long an inline handler may hold up all others before
            it is named in the log, in real time whatever the clock; looked at
            by a thread, which `math.inf` does without.
        tls: a server's context, for `tls` and `https` endpoints without
            `cert=`; used as it is, and stays the caller's.
        access_log: is called with a record of every HTTP request, when it is
            answered or given up; it must not block. None costs nothing.

    Raises:
        EndpointError: a URL or option that can't be used.
        RegistrationError: an event with no handler, or one the endpoint can't serve.
        OSError: an address can't be bound. Nothing is left open in any case.
        ApplicationError: a mounted application could not start.
        Exception: what a handler raised on an endpoint with `failure=stop`.

    Cancellation: handlers are cancelled, then every socket is closed.
    """
    opened_poller = poller if poller is not None else open_poller()
    reactor = Reactor(opened_poller)
    context = contextvars.copy_context()
    runtime = Runtime(
        reactor=reactor,
        runners=RunnerPool(context),
        registry=registry,
        context=context,
        failures=Failures(reactor, registry),
        room=descriptor_room(),
        tls=tls,
        access_log=access_log,
    )
    watchdog = Watchdog(reactor, stall_seconds)
    body_error: BaseException | None = None
    only_error: BaseException | None = None
    with contextlib.ExitStack() as stack:
        stack.callback(opened_poller.close)
        listeners = await _open_listeners(runtime, endpoints, stack)
        try:
            async with _running(runtime, listeners):
                stack.enter_context(watchdog)
                try:
                    yield Service(runtime, listeners, watchdog)
                finally:
                    body_error = sys.exc_info()[1]
        except BaseExceptionGroup as group:
            only_error = _only_leaf(group)
            if (
                only_error is not body_error
                and not isinstance(only_error, ApplicationError)
                and not _is_stop(runtime, only_error)
            ):
                raise
    if only_error is not None:  # as the block, or a handler, raised it, not inside two groups
        raise only_error


def _is_stop(runtime: Runtime, error: BaseException) -> bool:
    return runtime.failed is not None and error is runtime.failed.error


def _only_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def _open_listeners(
    runtime: Runtime, endpoints: Sequence[str | Endpoint | Bound], stack: contextlib.ExitStack
) -> list[Listener]:
    """Open all or none: the stack aborts what was opened."""
    listeners: list[Listener] = []
    for item in endpoints:
        if isinstance(item, Bound):
            stack.callback(item.socket.close)  # ours from now on, even if an endpoint before it fails
    for item in endpoints:
        if isinstance(item, Bound):
            endpoint = _parse(item.endpoint)
            listener = _listen(runtime, endpoint, [item.socket])
        else:
            endpoint = _parse(item)
            open_datagrams = functools.partial(open_datagram_sockets, beside=runtime.datagram_sockets)
            open_sockets = open_datagrams if endpoint.scheme == "udp" else open_stream_sockets
            try:
                if endpoint.scheme == "unix" or is_address(endpoint.host):
                    await trio.lowlevel.checkpoint()
                    opened: Sequence[Any] = open_sockets(endpoint)
                else:  # a name is looked up: in a thread, not to be abandoned, so that nothing opened is lost
                    opened = await trio.to_thread.run_sync(open_sockets, endpoint)
            except OSError as error:
                error.filename = str(endpoint)  # which of them: the system does not say
                raise
            listener = _listen(runtime, endpoint, opened)
        listeners.append(listener)
        stack.callback(listener.abort)
    return listeners


def _parse(endpoint: str | Endpoint) -> Endpoint:
    return Endpoint.parse(endpoint) if isinstance(endpoint, str) else endpoint


def _listen(runtime: Runtime, endpoint: Endpoint, sockets: Sequence[Any]) -> Listener:
    """Make the listener of open sockets; closes them when that fails."""
    with contextlib.ExitStack() as stack:
        for sock in sockets:
            stack.callback(getattr(sock, "sock", sock).close)
        if endpoint.scheme == "unix":
            stack.callback(remove_unix_path, endpoint.host, path_inode(endpoint.host))
        listener = _make_listener(runtime, endpoint, sockets)
        stack.pop_all()
    return listener


def _make_listener(runtime: Runtime, endpoint: Endpoint, sockets: Sequence[Any]) -> Listener:
    if endpoint.scheme == "udp":
        return DatagramListener(
            runtime,
            endpoint,
            [
                sock if isinstance(sock, DatagramSocket) else adopt_datagram_socket(sock, endpoint)
                for sock in sockets
            ],
        )
    for sock in sockets:
        _check_listening(endpoint, sock)
        sock.setblocking(False)
    bound = _as_bound(endpoint, sockets[0].getsockname())
    if endpoint.is_http:
        make_http = HttpListener if endpoint.rpc is None else JsonRpcHttpListener
        return make_http(runtime, bound, sockets)
    make_streams = JsonRpcListener if endpoint.framing == JSONRPC else StreamListener
    return make_streams(runtime, bound, sockets)


def _check_listening(endpoint: Endpoint, sock: Any) -> None:
    if isinstance(sock, socket.socket) and (
        sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        raise EndpointError(
            f"{endpoint}: the open socket is not a listening stream socket; call listen() first"
        )


def _as_bound(endpoint: Endpoint, address: Any) -> Endpoint:
    if isinstance(address, tuple):
        return attrs.evolve(endpoint, port=address[1])
    return attrs.evolve(endpoint, host=address or endpoint.host)


@contextlib.asynccontextmanager
async def _running(runtime: Runtime, listeners: Sequence[Listener]) -> AsyncIterator[None]:
    """Run reactor and runners around the block; end them inside out."""
    scope = trio.CancelScope(shield=True)
    async with trio.open_nursery() as outer:
        outer.start_soon(_run_reactor, runtime.reactor, scope, listeners)
        try:
            async with runtime.applications.running(_applications(runtime, listeners)):
                async with trio.open_nursery() as inner:
                    runtime.runners.start(inner)
                    inner.start_soon(_raise_failure, runtime)
                    for listener in listeners:
                        listener.start()
                    try:
                        yield
                    finally:
                        runtime.runners.close()
                        inner.cancel_scope.cancel()
                for listener in listeners:
                    listener.abort()  # not only when the applications have ended
        finally:
            for listener in listeners:
                listener.abort()
            scope.cancel()


def _applications(runtime: Runtime, listeners: Sequence[Listener]) -> Sequence[Application]:
    """Return what has to start before anything is served."""
    if not any(isinstance(listener, HttpListener) for listener in listeners):
        return ()
    return runtime.registry.applications()


async def _raise_failure(runtime: Runtime) -> None:
    """Let the failure of a handler end the service, where its endpoint says so."""
    await runtime.stopping.wait()
    if runtime.failed is not None:
        raise runtime.failed.error


async def _run_reactor(reactor: Reactor, scope: trio.CancelScope, listeners: Sequence[Listener]) -> None:
    """Run the loop and its clock, shielded: handlers' goodbyes still go out.

    When one of them fails, what waits for sockets is told before the service
    falls: a shielded handler would wait for ever otherwise.
    """
    try:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reactor.run)
                nursery.start_soon(reactor.deadlines.keep, reactor.tick)
    finally:
        for listener in listeners:
            listener.abort()


async def serve(
    registry: Registry,
    *endpoints: str | Endpoint | Bound,
    stall_seconds: float = STALL_SECONDS,
    tls: ssl.SSLContext | None = None,
    access_log: Callable[[AccessRecord], object] | None = None,
    task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a registry until cancelled, or until the service has been drained.

    As `trio.serve_tcp`: `service = await nursery.start(oread.serve, registry, url)`.

    Args:
        registry: may be changed while it is served.
        endpoints: URLs, `Endpoint`s, or sockets already open as `Bound`.
        stall_seconds: as in `open_service`.
        tls: as in `open_service`.
        access_log: as in `open_service`.
        task_status: is given the `Service` once everything is bound.

    Raises:
        EndpointError, RegistrationError, OSError, Exception: as `open_service`.

    Cancellation: as leaving `open_service`.
    """
    async with open_service(
        registry, *endpoints, stall_seconds=stall_seconds, tls=tls, access_log=access_log
    ) as service:
        task_status.started(service)
        await service.wait_drained()
