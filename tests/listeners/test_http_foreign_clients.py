"""HTTP with foreign clients and proxies: curl, h2load, wrk, Node, Go, nginx, haproxy."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from foreign_tools import LIMIT_SECONDS, need, run

import oread

SIZES = (0, 1, 10, 1_000, 4_096, 20_000, 70_000)
FILE = bytes(range(256)) * 400


@pytest.fixture
def served(registry: oread.Registry, tmp_path: Path) -> oread.Registry:
    """The handlers of every test, a streamed echo, and a file."""

    @registry.on("parts")
    async def parts(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for part in body:
            yield part

    @registry.on("refuses", methods=("POST",))
    async def refuse(body: AsyncIterator[bytes]) -> None:
        raise oread.Busy("not today")

    path = tmp_path / "served"
    path.write_bytes(FILE)
    registry.on("file", lambda: oread.FileReply(path))
    return registry


@pytest.fixture
async def service(served: oread.Registry) -> AsyncIterator[oread.Service]:
    """All of them on loopback."""
    async with oread.open_service(served, "http://127.0.0.1:0?body_bytes=100000") as service:
        yield service


def url_of(service: oread.Service, path: str) -> str:
    """Return where an event is."""
    return f"http://127.0.0.1:{service.endpoints[0].port}/{path}"


def refused(service: oread.Service) -> dict[str, int]:
    """What was refused, by reason."""
    return dict(service.statistics().endpoints[0].refused)


# curl


@pytest.mark.parametrize("event", ["bytes", "waits", "parts"])
async def test_curl_posts_in_every_way(service: oread.Service, event: str) -> None:
    """By a length and by chunks, in 1.0 and 1.1, with and without waiting for a 100."""
    need("curl")
    url = url_of(service, event)
    body = b"x" * 90_000
    for options in (
        (),
        ("--http1.0",),
        ("-H", "Transfer-Encoding: chunked"),
        ("-H", "Expect: 100-continue"),
        ("-H", "Expect:"),
        ("-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue"),
        ("-X", "PUT"),
    ):
        command = ("curl", "-sS", "--expect100-timeout", "20", *options, "--data-binary", "@-", url)
        begun = trio.current_time()
        assert (await run(command, body)).encode() == body, options
        assert trio.current_time() - begun < 15, "a 100 is sent"
    assert refused(service) == {}


async def test_curl_hears_a_refusal_before_it_has_sent_its_body(service: oread.Service) -> None:
    """413 by the head, 404, 405 and 503 by the event: in place of the 100."""
    need("curl")
    report = "%{http_code} %{size_upload}"
    for path, size, status in (
        ("bytes", 200_000, 413),
        ("nothing", 50_000, 404),
        ("refuses", 50_000, 503),
    ):
        command = ("curl", "-sS", "-o", "/dev/null", "-w", report, "--expect100-timeout", "20")
        sent = ("-H", "Expect: 100-continue", "--data-binary", "@-", url_of(service, path))
        assert await run((*command, *sent), b"x" * size) == f"{status} 0"
    assert refused(service) == {"http_413": 1, "http_404": 1, "http_503": 1, "busy": 1}


async def test_curl_heads_and_ranges(service: oread.Service, tmp_path: Path) -> None:
    """HEAD has the length and no body; ranges and a resumed download are parts of the file."""
    need("curl")
    url = url_of(service, "file")
    head = await run(("curl", "-sS", "-I", url, url))
    assert head.count(f"Content-Length: {len(FILE)}") == 2
    target = tmp_path / "got"
    for wanted, part in (("0-9", FILE[:10]), ("100-", FILE[100:]), ("-7", FILE[-7:])):
        await run(("curl", "-sS", "-f", "-r", wanted, "-o", str(target), url))
        assert target.read_bytes() == part
    target.write_bytes(FILE[:5_000])
    await run(("curl", "-sS", "-f", "-C", "-", "-o", str(target), url))
    assert target.read_bytes() == FILE
    assert await run(("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-r", "999999-", url)) == "416"


async def test_curl_keeps_its_connection(service: oread.Service) -> None:
    """For events of every kind, refusals among them; in 1.0 only where it asks."""
    need("curl")
    urls = [url_of(service, path) for path in ("bytes", "nothing", "waits", "none", "file", "bytes")]
    command = ("curl", "-sS", "-o", "/dev/null", "-w", "%{num_connects}")
    outputs = ("-o", "/dev/null") * (len(urls) - 1)
    assert await run((*command, *outputs, *urls)) == "100000"
    old = ("--http1.0", *outputs, *urls)
    assert await run((*command, *old)) == "111111"
    assert await run((*command, "-H", "Connection: keep-alive", *old)) == "100000"


# many requests


async def test_500_posts_of_every_size_are_answered_in_order(service: oread.Service) -> None:
    """Pipelined, with bodies from nothing to more than one read, to sync, async and streaming handlers."""
    requests, wanted = b"", []
    for number in range(500):
        event = ("bytes", "waits", "parts")[number % 3]
        body = hashlib.sha256(b"%d" % number).digest() * (SIZES[number % len(SIZES)] // 32)
        wanted.append(body)
        head = f"POST /{event} HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
        if number % 2:
            requests += f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        else:
            chunks = [body[at : at + 9_000] for at in range(0, len(body), 9_000)]
            requests += f"{head}Transfer-Encoding: chunked\r\n\r\n".encode()
            requests += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    received = b""
    stream = await trio.open_tcp_stream("127.0.0.1", service.endpoints[0].port)
    with trio.fail_after(LIMIT_SECONDS):
        async with stream, trio.open_nursery() as nursery:

            async def send() -> None:
                await stream.send_all(requests)
                await stream.send_eof()

            nursery.start_soon(send)
            async for chunk in stream:
                received += chunk
    assert list(read_bodies(received)) == wanted


def read_bodies(data: bytes) -> Any:
    """Give the bodies of responses, each of which must be a 200."""
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        length = re.search(rb"Content-Length: (\d+)", head)
        if length is not None:
            size = int(length[1])
            yield data[:size]
            data = data[size:]
            continue
        body = b""
        while True:
            line, _, data = data.partition(b"\r\n")
            size = int(line, 16)
            body, data = body + data[:size], data[size + 2 :]
            if not size:
                break
        yield body


@pytest.mark.slow
@pytest.mark.parametrize("event", ["bytes", "waits", "parts"])
async def test_h2load_pipelines_requests(service: oread.Service, tmp_path: Path, event: str) -> None:
    """Eight at a time on ten connections, with bodies: none fails."""
    need("h2load")
    (tmp_path / "body").write_bytes(b"x" * 3_000)
    options = ("--h1", "-n", "2000", "-c", "10", "-m", "8", "-d", str(tmp_path / "body"))
    text = await run(("h2load", *options, url_of(service, event)))
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in text
    assert "status codes: 2000 2xx" in text
    assert service.statistics().endpoints[0].accepted == 10


@pytest.mark.slow
async def test_wrk_gets_without_an_error(service: oread.Service) -> None:
    """On 50 connections, each of which is kept."""
    need("wrk")
    for event in ("bytes", "waits", "file"):
        text = await run(("wrk", "-t1", "-c50", "-d1s", url_of(service, event)))
        assert "Socket errors" not in text
        assert "Non-2xx" not in text
    assert service.statistics().endpoints[0].accepted <= 3 * 51


# programs of other languages

NODE = """
const http = require("http");
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const port = Number(process.argv[2]);
function ask(path, body, headers = {}) {
  return new Promise((resolve, reject) => {
    const method = body === null ? "GET" : "POST";
    const request = http.request({ port, host: "127.0.0.1", path, method, agent, headers });
    let continued = false;
    request.on("continue", () => { continued = true; request.end(body); });
    request.on("error", reject);
    request.on("response", (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("end", () => resolve([
        response.statusCode, Buffer.concat(chunks).toString(), continued, request.reusedSocket,
      ]));
    });
    if (headers.Expect) request.flushHeaders(); else request.end(body === null ? undefined : body);
  });
}
(async () => {
  const told = [];
  for (const path of ["/bytes", "/waits", "/parts"]) {
    told.push(await ask(path, "one"));
    told.push(await ask(path, "two", { "Content-Length": 3 }));
    told.push(await ask(path, "three", { "Content-Length": 5, Expect: "100-continue" }));
  }
  told.push(await ask("/none", null));
  told.push(await ask("/bytes", "x", { "Content-Length": 900000, Expect: "100-continue" }));
  console.log(JSON.stringify(told));
  agent.destroy();
})();
"""


async def test_node_keeps_its_connection(service: oread.Service, tmp_path: Path) -> None:
    """Chunks, lengths and 100-continue on one connection, then a refusal in place of the 100."""
    need("node")
    script = tmp_path / "client.js"
    script.write_text(NODE)
    told = json.loads(await run(("node", str(script), str(service.endpoints[0].port))))
    bodies = [("one", False), ("two", False), ("three", True)] * 3
    assert told[:9] == [[200, body, continued, at > 0] for at, (body, continued) in enumerate(bodies)]
    assert told[9] == [204, "", False, True]
    assert told[10][0::2] == [413, False]
    assert service.statistics().endpoints[0].accepted == 1


GO = """
package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"time"
)

