"""The packet filter: one nftables table of ours, planned as one transaction.

What it is for (nft syntax, for IPv4; IPv6 is alike):

* ``input``: of what comes to an outer address of ours, IKE (UDP 500 and 4500, NAT keepalives with it), ESP, ESP in UDP
  and AH pass from the peers of the document, and where a tunnel is on demand from anywhere; from others they do not.
* ``input`` and ``forward``: packets from a remote network to a local one are dropped unless they came out of a tunnel:
  by its interface, or in the kernel's data plane with ``meta ipsec exists``. A network inside a remote one to which the
  machine has a way of its own, on an interface that leads to no peer, is none of the tunnel's.

Verdicts of other tables stand: what they drop stays dropped. Counters are named objects that a replacement leaves
alone, so they go on; a pair of addresses that several tunnels share is counted for the first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.agentd.host import ROUTE_PROTOCOL, TABLE_MAIN, HostView
from agents.agentd.nft import Command
from agents.agentd.parts.carried import Carried
from agents.agentd.parts.routes import ways
from agents.contract.status import FilterCounters
from agents.contract.traffic import TrafficSelector

FAMILY, TABLE = "inet", "vpnconsole"
STRANGERS = ("strangers-ike", "strangers-ipsec")
"""Counters of what was dropped because it came from nobody's peer."""
_PRIORITY = -5
"""Before those who filter at the usual 0, so that our counters see what comes."""
_KINDS = ("ike", "ipsec", "clear")
_IKE_PORT, _NAT_T_PORT = 500, 4500
_KEEPALIVE_UDP_LENGTH = 8 + 1
_WITH_PORTS = (6, 17, 33, 132, 136)  # TCP, UDP, DCCP, SCTP, UDP-Lite
_TYPED = frozenset({1, 58, 135})  # ICMP, ICMPv6, Mobility Header: their ports are types (RFC 7296 section 3.13.1)
_NEIGHBORS = ["nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"]
_IP = {4: "ip", 6: "ip6"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterPlan:
    """What the table is to be: ``counters`` by name, then sets and chains with what they hold, in order."""

    counters: tuple[str, ...]
    sets: tuple[Command, ...]
    chains: tuple[Command, ...]
    rules: tuple[Command, ...]


def counter_name(tunnel_id: str, kind: str) -> str:
    """Return the name of a tunnel's counter: ``ike``, ``ipsec`` or ``clear``."""
    return f"t-{tunnel_id}-{kind}"


def plan(tunnels: Sequence[Carried], view: HostView, *, kernel: bool, vrfs: bool) -> FilterPlan:
    """Return the table for these tunnels; ``kernel`` where decrypted packets come without an interface of their own."""
    names = [counter_name(tunnel.id, kind) for tunnel in tunnels for kind in _KINDS]
    interfaces = sorted({"lo", *(tunnel.interface for tunnel in tunnels if tunnel.interface is not None)})
    protected = [pair for tunnel in tunnels for pair in _pairs(tunnel)]
    sets = [_set("own", "ifname", interfaces)]
    for version in (4, 6):
        sets += _outer_sets(tunnels, version)
        remote = _collapsed([remote.network for _, _, remote in protected if remote.version == version])
        sets.append(_set(f"remote{version}", _address_type(version), map(_prefix, remote), "interval"))
    rules = [
        *_entry(),
        *(rule for version in (4, 6) for rule in _outer(version)),
        _rule("outer", [_udp_to([_IKE_PORT, _NAT_T_PORT]), {"counter": STRANGERS[0]}, _DROP]),
        _rule("outer", [_IPSEC, {"counter": STRANGERS[1]}, _DROP]),
        *_clear(_inside(tunnels, [remote for _, _, remote in protected], view), kernel=kernel, vrfs=vrfs),
        *(rule for tunnel_id, local, remote in protected if (rule := _drop(tunnel_id, local, remote)) is not None),
    ]
    chains = (
        _chain("input", type="filter", hook="input", prio=_PRIORITY, policy="accept"),
        _chain("forward", type="filter", hook="forward", prio=_PRIORITY, policy="accept"),
        *map(_chain, ("outer", "clear", "clear4", "clear6")),
    )
    return FilterPlan(counters=(*STRANGERS, *names), sets=tuple(sets), chains=chains, rules=tuple(rules))


def transaction(wanted: FilterPlan, listed: Iterable[Command]) -> list[Command]:
    """Return the commands that make the table what is wanted; ``listed`` is what it holds now, if it is there.

    Counters that stay are not touched. What is in our table and not of ours goes.
    """
    have = {
        kind: {each[kind]["name"] for each in listed if kind in each} for kind in ("counter", "set", "map", "chain")
    }
    keep = {
        "counter": set(wanted.counters),
        "set": {each["set"]["name"] for each in wanted.sets if "set" in each},
        "map": {each["map"]["name"] for each in wanted.sets if "map" in each},
        "chain": {each["chain"]["name"] for each in wanted.chains},
    }
    flushed = sorted(keep["chain"] | have["chain"])
    commands: list[Command] = [{"add": {"table": _of({"name": TABLE}, table=False)}}]
    commands += [{"add": each} for each in wanted.chains]
    commands += [{"flush": {"chain": _of({"name": name})}} for name in flushed]
    commands += [{"delete": {"chain": _of({"name": name})}} for name in sorted(have["chain"] - keep["chain"])]
    commands += [{"delete": {kind: _of({"name": name})}} for kind in ("set", "map") for name in sorted(have[kind])]
    commands += [{"delete": {"counter": _of({"name": name})}} for name in sorted(have["counter"] - keep["counter"])]
    commands += [{"add": {"counter": _of({"name": name})}} for name in wanted.counters if name not in have["counter"]]
    return [*commands, *({"add": each} for each in wanted.sets), *({"add": each} for each in wanted.rules)]


def removal() -> list[Command]:
    """Return the commands that remove the table."""
    return [{"delete": {"table": _of({"name": TABLE}, table=False)}}]


def listing() -> list[Command]:
    """Return the command that lists the table."""
    return [{"list": {"table": _of({"name": TABLE}, table=False)}}]


def counters() -> list[Command]:
    """Return the command that lists the table's counters."""
    return [{"list": {"counters": _of({})}}]


def packets(listed: Iterable[Command]) -> dict[str, int]:
    """Return the packets of each counter in a listing."""
    return {each["counter"]["name"]: int(each["counter"]["packets"]) for each in listed if "counter" in each}


def counters_of(tunnel_id: str, counts: Mapping[str, int]) -> FilterCounters | None:
    """Return a tunnel's counters, None where it is not in the table."""
    found = [counts.get(counter_name(tunnel_id, kind)) for kind in _KINDS]
    ike, ipsec, clear = found
    if ike is None or ipsec is None or clear is None:
        return None
    return FilterCounters(admitted_ike=ike, admitted_ipsec=ipsec, dropped_clear=clear)


def _of(value: dict[str, Any], *, table: bool = True) -> dict[str, Any]:
    return {"family": FAMILY, **({"table": TABLE} if table else {}), **value}


def _set(name: str, of: str, elements: Iterable[Any], *flags: str) -> Command:
    value: dict[str, Any] = {"name": name, "type": of}
    if flags:
        value["flags"] = list(flags)
    if listed := list(elements):
        value["elem"] = listed
    return {"set": _of(value)}


def _map(name: str, key: str | list[str], elements: Mapping[Any, str]) -> Command:
    value: dict[str, Any] = {"name": name, "type": key, "map": "counter"}
    if elements:
        value["elem"] = [
            [{"concat": list(each)} if isinstance(each, tuple) else each, counter] for each, counter in elements.items()
        ]
    return {"map": _of(value)}


def _chain(name: str, **hook: Any) -> Command:
    return {"chain": _of({"name": name, **hook})}


def _rule(chain: str, expressions: Sequence[dict[str, Any]]) -> Command:
    return {"rule": _of({"chain": chain, "expr": list(expressions)})}


def _match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def _payload(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


def _meta(key: str) -> dict[str, Any]:
    return {"meta": {"key": key}}


def _jump(chain: str) -> dict[str, Any]:
    return {"jump": {"target": chain}}


def _udp_to(ports: list[int]) -> dict[str, Any]:
    return _match(_payload("udp", "dport"), {"set": ports} if len(ports) > 1 else ports[0])


def _prefix(network: str) -> dict[str, Any]:
    address, _, length = network.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}}


