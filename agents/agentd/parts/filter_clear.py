"""What tunnels protect and must not pass in clear text, on its way in or out.

A pair of selectors protects what comes from its remote network to its local one, and what goes the other way. Such a
packet passes when it is the tunnel's: by an interface of any tunnel (two may protect the same networks), or in the
kernel's data plane with ``meta ipsec exists`` and ``rt ipsec exists``. Beside that pass:

* A part of a remote network to which the machine has a way of its own, on an interface that leads to no peer; the whole
  of one only where it is attached. On an interface that leads to peers only an attached network of local hosts.
* What goes to a local network inside the remote one, when the remote one is the wider of both.
* Where the remote network is everything, what comes to and leaves from an outer address of ours: otherwise nobody could
  reach the machine to put the tunnel right, and it could ask nobody for what it needs to bring it up.
* Neighbour discovery, and what stays on its link by its address.

A selector with ports is about first fragments: of those that follow, all of its networks and protocol are dropped on
their way out, since they may be parts of a datagram that is protected. Types and codes stand in for ports in selectors
of ICMP: those of the local one are what is sent, those of the remote one what is received (RFC 4301 section 4.4.1.3).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agents.agentd.host import ROUTE_PROTOCOL, TABLE_MAIN, HostView
from agents.agentd.nft import Command
from agents.agentd.parts.carried import Carried
from agents.agentd.parts.nftables import (
    DROP,
    IP,
    RETURN,
    collapsed,
    counter_name,
    jump,
    matches,
    meta,
    payload,
    prefix,
    rule_of,
)
from agents.agentd.parts.routes import ways
from agents.contract.traffic import ALL_CODES, TYPED, TrafficSelector, types_and_codes

_WITH_PORTS = (6, 17, 33, 132, 136)  # TCP, UDP, DCCP, SCTP, UDP-Lite
_ICMP = {1: "icmp", 58: "icmpv6"}
_MOBILITY = 135
_ALL_PORTS = (0, 65_535)
_NEIGHBORS = ["nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"]
_ON_LINK = {
    4: ("169.254.0.0/16", "224.0.0.0/24", "255.255.255.255/32"),  # RFC 3927, 5771, 919
    6: ("fe80::/10", "ff01::/16", "ff02::/16"),  # RFC 4291 sections 2.5.6 and 2.7
}
_ATTACHED = 2
"""The routing protocol of the routes that the kernel adds for addresses (rtnetlink(7): RTPROT_KERNEL)."""
_LATER_FRAGMENT = {
    4: matches({"&": [payload("ip", "frag-off"), 0x1FFF]}, 0, "!="),
    6: matches({"exthdr": {"name": "frag", "field": "frag-off"}}, 0, "!="),
}
_Way = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two selectors of a tunnel. ``homes`` are its local networks that lie inside the remote one."""

    tunnel_id: str
    local: TrafficSelector
    remote: TrafficSelector
    homes: tuple[str, ...] = ()

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.local.version

    @property
    def protocol(self) -> int:
        """The one protocol, 0 for any."""
        return self.local.protocol or self.remote.protocol

    @property
    def from_everywhere(self) -> bool:
        """Whether the local network is all there is."""
        return ipaddress.ip_network(self.local.network).prefixlen == 0

    @property
    def everywhere(self) -> bool:
        """Whether the remote network is all there is."""
        return ipaddress.ip_network(self.remote.network).prefixlen == 0


def pairs(tunnels: Sequence[Carried]) -> list[Pair]:
    """Return what is protected, in order."""
    found = []
    for tunnel in tunnels:
        locals_ = dict.fromkeys(local.network for each in tunnel.protected for local in each.local)
        found += [
            Pair(tunnel_id=tunnel.id, local=local, remote=remote, homes=_homes(locals_, remote.network))
            for each in tunnel.protected
            for local in each.local
            for remote in each.remote
            if local.version == remote.version
            and (local.protocol == remote.protocol or 0 in (local.protocol, remote.protocol))
        ]
    return found


