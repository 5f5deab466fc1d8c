"""Runs of packets that are opened all at once are let in, refused and counted as one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from agents.dataplane.userspace import vector
from agents.dataplane.userspace.engine import Engine
from agents.dataplane.userspace.inward import Arrival
from tests.dataplane.userspace.test_engine import opened, seal
from tests.dataplane.userspace.test_offload import V4, V6, tcp
from tests.dataplane.userspace.values import engine_pair, udp_packet

DRAW = random.Random(4303)
Wires = list[bytes]
Mangle = Callable[[Wires], Wires]


def stream(addresses: tuple[str, str], count: int = 20, octets: int = 1_200) -> list[bytes]:
    return [tcp(addresses, DRAW.randbytes(octets), sequence=1_000 + octets * number) for number in range(count)]


def flip(wires: Wires, index: int, at: int) -> Wires:
    octets = bytearray(wires[index])
    octets[at] ^= 1
    return [*wires[:index], bytes(octets), *wires[index + 1 :]]


MANGLES: dict[str, Mangle] = {
    "untouched": lambda wires: wires,
    "a wrong ICV": lambda wires: flip(wires, 7, -1),
    "a wrong ICV at first": lambda wires: flip(wires, 0, -1),
    "another SPI": lambda wires: flip(wires, 7, 3),
    "one missing": lambda wires: [*wires[:7], *wires[8:]],
    "one twice": lambda wires: [*wires[:8], wires[7], *wires[8:]],
    "two swapped": lambda wires: [*wires[:7], wires[8], wires[7], *wires[9:]],
    "one cut short": lambda wires: [*wires[:7], wires[7][:-4], *wires[8:]],
    "one without a header": lambda wires: [*wires[:7], b"\0\0\0", *wires[8:]],
    "all twice": lambda wires: [*wires, *wires],
    "backwards": lambda wires: wires[::-1],
}


def both_ways(
    monkeypatch: pytest.MonkeyPatch, receivers: Sequence[Engine], arrival: Arrival, wires: Wires
) -> tuple[list[bytes], list[bytes]]:
    at_once = opened(receivers[0], arrival, *wires)
    with monkeypatch.context() as slow:
        slow.setattr(vector, "WORTH", 1_000_000)
        one_by_one = opened(receivers[1], arrival, *wires)
    first, second = (receiver.list_sas()[0] for receiver in receivers)
    assert first == second
    assert receivers[0].totals() == receivers[1].totals()
    assert receivers[0].take_notices() == receivers[1].take_notices()
    return at_once, one_by_one


@pytest.mark.parametrize("addresses", [V4, V6], ids=["4", "6"])
@pytest.mark.parametrize("mangle", MANGLES.values(), ids=MANGLES)
@pytest.mark.parametrize("window", [0, 4, 64])
def test_a_run_fares_as_its_packets_do(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, str], mangle: Mangle, window: int
) -> None:
    packets = stream(addresses)
    sender, one, arrival = engine_pair(replay_window=window)
    _sender, other, _arrival = engine_pair(replay_window=window)
    wires = seal(sender, *packets)
    for batch in (mangle(wires[:14]), wires[14:], mangle(wires)):
        at_once, one_by_one = both_ways(monkeypatch, (one, other), arrival, batch)
        assert at_once == one_by_one
        assert set(at_once) <= set(packets)


def test_a_run_of_several_flows_kinds_and_marks_fares_as_its_packets_do(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(100)
    kinds = {
        "two flows": [udp_packet(ports=(5000, 6000 + number % 2), data=data) for number in range(20)],
        "two sources": [udp_packet(f"10.1.0.{1 + number // 10}", data=data) for number in range(20)],
        "two versions": [udp_packet(*(V4, V6)[number % 2], data=data) for number in range(20)],
        "no transport": [udp_packet(data=b"")[:20].replace(b"\x11", b"\x3b") for _ in range(20)],
        "all alike": [udp_packet(data=data)] * 20,
    }
    for name, packets in kinds.items():
        for traffic_class in (0, 1, 2, 3):
            sender, one, arrival = engine_pair()
            _sender, other, _arrival = engine_pair()
            outside = Arrival(arrival.local_address, arrival.remote_address, arrival.remote_port, traffic_class)
            wires = seal(sender, *packets)
            at_once, one_by_one = both_ways(monkeypatch, (one, other), outside, wires)
            assert at_once == one_by_one, (name, traffic_class)


def test_what_was_decrypted_in_vain_is_not_tried_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    sender, receiver, arrival = engine_pair()
    tries = []
    monkeypatch.setattr(vector, "alike", lambda plains, length: tries.append(length))
    for number in range(70):
        wires = seal(sender, *[udp_packet(data=bytes(100))] * 10)
        assert len(opened(receiver, arrival, *wires)) == 10, number
    assert len(tries) == 2


def test_packets_outside_the_selectors_are_refused_each(monkeypatch: pytest.MonkeyPatch) -> None:
    sender, receiver, arrival = engine_pair()
    for spec in receiver.list_policies():
        receiver.remove_policy(spec)
    assert opened(receiver, arrival, *seal(sender, *stream(V4))) == []
    assert receiver.list_sas()[0].rejected.selectors == 20
