"""A page by Starlette, with its live data by handlers: one port, one registry.

The application serves `/` and what is below it; `GET /visits` and the
WebSocket `/live` are handlers, which other endpoints could serve as well.

    $ python examples/asgi.py
    $ curl http://127.0.0.1:7030/
    $ curl http://127.0.0.1:7030/visits
    $ oread call ws://127.0.0.1:7030/live hello
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

import oread

PAGE = """<!doctype html>
<title>Visits</title>
<p>Visit <b id="visits">?</b></p>
<p id="said"></p>
<script>
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/live`);
  socket.onopen = () => socket.send("hello");
  socket.onmessage = (event) => {
    const heard = JSON.parse(event.data);
    document.getElementById("visits").textContent = heard.visits;
    document.getElementById("said").textContent = heard.said;
  };
</script>
"""


class Site:
    """The page, and how often it was asked for."""

    def __init__(self) -> None:
        self.visits = 0
        self.open = False
        self.app = Starlette(routes=[Route("/", self.home)], lifespan=self.lifespan)

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Be open while the service runs."""
        self.open = True
        yield
        self.open = False

    async def home(self, _request: Request) -> HTMLResponse:
        """Count a visit."""
        self.visits += 1
        return HTMLResponse(PAGE)


def make_registry(site: Site) -> oread.Registry:
    """Return the registry of a site: its page, and the handlers beside it."""
    registry = oread.Registry()
    registry.mount_asgi("", site.app)

    @registry.on("visits", methods=("GET",))
    def visits() -> int:
        return site.visits

    @registry.on("live")
    async def live(text: str) -> dict[str, int | str]:
        return {"visits": site.visits, "said": text}

    return registry


async def main(
    port: int = 7030, *, task_status: trio.TaskStatus[oread.Service] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled."""
    registry = make_registry(Site())
    await oread.serve(registry, f"http://127.0.0.1:{port}", task_status=task_status)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        trio.run(main)
