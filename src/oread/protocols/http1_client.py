"""Speak HTTP/1.1 from the calling side: one request, one response.

As strict as the server half: what two readers could understand in two ways is
refused. The whole response is collected within the limits, or given piece by
piece: each chunk of a chunked body is one piece, else what a read brought.

Not here: sockets, redirects, cookies. Source: RFC 9112 4, 6.3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import attrs

from oread.errors import HandlerError
from oread.limits import HttpLimits
from oread.messages import Headers
from oread.protocols.http1_body import ChunkedBody, LengthBody
from oread.protocols.http1_lines import (
    TCHAR,
    Buffer,
    MalformedError,
    Refusal,
    body_length,
    control_fields,
    field_pairs,
    is_host,
    keeps_alive,
)
from oread.protocols.http1_reply import field_lines

_METHOD = re.compile(rf"{TCHAR}+")
_TARGET = re.compile(r'\*|/[!"$-\[\]-~]*')
_RESPONSE_HEAD = re.compile(
    rf"HTTP/1\.([0-9]) ([1-5][0-9]{{2}}) ([\t -~\x80-\xff]*+)\r\n((?:{TCHAR}++:[\t -~\x80-\xff]*+\r\n)*)\r\n"
)
_ENGINE_FIELDS = frozenset(
    ("host", "connection", "content-length", "te", "trailer", "transfer-encoding", "upgrade")
)
_BODY_METHODS = frozenset(("PATCH", "POST", "PUT"))
"""These say `Content-Length: 0` when they have no body (RFC 9110 8.6)."""

_INTERIM_RESPONSES = 16
"""1xx responses skipped before the final one; curl takes any number, a peer of ours sends one."""

_BAD_GATEWAY = 502


@attrs.frozen(kw_only=True)
class ClientResponse:
    """One final response in full."""

    status: int
    reason: str
    headers: Headers
    body: bytes
    keep_alive: bool
    """Whether its framing, version and `Connection` allow another request."""


def encode_request(
    method: str,
    target: str,
    host: str,
    body: bytes,
    headers: Sequence[tuple[str, str]],
    *,
    close: bool = True,
) -> bytes:
    """Return one request as one bytes object.

    Args:
        method: a token, in the case it is to be sent.
        target: origin-form, already encoded, or `*`.
        host: `host[:port]` as the URL has it, IPv6 in brackets.
        body: sent with its length.
        headers: more fields; those that frame or address are ours.
        close: whether to ask the server to close behind its response.

    Raises:
        ValueError: what cannot be sent as it is.
    """
    if not _METHOD.fullmatch(method):
        raise ValueError(f"method={method!r} is not a token")
    if not _TARGET.fullmatch(target):
        raise ValueError(f"target={target!r} is not a path with ASCII characters only, or *")
    if not is_host(host):
        raise ValueError(f"host={host!r} is not host[:port]")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    try:
        lines += field_lines(headers, _ENGINE_FIELDS)
    except HandlerError as error:
        raise ValueError(str(error)) from None
    if body or method in _BODY_METHODS:
        lines.append(f"Content-Length: {len(body)}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class HttpClientProtocol:
    """Collect the response to one request.

    Args:
        limits: header, chunk and body bounds, as for a server.
        method: of the request; HEAD's response has no body (RFC 9112 6.3).
        in_pieces: the body is for `take_pieces`, however long it is; the
            body bound is then that of one piece.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_done",
        "_in_pieces",
        "_interim",
        "_limits",
        "_method",
        "_parts",
        "_pieces",
        "_searched",
        "_taken_bytes",
        "_until_close",
        "head",
    )

    def __init__(self, limits: HttpLimits, method: str, *, in_pieces: bool = False) -> None:
        self._limits = limits
        self._in_pieces = in_pieces
        self._pieces: list[bytes] = []
        self._method = method
        self._buffer = bytearray()
        self._searched = 0
        self.head: ClientResponse | None = None
        """The response without its body, as soon as it is known."""
        self._body: LengthBody | ChunkedBody | None = None
        self._until_close = False
        self._parts: list[bytes] = []
        self._taken_bytes = 0
        self._interim = 0
        self._done = False

    def receive(self, data: Buffer) -> ClientResponse | Refusal | None:
        """Take bytes in; return the response once, None when more is needed."""
        if self._done:
            return None
        self._buffer += data
        try:
            while self.head is None:
                if not self._take_head():
                    return None
            return self._take_body(self.head)
        except MalformedError as fault:
            return self._refuse(Refusal(_BAD_GATEWAY, fault.refusal.reason))

    def receive_eof(self) -> ClientResponse | Refusal | None:
        """Take the server's end; it completes a body without a length."""
        if self._done:
            return None
        if self.head is not None and self._until_close:
            return self._finish(self.head)
        return self._refuse(Refusal(_BAD_GATEWAY, "the connection ended before the response did"))

    def take_pieces(self) -> list[bytes]:
        """Return the pieces of the body that are whole by now."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def _refuse(self, refusal: Refusal) -> Refusal:
        self._done = True
        self._buffer.clear()
        self._parts.clear()
        return refusal

    def _finish(self, head: ClientResponse) -> ClientResponse:
        self._done = True
        keep_alive = head.keep_alive and not self._buffer  # nobody asked for what lies behind
        self._buffer.clear()
        return attrs.evolve(head, body=b"".join(self._parts), keep_alive=keep_alive)

    def _take_head(self) -> bool:
        most_bytes = self._limits.field_bytes + self._limits.header_bytes
        end = self._buffer.find(b"\r\n\r\n", max(self._searched - 3, 0), most_bytes)
        if end < 0:
            self._searched = len(self._buffer)
            if self._searched >= most_bytes:
                raise MalformedError(_BAD_GATEWAY, "the response's head is too long")
            return False
        text = self._buffer[: end + 4].decode("latin-1")
        del self._buffer[: end + 4]
        self._searched = 0
        match = _RESPONSE_HEAD.fullmatch(text)
        if match is None:
            raise MalformedError(_BAD_GATEWAY, "the response's head is malformed")
        if text.count("\n") > self._limits.fields + 2:
            raise MalformedError(_BAD_GATEWAY, "the response has too many fields")
        status = int(match[2])
        if status >= 200:
            self._begin(text, status, match[3], "1.0" if match[1] == "0" else "1.1")
            return True
        self._interim += 1
        if status == 101 or self._interim > _INTERIM_RESPONSES:
            raise MalformedError(_BAD_GATEWAY, "an interim response that was not asked for")
        return True

    def _begin(self, text: str, status: int, reason: str, version: str) -> None:
        fields = control_fields(text)
        length = body_length(fields, version)
        if self._method == "HEAD" or status in (204, 304):
            length = 0
        if length is None:
            self._until_close = True
        elif length > self._limits.body_bytes and not self._in_pieces:
            raise MalformedError(_BAD_GATEWAY, "the response's body is too long")
        elif length >= 0:
            self._body = LengthBody(length)
        else:
            self._body = ChunkedBody(self._limits)
        self.head = ClientResponse(
            status=status,
            reason=reason,
            headers=Headers(field_pairs(text)),
            body=b"",
            keep_alive=keeps_alive(fields, version) and not self._until_close,
        )

    def _take_body(self, head: ClientResponse) -> ClientResponse | None:
        while self._buffer:
            part, at, whole = self._take_part()
            if part:
                self._taken_bytes += len(part)
                if self._taken_bytes > self._limits.body_bytes:
                    raise MalformedError(_BAD_GATEWAY, "the response's body is too long")
                self._parts.append(part)
            if whole and self._in_pieces and self._parts:
                self._pieces.append(b"".join(self._parts))
                self._parts.clear()
                self._taken_bytes = 0
            del self._buffer[:at]
            if at == 0 or (self._body is not None and self._body.done):
                break
        if self._body is not None and self._body.done:
            return self._finish(head)
        return None

    def _take_part(self) -> tuple[bytes, int, bool]:
        """Return what is there of the body, where it ends, and whether a piece does."""
        if self._body is None:
            return bytes(self._buffer), len(self._buffer), True
        if self._in_pieces and isinstance(self._body, ChunkedBody):
            return self._body.take_chunk(self._buffer, 0, math.inf)
        return *self._body.take(self._buffer, 0, self._limits.body_bytes), True
