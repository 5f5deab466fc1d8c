"""Transport mode in the userspace data plane: what two hosts say to each other goes into the tunnel's TUN.

The inner packets have the outer addresses, so a route to the peer would take its IKE and ESP as well. Rules take just
what this host itself sends, what the selectors say, and what has not the mark of the sockets of ``iked`` and ``espd``
(:data:`agents.dataplane.outer.OUTER_MARK`); everything else leaves in the clear as before. They lead to two tables of
the TUN's own, which hold a route to the peer each:

* TCP finds the TUN's MTU, and what ``espd`` says of longer packets: its segments fit the path.
* Everything else finds the longest MTU there is, locked: ESP goes around whole datagrams, and IP cuts what comes out
  (RFC 4303 section 3.3.4). So the kernel sets DF only where an application asks for it.

A packet to the peer that has no source address yet is taken too, and gets ours from the route. For IPv4 such a one is
from 0.0.0.0; IPv6 has no word for it, so whatever has a source is let past before a rule that asks for none.

Rules know no types of ICMP and no port 65535: of ICMP the whole protocol goes into the TUN, and packets with that port
only where every port does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agents.agentd.host import NO_TABLE, HostView, Rule
from agents.agentd.parts.carried import Carried, HostPair
from agents.contract.carriage import LOCAL_CONTEXT
from agents.dataplane.outer import OUTER_MARK

WHOLE_DATAGRAMS = 65_520
"""The most that the kernel takes as a route's MTU (net/ipv4/metrics.c)."""
_SOURCE, _NO_SOURCE, _MOST_COST = 9_000, 9_500, 240
"""Priorities of rules for packets that have a source and of those for what has none yet; before those of contexts.

Each cost has two, since TCP comes first.
"""
_SKIP, _SKIPPED = 9_490, 9_999
_FIRST_TABLE = 0x5600_0000
"""Two tables for each link by its index, far above those that people number."""
_LINKS = 1 << 23
_TCP = 6
_WITH_PORTS = frozenset({0, 6, 17, 33, 132, 136})
_EVERY_PORT = (0, 65_535)
_FIRST_PORT, _LAST_PORT = 1, 65_534
"""Of those that a rule can name (fib_rule_port_range_valid of net/core/fib_rules.c)."""
_UNCHOSEN = "0.0.0.0/32"
"""What an IPv4 socket that chose no address asks from."""
_CHOSEN = ("::/1", "8000::/1")
"""Any source: a rule for one matches no IPv6 packet that has none."""
_MADE_HERE = "lo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Where a part of what two hosts say goes: ``protocol`` 0 is any, ``mtu`` that of the route in ``table``."""

    hosts: HostPair
    table: int
    protocol: int
    mtu: int | None


def lanes(tunnel: Carried, view: HostView) -> list[Lane]:
    """Return the lanes of a tunnel, none where its interface is not there."""
    link = view.link(tunnel.interface) if tunnel.interface is not None else None
    if link is None:
        return []
    table = _FIRST_TABLE + 2 * (link.index % _LINKS)
    found = []
    for hosts in tunnel.hosts:
        if hosts.protocol in (0, _TCP):
            found.append(Lane(hosts=hosts, table=table + 1, protocol=_TCP, mtu=None))
        if hosts.protocol != _TCP:
            found.append(Lane(hosts=hosts, table=table, protocol=hosts.protocol, mtu=WHOLE_DATAGRAMS))
    return found


def rules(tunnels: Sequence[Carried], view: HostView, *, vrfs: bool) -> set[Rule]:
    """Return the rules that lead into the lanes; of two tunnels that want the same, to the cheaper one's."""
    found: dict[Rule, Rule] = {}
    for tunnel in sorted(tunnels, key=lambda each: each.cost):
        if in_vrf(tunnel, vrfs=vrfs):
            continue
        for lane in lanes(tunnel, view):
            for rule in _rules(lane, 2 * min(tunnel.cost, _MOST_COST) + (lane.protocol != _TCP)):
                found.setdefault(dataclasses.replace(rule, priority=0, table=NO_TABLE), rule)
    return {*found.values(), *_past(found.values())}


def in_vrf(tunnel: Carried, *, vrfs: bool) -> bool:
    """Whether a tunnel is in a VRF, where the gateway's own addresses are not."""
    return vrfs and tunnel.carriage.context != LOCAL_CONTEXT


def _rules(lane: Lane, rank: int) -> list[Rule]:
    local, remote = lane.hosts.local, lane.hosts.remote
    with_ports = lane.protocol in _WITH_PORTS
    if with_ports and max(local.start_port, remote.start_port) > _LAST_PORT:
        return []
    rule = Rule(
        version=local.version,
        priority=_SOURCE + rank,
        table=lane.table,
        source=local.network,
        interface=_MADE_HERE,
        destination=remote.network,
        protocol=lane.protocol or None,
        source_ports=_ports(local.start_port, local.end_port) if with_ports else None,
        destination_ports=_ports(remote.start_port, remote.end_port) if with_ports else None,
        unmarked=OUTER_MARK,
    )
    unchosen = _UNCHOSEN if local.version == 4 else None
    # Reverse path filtering asks the rules too, and looks for ports only where one that has some is for any interface.
    return [
        rule if local.version == 6 else dataclasses.replace(rule, interface=None),
        dataclasses.replace(rule, priority=_NO_SOURCE + rank, source=unchosen),
    ]


def _past(rules: Iterable[Rule]) -> list[Rule]:
    """Return what leads IPv6 packets that have a source past the rules for those that have none."""
    peers = {rule.destination for rule in rules if rule.version == 6}
    past = [
        Rule(
            version=6, priority=_SKIP, table=NO_TABLE, source=source, interface=_MADE_HERE, destination=peer,
            unmarked=OUTER_MARK, skip_to=_SKIPPED,
        )
        for peer in peers
        for source in _CHOSEN
    ]  # fmt: skip
    return [*past, Rule(version=6, priority=_SKIPPED, table=NO_TABLE)] if past else []


def _ports(first: int, last: int) -> tuple[int, int] | None:
    """Return ports as a rule has them, None for every one."""
    return None if (first, last) == _EVERY_PORT else (max(first, _FIRST_PORT), max(min(last, _LAST_PORT), _FIRST_PORT))
