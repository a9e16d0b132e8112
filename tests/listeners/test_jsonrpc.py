"""JSON-RPC on every transport: the specification's examples, errors, options."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import oread
from oread.messages import Datagram, HttpRequest, Message

URLS = {
    "tcp": "tcp://127.0.0.1:0?framing=jsonrpc",
    "unix": "unix://{path}?framing=jsonrpc",
    "http": "http://127.0.0.1:0?rpc=/rpc",
    "udp": "udp://127.0.0.1:0?framing=jsonrpc",
}
LIMIT_SECONDS = 10
"""Far beyond what loopback needs: only an answer that never comes gets here."""
MARK = "-32099"
"""The id of a call behind the one that is tested: its answer says that nothing more comes."""

Ask = Callable[[str], Awaitable[str]]
"""Send one document, return the one that answers, `""` when there is none."""


@attrs.frozen
class Operands:
    """What the specification's `subtract` takes, by position or by name."""

    minuend: int
    subtrahend: int


def subtract(operands: Operands) -> int:
    """Subtract, as in the specification."""
    return operands.minuend - operands.subtrahend


async def total(numbers: list[int]) -> int:
    """Add up, and suspend."""
    await trio.lowlevel.checkpoint()
    return sum(numbers)


async def order(order_id: int, message: Message) -> dict[str, Any]:
    """Tell what is known of the message."""
    return {
        "id": order_id,
        "event": message.event,
        "transport": message.transport,
        "captures": dict(message.captures),
        "data": message.data.decode(),
        "type": type(message).__name__,
    }


def echo(data: bytes) -> bytes:
    """Return it."""
    return data


def ask_request(request: HttpRequest) -> str:
    """Tell what only HTTP knows."""
    return f"{request.method} {request.path}"


def ask_arrival(datagram: Datagram) -> str:
    """Tell what only UDP knows."""
    return f"{datagram.mode} {datagram.interface} {datagram.ttl is not None}"


async def fail() -> None:
    """Fail with words that must not get out."""
    raise LookupError("a secret")


def miss() -> None:
    """Refuse, as a handler does that finds nothing."""
    raise oread.NotFound("no such order")


def notify(_numbers: list[int]) -> None:
    """Return nothing."""


@pytest.fixture
def registry() -> oread.Registry:
    """The methods of the specification's examples, and some of ours."""
    registry = oread.Registry()
    registry.on("subtract", subtract)
    registry.on("sum", total)
    for name in ("notify_sum", "notify_hello", "update"):
        registry.on(name, notify)
    registry.on("get_data", lambda: ["hello", 5])
    registry.on("echo", echo)
    registry.on("orders/{order_id}", order)
    registry.on("request", ask_request)
    registry.on("datagram", ask_arrival)
    registry.on("fails", fail)
    registry.on("missing", miss)
    registry.on("hidden", miss, exposed=False)
    registry.on("rpc.own", miss)
    return registry


def call(method: str, params: str = "", call_id: str = "1") -> str:
    """Write one request."""
    given = f',"params":{params}' if params else ""
    return f'{{"jsonrpc":"2.0","method":"{method}"{given},"id":{call_id}}}'


async def ask_stream(stream: trio.abc.Stream, text: str) -> str:
    """Send a line and one more call; return what came before that one's answer."""
    mark = call("get_data", call_id=MARK)
    await stream.send_all(f"{text}\n{mark}\n".encode())
    received = b""
    with trio.fail_after(LIMIT_SECONDS):
        while f'"id":{MARK}}}\n'.encode() not in received:
            received += await stream.receive_some()
    lines = received.decode().splitlines()
    assert len(lines) <= 2
    return lines[0] if len(lines) == 2 else ""


async def ask_http(port: int, text: str) -> str:
    """POST a document; return the body of the response."""
    head = "POST /rpc HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
    body = text.encode()
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        received = b""
        with trio.fail_after(LIMIT_SECONDS):
            async for chunk in stream:
                received += chunk
    head, _, answer = received.decode().partition("\r\n\r\n")
    status = head.split(" ")[1]
    assert (status, "application/json" in head) == (("200", True) if answer else ("204", False))
    return answer


