"""JSON-RPC 2.0 as plain functions: what is a call, what is refused, what is echoed."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import oread
from oread.errors import HandlerCancelled, TimedOut
from oread.protocols.jsonrpc import (
    JSONRPC_BATCH,
    NO_METHOD,
    Call,
    Document,
    Fault,
    Invalid,
    encode_error,
    encode_result,
    fault_of,
    join_responses,
    read_document,
)


def code_of(item: Call | Invalid) -> int:
    """Return the code of something that is no call."""
    assert isinstance(item, Invalid)
    return item.fault.code


def request(**members: str) -> bytes:
    """Write one request of raw JSON members; `jsonrpc` is given unless it is told."""
    given = {"jsonrpc": '"2.0"', "method": '"m"', **members}
    return ("{" + ",".join(f'"{name}":{value}' for name, value in given.items() if value) + "}").encode()


def test_a_call_keeps_params_and_id_as_they_were_written() -> None:
    """Neither is decoded: spaces inside params and the spelling of numbers stay."""
    assert read_document(b' {"jsonrpc": "2.0", "method": "sum", "params": [1, 2.50], "id": 1.0}\r') == (
        Document((Call("sum", b"[1, 2.50]", b"1.0"),))
    )


def test_a_call_without_id_is_a_notification() -> None:
    """An id that is null is none: it asks for an answer, to null."""
    assert read_document(request()).items == (Call("m", b"", None),)
    assert read_document(request(id="null")).items == (Call("m", b"", b"null"),)


ECHOED = [
    "0", "1", "1.0", "-0", "1e2", "1E+400", "123456789012345678901234567890", '""', '"a"', '"1"',
    '"\\u00e4\\n\\"{}"', '"ä\u2028"', "null",
]  # fmt: skip


@pytest.mark.parametrize("given_id", ECHOED)
def test_an_id_is_echoed_exactly(given_id: str) -> None:
    """Byte for byte, in results and errors, also the error of a request that is invalid otherwise."""
    (item,) = read_document(request(id=given_id)).items
    assert isinstance(item, Call)
    assert item.id == given_id.encode()
    assert encode_result(item.id, b"1") == f'{{"jsonrpc":"2.0","result":1,"id":{given_id}}}'.encode()
    assert encode_error(item.id, NO_METHOD).endswith(f',"id":{given_id}}}'.encode())
    (invalid,) = read_document(request(id=given_id, method="1")).items
    assert isinstance(invalid, Invalid)
    assert invalid.id == given_id.encode()


@pytest.mark.parametrize("given_id", ["true", "false", "[]", "[1]", "{}", '{"a":1}'])
def test_an_id_of_another_type_is_invalid_and_not_echoed(given_id: str) -> None:
    """The response names null, as the specification asks when an id can't be read."""
    (item,) = read_document(request(id=given_id)).items
    assert isinstance(item, Invalid)
    assert (item.fault.code, item.id) == (-32600, b"null")


INVALID = {
    "a number": b"1",
    "a string": b'"rpc"',
    "null": b"null",
    "an empty batch": b"[]",
    "no version": request(jsonrpc=""),
    "version 1": request(jsonrpc='"1.0"'),
    "version as a number": request(jsonrpc="2.0"),
    "no method": request(method=""),
    "method null": request(method="null"),
    "params a string": request(params='"bar"'),
    "params null": request(params="null"),
    "params a number": request(params="1"),
}


@pytest.mark.parametrize("case", INVALID)
def test_what_is_no_request_is_refused(case: str) -> None:
    """Well-formed JSON that is no request is -32600, one object and no array."""
    document = read_document(INVALID[case])
    assert [code_of(item) for item in document.items] == [-32600]
    assert not document.is_batch


