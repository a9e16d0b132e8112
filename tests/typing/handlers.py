"""A user's module: handlers of every kind, checked by mypy strict and run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, TypedDict, assert_type, reveal_type

import attrs
import msgspec

import oread

registry = oread.Registry()


@attrs.frozen
class Order:
    """A payload."""

    sku: str
    count: int = 1


class Receipt(TypedDict):
    """A reply."""

    total: float


@registry.on("echo")
def echo(data: bytes) -> bytes:
    """Answer what came."""
    return data


@registry.on("orders/{order_id}", methods=("POST",))
async def order(
    order_id: Annotated[int, msgspec.Meta(ge=1)], body: Order, message: oread.Message
) -> Receipt | None:
    """Take an order."""
    return {"total": body.count * 1.5} if order_id and message.event else None


@registry.once("items")
def items(count: int = 3) -> Iterator[Order]:
    """Stream orders."""
    yield from (Order("a") for _ in range(count))


@registry.prepend("lines")
async def lines(request: oread.HttpRequest | None = None) -> AsyncIterator[str]:
    """Stream text."""
    yield request.method if request else "none"


assert_type(echo(b""), bytes)
assert_type(list(items()), list[Order])
with registry.on("scoped", echo) as registration:
    registration.remove()

reveal_type(echo)
reveal_type(order)
reveal_type(items)
reveal_type(lines)
echo("text")  # the tests want this fault to be found
