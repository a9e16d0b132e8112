"""UDP sockets as the kernel sees them: bound, joined, and with which options."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest
from loopback import GROUP, LOOPBACK, linux_only, needs_ipv6

from oread.endpoints import Endpoint
from oread.errors import EndpointError
from oread.sockets import options
from oread.sockets.datagrams import (
    DatagramSocket,
    adopt_datagram_socket,
    open_datagram_sockets,
    open_sending_socket,
)
from oread.sockets.interfaces import Interfaces, read_interfaces
from oread.sockets.routes import CONTROL_BYTES, Route, find_destination, read_details, read_route

HERE = read_interfaces()


class Opener:
    """Opens endpoints and closes them after the test."""

    def __init__(self) -> None:
        self.opened: list[DatagramSocket] = []

    def __call__(self, url: str) -> list[DatagramSocket]:
        """Open an endpoint's sockets."""
        fresh = open_datagram_sockets(Endpoint.parse(url))
        self.opened += fresh
        return fresh


@pytest.fixture
def open_url() -> Iterator[Opener]:
    opener = Opener()
    yield opener
    for each in opener.opened:
        each.sock.close()


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with open_sending_socket(socket.AF_INET, interface=LOOPBACK.index) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def receive(opened: DatagramSocket) -> tuple[bytes, Route]:
    """Wait for one datagram and read its way."""
    opened.sock.settimeout(5)
    data, ancillary, _, _ = opened.sock.recvmsg(65_536, CONTROL_BYTES)
    return data, read_route(find_destination(ancillary), HERE)


def is_empty(opened: DatagramSocket) -> bool:
    """Tell whether nothing is queued now; on loopback sending is delivering."""
    opened.sock.setblocking(False)
    try:
        opened.sock.recv(100)
    except BlockingIOError:
        return True
    return False


def test_port_zero_becomes_a_real_port(open_url: Opener) -> None:
    """Port 0 is replaced by what the kernel picked, and the socket does not block."""
    (opened,) = open_url("udp://127.0.0.1:0/echo")
    assert opened.port == opened.sock.getsockname()[1] != 0
    assert opened.sock.getblocking() is False
    assert opened.sock.get_inheritable() is False
    assert (opened.mode, opened.host, opened.wildcard) == ("unicast", "127.0.0.1", False)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Have the system's resolver know one name, for want of a DNS of our own."""
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda _name, port, **_: [
            (socket.AF_INET, socket.SOCK_DGRAM, 17, "", (host, port)) for host in hosts
        ],
    )


