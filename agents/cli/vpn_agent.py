"""``vpn-agent``: enrol a gateway, keep its keys, run its processes, look at its tunnels and act on them."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import sys
from collections.abc import Callable
from pathlib import Path

from agents.agentd.enrol import enrol
from agents.agentd.errors import EnrolmentError
from agents.cli import capture, counters, keys, network, text, trace
from agents.cli.ask import FAILED, Agentd, CommandError, ask, fail, find_tunnel
from agents.contract.actions import Verb
from agents.contract.codec import to_plain
from agents.contract.events import Event
from agents.contract.status import ComponentHealth, GatewayStatus, TunnelStatus
from agents.runtime import log_levels, logs, paths
from agents.runtime.rpc import RpcUnavailable
from agents.runtime.supervisor import agent_programs, supervise
from agents.runtime.version import VERSION

DEFAULT_PORT = 8470
_VERBS = {
    "up": (Verb.INITIATE, "start the negotiation of a tunnel"),
    "down": (Verb.TERMINATE, "end a tunnel's SAs"),
    "clear-ike": (Verb.CLEAR_IKE, "clear the IKE SA, and with it its IPsec SAs"),
    "clear-ipsec": (Verb.CLEAR_IPSEC, "clear the IPsec SAs only"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parsed = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = parsed.command
    try:
        return command(parsed)
    except (CommandError, EnrolmentError, paths.PathError) as error:
        return fail("vpn-agent", error)
    except (KeyboardInterrupt, BrokenPipeError):
        return FAILED


def _parser() -> argparse.ArgumentParser:
    places = argparse.ArgumentParser(add_help=False)
    paths.add_arguments(places)
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(prog="vpn-agent", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    joining = commands.add_parser("enrol", parents=[places], help="enrol this gateway with a one-time token")
    joining.add_argument("--console", required=True, metavar="URL", help="the console's address")
    token = joining.add_mutually_exclusive_group(required=True)
    token.add_argument("--token", help="the token; better in a file, where no process list shows it")
    token.add_argument("--token-file", type=Path, metavar="FILE", help="a file with the token, - for standard input")
    joining.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"the agent's port (default: {DEFAULT_PORT})")
    joining.set_defaults(command=_enrol)

    running = commands.add_parser("run", parents=[places], help="run the agent's processes and keep them running")
    running.add_argument("--listen", metavar="ADDR:PORT", help="where the console reaches the agent")
    logs.add_arguments(running)
    running.set_defaults(command=_run)

    status = commands.add_parser("status", parents=[places, output], help="show the gateway and its tunnels")
    status.add_argument("tunnel", nargs="?", help="one tunnel in detail")
    status.set_defaults(command=_status)

    for name, (verb, description) in _VERBS.items():
        acting = commands.add_parser(name, parents=[places, output], help=description)
        acting.add_argument("tunnel", help="name or id")
        acting.set_defaults(command=_act, verb=verb)
    rekeying = commands.add_parser("rekey", parents=[places, output], help="rekey the IPsec SAs of a tunnel")
    rekeying.add_argument("tunnel", help="name or id")
    rekeying.add_argument(
        "--ike", dest="verb", action="store_const", const=Verb.REKEY_IKE, default=Verb.REKEY_CHILD, help="the IKE SA"
    )
    rekeying.set_defaults(command=_act)

    events = commands.add_parser("events", parents=[places, output], help="show the event journal")
    events.add_argument("--follow", action="store_true", help="go on until interrupted")
    events.add_argument("--after", type=int, help="events above this number (default: the last --limit)")
    events.add_argument("--limit", type=int, default=50, help="at most so many to begin with (default: 50)")
    events.set_defaults(command=_events)

    levels = commands.add_parser(
        "log-level",
        parents=[places, output],
        help="show how much each part logs, or change it until its process ends",
        description="Without PART and LEVEL, show what each process and each part of iked logs from. With them, change "
        "it at once and until the process ends; what is to hold for good is the option --log-level of vpn-agent run.",
    )
    levels.add_argument("part", nargs="?", choices=log_levels.COMPONENTS, metavar="PART")
    levels.add_argument("level", nargs="?", choices=tuple(log_levels.LEVELS), metavar="LEVEL")
    levels.set_defaults(command=_log_level)

    counters.add(commands, places, output)
    capture.add(commands, places, output)
    trace.add(commands, places, output)
    keys.add(commands, places)
    network.add(commands, places, output)

    version = commands.add_parser("version", help="show the version")
    version.set_defaults(command=_version)
    return parser


def _read_token(file: Path) -> str:
    if str(file) != "-":
        return file.read_text(encoding="ascii")
    return getpass.getpass("Token: ") if sys.stdin.isatty() else sys.stdin.readline()


def _enrol(arguments: argparse.Namespace) -> int:
    token = arguments.token
    if token is None:
        try:
            token = _read_token(arguments.token_file)
        except (OSError, UnicodeDecodeError):
            raise CommandError(f"{arguments.token_file} cannot be read as a token") from None
    where = paths.from_arguments(arguments)
    paths.make_private(where.state)
    gateway = asyncio.run(enrol(arguments.console, token, arguments.port, where.identity))
    print(f"Enrolled as {gateway.gateway_name} ({gateway.gateway_id}).")
    if where.agentd_socket.exists():
        print("An agent is running: restart it to use the new identity.")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    logs.set_up("supervisor", arguments.log_level, arguments.log_format)
    where = paths.from_arguments(arguments)
    where.prepare()
    programs = agent_programs(
        where, listen=arguments.listen, log_level=arguments.log_level, log_format=arguments.log_format
    )
    with paths.held(where.run / "supervisor.lock"):
        asyncio.run(supervise(programs))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    status = ask(_socket(arguments), lambda agentd: agentd.status())
    if arguments.tunnel is not None:
        tunnel = find_tunnel(status, arguments.tunnel)
        print(json.dumps(to_plain(tunnel), indent=2) if arguments.json else tunnel_text(tunnel, status.observed_at))
    else:
        print(json.dumps(to_plain(status), indent=2) if arguments.json else status_text(status))
    return 0


def _act(arguments: argparse.Namespace) -> int:
    async def act(agentd: Agentd) -> int:
        tunnel = find_tunnel(await agentd.status(), arguments.tunnel)
        result = await agentd.act(arguments.verb, tunnel.id)
        if arguments.json:
            print(json.dumps(to_plain(result), indent=2))
        else:
            print(f"{tunnel.name}: {result.message or ('taken on' if result.accepted else 'refused')}")
        return 0 if result.accepted else FAILED

    return ask(_socket(arguments), act)


def _events(arguments: argparse.Namespace) -> int:
    async def show(agentd: Agentd) -> int:
        after = arguments.after
        if after is None:
            after = max(0, (await agentd.events(0, 0)).last - arguments.limit)
        after = await _print_events(agentd, after, arguments.limit, arguments.json)
        if arguments.follow:
            async for method, _params in agentd.client.notifications():
                if method == "changed":
                    after = await _print_events(agentd, after, 1_000, arguments.json)
            raise RpcUnavailable("the agent stopped")
        return 0

    return ask(_socket(arguments), show)


async def _print_events(agentd: Agentd, after: int, limit: int, as_json: bool) -> int:
    page = await agentd.events(after, limit)
    for event in page.events:
        print(json.dumps(to_plain(event)) if as_json else event_text(event), flush=True)
    return max([after, *(event.sequence for event in page.events)])


def _log_level(arguments: argparse.Namespace) -> int:
    part, level = arguments.part, arguments.level
    if (part is None) != (level is None):
        raise CommandError(f"give PART and LEVEL, or neither; levels are {', '.join(log_levels.LEVELS)}")
    found = ask(_socket(arguments), lambda agentd: agentd.log_levels(part, level))
    if arguments.json:
        print(json.dumps(found, indent=2))
    elif part is not None:
        print(f"{part} logs {found[part]} until its process ends.")
    else:
        print(text.table(("PART", "LOGS FROM"), list(found.items())))
    return 0


def _version(_arguments: argparse.Namespace) -> int:
    print(VERSION)
    return 0


def _socket(arguments: argparse.Namespace) -> Path:
    return paths.from_arguments(arguments).agentd_socket


def event_text(event: Event) -> str:
    """Return one line for one event."""
    values = [
        f"{name} {value}" for name, value in (("received", event.received), ("configured", event.configured)) if value
    ]
    more = f" ({', '.join(values)})" if values else ""
    return (
        f"{event.sequence:>7}  {text.moment(event.time)}  {event.severity:<7}  {event.code:<24}  {event.message}{more}"
    )


def status_text(status: GatewayStatus) -> str:
    """Return the overview."""
    plane = status.data_plane
    lines = [
        f"Gateway        {status.gateway_id}, agent {status.agent_version}",
        f"Configuration  generation {status.accepted_generation} accepted, {status.applied_generation} in force",
        f"Data plane     {plane.driver or 'none'}" + (f": {plane.reason}" if plane.reason else ""),
    ]
    if status.refusal is not None:
        refusal = status.refusal
        lines.append(f"Last refusal   generation {refusal.generation}: {refusal.path or 'document'}: {refusal.message}")
    lines += [f"Problem        {problem}" for problem in status.problems]
    lines += ["", text.table(_COMPONENT_HEADS, [_component_row(each) for each in status.components]), ""]
    if not status.tunnels:
        return "\n".join([*lines, "No tunnel is configured."])
    return "\n".join(
        [*lines, text.table(_TUNNEL_HEADS, [_tunnel_row(each, status.observed_at) for each in status.tunnels])]
    )


_COMPONENT_HEADS = ("COMPONENT", "STATE", "VERSION", "PID", "LOGS", "DETAIL")


def _component_row(each: ComponentHealth) -> tuple[str, ...]:
    state = "healthy" if each.healthy else "not healthy"
    return (each.name, state, each.version or "-", str(each.pid or "-"), each.log_level or "-", each.detail or "-")


_TUNNEL_HEADS = ("TUNNEL", "STATE", "SINCE", "CHILDREN UP", "IN", "OUT", "WHY NOT")


def _tunnel_row(tunnel: TunnelStatus, now: float) -> tuple[str, ...]:
    up = sum(child.up for child in tunnel.children)
    return (
        tunnel.name,
        str(tunnel.state),
        text.age(now - tunnel.since),
        f"{up} of {len(tunnel.children)}",
        text.octets(tunnel.counters.bytes_in),
        text.octets(tunnel.counters.bytes_out),
        tunnel.reason.message if tunnel.reason is not None else (tunnel.step or "-"),
    )


def tunnel_text(tunnel: TunnelStatus, now: float) -> str:
    """Return one tunnel in detail."""
    counters = tunnel.counters
    lines = [
        f"{tunnel.name} ({tunnel.id}): {tunnel.state} since {text.age(now - tunnel.since)}",
        f"  in   {text.octets(counters.bytes_in)}, {counters.packets_in} packets",
        f"  out  {text.octets(counters.bytes_out)}, {counters.packets_out} packets",
    ]
    if tunnel.interface is not None:
        lines.append(f"  interface {tunnel.interface}")
    lines += [f"  route {network}" for network in tunnel.routes]
    if tunnel.reason is not None:
        reason = tunnel.reason
        lines.append(f"  reason {reason.message} [{reason.code}]")
        lines += [
            f"    {name} {value}"
            for name, value in (
                ("received", reason.received),
                ("configured", reason.configured),
                ("change", reason.field),
            )
            if value
        ]
    for ike_sa in tunnel.ike_sas:
        role = "initiator" if ike_sa.initiator else "responder"
        suite = "/".join(part for part in (ike_sa.encryption, ike_sa.integrity, ike_sa.prf, ike_sa.group) if part)
        lines.append(
            f"  {text.ike_version(ike_sa)} SA {ike_sa.spi_i}_{ike_sa.spi_r} {ike_sa.state}, {role}, "
            f"{ike_sa.local} - {ike_sa.remote}, {suite}"
        )
    for child in tunnel.children:
        lines.append(f"  child {child.name}: {'up' if child.up else 'down'}")
        for sa in child.sas:
            suite = "/".join(part for part in (sa.encryption, sa.integrity, sa.group) if part)
            lines.append(
                f"    ESP in {sa.spi_in} out {sa.spi_out}, {suite}, "
                f"{' '.join(sa.local_ts)} === {' '.join(sa.remote_ts)}{', in UDP' if sa.udp_encapsulation else ''}"
            )
    return "\n".join(lines)
