"""The calls of a connection: places, runners, replies that are streamed.

What `streams` and `http` share: an async call waits for a place where its
event is limited, runs on a runner, and may return an iterator, whose items
are sent while the connection stays busy. Whatever way a call ends, its place
is given back exactly once.

Not here: reading, writing and ending as such (`connection`).
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
from collections.abc import Coroutine
from typing import Any

from oread.dispatch import Entry, Failed
from oread.dispatch.parts import Parts
from oread.dispatch.payload import is_stream
from oread.errors import HandlerCancelled
from oread.listeners.connection import Connection
from oread.listeners.states import BUSY, CLOSED, CLOSING, GATED, MASKED, PEER_GONE, STREAMING, WAITING
from oread.listeners.streaming import AwaitedReply, PulledReply, StreamedReply

NO_LINGER = struct.pack("ii", 1, 0)
"""Closing discards what is not sent, and resets (socket(7), SO_LINGER)."""
_CALL_FLAGS = BUSY | MASKED | PEER_GONE | STREAMING


def _is_cancelled(failed: Failed) -> bool:
    return isinstance(failed.error, HandlerCancelled)


class CallingConnection(Connection):
    """A connection whose messages handlers answer.

    Its `job` is the entry and the payload of an async call, or the reply that
    is being streamed; None while neither is under way.
    """

    __slots__ = ()

    # what a subclass says

    def report(self, failed: Failed) -> None:
        """Count and log what a handler raised."""
        raise NotImplementedError

    def answer(self, result: Any) -> None:
        """Send what a call came to; begin to stream it when it is an iterator."""
        raise NotImplementedError

    def send_item(self, item: Any) -> None:
        """Encode and send one item of a streamed reply."""
        raise NotImplementedError

    def finish_stream(self, stream: StreamedReply, failed: Failed | None) -> None:
        """Say that a reply is complete, or that it failed before it began."""
        raise NotImplementedError

    # an async call

    def submit(self, entry: Entry, data: bytes | Parts) -> None:
        """Have a runner call the async handlers of an entry, once there is a place."""
        self.flags |= BUSY
        self.job = (entry, data)
        gate = entry.gate
        if gate is None:
            self._owner.runners.submit(self)
        elif gate.take():
            self.flags |= GATED
            self._owner.runners.submit(self)
        else:
            self.flags |= WAITING
            gate.when_free(self._on_place)

    def _on_place(self) -> None:
        """Begin: it is this connection's turn, and a place is free."""
        self.job[0].gate.take()
        self.flags = (self.flags | GATED) & ~WAITING
        self._owner.runners.submit(self)

    def begin(self) -> Coroutine[Any, Any, Any] | None:
        """Make the coroutine; None when the peer was reset while it was queued."""
        if self.flags & STREAMING:
            run: Coroutine[Any, Any, Any] = self.job.run()  # also when closed: the iterator is
            return run
        if self.flags & CLOSED:
            return None
        entry, data = self.job
        coroutine: Coroutine[Any, Any, Any] = entry.start(self, data)
        return coroutine

    def finish(self, result: Any) -> None:
        """Answer, then go on with what arrived meanwhile."""
        before = self.flags
        if before & STREAMING:
            self.end_stream(result)
            return
        if before & CLOSED:
            self.end_unheard(result)
            return
        self.flags = before & ~(BUSY | MASKED | PEER_GONE)
        self.answer(result)
        if self.flags & STREAMING:
            return
        if before & GATED:
            self.give_place()
        self.job = None
        if not self.flags & (CLOSED | CLOSING):
            self.on_writable()
        if self.flags or before != BUSY or self._owner.limits.idle_seconds != math.inf:
            self.received = self._owner.reactor.tick()
            self.settle()  # left out when nothing happened meanwhile: 0.4 µs

    def end_unheard(self, result: Any) -> None:
        """Let go of a call whose peer is gone: only what it failed with is of interest."""
        self.end_call()
        if isinstance(result, Failed):
            self.report(result)
        self._owner.release(self)

    def give_place(self) -> None:
        """Give the call's place back, if it holds one."""
        if self.flags & GATED:
            self.flags &= ~GATED
            self._entry_called().gate.give()

    def end_call(self) -> None:
        """Be free for the next message; a streamed reply keeps the connection busy."""
        self.give_place()
        self.flags &= ~_CALL_FLAGS
        self.job = None

    def _entry_called(self) -> Any:
        return self.job.entry if self.flags & STREAMING else self.job[0]

    # a streamed reply

    def begin_stream(self, entry: Entry, reply: Any, *, wanted: bool = True, form: Any = None) -> bool:
        """Begin to send an iterator's items; False when the reply is none."""
        kind = is_stream(reply)
        if kind is None:
            return False
        stream: StreamedReply
        if kind == "sync":
            owner = self._owner
            context = owner.copy_context()
            stream = PulledReply(
                self, entry, reply, reactor=owner.reactor, context=context, wanted=wanted, form=form
            )
        else:
            stream = AwaitedReply(self, entry, reply, runners=self._owner.runners, wanted=wanted, form=form)
        self.job = stream
        self.flags |= BUSY | STREAMING
        stream.start()
        return True

    def has_little_pending(self) -> bool:
        """Tell whether an iterator is to be asked for more."""
        return self.pending is None or len(self.pending) < self._owner.limits.pending_bytes // 2

    def end_stream(self, failed: Failed | None) -> None:
        """Complete the reply, or break off what can't be completed; then go on."""
        stream, before = self.job, self.flags
        if before & CLOSED:
            self.end_unheard(failed)
            return
        self.end_call()
        if failed is not None and (stream.begun or (before & PEER_GONE and _is_cancelled(failed))):
            self.report(failed)
            self.break_off(stream)
        else:
            self.finish_stream(stream, failed)
            self.go_on()

    def break_off(self, _stream: StreamedReply) -> None:
        """Close in the middle of a reply, so that its peer can tell: by a reset.

        A FIN would say that what it got was all.
        """
        with contextlib.suppress(OSError):  # the peer has reset it: nothing to tell
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.close()

    def go_on(self) -> None:
        """Serve what arrived meanwhile, after an exchange off the hot path."""
        if not self.flags & (CLOSED | CLOSING):
            self.on_writable()
        self.received = self._owner.reactor.tick()
        self.settle()

    # ends that come from outside

    @property
    def shielded(self) -> bool:
        """Whether its handler must not be cancelled because the peer is gone."""
        if self.flags & STREAMING:
            return bool(self.job.shield)
        return self.job is not None and bool(self.job[0].shield)

    def resume(self) -> None:
        """Go on: what was pending is written, or little enough."""
        if self.flags & STREAMING:
            self.job.resume()
        else:
            self.on_writable()

    def on_reset(self) -> None:
        """Cancel the handler that works for a peer that is gone."""
        if self.flags & BUSY and not self.shielded:
            self._owner.runners.cancel(self)

    def on_closed(self) -> None:
        """Let go of what waits; what runs ends by itself."""
        if self.flags & WAITING:
            self.flags &= ~WAITING
            self._entry_called().gate.forget(self._on_place)
        elif self.flags & STREAMING:
            self.job.on_closed()
        if self.runner is None:
            self.give_place()

    def cancel_handler(self) -> None:
        """Cancel what works for it, at the end of a drain or of a grace."""
        cancelled = Failed(HandlerCancelled("cancelled"))
        if self.flags & WAITING:
            self.flags &= ~WAITING
            self._entry_called().gate.forget(self._on_place)
            self.finish(cancelled)
        elif self.flags & STREAMING:
            self.job.stop(cancelled)
        else:
            self._owner.runners.cancel(self)
