from __future__ import annotations

import contextlib
import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.dataplane.userspace import drops
from agents.dataplane.userspace.drops import Dropped
from agents.dataplane.userspace.ipcomp import (
    FAILURES_IN_A_ROW,
    LEAST_OCTETS,
    MOST_OCTETS,
    PASSED_OVER,
    Compressor,
    decompress,
)

CPI = 0x1234


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return struct.pack("!BBH", 4, 0, CPI) + deflate.compress(data) + deflate.flush()


@given(st.binary(max_size=60), st.integers(2, 40))
def test_what_gets_smaller_comes_back(data: bytes, times: int) -> None:
    payload = data * times
    compressed = Compressor(CPI).compress(4, payload)
    if compressed is None:
        return
    assert len(compressed) < len(payload)
    assert compressed[:4] == struct.pack("!BBH", 4, 0, CPI)
    assert decompress(CPI, compressed) == (4, payload)
    # A window of 2 KiB is all that the Linux kernel has.
    assert zlib.decompressobj(-11).decompress(compressed[4:]) == payload


def test_small_packets_are_passed_over_and_what_does_not_get_smaller_goes_as_it_is() -> None:
    compressor = Compressor(CPI)
    assert compressor.compress(4, bytes(LEAST_OCTETS - 1)) is None
    assert compressor.compress(4, bytes(LEAST_OCTETS)) is not None
    assert compressor.compress(4, random.Random(1).randbytes(1000)) is None


def test_after_failures_packets_are_not_tried_for_a_while() -> None:
    compressor, noise = Compressor(CPI), random.Random(1).randbytes(1000)
    for _ in range(FAILURES_IN_A_ROW):
        assert compressor.compress(4, noise) is None
    tries = [compressor.compress(4, bytes(1000)) is not None for _ in range(PASSED_OVER + 1)]
    assert tries == [False] * PASSED_OVER + [True]


def test_a_bomb_is_stopped_at_the_length_of_an_ip_packet() -> None:
    assert decompress(CPI, deflated(bytes(MOST_OCTETS))) == (4, bytes(MOST_OCTETS))
    for octets in (MOST_OCTETS + 1, 100 << 20):
        with pytest.raises(Dropped) as caught:
            decompress(CPI, deflated(bytes(octets)))
        assert caught.value.code == drops.MALFORMED


@pytest.mark.parametrize(
    "octets",
    [b"", b"\4\0\x12", struct.pack("!BBH", 4, 0, CPI), deflated(bytes(200))[:-1], struct.pack("!BBH", 4, 0, 2) + b"x"],
    ids=["empty", "cut header", "no stream", "cut stream", "another CPI"],
)
def test_what_is_not_one_whole_stream_is_malformed(octets: bytes) -> None:
    with pytest.raises(Dropped) as caught:
        decompress(CPI, octets)
    assert caught.value.code == drops.MALFORMED


@given(st.binary(max_size=200))
def test_any_octets_are_survived(octets: bytes) -> None:
    with contextlib.suppress(Dropped):
        assert len(decompress(CPI, octets)[1]) <= MOST_OCTETS


def test_flags_mean_nothing() -> None:
    octets = deflated(bytes(200))
    assert decompress(CPI, octets[:1] + b"\xff" + octets[2:]) == (4, bytes(200))
