"""The fixtures, in projects that use them, and in those that do not."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

pytest_plugins = "pytester"

ROOT = Path(__file__).parents[2]

USING = """
import pytest
import trio
import oread
import oread.testing

@pytest.fixture
def echo(oread_registry):
    oread_registry.on("echo", lambda data: data)

@pytest.mark.parametrize("transport", oread.testing.TRANSPORTS)
async def test_over_every_transport(echo, oread_client, transport, autojump_clock):
    async with oread_client(transport) as client:
        assert await client.call("echo", b"hello") == b"hello"

@pytest.mark.parametrize("memory", [False, True])
async def test_over_an_endpoint(echo, oread_service, oread_client, memory):
    urls = "tcp://127.0.0.1:0/echo?framing=lines", "http://127.0.0.1:0"
    async with oread_service(*urls, memory=memory) as service:
        for endpoint in service.endpoints:
            async with oread_client(endpoint) as client:
                assert await client.call("echo", b"one") == b"one"
                assert await client.call("echo", b"two") == b"two"

async def test_another_registry(oread_service, oread_client):
    registry = oread.Registry()
    registry.on("other", lambda data: b"other")
    async with oread_service("udp://127.0.0.1:0/other", registry=registry) as service:
        async with oread_client(service.endpoints[0]) as client:
            assert await client.call("other", b"x") == b"other"

async def test_udp_in_memory_is_refused(echo, oread_service):
    with pytest.raises(ValueError, match="transport"):
        async with oread_service("udp://127.0.0.1:0/echo", memory=True):
            pass

def test_each_test_has_its_own_registry(oread_registry):
    assert oread_registry.events() == []
"""

NOT_USING = """
import sys

def test_nothing_is_loaded():
    heavy = {"oread", "trio", "pytest_trio", "msgspec", "attr"} & set(sys.modules)
    assert not heavy, heavy
"""


@pytest.mark.parametrize("plugin", ["oread_pytest", "oread.testing.plugin"])
def test_a_project_that_uses_them(pytester: pytest.Pytester, plugin: str) -> None:
    """With pytest-trio, by the entry point's module or the other."""
    pytester.makeini("[pytest]\ntrio_mode = true\nfilterwarnings = error")
    pytester.makepyfile(USING)
    result = pytester.runpytest_subprocess("-p", plugin, "-q")
    result.assert_outcomes(passed=12)


def test_without_a_plugin_for_async_tests(pytester: pytest.Pytester) -> None:
    """A test that calls `trio.run` itself can use them."""
    pytester.makepyfile(
        """
        import trio

        def test_by_hand(oread_registry, oread_client):
            oread_registry.on("echo", lambda data: data)

            async def main():
                async with oread_client("http") as client:
                    return await client.call("echo", b"x")

            assert trio.run(main) == b"x"
        """
    )
    result = pytester.runpytest_subprocess("-p", "oread_pytest", "-p", "no:trio", "-q")
    result.assert_outcomes(passed=1)


def test_a_project_that_does_not_use_them(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """It pays for one small module: neither Trio nor oread is imported."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(NOT_USING)
    result = pytester.runpytest_subprocess("-p", "oread_pytest", "-q")
    result.assert_outcomes(passed=1)


def test_the_entry_point_is_there() -> None:
    """The package says where pytest finds the fixtures, and ships the module."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {"oread_pytest": "oread_pytest"}
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert shipped == {"src/oread_pytest.py": "oread_pytest.py"}
    assert all((ROOT / name).is_file() for name in shipped)
