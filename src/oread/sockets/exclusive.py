"""Let one task at a time into an operation of a stream, as Trio's own streams do."""

from __future__ import annotations

import trio


class Exclusive:
    """Refuse a second task in the same operation.

    Args:
        what: it does, as in "another task is already sending on this stream".
    """

    __slots__ = ("_held", "_what")

    def __init__(self, what: str) -> None:
        self._held = False
        self._what = what

    def __enter__(self) -> None:
        if self._held:
            raise trio.BusyResourceError(f"another task is already {self._what} this stream")
        self._held = True

    def __exit__(self, *_error: object) -> None:
        self._held = False
