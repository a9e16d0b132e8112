"""TLS on the command line: serving files, calling with what is believed."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def served(serve: Callable[..., Any], loopback_pem: str, tls_files: Any) -> Any:
    """A daemon with its certificate in its working directory."""
    return serve(
        "tls://127.0.0.1:0/echo?cert=loopback.pem", "https://127.0.0.1:0?cert=loopback.pem", endpoints=2
    )


def test_the_certificate_is_verified(run: Callable[..., Any], served: Any) -> None:
    """By the authority that is named; without one the call ends in one line."""
    for url in (f"tls://127.0.0.1:{served.port(0)}", f"https://localhost:{served.port(1)}/echo"):
        believed = run("call", "--ca", "ca.pem", url, "hello")
        assert (believed.returncode, believed.stdout, believed.stderr) == (0, b"hello", b"")
        refused = run("call", url, "hello")
        assert (refused.returncode, refused.stdout) == (1, b"")
        line = f"oread: {url}: the certificate is not believed: "
        assert refused.stderr.decode().startswith(line)
        assert refused.stderr.decode().endswith(
            "name its authority with --ca FILE, or --insecure to verify nothing\n"
        )


def test_what_is_printed_in_the_announcement_works(run: Callable[..., Any], served: Any) -> None:
    """The hint for `tls` is a call of ours, which verifies nothing."""
    name, *arguments = shlex.split(served.hints[0])
    assert name == "oread"
    assert run(*arguments).stdout == b"hello"
    assert served.hints[1].startswith("curl -k ")


def test_a_file_that_is_missing_is_one_line(run: Callable[..., Any]) -> None:
    """As for any endpoint that can't be served."""
    result = run("serve", "https://127.0.0.1:0?cert=gone.pem")
    assert result.returncode == 2
    assert result.stderr.decode().endswith("?cert=gone.pem: gone.pem: No such file or directory\n")
    assert result.stderr.count(b"\n") == 1


def test_options_of_tls_are_refused_without_it(run: Callable[..., Any]) -> None:
    """Nobody is to think that a plain call was verified."""
    result = run("call", "--insecure", "tcp://127.0.0.1:1", "x")
    assert result.returncode == 2
    assert b"tcp speaks no TLS" in result.stderr
