"""`oread call`: send one message, print what comes back."""

from __future__ import annotations

import functools
import os
import signal
import ssl
import sys
from collections.abc import Coroutine
from typing import Any

import click
import trio

from oread.cli.errors import CommandError, PeerError, explain_dialling
from oread.cli.options import seconds_up_to
from oread.client import (
    LIMIT_BYTES,
    Target,
    call_datagram,
    call_http,
    call_stream,
    call_websocket,
    parse_target,
)
from oread.client.tls import dial
from oread.errors import MessageError, TooLarge
from oread.messages import Datagram
from oread.protocols.http1_client import ClientResponse
from oread.sockets.tls_contexts import choose_client_context

STREAM_WAIT_SECONDS = 10.0
"""For tcp, unix and http, when --wait does not say."""
DATAGRAM_WAIT_SECONDS = 1.0
"""For udp: a group's answers are delayed by up to 0.12 s, a network's way and back is shorter."""
LONGEST_WAIT_SECONDS = 86_400
BODY_TYPE = (("Content-Type", "application/octet-stream"),)
"""Of any DATA: what it is only the service knows."""


@click.command()
@click.argument("url")
@click.argument("data", required=False)
@click.option(
    "--wait",
    "wait_seconds",
    type=seconds_up_to(LONGEST_WAIT_SECONDS),
    metavar="SECONDS",
    help=f"Longest time for it all. [default: {STREAM_WAIT_SECONDS:g}; udp: {DATAGRAM_WAIT_SECONDS:g}]",
)
@click.option("--method", help="HTTP only. [default: POST with DATA, else GET]")
@click.option("--ca", "cafile", metavar="FILE", help="TLS: believe these authorities, not the system's.")
@click.option("--insecure", is_flag=True, help="TLS: verify nothing; whoever answers is talked to.")
@click.option(
    "--cert", "certificate", metavar="FILE", help="TLS: one's own certificate, where one is asked for."
)
@click.option("--key", metavar="FILE", help="TLS: the key of --cert, if it is not in the same file.")
@click.option("-v", "--verbose", is_flag=True, help="Say who answered; HTTP: status and fields, on stderr.")
def call(
    url: str,
    data: str | None,
    wait_seconds: float | None,
    method: str | None,
    *,
    verbose: bool,
    cafile: str | None,
    insecure: bool,
    certificate: str | None,
    key: str | None,
) -> int:
    """Send DATA to an endpoint and print what comes back.

    DATA is read from standard input when it is "-", or when it is not given
    and the input is not a terminal.

    tcp, tls, unix: closes its sending side behind DATA, then prints until the peer
    ends its own, or until --wait. What is named behind the port is ignored.

    udp: one datagram, one reply. From a group or broadcast address every
    reply within --wait is printed, with its sender when there are several.

    http, https: one request; a status other than 2xx is exit status 1.

    ws, wss: one message; prints the first that comes back, and says goodbye.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as nc and curl: there is nothing to clean up
    target = parse_target(url)
    scheme = target.endpoint.scheme
    if method is not None and (not target.endpoint.is_http or target.websocket):
        raise click.UsageError(f"--method is for http only, not for {scheme}", click.get_current_context())
    tls = choose_client_context(
        target.endpoint, cafile=cafile, insecure=insecure, certificate=certificate, key=key
    )
    payload = _read_payload(data)
    default = DATAGRAM_WAIT_SECONDS if scheme == "udp" else STREAM_WAIT_SECONDS
    wait_seconds = default if wait_seconds is None else wait_seconds
    if target.websocket:
        return _run(url, _call_websocket(url, target, payload, wait_seconds, tls))
    if target.endpoint.is_http:
        chosen = method or ("POST" if payload else "GET")
        return _run(url, _call_http(url, target, payload, chosen, wait_seconds, verbose=verbose, tls=tls))
    if scheme == "udp":
        return _run(url, _call_datagram(url, target, payload, wait_seconds, verbose=verbose))
    return _run(url, _call_stream(url, target, payload, wait_seconds, tls))


def _read_payload(data: str | None) -> bytes:
    """Return DATA as the bytes that were typed, or standard input."""
    if data is not None and data != "-":
        return os.fsencode(data)
    if data is None and sys.stdin.isatty():
        return b""
    payload = sys.stdin.buffer.read(LIMIT_BYTES + 1)
    if len(payload) > LIMIT_BYTES:
        raise CommandError(f"the input is longer than {LIMIT_BYTES} bytes", "send it in parts")
    return payload


def _run(url: str, work: Coroutine[Any, Any, int]) -> int:
    """Run one call; turn what the peer did into one line."""

    async def await_work() -> int:
        return await work

    try:
        return trio.run(await_work)
    except BrokenPipeError:
        raise  # our own output: the socket's is a BrokenResourceError
    except OSError as error:
        raise explain_dialling(url, error) from error
    except trio.BrokenResourceError as error:
        raise PeerError(f"{url}: the peer broke off", "ask its log why") from error
    except TooLarge as error:
        raise PeerError(f"{url}: {error}", "one call takes no more") from error
    except MessageError as error:
        raise PeerError(f"{url}: {error}", "ask its log why") from error


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _silent(url: str, wait_seconds: float) -> PeerError:
    return PeerError(f"{url}: no answer within {wait_seconds:g} s", "give it longer with --wait")


async def _call_stream(
    url: str, target: Target, payload: bytes, wait_seconds: float, tls: ssl.SSLContext | None
) -> int:
    received_bytes = 0

    def receive(chunk: bytes) -> None:
        nonlocal received_bytes
        received_bytes += len(chunk)
        _write(chunk)

    with trio.move_on_after(wait_seconds) as scope:
        await call_stream(target.endpoint, payload, receive, tls=tls)
    if scope.cancelled_caught and not received_bytes:
        raise _silent(url, wait_seconds)
    return 0


async def _call_datagram(
    url: str, target: Target, payload: bytes, wait_seconds: float, *, verbose: bool
) -> int:
    answers: list[Datagram] = []
    with trio.move_on_after(wait_seconds):
        await call_datagram(target.endpoint, payload, answers.append)
    if not answers:
        raise _silent(url, wait_seconds)
    if len(answers) == 1 and not verbose:
        _write(answers[0].data)
        return 0
    for answer in answers:
        _write(f"{answer.peer}: ".encode() + answer.data.removesuffix(b"\n") + b"\n")
    return 0


async def _call_websocket(
    url: str, target: Target, payload: bytes, wait_seconds: float, tls: ssl.SSLContext | None
) -> int:
    reply: bytes | None = None
    with trio.move_on_after(wait_seconds):
        try:
            reply = await call_websocket(target, functools.partial(dial, target.endpoint, tls), payload)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    if reply is None:
        raise _silent(url, wait_seconds)
    _write(reply)
    return 0


async def _call_http(
    url: str,
    target: Target,
    payload: bytes,
    method: str,
    wait_seconds: float,
    *,
    verbose: bool,
    tls: ssl.SSLContext | None,
) -> int:
    response: ClientResponse | None = None
    with trio.move_on_after(wait_seconds):
        try:
            response = await call_http(
                target, payload, method=method, headers=BODY_TYPE if payload else (), tls=tls
            )
        except ssl.SSLError:
            raise  # one of a certificate is a ValueError, too
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    if response is None:
        raise _silent(url, wait_seconds)
    if verbose:
        fields = "".join(f"{name}: {value}\n" for name, value in response.headers)
        click.echo(f"{response.status} {response.reason}\n{fields}", err=True)
    _write(response.body)
    if not 200 <= response.status < 300:
        raise PeerError(f"{url}: {response.status} {response.reason}", "its body is above")
    return 0
