"""Traffic selectors: document <-> wire, narrowing, and the policies a pair of lists stands for (RFC 7296 section 2.9).

Inside, a selector is the wire's: an inclusive range of addresses and ports. Opaque ports (start above end, 3.13.1)
match nothing we can install and are passed over.
"""

from __future__ import annotations

import functools
import ipaddress
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from agents.contract.config import Mode, TrafficSelector
from agents.contract.traffic import TYPED
from agents.dataplane.base import Direction, PolicySpec, SaProtocol, Selector
from agents.ike.wire.payloads import SelectorRange
from agents.ike.wire.registry import TsType

MOST_RANGES = 255
MOST_PREFIX_PAIRS = 4_096
OPAQUE = (65535, 0)
"""The ports of a selector that stands for packets whose ports cannot be seen (section 3.13.1)."""

_EVERY_PORT = (0, 65_535)
_BASE_PRIORITY = 2_000


@functools.lru_cache(maxsize=4096)
def to_range(selector: TrafficSelector) -> SelectorRange:
    """Return the wire form of a configured selector."""
    network = ipaddress.ip_network(selector.network)
    return SelectorRange(
        ts_type=TsType.IPV4_ADDR_RANGE if network.version == 4 else TsType.IPV6_ADDR_RANGE,
        protocol=selector.protocol,
        start_port=selector.start_port,
        end_port=selector.end_port,
        start=network[0].packed,
        end=network[-1].packed,
    )


def to_ranges(selectors: Iterable[TrafficSelector]) -> tuple[SelectorRange, ...]:
    """Return the wire form of configured selectors."""
    return tuple(to_range(selector) for selector in selectors)


@functools.lru_cache(maxsize=4096)
def host(address: str) -> SelectorRange:
    """Return the selector of everything one host sends or receives."""
    packed = ipaddress.ip_address(address).packed
    return SelectorRange(
        ts_type=TsType.IPV4_ADDR_RANGE if len(packed) == 4 else TsType.IPV6_ADDR_RANGE,
        protocol=0,
        start_port=0,
        end_port=65535,
        start=packed,
        end=packed,
    )


def only_host(ranges: Sequence[SelectorRange]) -> str | None:
    """Return the one address that all these selectors are for; None where they are for more."""
    ends = {end for each in ranges for end in (each.start, each.end)}
    return str(ipaddress.ip_address(ends.pop())) if len(ends) == 1 else None


def of_host(ranges: Sequence[SelectorRange], address: str) -> tuple[SelectorRange, ...]:
    """Return selectors of one host as those of this address, of the same version; others as they are."""
    there = host(address)
    if only_host(ranges) is None or any(each.ts_type != there.ts_type for each in ranges):
        return tuple(ranges)
    return tuple(replace(each, start=there.start, end=there.end) for each in ranges)


def intersect(left: SelectorRange, right: SelectorRange) -> SelectorRange | None:
    """Return what both selectors hold, or None when nothing is left."""
    if left.ts_type != right.ts_type:
        return None
    if left.protocol and right.protocol and left.protocol != right.protocol:
        return None
    start, end = max(left.start, right.start), min(left.end, right.end)
    start_port, end_port = max(left.start_port, right.start_port), min(left.end_port, right.end_port)
    if start > end or start_port > end_port:
        return None
    return SelectorRange(
        ts_type=left.ts_type,
        protocol=left.protocol or right.protocol,
        start_port=start_port,
        end_port=end_port,
        start=start,
        end=end,
    )


def covers(outer: SelectorRange, inner: SelectorRange) -> bool:
    """Return whether everything ``inner`` holds is in ``outer``."""
    return intersect(outer, inner) == inner


def narrow(configured: Sequence[SelectorRange], received: Sequence[SelectorRange]) -> tuple[SelectorRange, ...]:
    """Return what both lists hold, without ranges that another one covers; empty when they do not meet.

    At most 255 ranges, as many as a TS payload takes: leaving out the rest is narrowing too.
    """
    met = (intersect(ours, theirs) for ours in configured for theirs in received)
    found = list(itertools.islice(dict.fromkeys(both for both in met if both is not None), MOST_RANGES))
    return tuple(each for each in found if not any(other is not each and covers(other, each) for other in found))


def within(received: Sequence[SelectorRange], configured: Sequence[SelectorRange]) -> bool:
    """Return whether an answer stays inside what was proposed and holds anything."""
    return bool(received) and all(any(covers(ours, theirs) for ours in configured) for theirs in received)


@functools.lru_cache(maxsize=4096)
def prefixes(selector: SelectorRange) -> tuple[str, ...]:
    """Return the range's addresses as prefixes."""
    start, end = ipaddress.ip_address(selector.start), ipaddress.ip_address(selector.end)
    networks = ipaddress.summarize_address_range(start, end)
    return tuple(str(network) for network in networks)