def test_a_name_binds_every_address_on_one_port(open_url: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """All addresses of a name share the port that was picked, and each is bound once."""
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2", "127.0.0.1")
    opened = open_url("udp://some.name:0/echo")
    assert [each.host for each in opened] == ["127.0.0.1", "127.0.0.2"]
    assert len({each.port for each in opened}) == 1


def test_addresses_that_never_share_a_port_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no port is free on all addresses the search ends, with EADDRINUSE and nothing open."""
    resolve_to(monkeypatch, "127.0.0.1", "0.0.0.0")
    with pytest.raises(OSError, match="in use"):
        open_datagram_sockets(Endpoint.parse("udp://some.name:0/echo"))


@pytest.mark.parametrize(
    "url", ["udp://127.0.0.1:0/echo", "udp://0.0.0.0:0/echo", "udp://127.255.255.255:0/echo"]
)
def test_broadcast_is_off_on_every_listening_socket(open_url: Opener, url: str) -> None:
    """Guard 5: SO_BROADCAST is 0, so a forced answer to a broadcast fails with EACCES."""
    (opened,) = open_url(url)
    assert opened.sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 0
    with pytest.raises(PermissionError):
        opened.sock.sendto(b"x", ("127.255.255.255", 9))


def test_group_of_link_scope_needs_its_interface() -> None:
    """Its socket is bound to it, so it can't come later."""
    with pytest.raises(OSError, match="no interface is up that can join"):
        open_datagram_sockets(Endpoint.parse("udp://[ff02::7777]:0/echo?interface=nope0&late_interface=true"))


def test_nobody_else_can_bind_a_unicast_port(open_url: Opener) -> None:
    """A second socket on the port is refused, whatever reuse it asks for."""
    (opened,) = open_url("udp://127.0.0.1:0/echo")
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            thief.setsockopt(socket.SOL_SOCKET, option, 1)
            with pytest.raises(OSError, match="in use") as caught:
                thief.bind(("127.0.0.1", opened.port))
            assert caught.value.errno == errno.EADDRINUSE


@linux_only
@pytest.mark.parametrize("hosts", [("0.0.0.0", GROUP), (GROUP, "0.0.0.0"), ("0.0.0.0", "127.255.255.255")])
def test_wildcard_and_group_of_one_service_share_a_port(open_url: Opener, hosts: tuple[str, str]) -> None:
    """Each is let in by the other, in any order, and nobody else is afterwards."""
    one, other = hosts
    (first,) = open_url(f"udp://{one}:0/echo")
    with pytest.raises(OSError, match="in use"):
        open_url(f"udp://{other}:{first.port}/echo")
    (second,) = open_datagram_sockets(Endpoint.parse(f"udp://{other}:{first.port}/echo"), [first])
    with second.sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            thief.setsockopt(socket.SOL_SOCKET, option, 1)
            for host in ("0.0.0.0", "127.0.0.1", *hosts):
                with pytest.raises(OSError, match="in use"):
                    thief.bind((host, first.port))


@linux_only
def test_who_would_take_from_the_other_is_not_let_in(open_url: Opener) -> None:
    """An address of this machine beside the wildcard, or one address twice, is still refused."""
    (first,) = open_url("udp://0.0.0.0:0/echo")
    for host in ("0.0.0.0", "127.0.0.1"):
        with pytest.raises(OSError, match="in use"):
            open_datagram_sockets(Endpoint.parse(f"udp://{host}:{first.port}/echo"), [first])
    assert first.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0


def test_port_in_use_is_an_os_error_and_leaves_nothing_open(
    open_url: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All or nothing: when the second address is taken the first one is closed again."""
    (taken,) = open_url("udp://127.0.0.2:0/echo")
    resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    with pytest.raises(OSError, match="in use"):
        open_datagram_sockets(Endpoint.parse(f"udp://some.name:{taken.port}/echo"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(("127.0.0.1", taken.port))


def test_reuse_port_lets_two_processes_serve(open_url: Opener) -> None:
    """With reuse_port the same port is bound twice."""
    (first,) = open_url("udp://127.0.0.1:0/echo?reuse_port=true")
    (second,) = open_url(f"udp://127.0.0.1:{first.port}/echo?reuse_port=true")
    assert first.port == second.port


def test_receive_buffer_is_asked_for_and_read_back(open_url: Opener) -> None:
    """What the kernel granted is told in the unit it was asked for."""
    (opened,) = open_url("udp://127.0.0.1:0/echo?receive_buffer_bytes=65536")
    assert opened.receive_buffer_bytes == 65_536


@linux_only
def test_group_socket_hears_its_group_and_nothing_else(open_url: Opener, sender: socket.socket) -> None:
    """A group-bound socket gets the group with its way, and no unicast to its port."""
    (opened,) = open_url(f"udp://{GROUP}:0/echo?interface={LOOPBACK.name}")
    sender.sendto(b"to nobody", ("127.0.0.1", opened.port))
    sender.sendto(b"to another group", ("239.255.70.8", opened.port))
    sender.sendto(b"to the group", (GROUP, opened.port))
    data, route = receive(opened)
    assert data == b"to the group"
    assert (route.mode, route.local, route.interface) == ("multicast", GROUP, LOOPBACK.index)
    assert opened.accepts(route)
    assert is_empty(opened)


@linux_only
def test_group_socket_has_a_reach_of_one_link(open_url: Opener) -> None:
    """Guard 10: what a group's socket sends crosses no router."""
    (opened,) = open_url(f"udp://{GROUP}:0/echo?interface={LOOPBACK.index}")
    levels = ((socket.IP_TTL, 1), (socket.IP_MULTICAST_TTL, 1), (options.IP_MULTICAST_ALL, 0))
    assert [opened.sock.getsockopt(socket.IPPROTO_IP, name) for name, _ in levels] == [
        want for _, want in levels
    ]


@linux_only
def test_source_specific_group_hears_one_source(open_url: Opener, sender: socket.socket) -> None:
    """With source= only datagrams of that source come through."""
    (opened,) = open_url(f"udp://{GROUP}:0/echo?interface={LOOPBACK.name}&source=127.0.0.9")
    with open_sending_socket(socket.AF_INET, interface=LOOPBACK.index) as named:
        named.bind(("127.0.0.9", 0))
        sender.sendto(b"other source", (GROUP, opened.port))
        named.sendto(b"named source", (GROUP, opened.port))
    assert receive(opened)[0] == b"named source"
    assert is_empty(opened)


@linux_only
def test_socket_that_did_not_join_hears_no_group(open_url: Opener, sender: socket.socket) -> None:
    """A wildcard socket gets nothing of a group that another socket on its port joined."""
    (wildcard,) = open_url("udp://0.0.0.0:0/echo?reuse_port=true")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as joined:
        joined.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        joined.bind(("0.0.0.0", wildcard.port))
        request = struct.pack("@4s4si", socket.inet_aton(GROUP), bytes(4), LOOPBACK.index)
        joined.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        joined.settimeout(5)
        sender.sendto(b"to the group", (GROUP, wildcard.port))
        assert joined.recv(100) == b"to the group"
    assert is_empty(wildcard)


@linux_only
def test_shared_group_reaches_every_socket(open_url: Opener, sender: socket.socket) -> None:
    """With shared=true two sockets hold the same group, and both hear it."""
    (first,) = open_url(f"udp://{GROUP}:0/echo?interface={LOOPBACK.name}&shared=true")
    (second,) = open_url(f"udp://{GROUP}:{first.port}/echo?interface={LOOPBACK.name}&shared=true")
    sender.sendto(b"both", (GROUP, first.port))
    assert [receive(each)[0] for each in (first, second)] == [b"both", b"both"]


@linux_only
def test_broadcast_socket_hears_its_broadcast_only(open_url: Opener, sender: socket.socket) -> None:
    """A socket bound to a broadcast address gets that, with its way, and no unicast."""
    (opened,) = open_url("udp://127.255.255.255:0/lan")
    sender.sendto(b"unicast", ("127.0.0.1", opened.port))
    sender.sendto(b"to all", ("127.255.255.255", opened.port))
    data, route = receive(opened)
    assert data == b"to all"
    assert (opened.mode, route.mode, route.local) == ("broadcast", "broadcast", "127.255.255.255")
    assert opened.accepts(route)
    assert is_empty(opened)


def test_wildcard_socket_learns_what_was_asked(open_url: Opener, sender: socket.socket) -> None:
    """A wildcard socket is told which address was asked, and accepts no broadcast for it."""
    (opened,) = open_url("udp://0.0.0.0:0/echo")
    sender.sendto(b"x", ("127.0.0.5", opened.port))
    _, route = receive(opened)
    assert (route.mode, route.local) == ("unicast", "127.0.0.5")
    assert opened.accepts(route)
    sender.sendto(b"x", ("127.255.255.255", opened.port))
    _, route = receive(opened)
    assert route.mode == "broadcast"
    assert not opened.accepts(route)


@needs_ipv6
def test_ipv6_socket_learns_what_was_asked(open_url: Opener) -> None:
    """The same for IPv6, with TTL and time when they are asked for."""
    (opened,) = open_url("udp://[::]:0/echo")
    opened.ask_details()
    opened.sock.settimeout(5)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ("::1", opened.port))
        _, ancillary, _, _ = opened.sock.recvmsg(100, CONTROL_BYTES)
    route = read_route(find_destination(ancillary), HERE)
    details = read_details(ancillary)
    assert (route.mode, route.local, route.interface) == ("unicast", "::1", LOOPBACK.index)
    assert details.ttl == 64
    assert not options.LINUX or (details.timestamp or 0) > 1.6e9


@pytest.mark.parametrize(
    ("option", "host"),
    [
        ("interface=lo", "127.0.0.1"),
        ("source=10.0.0.1", "127.0.0.1"),
        ("source=10.0.0.1", "127.255.255.255"),
        ("shared=true", "127.0.0.1"),
        ("reuse_port=true", GROUP),
    ],
)
def test_option_that_does_not_fit_the_address_is_refused(option: str, host: str) -> None:
    """An option that means nothing for a mode names itself and the mode."""
    name = option.partition("=")[0]
    with pytest.raises(EndpointError, match=rf"the option {name} does not fit a \w+ address"):
        open_datagram_sockets(Endpoint.parse(f"udp://{host}:0/echo?{option}"))


def test_source_of_another_family_is_refused() -> None:
    """An IPv6 source can't be joined for an IPv4 group."""
    with pytest.raises(EndpointError, match="source=::1 is not an address of the group's kind"):
        open_datagram_sockets(Endpoint.parse(f"udp://{GROUP}:0/echo?interface={LOOPBACK.name}&source=::1"))


def test_unknown_interface_is_an_os_error() -> None:
    """An interface that does not exist is named."""
    with pytest.raises(OSError, match="no interface nope0"):
        open_datagram_sockets(Endpoint.parse(f"udp://{GROUP}:0/echo?interface=nope0"))


def test_endpoint_of_another_scheme_is_refused() -> None:
    """Only udp endpoints have datagram sockets."""
    with pytest.raises(EndpointError, match="not a udp endpoint"):
        open_datagram_sockets(Endpoint.parse("tcp://127.0.0.1:0/echo"))


def test_adopted_socket_is_set_as_our_own() -> None:
    """A socket handed in loses SO_BROADCAST and blocking, and keeps its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        adopted = adopt_datagram_socket(sock, Endpoint.parse("udp://127.0.0.1:0/echo"))
        assert (adopted.port, adopted.mode) == (sock.getsockname()[1], "unicast")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST) == 0
        assert sock.getblocking() is False


@linux_only
def test_adopted_socket_loses_its_error_queue(sender: socket.socket) -> None:
    """Guard 16: IP_RECVERR is put off, and with it goes what would keep the socket ready for ever."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone,
    ):
        gone.bind(("127.0.0.1", 0))
        sock.bind(("127.0.0.1", 0))
        sock.setsockopt(socket.IPPROTO_IP, options.IP_RECVERR, 1)
        nobody = gone.getsockname()
        gone.close()
        sock.sendto(b"x", nobody)
        adopt_datagram_socket(sock, Endpoint.parse("udp://127.0.0.1:0/echo"))
        assert sock.getsockopt(socket.IPPROTO_IP, options.IP_RECVERR) == 0
        with pytest.raises(BlockingIOError):
            sock.recvmsg(100, 100, socket.MSG_ERRQUEUE)


