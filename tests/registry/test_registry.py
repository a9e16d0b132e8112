"""The registry: order, once, off, listing, and changes while serving."""

from __future__ import annotations

from typing import Any

import pytest

from oread.dispatch import Entry
from oread.errors import RegistrationError
from oread.registry import Registry


class Source:
    """An origin for handlers of the payload alone."""

    captures: dict[str, str] = {}

    def message(self, data: bytes) -> Any:
        raise AssertionError("nobody asks for the message")

    def report(self, failed: Any) -> None:
        raise AssertionError(failed)


def call(registry: Registry, event: str) -> Any:
    """Call what the registry has now."""
    found = registry.find(event)
    assert found is not None
    assert found[0].call is not None
    return found[0].call(Source(), b"")


def accept(_entry: Entry) -> None:
    """Take any entry."""


def test_order_prepend_and_once() -> None:
    """Handlers run in order, prepended ones first, a once handler one time."""
    registry, seen = Registry(), []
    registry.on("e", lambda _: seen.append("on"))
    registry.prepend("e", lambda _: seen.append("first"))
    registry.once("e", lambda _: seen.append("once"))
    call(registry, "e")
    call(registry, "e")
    assert seen == ["first", "on", "once", "first", "on"]
    assert len(registry.handlers("e")) == 2


def test_once_is_gone_before_its_call() -> None:
    """As in Node, a once handler that looks does not find itself."""
    registry, found = Registry(), []
    registry.once("e", lambda _: found.append(registry.events()))
    call(registry, "e")
    assert found == [[]]
    assert registry.find("e") is None


def test_off_removes_one_handler_or_all() -> None:
    """off() of a function, of an event, of what is not there."""
    registry = Registry()

    def handler(data: bytes) -> str:
        return "handler"

    registry.on("e", handler)
    registry.on("e", lambda _: "other")
    assert registry.off("e", handler) == 1
    assert call(registry, "e") == "other"
    assert registry.off("e", handler) == 0
    assert registry.off("e") == 1
    assert registry.off("e") == 0
    assert registry.events() == []


def test_decorator_returns_the_function_and_scope_ends_the_registration() -> None:
    """Decorated functions stay usable; `with registry.on(...)` takes back."""
    registry = Registry()

    @registry.on("e")
    def handler(data: bytes) -> bytes:
        return data

    assert handler(b"x") == b"x"
    with registry.on("f", handler):
        assert registry.events() == ["e", "f"]
    assert registry.events() == ["e"]


def test_listing_tells_kind_payload_and_methods() -> None:
    """Every handler is listed with what a user needs to call it."""
    registry = Registry()

    @registry.on("a", methods=("GET",))
    async def reads() -> None: ...

    @registry.session("s")
    async def talks(stream: Any) -> None: ...

    registry.on("b", lambda data: data, exposed=False)
    assert [
        (info.event, info.kind, info.payload, info.methods, info.exposed) for info in registry.handlers()
    ] == [
        ("a", "async", None, ("GET",), True),
        ("s", "session", None, None, True),
        ("b", "sync", "bytes", None, False),
    ]
    assert registry.handlers("nowhere") == []
    assert registry.handlers("a")[0].name.endswith("reads")


def test_hidden_handlers_are_not_reachable() -> None:
    """exposed=False is found by no endpoint, alone or beside others."""
    registry = Registry()
    registry.on("hidden", lambda _: "hidden", exposed=False)
    assert registry.find("hidden") is None
    registry.on("hidden", lambda _: "shown")
    assert call(registry, "hidden") == "shown"


def test_change_takes_effect_for_the_next_message() -> None:
    """A slot follows the registry; an entry in flight is not touched."""
    registry = Registry()
    registration = registry.on("orders/{order_id}", lambda _: "old")
    slot = registry.attach("orders/7", accept)
    old = slot.entry
    registry.on("orders/7", lambda _: "new")
    assert slot.captures == {}
    assert slot.entry.call is not None
    assert slot.entry.call(Source(), b"") == "new"
    assert old.call is not None
    assert old.call(Source(), b"") == "old"
    registry.off("orders/7")
    assert slot.captures == {"order_id": "7"}
    registration.remove()
    assert not slot.entry.links
    registry.detach(slot)
    registry.on("orders/7", lambda _: "later")
    assert not slot.entry.links


def test_attach_names_what_exists() -> None:
    """An endpoint for an event with no handler is told what there is."""
    registry = Registry()
    registry.on("a", lambda _: None)
    registry.on("b/{c}", lambda _: None)
    with pytest.raises(RegistrationError, match=r"no handler for event 'x'; there are: a, b/\{c\}"):
        registry.attach("x", accept)


def test_change_that_an_endpoint_can_not_serve_is_refused_whole() -> None:
    """The check of a slot comes before anything is swapped."""
    registry = Registry()
    registry.on("e", lambda _: "fine")

    def check(entry: Entry) -> None:
        if len(entry.links) > 1:
            raise RegistrationError("one is enough")

    slot = registry.attach("e", check)
    with pytest.raises(RegistrationError):
        registry.on("e", lambda _: "too many")
    assert len(registry.handlers("e")) == 1
    assert slot.entry is registry.find("e")[0]  # type: ignore[index]


@pytest.mark.parametrize(
    "register",
    [
        lambda registry: registry.on("", print),
        lambda registry: registry.on("e", 3),
        lambda registry: registry.on("e", lambda data: data, methods=("get",)),
        lambda registry: registry.on("e", lambda data: data, methods="GET"),
        lambda registry: registry.on("e", lambda data: data, methods=()),
        lambda registry: registry.session("e", lambda stream: None),
        lambda registry: registry.on("orders/{other}", lambda data: data),
        lambda registry: registry.session("s", registry.handlers("s")[0].handler),
    ],
)
def test_bad_registrations_are_refused(register: Any) -> None:
    """What can't work is refused where it is written, and changes nothing."""
    registry = Registry()
    registry.on("orders/{order_id}", lambda data: data)

    @registry.session("s")
    async def session(stream: Any) -> None: ...

    with pytest.raises(RegistrationError):
        register(registry)
    assert registry.events() == ["orders/{order_id}", "s"]


def test_session_and_handlers_share_a_name() -> None:
    """The session serves streams, the handlers serve messages; each can go alone."""
    registry = Registry()

    @registry.session("e")
    async def session(stream: Any) -> None: ...

    registry.on("e", lambda _: "message")
    found = registry.find("e")
    assert found is not None
    assert found[0].session is not None
    assert registry.off("e", session) == 1
    found = registry.find("e")
    assert found is not None
    assert found[0].session is None
