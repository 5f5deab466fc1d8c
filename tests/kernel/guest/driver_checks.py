"""The kernel driver on a real kernel with ESP, beyond what ``tests/dataplane/conformance`` asks of every driver.

Keys are fixed, IKE is not involved.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import io
import logging
import socket
from collections.abc import Awaitable
from typing import Any

import pytest

from agents.dataplane.base import (
    Acquired,
    DataplaneError,
    Direction,
    Expired,
    Limits,
    Lost,
    Mapped,
    Rejected,
    SaId,
    UdpEncapsulation,
)
from agents.dataplane.kernel.sockets import accept_encapsulated_esp, bypass_policies
from tests.kernel.guest.harness import REQID, Check, Pair, Wire, inside, policy, sa

ECHO_OCTETS = 84
"""An IPv4 echo of 56 octets of data, as the inner packet."""


async def features(pair: Pair) -> dict[str, Any]:
    with inside(pair.left.namespace):
        found = await pair.left.driver.features()
    assert found.available, found.reason
    assert pair.left.namespace.run("ip", "xfrm", "state") == ""
    return {
        "encryptions": sorted(found.encryptions), "integrities": sorted(found.integrities), "reason": found.reason,
        "modes": sorted(found.modes), "protocols": sorted(found.protocols),
        "more": [found.extended_sequence_numbers, found.compression],
    }  # fmt: skip


async def nothing_plain_on_the_wire(pair: Pair) -> int:
    left, right = pair.left, pair.right
    wires = Wire(left.namespace), Wire(right.namespace)
    try:
        await pair.tunnel()
        assert await left.ping(right.inner, left.inner, 5, payload=1300) == 5
        frames = [frame for wire in wires for frame in wire.frames()]
    finally:
        for wire in wires:
            wire.close()
    assert len(frames) == 10, len(frames)
    for frame in frames:
        assert frame[23] == socket.IPPROTO_ESP
        assert b"vpnvpn" not in frame
        assert socket.inet_aton(left.inner) not in frame[34:]
    await pair.agree(0x1001, 5, 5 * 1328)
    return len(frames)


async def other_families(pair: Pair) -> None:
    left, right = pair.left, pair.right
    await pair.both(sa(0x1001, left.outer6, right.outer6))
    await pair.both(sa(0x1002, right.outer6, left.outer6))
    await pair.policies(six_inside=True, six_outside=True)
    assert await left.ping(right.inner6, left.inner6) == 3
    await pair.agree(0x1001, 3, 3 * 104)
    # The same SAs carry IPv4: their selector is for any family.
    await pair.policies(six_outside=True)
    assert await left.ping(right.inner, left.inner) == 3
    await pair.agree(0x1001, 6, 3 * 104 + 3 * ECHO_OCTETS)
    assert len(await left.driver.list_policies()) == 4


def port_4500(pair: Pair, *, left_port: int = 4500) -> list[socket.socket]:
    sockets = []
    for end, port in ((pair.left, left_port), (pair.right, 4500)):
        with inside(end.namespace):
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((end.outer, port))
        accept_encapsulated_esp(udp)
        sockets.append(udp)
    return sockets


async def encapsulation_and_mapping(pair: Pair) -> dict[str, Any]:
    """Left sends from 4500; then a NAT changes that to 40001, right is told, and moves its SAs."""
    left, right = pair.left, pair.right
    there = UdpEncapsulation(source_port=4500, destination_port=4500)
    sockets = port_4500(pair)
    wire = Wire(right.namespace)
    try:
        await pair.tunnel(encapsulation=there)
        assert await left.ping(right.inner, left.inner) == 3
        assert [frame[23] for frame in wire.frames()] == [socket.IPPROTO_UDP] * 3
        sockets += port_40001(pair)
        await left.driver.update_mapping(
            SaId(spi=0x1001, destination=right.outer), left.outer, right.outer,
            UdpEncapsulation(source_port=40001, destination_port=4500),
        )  # fmt: skip
        await left.driver.update_mapping(
            SaId(spi=0x1002, destination=left.outer), right.outer, left.outer,
            UdpEncapsulation(source_port=4500, destination_port=40001),
        )  # fmt: skip
        await left.ping(right.inner, left.inner, 1)
        moved = await right.hears(Mapped)
        assert moved == Mapped(id=SaId(spi=0x1001, destination=right.outer), address=left.outer, port=40001)
        await right.driver.update_mapping(
            SaId(spi=0x1001, destination=right.outer), left.outer, right.outer,
            UdpEncapsulation(source_port=40001, destination_port=4500),
        )  # fmt: skip
        await right.driver.update_mapping(
            SaId(spi=0x1002, destination=left.outer), right.outer, left.outer,
            UdpEncapsulation(source_port=4500, destination_port=40001),
        )  # fmt: skip
        assert await left.ping(right.inner, left.inner) == 3
        await _ports_change_in_place(pair)
        # Counters and sequence numbers went on: 3 + 1 + 3 + 100 packets, and right's window took none for a repeat.
        await pair.agree(0x1001, 107, 107 * ECHO_OCTETS)
        assert (await right.sa(0x1001)).rejected.replayed == 0
        assert not [notice for notice in right.heard if isinstance(notice, Expired)]
    finally:
        wire.close()
        for udp in sockets:
            udp.close()
    return {"mapped": [moved.address, moved.port]}


async def _ports_change_in_place(pair: Pair) -> None:
    """While packets flow a receiver is told of other ports again and again, and not one of them is lost."""
    left, right = pair.left, pair.right
    flow = asyncio.create_task(left.ping(right.inner, left.inner, 100))
    for port in (*range(50_000, 50_050), 40_001):
        await right.driver.update_mapping(
            SaId(spi=0x1001, destination=right.outer), left.outer, right.outer,
            UdpEncapsulation(source_port=port, destination_port=4500),
        )  # fmt: skip
    assert await flow == 100


def port_40001(pair: Pair) -> list[socket.socket]:
    with inside(pair.left.namespace):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((pair.left.outer, 40001))
    accept_encapsulated_esp(udp)
    return [udp]


async def moved_addresses(pair: Pair) -> None:
    """The peer's address changes: the SAs and their policies follow, counting on."""
    left, right = pair.left, pair.right
    elsewhere = "192.0.2.77"
    right.namespace.ip("address", "add", f"{elsewhere}/24", "dev", "wire")
    ports = UdpEncapsulation(source_port=4500, destination_port=4500)
    sockets = port_4500(pair)
    with inside(right.namespace):
        sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sockets[-1].bind((elsewhere, 4500))
    accept_encapsulated_esp(sockets[-1])
    try:
        await pair.tunnel(encapsulation=ports)
        assert await left.ping(right.inner, left.inner) == 3
        for end in (left, right):
            towards, back = SaId(spi=0x1001, destination=right.outer), SaId(spi=0x1002, destination=left.outer)
            await end.driver.update_mapping(towards, left.outer, elsewhere, ports)
            await end.driver.update_mapping(back, elsewhere, left.outer, ports)
        assert await left.ping(right.inner, left.inner) == 3
        await pair.agree(0x1001, 6, 6 * ECHO_OCTETS)
        assert {p.destination for p in await left.driver.list_policies()} == {elsewhere, left.outer}
        assert {s.id.destination for s in await left.driver.list_sas()} == {elsewhere, left.outer}
    finally:
        for udp in sockets:
            udp.close()
        right.namespace.ip("address", "delete", f"{elsewhere}/24", "dev", "wire")


