"""Compiled dispatch: an event's handlers as one callable.

`signature` reads what a handler wants, `entry` compiles a chain of handlers,
`middleware` goes around it, `gate` bounds how many run at a time, `table`
finds the entry of a name or path, `payload` turns what came back into bytes.
Entries are made when handlers change, never when a message comes, and are
swapped whole: a call in flight finishes under the entry it started with.

Not here: who registers (the registry) and who calls (the listeners).
"""

from __future__ import annotations

from oread.dispatch.compiled import Application, Entry, Failed, Layer, Link, Origin, Spent
from oread.dispatch.entry import compile_entry, compile_link, isolate, isolate_call
from oread.dispatch.gate import Gate
from oread.dispatch.middleware import Passage, fold_async, fold_sync, read_middleware
from oread.dispatch.payload import encode_payload, is_stream
from oread.dispatch.signature import Plan, read_signature
from oread.dispatch.table import Pattern, Table, decode_path

__all__ = [
    "Application",
    "Entry",
    "Failed",
    "Gate",
    "Layer",
    "Link",
    "Origin",
    "Passage",
    "Pattern",
    "Plan",
    "Spent",
    "Table",
    "compile_entry",
    "compile_link",
    "decode_path",
    "encode_payload",
    "fold_async",
    "fold_sync",
    "is_stream",
    "isolate",
    "isolate_call",
    "read_middleware",
    "read_signature",
]
