"""Patterns and look-up: precedence, captures, strict decoding."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


SEGMENTS = st.sampled_from(["a", "b", "{one}"])
TEXTS = st.lists(SEGMENTS, min_size=1, max_size=3, unique=True).map("/".join) | st.sampled_from(
    ["{tail:path}", "a/{tail:path}", "a/b/{tail:path}"]
)


@given(st.lists(st.tuples(TEXTS, st.booleans()), max_size=20))
def test_a_table_that_was_changed_is_as_one_built_anew(changes: list[tuple[str, bool]]) -> None:
    """Whatever came and went in whatever order; and the tables before are as they were."""
    present: dict[str, str] = {}
    changed: Table[str] = Table()
    for text, comes in changes:
        before = changed
        was = {path: before.find(path) for path in PATHS}
        changed = changed.replace(Pattern.parse(text), text if comes else None)
        if comes:
            present[text] = text
        else:
            present.pop(text, None)
        built = table(*present)
        assert changed == built
        assert {path: changed.find(path) for path in PATHS} == {path: built.find(path) for path in PATHS}
        assert {path: before.find(path) for path in PATHS} == was


PATHS = ["/".join(parts) for size in range(1, 4) for parts in product(("a", "b", "c"), repeat=size)]


def test_a_changed_table_shares_what_is_as_it_was() -> None:
    """So that a change costs little where there are many events."""
    before = table("a/b/c", "d/{x}", "e")
    after = before.replace(Pattern.parse("d/{x}/f"), "new")
    assert after._root.children["a"] is before._root.children["a"]
    assert after._root.children["d"] is not before._root.children["d"]