async def ask_datagram(sock: trio.socket.SocketType, text: str) -> str:
    """Send a datagram and, when all is still, one more call; return what came before its answer."""
    found = []
    await sock.send(text.encode())
    await wait_all_tasks_blocked()
    await sock.send(call("get_data", call_id=MARK).encode())
    with trio.fail_after(LIMIT_SECONDS):
        while not (data := (await sock.recv(65_536)).decode()).endswith(f'"id":{MARK}}}'):
            found.append(data)
    return "".join(found)


@pytest.fixture
def open_asking(registry: oread.Registry, tmp_path: Any) -> Callable[[str], Any]:
    """Serve the registry by one transport; give what asks there, and the service."""

    @asynccontextmanager
    async def open_it(transport: str) -> AsyncIterator[tuple[Ask, oread.Service]]:
        url = URLS[transport].format(path=tmp_path / "rpc.sock")
        async with oread.open_service(registry, url) as service:
            endpoint = service.endpoints[0]
            if transport == "http":
                yield lambda text: ask_http(endpoint.port, text), service
            elif transport == "udp":
                with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
                    await sock.connect(("127.0.0.1", endpoint.port))
                    yield lambda text: ask_datagram(sock, text), service
            else:
                stream: trio.abc.Stream = (
                    await trio.open_unix_socket(endpoint.host)
                    if transport == "unix"
                    else await trio.open_tcp_stream("127.0.0.1", endpoint.port)
                )
                async with stream:
                    yield lambda text: ask_stream(stream, text), service

    return open_it


def without_data(response: Any) -> Any:
    """Take out of errors what the specification leaves to the server."""
    for each in response if isinstance(response, list) else [response]:
        each.get("error", {}).pop("data", None)
    return response


EXAMPLES = pathlib.Path(__file__).parent / "jsonrpc_examples.jsonl"
SPECIFICATION = {
    row["case"]: (row["sent"], row["expected"]) for row in map(json.loads, EXAMPLES.read_text().splitlines())
}
"""Section 7 of the specification: what is sent, and what is to come back."""


@pytest.mark.parametrize("case", SPECIFICATION)
@pytest.mark.parametrize("transport", ["tcp", "unix", "http"])
async def test_the_examples_of_the_specification(open_asking: Any, transport: str, case: str) -> None:
    """Section 7, word for word; errors may say more in `data`."""
    sent, expected = SPECIFICATION[case]
    async with open_asking(transport) as (ask, _):
        answer = await ask(sent)
    assert without_data(json.loads(answer or "null") or {}) == json.loads(expected or "{}")


@pytest.mark.parametrize("case", SPECIFICATION)
async def test_the_examples_by_udp_without_their_errors(open_asking: Any, case: str) -> None:
    """Results come back as elsewhere; an error is counted and not sent, in a batch too."""
    sent, expected = SPECIFICATION[case]
    wanted = json.loads(expected or "{}")
    if isinstance(wanted, list):
        wanted = [each for each in wanted if "result" in each] or {}
    async with open_asking("udp") as (ask, service):
        answer = await ask(sent)
        refused = service.statistics().endpoints[0].refused
    assert json.loads(answer or "{}") == ({} if "error" in wanted else wanted)
    assert bool(refused) is ("error" in expected or "of no method" in case)


ERRORS = {
    "wrong type, with its path": (call("sum", '[1,"a"]'), -32602, "$[1]: Expected `int`, got `str`"),
    "params missing": (call("subtract"), -32602, "empty"),
    "a failure, without its words": (call("fails"), -32603, None),
    "a refusal of the handler's": (call("missing"), -32003, {"status": 404, "reason": "no such order"}),
    "hidden from endpoints": (call("hidden"), -32601, None),
    "a name of the specification's": (call("rpc.own"), -32601, None),
    "an escape is no escape in a name": (call("ech%6f"), -32601, None),
    "a session, or nothing": (call("orders"), -32601, None),
}


@pytest.mark.parametrize("case", ERRORS)
@pytest.mark.parametrize("transport", ["tcp", "http"])
async def test_errors_have_their_codes(open_asking: Any, transport: str, case: str) -> None:
    """And tell the caller what the caller can mend."""
    sent, code, data = ERRORS[case]
    async with open_asking(transport) as (ask, _):
        error = json.loads(await ask(sent))["error"]
    assert error["code"] == code
    assert data in error["data"] if isinstance(data, str) else error.get("data") == data


