"""Find out who stands behind proxies that are trusted.

The fields are read from right to left: the nearest proxy wrote the last entry.
As long as the one who wrote an entry is trusted, the entry is believed; the
first address that is not trusted is the client. What stands left of it is
that client's own word and is not looked at, well formed or not.

`Forwarded` and `X-Forwarded-For` in one request are refused: a proxy keeps one
of them, and hands on the other as the client wrote it.

Source: RFC 7239; for `X-Forwarded-*` there is no standard, only use.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import NoReturn

from oread.errors import BadRequest
from oread.messages import Address, Forwarded, Headers
from oread.protocols.http1_lines import TCHAR, is_host

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Numeric = ipaddress.IPv4Address | ipaddress.IPv6Address

_QUOTED = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_PAIR = rf"({TCHAR}+)=({TCHAR}+|{_QUOTED})"
_ONE_PAIR = re.compile(_PAIR)
_ELEMENT = re.compile(rf"{_PAIR}(?:[ \t]*;[ \t]*{_PAIR})*")
_ELEMENTS = re.compile(rf'(?:[^",]|{_QUOTED})+')
_NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15}))(?::([0-9]{1,5}|_[A-Za-z0-9._-]+))?")
_HIDDEN_NODE = re.compile(r"(?:unknown|_[A-Za-z0-9._-]+)(?::.*)?", re.IGNORECASE)
_SCHEMES = ("http", "https", "ws", "wss")


class TrustedProxies:
    """The proxies of one endpoint whose word is taken."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(networks)

    def trusts(self, host: str) -> bool:
        """Tell whether an address is one of them."""
        try:
            address: Numeric = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks if network.version == address.version)

    def look_behind(self, peer: Address, headers: Headers) -> Forwarded | None:
        """Return what the proxies tell of a request; None when its peer is none of them.

        Raises:
            BadRequest: what a trusted proxy says is malformed, or said in two ways.
        """
        if not isinstance(peer, tuple) or not self.trusts(peer[0]):
            return None
        standard, usual = headers.get_all("forwarded"), headers.get_all("x-forwarded-for")
        if standard and usual:
            raise BadRequest("Forwarded and X-Forwarded-For in one request")
        if standard:
            return self._read_standard(",".join(standard))
        return self._read_usual(",".join(usual), peer, headers)

    def _read_standard(self, text: str) -> Forwarded:
        elements = _ELEMENTS.findall(text)
        if not elements or ",".join(elements) != text:
            _refuse("Forwarded")
        found = Forwarded(address=None)
        for element in reversed(elements):
            pairs = _read_element(element.strip(" \t"))
            node = pairs.get("for", "unknown")
            address = None if _HIDDEN_NODE.fullmatch(node) else _read_node(node, "Forwarded")
            found = Forwarded(
                address=address,
                scheme=_read_scheme(pairs.get("proto"), "Forwarded"),
                host=_read_host(pairs.get("host"), "Forwarded"),
            )
            if address is None or not self.trusts(address[0]):
                break
        return found

    def _read_usual(self, text: str, peer: tuple[str, int], headers: Headers) -> Forwarded:
        entries = [entry.strip(" \t") for entry in text.split(",")] if text else []
        address, behind = peer, 0
        for entry in reversed(entries):
            address = _read_node(entry, "X-Forwarded-For")
            behind += 1
            if not self.trusts(address[0]):
                break
        scheme = _entry_at(headers, "X-Forwarded-Proto", behind)
        host = _entry_at(headers, "X-Forwarded-Host", behind)
        return Forwarded(
            address=address,
            scheme=_read_scheme(scheme, "X-Forwarded-Proto"),
            host=_read_host(host, "X-Forwarded-Host"),
        )


def _entry_at(headers: Headers, name: str, behind: int) -> str | None:
    """Return the only entry of a field, or the one of the proxy that the client spoke to."""
    values = headers.get_all(name)
    if not values:
        return None
    entries = [entry.strip(" \t") for entry in ",".join(values).split(",")]
    if len(entries) == 1:
        return entries[0]
    if len(entries) < behind or not behind:
        _refuse(name)
    return entries[-behind]


def _read_element(text: str) -> dict[str, str]:
    if not _ELEMENT.fullmatch(text):
        _refuse("Forwarded")
    pairs: dict[str, str] = {}
    for name, value in _ONE_PAIR.findall(text):
        if name.lower() in pairs:
            _refuse("Forwarded")
        quoted = value.startswith('"')
        pairs[name.lower()] = re.sub(r"\\(.)", r"\1", value[1:-1]) if quoted else value
    return pairs


def _read_node(text: str, field: str) -> tuple[str, int]:
    """Return address and port, 0 where none is said."""
    match = _NODE.fullmatch(text)
    bare = text if match is None else match[1] or match[2]
    port = match[3] if match is not None else None
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        _refuse(field)
    if port is None or port.startswith("_"):
        return str(address), 0
    if int(port) > 65_535:
        _refuse(field)
    return str(address), int(port)


def _read_scheme(text: str | None, field: str) -> str | None:
    if text is None:
        return None
    if text.lower() not in _SCHEMES:
        _refuse(field)
    return text.lower()


def _read_host(text: str | None, field: str) -> str | None:
    if text is not None and not is_host(text):
        _refuse(field)
    return text


def _refuse(field: str) -> NoReturn:
    raise BadRequest(f"a trusted proxy sent a malformed {field}")
