"""What `oread serve` serves when nothing is named: the stock handlers.

All of them by HTTP, echo by TCP, UDP, a multicast group and a broadcast
address, everything on loopback only.
"""

from __future__ import annotations

import html
import inspect
import sys
from typing import Any

import msgspec

from oread.handlers import register
from oread.messages import HttpRequest, HttpResponse, format_address
from oread.registry import HandlerInfo, Registry

LOOPBACK_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"
DEMO_ENDPOINTS = (
    "tcp://127.0.0.1:7007/echo",
    "udp://127.0.0.1:7007/echo",
    "http://127.0.0.1:7080",
    # RFC 2365 6.1: 239.255.0.0/16 stays local. Named interface: a machine without a default route works too.
    f"udp://239.255.70.7:7008/echo?interface={LOOPBACK_INTERFACE}&reply=unicast",
    "udp://127.255.255.255:7009/echo?reply=unicast",
)
"""Port 7 is echo's own (RFC 862) and needs privileges; 7007 does not."""


def make_demo_registry() -> Registry:
    """Make a registry of the stock handlers and an index of them."""
    registry = Registry()
    register(registry)

    def index(request: HttpRequest) -> HttpResponse:
        """List the events and how to call each."""
        host = request.headers.get("host") or format_address(request.local)
        rows = [_describe(info, host) for info in registry.handlers() if info.kind != "session"]
        if "text/html" in (request.headers.get("accept") or ""):
            return HttpResponse(_as_html(rows), headers=(("Content-Type", "text/html; charset=utf-8"),))
        body = msgspec.json.format(msgspec.json.encode({"events": rows}), indent=2)
        return HttpResponse(body + b"\n", headers=(("Content-Type", "application/json"),))

    registry.on("index", index, methods=("GET",))
    return registry


def _describe(info: HandlerInfo, host: str) -> dict[str, Any]:
    """Say of one handler what it does and what to type."""
    sends = info.event in ("echo", "discard", "inspect")
    return {
        "event": info.event,
        "does": (inspect.getdoc(info.handler) or "").partition("\n")[0],
        "handler": info.name,
        "call": f"curl {'-d hello ' if sends else ''}http://{host}/{info.event}",
    }


def _as_html(rows: list[dict[str, Any]]) -> str:
    items = "".join(
        f"<dt><a href='/{html.escape(row['event'])}'>{html.escape(row['event'])}</a></dt>"
        f"<dd>{html.escape(row['does'])}<br><code>{html.escape(row['call'])}</code></dd>"
        for row in rows
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>oread</title>"
        f"<h1>oread</h1><p>The events served here:</p><dl>{items}</dl></html>\n"
    )
