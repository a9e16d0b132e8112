"""Who is heard and who is answered by UDP, decided without a socket."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.limits import DatagramLimits
from oread.listeners.guards import REASONS, ReplyBudget, ReplyGuard, Source, Sources, judge_source, read_mx
from oread.sockets.interfaces import Interface, Interfaces, parse_address

LO = Interface(
    name="lo",
    index=1,
    up=True,
    loopback=True,
    multicast=False,
    addresses=(IPv4Interface("127.0.0.1/8"), IPv6Interface("::1/128")),
    broadcasts=frozenset((IPv4Address("127.255.255.255"),)),
)
ETH = Interface(
    name="eth0",
    index=2,
    up=True,
    loopback=False,
    multicast=True,
    addresses=(IPv4Interface("10.77.0.1/24"), IPv6Interface("fe80::1/64")),
    broadcasts=frozenset((IPv4Address("10.77.0.255"),)),
)
HERE = Interfaces.of((LO, ETH))
CLIENT_PORTS = range(32_768, 61_000)
FAR = judge_source("10.77.0.9", HERE)
NEAR = judge_source("127.0.0.1", HERE)


def make_guard(
    *, allow_low_ports: bool = False, served: frozenset[int] = frozenset(), **limits: float
) -> ReplyGuard:
    return ReplyGuard(
        limits=DatagramLimits(**limits),  # type: ignore[arg-type]
        allow_low_ports=allow_low_ports,
        served_ports=served,
        client_ports=CLIENT_PORTS,
    )


@pytest.mark.parametrize(
    "host",
    [
        "224.0.0.1",
        "239.255.70.7",
        "ff02::1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "255.255.255.255",
        "10.77.0.255",
        "127.255.255.255",
        "240.0.0.1",
        "254.1.1.1",
        "::ffff:10.77.0.9",
        "ff02::1%eth0",
    ],
)
def test_source_that_no_machine_has_is_refused(host: str) -> None:
    """Guard 3: groups, broadcasts, unspecified, class E and v4-mapped sources are refused."""
    assert judge_source(host, HERE).refusal == "bad_source"


@pytest.mark.parametrize("host", ["10.77.0.9", "8.8.8.8", "127.0.0.1", "::1", "2001:db8::1", "fe80::9%eth0"])
def test_source_of_a_machine_is_heard(host: str) -> None:
    """Guard 3 refuses nothing that a machine can have."""
    assert judge_source(host, HERE).refusal is None


def test_source_knows_loopback_and_own_addresses() -> None:
    """A source is told apart by loopback and by being one of this machine's addresses."""
    assert (NEAR.loopback, NEAR.own) == (True, True)
    assert (FAR.loopback, FAR.own) == (False, False)
    own = judge_source("fe80::1%eth0", HERE)
    assert (own.loopback, own.own) == (False, True)


def test_prefixes_are_24_and_56_bits() -> None:
    """Sources of one /24 or /56 share a bucket, others do not."""
    prefixes = [
        judge_source(host, HERE).prefix
        for host in (
            "10.77.1.1",
            "10.77.1.254",
            "10.77.2.1",
            "2001:db8:0:1::1",
            "2001:db8:0:ff::2",
            "2001:db8:0:100::1",
        )
    ]
    assert prefixes[0] == prefixes[1] != prefixes[2]
    assert prefixes[3] == prefixes[4] != prefixes[5]


def test_port_zero_gets_no_reply() -> None:
    """Guard 1: source port 0 is never answered, not even where low ports are."""
    assert make_guard().refuse(NEAR, 0, 10, 10, 0.0) == "port_0"
    assert make_guard(allow_low_ports=True).refuse(NEAR, 0, 10, 10, 0.0) == "port_0"


@pytest.mark.parametrize("port", [1, 7, 19, 53, 1023, 2049])
def test_low_port_gets_no_reply_unless_allowed(port: int) -> None:
    """Guard 2: ports where services listen are answered only with allow_low_ports."""
    assert make_guard().refuse(NEAR, port, 10, 10, 0.0) == "low_port"
    assert make_guard(allow_low_ports=True).refuse(NEAR, port, 10, 10, 0.0) is None


def test_port_that_is_served_here_gets_no_reply() -> None:
    """Guard 2: a source port that this process serves is never answered."""
    guard = make_guard(allow_low_ports=True, served=frozenset((7_007, 40_000)))
    assert [guard.refuse(FAR, port, 10, 10, 0.0) for port in (7_007, 40_000, 7_008)] == [
        "served_port",
        "served_port",
        None,
    ]


@pytest.mark.parametrize(("reply_bytes", "refusal"), [(30, None), (31, "amplification")])
def test_reply_to_another_machine_is_bounded_by_the_request(reply_bytes: int, refusal: str | None) -> None:
    """Guard 7: three bytes per byte may go out, and not one more."""
    assert make_guard().refuse(FAR, 40_000, 10, reply_bytes, 0.0) == refusal


