"""Handlers that take their payload part by part, whatever it came by."""

from __future__ import annotations

import typing
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from typing import Any

import pytest

import oread
from oread.dispatch import read_signature
from oread.dispatch.parts import OnePart
from oread.dispatch.schema import event_schema

NOTHING = OnePart(b"")


async def parts(body: AsyncIterator[bytes]) -> None:
    """Take them."""


async def parts_too(body: AsyncIterable[bytes]) -> None:
    """Take them."""


async def parts_spelt(body: typing.AsyncIterator[bytes]) -> None:
    """Take them."""


async def yielding(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Take and give."""
    async for part in body:
        yield part


async def texts(body: AsyncIterator[str]) -> None:
    """Take what is not served."""


async def defaulted(body: AsyncIterator[bytes] = NOTHING) -> None:
    """Have a default."""


async def optional(body: AsyncIterator[bytes] | None = None) -> None:
    """Have a default."""


def inline(body: AsyncIterator[bytes]) -> None:
    """Be unable to wait."""


def generator(body: AsyncIterator[bytes]) -> Iterator[bytes]:
    """Be unable to wait."""
    yield b""


async def whole(body: bytes) -> None:
    """Take all of it."""


@pytest.mark.parametrize("handler", [parts, parts_too, parts_spelt, yielding])
def test_parts_are_asked_for_by_the_annotation(handler: Any) -> None:
    """Every spelling of an async iterator of bytes."""
    assert read_signature(handler, ()).payload == "parts"


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (texts, "AsyncIterator[bytes]"),
        (defaulted, "no default"),
        (optional, "AsyncIterator"),
        (inline, "async def"),
        (generator, "async def"),
    ],
)
def test_what_cannot_be_given_in_parts_is_refused(handler: Any, words: str) -> None:
    """At registration, with what would do."""
    with pytest.raises(oread.RegistrationError) as caught:
        oread.Registry().on("e", handler)
    assert words in str(caught.value)


@pytest.mark.parametrize("second", [whole, parts_too])
def test_a_payload_in_parts_is_for_one_handler(second: Any) -> None:
    """Beside it stands what takes no payload, or is for other methods."""
    registry = oread.Registry()
    registry.on("e", parts)
    with pytest.raises(oread.RegistrationError, match="only one can do"):
        registry.on("e", second)
    assert registry.count("e") == 1
    registry.on("e", lambda: None)
    registry.on("f", parts, methods=("PUT",))
    registry.on("f", second, methods=("POST",))


async def test_what_came_whole_is_one_part() -> None:
    """An empty payload has none, as a body without bytes."""
    assert [part async for part in OnePart(memoryview(b"ab"))] == [b"ab"]
    assert [part async for part in OnePart(b"")] == []


def test_parts_are_described_as_bytes() -> None:
    """In the schema of the event, and where handlers are listed."""
    registry = oread.Registry()
    registry.on("e", parts)
    described = event_schema(registry.handlers("e")[0])
    assert described["payload"]["contentMediaType"] == "application/octet-stream"
    assert [each.payload for each in registry.handlers("e")] == ["parts"]
