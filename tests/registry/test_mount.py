"""Registries in registries: live, with their own middleware and hooks."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import trio

from oread import Failure, Message, RegistrationError, Registry
from oread.dispatch import Entry


def accept(_entry: Entry) -> None:
    """Take any entry."""


async def test_events_show_under_the_prefix_and_stay_live() -> None:
    """What is added or removed later shows at once; unmounting ends it."""
    app, orders = Registry(), Registry()
    orders.on("new", lambda data: "new")
    app.on("status", lambda data: "fine")
    with app.mount("orders", orders):
        assert app.events() == ["status", "orders/new"]
        assert await app.emit("orders/new") == ["new"]
        later = orders.on("{number}", lambda number: number)
        assert await app.emit("orders/7") == ["7"]
        assert [info.event for info in app.handlers()] == ["status", "orders/new", "orders/{number}"]
        assert app.count("orders/new") == 1
        later.remove()
        assert app.events() == ["status", "orders/new"]
        assert orders.events() == ["new"]
    assert app.events() == ["status"]
    orders.on("more", lambda data: None)
    assert app.events() == ["status"]


async def test_messages_carry_the_whole_name_and_the_prefixes_captures() -> None:
    """Captures of the prefix are there for whoever asks for the message."""
    app, shop = Registry(), Registry()

    @shop.on("items/{item}")
    def find(item: int, message: Message) -> Any:
        return item, message.event, message.captures

    app.mount("shops/{shop}", shop)
    assert await app.emit("shops/tea/items/7") == [
        (7, "shops/{shop}/items/{item}", {"shop": "tea", "item": "7"})
    ]


async def test_slots_follow_a_mounted_registry() -> None:
    """An endpoint of the outer registry sees changes of the inner one."""
    app, inner = Registry(), Registry()
    inner.on("e", lambda data: "old")
    app.mount("in", inner)
    slot = app.attach("in/e", accept)
    inner.off("e")
    assert not slot.entry.links
    inner.on("e", lambda data: "new")
    assert slot.entry.call is not None
    assert slot.entry.call(None, b"") == "new"  # type: ignore[arg-type]


def test_an_endpoint_of_the_outer_may_refuse_a_change_of_the_inner() -> None:
    """All or nothing, in both of them."""
    app, inner = Registry(), Registry()
    inner.on("e", lambda data: "fine")
    app.mount("in", inner)

    def check(entry: Entry) -> None:
        if len(entry.links) > 1:
            raise RegistrationError("one is enough")

    slot = app.attach("in/e", check)
    before = slot.entry
    with pytest.raises(RegistrationError, match="one is enough"):
        inner.on("e", lambda data: "too many")
    assert slot.entry is before
    assert inner.count("e") == app.count("in/e") == 1


def test_clashes_are_refused_at_mount_and_later() -> None:
    """The same name, or another that matches the same; nothing has changed then."""
    app, inner = Registry(), Registry()
    app.on("in/{number}", lambda data: None)
    inner.on("{name}", lambda data: None)
    with pytest.raises(RegistrationError, match="matches exactly"):
        app.mount("in", inner)
    assert app.events() == ["in/{number}"]
    inner.off("{name}")
    app.mount("in", inner)
    for name in ("{name}", "{number}"):
        with pytest.raises(RegistrationError):
            inner.on(name, lambda data: None)
    assert inner.events() == []
    inner.on("x", lambda data: None)
    with pytest.raises(RegistrationError):
        app.on("in/x", lambda data: None)
    with pytest.raises(RegistrationError):
        app.mount("in", inner)
    assert app.events() == ["in/{number}", "in/x"]


def test_a_capture_twice_is_refused() -> None:
    """The prefix and the inner pattern share the names of captures."""
    app, inner = Registry(), Registry()
    inner.on("{name}", lambda data: None)
    with pytest.raises(RegistrationError, match="captured twice"):
        app.mount("{name}", inner)
    assert app.events() == []


def test_circles_and_bad_prefixes_are_refused() -> None:
    """A registry can't hang in itself, however far down."""
    a, b, c = Registry(), Registry(), Registry()
    a.mount("b", b)
    b.mount("c", c)
    for registry in (a, b, c):
        with pytest.raises(RegistrationError, match="in itself"):
            c.mount("x", registry)
    for prefix in ("", "/x", "x/{rest:path}"):
        with pytest.raises(RegistrationError):
            Registry().mount(prefix, c)


