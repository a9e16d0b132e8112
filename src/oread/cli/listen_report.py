"""Say in a line what arrived, or as JSON.

Payloads come from anywhere: what a terminal would take for a command is
escaped. Text is shown as text, JSON in one line, anything else as a hex dump.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterator
from typing import Any

import msgspec

from oread.messages import Datagram, HttpRequest, Message, format_address

_ROW_BYTES = 16


def message_lines(message: Message, now: float, most_bytes: int) -> str:
    """Say one message.

    Args:
        message: as it came.
        now: seconds since the epoch; a datagram's time stamp is more exact.
        most_bytes: of its payload that are shown.
    """
    facts = [f"{_time(message, now)} {_way(message)}"]
    if isinstance(message, HttpRequest):
        facts.append(f"{message.method} {_escape(message.target)}")
    size = len(message.data)
    facts.append(f"{size} byte{'' if size == 1 else 's'}")
    if isinstance(message, Datagram) and message.truncated:
        facts.append("cut")
    text = _as_text(message.data)
    shown = message.data[:most_bytes]
    more = f" ... {size - len(shown)} more" if len(shown) < size else ""
    if not size:
        return ", ".join(facts)
    if text is not None:
        return f"{', '.join(facts)}: {_escape(text[:most_bytes])}{more}"
    return "\n".join([", ".join(facts), *_dump(shown), *([more.strip()] if more else [])])


def _time(message: Message, now: float) -> str:
    stamp = message.timestamp if isinstance(message, Datagram) else None
    local = datetime.datetime.fromtimestamp(now if stamp is None else stamp).astimezone()
    return local.strftime("%H:%M:%S.%f")


def _way(message: Message) -> str:
    way = f"{message.peer} -> {format_address(message.local)}"
    if not isinstance(message, Datagram):
        return f"{message.transport} {way}"
    interface = f" {message.interface}" if message.interface is not None else ""
    ttl = f" ttl {message.ttl}" if message.ttl is not None else ""
    return f"{message.mode} {way}{interface}{ttl}"


def _as_text(data: bytes) -> str | None:
    """Return text as it is, JSON objects and arrays in one line; None for what is neither."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    if text[:1] in ("{", "["):
        try:
            return msgspec.json.encode(msgspec.json.decode(data)).decode()
        except (msgspec.MsgspecError, RecursionError):
            return text
    control = sum(not character.isprintable() and character not in "\t\r\n" for character in text)
    return text if control * 10 <= len(text) else None


def _escape(text: str) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def _dump(data: bytes) -> Iterator[str]:
    for at in range(0, len(data), _ROW_BYTES):
        row = data[at : at + _ROW_BYTES]
        shown = "".join(chr(code) if 32 <= code < 127 else "." for code in row)
        yield f"    {at:04x}  {row.hex(' '):<{3 * _ROW_BYTES - 1}}  {shown}"


def message_json(message: Message, now: float) -> bytes:
    """Return one message as a JSON object, in one line, its payload in full.

    The payload is `text`, or `base64` where it is not UTF-8.
    """
    found: dict[str, Any] = {
        "time": now,
        "transport": message.transport,
        "peer": str(message.peer),
        "local": format_address(message.local),
        "size": len(message.data),
    }
    if isinstance(message, Datagram):
        found["time"] = now if message.timestamp is None else message.timestamp
        found |= {name: getattr(message, name) for name in ("mode", "interface", "ttl", "truncated")}
    elif isinstance(message, HttpRequest):
        found |= {"method": message.method, "target": message.target, "headers": message.headers.pairs}
    try:
        found["text"] = message.data.decode()
    except UnicodeDecodeError:
        found["base64"] = base64.b64encode(message.data).decode("ascii")
    return msgspec.json.encode(found)
