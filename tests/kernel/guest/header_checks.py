"""The outer header that an SA asks for, on real packets: Don't Fragment, DSCP, ECN. And the kernel's own counters."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from agents.contract.carriage import DfBit
from agents.dataplane.base import DataplaneError, Direction, SaId
from tests.kernel.guest.harness import Check, End, Pair, Wire, inbound, inside, readable, sa

_IP_MTU_DISCOVER = 10
_PMTUDISC_DONT, _PMTUDISC_DO = 0, 2
_DF = 0x4000
_ECHOES = b"outer header"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """An inner IPv4 packet's header: its whole type of service octet (DSCP and ECN) and its Don't Fragment bit."""

    tos: int = 0
    df: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """What the outer header had."""

    tos: int
    df: bool


def _send(end: End, there: End, packets: Iterable[Inner]) -> None:
    """Send one datagram with each header through the tunnel."""
    for packet in packets:
        with inside(end.namespace):
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with udp:
            udp.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, packet.tos)
            udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO if packet.df else _PMTUDISC_DONT)
            udp.bind((end.inner, 0))
            udp.sendto(_ECHOES, (there.inner, 9))


def _outers(wire: Wire) -> list[Outer]:
    found = []
    for frame in wire.frames():
        if frame[23] in (socket.IPPROTO_ESP, socket.IPPROTO_AH, 108):
            found.append(Outer(tos=frame[15], df=bool(int.from_bytes(frame[20:22], "big") & _DF)))
    return found


async def _through(pair: Pair, packets: list[Inner], **more: Any) -> list[Outer]:
    """Return the outer headers that SAs of this kind give to packets from left to right."""
    await pair.tunnel(**more)
    wire = Wire(pair.left.namespace)
    try:
        _send(pair.left, pair.right, packets)
        found = _outers(wire)
    finally:
        wire.close()
    for end in (pair.left, pair.right):
        for state in await end.driver.list_sas():
            await end.driver.remove_sa(state.id)
        for each in await end.driver.list_policies():
            await end.driver.remove_policy(each)
    return found


async def dont_fragment(pair: Pair) -> None:
    """Propagated unless it is to be clear; always set is refused in a sentence, for these tunnels only."""
    packets = [Inner(df=True), Inner(df=False)]
    assert [each.df for each in await _through(pair, packets)] == [True, False]
    assert [each.df for each in await _through(pair, packets, df_bit=DfBit.CLEAR)] == [False, False]
    # Of a bundle the innermost state makes the header, and those around it keep it.
    bundle = {"ah": "hmac-sha2-256-128", "compression_cpi": 0x4001}
    assert [each.df for each in await _through(pair, packets, df_bit=DfBit.CLEAR, **bundle)] == [False, False]
    with pytest.raises(DataplaneError, match="cannot always set it") as caught:
        await pair.left.driver.add_sa(sa(0x1001, pair.left.outer, pair.right.outer, df_bit=DfBit.SET))
    assert caught.value.operation == "add_sa"
    assert await pair.left.driver.list_sas() == ()
    # Over IPv6 there is no such bit: nobody on the way fragments.
    await pair.left.driver.add_sa(sa(0x1001, pair.left.outer6, pair.right.outer6, df_bit=DfBit.SET))


async def large_packets_with_a_clear_bit(pair: Pair) -> None:
    """What gets too large by the outer header is sent in fragments, put together by the peer before it is opened."""
    left, right = pair.left, pair.right
    await pair.tunnel(df_bit=DfBit.CLEAR)
    wire = Wire(left.namespace)
    try:
        assert await left.ping(right.inner, left.inner, 2, payload=1472) == 2
        frames = wire.frames()
    finally:
        wire.close()
    offsets = [int.from_bytes(frame[20:22], "big") for frame in frames]
    assert len([offset for offset in offsets if offset & 0x3FFF]) == len(frames) >= 4, offsets
    assert not any(offset & _DF for offset in offsets)


async def dscp_and_ecn(pair: Pair) -> None:
    """DSCP goes along unless it is to stay hidden; ECN goes along in either case (RFC 6040 section 4.1)."""
    inner = [Inner(tos=tos) for tos in (0x00, 0xB8, 0xC0, 0xB9, 0xBA, 0x02)]
    assert [each.tos for each in await _through(pair, inner)] == [0x00, 0xB8, 0xC0, 0xB9, 0xBA, 0x02]
    hidden = await _through(pair, inner, copy_dscp=False)
    assert [each.tos for each in hidden] == [0, 0, 0, 1, 2, 2]
    both = await _through(pair, inner[:2], copy_dscp=False, df_bit=DfBit.CLEAR, encryption=None, ah="hmac-sha1-96")
    assert [each.tos for each in both] == [0, 0]


async def congestion_marked_on_the_way(pair: Pair) -> int:
    """A router that marks the outer header marks the inner one too, where the sender can take it."""
    left, right = pair.left, pair.right
    await pair.tunnel()
    name = SaId(spi=0x1001, destination=right.outer)
    await right.driver.remove_sa(name)
    with inside(right.namespace):
        heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heard.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    heard.bind((right.inner, 9))
    heard.setblocking(False)
    wire = Wire(left.namespace)
    try:
        _send(left, right, [Inner(tos=0xBA)])  # lost: right has no SA for it yet
        (frame,) = wire.frames()
        await right.driver.add_sa(inbound(sa(0x1001, left.outer, right.outer)))
        wire.send(_marked(frame))
        async with asyncio.timeout(60):
            await readable(heard)
        _data, ancillary, _flags, _address = heard.recvmsg(100, 100)
    finally:
        wire.close()
        heard.close()
    (tos,) = [data[0] for level, kind, data in ancillary if (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS)]
    assert tos == 0xBB, "CE in the inner header, and its DSCP as it was"
    return tos


def _marked(frame: bytes) -> bytes:
    """Return a frame as a congested router sends it on: CE in its IPv4 header, and the checksum to that."""
    header = bytearray(frame[14:34])
    header[1] |= 3
    header[10:12] = bytes(2)
    words = sum(int.from_bytes(header[place : place + 2], "big") for place in range(0, 20, 2))
    words = (words & 0xFFFF) + (words >> 16)
    header[10:12] = ((words & 0xFFFF) + (words >> 16) ^ 0xFFFF).to_bytes(2, "big")
    return frame[:14] + bytes(header) + frame[34:]


async def the_kernels_counters(pair: Pair) -> dict[str, int]:
    """Those of ``/proc/net/xfrm_stat``, of the namespace the driver was opened in."""
    left, right = pair.left, pair.right
    before = {each.name: each.count for each in await right.driver.counts()}
    await pair.tunnel()
    await left.driver.add_sa(sa(0x1009, left.outer, right.outer))  # the newest, and right does not know it
    assert await left.ping(right.inner, left.inner, 2) == 0
    after = {each.name: each.count for each in await right.driver.counts()}
    assert len(after) > 20
    moved = {name: count - before[name] for name, count in after.items() if count != before[name]}
    assert moved == {"XfrmInNoStates": 2}
    text = right.namespace.run("cat", "/proc/net/xfrm_stat")
    assert {line.split()[0]: int(line.split()[1]) for line in text.splitlines()} == after
    assert Direction.IN in {state.direction for state in await right.driver.list_sas()}
    return moved


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        dont_fragment, large_packets_with_a_clear_bit, dscp_and_ecn, congestion_marked_on_the_way, the_kernels_counters,
    )
}  # fmt: skip


async def run(pair: Pair, name: str) -> Any:
    """Run one check with both drivers open."""
    async with pair.opened():
        return await CHECKS[name](pair)
