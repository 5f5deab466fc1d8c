"""The kernel's tables as others see and change them: keys by hand with ``ip xfrm``, order, limits, lost notices."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agents.contract.config import Mode
from agents.dataplane.base import (
    Direction,
    Expired,
    Limits,
    Lost,
    PolicySpec,
    Repaired,
    SaId,
    SaProtocol,
    SaSpec,
    Selector,
)
from tests.kernel.guest.harness import REQID, Check, End, Pair, Wire, inside, policy, protocols_of, sa

ECHO_OCTETS, HEADER_OCTETS = 84, 20
_KERNEL_NAMES = {
    "aes-128-gcm-16": "rfc4106(gcm(aes))", "aes-256-cbc": "cbc(aes)", "hmac-sha2-256-128": "hmac(sha256)",
    "hmac-sha1-96": "hmac(sha1)", "3des-cbc": "cbc(des3_ede)", "null": "ecb(cipher_null)",
}  # fmt: skip
_MANUAL: dict[str, dict[str, Any]] = {
    "ESP, AEAD": {},
    "ESP, cipher and MAC": {"encryption": "aes-256-cbc", "integrity": "hmac-sha2-256-128"},
    "ESP, 3DES": {"encryption": "3des-cbc", "integrity": "hmac-sha1-96"},
    "ESP, NULL": {"encryption": "null", "integrity": "hmac-sha2-256-128"},
    "AH": {"encryption": None, "ah": "hmac-sha1-96"},
    "ESP, transport": {"mode": Mode.TRANSPORT},
    "AH, transport": {"encryption": None, "ah": "hmac-sha2-256-128", "mode": Mode.TRANSPORT},
    "ESP inside AH": {"encryption": "aes-256-cbc", "integrity": "hmac-sha1-96", "ah": "hmac-sha2-256-128"},
}


async def manual_keys_against_ip_xfrm(pair: Pair) -> list[str]:
    """Left is ours, right has only what a person types; both count the same, and right's rows stay theirs."""
    left, right = pair.left, pair.right
    for name, more in _MANUAL.items():
        there, back = sa(0x1001, left.outer, right.outer, **more), sa(0x1002, right.outer, left.outer, **more)
        _type(right, there, back)
        typed = right.namespace.run("ip", "xfrm", "policy")
        await left.driver.add_sa(there)
        await left.driver.add_sa(dataclasses.replace(back, direction=Direction.IN))
        tunnel = there.mode is Mode.TUNNEL
        inner = (left.inner, right.inner) if tunnel else (left.outer, right.outer)
        for direction, (source, target), outer in (
            (Direction.OUT, inner, (left.outer, right.outer)),
            (Direction.IN, inner[::-1], (right.outer, left.outer)),
        ):
            each = policy(direction, f"{source}/32", f"{target}/32", *outer)
            await left.driver.add_policy(dataclasses.replace(each, mode=there.mode, protocols=protocols_of(there)))
        wire = Wire(left.namespace)
        try:
            assert await left.ping(inner[1], inner[0]) == 3, name
            assert await right.ping(inner[0], inner[1], 2) == 2, name
            outermost = socket.IPPROTO_ESP if there.ah is None else socket.IPPROTO_AH
            assert {frame[23] for frame in wire.frames()} == {outermost}, name
        finally:
            wire.close()
        octets = ECHO_OCTETS if tunnel else ECHO_OCTETS - HEADER_OCTETS
        for spec in (there, back):
            counters = (await left.sa(spec.spi)).counters
            ours = (counters.bytes_in + counters.bytes_out, counters.packets_in + counters.packets_out)
            assert ours == right.counts(spec.spi) == (5 * octets, 5), name
        assert await right.driver.list_sas() == ()
        assert await right.driver.list_policies() == ()
        assert right.namespace.run("ip", "xfrm", "policy") == typed
        await _clear(left)
        _batch(right, ["xfrm state flush", "xfrm policy flush"])
    return list(_MANUAL)


