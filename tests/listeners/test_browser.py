"""A browser loads a page of a mounted application and holds a WebSocket, by TLS too."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import oread

LIMIT_SECONDS = 60
PAGE = """<!doctype html>
<title>Echo</title>
<p id="heard"></p>
<img src="/held">
<script>
  const socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}%s`);
  const heard = [];
  socket.onopen = () => { socket.send("hellö"); socket.send(new Uint8Array([255, 0])); };
  socket.onmessage = async (event) => {
    heard.push(typeof event.data === "string" ? event.data : (await event.data.arrayBuffer()).byteLength);
    if (heard.length === 2) socket.close(4001, "enough");
  };
  socket.onclose = (event) => {
    const told = JSON.stringify([...heard, event.code, event.wasClean]);
    document.getElementById("heard").textContent = told;
    fetch("/told", {method: "POST", body: told});
  };
</script>
"""


async def answer(socket: WebSocket) -> None:
    """Send back what comes, as an application does."""
    await socket.accept()
    while (message := await socket.receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await socket.send_text(message["text"])
        else:
            await socket.send_bytes(message["bytes"])


def key_hash(path: str) -> str:
    """Return what Chromium calls the SPKI of a certificate: it believes the ones it is told."""
    key = x509.load_pem_x509_certificate(Path(path).read_bytes()).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/echo", "/app/ws"], ids=["handler", "application"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_browser_holds_a_websocket(
    registry: oread.Registry, tmp_path: Path, loopback_pem: str, scheme: str, path: str
) -> None:
    """It loads the page, exchanges text and binary, closes with its own code, and shows what it heard."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    told = trio.Event()
    heard: list[Any] = []

    async def home(request: Request) -> HTMLResponse:
        return HTMLResponse(PAGE % path)

    routes = [Route("/", home), WebSocketRoute("/app/ws", answer)]
    registry.mount_asgi("", Starlette(routes=routes))

    @registry.on("told")
    def tell(text: str) -> None:
        heard.append(text)
        told.set()

    @registry.on("held")
    async def hold() -> None:
        await told.wait()  # a page is loaded, and the browser done, when its image is

    secure = f"?cert={loopback_pem}" if scheme == "https" else ""
    async with oread.open_service(registry, f"{scheme}://127.0.0.1:0{secure}") as service:
        url = f"{scheme}://127.0.0.1:{service.endpoints[0].port}/"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--ignore-certificate-errors-spki-list={key_hash(loopback_pem)}",
            "--dump-dom",
            url,
        ]
        with trio.fail_after(LIMIT_SECONDS):
            done = await trio.run_process([browser, *options], capture_stdout=True, stderr=subprocess.DEVNULL)
        assert service.statistics().endpoints[0].failures == 0
    said = '["hellö",2,4001,true]'
    assert heard == [said]
    assert f'<p id="heard">{said}</p>'.encode() in done.stdout