def arriving(protected: Sequence[Pair], inside: Sequence[_Way], *, kernel: bool, vrfs: bool) -> list[Command]:
    """Return the rules for what comes in: those that let pass, then those that drop."""
    passing = [[matches(meta("iifname"), "@own")]]
    if vrfs:
        passing.append([matches(meta("sdifname"), "@own")])  # of a VRF the interface proper is the second one
    if kernel:
        passing.append([matches(meta("ipsec"), True)])
    passing.append([matches(payload("icmpv6", "type"), {"set": _NEIGHBORS})])
    passing.append([_LATER_FRAGMENT[6]])  # its first one decides
    passing += [
        [matches(meta("iifname"), interface), matches(payload(_ip(network), "saddr"), prefix(network))]
        for interface, network in inside
    ]
    rules = [rule_of("clear", [*each, RETURN]) for each in passing]
    rules += [
        rule_of("clear", [matches(payload(IP[version], "saddr"), f"@remote{version}"), jump(f"clear{version}")])
        for version in (4, 6)
    ]
    for pair in protected:
        what = _what(pair, local="daddr", remote="saddr")
        ends = [{"counter": counter_name(pair.tunnel_id, "clear")}, DROP]
        rules += [rule_of(f"clear{pair.version}", [*what, *ports, *ends]) for ports in _ports(pair, local="dport")]
    return rules


def leaving(protected: Sequence[Pair], inside: Sequence[_Way], *, kernel: bool, vrfs: bool) -> list[Command]:
    """Return the rules for what goes out: those that let pass, then those that drop."""
    passing = [[matches(meta("oifname"), "@own")]]
    if vrfs:
        passing.append([matches(meta("oifkind"), "vrf")])  # it comes again, on its way out of an interface proper
    if kernel:
        passing.append([matches({"rt": {"key": "ipsec"}}, True)])
    passing.append([matches(payload("icmpv6", "type"), {"set": _NEIGHBORS})])
    passing += [
        [matches(payload(IP[version], "daddr"), {"set": [prefix(each) for each in _ON_LINK[version]]})]
        for version in (4, 6)
    ]
    passing += [
        [matches(meta("oifname"), interface), matches(payload(_ip(network), "daddr"), prefix(network))]
        for interface, network in inside
    ]
    rules = [rule_of("leaving", [*each, RETURN]) for each in passing]
    rules += [
        rule_of("leaving", [matches(payload(IP[version], "daddr"), f"@remote{version}"), jump(f"leaving{version}")])
        for version in (4, 6)
    ]
    return [*rules, *(rule for pair in protected for rule in _leaving(pair))]


def own_ways(tunnels: Sequence[Carried], protected: Sequence[Pair], view: HostView) -> list[_Way]:
    """Return interface and network of the machine's own ways into parts of remote networks that lead to no peer.

    On an interface that leads to one it is only an attached network of local hosts: a gateway may have one leg only.
    """
    ours = {tunnel.interface for tunnel in tunnels} | {"lo"}
    outside = _outside(tunnels, view)
    remotes = {ipaddress.ip_network(pair.remote.network) for pair in protected}
    locals_ = {ipaddress.ip_network(pair.local.network) for pair in protected if not pair.from_everywhere}
    found = set()
    for route in view.routes:
        if route.protocol == ROUTE_PROTOCOL or route.table != TABLE_MAIN or route.interface in ours:
            continue
        network = ipaddress.ip_network(route.network)
        if network.is_link_local:
            continue
        attached = route.protocol == _ATTACHED
        if route.interface in outside and (not attached or locals_.isdisjoint(_around(network))):
            continue
        around = _around(network)
        if not remotes.isdisjoint(around if attached else around[:-1]):
            found.add((route.interface, route.network))
    return sorted(found)


def tcp_of(pair: Pair, *, outwards: bool) -> list[dict[str, Any]] | None:
    """Return the match of a pair's TCP packets in one direction but for the protocol, None where it has none."""
    if pair.protocol not in (0, 6):
        return None
    local, remote, port = ("saddr", "daddr", "sport") if outwards else ("daddr", "saddr", "dport")
    (ports,) = _ports(pair, local=port)
    return [*_networks(pair, local=local, remote=remote), *ports]


