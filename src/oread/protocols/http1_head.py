"""Read the head of an HTTP/1.1 message strictly: reject, never repair.

A head that came in one piece is validated by one regular expression, and only
the fields that decide its framing are picked out; the list of all fields is
made when somebody asks. `HeadScanner` reads line by line: heads that come in
pieces, and heads that the expression refused, of which it names the fault. It
alone judges limits, so the outcome does not depend on how the bytes were cut:
a fault is always the first one in the order of the bytes.

Not here: what responses share (http1_lines.py), bodies (http1_body.py), the
order of events (http1.py).
Source: RFC 9110, RFC 9112.
"""

from __future__ import annotations

import functools
import re

import attrs

from oread.limits import HttpLimits
from oread.messages import Headers
from oread.protocols.http1_lines import (
    FIELD_TOO_LONG,
    TCHAR,
    Buffer,
    MalformedError,
    Refusal,
    body_length,
    check_field_line,
    control_fields,
    field_pairs,
    find_line,
    is_host,
    keeps_alive,
)

_PATH = r'[!"$->@-\[\]-~]'
_QUERY = r'[!"$-\[\]-~]'
# RFC 3986 has fewer characters; browsers send `|`, `[`, `^` and the like raw in
# a query. `#` and `\` are never valid and are read differently by different software.

_REQUEST_LINE = re.compile(rf"({TCHAR}+) ([!-~]+) HTTP/([0-9])\.([0-9])")
_ORIGIN_FORM = re.compile(rf"(/{_PATH}*)(?:\?({_QUERY}*))?")
_ABSOLUTE_FORM = re.compile(rf"(?i:https?)://([^/?]+)(/{_PATH}*)?(?:\?({_QUERY}*))?")
_METHOD_RUN = re.compile(rf"{TCHAR}*".encode())
_LINE_FRAME_BYTES = 12
"""A request line without method and target: two spaces, `HTTP/1.1`, CRLF."""

CACHED_BYTES = 1_024
"""Longest read that is looked up in the cache; repeated requests (probes, load generators) are shorter."""

_CACHED_HEADS = 512
"""Heads remembered per limits value: at most about 2 MiB with all their fields built."""

_SEEN_READS = 1_024
"""Reads of which only the hash is remembered, in 100 KiB; four times as many would miss the CPU's cache."""

_VALUE = r"[\t -~\x80-\xff]*+"
_OTHER_FIELD = (
    r"(?:[!#$%&'*+\-.^_`|~0-9ABDFGI-SU-Zabdfgi-su-z]|(?!(?:[Hh](?i:ost)|[Tt](?i:ransfer-encoding)|[Ee](?i:xpect)"
    rf"|[Cc](?i:ontent-length|onnection(?!: keep-alive\r))):)[HCTEhcte]){TCHAR}*+:{_VALUE}\r\n"
)
"""A field that tells nothing of framing.

`Connection: keep-alive`, which browsers send with every request, tells nothing new of HTTP/1.1.
"""


# No kw_only and no frozen: either costs 1 us per request. Nobody writes to a head: one may be shared by
# every connection of an endpoint.
@attrs.define(eq=False)
class RequestHead:
    """What stands before a request's body; to be read only.

    `length` is 0 for no body and -1 for a chunked one. `keep_alive` is what
    the request's version and `Connection` allow. In absolute-form, path, query
    and host are the target's (RFC 9112 3.2.2).
    """

    method: str
    target: str
    path: str
    query: str
    version: str
    host: str
    keep_alive: bool
    length: int
    expects_continue: bool
    upgrade: bool
    """Whether `Connection` says that it asks for another protocol, which may be ignored (RFC 9110 7.8)."""
    _text: str = attrs.field(repr=False)
    _headers: Headers | None = attrs.field(default=None, init=False, repr=False)

    @property
    def headers(self) -> Headers:
        """All fields in order; built when first asked for."""
        if self._headers is None:
            self._headers = Headers(functools.partial(field_pairs, self._text))
        return self._headers


