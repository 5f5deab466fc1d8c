"""Keeps the routes right and says of each whose it is, since when, and when traffic moved to another tunnel."""

from __future__ import annotations

from collections.abc import Sequence

from agents.agentd.errors import HostError
from agents.agentd.host import ROUTE_PROTOCOL, Host, HostView, Route
from agents.agentd.journal import Entry, Journal
from agents.agentd.parts import routes
from agents.agentd.parts.carried import Carried
from agents.agentd.parts.routes import Claim, WantedRoutes
from agents.agentd.route_ledger import RouteLedger
from agents.contract.carriage import LOCAL_CONTEXT
from agents.contract.status import RouteRecord

Lane = tuple[str, str]
"""What looks for a route (a table, or a source network whose rules lead there), and the network it looks for."""


class RouteKeeper:
    """Applies what is wanted; ``by_tunnel`` is what stands after the last time."""

    def __init__(self, host: Host, journal: Journal, ledger: RouteLedger) -> None:
        self._host = host
        self._journal = journal
        self._ledger = ledger
        self._remembered: dict[Route, int] = {}
        self._standing: dict[Route, Claim] = {}
        self._used: dict[Lane, Claim] = {}
        self._names: dict[str, str] = {}

    def by_tunnel(self) -> dict[str, tuple[str, ...]]:
        """Return the networks routed for each tunnel."""
        found: dict[str, dict[str, None]] = {}
        for route, claim in self._standing.items():
            found.setdefault(claim.tunnel_id, {})[route.network] = None
        return {tunnel_id: tuple(networks) for tunnel_id, networks in found.items()}

    async def apply(
        self, want: WantedRoutes, tunnels: Sequence[Carried], view: HostView, *, vrfs: bool = False
    ) -> list[str]:
        """Put routes right; returns what is in the way. ``vrfs`` tells whether contexts are VRFs here."""
        self._names |= {tunnel.id: tunnel.name for tunnel in tunnels}
        plan = routes.plan(want, view, self._remembered)
        claims = {claim.route: claim for claim in want.claims}
        best = {(claim.route.table, claim.route.network): claim for claim in reversed(want.claims)}
        problems, told = list(plan.problems), list[Entry]()
        present = {route.key: route for route in view.routes if route.protocol == ROUTE_PROTOCOL}
        for verb, change in [("replace", each) for each in plan.replace] + [("add", each) for each in plan.add]:
            try:
                await (self._host.replace_route if verb == "replace" else self._host.add_route)(change)
            except HostError as error:
                problems.append(str(error))
                continue
            present[change.key] = change
            first = best[change.table, change.network] is claims[change]
            told.append(_laid(claims[change], repaired=change in plan.repairs, stands_by=not first))
        wanted_keys = {route.key for route in claims}
        for route in plan.remove:
            try:
                await self._host.remove_route(route)
            except HostError as error:
                problems.append(str(error))
                continue
            present.pop(route.key, None)
            if route.key not in wanted_keys:
                told.append(self._withdrawn(route))
        self._standing = {route: claim for route, claim in claims.items() if present.get(route.key) == route}
        told += self._moves(want, tunnels, vrfs=vrfs)
        self._journal.append_all(told)
        self._note(plan.repairs, view)
        return problems

    def _note(self, repaired: frozenset[Route], view: HostView) -> None:
        self._remembered = {
            route: link.index for route in self._standing if (link := view.link(route.interface)) is not None
        }
        self._ledger.keep(
            [_record(claim) for claim in self._standing.values()],
            [_record(claim) for route, claim in self._standing.items() if route in repaired],
        )

    def _withdrawn(self, route: Route) -> Entry:
        claim = self._standing.get(route)
        owner = claim.tunnel_id if claim is not None else self._owner_before(route)
        message = f"Route to {route.network} through {route.interface} withdrawn"
        return Entry("agent.route-withdrawn", message, owner, attributes=_attributes(route))

    def _owner_before(self, route: Route) -> str | None:
        """Return whose a route is that an earlier run of ours laid."""
        for record in self._ledger.standing:
            if (record.network, record.interface) == (route.network, route.interface):
                return record.tunnel_id
        return None

    def _moves(self, want: WantedRoutes, tunnels: Sequence[Carried], *, vrfs: bool) -> list[Entry]:
        """Return an event for each network whose traffic takes another tunnel than before."""
        used: dict[Lane, Claim] = {}
        for claim in sorted(self._standing.values(), key=lambda each: each.cost):
            for lane in _lanes(claim, vrfs=vrfs):
                used.setdefault(lane, claim)
        moves: dict[tuple[str, str, str], tuple[Claim, Claim]] = {}
        for lane, claim in used.items():
            before = self._used.get(lane)
            if before is not None and before.tunnel_id != claim.tunnel_id and before.route != claim.route:
                moves.setdefault((claim.route.network, before.tunnel_id, claim.tunnel_id), (before, claim))
        self._used = used
        if not moves:
            return []
        still = {(claim.tunnel_id, claim.route.network): claim.cost for claim in (*want.claims, *want.unlaid)}
        by_id = {tunnel.id: tunnel for tunnel in tunnels}
        return [
            self._moved(before, now, still.get((before.tunnel_id, now.route.network)), by_id.get(before.tunnel_id))
            for before, now in moves.values()
        ]

    def _moved(self, before: Claim, now: Claim, old_cost: int | None, old_tunnel: Carried | None) -> Entry:
        """Say that traffic moved; ``old_cost`` is None where the tunnel it left has no route any more."""
        old, new = self._names.get(before.tunnel_id, before.tunnel_id), self._names.get(now.tunnel_id, now.tunnel_id)
        if old_cost is not None:
            reason = f"{new} is up with cost {now.cost}, which is before the {old_cost} of {old}"
        else:
            reason = _why_gone(old, old_tunnel)
        network = now.route.network
        return Entry(
            "agent.route-moved",
            f"Traffic to {network} moved from {old} to {new}: {reason}",
            now.tunnel_id,
            attributes={"network": network, "from": old, "to": new, "reason": reason, "context": now.context},
        )


