"""``vpn-agent routes``, ``filter``, ``contexts``, ``hold`` and ``withdraw``: what the agent keeps on its host."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from typing import Any

from agents.agentd import kept_filter
from agents.agentd.errors import HostError
from agents.agentd.host import LinuxHost
from agents.agentd.kept_filter import KeptFilter
from agents.agentd.withdraw import withdraw
from agents.cli import text
from agents.cli.ask import Agentd, CommandError, ask
from agents.contract.codec import to_plain
from agents.contract.status import FilterCounters, GatewayStatus, RouteRecord
from agents.runtime import paths
from agents.runtime.rpc import Client, RpcUnavailable


def add(commands: Any, places: argparse.ArgumentParser, output: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    routes = commands.add_parser("routes", parents=[places, output], help="show routes, whose they are and since when")
    routes.add_argument("--all", action="store_true", help="with those that are gone")
    routes.set_defaults(command=_routes)
    filtering = commands.add_parser("filter", parents=[places, output], help="show what the packet filter counted")
    filtering.set_defaults(command=_filter)
    contexts = commands.add_parser("contexts", parents=[places, output], help="show the routing contexts")
    contexts.set_defaults(command=_contexts)
    holding = commands.add_parser(
        "hold",
        parents=[places],
        help="put the packet filter of before back, ahead of the agent",
        description="For a machine that starts, before its network is up: where the configuration in force has the "
        "packet filter on, puts it in force as it was last. The agent takes it over when it runs. A filter that is in "
        "force already stays as it is.",
    )
    holding.set_defaults(command=_hold)
    leaving = commands.add_parser(
        "withdraw",
        parents=[places],
        help="take the agent's routes, rules, VRFs and packet filter off this machine",
        description="For a machine that the agent leaves: takes its routes, rules, VRFs and packet filter away. Stop "
        "the agent first, or it puts them back.",
    )
    leaving.set_defaults(command=_withdraw)


def _routes(arguments: argparse.Namespace) -> int:
    status = ask(_socket(arguments), lambda agentd: agentd.status())
    lines = [line for line in status.route_ledger if arguments.all or line.until is None]
    if arguments.json:
        print(json.dumps(to_plain(tuple(lines)), indent=2))
    else:
        print(routes_text(status, lines))
    return 0


def _filter(arguments: argparse.Namespace) -> int:
    async def both(agentd: Agentd) -> tuple[GatewayStatus, dict[str, Any]]:
        return await agentd.status(), await agentd.filtered()

    status, filtered = ask(_socket(arguments), both)
    if arguments.json:
        counted = {tunnel.name: to_plain(tunnel.filter) for tunnel in status.tunnels}
        print(json.dumps({**filtered, "tunnels": counted}, indent=2))
    else:
        print(filter_text(status, filtered))
    return 0


def _contexts(arguments: argparse.Namespace) -> int:
    contexts = ask(_socket(arguments), lambda agentd: agentd.contexts())
    print(json.dumps(contexts, indent=2) if arguments.json else contexts_text(contexts))
    return 0


def _hold(arguments: argparse.Namespace) -> int:
    where = paths.from_arguments(arguments)

    async def work() -> bool:
        async with LinuxHost() as host:
            return await KeptFilter(where.kept_filter).load(host)

    try:
        done = kept_filter.wanted(where) and asyncio.run(work())
    except HostError as error:
        raise CommandError(str(error)) from None
    print("The packet filter of before is in force." if done else "There is nothing to hold.")
    return 0


def _withdraw(arguments: argparse.Namespace) -> int:
    async def work() -> list[str]:
        try:
            async with await Client.connect(_socket(arguments)):
                raise CommandError("the agent is running and would put everything back: stop it first")
        except RpcUnavailable:
            async with LinuxHost() as host:
                return await withdraw(host, KeptFilter(paths.from_arguments(arguments).kept_filter))

    try:
        done = asyncio.run(work())
    except HostError as error:
        raise CommandError(str(error)) from None
    print("\n".join(f"Removed {each}" for each in done) or "Nothing of the agent's is here.")
    return 0


def _socket(arguments: argparse.Namespace) -> Any:
    return paths.from_arguments(arguments).agentd_socket


_ROUTE_HEADS = ("NETWORK", "THROUGH", "CONTEXT", "COST", "STATE", "TUNNEL", "FOR", "SPIS", "SINCE", "UNTIL")


def routes_text(status: GatewayStatus, lines: Sequence[RouteRecord]) -> str:
    """Return the lines of the ledger as a table; of those that stand the lowest cost is the one in use."""
    names = {tunnel.id: tunnel.name for tunnel in status.tunnels}
    used: dict[tuple[str, str], int] = {}
    for line in lines:
        if line.until is None:
            key = (line.context, line.network)
            used[key] = min(used.get(key, line.cost), line.cost)
    if not lines:
        return "No route is laid."
    return text.table(_ROUTE_HEADS, [_route_row(line, names, used) for line in lines])


def _route_row(line: RouteRecord, names: dict[str, str], used: dict[tuple[str, str], int]) -> tuple[str, ...]:
    if line.until is not None:
        state = "gone"
    else:
        state = "in use" if used[line.context, line.network] == line.cost else "stands by"
    return (
        line.network,
        line.interface + (f" via {line.gateway}" if line.gateway is not None else ""),
        line.context,
        str(line.cost),
        state,
        names.get(line.tunnel_id, line.tunnel_id),
        f"child {line.child}" if line.child is not None else line.cause,
        " ".join(line.spis) or "-",
        text.moment(line.since),
        text.moment(line.until) if line.until is not None else "-",
    )


_FILTER_HEADS = ("TUNNEL", "IKE ADMITTED", "IPSEC ADMITTED", "CLEAR TEXT IN DROPPED", "CLEAR TEXT OUT DROPPED")


def filter_text(status: GatewayStatus, filtered: dict[str, Any]) -> str:
    """Return the counters as a table."""
    if not filtered["on"]:
        return "The packet filter is off."
    rows = [
        (tunnel.name, *(str(count) for count in _filtered(found)))
        if (found := tunnel.filter) is not None
        else (tunnel.name, "-", "-", "-", "-")
        for tunnel in status.tunnels
    ]
    strangers = [f"{name} {'-' if count is None else count}" for name, count in filtered["strangers"].items()]
    return f"{text.table(_FILTER_HEADS, rows)}\n\nDropped from strangers: {', '.join(strangers)} packets"


def _filtered(found: FilterCounters) -> tuple[int, ...]:
    return found.admitted_ike, found.admitted_ipsec, found.dropped_clear, found.dropped_leaving


def contexts_text(contexts: Sequence[dict[str, Any]]) -> str:
    """Return the contexts, each with its rules below."""
    if not contexts:
        return "There is no context but local, the main routing table."
    lines = []
    for each in contexts:
        means = f"VRF {each['vrf']}" if each["vrf"] is not None else "rules"
        ends = f"; endpoints of: {', '.join(each['endpoints'])}" if each["endpoints"] else ""
        tunnels = ", ".join(each["tunnels"]) or "none"
        lines.append(f"{each['name']}: table {each['table']}, {means}; tunnels: {tunnels}{ends}")
        lines += [f"  {rule}" for rule in each["rules"]]
    return "\n".join(lines)
