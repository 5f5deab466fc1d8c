"""Outer headers with Don't Fragment always, on a kernel with ESP and nftables: packets are cut before encryption."""

from __future__ import annotations

import asyncio
import socket

from agents.agentd.host import LinuxHost
from agents.agentd.parts import filter as parts_filter
from agents.agentd.parts.filter import Beside
from agents.contract.carriage import DfBit
from tests.kernel.guest import link_checks
from tests.kernel.guest.harness import WAIT_S, Check, Pair, Wire, inside, readable
from tests.kernel.guest.link_checks import FIRST, MTU, NAMES

_DF = 0x4000
_LONGER, _FITS = MTU + 50, MTU - 60
_NARROW = 1_300


async def what_an_interface_sends_is_whole(pair: Pair) -> dict[str, list[int]]:
    """Longer packets without DF go in several of ESP, each whole and with DF; also when the path gets narrower."""
    left, right = pair.left, pair.right
    await link_checks.open_links(pair)
    await link_checks.key(pair, df_bit=DfBit.SET)
    found = {}
    with inside(left.namespace):
        async with LinuxHost() as host:
            await host.filter(parts_filter.transaction(Beside(dont_fragment=True).plan(), ()))
            try:
                async with link_checks.routed(pair):
                    found["fits"] = await _sent(pair, _FITS)
                    found["longer"] = await _sent(pair, _LONGER)
                    left.namespace.ip("route", "add", f"{right.outer}/32", "dev", "wire", "mtu", str(_NARROW))
                    assert host.path_mtu(left.outer, right.outer) == _NARROW
                    await host.set_link(NAMES[FIRST], MTU - 200)  # as the agent does when it sees that
                    found["narrower"] = await _sent(pair, _FITS)
                    left.namespace.ip("route", "delete", f"{right.outer}/32", "dev", "wire")
            finally:
                await host.filter(parts_filter.removal())
    assert [len(each) for each in found.values()] == [1, 2, 2], found
    assert max(found["narrower"]) <= _NARROW, found
    return found


async def _sent(pair: Pair, octets: int) -> list[int]:
    """Send a datagram that may be cut through the tunnel; returns the lengths of the ESP packets, if all have DF."""
    with inside(pair.right.namespace):
        heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with inside(pair.left.namespace):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    wire = Wire(pair.left.namespace)
    try:
        heard.bind((pair.right.inner, 9))
        udp.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER: IP_PMTUDISC_DONT
        udp.bind((pair.left.inner, 0))
        udp.sendto(bytes(octets), (pair.right.inner, 9))
        await asyncio.wait_for(readable(heard), WAIT_S)
        assert len(heard.recv(2_000)) == octets
        esp = [frame[14:] for frame in wire.frames() if frame[23] == socket.IPPROTO_ESP]
    finally:
        for each in (heard, udp, wire):
            each.close()
    assert {int.from_bytes(packet[6:8], "big") for packet in esp} == {_DF}
    return [len(packet) for packet in esp]


CHECKS: dict[str, Check] = {"what_an_interface_sends_is_whole": what_an_interface_sends_is_whole}
