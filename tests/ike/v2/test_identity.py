"""Identities on the wire and as text."""

from __future__ import annotations

import pytest

from agents.contract.config import Identity, IdentityType
from agents.ike.v2 import identity
from agents.ike.wire.payloads import IdI

_CASES = [
    (Identity(type=IdentityType.IPV4, value="192.0.2.1"), 1, bytes((192, 0, 2, 1))),
    (Identity(type=IdentityType.IPV6, value="2001:db8::1"), 5, bytes.fromhex("20010db8000000000000000000000001")),
    (Identity(type=IdentityType.FQDN, value="paris.example"), 2, b"paris.example"),
    (Identity(type=IdentityType.EMAIL, value="paris@example.net"), 3, b"paris@example.net"),
    (Identity(type=IdentityType.KEY_ID, value="00ff10"), 11, b"\x00\xff\x10"),
]


@pytest.mark.parametrize(("own", "number", "octets"), _CASES, ids=lambda value: str(value)[:20])
def test_wire_form_and_back(own: Identity, number: int, octets: bytes) -> None:
    shown = identity.to_id_i(own)
    assert (shown.id_type, shown.data) == (number, octets)
    assert identity.matches(own, identity.to_id_r(own))
    assert identity.describe(shown) == identity.describe_own(own)


def test_names_compare_without_case_and_types_with_care() -> None:
    name = Identity(type=IdentityType.FQDN, value="paris.example")
    assert identity.matches(name, IdI(id_type=2, data=b"Paris.Example"))
    assert not identity.matches(name, IdI(id_type=3, data=b"paris.example"))
    assert not identity.matches(name, IdI(id_type=2, data=b"paris.example."))


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (IdI(id_type=2, data=b"a\r\n\x1b[0m" + b"x" * 500), "fqdn a...[0m" + "x" * 93),
        (IdI(id_type=9, data=b"\x30\x00"), "type 9 3000"),
        (IdI(id_type=1, data=b"\x01\x02\x03"), "ipv4 010203"),
    ],
)
def test_what_a_peer_calls_itself_is_bounded_and_harmless(shown: IdI, text: str) -> None:
    assert identity.describe(shown) == text
