"""Transport mode, AH, ESP inside AH, extended sequence numbers and IPComp on the kernel driver. IKE is not involved."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.contract import algorithms
from agents.contract.config import Mode
from agents.dataplane.base import (
    Acquired,
    DataplaneError,
    Direction,
    Expired,
    Lost,
    Rejected,
    SaId,
    SaProtocol,
    SaSpec,
    UdpEncapsulation,
)
from agents.dataplane.kernel import bundles, messages
from agents.dataplane.kernel.channel import CREATE, Requests
from agents.dataplane.kernel.sockets import bypass_policies
from deploy.lab.uml import RESULT_VARIABLE
from tests.kernel.guest.driver_checks import port_4500, port_40001
from tests.kernel.guest.harness import REQID, Check, End, Pair, Wire, clear, inbound, inside, policy, sa

ECHO_OCTETS, HEADER_OCTETS = 84, 20
"""An IPv4 echo of 56 octets of data, and the header of it that transport mode does not count."""
CPI = 0x4001


def _shown(end: End) -> str:
    return end.namespace.run("ip", "xfrm", "state", "list", "nokeys")


def _protocols(wire: Wire) -> list[int]:
    """Return the protocols of the packets sent, ESP behind AH as a number of its own."""
    found = []
    for frame in wire.frames():
        found.append(frame[23])
        if frame[23] == socket.IPPROTO_AH:
            found.append(frame[34])
    return found


async def transport(pair: Pair) -> None:
    left, right = pair.left, pair.right
    await pair.policies(mode=Mode.TRANSPORT)
    await left.ping(right.outer, left.outer, 1)
    assert (await left.hears(Acquired)).reqid == REQID
    await pair.tunnel(mode=Mode.TRANSPORT)
    wire = Wire(left.namespace)
    try:
        assert await left.ping(right.outer, left.outer) == 3
        assert await right.ping(left.outer, right.outer) == 3
        assert set(_protocols(wire)) == {socket.IPPROTO_ESP}
    finally:
        wire.close()
    await pair.agree(0x1001, 6, 6 * (ECHO_OCTETS - HEADER_OCTETS))
    assert _shown(left).count("mode transport") == 2
    listed = await left.driver.list_policies()
    assert {(each.mode, each.source) for each in listed} == {
        (Mode.TRANSPORT, left.outer), (Mode.TRANSPORT, right.outer)
    }  # fmt: skip
    for each in listed:
        await left.driver.remove_policy(each)
    assert "tmpl" not in left.namespace.run("ip", "xfrm", "policy")


async def transport_over_ipv6(pair: Pair) -> None:
    left, right = pair.left, pair.right
    for spi, source, target in ((0x1001, left, right), (0x1002, right, left)):
        spec = sa(spi, source.outer6, target.outer6, ah="hmac-sha2-256-128", mode=Mode.TRANSPORT)
        await pair.both(spec)
    await pair.policies(six_outside=True, mode=Mode.TRANSPORT, protocols=(SaProtocol.ESP, SaProtocol.AH))
    assert await left.ping(right.outer6, left.outer6) == 3
    assert (await left.sa(0x1001)).counters.packets_out >= 3, "neighbour discovery goes through too"


async def transport_in_udp_moves(pair: Pair) -> None:
    """The left end gets another port; numbers and counts go on, in transport mode too."""
    left, right = pair.left, pair.right
    sockets = [*port_4500(pair), *port_40001(pair)]
    for udp in sockets:
        bypass_policies(udp)  # the policies are between the very addresses that the UDP goes to
    try:
        before = UdpEncapsulation(source_port=4500, destination_port=4500)
        await pair.tunnel(mode=Mode.TRANSPORT, encapsulation=before, extended_sequence_numbers=True)
        assert await left.ping(right.outer, left.outer) == 3
        there = UdpEncapsulation(source_port=40001, destination_port=4500)
        back = UdpEncapsulation(source_port=4500, destination_port=40001)
        for end in (left, right):
            for spi, source, target, ports in ((0x1001, left, right, there), (0x1002, right, left, back)):
                name = SaId(spi=spi, destination=target.outer)
                await end.driver.update_mapping(name, source.outer, target.outer, ports)
        assert await left.ping(right.outer, left.outer) == 3
        await pair.agree(0x1001, 6, 6 * (ECHO_OCTETS - HEADER_OCTETS))
        assert (await right.sa(0x1001)).rejected.replayed == 0
        assert _sent(left, 0x1001) == 6
    finally:
        for udp in sockets:
            udp.close()


async def ah_with_every_algorithm(pair: Pair) -> list[str]:
    """AH alone, in both modes: what goes over the wire is readable, and counted as inner packets."""
    left, right = pair.left, pair.right
    for place, slug in enumerate(algorithms.INTEGRITY):
        mode = Mode.TUNNEL if place % 2 == 0 else Mode.TRANSPORT
        await pair.tunnel(None, ah=slug, mode=mode)
        wire = Wire(left.namespace)
        try:
            tunnel = mode is Mode.TUNNEL
            target, source = (right.inner, left.inner) if tunnel else (right.outer, left.outer)
            assert await left.ping(target, source, 2) == 2, slug
            inner = 4 if tunnel else socket.IPPROTO_ICMP
            assert _protocols(wire) == [socket.IPPROTO_AH, inner] * 2
        finally:
            wire.close()
        await pair.agree(0x1001, 2, 2 * (ECHO_OCTETS if tunnel else ECHO_OCTETS - HEADER_OCTETS))
        state = await left.sa(0x1001)
        assert state.id == SaId(spi=0x1001, destination=right.outer, protocol=SaProtocol.AH)
        await _clear(pair)
    return list(algorithms.INTEGRITY)


async def _clear(pair: Pair) -> None:
    await clear(pair)
    for end in (pair.left, pair.right):
        assert _shown(end) == ""


async def esp_inside_ah(pair: Pair) -> None:
    left, right = pair.left, pair.right
    await pair.policies(protocols=(SaProtocol.ESP, SaProtocol.AH))
    await left.ping(right.inner, left.inner, 1)
    assert (await left.hears(Acquired)).reqid == REQID
    await pair.tunnel("aes-256-cbc", "hmac-sha1-96", ah="hmac-sha2-512-256")
    wire = Wire(left.namespace)
    try:
        assert await left.ping(right.inner, left.inner) == 3
        frames = wire.frames()
        assert [(frame[23], frame[34]) for frame in frames] == [(socket.IPPROTO_AH, socket.IPPROTO_ESP)] * 3
        await pair.agree(0x1001, 3, 3 * ECHO_OCTETS)
        wire.send(frames[1])
        wire.send(frames[2][:-1] + bytes([frames[2][-1] ^ 1]))
    finally:
        wire.close()
    shown = _shown(left)
    assert (shown.count("proto esp"), shown.count("proto ah")) == (2, 2), shown
    assert {state.id.spi for state in await left.driver.list_sas()} == {0x1001, 0x1002}, "a bundle is one SA"
    # What AH rejected counts for the SA; a forged packet of an old number is a replay before its checksum is looked at.
    await right.driver.list_sas()
    refused = await right.hears(Rejected)
    assert (refused.code, refused.id) == ("esp.replay", SaId(spi=0x1001, destination=right.outer))
    # Of two SAs made within one second the kernel may take either (it knows their age in seconds): one at a time.
    await _clear(pair)
    await pair.tunnel("aes-256-gcm-16", ah="hmac-sha2-256-128")
    assert await left.ping(right.inner, left.inner) == 3
    await pair.agree(0x1001, 3, 3 * ECHO_OCTETS)
    await _clear(pair)


async def part_of_a_bundle_taken_by_others(pair: Pair) -> None:
    """Without its AH an SA is of no use: it is told as ended and its ESP goes too."""
    left, right = pair.left, pair.right
    await pair.tunnel(ah="hmac-sha2-256-128")
    await pair.both(sa(0x1009, left.outer, right.outer))
    left.namespace.run(
        "ip", "xfrm", "state", "delete", "src", left.outer, "dst", right.outer, "proto", "ah", "spi", "0x1101"
    )  # fmt: skip
    await left.hears(Expired, lambda notice: notice == Expired(id=SaId(spi=0x1001, destination=right.outer), hard=True))
    await _until(lambda: "spi 0x00001001" not in _shown(left))
    left.namespace.run("ip", "xfrm", "state", "flush", "proto", "ah")
    await left.hears(Expired, lambda notice: notice == Expired(id=SaId(spi=0x1002, destination=left.outer), hard=True))
    await _until(lambda: "spi 0x00001002" not in _shown(left))
    assert [state.id.spi for state in await left.driver.list_sas()] == [0x1009], "plain ESP is none of AH's"
    left.namespace.run("ip", "xfrm", "state", "flush", "proto", "esp")
    await left.hears(Lost)
    assert await left.driver.list_sas() == ()


async def _until(reached: Callable[[], bool]) -> None:
    for _ in range(500):
        if reached():
            return
        await asyncio.sleep(0.02)  # the kernel does this when it comes to it, and tells nobody
    raise AssertionError("not reached")


async def extended_numbers_cross_the_edge(pair: Pair) -> dict[str, list[int]]:
    """Three numbers before 2^32: the high half is not on the wire, yet in every checksum of both ends."""
    left, right = pair.left, pair.right
    found = {}
    for kind, more in _NUMBERED.items():
        spec = sa(0x1001, left.outer, right.outer, extended_sequence_numbers=True, **more)
        for end, each in ((left, spec), (right, inbound(spec))):
            await _put(end, each, 2**32 - 3)
        await pair.both(sa(0x1002, right.outer, left.outer, extended_sequence_numbers=True, **more))
        await pair.policies_for(spec)
        assert await left.ping(right.inner, left.inner, 6) == 6, kind
        octets, packets = right.counts(0x1001)
        assert (octets, packets) == left.counts(0x1001) == (6 * ECHO_OCTETS, 6)
        assert "flag" in _shown(left)
        assert "esn" in _shown(left)
        found[kind] = [_sent(left, 0x1001), _received(right, 0x1001)]
        assert found[kind] == [2**32 + 3, 2**32 + 3], found
        for end in (left, right):
            end.namespace.run("ip", "xfrm", "state", "flush")
            for each_policy in await end.driver.list_policies():
                await end.driver.remove_policy(each_policy)
    return found


_NUMBERED: dict[str, dict[str, Any]] = {
    "aead": {},
    "separate": {"encryption": "aes-128-cbc", "integrity": "hmac-sha2-256-128"},
    "ah": {"encryption": None, "ah": "hmac-sha2-256-128"},
    "ah around esp": {"ah": "aes-cmac-96"},
}


async def _put(end: End, spec: SaSpec, last: int) -> None:
    """Install an SA as the driver would, but as if ``last`` were the number of the packet before."""
    window = spec.replay_window if spec.direction is Direction.IN else bundles.OUTBOUND_ESN_WINDOW
    numbers = {"sent": last} if spec.direction is Direction.OUT else {"received": last}
    value = bundles.replay_state(window, **numbers)
    with inside(end.namespace):
        requests = Requests()
        await requests.bind()
    try:
        resume = {name: [("XFRMA_REPLAY_ESN_VAL", value)] for name in bundles.state_ids(spec)}
        for state in bundles.states(spec, resume):
            await requests.send("put", str(state.id), state.message, messages.NEWSA, CREATE)
    finally:
        requests.close()


def _sent(end: End, spi: int) -> int:
    return _number(end, spi, "oseq-hi", "oseq")


def _received(end: End, spi: int) -> int:
    return _number(end, spi, "seq-hi", "seq")


def _number(end: End, spi: int, high: str, low: str) -> int:
    shown = end.namespace.run("ip", "-d", "xfrm", "state", "list", "nokeys", "spi", hex(spi))
    halves = [re.search(rf"[ ,\t]{name} 0x([0-9a-f]+)", shown) for name in (high, low)]
    assert all(halves), shown
    return int("".join(half[1].rjust(8, "0") for half in halves if half is not None), 16)


async def extended_numbers_go_on_elsewhere(pair: Pair) -> None:
    """Moved to other addresses, a bundle of AH and ESP goes on with its 64-bit numbers."""
    left, right = pair.left, pair.right
    elsewhere = "192.0.2.78"
    right.namespace.ip("address", "add", f"{elsewhere}/24", "dev", "wire")
    try:
        await pair.tunnel(ah="hmac-sha2-256-128", extended_sequence_numbers=True)
        assert await left.ping(right.inner, left.inner) == 3
        for end in (left, right):
            await end.driver.update_mapping(SaId(spi=0x1001, destination=right.outer), left.outer, elsewhere, None)
            await end.driver.update_mapping(SaId(spi=0x1002, destination=left.outer), elsewhere, left.outer, None)
        assert await left.ping(right.inner, left.inner) == 3
        await pair.agree(0x1001, 6, 6 * ECHO_OCTETS)
        assert _sent(left, 0x1001) == _sent(left, 0x1101) == 6
        assert {state.id.destination for state in await left.driver.list_sas()} == {elsewhere, left.outer}
        assert right.outer not in _shown(left), "nothing of the bundle stayed behind"
    finally:
        right.namespace.ip("address", "delete", f"{elsewhere}/24", "dev", "wire")


async def extended_numbers_need_a_window(pair: Pair) -> str:
    spec = sa(0x1001, pair.left.outer, pair.right.outer, extended_sequence_numbers=True, replay_window=0)
    with pytest.raises(DataplaneError) as caught:
        await pair.right.driver.add_sa(inbound(spec))
    assert await pair.right.driver.list_sas() == ()
    return caught.value.reason


async def compression(pair: Pair) -> dict[str, int]:
    """What compresses is sent smaller, what does not (too short) goes as it is, in every combination."""
    left, right = pair.left, pair.right
    found = {}
    for kind, more in _COMPRESSED.items():
        await pair.tunnel(compression_cpi=CPI, **more)
        tunnel = more.get("mode") is not Mode.TRANSPORT
        target, source = (right.inner, left.inner) if tunnel else (right.outer, left.outer)
        wire = Wire(left.namespace)
        try:
            assert await left.ping(target, source, 3, payload=1300) == 3, kind
            large = wire.frames()
            assert await left.ping(target, source, 3) == 3, kind
            assert await right.ping(source, target, 2) == 2, kind
        finally:
            wire.close()
        found[kind] = max(len(frame) for frame in large)
        assert found[kind] < 400, (kind, found)
        assert (await left.sa(0x1001)).counters.packets_out == (await right.sa(0x1001)).counters.packets_in == 8
        shown = _shown(left)
        assert shown.count("proto comp") == 2, shown
        assert {state.id.spi for state in await left.driver.list_sas()} == {0x1001, 0x1002}
        await _clear_slowly(pair)
    return found


_COMPRESSED: dict[str, dict[str, Any]] = {
    "tunnel": {},
    "transport": {"mode": Mode.TRANSPORT},
    "esp inside ah": {"ah": "hmac-sha2-256-128"},
    "ah alone": {"encryption": None, "ah": "hmac-sha1-96"},
}


async def _clear_slowly(pair: Pair) -> None:
    """Remove everything; the kernel's own ``ipip`` states go when it collects what used them."""
    for end in (pair.left, pair.right):
        for each in await end.driver.list_policies():
            await end.driver.remove_policy(each)
        for state in await end.driver.list_sas():
            await end.driver.remove_sa(state.id)
        assert "proto comp" not in _shown(end)
        await _until(lambda end=end: _shown(end) == "")  # type: ignore[misc]


