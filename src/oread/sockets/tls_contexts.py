"""Make the TLS contexts of an endpoint from its files, and follow the files.

TLS 1.2 and 1.3 only, with forward secrecy and authenticated encryption only;
no compression, no renegotiation. Several certificates are chosen from by the
server name that a client asks for; an unknown name, or none, gets the first.

The files are looked at when a handshake begins, at most once a second: what
has changed is read again, and what can't be used leaves the old one in place.
"""

from __future__ import annotations

import logging
import math
import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path

from oread.endpoints import Endpoint
from oread.errors import EndpointError
from oread.protocols.certificate_names import read_certificate_names, serves_name

LOOK_SECONDS = 1.0
"""Between two looks at the files."""
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those that RFC 9325 4.2 recommends. TLS 1.3 has no others."""

log = logging.getLogger("oread")

_SOURCE_LINE = re.compile(r"^\[SSL\] | \(_ssl\.c:\d+\)$")
"""What Python adds to OpenSSL's words."""

Stamp = tuple[tuple[int, int, int] | None, ...]
"""Inode, size and time of change of each file; None for one that is not there."""


def _refuse_password() -> str:
    raise ValueError("the key is encrypted: nobody is here to be asked for its password")


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Python sets it; a truncation is no end


def _load_chain(context: ssl.SSLContext, certificate: str, key: str | None) -> None:
    """Load a certificate and its key.

    Raises:
        EndpointError: a file is missing, or they are of no use together.
    """
    for path in (certificate, key):
        if path is not None:
            _check_readable(path)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except (ssl.SSLError, ValueError) as error:
        files = certificate if key is None else f"{certificate}, {key}"
        words = describe_tls_error(error)
        if isinstance(error, ssl.SSLError) and not error.reason:  # "PEM lib", which tells nobody anything
            words = "no certificate with its key in PEM"
        raise EndpointError(f"{files}: {words}") from error


