"""How long whoever need not wait works before the others get their turn."""

from __future__ import annotations

TURN_SECONDS = 0.001
"""Of the reactor, of deadlines, of a handler that never waits; a task that ticks is late by about this."""