async def one_cpi_for_every_rekey(pair: Pair) -> None:
    """A peer may name the same CPI again (RFC 3173 has some that are fixed): the SAs of a child share its state."""
    left, right = pair.left, pair.right
    await pair.tunnel(compression_cpi=2)
    for spi, source, target in ((0x1003, left, right), (0x1004, right, left)):
        await pair.both(sa(spi, source.outer, target.outer, compression_cpi=2))
    assert await left.ping(right.inner, left.inner, payload=1000) == 3
    for end in (left, right):
        await end.driver.remove_sa(SaId(spi=0x1001, destination=right.outer))
        await end.driver.remove_sa(SaId(spi=0x1002, destination=left.outer))
    assert await left.ping(right.inner, left.inner, payload=1000) == 3
    other = dataclasses.replace(sa(0x1005, left.outer, right.outer, compression_cpi=2), reqid=REQID + 1)
    with pytest.raises(DataplaneError) as caught:
        await left.driver.add_sa(other)
    assert caught.value.target == f"comp 00000002 to {right.outer}", "another child's CPI cannot be shared"
    await _clear_slowly(pair)


async def a_bundle_is_put_whole_or_not_at_all(pair: Pair) -> None:
    left, right = pair.left, pair.right
    left.namespace.run(
        "ip", "xfrm", "state", "add", "src", left.outer, "dst", right.outer, "proto", "ah", "spi", "0x1101",
        "reqid", "9", "mode", "transport", "auth", "hmac(sha1)", "0x" + "22" * 20,
    )  # fmt: skip
    foreign = _shown(left)
    spec = sa(0x1001, left.outer, right.outer, ah="hmac-sha2-256-128", compression_cpi=CPI)
    with pytest.raises(DataplaneError) as caught:
        await left.driver.add_sa(spec)
    assert caught.value.target == f"ah 00001101 to {right.outer}"
    await left.driver.remove_sa(SaId(spi=0x1101, destination=right.outer, protocol=SaProtocol.AH))
    assert await left.driver.list_sas() == ()
    await _until(lambda: _shown(left) == foreign)
    await left.close()
    await left.open()
    assert _shown(left) == foreign
    left.namespace.run("ip", "xfrm", "state", "flush")


