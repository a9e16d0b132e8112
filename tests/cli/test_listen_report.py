"""How `oread listen` says what came: text, JSON, dumps, and nothing a terminal obeys."""

from __future__ import annotations

import json
import os

import pytest

from oread.cli.listen_report import message_json, message_lines
from oread.messages import Datagram, Headers, HttpRequest, Message, Peer

NOW = 1_700_000_000.25
PEER = Peer(("10.77.0.1", 40_000), "udp")


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are local; here they are UTC."""
    import time

    monkeypatch.setitem(os.environ, "TZ", "UTC")
    time.tzset()


def datagram(data: bytes, **more: object) -> Datagram:
    return Datagram(
        event="listen",
        data=data,
        transport="udp",
        peer=PEER,
        local=("239.77.0.1", 7_007),
        **{"mode": "multicast", "interface": "eth0", "ttl": 1, **more},
    )


def tail(data: bytes, most: int = 1_024) -> str:
    """Return what stands behind the size."""
    return message_lines(datagram(data), NOW, most).partition("ttl 1, ")[2]


def test_a_datagram_tells_its_way() -> None:
    """Time, mode, peer, destination, interface, hops and size stand before the payload."""
    line = message_lines(datagram(b"hello"), NOW, 100)
    assert line == "22:13:20.250000 multicast 10.77.0.1:40000 -> 239.77.0.1:7007 eth0 ttl 1, 5 bytes: hello"
    bare = message_lines(datagram(b"", interface=None, ttl=None, truncated=True, timestamp=1.5), NOW, 100)
    assert bare == "00:00:01.500000 multicast 10.77.0.1:40000 -> 239.77.0.1:7007, 0 bytes, cut"


def test_other_transports_tell_what_they_have() -> None:
    """A chunk has two addresses, a request its target too."""
    chunk = Message(event="x", data=b"a\nb\n", transport="tcp", peer=PEER, local=("127.0.0.1", 7))
    assert message_lines(chunk, NOW, 100).endswith("tcp 10.77.0.1:40000 -> 127.0.0.1:7, 4 bytes: a\\nb\\n")
    request = HttpRequest(
        event="x",
        data=b"1",
        transport="http",
        peer=PEER,
        local=("127.0.0.1", 80),
        method="POST",
        target="/a?b",
        path="/a",
        headers=Headers((("host", "h"),)),
    )
    assert message_lines(request, NOW, 100).endswith(", POST /a?b, 1 byte: 1")
    found = json.loads(message_json(request, NOW))
    assert (found["method"], found["target"], found["headers"]) == ("POST", "/a?b", [["host", "h"]])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": [1,\n 2]}', '13 bytes: {"a":[1,2]}'),
        (b"{not json", "9 bytes: {not json"),
        ("grün".encode(), "5 bytes: grün"),
        (b"a long line of text with a bell \x07", "33 bytes: a long line of text with a bell \\x07"),
        ("a right to left mark \u202e here".encode(), "29 bytes: a right to left mark \\u202e here"),
        (b"\x1b[2J", "4 bytes\n    0000  1b 5b 32 4a                                      .[2J"),
        (b"\xff", "1 byte\n    0000  ff                                               ."),
        (b"[" * 100_000, f"100000 bytes: {'[' * 1_024} ... 98976 more"),
    ],
)
def test_payloads_are_decoded_as_fits(data: bytes, expected: str) -> None:
    """Text as text, JSON in one line, the rest as a dump; control characters never get through."""
    assert tail(data) == expected.replace("13 bytes", f"{len(data)} bytes")


def test_what_is_shown_is_bounded() -> None:
    """The rest is told by its number."""
    assert tail(b"abcdef", 4) == "6 bytes: abcd ... 2 more"
    assert tail(bytes(6), 4).splitlines()[-2:] == [f"    0000  {'00 00 00 00':<47}  ....", "... 2 more"]


def test_json_has_the_payload_in_full() -> None:
    """Text where it is UTF-8, else base64; one line each."""
    found = json.loads(message_json(datagram(b"a\nb", timestamp=2.5), NOW))
    assert found == {
        "time": 2.5,
        "transport": "udp",
        "peer": "10.77.0.1:40000",
        "local": "239.77.0.1:7007",
        "size": 3,
        "mode": "multicast",
        "interface": "eth0",
        "ttl": 1,
        "truncated": False,
        "text": "a\nb",
    }
    binary = message_json(datagram(b"\xff\n"), NOW)
    assert json.loads(binary)["base64"] == "/wo="
    assert b"\n" not in binary
