"""Ask for a request body's type where it is read as JSON.

A web page may send `text/plain`, form fields, or a body of no type to any
address its reader's browser can reach, without asking first; a service on that
machine would take JSON in them for a call. Every other type the browser asks
leave for (a CORS preflight), which nobody gives.

Source: RFC 9110 8.3; WHATWG Fetch, CORS-safelisted request-header.
"""

from __future__ import annotations

from collections.abc import Collection

from oread.errors import BadRequest
from oread.messages import Headers

JSON_TYPE = "application/json"
PAYLOAD_TYPES = (JSON_TYPE, "application/octet-stream")
"""Of a typed handler's body; the second is what clients say of bytes that they know nothing of."""


class NotJson(BadRequest):
    """The body is not said to be JSON (RFC 9110 15.5.16)."""

    status = 415
    reason = "not_json"


def check_json_type(headers: Headers, taken: Collection[str] = PAYLOAD_TYPES) -> None:
    """Refuse a body that a web page could send unasked.

    What ends in `+json` is taken too; parameters of a type are passed over:
    JSON is UTF-8.

    Raises:
        NotJson: naming what is asked for.
    """
    media_type = (headers.get("content-type") or "").partition(";")[0].strip().lower()
    if media_type not in taken and not media_type.endswith("+json"):
        raise NotJson(f"the body is {media_type or 'of no type'}; Content-Type: {JSON_TYPE} is needed")