func main() {
	client := &http.Client{Transport: &http.Transport{ExpectContinueTimeout: 20 * time.Second}}
	continued, reused := false, false
	trace := &httptrace.ClientTrace{
		Got100Continue: func() { continued = true },
		GotConn:        func(got httptrace.GotConnInfo) { reused = got.Reused },
	}
	ask := func(path string, body io.Reader, expect bool) {
		request, err := http.NewRequest("POST", os.Args[1]+path, body)
		if err != nil {
			panic(err)
		}
		if expect {
			request.Header.Set("Expect", "100-continue")
		}
		continued = false
		request = request.WithContext(httptrace.WithClientTrace(request.Context(), trace))
		response, err := client.Do(request)
		if err != nil {
			panic(err)
		}
		answer, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			panic(err)
		}
		fmt.Println(response.StatusCode, len(answer), continued, reused)
	}
	for _, path := range []string{"bytes", "waits", "parts"} {
		ask(path, strings.NewReader("one"), false)
		ask(path, io.MultiReader(strings.NewReader("t"), strings.NewReader("wo")), false)
		ask(path, strings.NewReader(strings.Repeat("x", 50000)), true)
	}
	ask("bytes", strings.NewReader(strings.Repeat("x", 900000)), true)
}
"""


@pytest.mark.slow
async def test_go_keeps_its_connection(service: oread.Service, tmp_path: Path) -> None:
    """Lengths, chunks and 100-continue on one connection, then a refusal in place of the 100."""
    need("go")
    (tmp_path / "client.go").write_text(GO)
    build = ("env", f"GOCACHE={tmp_path}", "GO111MODULE=off", "go", "build", "-o", str(tmp_path / "client"))
    await run((*build, str(tmp_path / "client.go")))
    told = (await run((str(tmp_path / "client"), url_of(service, "")))).splitlines()
    sizes = [("3", "false"), ("3", "false"), ("50000", "true")] * 3
    assert told[:9] == [
        f"200 {size} {continued} {'true' if at else 'false'}" for at, (size, continued) in enumerate(sizes)
    ]
    assert told[9].startswith("413 ")
    assert told[9].endswith("false true")
    assert service.statistics().endpoints[0].accepted == 1


# proxies in front

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr warn;
events {{ worker_connections 64; }}
http {{
  access_log off; client_max_body_size 10m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream service {{ server 127.0.0.1:{port}; keepalive 4; }}
  server {{
    listen unix:{folder}/front;
    location / {{
      proxy_pass http://service; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_set_header Connection $http_connection; proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For 192.0.2.7;
    }}
  }}
}}
"""
HAPROXY = """
global
  maxconn 100
defaults
  mode http
  timeout connect 5s
  timeout client 20s
  timeout server 20s
frontend front
  bind unix@{folder}/front
  http-request set-header X-Forwarded-For 192.0.2.7
  default_backend service
backend service
  http-reuse always
  server one 127.0.0.1:{port}
"""
PROXIES = {
    "nginx": (NGINX, ("nginx", "-c", "{folder}/conf", "-p", "{folder}")),
    "haproxy": (HAPROXY, ("haproxy", "-db", "-f", "{folder}/conf")),
}