def _collapsed(networks: Iterable[str]) -> list[str]:
    """Return the same addresses as networks that do not overlap, which a set of intervals asks for."""
    kept: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for network in sorted(
        {ipaddress.ip_network(each) for each in networks}, key=lambda each: (each[0], each.prefixlen)
    ):
        if not kept or network[0] not in kept[-1]:
            kept.append(network)
    return [str(network) for network in kept]


def _address_type(version: int) -> str:
    return f"ipv{version}_addr"


_DROP: dict[str, Any] = {"drop": None}
_ACCEPT: dict[str, Any] = {"accept": None}
_RETURN: dict[str, Any] = {"return": None}
_IPSEC = _match(_meta("l4proto"), {"set": ["esp", "ah"]})


def _entry() -> list[Command]:
    """Return the rules of the two hooks."""
    outer = [
        _rule("input", [_match(_payload(_IP[version], "daddr"), f"@local{version}"), _jump("outer")])
        for version in (4, 6)
    ]
    return [*outer, _rule("input", [_jump("clear")]), _rule("forward", [_jump("clear")])]


def _outer_sets(tunnels: Sequence[Carried], version: int) -> list[Command]:
    """Return which pair of addresses, or which address of ours alone, is whose."""
    local: dict[str, None] = {}
    pairs: dict[tuple[str, str], str] = {}
    anywhere: dict[str, str] = {}
    for tunnel in tunnels:
        for ours in (each for each in tunnel.local if ipaddress.ip_address(each).version == version):
            local[ours] = None
            if tunnel.anywhere:
                anywhere.setdefault(ours, tunnel.id)
                continue
            for peer in (each for each in tunnel.peers if ipaddress.ip_address(each).version == version):
                pairs.setdefault((peer, ours), tunnel.id)
    of = _address_type(version)
    found = [_set(f"local{version}", of, local)]
    for kind in ("ike", "ipsec"):
        found += [
            _map(f"{kind}{version}", [of, of], {pair: counter_name(owner, kind) for pair, owner in pairs.items()}),
            _map(f"any-{kind}{version}", of, {ours: counter_name(owner, kind) for ours, owner in anywhere.items()}),
        ]
    return found


