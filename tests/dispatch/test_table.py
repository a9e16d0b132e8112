"""Patterns and look-up: precedence, captures, strict decoding."""

from __future__ import annotations

import pytest

from oread.dispatch import Pattern, Table, decode_path
from oread.errors import BadRequest, RegistrationError


def table(*texts: str) -> Table[str]:
    """Make a table whose values are the patterns."""
    return Table.build((Pattern.parse(text), text) for text in texts)


@pytest.mark.parametrize(
    ("path", "pattern", "captures"),
    [
        ("orders", "orders", {}),
        ("orders/7", "orders/{id}", {"id": "7"}),
        ("orders/new", "orders/new", {}),
        ("orders/7/lines", "orders/{id}/lines", {"id": "7"}),
        ("orders/7/lines/3", "orders/{rest:path}", {"rest": "7/lines/3"}),
        ("orders/", "orders/{rest:path}", {"rest": ""}),
        ("files", "files/{rest:path}", {"rest": ""}),
        ("files/a%2Fb/c", "files/{rest:path}", {"rest": "a/b/c"}),
        ("orders/a%2Fb", "orders/{id}", {"id": "a/b"}),
        ("%6Frders", "orders", {}),
    ],
)
def test_more_literal_wins(path: str, pattern: str, captures: dict[str, str]) -> None:
    """Exact names first, then what is literal for longer; captures are decoded."""
    found = table(
        "orders", "orders/{id}", "orders/new", "orders/{id}/lines", "orders/{rest:path}", "files/{rest:path}"
    )
    assert found.find(path) == (pattern, captures)


@pytest.mark.parametrize("path", ["", "order", "a/../orders", "orders//", "/orders", "ORDERS"])
def test_nothing_is_normalised(path: str) -> None:
    """No second spelling reaches a handler."""
    assert table("orders", "orders/{id}").find(path) is None


@pytest.mark.parametrize("path", ["orders/%", "orders/%2", "orders/%zz", "orders/%ff"])
def test_bad_escapes_are_refused(path: str) -> None:
    """What can't be decoded is the peer's fault, not a missing handler."""
    with pytest.raises(BadRequest):
        table("orders/{id}").find(path)
    with pytest.raises(BadRequest):
        decode_path(path)


@pytest.mark.parametrize("text", ["", "/a", "a/{", "a/{x}y", "{x}/{x}", "{rest:path}/a", "a/" * 40, "{1x}"])
def test_malformed_patterns_are_refused(text: str) -> None:
    """A pattern that could not match as it reads is refused at registration."""
    with pytest.raises(RegistrationError):
        Pattern.parse(text)
