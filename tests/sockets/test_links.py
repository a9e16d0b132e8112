"""What is read of the kernel's news about interfaces."""

from __future__ import annotations

import socket
import struct
import sys

import pytest

from oread.sockets.links import LinkNews, gone_links

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="rtnetlink is Linux's")

NEW_LINK, DELETED_LINK, DELETED_ADDRESS = 16, 17, 21


def news(kind: int, index: int, family: int = socket.AF_UNSPEC, tail: bytes = b"") -> bytes:
    """Build one message as the kernel does (rtnetlink(7))."""
    body = struct.pack("=BxHiII", family, 1, index, 0, 0) + tail
    size = 16 + len(body)
    return (struct.pack("=IHHII", size, kind, 0, 0, 0) + body).ljust((size + 3) & -4, b"\0")


def test_deleted_links_are_found_among_other_news() -> None:
    """What has an odd length, or says that a bridge let go of a link, misleads nobody."""
    messages = [
        news(NEW_LINK, 7, tail=b"eth0\0"),
        news(DELETED_LINK, 5, tail=b"odd"),
        news(DELETED_LINK, 6, family=7),
        news(DELETED_ADDRESS, 8),
        news(DELETED_LINK, 9),
    ]
    assert list(gone_links(b"".join(messages))) == [5, 9]


@pytest.mark.parametrize("cut", range(1, 32))
def test_news_that_is_cut_ends_there(cut: int) -> None:
    """Neither an error nor a wrong index comes of what is incomplete."""
    assert list(gone_links(news(DELETED_LINK, 5) + news(DELETED_LINK, 6)[:cut])) == [5]


def test_length_of_nothing_does_not_loop() -> None:
    """A message that says it is empty ends the reading."""
    assert list(gone_links(bytes(64))) == []


def test_no_news_is_an_empty_set() -> None:
    """Reading when nothing waits returns at once."""
    news_of_links = LinkNews()
    try:
        assert news_of_links.read() == frozenset()
    finally:
        news_of_links.close()