def test_amplification_bound_is_an_option_and_spares_loopback() -> None:
    """Guard 7: the bound can be moved, and loopback peers are exempt."""
    assert make_guard(amplification=100.0).refuse(FAR, 40_000, 10, 1_000, 0.0) is None
    assert make_guard().refuse(NEAR, 40_000, 0, 60_000, 0.0) is None
    assert make_guard().refuse(FAR, 40_000, 0, 1, 0.0) == "amplification"
    assert make_guard().refuse(FAR, 40_000, 0, 0, 0.0) is None


def test_burst_is_exact() -> None:
    """Guard 8: 30 datagrams at once with a burst of 10 get exactly 10 replies."""
    guard = make_guard(prefix_burst=10, prefix_rate=1.0)
    refusals = [guard.refuse(FAR, 40_000, 10, 10, 1e6) for _ in range(30)]
    assert refusals == [None] * 10 + ["prefix_rate"] * 20


@given(
    burst=st.integers(1, 300),
    rate=st.floats(0.01, 1e6),
    now=st.floats(0, 1e7),
)
def test_burst_is_exact_for_any_rate_and_time(burst: int, rate: float, now: float) -> None:
    """Rounding never gives or takes a token."""
    budget = ReplyBudget(DatagramLimits(prefix_burst=burst, prefix_rate=rate))
    taken = [budget.take(b"net", now) for _ in range(burst + 2)]
    assert taken == [None] * burst + ["prefix_rate"] * 2


def test_tokens_come_back_with_time() -> None:
    """A bucket refills at its rate, and never above its burst."""
    budget = ReplyBudget(DatagramLimits(prefix_burst=2, prefix_rate=1.0))
    times = [0.0, 0.0, 0.0, 1.0, 1.0, 100.0, 100.0, 100.0]
    taken = [budget.take(b"net", now) is None for now in times]
    assert taken == [True, True, False, True, False, True, True, False]


def test_everybody_together_has_a_bucket() -> None:
    """Guard 8: many prefixes share the global bucket, and an empty prefix takes nothing from it."""
    budget = ReplyBudget(DatagramLimits(prefix_burst=1, prefix_rate=0.001, global_burst=3, global_rate=0.001))
    taken = [budget.take(prefix, 0.0) for prefix in (b"a", b"a", b"a", b"b", b"c", b"d")]
    assert taken == [None, "prefix_rate", "prefix_rate", None, None, "global_rate"]


def test_bucket_table_is_bounded_under_spoofed_sources() -> None:
    """Guard 8: a hundred thousand prefixes leave no more than `prefixes` behind, the latest ones."""
    budget = ReplyBudget(DatagramLimits(prefixes=1_000, prefix_burst=1, prefix_rate=0.001, global_rate=1e9))
    for number in range(100_000):
        assert budget.take(number.to_bytes(3, "big"), number * 1e-6) is None
    assert len(budget) == 1_000
    assert budget.take((99_999).to_bytes(3, "big"), 1.0) == "prefix_rate"
    assert budget.take((0).to_bytes(3, "big"), 1.0) is None


def test_verdict_table_is_bounded_under_spoofed_sources() -> None:
    """A hundred thousand sources never make the verdict table grow past its bound."""
    sources = Sources(HERE)
    largest = 0
    for number in range(100_000):
        sources.look_up(str(IPv4Address(0x0A_00_00_00 + number)))
        largest = max(largest, len(sources))
    assert largest == 4_096


def test_verdict_is_remembered() -> None:
    """A source seen twice is judged once."""
    sources = Sources(HERE)
    assert sources.look_up("10.77.0.9") is sources.look_up("10.77.0.9")


def test_loopback_clients_are_exempt_from_the_budget() -> None:
    """Loopback peers on ports that the system hands to clients are never limited."""
    guard = make_guard(prefix_burst=1, prefix_rate=0.001)
    assert {guard.refuse(NEAR, 40_000, 10, 10, 0.0) for _ in range(1_000)} == {None}


def test_loopback_services_are_not_exempt_from_the_budget() -> None:
    """Two services of different processes on one machine can't loop unbounded."""
    guard = make_guard(prefix_burst=5, prefix_rate=0.001)
    refusals = [guard.refuse(NEAR, 7_107, 10, 10, 0.0) for _ in range(7)]
    assert refusals == [None] * 5 + ["prefix_rate"] * 2


