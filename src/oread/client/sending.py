"""Send beside receiving, and receive within a bound: what all stream calls share."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import attrs
import trio

from oread.errors import MessageError, TooLarge

LIMIT_BYTES = 1 << 26
"""64 MiB: what one call sends or takes at most (curl and nc have no bound)."""
READ_BYTES = 65_536
SETTLING_STEPS = 5
"""A socket's `send` needs one step after the system call, a TLS stream's a few."""


@attrs.define
class Sent:
    """How far the sending beside a block has come."""

    broken: bool = False
    """The peer took no more; what it still had to say is received all the same."""
    done: bool = False

    async def is_done(self) -> bool:
        """Tell whether all was sent; what the system has taken counts.

        The task that sends may need a few more steps to learn of it.
        """
        for _ in range(SETTLING_STEPS):
            if self.done or self.broken:
                break
            await trio.lowlevel.checkpoint()
        return self.done


@contextlib.asynccontextmanager
async def sending(
    stream: trio.abc.HalfCloseableStream, data: bytes, *, half_close: bool = True
) -> AsyncIterator[Sent]:
    """Send beside the block, which receives; give up sending at its end.

    A peer that echoes while it is sent to would block for ever otherwise.
    """
    sent = Sent()
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, stream, data, half_close, sent)
        try:
            yield sent
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, MessageError) as error:
            failure = error  # raised behind the nursery, which would wrap it
        finally:
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def send(
    stream: trio.abc.HalfCloseableStream,
    data: bytes,
    half_close: bool,  # noqa: FBT001 - for start_soon
    sent: Sent,
) -> None:
    """Send everything and note how it went; what breaks is the receiver's to tell."""
    try:
        await stream.send_all(data)
        if half_close:
            await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        sent.broken = True
    else:
        sent.done = True


@attrs.define
class BoundedReader:
    """Read a stream up to a bound.

    Args:
        stream: stays the caller's.
        left_bytes: `math.inf` for an answer without an end.
    """

    _stream: trio.abc.ReceiveStream
    _left_bytes: float = LIMIT_BYTES

    async def read(self) -> bytes:
        """Return what came, `b""` at the end.

        Raises:
            TooLarge: more came back than the bound.
            trio.BrokenResourceError: the peer broke off.
        """
        chunk = await self._stream.receive_some(READ_BYTES)
        self._left_bytes -= len(chunk)
        if self._left_bytes < 0:
            raise TooLarge(f"more than {LIMIT_BYTES} bytes came back")
        return bytes(chunk)
