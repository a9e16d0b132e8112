"""What the tests of JSON-RPC send, and a handler that waits."""

from __future__ import annotations

import json
from typing import Any

import trio

URL = "tcp://:0?framing=jsonrpc"
HTTP = "http://:0?rpc=/rpc"


def call(method: str, text: str = "", call_id: str = "1") -> str:
    """Write one request, with a text or none; an empty id makes it a notification."""
    given_params = f',"params":["{text}"]' if text else ""
    given_id = f',"id":{call_id}' if call_id else ""
    return f'{{"jsonrpc":"2.0","method":"{method}"{given_params}{given_id}}}'


def batch(*calls: str) -> str:
    """Write a batch, of calls or of responses."""
    return f"[{','.join(calls)}]"


def answer(result: str, call_id: str = "1") -> str:
    """Write the response of a call that came to its end."""
    return f'{{"jsonrpc":"2.0","result":{result},"id":{call_id}}}'


def post(text: str, *fields: str, method: str = "POST", path: str = "/rpc") -> bytes:
    """Write one request of HTTP."""
    lines = [f"{method} {path} HTTP/1.1", "Host: a", f"Content-Length: {len(text)}", *fields, "", text]
    return "\r\n".join(lines).encode()


AS_JSON = "Content-Type: application/json"


async def ask(memory: Any, *lines: str) -> list[str]:
    """Send lines, half-close, return the lines that came back."""
    client = memory.client()
    await client.send_all("".join(f"{line}\n" for line in lines).encode())
    await client.send_eof()
    return (await client.receive_all()).decode().splitlines()


def code_of(response: str) -> int:
    """Return the code of an error."""
    code: int = json.loads(response)["error"]["code"]
    return code


class Held:
    """A handler that waits until it is let go, and says what happened to it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.go = trio.Event()

    async def __call__(self, name: str) -> str:
        """Wait; what cancels it is noted."""
        self.log.append(f"{name} began")
        try:
            await self.go.wait()
        except trio.Cancelled:
            self.log.append(f"{name} was cancelled")
            raise
        self.log.append(f"{name} ended")
        return name


class Polite:
    """A handler that is cancelled and returns all the same."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self) -> str:
        """Wait to be cancelled."""
        self.calls += 1
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            return "goodbye"
