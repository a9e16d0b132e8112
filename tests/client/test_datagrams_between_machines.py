"""`oread.open_datagram` and `oread ping` between machines with several interfaces.

Two machines in network namespaces, joined by two links: what loopback can't
show. Each test's side runs in a thread that has entered its machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import attrs
import pytest
import trio
from listeners.machines import (
    GROUP,
    GROUP6,
    HAS_IPV6,
    Host,
    needs_ipv6,
    needs_namespaces,
    run_ip,
    write_settings,
)

import oread
from oread.sockets.interfaces import read_interfaces

pytestmark = needs_namespaces
LIMIT_SECONDS = 20
PORT = 7_007
LINKS = ("eth0", "eth1")


@attrs.frozen
class Pair:
    """Two machines with two links between them, 10.77.0.0/24 and 10.78.0.0/24."""

    a: Host
    b: Host


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Make two machines; names are this process's own."""
    names = [f"oread-{os.getpid()}-pair-{name}" for name in "ab"]
    hosts = [Host(name, f"10.77.0.{number}") for number, name in enumerate(names, 1)]
    try:
        for host in hosts:
            run_ip("netns", "add", host.namespace)
            host.enter(write_settings)
            run_ip("-n", host.namespace, "link", "set", "lo", "up")
        for number, link in enumerate(LINKS):
            make_link(hosts, link, f"10.{77 + number}.0")
        for host in hosts:
            host.enter(wait_link_local)
        yield Pair(*hosts)
    finally:
        for host in hosts:
            subprocess.run(
                ["ip", "netns", "del", host.namespace], check=False, capture_output=True, timeout=30
            )


def wait_link_local() -> None:
    """Wait until the system has given each link its IPv6 address, which it does in the background."""
    while HAS_IPV6 and not all(
        each.carries(socket.AF_INET6) for each in read_interfaces().all if each.name in LINKS
    ):
        time.sleep(0.01)


def make_link(hosts: list[Host], link: str, network: str) -> None:
    """Join two machines by one more link."""
    first, second = (host.namespace for host in hosts)
    peer = ("peer", "name", link, "netns", second)
    run_ip("-n", first, "link", "add", link, "type", "veth", *peer)
    for number, name in enumerate((first, second), 1):
        run_ip("-n", name, "addr", "add", f"{network}.{number}/24", "brd", "+", "dev", link)
        run_ip("-n", name, "link", "set", link, "up")


