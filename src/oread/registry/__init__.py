"""The registry: events and their ordered handlers. It knows no sockets."""

from __future__ import annotations

from oread.registry.registry import HandlerInfo, Registration, Registry, Slot

__all__ = ["HandlerInfo", "Registration", "Registry", "Slot"]
