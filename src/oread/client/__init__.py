"""The calling side: one call without ceremony, or a connection for many.

`connect` gives a `Client`, the way for programs, and `open_datagram` what UDP
has beyond calls; `call_stream`, `call_http`, `call_websocket` and
`call_datagram` send one message and know no events, the way for `oread call`.
Reconnecting, retrying and redirects are the caller's.
"""

from __future__ import annotations

from oread.client.calls import RESPONDERS, call_datagram, call_http, call_stream
from oread.client.client import Client, ItemStream, connect, connect_by
from oread.client.open_datagram import Datagrams, open_datagram
from oread.client.sending import LIMIT_BYTES
from oread.client.target import Target, parse_target
from oread.client.values import DatagramCounters, Received
from oread.client.websocket import call_websocket

__all__ = [
    "LIMIT_BYTES",
    "RESPONDERS",
    "Client",
    "DatagramCounters",
    "Datagrams",
    "ItemStream",
    "Received",
    "Target",
    "call_datagram",
    "call_http",
    "call_stream",
    "call_websocket",
    "connect",
    "connect_by",
    "open_datagram",
    "parse_target",
]
