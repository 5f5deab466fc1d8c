"""Attributes in their two forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.ike.errors import WireError
from agents.ike.wire.isakmp import attributes
from agents.ike.wire.isakmp.attributes import MOST_ATTRIBUTES, MOST_OCTETS, Attribute
from tests.ike.wire.isakmp.samples import attribute_lists, outcome


@given(attribute_lists)
def test_lists_are_read_as_written(found: tuple[Attribute, ...]) -> None:
    assert attributes.parse(attributes.serialize(found)) == found


@given(st.binary(max_size=200))
def test_anything_else_is_a_wire_error(octets: bytes) -> None:
    found = outcome(attributes.parse, octets)
    if isinstance(found, WireError):
        assert found.code == "ikev1.payload-malformed"
    else:
        assert attributes.serialize(found) == octets


@pytest.mark.parametrize(
    ("value", "octets"),
    [(1, "800b0001"), (65_535, "800bffff"), (65_536, "000b000400010000"), (4_294_967_295, "000b0004ffffffff")],
)
def test_number_takes_the_form_that_fits(value: int, octets: str) -> None:
    attribute = attributes.number(11, value)
    assert attribute.serialize().hex() == octets
    assert attribute.number == value


def test_short_form_has_no_room_for_more() -> None:
    with pytest.raises(OverflowError):
        attributes.short(1, 65_536)


@pytest.mark.parametrize(
    "octets",
    [
        b"\x80\x01\x00",
        b"\x00\x01\x00\x05abcd",
        b"\x80\x01\x00\x01" * (MOST_ATTRIBUTES + 1),
        b"\x00\x06" + (MOST_OCTETS + 1).to_bytes(2, "big") + bytes(MOST_OCTETS + 1),
    ],
    ids=["cut", "longer than its list", "too many", "too long"],
)
def test_wrong_lists_are_refused(octets: bytes) -> None:
    with pytest.raises(WireError) as caught:
        attributes.parse(octets)
    assert caught.value.code == "ikev1.payload-malformed"


def test_longest_number_can_be_written_as_text() -> None:
    (attribute,) = attributes.parse(b"\x00\x06" + MOST_OCTETS.to_bytes(2, "big") + b"\xff" * MOST_OCTETS)
    assert str(attribute.number)