async def strangers_of_every_protocol_stay(pair: Pair) -> None:
    """Neither opening nor closing touches states and policies of others, and a predecessor's go by their reqid."""
    left, right = pair.left, pair.right
    ends = ("src", left.outer, "dst", right.outer)
    key = ("auth", "hmac(sha1)", "0x" + "22" * 20)
    for reqid in ("9", str(REQID)):
        spi = 0x8000 + int(reqid) % 7
        add = ("ip", "xfrm", "state", "add", *ends)
        left.namespace.run(*add, "proto", "ah", "spi", hex(spi), "reqid", reqid, "mode", "transport", *key)
        left.namespace.run(
            *add, "proto", "comp", "spi", hex(spi), "reqid", reqid, "mode", "transport", "comp", "deflate"
        )
        if reqid == "9":
            foreign = _shown(left)
    bundle = policy(Direction.OUT, "10.7.0.0/16", "10.8.0.0/16", left.outer, right.outer)
    bundle = dataclasses.replace(bundle, protocols=(SaProtocol.AH,), compressed=True)
    await left.driver.add_policy(bundle)
    assert [state.tunnel_id for state in await left.driver.list_sas()] == [None]
    await left.driver.open()
    assert sorted(_shown(left).splitlines()) == sorted(foreign.splitlines())
    assert await left.driver.list_policies() == ()
    left.namespace.run("ip", "xfrm", "state", "flush")


