"""The gate: places, the order of waiting, and what is forgotten."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from oread.dispatch import Gate


def taker(gate: Gate, seen: list[str], name: str) -> Callable[[], None]:
    """Make a callback that takes a place."""

    def take() -> None:
        assert gate.take()
        seen.append(name)

    return take


def test_places_are_given_in_the_order_of_asking() -> None:
    """Who waits is called once, first come first served."""
    gate, seen = Gate(1), []
    assert gate.take()
    assert not gate.take()
    for name in "abc":
        gate.when_free(taker(gate, seen, name))
    assert (seen, gate.waiting) == ([], 3)
    gate.give()
    assert seen == ["a"]
    gate.give()
    gate.give()
    gate.give()
    assert (seen, gate.running, gate.waiting) == (["a", "b", "c"], 0, 0)


def test_a_place_free_now_is_told_at_once() -> None:
    """Nobody waits for what is there."""
    gate, seen = Gate(1), []
    gate.when_free(taker(gate, seen, "a"))
    assert seen == ["a"]


def test_who_does_not_want_its_place_lets_the_next_in() -> None:
    """A callback that takes nothing costs nobody a place."""
    gate, seen = Gate(1), []
    gate.take()
    gate.when_free(lambda: seen.append("gone"))
    gate.when_free(taker(gate, seen, "next"))
    gate.give()
    assert seen == ["gone", "next"]
    assert gate.running == 1


def test_the_forgotten_are_not_called() -> None:
    """Forgetting is harmless when nothing waits."""
    gate, seen = Gate(1), []
    gate.take()
    first, second = taker(gate, seen, "first"), taker(gate, seen, "second")
    gate.when_free(first)
    gate.when_free(second)
    gate.forget(first)
    gate.forget(first)
    gate.give()
    assert seen == ["second"]


def test_a_new_size_lets_in_or_waits() -> None:
    """More places are given at once, fewer as they come back."""
    gate, seen = Gate(1), []
    gate.take()
    gate.when_free(taker(gate, seen, "a"))
    gate.when_free(taker(gate, seen, "b"))
    gate.resize(3)
    assert seen == ["a", "b"]
    gate.resize(1)
    gate.give()
    gate.give()
    assert not gate.take()
    gate.give()
    assert gate.take()


@given(st.integers(1, 4), st.lists(st.sampled_from(["enter", "leave", "forget"])))
def test_never_more_than_the_limit_and_nobody_waits_for_a_free_place(limit: int, steps: list[str]) -> None:
    """Whatever happens: running <= limit, and waiting means full."""
    gate, seen, waiting = Gate(limit), [], []
    for at, step in enumerate(steps):
        if step == "enter":
            if not gate.take():
                waiting.append(taker(gate, seen, str(at)))
                gate.when_free(waiting[-1])
        elif step == "forget" and waiting:
            gate.forget(waiting.pop())
        elif step == "leave" and gate.running:
            gate.give()
        assert gate.running <= limit
        assert not gate.waiting or gate.running == limit
    assert seen == sorted(seen, key=int)
