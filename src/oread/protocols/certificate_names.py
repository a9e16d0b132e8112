"""Read the DNS names that a certificate is for, and find who serves a name.

A certificate is DER: tag, length, content, nested. Only the path down to the
subject's alternative names is walked; a certificate without them has no name
(RFC 9525 6.3: the common name is not looked at).

Source: X.690 8.1 and 10.1, RFC 5280 4.1 and 4.2.1.6; RFC 6066 3 for server names.
"""

from __future__ import annotations

from collections.abc import Iterator

_SEQUENCE, _OCTETS, _IDENTIFIER, _EXTENSIONS, _DNS_NAME = 0x30, 0x04, 0x06, 0xA3, 0x82
_ALTERNATIVE_NAMES = bytes((0x55, 0x1D, 0x11))
"""2.5.29.17, subjectAltName."""


def read_certificate_names(certificate: bytes) -> tuple[str, ...]:
    """Return the DNS names of a DER certificate, in lower case.

    Raises:
        ValueError: it is no certificate, or is cut short.
    """
    (signed,) = _contents(certificate, _SEQUENCE)
    body = next(_contents(signed, _SEQUENCE), b"")
    for extensions in _contents(body, _EXTENSIONS):
        for listed in _contents(extensions, _SEQUENCE):
            for extension in _contents(listed, _SEQUENCE):
                if next(_contents(extension, _IDENTIFIER), b"") == _ALTERNATIVE_NAMES:
                    return tuple(_read_names(next(_contents(extension, _OCTETS), b"")))
    return ()


def _read_names(value: bytes) -> Iterator[str]:
    for names in _contents(value, _SEQUENCE):
        for name in _contents(names, _DNS_NAME):
            yield name.decode("ascii").lower()


def _contents(data: bytes, wanted: int) -> Iterator[bytes]:
    """Yield the content of each element of one tag."""
    at, end = 0, len(data)
    while at < end:
        if end - at < 2:
            raise ValueError("a certificate is cut short")
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if length > end - at:
            raise ValueError("a certificate is cut short")
        if tag == wanted:
            yield data[at : at + length]
        at += length


def serves_name(pattern: str, name: str) -> bool:
    """Tell whether a certificate's name covers a server name.

    A `*` stands for one whole first label (RFC 9525 6.3).
    """
    name = name.lower()
    if pattern.startswith("*."):
        first, _, rest = name.partition(".")
        return bool(first) and rest == pattern[2:]
    return pattern == name
