"""The states of a connection, as bits of its `flags`.

0 is open, idle, nothing pending: the hot path asks for that alone.
"""

from __future__ import annotations

READ_BYTES = 65_536
"""One read per readiness, so that one fast sender can't starve the others."""
SMALL_BYTES = 512 - 33
"""What CPython's small-object allocator holds as bytes.

A larger buffer comes from malloc and is given back for the most part, which
costs about 0.5 µs a message.
"""

BUSY = 1 << 0
"""A handler works for it: it is not read."""
MASKED = 1 << 1
"""Input arrived while it is busy: it is not watched for input until it is free."""
INPUT_ENDED = 1 << 2
PENDING = 1 << 3
"""Output waits for the peer."""
FULL = 1 << 4
"""So much waits that nothing more is read or served."""
DEFERRED = 1 << 5
"""Its next messages wait for the reactor's next pass."""
CLOSING = 1 << 6
"""It ends as soon as nothing is pending."""
LINGERING = 1 << 7
CLOSED = 1 << 8
UNWATCHED = 1 << 9
"""Taken out of the poller, because a hang-up can't be masked."""
DRAINING = 1 << 10
"""It ends when its present exchange has ended."""
PEER_GONE = 1 << 11
"""The peer's FIN was seen while it is busy."""
WAITING = 1 << 12
"""Its call waits for a place: the event is limited."""
GATED = 1 << 13
"""Its call holds a place."""
STREAMING = 1 << 14
"""Items of a reply are being sent."""
UPLOADING = 1 << 15
"""A handler takes the body of its request, whose end has not come: a FIN says nothing yet."""
READING = 1 << 16
"""That handler waits for more of the body: it is read although it is busy."""