async def rekey_switches_at_once(pair: Pair) -> None:
    """The newest outbound SA of a reqid is used, also within the second of its predecessor."""
    left, right = pair.left, pair.right
    await pair.tunnel()
    assert await left.ping(right.inner, left.inner) == 3
    for spi in range(0x1003, 0x100B, 2):
        await pair.both(sa(spi, left.outer, right.outer))
        assert await left.ping(right.inner, left.inner, 2) == 2
        await pair.agree(spi, 2, 2 * ECHO_OCTETS)
    await left.driver.remove_sa(SaId(spi=0x1009, destination=right.outer))
    assert await left.ping(right.inner, left.inner, 2) == 2
    await pair.agree(0x1001, 3, 3 * ECHO_OCTETS)


async def acquire(pair: Pair) -> dict[str, Any]:
    left, right = pair.left, pair.right
    await pair.policies()
    await left.ping(right.inner, left.inner, 1)
    asked = await left.hears(Acquired)
    assert asked.reqid == REQID
    assert asked.selector.source == f"{left.inner}/32"
    assert asked.selector.destination == f"{right.inner}/32"
    assert await left.driver.list_sas() == (), "the state that waits is not an SA"
    # And traffic flows as soon as there are SAs: what waited does not stand in the way.
    await pair.tunnel()
    assert await left.ping(right.inner, left.inner) == 3
    return {"protocol": asked.selector.protocol}