async def an_algorithm_the_kernel_lacks(pair: Pair) -> str:
    """That SA is refused in the kernel's words, features leave it out, and the others work on."""
    left, right = pair.left, pair.right
    await pair.tunnel()
    try:
        left.namespace.run("rmmod", "camellia_generic", check=False)
        await _until(lambda: "camellia" not in Path("/proc/crypto").read_text())
        with pytest.raises(DataplaneError) as caught:
            await left.driver.add_sa(sa(0x1003, left.outer, right.outer, "camellia-128-cbc", "hmac-sha2-256-128"))
        found = await _features(left)
    finally:
        left.namespace.run("modprobe", "-d", str(Path(os.environ[RESULT_VARIABLE]).parent), "camellia_generic")
    missing = {f"camellia-{bits}-cbc" for bits in (128, 192, 256)}
    assert found.encryptions == set(algorithms.ENCRYPTION) - missing
    assert found.reason.startswith("the kernel accepts ESP SAs, but not with camellia-128-cbc, ")
    assert await left.ping(right.inner, left.inner) == 3
    return caught.value.reason


async def _features(end: End) -> Any:
    with inside(end.namespace):
        return await end.driver.features()


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        an_algorithm_the_kernel_lacks, transport, transport_over_ipv6, transport_in_udp_moves, ah_with_every_algorithm,
        esp_inside_ah, part_of_a_bundle_taken_by_others, extended_numbers_cross_the_edge,
        extended_numbers_go_on_elsewhere, extended_numbers_need_a_window, compression, one_cpi_for_every_rekey,
        a_bundle_is_put_whole_or_not_at_all, strangers_of_every_protocol_stay,
    )
}  # fmt: skip


async def run(pair: Pair, name: str) -> Any:
    """Run one check with both drivers open."""
    async with pair.opened():
        return await CHECKS[name](pair)