def both(pair: Pair, left: Callable[..., Awaitable[Any]], right: Callable[..., Awaitable[Any]]) -> list[Any]:
    """Run something on each machine at once; `left` begins when `right` calls its argument."""
    ready = threading.Event()
    found: dict[str, Any] = {}

    def run(name: str, host: Host, side: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        async def limited() -> Any:
            with trio.fail_after(LIMIT_SECONDS):
                return await side(*arguments)

        try:
            found[name] = host.enter(trio.run, limited)
        except BaseException as error:  # noqa: BLE001 - raised by the test's own thread
            found[name] = error
        finally:
            ready.set()

    thread = threading.Thread(target=run, args=("right", pair.b, right, ready.set))
    thread.start()
    assert ready.wait(LIMIT_SECONDS)
    other = threading.Thread(target=run, args=("left", pair.a, left))
    other.start()
    for each in (thread, other):
        each.join(2 * LIMIT_SECONDS)
    for each in found.values():
        if isinstance(each, BaseException):
            raise each
    return [found["left"], found["right"]]


@pytest.mark.parametrize("host", [GROUP, "255.255.255.255"])
def test_each_datagram_leaves_by_the_interface_it_names(pair: Pair, host: str) -> None:
    """One socket sends a group's or a broadcast's datagrams by either link, without a route."""

    async def send() -> None:
        async with oread.open_datagram(f"udp://{host}:{PORT}") as datagrams:
            for link in (*LINKS, LINKS[0]):
                await datagrams.send(link, interface=link)

    async def hear(ready: Callable[[], None]) -> list[Any]:
        async with oread.open_datagram(f"udp://{host}:{PORT}", listen=True) as datagrams:
            ready()
            found = [await datagrams.receive() for _ in range(3)]
            return [(each.data.decode(), each.interface, each.peer.address[0]) for each in found]

    _, heard = both(pair, send, hear)
    assert sorted(heard) == [
        ("eth0", "eth0", "10.77.0.1"),
        ("eth0", "eth0", "10.77.0.1"),
        ("eth1", "eth1", "10.78.0.1"),
    ]


@pytest.mark.parametrize("host", [GROUP, "255.255.255.255", f"[{GROUP6}]"])
def test_a_datagram_leaves_by_every_interface(pair: Pair, host: str) -> None:
    """Guard 26: `interface=*` sends and asks on each link, named in the URL or for one datagram."""
    if ":" in host and not HAS_IPV6:
        pytest.skip("this kernel has no IPv6")

    async def ask() -> list[Any]:
        url = f"udp://{host}:{PORT}"
        async with oread.open_datagram(f"{url}?interface=*") as datagrams:
            await datagrams.send("sent")
            sent = datagrams.statistics().sent
            answers = await datagrams.request_all("asked", reply=str, deadline=5, most=2)
        async with oread.open_datagram(url) as datagrams:
            await datagrams.send("one by one", interface="*")
        return [sent, sorted(each.value for each in answers)]

    async def answer(ready: Callable[[], None]) -> list[Any]:
        async with oread.open_datagram(f"udp://{host}:{PORT}?interface=*", listen=True) as datagrams:
            ready()
            found = []
            for _ in range(6):
                message = await datagrams.receive()
                found.append((message.data, message.interface))
                if message.data == b"asked":
                    await datagrams.send(message.interface, to=message)
            return sorted(found)

    asked, heard = both(pair, ask, answer)
    assert asked == [2, list(LINKS)]
    assert heard == [(data, link) for data in (b"asked", b"one by one", b"sent") for link in LINKS]


@pytest.mark.parametrize("link", LINKS)
def test_a_request_goes_by_its_interface(pair: Pair, link: str) -> None:
    """To a group and to one machine, asked by name of the link; the answer says where it came from."""
    number = 77 + LINKS.index(link)

    async def ask() -> list[Any]:
        async with oread.open_datagram(f"udp://{GROUP}:{PORT}") as datagrams:
            everybody = await datagrams.request_all("all of you", interface=link, deadline=5, most=1)
            one = await datagrams.request(
                "one alone", to=(f"10.{number}.0.2", PORT + 1), interface=link, reply=str, deadline=5
            )
            return [*((each.message.peer.address[0], each.message.interface) for each in everybody), one]

    async def serve(ready: Callable[[], None]) -> None:
        registry = oread.Registry()
        done = trio.Event()

        @registry.on("echo")
        def echo(data: bytes, message: oread.Datagram) -> str:
            if data == b"one alone":
                done.set()
            return f"{data.decode()} by {message.interface}"

        urls = (f"udp://{GROUP}:{PORT}/echo?reply=unicast", f"udp://0.0.0.0:{PORT + 1}/echo")
        async with oread.open_service(registry, *urls) as service:
            ready()
            await done.wait()
            await service.drain(5)

    asked, _ = both(pair, ask, serve)
    assert asked == [(f"10.{number}.0.2", link), f"one alone by {link}"]


def test_a_group_without_loop_is_not_heard_on_its_own_machine(pair: Pair) -> None:
    """loop=False keeps the copy from groups joined here; others hear both."""

    async def send() -> list[bytes]:
        url = f"udp://{GROUP}:{PORT}?interface=eth0"
        async with (
            oread.open_datagram(url, listen=True) as here,
            oread.open_datagram(url, loop=False) as silent,
            oread.open_datagram(url) as loud,
        ):
            await silent.send("silent")
            await loud.send("loud")
            return [(await here.receive()).data]

    async def hear(ready: Callable[[], None]) -> list[bytes]:
        async with oread.open_datagram(f"udp://{GROUP}:{PORT}?interface=eth0", listen=True) as datagrams:
            ready()
            return [(await datagrams.receive()).data for _ in range(2)]

    assert both(pair, send, hear) == [[b"loud"], [b"silent", b"loud"]]


@needs_ipv6
def test_ipv6_links_are_told_apart(pair: Pair) -> None:
    """A link-local group is sent by a named link and answered to the sender's own link-local address."""

    async def ask() -> list[Any]:
        found = []
        async with oread.open_datagram(f"udp://[{GROUP6}]:{PORT}") as datagrams:
            for link in LINKS:
                await datagrams.send(link, interface=link)
                message = await datagrams.receive()
                found.append((message.data.decode(), message.interface, message.peer.address[0][:6]))
                await datagrams.send("thanks", to=message)
        return found

    async def answer(ready: Callable[[], None]) -> list[bytes]:
        thanks = []
        async with oread.open_datagram(f"udp://[{GROUP6}]:{PORT}", listen=True) as datagrams:
            ready()
            for _ in LINKS:
                message = await datagrams.receive()
                await datagrams.send(f"{message.data.decode()} by {message.interface}", to=message)
                thanks.append((await datagrams.receive()).data)
        return thanks

    asked, thanks = both(pair, ask, answer)
    assert asked == [(f"{link} by {link}", link, "fe80::") for link in LINKS]
    assert thanks == [b"thanks"] * 2


def test_a_wildcard_answers_from_the_alias_that_was_asked(pair: Pair) -> None:
    """`to=message` leaves from the address that was asked, not from the route's."""
    run_ip("-n", pair.b.namespace, "addr", "add", "10.77.0.22/24", "dev", "eth0")

    async def ask() -> list[bytes]:
        found = []
        for host in ("10.77.0.22", "10.77.0.2"):
            async with oread.open_datagram(f"udp://{host}:{PORT}") as datagrams:
                # Connected to that address: an answer from another one is not heard.
                found.append(await datagrams.request(host, deadline=5))
        return found

    async def answer(ready: Callable[[], None]) -> None:
        async with oread.open_datagram(f"udp://0.0.0.0:{PORT}", listen=True) as datagrams:
            ready()
            for _ in range(2):
                message = await datagrams.receive()
                await datagrams.send(message.data, to=message)

    assert both(pair, ask, answer)[0] == [b"10.77.0.22", b"10.77.0.2"]


def test_an_interface_made_anew_is_found_by_the_next_send(pair: Pair) -> None:
    """What was known of it is forgotten with the first refusal; without the interface that is raised."""

    async def send() -> None:
        async with oread.open_datagram(f"udp://{GROUP}:{PORT}?interface=eth2") as datagrams:
            await datagrams.send(b"before")
            run_ip("-n", pair.a.namespace, "link", "del", "eth2")
            with pytest.raises(OSError, match="no interface eth2"):
                await datagrams.send(b"between")
            make_link([pair.a, pair.b], "eth2", "10.79.0")
            await datagrams.send(b"after")
            run_ip("-n", pair.a.namespace, "link", "del", "eth2")
            make_link([pair.a, pair.b], "eth2", "10.79.0")
            await datagrams.send(b"after another")

    make_link([pair.a, pair.b], "eth2", "10.79.0")
    pair.a.enter(trio.run, send)


@pytest.mark.parametrize(
    "url", [f"udp://{GROUP}:{PORT}?interface=eth3", f"udp://{GROUP}:{PORT}", f"udp://[{GROUP6}]:{PORT}"]
)
def test_a_listener_joins_again_when_its_interface_is_recreated(pair: Pair, url: str) -> None:
    """Guard 18 of the calling side: what is sent after delete and recreate is heard."""
    made = ["first"]
    done = threading.Event()

    async def send() -> None:
        async with oread.open_datagram(url) as datagrams:
            while not done.is_set():
                with contextlib.suppress(OSError):  # the link is away, or has no address yet
                    await datagrams.send(made[-1], interface="eth3")
                await trio.sleep(0.01)

    async def hear(ready: Callable[[], None]) -> list[str | None]:
        found = []
        async with oread.open_datagram(url, listen=True) as datagrams:
            ready()
            try:
                for name in ("first", "second", "third"):
                    if name != "first":
                        run_ip("-n", pair.a.namespace, "link", "del", "eth3")
                        make_link([pair.a, pair.b], "eth3", "10.80.0")
                        made.append(name)
                    while (message := await datagrams.receive()).data != name.encode():
                        pass
                    found.append(message.interface)
            finally:
                done.set()
        return found

    make_link([pair.a, pair.b], "eth3", "10.80.0")
    try:
        assert both(pair, send, hear)[1] == ["eth3"] * 3
    finally:
        run_ip("-n", pair.a.namespace, "link", "del", "eth3")


def test_a_listener_may_be_earlier_than_its_interface(pair: Pair) -> None:
    """With `late_interface` the block begins without its interface, and hears it once it is there."""
    url = f"udp://{GROUP}:{PORT}?interface=eth4"
    done = threading.Event()

    async def send() -> None:
        async with oread.open_datagram(url) as datagrams:
            while not done.is_set():
                await datagrams.send(b"news")
                await trio.sleep(0.01)

    async def hear(ready: Callable[[], None]) -> str | None:
        try:
            async with oread.open_datagram(f"{url}&late_interface=true", listen=True) as datagrams:
                assert datagrams.mode == "multicast"
                make_link([pair.a, pair.b], "eth4", "10.81.0")
                ready()
                return (await datagrams.receive()).interface
        finally:
            done.set()

    assert both(pair, send, hear)[1] == "eth4"


def test_ping_tells_every_responder_of_a_group(pair: Pair) -> None:
    """From another machine: who answers by multicast and who by unicast, and over how many hops."""
    urls = (
        f"udp://{GROUP}:{PORT}/echo?interface=eth0&reply=unicast",
        f"udp://10.77.0.2:{PORT}/echo",
    )
    with subprocess.Popen(
        ["ip", "netns", "exec", pair.b.namespace, sys.executable, "-m", "oread", "serve", *urls],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            while "second terminal" not in server.stdout.readline():
                pass
            command = [sys.executable, "-m", "oread", "ping", f"udp://{GROUP}:{PORT}?interface=eth0"]
            options = ["--count", "4", "--interval", "200ms", "--json", "--loss", "50"]
            done = subprocess.run(
                ["ip", "netns", "exec", pair.a.namespace, *command, *options],
                capture_output=True,
                timeout=60,
                check=False,
            )
        finally:
            server.terminate()
    assert done.returncode == 0, done.stderr
    rows = {row["kind"]: row for row in json.loads(done.stdout)["responders"]}
    assert {row["responder"] for row in rows.values()} == {f"10.77.0.2:{PORT}"}
    assert (rows["multicast"]["received"], rows["multicast"]["hops"]) == (4, 0)
    assert rows["unicast"]["received"] == rows["unicast"]["sent"] >= 1
