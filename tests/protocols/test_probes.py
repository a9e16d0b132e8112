"""Probes and their echoes, without a socket or a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.protocols.probes import LEAST_BYTES, ProbeSession

HERE = ("10.77.0.2", 7_008)
SESSION = 0x0123_4567_89AB_CDEF
MS = 1_000_000


def send(session: ProbeSession, count: int = 1, kind: str = "multicast") -> list[bytes]:
    return [session.encode(kind, session.next_number(kind), 0) for _ in range(count)]


def test_an_echo_is_an_answer() -> None:
    """It tells who, which probe, how long and how far."""
    session = ProbeSession(SESSION)
    (probe,) = send(session)
    answer = session.receive(probe, HERE, 64, 3 * MS)
    assert answer is not None
    assert (answer.responder, answer.kind, answer.number) == (HERE, "multicast", 1)
    assert (answer.seconds, answer.size, answer.hops, answer.verdict) == (0.003, 64, 0, "first")


@pytest.mark.parametrize(
    ("ttl", "hops"), [(1, 0), (64, 0), (63, 1), (50, 14), (128, 0), (120, 8), (255, 0), (None, None)]
)
def test_hops_are_told_from_the_usual_beginnings(ttl: int | None, hops: int | None) -> None:
    """The hop count that systems begin with tells how many links were crossed."""
    session = ProbeSession(SESSION)
    answer = session.receive(*send(session), HERE, ttl, 0)
    assert answer is not None
    assert answer.hops == hops


def test_loss_repetition_and_order_are_counted() -> None:
    """Of five probes four are answered, one twice and one late."""
    session = ProbeSession(SESSION)
    probes = send(session, 5)
    for at in (1, 3, 3, 2, 4):
        session.receive(probes[at], HERE, 1, 2 * MS)
    tally = session.tallies[HERE]["multicast"]
    assert (tally.received, tally.duplicates, tally.reordered, tally.first) == (4, 1, 1, 2)
    assert session.sent_to("multicast", tally) == 5
    assert session.loss("multicast", tally) == pytest.approx(0.2)
    assert session.loss_since_first("multicast", tally) == 0
    assert tally.round_trips.count == 4


def test_unicast_counts_from_when_the_responder_is_known() -> None:
    """Probes that were not sent to it are not its loss."""
    session = ProbeSession(SESSION)
    send(session, 3, "unicast")
    session.receive(*send(session), HERE, 1, 0)
    probes = send(session, 2, "unicast")
    session.receive(probes[1], HERE, 1, 0)
    tally = session.tallies[HERE]["unicast"]
    assert (session.sent_to("unicast", tally), tally.received, tally.first) == (2, 1, 5)
    assert session.loss("unicast", tally) == 0.5


def test_what_was_not_sent_is_no_answer() -> None:
    """Another session, a number not sent yet, a time to come and rubbish are counted, not believed."""
    session = ProbeSession(SESSION)
    (probe,) = send(session)
    other = ProbeSession(SESSION + 1)
    forged = (
        *send(other),
        session.encode("multicast", 2, 0),
        session.encode("unicast", 1, 0),
        session.encode("multicast", 1, 10_000 * MS),
        probe[:-40],
        b"",
        b"x" * 64,
    )
    assert [session.receive(data, HERE, 1, MS) for data in forged] == [None] * len(forged)
    assert session.refused == {"foreign": len(forged)}
    assert session.tallies == {}


def test_the_table_of_responders_is_bounded() -> None:
    """Those known go on; further ones are counted."""
    session = ProbeSession(SESSION, responders=2)
    probes = send(session, 2)
    for number in range(5):
        session.receive(probes[0], (f"10.0.0.{number}", 7), 1, 0)
    assert session.receive(probes[1], ("10.0.0.0", 7), 1, 0) is not None
    assert (len(session.tallies), session.refused) == (2, {"responders": 3})


def test_an_answer_of_long_ago_is_too_late() -> None:
    """More than a window behind nobody knows whether it came before."""
    session = ProbeSession(SESSION)
    probes = send(session, 100)
    session.receive(probes[99], HERE, 1, 0)
    assert session.receive(probes[0], HERE, 1, 0) is None
    assert session.refused == {"too_late": 1}


@pytest.mark.parametrize("size", [LEAST_BYTES, 1_400])
def test_a_probe_has_its_size(size: int) -> None:
    """It is filled up, and read whatever stands behind."""
    session = ProbeSession(SESSION, size=size)
    (probe,) = send(session)
    assert len(probe) == size
    assert session.receive(probe + b"more", HERE, 1, 0) is not None


@given(data=st.binary(max_size=100), ttl=st.integers(0, 255))
def test_no_bytes_break_it(data: bytes, ttl: int) -> None:
    """Whatever comes back is an answer or is counted."""
    session = ProbeSession(SESSION)
    send(session)
    assert session.receive(data, HERE, ttl, 0) is None
    assert session.refused == {"foreign": 1}
