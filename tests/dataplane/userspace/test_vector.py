"""Segments cut and summed all at once are those that are cut one by one."""

from __future__ import annotations

import random

import pytest

from agents.dataplane.userspace import vector
from agents.dataplane.userspace.offload import VNET_OCTETS, coalesce, segment
from tests.dataplane.userspace.test_offload import ACK, CWR, PSH, V4, V6, checksums_hold, super_frame, tcp, words


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector, "WORTH", 1_000_000)


@pytest.mark.parametrize("addresses", [V4, V6])
@pytest.mark.parametrize("size", [1_348, 1_346, 536, 1_347])
@pytest.mark.parametrize("flags", [ACK, ACK | PSH | CWR])
@pytest.mark.parametrize("counting", [False, True], ids=["df", "no df"])
def test_a_super_packet_is_cut_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, str], size: int, flags: int, counting: bool
) -> None:
    draw = random.Random(size)
    for octets in (size * 30, size * 30 - 5, size * 6 + 1, size * 40):
        data = draw.randbytes(octets) if octets % 2 else bytes(octets)
        frame = bytearray(super_frame(addresses, data, size, flags=flags, sequence=2**32 - 3 * size))
        if counting and addresses is V4:
            frame[VNET_OCTETS + 4 : VNET_OCTETS + 7] = b"\xff\xfd\x00"  # the identification wraps, DF is off
            head = (
                bytes(frame[VNET_OCTETS : VNET_OCTETS + 10])
                + bytes(2)
                + bytes(frame[VNET_OCTETS + 12 : VNET_OCTETS + 20])
            )
            frame[VNET_OCTETS + 10 : VNET_OCTETS + 12] = (~words(head) & 0xFFFF).to_bytes(2, "big")
        at_once = segment(bytes(frame))
        assert all(map(checksums_hold, at_once))
        with monkeypatch.context() as slow:
            one_by_one(slow)
            assert at_once == segment(bytes(frame))


@pytest.mark.parametrize("addresses", [V4, V6])
@pytest.mark.parametrize("size", [1_348, 1_346, 1_347])
@pytest.mark.parametrize("last", [1_348, 7, 8, 9, 10])
def test_a_run_is_joined_only_where_every_checksum_holds(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, str], size: int, last: int
) -> None:
    draw = random.Random(last)
    lengths = [size] * 20 + [min(last, size)]
    run = [
        tcp(addresses, draw.randbytes(length), sequence=1_000 + number * size) for number, length in enumerate(lengths)
    ]
    joined = coalesce(run)
    assert len(joined) == 1
    broken = list(run)
    broken[9] = run[9][:-3] + bytes([run[9][-3] ^ 0x40]) + run[9][-2:]
    separate = coalesce(broken)
    assert [b"".join(frame)[VNET_OCTETS:] for frame in separate] == broken
    with monkeypatch.context() as slow:
        one_by_one(slow)
        assert coalesce(run) == joined
        assert coalesce(broken) == separate


def test_the_sum_is_that_of_rfc_1071() -> None:
    draw = random.Random(1071)
    for count in range(1, 12):
        packets = [draw.randbytes(2 * draw.randrange(1, 40)) for _ in range(count)] + [draw.randbytes(count)]
        assert vector.total(packets) % 0xFFFF == words(b"".join(packets)) % 0xFFFF
