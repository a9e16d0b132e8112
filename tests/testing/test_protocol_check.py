"""`check_protocol`: our machines and a good one pass, and each broken rule is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from oread.errors import BadRequest, TooLarge
from oread.protocols.framing import FRAMINGS, Framing, Length, Lines
from oread.testing import ContractError, check_protocol

PAYLOADS = [b"", b"a", b"hello, world", bytes(range(32, 127)) * 3]
STREAMS = [b"5:hel", b"x:", b"3:abc,2:de;", b"99999999:", b",", b"5", b"3:abc,x:3:abc,"]


class Netstrings:
    """A user's own machine: `5:hello,` (D. J. Bernstein)."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit = limit_bytes
        self.buffer = b""

    def receive(self, data: bytes) -> bytes | None:
        """Take bytes in."""
        self.buffer += data
        return self.next_message()

    def next_message(self) -> bytes | None:
        """Return the next netstring."""
        digits, colon, rest = self.buffer.partition(b":")
        if digits and not digits.isdigit():
            return self.fail(BadRequest("no length"))
        if len(digits) > 9 or (digits and int(digits) > self.limit):
            return self.fail(TooLarge("too long"))
        if colon and not digits:
            return self.fail(BadRequest("no length"))
        if not colon or len(rest) <= int(digits):
            return None
        return self.take(rest, int(digits))

    def take(self, rest: bytes, size: int) -> bytes | None:
        """Return a whole one."""
        if rest[size : size + 1] != b",":
            return self.fail(BadRequest("no comma"))
        self.buffer = rest[size + 1 :]
        return rest[:size]

    def fail(self, error: Exception) -> None:
        """Parse nothing more."""
        self.buffer = b""
        raise error

    def receive_eof(self) -> bytes | None:
        """Refuse an end in the middle."""
        if self.buffer:
            self.fail(BadRequest("cut short"))
        return None

    def encode(self, payload: bytes | memoryview) -> bytes:
        """Frame a reply."""
        return b"%d:%b," % (len(payload), payload)

    def unread(self) -> bytes:
        """Return what lies behind."""
        return self.buffer


def digits_at_once(machine: Netstrings, data: bytes) -> bytes | None:
    """Need the whole length in one read."""
    if data[:1].isdigit() and not machine.buffer and b":" not in data:
        raise BadRequest("no colon")
    return Netstrings.receive(machine, data)


def eager(machine: Netstrings, data: bytes) -> bytes | None:
    """Drop what lies behind the first message of a read."""
    message = Netstrings.receive(machine, data)
    if message is not None:
        machine.buffer = b""
    return message


class Unlimited(Netstrings):
    """Ignore the limit."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(1 << 30)


class OffByOne(Netstrings):
    """Take one byte more than allowed."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes + 1)


class Exclusive(Netstrings):
    """Take one byte less than allowed."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes - 1)


class Late(Netstrings):
    """Look at the limit when the message is whole."""

    def next_message(self) -> bytes | None:
        """Return the next netstring, or complain."""
        limit, self.limit = self.limit, 1 << 40
        try:
            message = super().next_message()
        finally:
            self.limit = limit
        if message is not None and len(message) > limit:
            return self.fail(TooLarge("too long"))
        return message


class Historian(Netstrings):
    """Keep every message."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.history: list[bytes] = []

    def take(self, rest: bytes, size: int) -> bytes | None:
        """Return a whole one, and keep it."""
        self.history.append(rest[:size] + b"")
        self.history.append(rest[size:])
        return super().take(rest, size)


class Stubborn(Netstrings):
    """Go on behind what is malformed."""

    def fail(self, error: Exception) -> None:
        """Skip one byte and keep the rest."""
        self.buffer = self.buffer[self.buffer.find(b"x") + 2 :] if b"x" in self.buffer else b""
        raise error


class Crashing(Netstrings):
    """Let the standard library's error out."""

    def next_message(self) -> bytes | None:
        """Return the next netstring."""
        if self.buffer[:1] == b"x":
            int(self.buffer)
        return super().next_message()


class Forgetful(Netstrings):
    """Give nothing back."""

    def unread(self) -> bytes:
        """Return nothing."""
        return b""


class WithoutView(Netstrings):
    """Encode bytes only."""

    def encode(self, payload: bytes | memoryview) -> bytes:
        """Fail for a view."""
        return super().encode(payload.lstrip(b""))  # type: ignore[union-attr]


class Lossy(Netstrings):
    """Strip what it encodes."""

    def encode(self, payload: bytes | memoryview) -> bytes:
        """Lose the white space at the ends."""
        return super().encode(bytes(payload).strip())


def make(name: str, receive: Callable[[Netstrings, bytes], bytes | None]) -> type[Netstrings]:
    """Make a machine with another `receive`."""
    return type(name, (Netstrings,), {"receive": receive})


def test_good_machines_pass() -> None:
    """A user's own, and ours (lines has no newline inside)."""
    check_protocol(Netstrings, PAYLOADS, streams=STREAMS)
    check_protocol(Length, [*PAYLOADS, b"\n\0\xff"], streams=[b"\0\0\0", b"\xff" * 9, b"\0\0\0\1"])
    check_protocol(Lines, [b"", b"a", b"hello, world"], streams=[b"\r\n\r\na\r\n", b"\n" * 9, b"a\nb", b"\r"])


@pytest.mark.parametrize(
    ("machine", "rule", "text"),
    [
        (WithoutView, "round trip", "not encoded: AttributeError"),
        (Lossy, "round trip", "not"),
        (make("DigitsAtOnce", digits_at_once), "cuts", "byte by byte"),
        (make("Eager", eager), "round trip", "not"),
        (Forgetful, "unread", "behind the first message"),
        (Unlimited, "limit", "one byte over the limit"),
        (OffByOne, "limit", "one byte over the limit"),
        (Exclusive, "limit", "at the limit"),
        (Stubborn, "error", "is returned after BadRequest"),
        (Crashing, "error", "ValueError.*only a MessageError"),
        (Late, "memory", "of a message over its limit"),
        (Historian, "memory", "after messages that are done with"),
    ],
)
def test_a_broken_rule_is_named(machine: Callable[[int], Framing], rule: str, text: str) -> None:
    """Each bad machine breaks one rule, and the check says which."""
    with pytest.raises(ContractError, match=text) as broken:
        check_protocol(machine, PAYLOADS, streams=STREAMS)
    assert broken.value.rule == rule


def test_a_longer_payload_is_asked_for() -> None:
    """With nothing to cut there is nothing to check."""
    with pytest.raises(ValueError, match="two bytes"):
        check_protocol(FRAMINGS["lines"], [b"", b"a"])