@needs_ipv6
def test_adopted_ipv6_socket_is_set_as_our_own() -> None:
    """An IPv6 socket handed in is taken as it was bound."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        adopted = adopt_datagram_socket(sock, Endpoint.parse("udp://[::1]:0/echo"))
        assert (adopted.host, adopted.mode, adopted.wildcard) == ("::1", "unicast", False)


def test_adopting_refuses_what_is_not_bound_udp() -> None:
    """A stream socket and an unbound one are refused by name."""
    endpoint = Endpoint.parse("udp://127.0.0.1:0/echo")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
        pytest.raises(EndpointError, match="is not a UDP socket"),
    ):
        adopt_datagram_socket(stream, endpoint)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unbound,
        pytest.raises(EndpointError, match="is not bound"),
    ):
        adopt_datagram_socket(unbound, endpoint)


def test_answers_pin_the_address_or_the_interface() -> None:
    """Unicast answers leave from the address asked by any interface; group answers by the interface."""
    nowhere = Interfaces.of(())
    one, two = socket.inet_aton("10.77.0.1"), socket.inet_aton("10.77.0.2")
    group, index = socket.inet_aton(GROUP), struct.pack("@I", 7)
    cases = [
        (index + one + one, "unicast", bytes(4) + one + bytes(4)),
        (index + one + group, "multicast", index + (one if options.LINUX else bytes(4)) + bytes(4)),
        # Linux proposes another address: a broadcast of an interface not in the snapshot.
        (index + one + two, "broadcast", index + (one if options.LINUX else bytes(4)) + bytes(4)),
        (bytes(15) + b"\1" + index, "unicast", bytes(15) + b"\1" + bytes(4)),
        (b"\xff\x02" + bytes(14) + index, "multicast", bytes(16) + index),
    ]
    for control, mode, answer in cases:
        route = read_route(control, nowhere)
        assert (route.mode, route.interface, route.ancillary[0][2]) == (mode, 7, answer)