def _outer(version: int) -> list[Command]:
    """Return the rules that admit and count; a lookup that finds nothing goes on to the next rule."""
    source, destination = _payload(_IP[version], "saddr"), _payload(_IP[version], "daddr")
    rules = []
    for prefix, key in (("", {"concat": [source, destination]}), ("any-", destination)):
        ike, ipsec = (
            {"counter": {"map": {"key": key, "data": f"@{prefix}{kind}{version}"}}} for kind in ("ike", "ipsec")
        )
        no_spi = _match({"payload": {"base": "th", "offset": 64, "len": 32}}, 0)
        keepalive = _match(_payload("udp", "length"), _KEEPALIVE_UDP_LENGTH)
        rules += [
            [_udp_to([_IKE_PORT]), ike],
            [_udp_to([_NAT_T_PORT]), keepalive, ike],
            [_udp_to([_NAT_T_PORT]), no_spi, ike],
            [_udp_to([_NAT_T_PORT]), ipsec],
            [_IPSEC, ipsec],
        ]
    return [_rule("outer", [*each, _ACCEPT]) for each in rules]


def _clear(inside: Sequence[tuple[str, str]], *, kernel: bool, vrfs: bool) -> list[Command]:
    """Return the rules that let pass what came out of a tunnel and what is no tunnel's, and look at the rest."""
    passing = [[_match(_meta("iifname"), "@own")]]
    if vrfs:
        passing.append([_match(_meta("sdifname"), "@own")])  # of a VRF the interface proper is the second one
    if kernel:
        passing.append([_match(_meta("ipsec"), True)])
    passing.append([_match(_payload("icmpv6", "type"), {"set": _NEIGHBORS})])
    passing.append([_match({"exthdr": {"name": "frag", "field": "frag-off"}}, 0, "!=")])  # its first one decides
    for interface, network in inside:
        source = _payload(_IP[ipaddress.ip_network(network).version], "saddr")
        passing.append([_match(_meta("iifname"), interface), _match(source, _prefix(network))])
    rules = [_rule("clear", [*each, _RETURN]) for each in passing]
    for version in (4, 6):
        source = _payload(_IP[version], "saddr")
        rules.append(_rule("clear", [_match(source, f"@remote{version}"), _jump(f"clear{version}")]))
    return rules


def _pairs(tunnel: Carried) -> list[tuple[str, TrafficSelector, TrafficSelector]]:
    return [
        (tunnel.id, local, remote)
        for each in tunnel.protected
        for local in each.local
        for remote in each.remote
        if local.version == remote.version
        and (local.protocol == remote.protocol or 0 in (local.protocol, remote.protocol))
    ]


def _drop(tunnel_id: str, local: TrafficSelector, remote: TrafficSelector) -> Command | None:
    """Return the rule for one pair of selectors; None where nft has no words for it (types of ICMP)."""
    ip = _IP[local.version]
    protocol = local.protocol or remote.protocol
    whole = (0, 65_535)
    ports = [
        (field, (selector.start_port, selector.end_port))
        for field, selector in (("sport", remote), ("dport", local))
        if (selector.start_port, selector.end_port) != whole
    ]
    if ports and protocol in _TYPED:
        return None
    match = [
        _match(_payload(ip, "saddr"), _prefix(remote.network)),
        _match(_payload(ip, "daddr"), _prefix(local.network)),
    ]
    if protocol or ports:
        match.append(_match(_meta("l4proto"), protocol or {"set": list(_WITH_PORTS)}))
    match += [_match(_payload("th", field), {"range": list(each)}) for field, each in ports]
    return _rule(f"clear{local.version}", [*match, {"counter": counter_name(tunnel_id, "clear")}, _DROP])


def _inside(tunnels: Sequence[Carried], remotes: Sequence[TrafficSelector], view: HostView) -> list[tuple[str, str]]:
    """Return interface and network of the machine's own ways into parts of remote networks that lead to no peer."""
    ours = {tunnel.interface for tunnel in tunnels} | {"lo"}
    outside = _outside(tunnels, view)
    networks = {ipaddress.ip_network(each.network) for each in remotes}
    found = set()
    for route in view.routes:
        if route.protocol == ROUTE_PROTOCOL or route.table != TABLE_MAIN or route.interface in ours | outside:
            continue
        network = ipaddress.ip_network(route.network)
        if network.is_link_local:
            continue
        above = (network.supernet(new_prefix=length) for length in range(network.prefixlen + 1))
        if not networks.isdisjoint(above):
            found.add((route.interface, route.network))
    return sorted(found)


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
