"""Say what to type in a second terminal to call an endpoint."""

from __future__ import annotations

import json
import shlex
from ipaddress import IPv4Address, IPv6Address, ip_address

from oread.daemon.demo import LOOPBACK_INTERFACE
from oread.endpoints import JSONRPC, Endpoint
from oread.messages import format_address
from oread.registry import Registry
from oread.sockets.interfaces import read_interfaces

_TRY = "hello"


def suggest_call(endpoint: Endpoint, registry: Registry) -> str:
    """Return one line of shell that calls this endpoint.

    Args:
        endpoint: as bound; a wildcard address is called by loopback.
        registry: says which event an http endpoint can be asked for.
    """
    if endpoint.is_http:
        return _suggest_http(endpoint, registry)
    if endpoint.scheme == "tls":
        return _suggest_tls(endpoint, registry)
    text = _TRY if endpoint.framing != JSONRPC else shlex.quote(_write_request(registry))
    if endpoint.scheme == "unix":
        return f"echo {text} | nc -NU {shlex.quote(endpoint.host)}"
    if endpoint.framing == "length":  # nc has no way to write the length
        return f"oread call {shlex.quote(str(endpoint))} {_TRY}"
    host = _reachable(endpoint.host)
    if endpoint.scheme == "tcp":
        return f"echo {text} | nc -N {host} {endpoint.port}"
    return _suggest_datagram(endpoint, host, text)


def _write_request(registry: Registry) -> str:
    event = next((event for event in registry.events() if "{" not in event), "hello")
    return f'{{"jsonrpc": "2.0", "method": {json.dumps(event)}, "id": 1}}'


def _suggest_tls(endpoint: Endpoint, registry: Registry) -> str:
    """Return a call that verifies nothing: whom to believe is not known here."""
    framing = f"?framing={endpoint.framing}" if endpoint.framing != "raw" else ""
    url = f"tls://{format_address((_reachable(endpoint.host), endpoint.port))}{framing}"
    text = _TRY if endpoint.framing != JSONRPC else shlex.quote(_write_request(registry))
    return f"oread call --insecure {shlex.quote(url)} {text}"


def _suggest_http(endpoint: Endpoint, registry: Registry) -> str:
    host = _reachable(endpoint.host)
    url = f"{endpoint.scheme}://{format_address((host, endpoint.port))}"
    curl = "curl -k" if endpoint.is_secure else "curl"  # whom to believe is not known here
    events = [event for event in registry.events() if "{" not in event]
    if "index" in events or not events:
        return f"{curl} {shlex.quote(f'{url}/')}"
    return f"{curl} -d {_TRY} {shlex.quote(f'{url}/{events[0]}')}"


def _suggest_datagram(endpoint: Endpoint, host: str, text: str) -> str:
    address = _parse(host)
    mode = "unicast" if address is None else read_interfaces().mode(address)
    if mode == "unicast":
        return f"echo {text} | nc -u -w 1 {host} {endpoint.port}"
    elsewhere = endpoint.interface not in (None, LOOPBACK_INTERFACE)
    if elsewhere or isinstance(address, IPv6Address):  # socat would need the interface's address
        return f"oread call {shlex.quote(str(endpoint))} {_TRY}"
    # nc hears only the address that it sent to; a group's members answer from their own.
    option = "broadcast" if mode == "broadcast" else "ip-multicast-if=127.0.0.1" if endpoint.interface else ""
    return f"echo {text} | socat -t 1 - UDP4-DATAGRAM:{host}:{endpoint.port}{',' if option else ''}{option}"


def _reachable(host: str) -> str:
    """Return an address to call: a wildcard is no destination."""
    address = _parse(host)
    if address is None or not address.is_unspecified:
        return host
    return "127.0.0.1" if isinstance(address, IPv4Address) else "::1"


def _parse(host: str) -> IPv4Address | IPv6Address | None:
    """Return the address, or None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None