@given(
    source=st.sampled_from([NEAR, FAR]),
    port=st.integers(0, 65_535),
    sizes=st.tuples(st.integers(0, 65_507), st.integers(0, 65_507)),
)
def test_every_refusal_is_explained(source: Source, port: int, sizes: tuple[int, int]) -> None:
    """Whatever the guard says is a name that the operator's table explains."""
    guard = make_guard(served=frozenset((7_007,)), prefix_burst=1, prefix_rate=0.001)
    for _ in range(2):
        assert guard.refuse(source, port, *sizes, 0.0) in {None, *REASONS}


@pytest.mark.parametrize(
    ("request_", "seconds"),
    [
        (b"M-SEARCH * HTTP/1.1\r\nMAN: x\r\nMX: 3\r\nST: ssdp:all\r\n\r\n", 3),
        (b"M-SEARCH * HTTP/1.1\nmx:120\n", 5),
        (b"M-SEARCH * HTTP/1.1\r\nMX: 0\r\n\r\n", None),
        (b"M-SEARCH * HTTP/1.1\r\nMX: -1\r\n\r\n", None),
        (b"M-SEARCH * HTTP/1.1\r\nX-MX: 3\r\n\r\n", None),
        (b"x" * 2_000 + b"\nMX: 3\n", None),
        (b"", None),
    ],
)
def test_seconds_of_a_search_request(request_: bytes, seconds: int | None) -> None:
    """Guard 9: MX is a whole number from 1 on, taken for 5 at most; all else asks for no answer."""
    assert read_mx(request_) == seconds


@pytest.mark.parametrize("payloads", [(b"loop",), (b"one", b"other", b"third")])
@pytest.mark.parametrize(("seconds", "most"), [(0.0, 9), (0.0002, 9), (0.04, 9), (0.06, 513), (0.9, 513)])
def test_two_echo_services_stop_answering_each_other(
    payloads: tuple[bytes, ...], seconds: float, most: int
) -> None:
    """Guard 6: what goes round comes to an end, at any pace, and however many datagrams go round."""
    one, other = make_guard(), make_guard()
    going, now, replies = list(payloads), 0.0, 0
    while going and replies < 10_000:
        going = [each for each in going if not one.comes_back(("10.77.0.8", 7_008), each, each, now)]
        replies += len(going)
        now += seconds / 2
        going = [each for each in going if not other.comes_back(("10.77.0.7", 7_007), each, each, now)]
        now += seconds / 2
    assert not going
    assert replies <= len(payloads) * most


def test_service_that_answers_echoes_alike_is_not_answered_for_ever() -> None:
    """Guard 6: replies that differ, each echoed back, are a loop too."""
    guard = make_guard()
    request, replies = b"forged", 0
    while not guard.comes_back(("10.77.0.9", 7_008), request, b"reply %d" % replies, 0.001 * replies):
        request = b"reply %d" % replies
        replies += 1
        assert replies < 100


@pytest.mark.parametrize(("seconds", "count"), [(0.1, 500), (0.5, 500), (1.0, 2_000), (60.0, 2_000)])
def test_heartbeat_from_a_fixed_port_is_answered(seconds: float, count: int) -> None:
    """A client bound to a port of its own may send the same bytes again and again."""
    guard = make_guard()
    refused = [
        number
        for number in range(count)
        if guard.comes_back(("10.77.0.9", 5_000), b"alive", b"alive", 0.001 + number * (seconds + 1e-6))
    ]
    assert refused == []


def test_burst_from_a_fixed_port_is_answered() -> None:
    """Nine times the same at once is no loop yet; one more is, and costs one answer."""
    guard = make_guard()
    asked = [guard.comes_back(("10.77.0.9", 5_000), b"x", b"x", 0.0) for _ in range(11)]
    assert asked == [False] * 9 + [True, False]


def test_client_may_ask_the_same_again() -> None:
    """A port for clients is never taken for a service, nor any when low ports are allowed."""
    for guard, port in ((make_guard(), CLIENT_PORTS[0]), (make_guard(allow_low_ports=True), 7_008)):
        for _ in range(3):
            assert not guard.comes_back(("10.77.0.9", port), b"x", b"x", 0.0)


def test_peers_at_service_ports_are_bounded() -> None:
    """However many ask, a bounded number is remembered."""
    guard = make_guard()
    for number in range(5_000):
        guard.comes_back((f"10.77.{number >> 8}.{number & 255}", 7_008), b"x", b"x", 0.0)
    assert len(guard._sent) <= 1_024


def test_interface_knows_its_networks() -> None:
    """An address is on the link of an interface when one of its networks holds it."""
    found = Interfaces.of((LO, ETH))
    told = [
        found.on_link(2, parse_address(host)) for host in ("10.77.0.9", "10.78.0.9", "fe80::9", "2001:db8::1")
    ]
    assert told == [True, False, True, False]
    assert not found.on_link(1, parse_address("10.77.0.9"))