class HeadScanner:
    """Find the end of one request head, line by line, in linear time."""

    __slots__ = ("_fields", "_fields_start", "_limits", "_line", "_method_seen", "_searched")

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._line = 0
        self._searched = 0
        self._fields_start = 0
        self._fields = 0
        self._method_seen = False

    def scan(self, buffer: Buffer, at: int) -> int:
        """Go on where the last call stopped.

        Args:
            buffer: what was received, now longer.
            at: where the head begins in it.

        Returns:
            The length of the head with its empty line, -1 when more is needed.

        Raises:
            MalformedError: the first fault, or the first limit exceeded.
        """
        if not self._method_seen:
            self._check_method(buffer[at : at + self._limits.method_bytes + 1])
        while (end := self._next_line(buffer, at)) >= 0:
            start = at + self._line
            self._line = self._searched = end + 2 - at
            if not self._fields_start:
                parse_request_line(buffer[start:end].decode("latin-1"), self._limits)
                self._fields_start = self._line
            elif start == end:
                return self._line
            else:
                self._fields += 1
                if self._fields > self._limits.fields:
                    raise MalformedError(431, "too many fields")
                check_field_line(buffer[start:end])
        return -1

    def _check_method(self, prefix: Buffer) -> None:
        # Looked at before the line is complete: TLS and other protocols are told at once.
        match = _METHOD_RUN.match(prefix)
        run = match.end() if match else 0
        if run < len(prefix):
            if run == 0 or prefix[run] != 0x20:
                raise MalformedError(400, "the request does not begin with a method and a space")
            self._method_seen = True
        elif run > self._limits.method_bytes:
            raise MalformedError(501, "the method is too long")

    def _next_line(self, buffer: Buffer, at: int) -> int:
        limits = self._limits
        if not self._fields_start:
            most = limits.method_bytes + limits.target_bytes + _LINE_FRAME_BYTES
            too_long = _TARGET_TOO_LONG
        else:
            left = limits.header_bytes - (self._line - self._fields_start)
            most = min(limits.field_bytes + 2, left)
            too_long = _SECTION_TOO_LONG if most == left else FIELD_TOO_LONG
            most = max(most, 2)  # the empty line does not count
        end = find_line(buffer, at + self._line, at + self._searched, most, too_long)
        if end < 0:
            self._searched = len(buffer) - at
        return end


_TARGET_TOO_LONG = Refusal(414, "the request target is too long")
_SECTION_TOO_LONG = Refusal(431, "the header section is too long")


def parse_request_line(line: str, limits: HttpLimits) -> tuple[str, str, str, str, str, str]:
    """Return method, target, path, query, minor version and authority.

    Raises:
        MalformedError: 400, 414, 501 for CONNECT, 505 for another major version.
    """
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise MalformedError(400, "malformed request line")
    method, target, major, minor = match.groups()
    if len(target) > limits.target_bytes:
        raise MalformedError(_TARGET_TOO_LONG.status, _TARGET_TOO_LONG.reason)
    if major != "1":
        raise MalformedError(505, "not HTTP/1")
    if origin := _ORIGIN_FORM.fullmatch(target):
        return method, target, origin[1], origin[2] or "", minor, ""
    if method == "CONNECT":
        raise MalformedError(501, "CONNECT is not served")
    if target == "*" and method == "OPTIONS":
        return method, target, "*", "", minor, ""
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None or not is_host(absolute[1]):
        raise MalformedError(400, "malformed request target")
    authority, path, query = absolute.groups()
    if path is None:  # RFC 9112 3.2.4: OPTIONS of an authority without a path is `*`
        path = "*" if method == "OPTIONS" and query is None else "/"
    return method, target, path, query or "", minor, authority