def _type(end: End, *specs: SaSpec) -> None:
    """Type in what one end needs of SAs in both directions, as ``ip xfrm`` has it: no reqid, no limits."""
    lines = []
    for spec in specs:
        outbound = spec.source == end.outer
        ends = f"src {spec.source} dst {spec.destination}"
        templates = ""
        for protocol in protocols_of(spec):
            mode = spec.mode.value if not templates else "transport"
            spi = spec.spi if protocol is SaProtocol.ESP or spec.ah is None else spec.ah.spi
            keys = " ".join(_typed_keys(spec, protocol))
            name = f"{ends} proto {protocol} spi {spi:#x}"
            lines.append(f"xfrm state add {name} mode {mode} replay-window 32 {keys}")
            templates += f" tmpl {ends if mode == 'tunnel' else ''} proto {protocol} mode {mode}"
        there = "10.1.0.1" if end.outer != "192.0.2.1" else "10.2.0.1"
        inner = (end.inner, there) if outbound else (there, end.inner)
        source, target = inner if spec.mode is Mode.TUNNEL else (spec.source, spec.destination)
        direction = "out" if outbound else "in"
        lines.append(f"xfrm policy add src {source}/32 dst {target}/32 dir {direction}{templates}")
    _batch(end, lines)


def _batch(end: End, lines: Iterable[str]) -> None:
    """Let ``ip`` read these commands."""
    commands = Path(os.environ["TMPDIR"]) / "batch"
    commands.write_text("\n".join([*lines, ""]))
    end.namespace.run("ip", "-batch", str(commands))


def _typed_keys(spec: SaSpec, protocol: SaProtocol) -> tuple[str, ...]:
    if protocol is SaProtocol.AH:
        assert spec.ah is not None
        # Over IPv4 AH is padded to 4 octets (RFC 4302 section 3.3.3.2.1); without the flag the kernel pads to 8.
        return (*_typed_checksum(spec.ah.integrity, spec.ah.key.reveal()), "flag", "align4")
    assert spec.encryption is not None
    assert spec.encryption_key is not None
    key = "0x" + spec.encryption_key.reveal().hex() if len(spec.encryption_key) else '""'
    if spec.integrity is None:
        return ("aead", _KERNEL_NAMES[spec.encryption], key, "128")
    assert spec.integrity_key is not None
    checksum = _typed_checksum(spec.integrity, spec.integrity_key.reveal())
    return ("enc", _KERNEL_NAMES[spec.encryption], key, *checksum)


def _typed_checksum(slug: str, key: bytes) -> tuple[str, ...]:
    bits = slug.rpartition("-")[2]
    return ("auth-trunc", _KERNEL_NAMES[slug], "0x" + key.hex(), bits)


async def _clear(end: End) -> None:
    for each in await end.driver.list_policies():
        await end.driver.remove_policy(each)
    for state in await end.driver.list_sas():
        await end.driver.remove_sa(state.id)


async def a_limit_in_octets_is_told_twice_and_ends_the_sa(pair: Pair) -> dict[str, int]:
    """Echoes of 84 octets: the third passes the soft limit, the sixth finds the hard one reached."""
    left, right = pair.left, pair.right
    limits = Limits(soft_bytes=200, hard_bytes=400)
    await pair.both(sa(0x1001, left.outer, right.outer, limits=limits))
    await pair.both(sa(0x1002, right.outer, left.outer))
    await pair.policies()
    name = SaId(spi=0x1001, destination=right.outer)
    assert await left.ping(right.inner, left.inner, 4) == 4
    for end in (left, right):
        await end.hears(Expired, lambda notice: notice == Expired(id=name, hard=False))
        assert end.counts(0x1001) == (4 * ECHO_OCTETS, 4)
        assert "soft 200(bytes), hard 400(bytes)" in end.namespace.run("ip", "-s", "xfrm", "state")
    assert await left.ping(right.inner, left.inner, 3) == 1
    await left.hears(Expired, lambda notice: notice == Expired(id=name, hard=True))
    assert name not in {state.id for state in await left.driver.list_sas()}
    assert "spi 0x00001001" not in left.namespace.run("ip", "xfrm", "state", "list", "nokeys")
    return {"octets before the end": 5 * ECHO_OCTETS}