def _check_readable(path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise EndpointError(f"{path}: {error.strerror}") from error


def _load_authorities(context: ssl.SSLContext, path: str) -> None:
    _check_readable(path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise EndpointError(f"{path}: {describe_tls_error(error)}") from error


def describe_tls_error(error: Exception) -> str:
    """Return what OpenSSL says, without the line of its source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not believed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or _SOURCE_LINE.sub("", str(error.args[-1]))).replace("_", " ").lower()
    return str(error)


def make_server_context(endpoint: Endpoint) -> ssl.SSLContext:
    """Make the context of a `tls` or `https` endpoint; for several names, of the first.

    Raises:
        EndpointError: a file is missing or of no use.
    """
    known: list[tuple[tuple[str, ...], ssl.SSLContext]] = []
    keys = endpoint.key or (None,) * len(endpoint.cert)
    for certificate, key in zip(endpoint.cert, keys, strict=True):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _harden(context)
        _load_chain(context, certificate, key)
        if endpoint.scheme == "https":
            context.set_alpn_protocols(["http/1.1"])
        if endpoint.client_ca is not None:
            _load_authorities(context, endpoint.client_ca)
            required = endpoint.client_cert != "optional"
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        known.append((_read_names(certificate), context))
    first = known[0][1]
    if len(known) > 1:

        def choose(tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _first: ssl.SSLContext) -> None:
            for patterns, context in known:
                if name is not None and any(serves_name(pattern, name) for pattern in patterns):
                    tls.context = context
                    return

        first.sni_callback = choose
    return first


def _read_names(path: str) -> tuple[str, ...]:
    text = Path(path).read_text(encoding="ascii", errors="replace")
    begin, end = text.find(ssl.PEM_HEADER), text.find(ssl.PEM_FOOTER)
    try:
        return read_certificate_names(ssl.PEM_cert_to_DER_cert(text[begin : end + len(ssl.PEM_FOOTER)]))
    except ValueError as error:
        raise EndpointError(f"{path}: {error}") from error


def make_client_context(
    *,
    cafile: str | os.PathLike[str] | None = None,
    insecure: bool = False,
    certificate: str | None = None,
    key: str | None = None,
) -> ssl.SSLContext:
    """Make a client's context: the server's certificate and name are verified.

    Args:
        cafile: believe these authorities (PEM) instead of the system's; a
            certificate of a server itself will do, too.
        insecure: verify nothing: whoever answers is talked to.
        certificate: a client's own, where the server asks for one.
        key: of that; None when it is in the same file.

    Raises:
        EndpointError: a file is missing or of no use.
    """
    if insecure and cafile is not None:
        raise EndpointError("authorities are given, but nothing is to be verified: give one of both")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif cafile is not None:
        _load_authorities(context, os.fspath(cafile))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if certificate is not None:
        _load_chain(context, certificate, key)
    return context


def choose_client_context(
    endpoint: Endpoint,
    given: ssl.SSLContext | None = None,
    *,
    cafile: str | os.PathLike[str] | None = None,
    insecure: bool = False,
    certificate: str | None = None,
    key: str | None = None,
) -> ssl.SSLContext | None:
    """Return the context to call an endpoint with; None where no TLS is spoken.

    Args:
        endpoint: its own certificates are the listening side's.
        given: used as it is, instead of all behind it.
        cafile: as of `make_client_context`, and so the rest.
        insecure: verify nothing.
        certificate: a client's own.
        key: of that.

    Raises:
        EndpointError: options that do not fit the endpoint or each other.
    """
    options = cafile is not None or insecure or certificate is not None or key is not None
    if not endpoint.is_secure:
        if options or given is not None:
            raise EndpointError(f"{endpoint}: {endpoint.scheme} speaks no TLS: write tls:// or https://")
        return None
    if given is not None:
        if options:
            raise EndpointError(f"{endpoint}: a context is given: what it believes is said there")
        return given
    if key is not None and certificate is None:
        raise EndpointError(f"{key}: a key alone is of no use: name its certificate")
    context = make_client_context(cafile=cafile, insecure=insecure, certificate=certificate, key=key)
    if endpoint.is_http:
        context.set_alpn_protocols(["http/1.1"])
    return context


class Credentials:
    """The context of one endpoint, as its files are now.

    Args:
        endpoint: whose files are read, unless it names none.
        given: an embedder's own context, for an endpoint without files.
        count: counts a change that could not be used.

    Raises:
        EndpointError: there is no certificate, or a file is of no use.
    """

    def __init__(
        self, endpoint: Endpoint, given: ssl.SSLContext | None, count: Callable[[str], None]
    ) -> None:
        self._endpoint = endpoint
        self._count = count
        self._look_at = -math.inf if endpoint.cert else math.inf
        self._stamp = self._read_stamp()
        if endpoint.cert:
            try:
                self._context = make_server_context(endpoint)
            except EndpointError as error:
                raise EndpointError(f"{endpoint}: {error}") from error
        elif given is None:
            raise EndpointError(f"{endpoint}: a certificate is needed: ?cert=FILE&key=FILE")
        elif given.protocol == ssl.PROTOCOL_TLS_CLIENT:
            raise EndpointError(f"{endpoint}: the context given is a client's")
        else:
            self._context = given

    def context(self, now: float) -> ssl.SSLContext:
        """Return the context for a handshake that begins now."""
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            stamp = self._read_stamp()
            if stamp != self._stamp:
                self._stamp = stamp
                self._read_again()
        return self._context

    def _read_stamp(self) -> Stamp:
        endpoint = self._endpoint
        authorities = () if endpoint.client_ca is None else (endpoint.client_ca,)
        return tuple(_stamp_of(path) for path in (*endpoint.cert, *endpoint.key, *authorities))

    def _read_again(self) -> None:
        try:
            self._context = make_server_context(self._endpoint)
        except (EndpointError, OSError) as error:
            self._count("tls_reload_failed")
            log.warning("%s: changed files are not used, those before them are: %s", self._endpoint, error)
        else:
            log.info("%s: the changed certificates are in use", self._endpoint)


def _stamp_of(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
