"""SAs, policies and packets that the tests of this folder share."""

from __future__ import annotations

import dataclasses
import ipaddress
import random
import struct
from collections.abc import Callable
from typing import Any

from agents.contract.algorithms import ENCRYPTION, INTEGRITY
from agents.contract.secret import Secret
from agents.dataplane.base import Direction, PolicySpec, SaSpec, Selector, UdpEncapsulation
from agents.dataplane.userspace.engine import Engine
from agents.dataplane.userspace.inward import Arrival

SUITES: tuple[tuple[str, str | None], ...] = tuple(
    (cipher.slug, integrity)
    for cipher in ENCRYPTION.values()
    for integrity in ((None,) if cipher.aead else tuple(INTEGRITY))
)
REQID = 0x56430001
TUNNEL = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
ALICE, BOB = "192.0.2.1", "198.51.100.2"
NAT = UdpEncapsulation(source_port=4500, destination_port=4500)


def entropy(seed: int = 1) -> Callable[[int], bytes]:
    """Return a seeded source of octets."""
    return random.Random(seed).randbytes


def sa_spec(
    direction: Direction,
    suite: tuple[str, str | None] = ("aes-128-gcm-16", None),
    *,
    source: str = ALICE,
    destination: str = BOB,
    spi: int = 0x1001,
    seed: int = 7,
    **changes: Any,
) -> SaSpec:
    """Return an SA with keys derived from ``seed``; the same arguments give both ends of one SA."""
    encryption, integrity = suite
    octets = random.Random(seed).randbytes
    spec = SaSpec(
        tunnel_id=TUNNEL,
        direction=direction,
        spi=spi,
        source=source,
        destination=destination,
        reqid=REQID,
        encryption=encryption,
        encryption_key=Secret(octets(ENCRYPTION[encryption].keymat_octets)),
        integrity=integrity,
        integrity_key=None if integrity is None else Secret(octets(INTEGRITY[integrity].key_octets)),
        encapsulation=NAT,
    )
    return dataclasses.replace(spec, **changes)


def policy(direction: Direction, source: str, destination: str, **changes: Any) -> PolicySpec:
    """Return a policy between two prefixes for the tunnel of :func:`sa_spec`."""
    selector_fields = {name: changes.pop(name) for name in tuple(changes) if name in Selector.__dataclass_fields__}
    spec = PolicySpec(
        tunnel_id=TUNNEL,
        direction=direction,
        selector=Selector(source=source, destination=destination, **selector_fields),
        source=ALICE,
        destination=BOB,
        reqid=REQID,
    )
    return dataclasses.replace(spec, **changes)


ANY = (("0.0.0.0/0", "0.0.0.0/0"), ("::/0", "::/0"))


def engine_pair(
    suite: tuple[str, str | None] = ("aes-128-gcm-16", None), **changes: Any
) -> tuple[Engine, Engine, Arrival]:
    """Return a sender, a receiver and the arrival the sender's packets have, keyed alike, any traffic allowed."""
    sender, receiver = Engine(entropy()), Engine(entropy(2))
    out = sa_spec(Direction.OUT, suite, **changes)
    sender.add_sa(out, 0.0)
    receiver.add_sa(dataclasses.replace(out, direction=Direction.IN), 0.0)
    for source, destination in ANY:
        sender.add_policy(policy(Direction.OUT, source, destination))
        receiver.add_policy(policy(Direction.IN, source, destination))
    port = 0 if out.encapsulation is None else out.encapsulation.source_port
    return sender, receiver, Arrival(out.destination, out.source, port, 0)


def ip_packet(
    source: str = "10.1.0.1",
    destination: str = "10.2.0.1",
    payload: bytes = b"",
    protocol: int = 17,
    *,
    traffic_class: int = 0,
    dont_fragment: bool = True,
) -> bytes:
    """Return an IPv4 or IPv6 packet, by the addresses' version, with the payload as it is."""
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if a.version == 6:
        head = struct.pack("!IHBB", 6 << 28 | traffic_class << 20, len(payload), protocol, 63)
        return head + a.packed + b.packed + payload
    head = struct.pack("!BBHHHBBH", 0x45, traffic_class, 20 + len(payload), 1, 0x4000 * dont_fragment, 63, protocol, 0)
    head += a.packed + b.packed
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + payload


def udp_packet(
    source: str = "10.1.0.1",
    destination: str = "10.2.0.1",
    ports: tuple[int, int] = (5000, 6000),
    data: bytes = b"data",
    **changes: Any,
) -> bytes:
    """Return a UDP packet without checksum."""
    return ip_packet(source, destination, struct.pack("!HHHH", *ports, 8 + len(data), 0) + data, 17, **changes)