async def policies_are_tried_by_priority(pair: Pair) -> None:
    """Of two that select a packet the one with the lower number is used, whichever came first or is more exact."""
    left, right = pair.left, pair.right
    for spi, reqid in ((0x1001, REQID), (0x2001, REQID + 1)):
        spec = dataclasses.replace(sa(spi, left.outer, right.outer), reqid=reqid)
        await right.driver.add_sa(dataclasses.replace(spec, direction=Direction.IN))
        await left.driver.add_sa(spec)
    for exact, broad, used in ((900, 1000, 0x2001), (1100, 1000, 0x1001), (900, 1000, 0x2001)):
        await left.driver.add_policy(_ordered(pair, REQID, broad))
        await left.driver.add_policy(_ordered(pair, REQID + 1, exact, port=4000))
        before = {spi: left.counts(spi)[1] for spi in (0x1001, 0x2001)}
        with inside(left.namespace):
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with udp:
            udp.bind((left.inner, 0))
            udp.sendto(b"by priority", (right.inner, 4000))
        moved = [spi for spi, packets in before.items() if left.counts(spi)[1] != packets]
        assert moved == [used], (exact, broad)
        assert {each.priority for each in await left.driver.list_policies()} == {exact, broad}


def _ordered(pair: Pair, reqid: int, priority: int, port: int | None = None) -> PolicySpec:
    left, right = pair.left, pair.right
    each = policy(Direction.OUT, f"{left.inner}/32", f"{right.inner}/32", left.outer, right.outer)
    selector = each.selector
    if port is not None:
        selector = Selector(
            source=selector.source, destination=selector.destination, protocol=socket.IPPROTO_UDP,
            destination_ports=(port, port),
        )  # fmt: skip
    return dataclasses.replace(each, selector=selector, reqid=reqid, priority=priority)


_NOISE = 2_000


async def notices_that_do_not_fit(pair: Pair) -> dict[str, Any]:
    """More is said than the socket holds (ENOBUFS), our own losses last: each is found, and nothing else is lost."""
    left, right = pair.left, pair.right
    await pair.tunnel()
    await left.driver.add_sa(dataclasses.replace(sa(0x1009, right.outer, left.outer), direction=Direction.IN))
    ends = f"src {left.outer} dst {right.outer}"
    key = "0x" + "11" * 20
    lines = []
    for number in range(_NOISE):
        name = f"{ends} proto esp spi {0x7000 + number:#x}"
        lines.append(f"xfrm state add {name} reqid 9 mode tunnel aead rfc4106(gcm(aes)) {key} 128")
    lines.append(f"xfrm state delete src {right.outer} dst {left.outer} proto esp spi 0x1009")
    lines.append(f"xfrm policy delete src {left.inner}/32 dst {right.inner}/32 dir out")
    assert _dropped(left) == 0
    started = time.monotonic()
    _batch(left, lines)  # the loop stands still meanwhile, so nothing is read
    dropped = _dropped(left)
    assert dropped > 0, "the socket held it all: this proves nothing"
    lost = SaId(spi=0x1009, destination=left.outer)
    await left.hears(Expired, lambda notice: notice == Expired(id=lost, hard=True))
    await left.hears(Repaired)
    assert [notice for notice in left.heard if isinstance(notice, Expired | Lost)] == [Expired(id=lost, hard=True)]
    assert {state.id.spi for state in await left.driver.list_sas()} == {0x1001, 0x1002}
    assert len(await left.driver.list_policies()) == 2
    assert await left.ping(right.inner, left.inner) == 3
    # It goes on listening.
    await left.driver.add_sa(sa(0x1011, left.outer, right.outer))
    left.namespace.run("ip", "xfrm", "state", "delete", *ends.split(), "proto", "esp", "spi", "0x1011")
    await left.hears(Expired, lambda notice: notice.id.spi == 0x1011)
    # The others' states stand as they did.
    assert left.namespace.run("ip", "xfrm", "state", "list", "nokeys", "reqid", "9").count("proto esp") == _NOISE
    left.namespace.run("ip", "xfrm", "state", "flush")
    return {"notices dropped": dropped, "seconds": round(time.monotonic() - started, 1)}


def _dropped(end: End) -> int:
    """Return how many messages XFRM's netlink sockets of a namespace had no room for."""
    lines = end.namespace.run("cat", "/proc/net/netlink").splitlines()
    drops = lines[0].split().index("Drops")
    rows = [line.split() for line in lines[1:]]
    return sum(int(row[drops]) for row in rows if int(row[1]) == socket.NETLINK_XFRM)


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        manual_keys_against_ip_xfrm, a_limit_in_octets_is_told_twice_and_ends_the_sa, policies_are_tried_by_priority,
        notices_that_do_not_fit,
    )
}  # fmt: skip


async def run(pair: Pair, name: str) -> Any:
    """Run one check with both drivers open."""
    async with pair.opened():
        return await CHECKS[name](pair)
