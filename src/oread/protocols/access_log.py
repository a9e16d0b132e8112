"""One line of an access log: what was asked, and what became of it.

A record is a value; whoever is given one writes it where it wants to. The text
forms are those of Apache's Common and Combined formats. Everything a peer can
choose is escaped, so that no request can forge a line or end a field.

Not here: when records are made (`oread.listeners.http_log`).
Source: https://httpd.apache.org/docs/2.4/logs.html#common (times are UTC).
"""

from __future__ import annotations

import re
import time
from typing import Any

import attrs

from oread.messages import Headers, Peer

_UNSAFE = re.compile(r"[^ !#-\[\]-~]")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@attrs.frozen(kw_only=True)
class AccessRecord:
    """One HTTP request, answered or not."""

    began: float
    """Seconds since the epoch when its head was complete."""
    seconds: float
    """From then until its answer was complete, or given up."""
    peer: Peer
    """The other side of the connection."""
    client: Peer
    """Who sent it: the peer, or whom a trusted proxy names."""
    method: str | None
    """None, as target and version, of what was refused before it could be understood."""
    target: str | None
    version: str | None
    headers: Headers
    event: str
    """The event that served it; empty when none did."""
    status: int | None
    """None when the connection ended before an answer."""
    sent_bytes: int
    """Of the body, as it was framed."""
    complete: bool
    """False when the answer was broken off, or never came."""

    def fields(self) -> dict[str, Any]:
        """Return it as names and values, for a structured log."""
        return {
            "client": str(self.client),
            "peer": str(self.peer),
            "method": self.method,
            "target": self.target,
            "version": self.version,
            "status": self.status,
            "sent_bytes": self.sent_bytes,
            "seconds": round(self.seconds, 6),
            "event_name": self.event,
            "complete": self.complete,
            "referer": self.headers.get("referer"),
            "user_agent": self.headers.get("user-agent"),
        }

    def common(self) -> str:
        """Return it in the Common Log Format, without a newline."""
        request = "-" if self.method is None else f"{self.method} {self.target} HTTP/{self.version}"
        host = _escape(self.client.host or "-").replace(" ", "\\x20")
        status, sent = self.status or "-", self.sent_bytes or "-"
        return f'{host} - - [{_time(self.began)}] "{_escape(request)}" {status} {sent}'

    def combined(self) -> str:
        """Return it in the Combined Log Format: referer and user agent too."""
        referer = _escape(self.headers.get("referer") or "-")
        agent = _escape(self.headers.get("user-agent") or "-")
        return f'{self.common()} "{referer}" "{agent}"'


def _escape(text: str) -> str:
    return _UNSAFE.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _time(seconds: float) -> str:
    at = time.gmtime(seconds)
    clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
    return f"{at.tm_mday:02}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year:04}:{clock} +0000"
