"""Routing contexts beside ``local``: a VRF for each where the kernel has VRFs, else rules that lead to a table.

A VRF holds the interfaces of its tunnels: what comes out of them is looked up in its table and nowhere else. Which
other interfaces belong to it is the operator's to say (``ip link set lan0 master vrf-blue``).

Rules are the weaker form. Looked up in the context's table first, and in the main table when it has no route, is what
comes in by one of its tunnels' interfaces and what has a source address in their local selectors. Of two contexts that
want one source the one whose tunnel costs less comes first.

A context that only endpoints are in is a table that rules lead to, whatever the kernel has (:mod:`.endpoints`).

Ours are the VRFs with our alias and the rules with our protocol, those of endpoints and of transport mode among them;
nothing else is touched.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from agents.agentd.host import HostView, Link, Rule
from agents.agentd.parts import endpoints, transport
from agents.agentd.parts.carried import Carried
from agents.contract.carriage import LOCAL_CONTEXT, Context
from agents.contract.config import GatewayDocument

ALIAS = "VPN Console context "
_FIRST_PRIORITY = 10_000
_MOST_COST = 20_000
"""So that rules come before that of the main table (32766)."""
_MOST_NAME = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Vrf:
    """A VRF of ours."""

    name: str
    table: int
    context: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextPlan:
    """What to do, in this order; ``masters`` are pairs of an interface and its VRF (None: none)."""

    remove_vrfs: tuple[Vrf, ...] = ()
    add_vrfs: tuple[Vrf, ...] = ()
    masters: tuple[tuple[str, str | None], ...] = ()
    remove_rules: tuple[Rule, ...] = ()
    add_rules: tuple[Rule, ...] = ()
    problems: tuple[str, ...] = ()


def vrf_name(context: str) -> str:
    """Return the name of a context's VRF, which has room for 15 characters."""
    name = f"vrf-{context}"
    if len(name) <= _MOST_NAME:
        return name
    return f"{name[: _MOST_NAME - 5]}-{zlib.crc32(context.encode()) & 0xFFFF:04x}"


def ours(view: HostView) -> dict[str, Vrf]:
    """Return the VRFs that we made, by name."""
    return {
        link.name: Vrf(name=link.name, table=link.table or 0, context=(link.alias or "").removeprefix(ALIAS))
        for link in view.links
        if _is_ours(link)
    }


def tenants(document: GatewayDocument) -> tuple[Context, ...]:
    """Return the contexts but those that only endpoints are in, those of tunnels that are switched off among them."""
    carriages = [each.carriage for each in document.tunnels]
    carriages += [each.carriage for each in document.manual_tunnels]
    uplinks = {each.endpoint_context for each in carriages} - {each.context for each in carriages}
    return tuple(context for context in document.contexts if context.name not in uplinks)


def plan(contexts: Sequence[Context], tunnels: Sequence[Carried], view: HostView, *, vrfs: bool) -> ContextPlan:
    """Compare; ``contexts`` are tenants, ``vrfs`` tells whether this kernel has them."""
    want = {vrf_name(each.name): _vrf(each) for each in contexts} if vrfs else {}
    have = ours(view)
    problems = []
    for name, vrf in list(want.items()):
        in_the_way = view.link(name)
        if in_the_way is not None and name not in have:
            problems.append(f"context {vrf.context}: an interface {name} that is not ours is in the way")
            del want[name]
    masters, refused = _masters(want, tunnels, view)
    rules = transport.rules(tunnels, view, vrfs=vrfs) | endpoints.rules(tunnels)
    if not vrfs:
        rules |= _rules(contexts, tunnels)
    return ContextPlan(
        remove_vrfs=tuple(vrf for name, vrf in have.items() if want.get(name) != vrf),
        add_vrfs=tuple(vrf for name, vrf in want.items() if have.get(name) != vrf),
        masters=tuple(masters),
        remove_rules=tuple(rule for rule in view.rules if rule not in rules),
        add_rules=tuple(sorted(rules - set(view.rules), key=order)),
        problems=(*problems, *refused),
    )


def routable(tunnels: Sequence[Carried], *, vrfs: bool) -> tuple[tuple[Carried, ...], list[str]]:
    """Part from the others the tunnels, and what of them, that cannot be in their context, and say why not."""
    good, problems = [], []
    for tunnel in tunnels:
        if vrfs and tunnel.carriage.context != LOCAL_CONTEXT and tunnel.interface is None:
            problems.append(
                f"{tunnel.name}: context {tunnel.carriage.context} is a VRF, and what comes from a tunnel without an "
                "interface of its own cannot be told to belong to it: set carriage.attachment to interface"
            )
        elif tunnel.hosts and transport.in_vrf(tunnel, vrfs=vrfs):
            problems.append(
                f"{tunnel.name}: context {tunnel.carriage.context} is a VRF, and the gateway's own addresses are not "
                "in it: nothing goes in transport mode"
            )
            good.append(dataclasses.replace(tunnel, hosts=()))
        else:
            good.append(tunnel)
    return tuple(good), problems


def _vrf(context: Context) -> Vrf:
    return Vrf(name=vrf_name(context.name), table=context.table, context=context.name)


def _is_ours(link: Link) -> bool:
    return link.kind == "vrf" and (link.alias or "").startswith(ALIAS)


def _masters(
    want: dict[str, Vrf], tunnels: Sequence[Carried], view: HostView
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Return which interfaces of tunnels to move, and what keeps others from it."""
    names = {link.index: link.name for link in view.links}
    have = ours(view)
    changes: list[tuple[str, str | None]] = []
    problems = []
    for tunnel in tunnels:
        link = view.link(tunnel.interface) if tunnel.interface is not None else None
        if link is None:
            continue
        name = vrf_name(tunnel.carriage.context)
        target = name if tunnel.carriage.context != LOCAL_CONTEXT and name in want else None
        now = names.get(link.master) if link.master is not None else None
        if now == target and have.get(name) == want.get(name):
            continue
        if now is not None and now not in have:
            if target is not None:
                problems.append(f"{tunnel.name}: its interface {link.name} belongs to {now}, which is not ours")
            continue
        if target is not None or now is not None:
            changes.append((link.name, target))
    return changes, problems


def _rules(contexts: Sequence[Context], tunnels: Sequence[Carried]) -> set[Rule]:
    tables = {context.name: context.table for context in contexts}
    found: dict[tuple[int, int, str | None, str | None], Rule] = {}
    for tunnel in sorted(tunnels, key=lambda each: each.cost):
        table = tables.get(tunnel.carriage.context)
        if table is None:
            continue
        networks = {ts.network for each in tunnel.protected for ts in each.local}
        priority = _FIRST_PRIORITY + min(tunnel.cost, _MOST_COST)
        sources = [(ipaddress.ip_network(network).version, _source(network), None) for network in networks]
        versions = {version for version, _, _ in sources}
        incoming = [(version, None, tunnel.interface) for version in versions if tunnel.interface is not None]
        for version, source, interface in [*sources, *incoming]:
            rule = Rule(version=version, priority=priority, table=table, source=source, interface=interface)
            found.setdefault((version, table, source, interface), rule)
    return set(found.values())


def _source(network: str) -> str | None:
    """Return None for a network of all addresses, as the kernel does."""
    return None if ipaddress.ip_network(network).prefixlen == 0 else network


def order(rule: Rule) -> tuple[int, int, str, str, str]:
    """Return what rules are sorted by."""
    return rule.priority, rule.version, rule.source or "", rule.interface or "", rule.destination or ""
