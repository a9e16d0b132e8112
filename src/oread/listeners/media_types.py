"""Ask for a request body's type where it is read as JSON.

A web page may send `text/plain`, form fields, or a body of no type to any
address its reader's browser can reach, without asking first; a service on that
machine would take JSON in them for a call. Every other type the browser asks
leave for (a CORS preflight), which nobody gives. So these types are taken from
clients that are no browsers only (`curl -d` calls everything a form): what a
page sends carries an Origin.

Source: RFC 9110 8.3; WHATWG Fetch, CORS-safelisted request-header, and 3.2 for Origin.
"""

from __future__ import annotations

from oread.errors import BadRequest
from oread.messages import Headers

JSON_TYPE = "application/json"
OTHER_TYPES = ("application/octet-stream", "application/json-rpc", "application/jsonrequest")
"""What clients say of bytes that they know nothing of, and of JSON-RPC before it was JSON."""
UNASKED_TYPES = ("", "application/x-www-form-urlencoded", "text/plain")
"""What pages can send unasked, and what simple clients say of anything."""


class NotJson(BadRequest):
    """The body is not said to be JSON (RFC 9110 15.5.16)."""

    status = 415
    reason = "not_json"


def check_json_type(headers: Headers) -> None:
    """Refuse a body that is said to be something else, or that a web page could have sent unasked.

    What ends in `+json` is taken too; parameters of a type are passed over:
    JSON is UTF-8.

    Raises:
        NotJson: naming what is asked for.
    """
    media_type = (headers.get("content-type") or "").partition(";")[0].strip().lower()
    if media_type == JSON_TYPE or media_type in OTHER_TYPES or media_type.endswith("+json"):
        return
    if media_type not in UNASKED_TYPES or "origin" in headers:
        raise NotJson(f"the body is {media_type or 'of no type'}; Content-Type: {JSON_TYPE} is needed")
