"""Messages in pieces: cut and put together again, and what does not go together is dropped."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.ike.errors import WireError
from agents.ike.wire.isakmp.fragments import (
    LIFETIME,
    MOST_FRAGMENTS,
    MOST_OCTETS,
    OVERHEAD_OCTETS,
    Reassembly,
    cut,
    is_fragment,
    read,
)
from agents.ike.wire.isakmp.message import serialize_clear, serialize_encrypted
from agents.ike.wire.isakmp.payloads import Fragment, VendorId
from agents.ike.wire.isakmp.registry import Exchange, Flag, PayloadType
from tests.ike.wire.isakmp.samples import header, header_of

_HEADER = header(Exchange.MAIN, flags=Flag.ENCRYPTED)
_WHOLE = serialize_encrypted(_HEADER, PayloadType.ID, bytes(range(256)) * 8)


def _pieces(most: int = 576) -> list[Fragment]:
    return [read(each, header_of(each)) for each in cut(_WHOLE, header_of(_WHOLE), 7, most)]


@given(st.integers(OVERHEAD_OCTETS + 9, 3_000), st.randoms(use_true_random=False))
def test_pieces_in_any_order_make_the_whole(most: int, order: random.Random) -> None:
    datagrams = list(cut(_WHOLE, header_of(_WHOLE), 7, most))
    assert all(len(each) <= most for each in datagrams)
    order.shuffle(datagrams)
    reassembly = Reassembly()
    found = [reassembly.add(read(each, header_of(each)), 0.0) for each in datagrams]
    assert found[-1] == _WHOLE
    assert not any(found[:-1])
    assert reassembly.octets == 0


def test_pieces_are_in_clear_and_of_the_same_exchange() -> None:
    for datagram in cut(_WHOLE, header_of(_WHOLE), 7, 576):
        found = header_of(datagram)
        assert is_fragment(found)
        assert replace(found, next_payload=0, length=0) == replace(_HEADER, flags=0)


def test_pieces_may_keep_the_flag_of_the_whole() -> None:
    datagram = cut(_WHOLE, header_of(_WHOLE), 7, 576)[0]
    flagged = datagram[:19] + bytes((Flag.ENCRYPTED,)) + datagram[20:]
    assert read(flagged, header_of(flagged)) == _pieces()[0]


@pytest.mark.parametrize("most", [OVERHEAD_OCTETS, OVERHEAD_OCTETS + 8, 0])
def test_what_takes_too_many_pieces_is_not_cut(most: int) -> None:
    with pytest.raises(ValueError, match="do not go into 255 fragments"):
        cut(_WHOLE, header_of(_WHOLE), 7, most)


def test_all_numbers_can_be_used() -> None:
    octets = serialize_encrypted(_HEADER, PayloadType.ID, bytes(MOST_FRAGMENTS * 4 - 28))
    reassembly = Reassembly()
    pieces = [read(each, header_of(each)) for each in cut(octets, header_of(octets), 1, OVERHEAD_OCTETS + 4)]
    assert pieces[-1].number == MOST_FRAGMENTS
    assert [reassembly.add(each, 0.0) for each in pieces][-1] == octets


def test_a_repeated_message_counts_once() -> None:
    reassembly = Reassembly()
    pieces = _pieces()
    for each in pieces[:-1] * 2:
        assert reassembly.add(each, 0.0) is None
    assert reassembly.add(pieces[-1], 0.0) == _WHOLE
    assert [reassembly.add(each, 1.0) for each in pieces][-1] == _WHOLE


def _fragment(number: int, *, last: bool = False, data: bytes = b"piece", id_: int = 7) -> Fragment:
    return Fragment(id=id_, number=number, last=last, data=data)


@pytest.mark.parametrize(
    ("before", "wrong"),
    [
        ([], _fragment(0)),
        ([], _fragment(1, data=bytes(MOST_OCTETS + 1))),
        ([_fragment(1)], _fragment(1, data=b"other")),
        ([_fragment(2)], _fragment(2, last=True)),
        ([_fragment(3, last=True)], _fragment(3)),
        ([_fragment(3, last=True)], _fragment(4)),
        ([_fragment(3, last=True)], _fragment(2, last=True)),
        ([_fragment(3)], _fragment(2, last=True)),
        ([_fragment(1, data=bytes(MOST_OCTETS))], _fragment(2)),
    ],
    ids=["zero", "long", "other", "late last", "no last", "after last", "two lasts", "early last", "too much"],
)
def test_what_does_not_go_together_is_dropped_and_the_rest_stays(before: list[Fragment], wrong: Fragment) -> None:
    reassembly = Reassembly()
    for each in before:
        reassembly.add(each, 0.0)
    octets = reassembly.octets
    with pytest.raises(WireError) as caught:
        reassembly.add(wrong, 0.0)
    assert caught.value.code == "drop.fragment"
    assert reassembly.octets == octets


def test_a_fragment_in_fragments_is_dropped() -> None:
    inner = cut(_WHOLE, header_of(_WHOLE), 7, 576)[0]
    reassembly = Reassembly()
    pieces = [read(each, header_of(each)) for each in cut(inner, header_of(inner), 8, 400)]
    with pytest.raises(WireError, match="a fragment again"):
        [reassembly.add(each, 0.0) for each in pieces]
    assert reassembly.octets == 0


def test_two_messages_wait_and_a_third_takes_the_place_of_the_oldest() -> None:
    reassembly = Reassembly()
    for id_ in (1, 2, 3):
        reassembly.add(_fragment(1, id_=id_), float(id_))
    assert reassembly.octets == 10
    assert reassembly.add(_fragment(2, id_=2, last=True), 4.0) == b"piecepiece"
    assert reassembly.add(_fragment(2, id_=1, last=True), 4.0) is None


def test_what_waits_is_bounded_whatever_comes() -> None:
    reassembly = Reassembly()
    for id_ in range(40):
        for number in (1, 2):
            reassembly.add(_fragment(number, id_=id_, data=bytes(MOST_OCTETS // 2)), float(id_) / 40)
    assert reassembly.octets <= 65_536


def test_a_message_waits_only_so_long() -> None:
    reassembly = Reassembly()
    reassembly.add(_fragment(1), 10.0)
    reassembly.expire(10.0 + LIFETIME - 1)
    assert reassembly.octets
    assert reassembly.add(_fragment(2, last=True), 10.0 + LIFETIME) is None
    assert reassembly.octets == 5


def test_a_fragment_stands_alone() -> None:
    octets = serialize_clear(header(), (_fragment(1), VendorId(data=b"x")))
    with pytest.raises(WireError) as caught:
        read(octets, header_of(octets))
    assert caught.value.code == "ikev1.payload-malformed"
