"""Routes of tunnels that are up, by traffic selector and by the document's static ones; withdrawn when they go.

A tunnel with an interface of its own gets its routes into it. One that shares (kernel mode) gets them out of the
interface that leads to its peer: the policy lookup needs a route to start from. A gateway with an address inside the
local selectors sends from it. Routes lie in the table of the tunnel's context.

Of the routes to one network the lowest cost is used, among equals the first of the document. The others stand by with
the metric of their cost where their interface is another one, so that the kernel changes over by itself when the
preferred one goes; the rest are laid then.

Where a remote network holds a peer's own outer address, that address gets a route of its own along its present way, or
the tunnel would swallow its own packets; where those look into a table of their own (``endpoints``) it needs none. A
default route is laid as two halves for the same reason, so that the machine's own default route stays below it
untouched. What two hosts say in transport mode has tables of its own (:mod:`agents.agentd.parts.transport`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from agents.agentd.host import ROUTE_PROTOCOL, TABLE_MAIN, HostView, Route
from agents.agentd.parts import transport
from agents.agentd.parts.carried import Carried, Protected
from agents.contract.carriage import LOCAL_CONTEXT
from agents.contract.config import GatewayDocument, Mode

_METRIC = {4: 0, 6: 1}
"""Of cost 0: IPv4's strongest, and IPv6's strongest but one, since 0 there means 1024."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_network = lru_cache(maxsize=16_384)(ipaddress.ip_network)
_address = lru_cache(maxsize=16_384)(ipaddress.ip_address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A route and for whom: ``cause`` is ``selector`` or ``static``, ``spis`` those of the SAs that ask for it.

    ``sources`` are the networks behind this gateway that the tunnel carries traffic of.
    """

    route: Route
    tunnel_id: str
    cause: str
    cost: int
    context: str = LOCAL_CONTEXT
    child: str | None = None
    spis: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRoutes:
    """Routes that should be there, those used before those that stand by; and what stands in the way of others.

    ``unlaid`` would be used if the others were not there.
    """

    claims: tuple[Claim, ...] = ()
    unlaid: tuple[Claim, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """What to do, in this order. ``repairs`` are the routes that somebody else removed or changed."""

    replace: tuple[Route, ...] = ()
    add: tuple[Route, ...] = ()
    remove: tuple[Route, ...] = ()
    repairs: frozenset[Route] = frozenset()
    problems: tuple[str, ...] = ()


def tables(document: GatewayDocument) -> dict[str, int]:
    """Return the routing table of each context."""
    return {LOCAL_CONTEXT: TABLE_MAIN} | {context.name: context.table for context in document.contexts}


def wanted(tunnels: Iterable[Carried], table_of: Mapping[str, int], view: HostView) -> WantedRoutes:
    """Return the routes for what is up now."""
    found: dict[tuple[int, str], list[Claim]] = {}
    problems: list[str] = []
    for tunnel in tunnels:
        if not tunnel.up:
            continue
        try:
            claims = _claims(tunnel, table_of[tunnel.carriage.context], view)
        except LookupError as error:
            problems.append(f"{tunnel.name}: {error.args[0]}")
            continue
        for claim in claims:
            found.setdefault((claim.route.table, claim.route.network), []).append(claim)
    ranked = [_rank(claims) for claims in found.values()]
    return WantedRoutes(
        claims=tuple(claim for laid, _ in ranked for claim in laid),
        unlaid=tuple(claim for _, unlaid in ranked for claim in unlaid),
        problems=tuple(dict.fromkeys(problems)),
    )


def _rank(claims: list[Claim]) -> tuple[list[Claim], list[Claim]]:
    """Part the claims to one network into those to lay, the best first, and the others."""
    laid: list[Claim] = []
    unlaid: list[Claim] = []
    for claim in sorted(claims, key=lambda each: each.cost):
        stands_apart = all(
            claim.route.interface != other.route.interface and claim.route.priority != other.route.priority
            for other in laid
        )
        (laid if stands_apart else unlaid).append(claim)
    return laid, unlaid


def plan(want: WantedRoutes, view: HostView, remembered: Mapping[Route, int]) -> RoutePlan:
    """Compare. ``remembered`` maps the routes that were in place at the last pass to the link index they had."""
    ours = {route.key: route for route in view.routes if route.protocol == ROUTE_PROTOCOL}
    foreign = {route.key: route for route in view.routes if route.protocol != ROUTE_PROTOCOL}
    right = {claim.route.key: claim.route for claim in want.claims}
    replace: list[Route] = []
    add: list[Route] = []
    problems = list(want.problems)
    for key, route in right.items():
        if ours.get(key) == route:
            continue
        if key in foreign:
            problems.append(f"a route to {route.network} on {foreign[key].interface} that is not ours is in the way")
        else:
            (replace if key in ours else add).append(route)
    repairs = {
        route
        for route in (*replace, *add)
        if (link := view.link(route.interface)) is not None and remembered.get(route) == link.index
    }
    replaced = {route.key for route in replace}
    return RoutePlan(
        replace=tuple(replace),
        add=tuple(add),
        remove=tuple(route for key, route in ours.items() if right.get(key) != route and key not in replaced),
        repairs=frozenset(repairs),
        problems=tuple(problems),
    )


def next_hop(view: HostView, address: str, table: int = TABLE_MAIN) -> Route:
    """Return the route of a table, none of ours, to ``address``; raises :class:`LookupError` with a sentence.

    The unspecified address asks for the default route.
    """
    target = _address(address)
    best: Route | None = None
    for route in view.routes:
        network = _network(route.network)
        if route.protocol == ROUTE_PROTOCOL or route.table != table:
            continue
        if network.version != target.version or target not in network:
            continue
        if best is None or (network.prefixlen, -route.priority) > (_length(best), -best.priority):
            best = route
    if best is None:
        where = "" if table == TABLE_MAIN else f" in table {table}, that of its endpoint's context"
        raise LookupError(f"there is no route to the peer {address}{where}")
    return best


def ways(tunnel: Carried, view: HostView) -> list[Route]:
    """Return the ways to a tunnel's peers; the default route where it is not known where they are.

    Raises :class:`LookupError` where there is none.
    """
    if not tunnel.peers:
        anywhere = "::" if ":" in tunnel.local[0] else "0.0.0.0"  # noqa: S104 - nothing is bound
        return [next_hop(view, anywhere, tunnel.endpoint_table)]
    found: list[Route] = []
    missing: LookupError | None = None
    for peer in tunnel.peers:
        try:
            found.append(next_hop(view, peer, tunnel.endpoint_table))
        except LookupError as error:
            missing = missing or error
    if not found and missing is not None:
        raise missing
    return list(dict.fromkeys(found))


def _claims(tunnel: Carried, table: int, view: HostView) -> list[Claim]:
    """Return what one tunnel asks for; raises :class:`LookupError` where it cannot be had."""
    if tunnel.interface is not None and view.link(tunnel.interface) is None:
        raise LookupError(f"its interface {tunnel.interface} is not there")
    way = ways(tunnel, view)[0] if tunnel.interface is None else None
    claims: list[Claim] = []
    for protected in tunnel.protected if tunnel.selector_routes else ():
        if protected.up and (protected.mode is Mode.TUNNEL or way is not None):
            for network in dict.fromkeys(_network(ts.network) for ts in protected.remote):
                claims += _to_network(tunnel, [protected], network, tunnel.carriage.route_cost, way, table, view)
    for route in tunnel.carriage.routes:
        up = [each for each in tunnel.protected if each.up]
        claims += _to_network(tunnel, up, _network(route.network), route.cost, way, table, view, cause="static")
    if tunnel.interface is not None and tunnel.endpoint_table in (TABLE_MAIN, table):
        claims += _pins(tunnel, claims, table, view)
    return [*claims, *_between_hosts(tunnel, view)]


def _between_hosts(tunnel: Carried, view: HostView) -> list[Claim]:
    return [
        Claim(
            route=Route(
                network=lane.hosts.remote.network,
                interface=tunnel.interface or "",
                source=_source([lane.hosts.local.network], view),
                priority=_METRIC[lane.hosts.remote.version],
                table=lane.table,
                mtu=lane.mtu,
            ),
            tunnel_id=tunnel.id,
            cause="selector",
            cost=tunnel.carriage.route_cost,
            context=tunnel.carriage.context,
            child=lane.hosts.child,
            spis=(lane.hosts.spi,),
            sources=(lane.hosts.local.network,),
        )
        for lane in transport.lanes(tunnel, view)
    ]


def _to_network(
    tunnel: Carried,
    protected: Sequence[Protected],
    network: Network,
    cost: int,
    way: Route | None,
    table: int,
    view: HostView,
    *,
    cause: str = "selector",
) -> list[Claim]:
    if way is not None and way.table == table and network == _network(way.network):
        return []  # the way to the peer is a route to this very network already
    same_version = way is not None and _network(way.network).version == network.version
    selectors = [ts.network for each in protected for ts in each.local if ts.version == network.version]
    source = _source(selectors, view)
    return [
        Claim(
            route=Route(
                network=str(part),
                interface=way.interface if way is not None else tunnel.interface or "",
                gateway=way.gateway if way is not None and same_version else None,
                source=source,
                priority=_METRIC[part.version] + cost,
                table=table,
            ),
            tunnel_id=tunnel.id,
            cause=cause,
            cost=cost,
            context=tunnel.carriage.context,
            child=protected[0].child if cause == "selector" else None,
            spis=tuple(spi for each in protected for spi in each.spis),
            sources=tuple(dict.fromkeys(selectors)),
        )
        for part in _halves(network)
    ]


def _pins(tunnel: Carried, claims: Sequence[Claim], table: int, view: HostView) -> list[Claim]:
    """Return a route to each peer that lies in a network of the tunnel, along the way it has without us."""
    pins = []
    networks = [_network(claim.route.network) for claim in claims]
    for peer in map(_address, tunnel.peers):
        host = str(_network(str(peer)))
        if not any(network.version == peer.version and peer in network for network in networks):
            continue
        if any(claim.route.network == host for claim in claims):
            continue  # the tunnel is to carry what goes to this very address
        try:
            way = next_hop(view, str(peer), tunnel.endpoint_table)
        except LookupError:
            if str(peer) == tunnel.peers[0]:
                raise
            continue  # one of the addresses it does not use now
        if way.network == host and way.table == table:
            continue
        route = Route(
            network=host, interface=way.interface, gateway=way.gateway, priority=_METRIC[peer.version], table=table
        )
        pins.append(
            Claim(
                route=route, tunnel_id=tunnel.id, cause="selector", cost=0,
                context=tunnel.carriage.context, spis=tunnel.spis,
            )
        )  # fmt: skip
    return pins


def _halves(network: Network) -> list[Network]:
    return list(network.subnets(prefixlen_diff=1)) if network.prefixlen == 0 else [network]


def _source(locals_: Sequence[str], view: HostView) -> str | None:
    """Return the lowest of the machine's addresses that lie in the local selectors."""
    networks = [_network(each) for each in locals_]
    inside = [
        address
        for address in (_address(each.address) for each in view.addresses)
        if not address.is_link_local
        and not address.is_loopback
        and any(address.version == network.version and address in network for network in networks)
    ]
    return str(min(inside, key=int)) if inside else None


def _length(route: Route) -> int:
    return _network(route.network).prefixlen