@functools.lru_cache(maxsize=4096)
def describe(selector: SelectorRange) -> str:
    """Return text for people: ``10.1.0.0/24``, with protocol and ports where they matter."""
    text = ",".join(prefixes(selector)[:8])
    ports = (selector.start_port, selector.end_port)
    if selector.protocol in TYPED and ports != (0, 65535):
        text += f"[{selector.protocol}/type {_type_and_code(ports[0])}-{_type_and_code(ports[1])}]"
    elif selector.protocol or ports != (0, 65535):
        text += f"[{selector.protocol or 'any'}/{'opaque' if ports == OPAQUE else f'{ports[0]}-{ports[1]}'}]"
    return text


def _type_and_code(port: int) -> str:
    return f"{port >> 8} code {port & 0xFF}"


def prefix_pairs(local_ts: Sequence[SelectorRange], remote_ts: Sequence[SelectorRange]) -> int:
    """Return how many pairs of prefixes two lists stand for: what a data plane has to carry."""
    return sum(len(prefixes(each)) for each in local_ts) * sum(len(prefixes(each)) for each in remote_ts)


def describe_all(selectors: Iterable[SelectorRange]) -> str:
    """Return a bounded list for people."""
    return ", ".join(describe(each) for each in selectors if each.start <= each.end)[:400]


def policies(
    *,
    tunnel_id: str,
    reqid: int,
    local_address: str,
    remote_address: str,
    local_ts: Sequence[SelectorRange],
    remote_ts: Sequence[SelectorRange],
    mode: Mode = Mode.TUNNEL,
    protocols: tuple[SaProtocol, ...] = (SaProtocol.ESP,),
    compressed: bool = False,
    place: Callable[[int], int] = int,
) -> tuple[PolicySpec, ...]:
    """Return the policies, both directions, of every pair of a local and a remote selector that can meet.

    ``place`` turns a policy's :func:`specificity` into its priority; by itself that is the priority.
    """
    specs: list[PolicySpec] = []
    for local in local_ts:
        for remote in remote_ts:
            if not can_meet(local, remote):
                continue
            for local_net in prefixes(local):
                for remote_net in prefixes(remote):
                    specs += _pair(
                        tunnel_id,
                        reqid,
                        (local_address, remote_address),
                        (local_net, local),
                        (remote_net, remote),
                        place,
                    )
    plain = (mode, protocols, compressed) == (Mode.TUNNEL, (SaProtocol.ESP,), False)
    found = dict.fromkeys(specs)
    if plain:
        return tuple(found)
    return tuple(replace(each, mode=mode, protocols=protocols, compressed=compressed) for each in found)


def can_meet(local: SelectorRange, remote: SelectorRange) -> bool:
    """Return whether a packet can be from one to the other: of one IP version and one protocol."""
    same = not local.protocol or not remote.protocol or local.protocol == remote.protocol
    return local.ts_type == remote.ts_type and same


def prefix_length(selector: SelectorRange, shortest: bool) -> int:
    """Return the length in bits of the shortest or the longest of a range's prefixes."""
    lengths = [_length(each) for each in prefixes(selector)]
    return min(lengths) if shortest else max(lengths)


def specificity(local_bits: int, local: SelectorRange, remote_bits: int, remote: SelectorRange) -> int:
    """Return how specific a pair of prefixes of two selectors is, the lower the more so.

    Prefix lengths count most, then the protocol, then ports.
    """
    every_port = (local.start_port, local.end_port) == (remote.start_port, remote.end_port) == (0, 65535)
    protocol = local.protocol or remote.protocol
    return _BASE_PRIORITY - 4 * (local_bits + remote_bits) - (2 if protocol else 0) - (0 if every_port else 1)


def _length(prefix: str) -> int:
    return int(prefix.partition("/")[2])


def _pair(
    tunnel_id: str,
    reqid: int,
    outer: tuple[str, str],
    local: tuple[str, SelectorRange],
    remote: tuple[str, SelectorRange],
    place: Callable[[int], int],
) -> tuple[PolicySpec, PolicySpec]:
    (local_net, local_range), (remote_net, remote_range) = local, remote
    protocol = local_range.protocol or remote_range.protocol
    from_here = to_here = (local_range.start_port, local_range.end_port)
    from_there = to_there = (remote_range.start_port, remote_range.end_port)
    if protocol in TYPED:
        to_here = to_there = _EVERY_PORT
    priority = place(specificity(_length(local_net), local_range, _length(remote_net), remote_range))
    outbound = PolicySpec(
        tunnel_id=tunnel_id,
        direction=Direction.OUT,
        selector=Selector(
            source=local_net,
            destination=remote_net,
            protocol=protocol,
            source_ports=from_here,
            destination_ports=to_there,
        ),
        source=outer[0],
        destination=outer[1],
        reqid=reqid,
        priority=priority,
    )
    inbound = PolicySpec(
        tunnel_id=tunnel_id,
        direction=Direction.IN,
        selector=Selector(
            source=remote_net,
            destination=local_net,
            protocol=protocol,
            source_ports=from_there,
            destination_ports=to_here,
        ),
        source=outer[1],
        destination=outer[0],
        reqid=reqid,
        priority=priority,
    )
    return outbound, inbound