async def replay_and_integrity(pair: Pair) -> None:
    left, right = pair.left, pair.right
    await pair.tunnel()
    wire = Wire(left.namespace)
    try:
        assert await left.ping(right.inner, left.inner) == 3
        await right.driver.list_sas()
        sent = wire.frames()
        wire.send(sent[0])
        wire.send(sent[1])
        wire.send(sent[2][:-1] + bytes([sent[2][-1] ^ 1]))
        forged = bytearray(sent[2])
        forged[38:42] = (200).to_bytes(4, "big")
        wire.send(bytes(forged))
    finally:
        wire.close()
    name = SaId(spi=0x1001, destination=right.outer)
    await _until(right, name, replayed=3, unauthentic=1)
    await right.hears(Rejected, lambda notice: notice.code == "esp.replay" and notice.id == name)
    await right.hears(Rejected, lambda notice: notice.code == "esp.integrity" and notice.id == name)
    assert await left.ping(right.inner, left.inner) == 3


async def _until(end: Any, name: SaId, *, replayed: int, unauthentic: int) -> None:
    for _ in range(500):
        state = await end.sa(name.spi)
        if (state.rejected.replayed, state.rejected.integrity) == (replayed, unauthentic):
            return
        await asyncio.sleep(0.02)  # the kernel tells nobody of a rejected packet: ask again
    raise AssertionError((state.rejected.replayed, state.rejected.integrity))


async def windows(pair: Pair) -> None:
    right = pair.right
    for spi, window in ((0x2001, 0), (0x2002, 32), (0x2003, 64), (0x2004, 1024)):
        spec = sa(spi, pair.left.outer, right.outer, replay_window=window)
        await right.driver.add_sa(dataclasses.replace(spec, direction=Direction.IN))
        shown = right.namespace.run("ip", "xfrm", "state", "list", "spi", hex(spi))
        assert (f"replay_window {window}," in shown) if window > 32 else (f"replay-window {window} " in shown), shown
    wide = sa(0x2005, pair.left.outer, right.outer, replay_window=9000)
    with pytest.raises(DataplaneError, match="4096"):
        await right.driver.add_sa(dataclasses.replace(wide, direction=Direction.IN))


async def ownership(pair: Pair) -> None:
    """Rows of others are never touched, whatever we open, close, add or remove; a repeat of ours is refused."""
    left, right = pair.left, pair.right
    key = "0x" + "11" * 20
    left.namespace.run(
        "ip", "xfrm", "state", "add", "src", left.outer, "dst", right.outer, "proto", "esp", "spi", "0x7777",
        "reqid", "9", "mode", "tunnel", "aead", "rfc4106(gcm(aes))", key, "128",
    )  # fmt: skip
    left.namespace.run(
        "ip", "xfrm", "policy", "add", "src", "10.7.0.0/16", "dst", "10.8.0.0/16", "dir", "out",
        "tmpl", "src", left.outer, "dst", right.outer, "proto", "esp", "reqid", "9", "mode", "tunnel",
    )  # fmt: skip
    states = left.namespace.run("ip", "xfrm", "state")
    policies = left.namespace.run("ip", "xfrm", "policy")
    await left.driver.add_sa(sa(0x1001, left.outer, right.outer))
    await _refused(left.driver.add_sa(sa(0x1001, left.outer, right.outer)), errno.EEXIST)
    await _refused(left.driver.add_sa(sa(0x7777, left.outer, right.outer)), errno.EEXIST)
    await left.driver.remove_sa(SaId(spi=0x7777, destination=right.outer))
    foreign = policy(Direction.OUT, "10.7.0.0/16", "10.8.0.0/16", left.outer, right.outer)
    await _refused(left.driver.add_policy(foreign), errno.EEXIST)
    await left.driver.remove_policy(foreign)
    assert [state.id.spi for state in await left.driver.list_sas()] == [0x1001]
    await left.close()
    assert left.namespace.run("ip", "xfrm", "state") == states
    assert left.namespace.run("ip", "xfrm", "policy") == policies
    # What a killed predecessor left is swept by open, by its reqid alone.
    left.namespace.run(
        "ip", "xfrm", "state", "add", "src", left.outer, "dst", right.outer, "proto", "esp", "spi", "0x8888",
        "reqid", str(REQID), "mode", "tunnel", "aead", "rfc4106(gcm(aes))", key, "128",
    )  # fmt: skip
    await left.open()
    assert left.namespace.run("ip", "xfrm", "state") == states
    left.namespace.run("ip", "xfrm", "state", "flush")
    left.namespace.run("ip", "xfrm", "policy", "flush")


