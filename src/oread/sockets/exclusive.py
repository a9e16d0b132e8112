"""Let one task at a time into an operation of a stream, as Trio's own streams do."""

from __future__ import annotations

import trio


class Exclusive:
    """Refuse a second task in the same operation.

    Args:
        what: it does, as in "another task is already sending on this stream".
    """

    __slots__ = ("_what", "held")

    def __init__(self, what: str) -> None:
        self.held = False
        """Whether a task is in it."""
        self._what = what

    def __enter__(self) -> None:
        if self.held:
            raise trio.BusyResourceError(f"another task is already {self._what} this stream")
        self.held = True

    def __exit__(self, *_error: object) -> None:
        self.held = False
