"""Say in one line what a user can mend.

`OSError` is turned into words here and nowhere else: what the system said,
and what helps.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Mapping

import click

from oread.sockets.tls_contexts import describe_tls_error

_LISTENING: Mapping[int, str] = {
    errno.EADDRINUSE: "stop who has it, or name another port (0 picks a free one)",
    errno.EACCES: "name a port from 1024 on, or a path you may write to",
    errno.EPERM: "name a port from 1024 on, or a path you may write to",
    errno.EADDRNOTAVAIL: "no interface here has this address: 'ip address' lists them",
    errno.EAFNOSUPPORT: "this machine does not speak this kind of address",
    errno.ENODEV: "name one of them with ?interface=",
    errno.ENOENT: "make the directory first",
    errno.ENOTDIR: "make the directory first",
    errno.EMFILE: "raise the limit of open files: ulimit -n",
}
_DIALLING: Mapping[int, str] = {
    errno.ECONNREFUSED: "nothing listens there: start it, or check the port",
    errno.ENOENT: "nothing listens at this path: start it, or check the path",
    errno.EACCES: "it belongs to another user",
    errno.ENETUNREACH: "no route leads there: for a group name an interface, as in ?interface=lo",
    errno.EHOSTUNREACH: "no machine answers at this address",
    errno.EMSGSIZE: "a datagram holds at most 65,507 bytes: use tcp or http",
    errno.ENODEV: "name one of them with ?interface=",
}


class CommandError(click.ClickException):
    """A command can't go on, by the user's doing; one line says it all.

    Args:
        what: the fault, naming what it is about.
        advice: what to do.
    """

    exit_code = 2

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}; {advice}")


class PeerError(CommandError):
    """A command can't go on, because the peer failed."""

    exit_code = 1


def explain_listening(error: OSError) -> CommandError:
    """Say why an endpoint can't be bound."""
    advice = _advice(error, _LISTENING)
    if error.errno == errno.EADDRINUSE and str(error.filename).startswith("udp:"):
        advice += "; 0.0.0.0 shares it with groups of the same service only, a group with all by ?shared=true"
    return CommandError(f"{error.filename}: {_words(error)}", advice)


def explain_dialling(url: str, error: OSError) -> CommandError:
    """Say why a peer can't be reached."""
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = "name its authority with --ca FILE, or --insecure to verify nothing"
        return PeerError(f"{url}: {describe_tls_error(error)}", advice)
    if isinstance(error, ssl.SSLError):
        return PeerError(f"{url}: no TLS with it: {describe_tls_error(error)}", "check scheme and port")
    kind = CommandError if error.errno in (errno.ENODEV, errno.EMSGSIZE) else PeerError
    return kind(f"{url}: {_words(error)}", _advice(error, _DIALLING))


def _words(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno in (None, errno.ENODEV):
        return error.strerror or str(error) or type(error).__name__
    return os.strerror(error.errno)  # Trio's own text repeats the address as a tuple


def _advice(error: OSError, table: Mapping[int, str]) -> str:
    if isinstance(error, socket.gaierror):
        return "check the host name"
    return table.get(error.errno or 0, "check the URL")