async def _refused(action: Awaitable[None], number: int) -> None:
    with pytest.raises(DataplaneError) as caught:
        await action
    assert caught.value.errno == number


async def deleted_by_others(pair: Pair) -> None:
    left, right = pair.left, pair.right
    await pair.tunnel()
    left.namespace.run(
        "ip", "xfrm", "state", "delete", "src", left.outer, "dst", right.outer, "proto", "esp", "spi", "0x1001"
    )  # fmt: skip
    await left.hears(Expired, lambda notice: notice.hard and notice.id.spi == 0x1001)
    left.namespace.run("ip", "xfrm", "state", "flush")
    await left.hears(Lost)
    # Our own removals are not told to ourselves.
    await right.driver.remove_sa(SaId(spi=0x1001, destination=right.outer))
    await right.driver.add_sa(sa(0x1009, right.outer, left.outer, limits=Limits(hard_s=1)))
    await right.hears(Expired, lambda notice: notice.id.spi == 0x1009)
    assert all(notice.id.spi == 0x1009 for notice in right.heard if isinstance(notice, Expired))


async def keys_stay_out_of_logs(pair: Pair) -> None:
    """At debug level pyroute2 logs every message, dumped states included."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        spec = sa(0x61626364, pair.left.outer, pair.right.outer)
        await pair.left.driver.add_sa(spec)
        assert len(await pair.left.driver.list_sas()) == 1
        await pair.left.driver.remove_sa(spec.id)
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
    assert spec.encryption_key is not None
    assert spec.encryption_key.reveal().startswith(b"abcdabcd")
    text = written.getvalue()
    assert "StateMessage()" in text
    assert "abcd" not in text
    assert "61:62:63" not in text


async def bypass(pair: Pair) -> None:
    """With a policy over the outer addresses themselves, IKE's sockets still get through, others do not."""
    left, right = pair.left, pair.right
    out = policy(Direction.OUT, f"{left.outer}/32", f"{right.outer}/32", left.outer, right.outer)
    await left.driver.add_policy(out)
    with inside(right.namespace):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind((right.outer, 500))
    receiver.setblocking(False)
    with inside(left.namespace):
        ordinary = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ike = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bypass_policies(ike)
    try:
        ordinary.setblocking(False)
        with contextlib.suppress(OSError):
            ordinary.sendto(b"caught", (right.outer, 500))
        ike.sendto(b"let through", (right.outer, 500))
        heard = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(receiver, 100), 5)
        assert heard == b"let through"
    finally:
        for udp in (receiver, ordinary, ike):
            udp.close()


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        features, nothing_plain_on_the_wire, other_families, encapsulation_and_mapping, moved_addresses,
        rekey_switches_at_once, acquire, replay_and_integrity, windows, ownership, deleted_by_others,
        keys_stay_out_of_logs, bypass,
    )
}  # fmt: skip


async def run(pair: Pair, name: str) -> Any:
    """Run one check with both drivers open."""
    async with pair.opened():
        return await CHECKS[name](pair)
