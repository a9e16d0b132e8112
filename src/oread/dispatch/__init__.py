"""Compiled dispatch: an event's handlers as one callable.

`signature` reads what a handler wants, `entry` compiles a chain of handlers,
`table` finds the entry of a name or path, `payload` turns what came back into
bytes. Entries are made when handlers change, never when a message comes, and
are swapped whole: a call in flight finishes under the entry it started with.

Not here: who registers (the registry) and who calls (the listeners).
"""

from __future__ import annotations

from oread.dispatch.entry import Entry, Failed, Link, Origin, compile_entry, isolate
from oread.dispatch.payload import encode_payload
from oread.dispatch.signature import Plan, read_signature
from oread.dispatch.table import Pattern, Table, decode_path

__all__ = [
    "Entry",
    "Failed",
    "Link",
    "Origin",
    "Pattern",
    "Plan",
    "Table",
    "compile_entry",
    "decode_path",
    "encode_payload",
    "isolate",
    "read_signature",
]
