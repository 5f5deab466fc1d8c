"""Traffic selectors of Quick Mode: a pair of identities (RFC 2407 section 4.6.2, RFC 2409 section 5.5).

One Quick Mode has one pair, so a child of several selectors is several SAs. Nothing is narrowed: the responder takes
the pair that was sent, or refuses it. An identity has one port, of which 0 is every port.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace

from agents.contract import ikev1
from agents.contract.config import Child
from agents.ike import selectors
from agents.ike.errors import PeerError
from agents.ike.v1 import place
from agents.ike.wire.isakmp.payloads import Identification
from agents.ike.wire.isakmp.registry import IdType, NotifyType
from agents.ike.wire.payloads import SelectorRange
from agents.ike.wire.registry import TsType

Pair = tuple[SelectorRange, SelectorRange]
"""The local and the remote selector of one SA."""

_ALL_PORTS = (0, 65535)
_IPV4_OCTETS = 4
_FORMS: dict[int, tuple[str, int]] = {
    IdType.IPV4_ADDR: ("address", 4),
    IdType.IPV4_ADDR_SUBNET: ("subnet", 4),
    IdType.IPV4_ADDR_RANGE: ("range", 4),
    IdType.IPV6_ADDR: ("address", 16),
    IdType.IPV6_ADDR_SUBNET: ("subnet", 16),
    IdType.IPV6_ADDR_RANGE: ("range", 16),
}
_TYPES = {form: id_type for id_type, form in _FORMS.items()}
_NAMES = {int(each): each.name for each in IdType}


def to_identification(selector: SelectorRange) -> Identification:
    """Return the identity that says a selector. Raises ValueError for ports that no identity can say."""
    obstacle = ikev1.ports_obstacle(selector.start_port, selector.end_port)
    if obstacle is not None:
        raise ValueError(obstacle)
    octets = len(selector.start)
    networks = selectors.prefixes(selector)
    if selector.start == selector.end:
        form, data = "address", selector.start
    elif len(networks) == 1:
        network = ipaddress.ip_network(networks[0])
        form, data = "subnet", network.network_address.packed + network.netmask.packed
    else:
        form, data = "range", selector.start + selector.end
    return Identification(
        id_type=_TYPES[form, octets],
        data=data,
        protocol=selector.protocol,
        port=0 if (selector.start_port, selector.end_port) == _ALL_PORTS else selector.start_port,
    )


def from_identification(identity: Identification) -> SelectorRange:
    """Return the selector that an identity says. Raises PeerError for one that says none.

    A subnet's address may have host bits; they say nothing.
    """
    form, octets = _FORMS.get(identity.id_type, ("", 0))
    data = identity.data
    if not form:
        raise _unusable(identity, f"an identity of type {_name(identity)} is no traffic selector")
    if len(data) != (octets if form == "address" else 2 * octets):
        raise _unusable(identity, f"a selector of type {_name(identity)} has {len(data)} octets")
    start, second = data[:octets], data[octets:] or data
    if form == "subnet":
        start, end = _subnet(identity, start, second)
    else:
        end = second
    if start > end:
        raise _unusable(identity, "a range of addresses ends before it starts")
    ports = (identity.port, identity.port) if identity.port else _ALL_PORTS
    return SelectorRange(
        ts_type=TsType.IPV4_ADDR_RANGE if octets == _IPV4_OCTETS else TsType.IPV6_ADDR_RANGE,
        protocol=identity.protocol,
        start_port=ports[0],
        end_port=ports[1],
        start=start,
        end=end,
    )


def _subnet(identity: Identification, address: bytes, netmask: bytes) -> tuple[bytes, bytes]:
    bits = 8 * len(netmask)
    mask = int.from_bytes(netmask, "big")
    hosts = mask ^ ((1 << bits) - 1)
    if hosts & (hosts + 1):  # one below a power of two is all that a contiguous mask leaves
        raise _unusable(identity, f"a netmask ({netmask.hex()}) has gaps")
    first = int.from_bytes(address, "big") & mask
    return first.to_bytes(len(address), "big"), (first | hosts).to_bytes(len(address), "big")


def _unusable(identity: Identification, why: str) -> PeerError:
    return PeerError(
        NotifyType.INVALID_ID_INFORMATION,
        "ikev1.selectors-mismatch",
        f"No IPsec policy for the traffic selectors received, in IKE phase 2: {why}",
        received=describe_identification(identity),
        field="children.local_ts",
        attributes={"phase": "2", "exchange": "quick-mode"},
    )


def _name(identity: Identification) -> str:
    return _NAMES.get(identity.id_type, str(identity.id_type))


def describe_identification(identity: Identification) -> str:
    """Return an identity as text for people: type, value, protocol and port."""
    form, octets = _FORMS.get(identity.id_type, ("", 0))
    value = identity.data[:64].hex()
    if form and len(identity.data) in (octets, 2 * octets):
        parts = (identity.data[:octets], identity.data[octets:])
        value = ("/" if form == "subnet" else "-").join(str(ipaddress.ip_address(each)) for each in parts if each)
    return f"{_name(identity)} {value}, protocol {identity.protocol}, port {identity.port}"


def port_ranges_obstacle(child: Child) -> str | None:
    """Return what of a child's ports IKEv1 cannot say, None where it can say them all."""
    found = (ikev1.ports_obstacle(each.start_port, each.end_port) for each in (*child.local_ts, *child.remote_ts))
    return next((obstacle for obstacle in found if obstacle is not None), None)


