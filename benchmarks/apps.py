"""Register the handlers that the suites need beyond the stock ones."""

from __future__ import annotations

import trio

import oread

registry = oread.Registry()


@registry.on("hello")
def hello(_data: bytes) -> bytes:
    """Answer as every HTTP peer here does."""
    return b"Hello, World!"


@registry.on("echo")
@registry.on("bytes-echo")
def bytes_echo(data: bytes) -> bytes:
    """Echo bytes by an ordinary handler."""
    return data


@registry.on("text-echo")
def text_echo(data: str) -> str:
    """Echo text: strict UTF-8 both ways."""
    return data


@registry.on("async-echo")
async def async_echo(data: bytes) -> bytes:
    """Echo without ever suspending."""
    return data


@registry.on("async-checkpoint")
async def async_checkpoint(data: bytes) -> bytes:
    """Echo after one trip through Trio's scheduler."""
    await trio.lowlevel.checkpoint()
    return data
