"""Routes towards the remote networks of children that are up; withdrawn when they are not.

Userspace mode routes into the tunnel's TUN. Kernel mode routes out of the interface that leads to the peer: the policy
lookup needs a route to start from. A gateway with an address inside the child's local selectors sends from it.

Where a remote network holds the peer's own outer address, that address gets a route of its own along its present way in
userspace mode, or the tunnel would swallow its own packets; a default route is laid as two halves for the same reason,
so that the machine's own default route stays below it untouched. Two tunnels with one remote network: the first in the
document that is up gets it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from agents.agentd.host import ROUTE_PROTOCOL, HostView, Route
from agents.contract.config import Child, GatewayDocument, Tunnel
from agents.contract.status import TunnelStatus

_PRIORITY = {4: 0, 6: 1}
"""IPv4's strongest, and IPv6's strongest but one: 0 there means 1024."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_network = lru_cache(maxsize=16_384)(ipaddress.ip_network)
_address = lru_cache(maxsize=16_384)(ipaddress.ip_address)


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRoutes:
    """Routes that should be there, by network, each with its tunnel; and what stands in the way of others."""

    routes: Mapping[str, tuple[str, Route]]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """What to do, in this order. ``repairs`` are the networks whose route somebody else removed or changed."""

    remove: tuple[Route, ...] = ()
    add: tuple[Route, ...] = ()
    repairs: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


def wanted(document: GatewayDocument, tunnels: Mapping[str, TunnelStatus], driver: str, view: HostView) -> WantedRoutes:
    """Return the routes for the children that are up now."""
    routes: dict[str, tuple[str, Route]] = {}
    problems: list[str] = []
    for tunnel in document.tunnels:
        status = tunnels.get(tunnel.id)
        if not tunnel.enabled or not tunnel.add_routes or status is None:
            continue
        up = {child.name for child in status.children if child.up}
        for child in tunnel.children:
            if child.name not in up:
                continue
            try:
                found = _child_routes(tunnel, child, status, driver, view)
            except LookupError as error:
                problems.append(f"{tunnel.name}: {error.args[0]}")
                continue
            for route in found:
                routes.setdefault(route.network, (tunnel.id, route))
    return WantedRoutes(routes=routes, problems=tuple(dict.fromkeys(problems)))


def plan(want: WantedRoutes, view: HostView, remembered: Mapping[str, int]) -> RoutePlan:
    """Compare. ``remembered`` maps the networks whose route was in place at the last pass to the link index it had."""
    ours = [route for route in view.routes if route.protocol == ROUTE_PROTOCOL]
    foreign = {(route.network, route.priority): route for route in view.routes if route.protocol != ROUTE_PROTOCOL}
    right = {route.network: route for _tunnel, route in want.routes.values()}
    kept = {route.network for route in ours if right.get(route.network) == route}
    add, problems = [], list(want.problems)
    for network, route in right.items():
        other = foreign.get((network, route.priority))
        if network in kept:
            continue
        if other is not None:
            problems.append(f"a route to {network} on {other.interface} that is not ours is in the way")
        else:
            add.append(route)
    repairs = {
        route.network
        for route in add
        if (link := view.link(route.interface)) is not None and remembered.get(route.network) == link.index
    }
    return RoutePlan(
        remove=tuple(route for route in ours if right.get(route.network) != route),
        add=tuple(add),
        repairs=frozenset(repairs),
        problems=tuple(problems),
    )


def next_hop(view: HostView, address: str) -> Route:
    """Return the route, none of ours, that leads to ``address``; raises :class:`LookupError` with a sentence."""
    target = _address(address)
    best: Route | None = None
    for route in view.routes:
        network = _network(route.network)
        if route.protocol == ROUTE_PROTOCOL or network.version != target.version or target not in network:
            continue
        if best is None or (network.prefixlen, -route.priority) > (_length(best), -best.priority):
            best = route
    if best is None:
        raise LookupError(f"there is no route to the peer {address}")
    return best


def interface_name(tunnel_id: str) -> str:
    """Return the name of a tunnel's TUN in userspace mode."""
    return f"vpn{tunnel_id[:8]}"


def _child_routes(tunnel: Tunnel, child: Child, status: TunnelStatus, driver: str, view: HostView) -> list[Route]:
    remotes = [_network(ts.network) for ts in child.remote_ts]
    found: list[Route] = []
    if driver == "kernel":
        way = next_hop(view, tunnel.remote.address)
        interface, version = way.interface, _address(tunnel.remote.address).version
    else:
        way, interface = None, status.interface or interface_name(tunnel.id)
        if view.link(interface) is None:
            raise LookupError(f"its interface {interface} is not there")
    for remote in remotes:
        if way is not None and remote == _network(way.network):
            continue  # the way to the peer is a route to this very network already
        gateway = way.gateway if way is not None and remote.version == version else None
        source = _source(child, remote, view)
        found.extend(_route(part, interface, gateway, source) for part in _halves(remote))
    if way is None:
        found.extend(_pin(tunnel.remote.address, remotes, view))
    return found


def _pin(address: str, remotes: list[Network], view: HostView) -> list[Route]:
    peer = _address(address)
    if not any(remote.version == peer.version and peer in remote for remote in remotes):
        return []
    way = next_hop(view, address)
    host = _network(address)
    return [] if way.network == str(host) else [_route(host, way.interface, way.gateway, None)]


def _route(network: Network, interface: str, gateway: str | None, source: str | None) -> Route:
    return Route(
        network=str(network), interface=interface, gateway=gateway, source=source, priority=_PRIORITY[network.version]
    )


def _halves(network: Network) -> list[Network]:
    return list(network.subnets(prefixlen_diff=1)) if network.prefixlen == 0 else [network]


def _source(child: Child, remote: Network, view: HostView) -> str | None:
    """Return the lowest of the machine's addresses that lie in the child's local selectors."""
    locals_ = [_network(ts.network) for ts in child.local_ts if ts.version == remote.version]
    inside = [
        address
        for address in (_address(each.address) for each in view.addresses)
        if not address.is_link_local
        and not address.is_loopback
        and any(address.version == local.version and address in local for local in locals_)
    ]
    return str(min(inside, key=int)) if inside else None


def _length(route: Route) -> int:
    return _network(route.network).prefixlen
