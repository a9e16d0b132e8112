"""Hold a framing machine to the contract of `oread.protocols.framing.Framing`.

    def test_netstrings_keep_the_contract():
        oread.testing.check_protocol(Netstrings, [b"", b"hello", bytes(300)], streams=[b"5:hel", b"x:"])

The rules, by the names under which `ContractError` tells them:

* **round trip**: what it encodes it reads back, from bytes and from a view,
  one message or many behind each other;
* **cuts**: messages and errors are those of the bytes, however they are cut;
* **unread**: what lies behind a returned message is given back as it came;
* **limit**: a message of `limit_bytes` is taken, one byte more is TooLarge;
* **error**: what goes wrong is a `MessageError`, and nothing that was received
  before is parsed after it;
* **memory**: it keeps one message and one read, and nothing of what is done.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import attrs

from oread.dispatch import Failed, isolate_call
from oread.errors import MessageError, TooLarge
from oread.protocols.framing import Framing
from oread.testing.contract import ContractError

LIMIT_BYTES = 65_536
"""For machines whose own limit is not what is checked."""
CUTS = 300
"""Single cuts of a stream that are tried; of a longer one a fixed random choice."""
PIECE_BYTES = 1_024
KEPT_BYTES = 16_384
"""What a machine may keep beside one message and one read: its tables and attributes."""

_CODE = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
"""What a machine refers to and does not keep."""

MakeFraming = Callable[[int], Framing]


@attrs.frozen
class _Result:
    """What came of a stream."""

    messages: tuple[bytes, ...]
    error: type[MessageError] | None

    def __str__(self) -> str:
        shown = ", ".join(repr(each if len(each) < 40 else each[:40] + b"...") for each in self.messages[:5])
        more = f" and {len(self.messages) - 5} more" if len(self.messages) > 5 else ""
        return f"[{shown}{more}]{'' if self.error is None else f' then {self.error.__name__}'}"


def check_protocol(
    make_framing: MakeFraming, payloads: Sequence[bytes], *, streams: Sequence[bytes] = ()
) -> None:
    """Check a framing machine against its contract.

    Args:
        make_framing: makes a machine with a limit in bytes; called often.
        payloads: messages that it can carry, one of at least two bytes.
        streams: further input as it would come from a peer, malformed too.

    Raises:
        ContractError: the first rule that was broken.
        ValueError: there is no payload of two bytes or more.
    """
    longest = max(payloads, key=len, default=b"")
    if len(longest) < 2:
        raise ValueError("payloads: one of at least two bytes is needed")
    wires = [_check_round_trip(make_framing, payload) for payload in payloads]
    everything = b"".join(wires)
    _expect("round trip", _feed(make_framing(LIMIT_BYTES), [everything]), _Result(tuple(payloads), None))
    for stream in (*wires, everything, everything[:-1], *streams):
        _check_cuts(make_framing, stream)
    _check_unread(make_framing, wires)
    _check_limit(make_framing, longest)
    _check_memory(make_framing, longest)


def _check_round_trip(make_framing: MakeFraming, payload: bytes) -> bytes:
    def encode(data: bytes | memoryview) -> bytes:
        return make_framing(LIMIT_BYTES).encode(data)

    wire, from_view = isolate_call(encode, payload), isolate_call(encode, memoryview(payload))
    for outcome in (wire, from_view):
        if isinstance(outcome, Failed):
            text = f"{payload[:40]!r} is not encoded: {outcome.error!r}"
            raise ContractError("round trip", text) from outcome.error
    if from_view != wire:
        raise ContractError(
            "round trip", f"a view of {payload[:40]!r} is encoded in another way than its bytes"
        )
    _expect("round trip", _feed(make_framing(LIMIT_BYTES), [wire]), _Result((payload,), None))
    return bytes(wire)


def _check_cuts(make_framing: MakeFraming, stream: bytes) -> None:
    whole = _feed(make_framing(LIMIT_BYTES), [stream] if stream else [])
    _expect("cuts", _feed(make_framing(LIMIT_BYTES), _single_bytes(stream)), whole, "byte by byte")
    places: Iterable[int] = range(1, len(stream))
    if len(stream) > CUTS:
        places = sorted(random.Random(len(stream)).sample(range(1, len(stream)), CUTS))  # noqa: S311
    for at in places:
        _expect("cuts", _feed(make_framing(LIMIT_BYTES), [stream[:at], stream[at:]]), whole, f"cut at {at}")


def _check_unread(make_framing: MakeFraming, wires: Sequence[bytes]) -> None:
    for first, second in itertools.product(wires, repeat=2):
        machine = make_framing(LIMIT_BYTES)
        machine.receive(first + second)
        if machine.unread() != second:
            raise ContractError(
                "unread", f"{machine.unread()[:40]!r} behind the first message, {second[:40]!r} came"
            )


def _check_limit(make_framing: MakeFraming, payload: bytes) -> None:
    wire = make_framing(LIMIT_BYTES).encode(payload)
    _expect("limit", _feed(make_framing(len(payload)), [wire]), _Result((payload,), None), "at the limit")
    for pieces in ([wire], _single_bytes(wire)):
        over = _feed(make_framing(len(payload) - 1), pieces)
        _expect("limit", over, _Result((), TooLarge), "one byte over the limit")


def _check_memory(make_framing: MakeFraming, payload: bytes) -> None:
    """Feed a message that is far too long, then many that are done with."""
    limit = len(payload)
    most_bytes = limit + PIECE_BYTES + KEPT_BYTES
    enough = 4 * most_bytes // limit + 1
    huge = isolate_call(make_framing(1 << 30).encode, payload * enough)
    if not isinstance(huge, Failed):  # else payloads can't be joined to a longer one
        _watch_memory(make_framing(limit), huge, most_bytes, "of a message over its limit")
    done = make_framing(limit).encode(payload) * enough
    _watch_memory(make_framing(limit), done, most_bytes, "after messages that are done with")


def _watch_memory(machine: Framing, stream: bytes, most_bytes: int, what: str) -> None:
    pieces = [stream[at : at + PIECE_BYTES] for at in range(0, len(stream), PIECE_BYTES)]
    with contextlib.suppress(MessageError):
        for _ in _messages(machine, pieces):
            kept = _kept_bytes(machine)
            if kept > most_bytes:
                raise ContractError("memory", f"{kept} bytes are kept {what}, of at most {most_bytes}")


def _kept_bytes(machine: Framing) -> int:
    """Add up what the machine refers to, but for code."""
    total, seen, left = 0, set[int](), [machine]
    while left:
        each: Any = left.pop()
        if id(each) not in seen and not isinstance(each, _CODE):
            seen.add(id(each))
            total += sys.getsizeof(each)
            left += gc.get_referents(each)
    return total


def _single_bytes(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


def _feed(machine: Framing, pieces: Sequence[bytes]) -> _Result:
    """Feed pieces and the end; return what came of them."""
    messages: list[bytes] = []

    def feed() -> None:
        messages.extend(message for message in _messages(machine, pieces) if message is not None)
        last = machine.receive_eof()
        if last is not None:
            messages.append(last)

    failed = isolate_call(feed)
    if failed is None:
        return _Result(tuple(messages), None)
    error = failed.error
    if not isinstance(error, MessageError):
        raise ContractError("error", f"{error!r} is raised; only a MessageError may be") from error
    for look in (machine.next_message, machine.receive_eof):
        outcome = isolate_call(look)
        if outcome is not None and not isinstance(outcome, Failed):
            raise ContractError("error", f"{outcome!r} is returned after {error!r}")
    return _Result(tuple(messages), type(error))


def _messages(machine: Framing, pieces: Iterable[bytes]) -> Iterator[bytes | None]:
    """Yield every message, and None where the machine needs more."""
    for piece in pieces:
        message = machine.receive(piece)
        yield message
        while message is not None:
            message = machine.next_message()
            yield message


def _expect(rule: str, result: _Result, expected: _Result, where: str = "") -> None:
    if result != expected:
        raise ContractError(rule, f"{result}, not {expected}{', ' if where else ''}{where}")