@asynccontextmanager
async def proxy(kind: str, folder: Path, port: int) -> AsyncIterator[Path]:
    """Run a proxy in front of a port; gives its Unix socket."""
    need(kind)
    settings, command = PROXIES[kind]
    (folder / "conf").write_text(settings.format(folder=folder, port=port).lstrip())
    words = [word.format(folder=folder) for word in command]
    front = folder / "front"
    async with trio.open_nursery() as nursery:
        process = await nursery.start(partial(trio.run_process, words, check=False))
        with trio.fail_after(LIMIT_SECONDS):
            while not front.exists():
                await trio.sleep(0.01)
        yield front
        process.kill()


@pytest.mark.parametrize("kind", PROXIES)
async def test_behind_a_proxy_everything_arrives(served: oread.Registry, tmp_path: Path, kind: str) -> None:
    """Posts by length and chunks, streams, files, refusals, a WebSocket's handshake; connections are kept."""
    need("curl")

    @served.on("who")
    def who(request: oread.HttpRequest) -> str:
        return str(request.client)

    folder = tmp_path / "proxy"
    folder.mkdir()
    url = "http://127.0.0.1:0?trusted_proxies=127.0.0.1&body_bytes=100000"
    async with oread.open_service(served, url) as service:
        async with proxy(kind, folder, service.endpoints[0].port) as front:
            command = ("curl", "-sS", "--unix-socket", str(front))
            for path in ("bytes", "waits", "parts"):
                for options in ((), ("-H", "Transfer-Encoding: chunked"), ("--http1.0",)):
                    sent = (*options, "--data-binary", "@-", f"http://front/{path}")
                    assert await run((*command, *sent), b"x" * 90_000) == "x" * 90_000
            assert "192.0.2.7" in await run((*command, "http://front/who"))
            target = folder / "got"
            await run((*command, "-r", "100-199", "-o", str(target), "http://front/file"))
            assert target.read_bytes() == FILE[100:200]
            report = (*command, "-o", "/dev/null", "-w", "%{http_code}")
            assert await run((*report, "http://front/nothing")) == "404"
            assert await run((*report, "-d", "x" * 99_000 + "y" * 2_000, "http://front/bytes")) == "413"
            upgrade = (
                "-H",
                "Connection: Upgrade",
                "-H",
                "Upgrade: websocket",
                "-H",
                "Sec-WebSocket-Version: 13",
            )
            key = ("-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "-m", "1")
            text = await run((*command, "-i", *upgrade, *key, "http://front/bytes"), status=28)
            assert "HTTP/1.1 101 " in text
            assert "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in text
        found = service.statistics().endpoints[0]
        assert found.failures == 0
        assert found.accepted < 12
