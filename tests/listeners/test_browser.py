"""A browser loads a page of a mounted application and holds a WebSocket."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

import oread

LIMIT_SECONDS = 60
PAGE = """<!doctype html>
<title>Echo</title>
<img src="/held">
<script>
  const socket = new WebSocket(`ws://${location.host}/echo`);
  const heard = [];
  socket.onopen = () => { socket.send("hellö"); socket.send(new Uint8Array([255, 0])); };
  socket.onmessage = async (event) => {
    heard.push(typeof event.data === "string" ? event.data : (await event.data.arrayBuffer()).byteLength);
    if (heard.length === 2) socket.close(4001, "enough");
  };
  socket.onclose = (event) => fetch("/told", {method: "POST", body: JSON.stringify([...heard, event.code])});
</script>
"""


@pytest.mark.slow
async def test_a_browser_holds_a_websocket(registry: oread.Registry, tmp_path: Path) -> None:
    """It loads the page, exchanges text and binary, closes with its own code, and tells what it heard."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    told = trio.Event()
    heard: list[str] = []

    async def home(request: Request) -> HTMLResponse:
        return HTMLResponse(PAGE)

    registry.mount_asgi("", Starlette(routes=[Route("/", home)]))

    @registry.on("told")
    def tell(text: str) -> None:
        heard.append(text)
        told.set()

    @registry.on("held")
    async def hold() -> None:
        await told.wait()  # a page is loaded, and the browser done, when its image is

    async with oread.open_service(registry, "http://127.0.0.1:0") as service:
        url = f"http://127.0.0.1:{service.endpoints[0].port}/"
        profile = f"--user-data-dir={tmp_path}"
        options = ["--headless", "--no-sandbox", "--disable-gpu", profile, "--dump-dom", url]
        with trio.fail_after(LIMIT_SECONDS):
            done = await trio.run_process([browser, *options], capture_stdout=True, stderr=subprocess.DEVNULL)
    assert b"<title>Echo</title>" in done.stdout
    assert heard == ['["hellö",2,4001]']
