"""The registry: events and their ordered handlers. It knows no sockets.

`registry` is what users call, `tree` compiles what it says and swaps it in,
`registration` holds the options, `wrapping` makes threads and deadlines of
them. `emission` and `subscription` are the ways in and out that need no
socket, `hooks` tell of changes and failures.
"""

from __future__ import annotations

from oread.registry.emission import Policy
from oread.registry.hooks import Failure, HandlerChange
from oread.registry.registration import Attachment, HandlerInfo, HandlerOptions, Registration
from oread.registry.registry import Registry
from oread.registry.subscription import Overflow, Subscription, SubscriptionStatistics
from oread.registry.tree import Slot

__all__ = [
    "Attachment",
    "Failure",
    "HandlerChange",
    "HandlerInfo",
    "HandlerOptions",
    "Overflow",
    "Policy",
    "Registration",
    "Registry",
    "Slot",
    "Subscription",
    "SubscriptionStatistics",
]
