"""`rpc=/path` on `http`: a POST there is a document of JSON-RPC, any event.

A document that can be answered is answered by 200 and `application/json`,
errors of the protocol too (as JSON-RPC over HTTP does; the status tells how
HTTP went); nothing to be answered is 204. At the head, before a body is read:
another method is 405, another content type 415 (see `media_types`).

The path shadows what a pattern would serve there; all other paths are served
as they are without it.

Source: https://www.jsonrpc.org/historical/json-rpc-over-http.html.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import attrs

from oread.dispatch import Entry, Failed
from oread.endpoints import Endpoint
from oread.errors import NotAllowed, RegistrationError
from oread.listeners.acceptor import ListeningSocket
from oread.listeners.http import HttpConnection
from oread.listeners.http_listener import HttpListener
from oread.listeners.http_streams import HttpOwner
from oread.listeners.jsonrpc import NO_EVENT, Methods, Work
from oread.listeners.media_types import JSON_TYPE, check_json_type
from oread.listeners.roles import Socket
from oread.listeners.runtime import Runtime
from oread.listeners.states import BUSY, CLOSED, CLOSING, PEER_GONE
from oread.messages import Message, Reply
from oread.protocols.http1_head import RequestHead

"""What a document may be sent as."""


def _never(_origin: object, _body: object) -> Failed:
    return Failed(NotImplementedError("a document is taken apart before it is dispatched"))


_DOCUMENT = Entry(event=NO_EVENT, call=_never)
"""Stands for the path of JSON-RPC where a request's entry is looked up."""


class JsonRpcHttpListener(HttpListener):
    """The open sockets of an `http` endpoint with a path of JSON-RPC."""

    def __init__(self, runtime: Runtime, endpoint: Endpoint, sockets: Sequence[ListeningSocket]) -> None:
        super().__init__(runtime, endpoint, sockets)
        self.methods = Methods(runtime.registry, self.copy_context)

    def own_names(self) -> dict[str, str]:
        """Return the names that no event may have beside it, and the options that ask for them."""
        names, rpc = super().own_names(), self.endpoint.rpc
        assert rpc is not None
        if rpc[1:] in names:
            raise RegistrationError(f"rpc={rpc}: {names[rpc[1:]]} serves this path")
        return names | {rpc[1:]: f"rpc={rpc}"}

    def connection_kind(self) -> type[HttpConnection]:
        """Return the kind that serves documents too."""
        return JsonRpcHttpConnection

    def find(self, head: RequestHead) -> tuple[Entry, Mapping[str, str]]:
        """Return the entry of a request and what its path captured.

        Raises:
            NotAllowed, NotJson: it is no POST of JSON to the path of JSON-RPC.
            NotFound, NotAllowed, BadRequest: no handler serves another path.
        """
        if head.path != self.endpoint.rpc:
            return super().find(head)
        if head.method != "POST":
            raise NotAllowed(("POST",))
        check_json_type(head.headers)
        return _DOCUMENT, {}


class JsonRpcHttpOwner(HttpOwner, Protocol):
    """The listener of JSON-RPC, as its connections see it."""

    @property
    def methods(self) -> Methods:
        """What may be called."""


class JsonRpcHttpConnection(HttpConnection):
    """An HTTP connection that is the host of the documents posted on it."""

    __slots__ = ("_work",)

    answers_errors: ClassVar[bool] = True
    waits_for_place: ClassVar[bool] = False
    _owner: JsonRpcHttpOwner

    def __init__(self, owner: JsonRpcHttpOwner, sock: Socket) -> None:
        super().__init__(owner, sock)
        self._work: Work | None = None

    # as the host of a document

    def make_message(self, event: str, captures: Mapping[str, str], data: bytes | memoryview) -> Message:
        """Make the message of one call: the request, with what it asks of the event."""
        return attrs.evolve(self.message(data), event=event, captures=captures)

    def report_call(self, event: str, failed: Failed) -> None:
        """Count and log why one call failed."""
        self._owner.report(event, failed, self.peer())

    def submit_call(self) -> None:
        """Have a runner begin the present call."""
        self._owner.runners.submit(self)

    def _dispatch(self, body: bytes) -> bytes | None:
        """Make the calls of a document, or have a runner make them."""
        if self._entry is not _DOCUMENT:
            return super()._dispatch(body)
        assert self._head is not None
        work = self._work = Work(self._owner.methods, self, body)
        if not work.run():
            self.flags |= BUSY
            return None
        self._work = None
        self._apply_policy(work)
        return self.encode(self._head, _reply(work))

    # as a job

    def begin(self) -> Coroutine[Any, Any, Any] | None:
        """Make the coroutine of the present call, or of another path's handlers."""
        return super().begin() if self._work is None else self._work.begin()

    def finish(self, result: Any) -> None:
        """Go on with the document; answer when it is done."""
        work = self._work
        if work is None:
            super().finish(result)
            return
        if not work.take(result):
            return
        self._work = None
        self._apply_policy(work)
        if self.flags & CLOSED or (self.flags & PEER_GONE and work.cancelled):
            self.end_call()
            self.close()
            self._owner.release(self)
        else:
            super().finish(_reply(work))

    # ends

    def _apply_policy(self, work: Work) -> None:
        if work.failed and self._owner.endpoint.failure == "close":
            self.flags |= CLOSING

    @property
    def shielded(self) -> bool:
        """Whether the present call must not be cancelled because the peer is gone."""
        return super().shielded if self._work is None else self._work.shield

    def on_closed(self) -> None:
        """Let go of what waits; what runs ends by itself."""
        super().on_closed()
        if self._work is not None:
            self._work.abandon()

    def cancel_handler(self) -> None:
        """Cancel the present call, and with it the rest of its document."""
        if self._work is not None:
            self._work.give_up()
        super().cancel_handler()

    def give_place(self) -> None:
        """Give back what the present call holds of a limited event."""
        super().give_place()
        if self._work is not None:
            self._work.give_place()


def _reply(work: Work) -> Reply | None:
    response = work.response()
    return None if response is None else Reply(response, content_type=JSON_TYPE)