def _why_gone(name: str, tunnel: Carried | None) -> str:
    if tunnel is None:
        return f"{name} is switched off or not configured any more"
    if tunnel.up:
        return f"{name} does not carry this network any more"
    if tunnel.status is not None and tunnel.status.reason is not None:
        return f"{name} is {tunnel.status.state}: {tunnel.status.reason.message}"
    return f"{name} is {tunnel.status.state if tunnel.status is not None else 'down'}"


def _lanes(claim: Claim, *, vrfs: bool) -> list[Lane]:
    """Return what uses a route: its table, or in a context of rules each source that they look up there.

    Sources of two contexts of rules may be the same network: what the first has no route to is looked up in the next.
    """
    network = claim.route.network
    if claim.context == LOCAL_CONTEXT or vrfs or not claim.sources:
        return [(f"table {claim.route.table}", network)]
    return [(f"from {source}", network) for source in claim.sources]


def _laid(claim: Claim, *, repaired: bool, stands_by: bool) -> Entry:
    route = claim.route
    code, done = ("agent.repaired", "put back") if repaired else ("agent.route-added", "added")
    if stands_by:
        done += f"; it stands by with cost {claim.cost}"
    message = f"Route to {route.network} through {route.interface} {done}"
    return Entry(code, message, claim.tunnel_id, attributes=_attributes(route) | {"cost": str(claim.cost)})


def _attributes(route: Route) -> dict[str, str]:
    return {"network": route.network, "interface": route.interface}


def _record(claim: Claim) -> RouteRecord:
    route = claim.route
    return RouteRecord(
        network=route.network,
        interface=route.interface,
        gateway=route.gateway,
        context=claim.context,
        cost=claim.cost,
        tunnel_id=claim.tunnel_id,
        child=claim.child,
        spis=claim.spis,
        cause=claim.cause,
        since=0.0,
    )
