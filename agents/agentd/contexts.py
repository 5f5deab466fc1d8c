"""Makes the routing contexts of a document and removes them again."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from agents.agentd.errors import HostError
from agents.agentd.host import NO_TABLE, Host, HostView, Rule
from agents.agentd.journal import Journal
from agents.agentd.parts import contexts, endpoints
from agents.agentd.parts.carried import Carried
from agents.agentd.parts.contexts import ALIAS, Vrf
from agents.contract.carriage import Context
from agents.contract.config import GatewayDocument


class ContextKeeper:
    """Applies what is wanted. ``vrfs`` tells whether contexts are VRFs, ``shown`` what there is, for people."""

    def __init__(self, host: Host, journal: Journal) -> None:
        self._host = host
        self._journal = journal
        self._in_place: set[Vrf | Rule] = set()
        self.vrfs = False
        self.shown: tuple[dict[str, Any], ...] = ()

    async def lead(self, tunnels: Sequence[Carried], view: HostView) -> list[str]:
        """Add the rules of endpoints that are missing; what is to go stays, as ``iked`` may still have a use for it."""
        problems: list[str] = []
        for rule in sorted(endpoints.rules(tunnels) - set(view.rules), key=contexts.order):
            await self._did(self._host.add_rule(rule), problems)
        return problems

    async def apply(
        self, document: GatewayDocument | None, tunnels: Sequence[Carried], view: HostView
    ) -> tuple[HostView, list[str]]:
        """Put contexts right; returns the machine as it is then and what is in the way."""
        have = contexts.ours(view)
        wanted = document.contexts if document is not None else ()
        self.vrfs = bool(wanted or have) and await self._host.has_vrfs()
        tenants = contexts.tenants(document) if document is not None else ()
        plan = contexts.plan(tenants, tunnels, view, vrfs=self.vrfs)
        problems = [*plan.problems, *endpoints.problems(tunnels, view, self._host.setting)]
        for vrf in plan.remove_vrfs:
            if await self._did(self._host.remove_vrf(vrf.name, vrf.table), problems):
                self._tell("agent.context-removed", vrf.context, f"VRF {vrf.name} removed")
        for vrf in plan.add_vrfs:
            if await self._did(self._host.add_vrf(vrf.name, vrf.table, ALIAS + vrf.context), problems):
                code = "agent.repaired" if vrf in self._in_place else "agent.context-made"
                self._tell(code, vrf.context, f"VRF {vrf.name} made for table {vrf.table}")
        for name, master in plan.masters:
            await self._did(self._host.set_master(name, master), problems)
        for rule in plan.remove_rules:
            await self._did(self._host.remove_rule(rule), problems)
        for rule in plan.add_rules:
            if await self._did(self._host.add_rule(rule), problems) and rule in self._in_place:
                name = next((each.name for each in wanted if _belongs(rule, each, tunnels)), str(rule.table))
                self._tell("agent.repaired", name, f"{describe(rule)} put back")
        changed = plan.remove_vrfs or plan.add_vrfs or plan.masters or plan.remove_rules or plan.add_rules
        if changed:
            view = await self._host.look()
        self._in_place = {*contexts.ours(view).values(), *view.rules}
        self.shown = tuple(self._show(context, tunnels, view) for context in wanted)
        return view, problems

    async def _did(self, change: Awaitable[None], problems: list[str]) -> bool:
        try:
            await change
        except HostError as error:
            problems.append(str(error))
            return False
        return True

    def _tell(self, code: str, context: str, message: str) -> None:
        self._journal.append(code, message, attributes={"context": context})

    def _show(self, context: Context, tunnels: Sequence[Carried], view: HostView) -> dict[str, Any]:
        name = contexts.vrf_name(context.name) if self.vrfs else None
        return {
            "name": context.name,
            "table": context.table,
            "vrf": name if name is not None and view.link(name) is not None else None,
            "rules": [describe(rule) for rule in view.rules if _belongs(rule, context, tunnels)],
            "tunnels": [tunnel.name for tunnel in tunnels if tunnel.carriage.context == context.name],
            "endpoints": [tunnel.name for tunnel in tunnels if tunnel.carriage.endpoint_context == context.name],
        }


def describe(rule: Rule) -> str:
    """Return a rule as ``ip rule`` shows it."""
    words = [f"from {rule.source or 'all'}"]
    if rule.destination is not None:
        words.append(f"to {rule.destination}")
    if rule.marked is not None:
        words.append(f"fwmark {rule.marked:#x}/{rule.marked:#x}")
    if rule.unmarked is not None:
        words.append(f"fwmark 0/{rule.unmarked:#x}")
    if rule.interface is not None:
        words.append(f"iif {rule.interface}")
    if rule.protocol is not None:
        words.append(f"ipproto {rule.protocol}")
    words += [
        f"{end} {ports[0]}-{ports[1]}"
        for end, ports in (("sport", rule.source_ports), ("dport", rule.destination_ports)) if ports is not None
    ]  # fmt: skip
    if rule.table != NO_TABLE:
        words.append(f"lookup {rule.table}")
    elif rule.unreachable:
        words.append("unreachable")
    else:
        words.append("nop" if rule.skip_to is None else f"goto {rule.skip_to}")
    family = "" if rule.version == 4 else "IPv6 "
    return f"{family}{rule.priority}: {' '.join(words)}"


def _belongs(rule: Rule, context: Context, tunnels: Sequence[Carried]) -> bool:
    """Whether a rule leads to the context's table, or nowhere what that has no route for."""
    if rule.unreachable:
        return rule.source in endpoints.addresses(tunnels, context.name)
    return rule.table == context.table
