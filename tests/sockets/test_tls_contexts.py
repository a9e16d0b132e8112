"""Contexts from files: what is refused, who is chosen by name, what is read again."""

from __future__ import annotations

import logging
import os
import shutil
import ssl
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from oread.endpoints import Endpoint
from oread.errors import EndpointError
from oread.protocols.certificate_names import read_certificate_names
from oread.sockets.tls_contexts import (
    Credentials,
    choose_client_context,
    make_client_context,
    make_server_context,
)
from oread.sockets.tls_machine import TlsMachine


def served_names(context: ssl.SSLContext, name: str | None) -> tuple[str, ...]:
    """Return the names of the certificate that a client asking for a name gets."""
    client = TlsMachine(make_client_context(insecure=True), server_name=name)
    server = TlsMachine(context, server_side=True)
    client.handshake()
    server.handshake(client.take())
    client.handshake(server.take())
    return read_certificate_names(client.tls.getpeercert(binary_form=True) or b"")


def endpoint_of(*options: str) -> Endpoint:
    """A `tls` endpoint with these options."""
    return Endpoint.parse("tls://127.0.0.1:0/echo" + "?" * bool(options) + "&".join(options))


def test_a_certificate_is_chosen_by_the_name_asked_for(tls_files: Any) -> None:
    """Exact or by a star; an unknown name, or none, gets the first."""
    one = tls_files.issue("one", "one.example")
    two = tls_files.issue("two", "two.example", "*.two.example")
    context = make_server_context(endpoint_of(f"cert={one}", f"cert={two}"))
    asked = ("one.example", "TWO.example", "www.two.example", "a.b.two.example", "three.example", None)
    first, second = ("one.example",), ("two.example", "*.two.example")
    assert [served_names(context, name) for name in asked] == [first, second, second, first, first, first]


def test_each_certificate_may_have_its_key_in_a_file_of_its_own(tls_files: Any) -> None:
    """Pairs are made in the order of the URL."""
    options = []
    for name in ("one", "two"):
        issued = tls_files.authority.issue_cert(f"{name}.example")
        issued.cert_chain_pems[0].write_to_path(str(tls_files.folder / f"{name}.crt"))
        issued.private_key_pem.write_to_path(str(tls_files.folder / f"{name}.key"))
        options += [f"cert={tls_files.folder}/{name}.crt", f"key={tls_files.folder}/{name}.key"]
    context = make_server_context(endpoint_of(*options))
    assert served_names(context, "two.example") == ("two.example",)
    swapped = [options[0], options[3], options[2], options[1]]
    with pytest.raises(EndpointError, match=r"one.crt, .*two.key: .*key values mismatch"):
        make_server_context(endpoint_of(*swapped))


def test_a_missing_file_is_named(tls_files: Any, loopback_pem: str) -> None:
    """The certificate, the key and the authorities alike."""
    gone = f"{tls_files.folder}/gone.pem"
    for options in (
        (f"cert={gone}",),
        (f"cert={loopback_pem}", f"key={gone}"),
        (f"cert={loopback_pem}", f"client_ca={gone}"),
    ):
        with pytest.raises(EndpointError, match=f"{gone}: No such file or directory"):
            make_server_context(endpoint_of(*options))


def test_an_encrypted_key_is_refused_and_nobody_is_asked(tls_files: Any, loopback_pem: str) -> None:
    """A daemon has no terminal to type a password at."""
    text = Path(loopback_pem).read_bytes()
    encrypted = serialization.load_pem_private_key(text, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tls_files.folder / "encrypted.key").write_bytes(encrypted)
    with pytest.raises(EndpointError, match="the key is encrypted"):
        make_server_context(endpoint_of(f"cert={loopback_pem}", f"key={tls_files.folder}/encrypted.key"))


def test_what_is_no_certificate_is_refused(tls_files: Any) -> None:
    """In words, without the line of OpenSSL's source."""
    (tls_files.folder / "text.pem").write_text("hello")
    with pytest.raises(EndpointError, match=r"text.pem: no certificate with its key in PEM$"):
        make_server_context(endpoint_of(f"cert={tls_files.folder}/text.pem"))


def test_changed_files_are_read_again_at_most_once_a_second(tls_files: Any) -> None:
    """Handshakes that begin later get the new certificate."""
    path = tls_files.issue("first", "first.example")
    credentials = Credentials(endpoint_of(f"cert={path}"), None, lambda reason: None)
    old = credentials.context(10.0)
    os.replace(tls_files.issue("second", "second.example"), path)
    assert credentials.context(10.9) is old
    assert served_names(credentials.context(11.0), None) == ("second.example",)
    assert credentials.context(20.0) is credentials.context(11.0)


def test_a_change_that_is_of_no_use_leaves_the_old_one(
    tls_files: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and logged once for each change, and mended by the next."""
    path = Path(tls_files.issue("first", "first.example"))
    kept, counted = shutil.copy(path, tls_files.folder / "kept.pem"), Counter[str]()
    credentials = Credentials(endpoint_of(f"cert={path}"), None, lambda reason: counted.update([reason]))
    old = credentials.context(1.0)
    path.write_text("half a cert")
    with caplog.at_level(logging.WARNING, "oread"):
        assert [credentials.context(now) for now in (2.0, 3.5, 5.0)] == [old] * 3
        assert counted == {"tls_reload_failed": 1}
        path.unlink()
        assert [credentials.context(now) for now in (7.0, 9.0)] == [old] * 2
    assert len(caplog.records) == counted["tls_reload_failed"] == 2
    os.replace(kept, path)
    assert credentials.context(11.0) is not old


def test_a_context_of_the_embedder_is_used_as_it_is(loopback_pem: str) -> None:
    """Where the endpoint names files these win; a client's context is refused."""
    given = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    bare = endpoint_of()
    assert Credentials(bare, given, print).context(1.0) is given
    assert Credentials(endpoint_of(f"cert={loopback_pem}"), given, print).context(1.0) is not given
    with pytest.raises(EndpointError, match="is a client's"):
        Credentials(bare, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), print)
    with pytest.raises(EndpointError, match=r"a certificate is needed: \?cert=FILE&key=FILE"):
        Credentials(bare, None, print)


def test_renegotiation_and_truncation_are_not_let_through(loopback_pem: str) -> None:
    """What Python's own default leaves open is closed, on both sides."""
    server = make_server_context(endpoint_of(f"cert={loopback_pem}"))
    for context in (server, make_client_context()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION
        assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF


def test_a_client_verifies_unless_told_otherwise(tls_files: Any) -> None:
    """Options that contradict each other, or the scheme, are refused."""
    secure, plain = endpoint_of(), Endpoint.parse("tcp://127.0.0.1:1", calling=True)
    default = choose_client_context(secure)
    assert default is not None
    assert (default.verify_mode, default.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert choose_client_context(plain) is None
    with pytest.raises(EndpointError, match="speaks no TLS"):
        choose_client_context(plain, cafile=tls_files.ca)
    with pytest.raises(EndpointError, match="give one of both"):
        choose_client_context(secure, cafile=tls_files.ca, insecure=True)
    with pytest.raises(EndpointError, match="a key alone"):
        choose_client_context(secure, key="key.pem")
    with pytest.raises(EndpointError, match="a context is given"):
        choose_client_context(secure, default, insecure=True)