class HeadParser:
    """Turn complete heads into values, for all connections of one limits.

    `known` maps whole reads to their heads, once they have come twice: what
    never repeats would only push out what does. It cannot be poisoned: the same
    bytes give the same head, and it is bounded in number and size.
    """

    __slots__ = ("_easy_bytes", "_limits", "_pattern", "_seen", "_usual_pattern", "known", "longest_bytes")

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._pattern = _compile_head(limits)
        self._usual_pattern = _compile_usual_head(limits)
        self._easy_bytes = min(limits.target_bytes, limits.field_bytes, limits.header_bytes)
        self._seen: set[int] = set()
        self.known: dict[bytes, RequestHead] = {}
        self.longest_bytes = (
            limits.method_bytes + limits.target_bytes + limits.header_bytes + _LINE_FRAME_BYTES + 2
        )
        """No head that is within the limits is longer."""

    def parse_read(self, data: bytes) -> RequestHead | None:
        """Return the head when a whole read is one head, remembered if it may be.

        Returns:
            None when the read is anything else, or malformed: read it the long way.
        """
        text = data.decode("latin-1")
        try:
            head = self._usual(text)
            if head is None:
                match = self._pattern.fullmatch(text)
                if match is None:
                    return None
                head = self._head(text, *match.groups())
        except MalformedError:
            return None
        if head.length == 0 and head.keep_alive:
            self._remember(data, head)
        return head

    def _remember(self, data: bytes, head: RequestHead) -> None:
        mark = hash(data)  # two reads with one hash: the second is remembered a turn too early, no more
        if mark not in self._seen:
            if len(self._seen) >= _SEEN_READS:
                self._seen.clear()
            self._seen.add(mark)
            return
        if len(self.known) >= _CACHED_HEADS:
            self.known.clear()
        self.known[data] = head

    def parse(self, text: str) -> RequestHead:
        """Turn one complete head, with its empty line, into a value.

        Raises:
            MalformedError: the first fault of it.
        """
        usual = self._usual(text)
        if usual is not None:
            return usual
        match = self._pattern.fullmatch(text)
        if match is not None:
            return self._head(text, *match.groups())
        HeadScanner(self._limits).scan(text.encode("latin-1"), 0)
        method, target, path, query, minor, authority = parse_request_line(
            text.partition("\r\n")[0], self._limits
        )
        return self._head(text, method, target, path, query, minor, authority)

    def _usual(self, text: str) -> RequestHead | None:
        """Return the head that has one Host and at most a length besides; None when it is another.

        As nearly all are: one match instead of a match and a search, 0.4 us of 3.8.

        Raises:
            MalformedError: it is one, but with a host or a length that is none.
        """
        match = self._usual_pattern.fullmatch(text)
        if match is None or len(text) > self._easy_bytes:
            return None
        method, target, path, query, host, length = match.groups()
        host = host.strip(" \t")
        if not is_host(host):
            raise MalformedError(400, "malformed Host")
        size = 0
        if length is not None:
            size = body_length({"content-length": length.strip(" \t")}, "1.1") or 0
        return RequestHead(method, target, path, query or "", "1.1", host, True, size, False, False, text)

    def _head(
        self,
        text: str,
        method: str,
        target: str,
        path: str,
        query: str | None,
        minor: str,
        authority: str = "",
    ) -> RequestHead:
        if len(text) > self._easy_bytes:
            HeadScanner(self._limits).scan(text.encode("latin-1"), 0)
        version = "1.0" if minor == "0" else "1.1"
        fields = control_fields(text)
        host = fields.get("host")
        if host is None:
            if version != "1.0":
                raise MalformedError(400, "no Host")
            host = ""
        elif not is_host(host):
            raise MalformedError(400, "malformed Host")
        length = 0
        keep_alive = version != "1.0"
        expects_continue = upgrade = False
        if len(fields) > 1 or not host:
            length = body_length(fields, version) or 0
            keep_alive = keeps_alive(fields, version)
            expects_continue = _expects_continue(fields) and length != 0 and version != "1.0"
            upgrade = "upgrade" in fields.get("connection", "").lower()
        host = authority or host
        return RequestHead(
            method,
            target,
            path,
            query or "",
            version,
            host,
            keep_alive,
            length,
            expects_continue,
            upgrade,
            text,
        )


def _expects_continue(fields: dict[str, str]) -> bool:
    expectation = fields.get("expect")
    if expectation is None:
        return False
    if expectation.lower() != "100-continue":
        raise MalformedError(417, "an expectation other than 100-continue")
    return True


def _compile_head(limits: HttpLimits) -> re.Pattern[str]:
    """Return the expression of a valid head in origin-form, counts bounded."""
    # Possessive quantifiers stand on single classes only: they save 0.2 us of 1.3 per browser head, and
    # groups under them were matched wrongly before CPython 3.11.5 (gh-106052).
    return re.compile(rf"{_start_line(limits)}([0-9])\r\n(?:{TCHAR}++:{_VALUE}\r\n){{0,{limits.fields}}}\r\n")


def _compile_usual_head(limits: HttpLimits) -> re.Pattern[str]:
    """Return the expression of those with a Host, and then perhaps a Content-Length, as all that tells.

    A third of the fields may stand at each place; a head with more is read the long way.
    """
    if limits.fields < 2:
        return re.compile(r"(?!)")
    others = rf"(?:{_OTHER_FIELD}){{0,{(limits.fields - 2) // 3}}}"
    return re.compile(
        rf"{_start_line(limits)}1\r\n{others}(?i:host):({_VALUE})\r\n{others}"
        rf"(?:(?i:content-length):({_VALUE})\r\n{others})?\r\n"
    )


def _start_line(limits: HttpLimits) -> str:
    return rf"({TCHAR}{{1,{limits.method_bytes}}}+) ((/{_PATH}*+)(?:\?({_QUERY}*+))?) HTTP/1\."


@functools.lru_cache(maxsize=64)  # one per limits value in use, which are one or two per endpoint
def parser_for(limits: HttpLimits) -> HeadParser:
    """Return the one parser of all connections with these limits."""
    return HeadParser(limits)
