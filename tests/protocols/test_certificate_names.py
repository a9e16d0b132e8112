"""The names in a certificate, and which server names they cover."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oread.protocols.certificate_names import read_certificate_names, serves_name


def der_of(tls_folder: Any, *names: str) -> bytes:
    """Issue a certificate; return its DER."""
    return ssl.PEM_cert_to_DER_cert(
        tls_folder.authority.issue_cert(*names).cert_chain_pems[0].bytes().decode()
    )


def test_dns_names_are_read_and_addresses_are_not(tls_folder: Any) -> None:
    """In their order and in lower case."""
    certificate = der_of(tls_folder, "One.example", "*.two.example", "127.0.0.1", "three.example")
    assert read_certificate_names(certificate) == ("one.example", "*.two.example", "three.example")


def test_a_certificate_without_names_has_none(tls_folder: Any) -> None:
    """An authority's own certificate is for no server."""
    assert (
        read_certificate_names(ssl.PEM_cert_to_DER_cert(tls_folder.authority.cert_pem.bytes().decode())) == ()
    )


def test_a_certificate_that_is_cut_short_is_refused(tls_folder: Any) -> None:
    """Wherever it is cut, no name is guessed."""
    certificate = der_of(tls_folder, "one.example")
    for end in range(len(certificate)):
        with pytest.raises(ValueError, match=r"cut short|values to unpack"):
            read_certificate_names(certificate[:end])


@given(st.binary(max_size=200))
def test_any_bytes_are_names_or_refused(data: bytes) -> None:
    """Nothing else is raised."""
    try:
        names = read_certificate_names(data)
    except ValueError:
        return
    assert all(isinstance(name, str) for name in names)


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("a.example", "A.example", True),
        ("a.example", "b.example", False),
        ("*.example", "a.example", True),
        ("*.example", "a.b.example", False),
        ("*.example", "example", False),
        ("*.example", ".example", False),
    ],
)
def test_a_star_is_one_whole_label(pattern: str, name: str, covered: bool) -> None:
    """As RFC 9525 has it."""
    assert serves_name(pattern, name) is covered
