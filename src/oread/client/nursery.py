"""A nursery that the caller of the block need not know of."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator

import trio


@contextlib.asynccontextmanager
async def open_plain_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery that ends with its block, whose error stays as it was raised.

    For tasks that serve the block, and raise nothing of their own if all goes
    well: they are cancelled when it ends.
    """
    body_error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            finally:
                body_error = sys.exc_info()[1]
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # By their leaves: a scope that was cancelled rebuilds the groups that pass through it.
        if body_error is None or not set(_leaves(group)) <= set(_leaves(body_error)):
            raise
    else:
        return
    if body_error is not None:
        raise body_error


def _leaves(error: BaseException) -> Iterator[int]:
    """Yield the identities of what is no group."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield id(error)