def _leaving(pair: Pair) -> list[Command]:
    what = _what(pair, local="saddr", remote="daddr")
    if pair.homes:
        homes = {"set": [prefix(each) for each in pair.homes]}
        what.append(matches(payload(IP[pair.version], "daddr"), homes, "!="))
    ports = _ports(pair, local="sport")
    ends = [{"counter": counter_name(pair.tunnel_id, "leaving")}, DROP]
    found = [[*what, *each, *ends] for each in ports]
    if any(ports):
        found.append([*what, _LATER_FRAGMENT[pair.version], *ends])
    return [rule_of(f"leaving{pair.version}", each) for each in found]


def _what(pair: Pair, *, local: str, remote: str) -> list[dict[str, Any]]:
    """Return the match of a pair but for ports."""
    found = _networks(pair, local=local, remote=remote)
    if pair.everywhere:
        found.append(matches(payload(IP[pair.version], local), f"@local{pair.version}", "!="))
    if pair.protocol or any(_ports(pair, local="sport")):
        found.append(matches(meta("l4proto"), pair.protocol or {"set": list(_WITH_PORTS)}))
    return found


def _networks(pair: Pair, *, local: str, remote: str) -> list[dict[str, Any]]:
    return [
        matches(payload(IP[pair.version], local), prefix(pair.local.network)),
        matches(payload(IP[pair.version], remote), prefix(pair.remote.network)),
    ]


def _ports(pair: Pair, *, local: str) -> list[list[dict[str, Any]]]:
    """Return the matches of the ports where they matter, any of which will do; ``local`` is the field of the local one.

    Of what has types instead it is those of the end that sends.
    """
    if pair.protocol in TYPED:
        return _types(pair.protocol, pair.local if local == "sport" else pair.remote)
    remote = "dport" if local == "sport" else "sport"
    return [
        [
            matches(payload("th", field), {"range": [selector.start_port, selector.end_port]})
            for field, selector in ((remote, pair.remote), (local, pair.local))
            if (selector.start_port, selector.end_port) != _ALL_PORTS
        ]
    ]


def _types(protocol: int, selector: TrafficSelector) -> list[list[dict[str, Any]]]:
    """Return the matches of a selector's types and codes; nft has no number that both make, so there may be several."""
    ports = selector.start_port, selector.end_port
    if ports == _ALL_PORTS or (protocol == _MOBILITY and selector.version == 4):
        return [[]]
    if protocol == _MOBILITY:
        field = {"exthdr": {"name": "mh", "field": "type"}}
        return [[matches(field, {"range": [ports[0] >> 8, ports[1] >> 8]})]]
    found = []
    for types, codes in types_and_codes(ports):
        what = [matches(payload(_ICMP[protocol], "type"), {"range": list(types)})]
        if codes != ALL_CODES:
            what.append(matches(payload(_ICMP[protocol], "code"), {"range": list(codes)}))
        found.append(what)
    return found


def _homes(locals_: Iterable[str], remote: str) -> tuple[str, ...]:
    """Return the local networks that are parts of a remote one."""
    around = ipaddress.ip_network(remote)
    found = []
    for each in locals_:
        network = ipaddress.ip_network(each)
        longer = network.version == around.version and network.prefixlen > around.prefixlen
        if longer and network.supernet(new_prefix=around.prefixlen) == around:
            found.append(each)
    return tuple(collapsed(found))


def _ip(network: str) -> str:
    return IP[ipaddress.ip_network(network).version]


def _around(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> list[Any]:
    """Return the networks that a network lies in, the widest first and itself last."""
    return [network.supernet(new_prefix=length) for length in range(network.prefixlen + 1)]


def _outside(tunnels: Sequence[Carried], view: HostView) -> set[str]:
    """Return the interfaces that lead to peers or have an outer address."""
    local = {address for tunnel in tunnels for address in tunnel.local}
    found = {each.interface for each in view.addresses if each.address in local}
    for tunnel in tunnels:
        try:
            found |= {way.interface for way in ways(tunnel, view)}
        except LookupError:
            continue  # no way, no interface
    return found