async def test_two_ways_to_one_registry() -> None:
    """Mounted twice, and by two others: one handler, several names."""
    app, left, right, leaf = Registry(), Registry(), Registry(), Registry()
    app.mount("left", left)
    app.mount("right", right)
    left.mount("leaf", leaf)
    first = right.mount("leaf", leaf)
    right.mount("again", leaf)
    leaf.on("e", lambda data: data)
    assert app.events() == ["left/leaf/e", "right/leaf/e", "right/again/e"]
    first.remove()
    leaf.once("f", lambda data: "once")
    assert await app.emit("right/again/f") == ["once"]
    assert app.events() == ["left/leaf/e", "right/again/e"]


async def test_middleware_of_the_outer_is_outside() -> None:
    """Its own holds for it in both; the outer's for what comes by the outer."""
    app, inner, seen = Registry(), Registry(), []

    def note(name: str) -> Callable[..., Any]:
        def middleware(message: Message, call_next: Callable[[], Any]) -> Any:
            seen.append(name)
            return call_next()

        return middleware

    inner.on("e", lambda data: "answer")
    inner.use(note("inner"))
    app.use(note("outer"))
    app.use(note("outer for it"), "in/e")
    app.mount("in", inner)
    assert await app.emit("in/e") == ["answer"]
    assert seen == ["outer", "outer for it", "inner"]
    seen.clear()
    await inner.emit("e")
    assert seen == ["inner"]

    async def asynchronous(data: bytes) -> None: ...

    with pytest.raises(RegistrationError, match="sync middleware"):
        inner.on("f", asynchronous)


async def test_failures_go_to_the_inner_hooks_first() -> None:
    """An error hook of the inner one has it; without one, the outer's. Monitors see all."""
    app, inner, seen = Registry(), Registry(), []
    inner.on("e", lambda data: None)
    app.mount("in", inner)
    app.on_error(lambda failure: seen.append("outer"))
    app.monitor(lambda failure: seen.append("outer sees"))
    hook = inner.on_error(lambda failure: seen.append("inner"))
    failure = Failure(event="in/e", handler="h", error=LookupError("x"))
    assert app.report(failure)
    assert seen == ["outer sees", "inner"]
    hook.remove()
    seen.clear()
    assert app.report(failure)
    assert seen == ["outer sees", "outer"]
    seen.clear()
    assert not inner.report(failure)
    assert seen == []


async def test_limits_are_shared_by_every_name() -> None:
    """The gate belongs to the event, wherever it is mounted."""
    app, inner = Registry(), Registry()

    @inner.on("e", limit=1)
    async def waits(data: bytes) -> None:
        await trio.sleep_forever()

    app.mount("in", inner)
    assert app.find("in/e")[0].gate is inner.find("e")[0].gate is not None  # type: ignore[index]


def test_a_mounted_registry_does_not_keep_the_outer_alive() -> None:
    """A module's registry may be mounted by many that come and go."""
    inner = Registry()
    inner.on("e", lambda data: None)
    app = Registry()
    app.mount("in", inner)
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None
    inner.on("f", lambda data: None)


def test_a_change_compiles_and_offers_what_has_changed_alone() -> None:
    """Here and where it is mounted: the others' offers and entries are the same objects."""
    parent, child = Registry(), Registry()
    for number in range(20):
        child.on(f"e{number}/{{x}}", lambda x: x)
        parent.on(f"p{number}", lambda: None)
    parent.mount("m", child)
    before = parent._node.state.compiled
    with child.on("new", lambda: None):
        after = parent._node.state.compiled
        assert set(after.offers) - set(before.offers) == {"m/new"}
        for name, offer in before.offers.items():
            assert after.offers[name] is offer
            assert after.exposed[name] is before.exposed[name]
        assert parent.find("m/e3/7") == (before.exposed["m/e3/{x}"], {"x": "7"})
    assert parent.find("m/new") is None
    assert parent.find("m/e3/7") == (before.exposed["m/e3/{x}"], {"x": "7"})
