"""TLS without sockets: the result does not depend on how ciphertext was cut."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from oread.endpoints import Endpoint
from oread.sockets.tls_contexts import make_client_context, make_server_context
from oread.sockets.tls_machine import RECORD_BYTES, TlsMachine

Pair = tuple[TlsMachine, TlsMachine]


def shake_hands(client: TlsMachine, server: TlsMachine, *, step: int = 1 << 20) -> None:
    """Carry bytes between two machines, so many at a time, until both are done."""
    done = {client: False, server: False}
    while not all(done.values()):
        for sender, receiver in ((client, server), (server, client)):
            if not done[sender]:
                done[sender] = sender.handshake()
            data = sender.take()
            for begin in range(0, len(data), step):
                part = data[begin : begin + step]
                if done[receiver]:
                    assert receiver.decrypt(part) == b""
                else:
                    done[receiver] = receiver.handshake(part)


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def pair(request: pytest.FixtureRequest, loopback_pem: str, tls_files: Any) -> Pair:
    """A client and a server before their handshake."""
    endpoint = Endpoint.parse(f"https://127.0.0.1:0?cert={loopback_pem}")
    context = make_client_context(cafile=tls_files.ca)
    context.maximum_version = ssl.TLSVersion[request.param]
    client = TlsMachine(context, server_name="localhost")
    return client, TlsMachine(make_server_context(endpoint), server_side=True)


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_ciphertext_may_be_cut_anywhere(pair: Pair, step: int) -> None:
    """Handshake, data and end, delivered byte by byte, give the same."""
    client, server = pair
    shake_hands(client, server, step=step)
    sent = b"".join(index.to_bytes(4, "big") for index in range(5_000 if step == 1 else 20_000))
    ciphertext = client.encrypt(sent) + client.end()
    received = b""
    for begin in range(0, len(ciphertext), step):
        assert not server.ended
        received += server.decrypt(ciphertext[begin : begin + step])
    assert received == sent
    assert server.ended


def test_all_that_can_be_decrypted_is_returned(pair: Pair) -> None:
    """Nothing readable stays inside, where no poller would tell of it."""
    client, server = pair
    shake_hands(client, server)
    whole = b"x" * (3 * RECORD_BYTES)
    ciphertext = client.encrypt(b"a") + client.encrypt(whole) + client.encrypt(b"b")
    assert server.decrypt(ciphertext[:-1]) == b"a" + whole
    assert server.decrypt(ciphertext[-1:]) == b"b"


def test_data_follows_the_end_of_the_other_direction(pair: Pair) -> None:
    """A side that has said its end still receives."""
    client, server = pair
    shake_hands(client, server)
    assert server.decrypt(client.encrypt(b"ask") + client.end()) == b"ask"
    assert client.decrypt(server.encrypt(b"answer")) == b"answer"
    assert client.decrypt(server.encrypt(b"more") + server.end()) == b"more"
    assert client.ended
    assert client.failed is None


def test_a_fault_comes_behind_the_data_before_it(pair: Pair) -> None:
    """What was whole is returned; then nothing more is decrypted."""
    client, server = pair
    shake_hands(client, server)
    good, bad = client.encrypt(b"good"), bytearray(client.encrypt(b"bad"))
    bad[-1] ^= 1
    assert server.decrypt(good + bad) == b"good"
    assert isinstance(server.failed, ssl.SSLError)
    assert server.has_output  # the alert
    with pytest.raises(ssl.SSLError):
        server.decrypt(client.encrypt(b"after"))


def test_an_end_without_a_word_is_no_end(pair: Pair) -> None:
    """Data without close_notify leaves the machine waiting for more."""
    client, server = pair
    shake_hands(client, server)
    server.decrypt(client.encrypt(b"data"))
    assert not server.ended


def test_ciphers_are_authenticated_with_forward_secrecy(pair: Pair) -> None:
    """Whatever the version; nothing is compressed."""
    client, server = pair
    shake_hands(client, server)
    name, version, _bits = server.tls.cipher() or ("", "", 0)
    assert name.startswith("ECDHE-" if version == "TLSv1.2" else "TLS_")
    assert "GCM" in name or "CHACHA20" in name
    assert server.tls.compression() is None


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [(["h2", "http/1.1"], "http/1.1"), (["h2"], None), (["spdy/1", "http/1.1"], "http/1.1")],
)
def test_alpn_agrees_on_what_is_spoken(
    loopback_pem: str, tls_files: Any, offered: list[str], agreed: str | None
) -> None:
    """A client that offers something else besides gets HTTP/1.1."""
    context = make_client_context(cafile=tls_files.ca)
    context.set_alpn_protocols(offered)
    server_context = make_server_context(Endpoint.parse(f"https://127.0.0.1:0?cert={loopback_pem}"))
    client = TlsMachine(context, server_name="localhost")
    server = TlsMachine(server_context, server_side=True)
    shake_hands(client, server)
    assert client.tls.selected_alpn_protocol() == server.tls.selected_alpn_protocol() == agreed


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_session_is_resumed(loopback_pem: str, tls_files: Any, version: str) -> None:
    """The second handshake of a client that kept its ticket is a short one."""
    context = make_client_context(cafile=tls_files.ca)
    context.maximum_version = ssl.TLSVersion[version]
    server_context = make_server_context(Endpoint.parse(f"tls://127.0.0.1:0/e?cert={loopback_pem}"))
    session, resumed = None, []
    for _ in range(2):
        client = TlsMachine(context, server_name="localhost", session=session)
        server = TlsMachine(server_context, server_side=True)
        shake_hands(client, server)
        assert client.decrypt(server.encrypt(b"with the tickets before it")) == b"with the tickets before it"
        session = client.tls.session
        resumed.append((client.tls.session_reused, server.tls.session_reused))
    assert resumed == [(False, False), (True, True)]


def test_old_protocols_are_refused(loopback_pem: str) -> None:
    """A client that knows TLS 1.1 at best gets an alert."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    client = TlsMachine(context, server_name="localhost")
    server_context = make_server_context(Endpoint.parse(f"tls://127.0.0.1:0/e?cert={loopback_pem}"))
    server = TlsMachine(server_context, server_side=True)
    client.handshake()
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        server.handshake(client.take())
    assert server.has_output