MALFORMED = {
    "nothing": b"",
    "spaces": b" \t",
    "text": b"hello",
    "cut": b'{"jsonrpc":"2.0","method":"m"',
    "trailing": request() + b"x",
    "two documents": request() + request(),
    "a comma": b'{"jsonrpc":"2.0",}',
    "NaN": request(params="[NaN]"),
    "Infinity": request(id="Infinity"),
    "a leading zero": request(id="01"),
    "single quotes": b"{'jsonrpc':'2.0'}",
    "a comment": b"/**/" + request(),
    "a byte order mark": b"\xef\xbb\xbf" + request(),
    "UTF-16": request().decode().encode("utf-16"),
    "bad UTF-8 in the id": b'{"jsonrpc":"2.0","method":"m","id":"\xff"}',
    "bad UTF-8 in params": b'{"jsonrpc":"2.0","method":"m","params":["\xc0\x80"]}',
    "bad UTF-8 in a member of no meaning": b'{"\xff":1,"jsonrpc":"2.0","method":"m"}',
    "a lone surrogate": request(params='["\\ud800"]'),
    "a control character": b'{"jsonrpc":"2.0","method":"a\nb"}',
    "a deep array": b"[" * 100_000,
    "deep params": request(params="[" * 100_000 + "]" * 100_000),
    "a batch cut short": b'[{"jsonrpc":"2.0","method":"m"},{"jsonrpc"',
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_json_is_a_parse_error(case: str) -> None:
    """One -32700 for the whole document, answered to null."""
    (item,) = read_document(MALFORMED[case]).items
    assert isinstance(item, Invalid)
    assert (item.fault.code, item.id) == (-32700, b"null")


def test_a_version_may_be_spelled_with_escapes() -> None:
    """It is the string that counts."""
    assert isinstance(read_document(request(jsonrpc='"2\\u002e0"')).items[0], Call)


def test_a_member_given_twice_counts_as_the_last() -> None:
    """As JavaScript and Python have it."""
    assert read_document(b'{"jsonrpc":"2.0","method":"a","id":1,"method":"b","id":2}').items == (
        Call("b", b"", b"2"),
    )


def test_a_batch_keeps_its_order_with_what_is_invalid_in_its_place() -> None:
    """An element that is no request does not take the others with it."""
    document = read_document(b"[%b,1,%b,[]]" % (request(id="1"), request(id="2")))
    assert document.is_batch
    assert document.items[0] == Call("m", b"", b"1")
    assert code_of(document.items[1]) == -32600
    assert document.items[2] == Call("m", b"", b"2")
    assert code_of(document.items[3]) == -32600


def test_a_batch_is_bounded() -> None:
    """At the limit it is served, beyond it refused whole, by one object."""
    assert len(read_document(b"[%b]" % b",".join([request()] * JSONRPC_BATCH)).items) == JSONRPC_BATCH
    document = read_document(b"[%b]" % b",".join([request()] * (JSONRPC_BATCH + 1)))
    assert [code_of(item) for item in document.items] == [-32600]
    assert not document.is_batch


@pytest.mark.parametrize("element", [b"1", b"[]", b'""', b"{}"])
def test_a_batch_that_is_too_long_costs_no_object_an_element(element: bytes) -> None:
    """Its elements are not made before it is refused."""
    data = b"[%b]" % b",".join([element] * 100_000)
    tracemalloc.start()
    try:
        document = read_document(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [code_of(item) for item in document.items] == [-32600]
    assert peak < 100_000


FAULTS: list[tuple[Exception, bool, Fault]] = [
    (oread.BadRequest("$.a: no"), True, Fault(-32602, "Invalid params", "$.a: no")),
    (oread.NotFound("x"), False, Fault(-32601, "Method not found")),
    (oread.NotFound("none"), True, Fault(-32003, "Refused", {"status": 404, "reason": "none"})),
    (oread.Busy(retry_seconds=7), True, Fault(-32000, "Busy", {"retry_seconds": 7})),
    (TimedOut("slow"), True, Fault(-32001, "Timed out")),
    (HandlerCancelled("cancelled"), False, Fault(-32002, "Cancelled")),
    (oread.HandlerError("secret"), True, Fault(-32603, "Internal error")),
    (LookupError("secret"), True, Fault(-32603, "Internal error")),
]  # fmt: skip


@pytest.mark.parametrize(("error", "in_handler", "fault"), FAULTS)
def test_each_error_has_its_code(error: Exception, in_handler: bool, fault: Fault) -> None:
    """The caller's fault is explained, ours stays inside."""
    assert fault_of(error, in_handler=in_handler) == fault


def test_an_error_of_unspeakable_words_is_still_an_error() -> None:
    """Text that UTF-8 can't say is left out."""
    response = json.loads(encode_error(b"1", Fault(-32602, "Invalid params", "\ud800")))
    assert response == {"jsonrpc": "2.0", "error": {"code": -32602, "message": "Invalid params"}, "id": 1}


def test_no_response_is_no_document() -> None:
    """A batch of notifications is answered by nothing, not by an empty array."""
    assert join_responses([], is_batch=True) is None
    assert join_responses([], is_batch=False) is None
    assert join_responses([b"1", b"2"], is_batch=True) == b"[1,2]"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SAYABLE = st.text(st.characters(exclude_categories=["Cs"]))
IDS = st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | SAYABLE


@given(st.lists(st.tuples(IDS, SAYABLE), min_size=1, max_size=8), st.booleans())
def test_any_batch_is_answered_in_its_order_with_its_ids(
    calls: list[tuple[Any, str]], ascii_only: bool
) -> None:
    """Whatever the ids are, Python's own reader finds them again in the responses, in order."""
    text = json.dumps(
        [{"jsonrpc": "2.0", "method": method, "id": given_id} for given_id, method in calls],
        ensure_ascii=ascii_only,
    )
    document = read_document(text.encode())
    responses = []
    for item in document.items:
        assert isinstance(item, Call)
        assert item.id is not None
        responses.append(encode_result(item.id, b"null"))
    assert [item.method for item in document.items if isinstance(item, Call)] == [name for _, name in calls]
    answer = join_responses(responses, is_batch=True)
    assert answer is not None
    found = [response["id"] for response in json.loads(answer)]
    assert [(type(each), each) for each in found] == [(type(each), each) for each, _ in calls]


@given(JSON)
def test_any_json_that_is_no_request_is_told_so(value: Any) -> None:
    """No value of JSON is taken for a call by accident, none for malformed."""
    assert code_of(read_document(json.dumps(value).encode()).items[0]) == -32600


@given(st.binary(max_size=60) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_without_an_exception(data: bytes) -> None:
    """The worst that comes out is one parse error."""
    assert all(isinstance(item, Call | Invalid) for item in read_document(data).items)