def pairs(child: Child) -> tuple[Pair, ...]:
    """Return the pairs of selectors of a child, each of them one SA, in order."""
    return pair_up(selectors.to_ranges(child.local_ts), selectors.to_ranges(child.remote_ts))


@functools.lru_cache(maxsize=1024)
def pair_up(local: tuple[SelectorRange, ...], remote: tuple[SelectorRange, ...]) -> tuple[Pair, ...]:
    """Return the pairs of two lists that can meet and be said in IKEv1.

    Both of a pair have the same protocol, since one packet has: peers compare the two.
    """
    found = (_meeting(ours, theirs) for ours in _sayable(local) for theirs in _sayable(remote))
    return tuple(dict.fromkeys(pair for pair in found if pair is not None))


def _sayable(ranges: Sequence[SelectorRange]) -> tuple[SelectorRange, ...]:
    return tuple(each for each in ranges if ikev1.ports_obstacle(each.start_port, each.end_port) is None)


def _meeting(local: SelectorRange, remote: SelectorRange) -> Pair | None:
    protocol = local.protocol or remote.protocol
    if local.ts_type != remote.ts_type or remote.protocol not in (0, protocol):
        return None
    return replace(local, protocol=protocol), replace(remote, protocol=protocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A received pair and the configured one that holds it; ``exact`` where they are the same."""

    configured: Pair
    received: Pair
    exact: bool


def match(configured: Sequence[Pair], received: Pair) -> Match | None:
    """Return the pair that a received one is, else the first that holds it; None where it is wider than any.

    Odd ranges that a data plane would drown in policies for are not taken either.
    """
    pair = _meeting(*received)
    if pair is None:
        return None
    if pair in configured:
        return Match(configured=pair, received=pair, exact=True)
    if selectors.prefix_pairs(pair[:1], pair[1:]) > selectors.MOST_PREFIX_PAIRS:
        return None
    for ours in configured:
        if selectors.covers(ours[0], pair[0]) and selectors.covers(ours[1], pair[1]):
            return Match(configured=ours, received=pair, exact=False)
    return None


def describe_pair(pair: Pair) -> str:
    """Return a pair as text for people, the local selector first."""
    return f"{selectors.describe(pair[0])} = {selectors.describe(pair[1])}"


def describe_pairs(found: Sequence[Pair]) -> str:
    """Return a bounded list of pairs for people."""
    return "; ".join(describe_pair(each) for each in found[:8])[:400]


def refusal(configured: Sequence[Pair], received: Pair, message: int = 1) -> PeerError:
    """Return the refusal of a pair that no child holds."""
    where = place.quick(message)
    return PeerError(
        NotifyType.INVALID_ID_INFORMATION,
        "ikev1.selectors-mismatch",
        f"No IPsec policy for the traffic selectors received, {where.sentence}",
        received=describe_pair(received),
        configured=describe_pairs(configured),
        field="children.local_ts",
        attributes=where.attributes,
    )