@pytest.mark.parametrize("transport", URLS)
async def test_a_handler_sees_which_event_came_by_what(open_asking: Any, transport: str) -> None:
    """The message has the transport's own type, with the method's event and captures."""
    async with open_asking(transport) as (ask, _):
        result = json.loads(await ask(call("orders/7", '{"a": [1.0]}')))["result"]
    kind = {"http": "HttpRequest", "udp": "Datagram"}.get(transport, "Message")
    assert result == {
        "id": 7,
        "event": "orders/{order_id}",
        "transport": transport,
        "captures": {"order_id": "7"},
        "data": '{"a": [1.0]}',
        "type": kind,
    }


async def test_a_handler_of_one_transport_is_served_there(open_asking: Any) -> None:
    """An HttpRequest comes by HTTP only, a Datagram by UDP only: elsewhere it is a bad request."""
    async with open_asking("http") as (ask, _):
        assert json.loads(await ask(call("request")))["result"] == "POST /rpc"
        assert json.loads(await ask(call("datagram")))["error"]["code"] == -32602
    async with open_asking("udp") as (ask, _):
        assert json.loads(await ask(call("datagram")))["result"] == "unicast lo True"
        assert await ask(call("request")) == ""


@pytest.mark.parametrize("transport", URLS)
async def test_a_change_of_handlers_shows_at_once(
    open_asking: Any, registry: oread.Registry, transport: str
) -> None:
    """What is registered while serving can be called, what is taken back cannot."""
    async with open_asking(transport) as (ask, _):
        with registry.on("new", lambda: "here"):
            assert json.loads(await ask(call("new")))["result"] == "here"
        assert "result" not in json.loads(await ask(call("new")) or "{}")


@pytest.mark.parametrize("transport", URLS)
async def test_a_large_batch_comes_back_whole(open_asking: Any, transport: str) -> None:
    """A hundred calls, sync and async in turn, answered in order."""
    calls = ",".join(call(("sum", "echo")[n % 2], ("[1]", '["1"]')[n % 2], str(n)) for n in range(100))
    async with open_asking(transport) as (ask, _):
        answer = json.loads(await ask(f"[{calls}]"))
    assert [each["id"] for each in answer] == list(range(100))
    assert [each["result"] for each in answer] == [1, "1"] * 50


async def run(*command: str, data: bytes = b"") -> str:
    """Run a foreign client; return what it printed."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is missing")
    with trio.fail_after(LIMIT_SECONDS):
        done = await trio.run_process(command, stdin=data, capture_stdout=True, stderr=subprocess.DEVNULL)
    return done.stdout.decode()


async def test_nc_is_answered_line_by_line(registry: oread.Registry) -> None:
    """What a person types is answered, also a mistake in between."""
    async with oread.open_service(registry, URLS["tcp"]) as service:
        port = str(service.endpoints[0].port)
        lines = "\r\n".join([call("sum", "[1, 2]"), "oops", call("echo", '["hi"]', '"b"')])
        printed = await run("nc", "-N", "127.0.0.1", port, data=lines.encode())
    first, second, third = printed.splitlines()
    assert first == '{"jsonrpc":"2.0","result":3,"id":1}'
    assert json.loads(second)["error"]["code"] == -32700
    assert third == '{"jsonrpc":"2.0","result":"hi","id":"b"}'


async def test_curl_is_answered_by_http(registry: oread.Registry) -> None:
    """With the content type of JSON, and with 204 for a notification."""
    async with oread.open_service(registry, URLS["http"]) as service:
        url = f"http://127.0.0.1:{service.endpoints[0].port}/rpc"
        options = ("-s", "-w", " %{http_code} %{content_type}", "-H", "Content-Type: application/json", url)
        printed = await run("curl", *options, "-d", call("subtract", "[42, 23]"))
        assert printed == '{"jsonrpc":"2.0","result":19,"id":1} 200 application/json'
        assert await run("curl", *options, "-d", '{"jsonrpc":"2.0","method":"update"}') == " 204 "
