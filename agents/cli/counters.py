"""``vpn-agent counters``: what passed and what was refused, per SA, child, tunnel and gateway, and the queues."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from agents.cli import text
from agents.cli.ask import ask, find_tunnel
from agents.contract.codec import to_plain
from agents.contract.ipsecstat import rejections
from agents.contract.status import Counters, GatewayStatus, Rejections, TunnelStatus
from agents.runtime import paths

_HEADS = ("WHAT", "IN", "PACKETS", "OUT", "PACKETS", "REFUSED")
_QUEUE_HEADS = ("QUEUE", "OUT", "PACKETS", "DROPPED", "WAITING")


def add(commands: Any, *parents: argparse.ArgumentParser) -> None:
    """Add the command to a parser's."""
    parser = commands.add_parser(
        "counters",
        parents=parents,
        help="show traffic, refused packets and queues",
        description="Tunnels, their children and the gateway are counted over rekeys and restarts, an SA since it was "
        "installed, a queue since its link is there.",
    )
    parser.add_argument("tunnel", nargs="?", help="one tunnel with its SAs")
    parser.set_defaults(command=_counters)


def _counters(arguments: argparse.Namespace) -> int:
    status = ask(paths.from_arguments(arguments).agentd_socket, lambda agentd: agentd.status())
    if arguments.tunnel is not None:
        tunnel = find_tunnel(status, arguments.tunnel)
        print(json.dumps(tunnel_plain(tunnel), indent=2) if arguments.json else tunnel_text(tunnel))
    elif arguments.json:
        gateway = {each.name: each.count for each in status.ipsec_counts}
        plane = {each.name: each.count for each in status.data_plane_counts}
        tunnels = {tunnel.name: tunnel_plain(tunnel) for tunnel in status.tunnels}
        print(json.dumps({"gateway": gateway, "data_plane": plane, "tunnels": tunnels}, indent=2))
    else:
        print(gateway_text(status))
    return 0


def tunnel_plain(tunnel: TunnelStatus) -> dict[str, Any]:
    """Return one tunnel's counts for programs."""
    return {
        "counters": to_plain(tunnel.counters),
        "rejected": to_plain(tunnel.rejected),
        "queues": to_plain(tunnel.queues),
        "rate_kbps": tunnel.rate_kbps,
        "filter": to_plain(tunnel.filter),
        "children": {
            child.name: {
                "counters": to_plain(child.counters),
                "rejected": to_plain(child.rejected),
                "sas": [
                    {name: to_plain(getattr(sa, name)) for name in ("spi_in", "spi_out", "counters", "rejected")}
                    for sa in child.sas
                ],
            }
            for child in tunnel.children
        },
    }


def gateway_text(status: GatewayStatus) -> str:
    """Return a line per tunnel, the sum of all that there ever were, and the data plane's own counters."""
    counts = {each.name: each.count for each in status.ipsec_counts}
    whole = Counters(
        bytes_in=counts.get("bytes.in", 0),
        bytes_out=counts.get("bytes.out", 0),
        packets_in=counts.get("packets.in", 0),
        packets_out=counts.get("packets.out", 0),
    )
    rows = [_row(tunnel.name, tunnel.counters, tunnel.rejected) for tunnel in status.tunnels]
    rows.append(_row("gateway, over all time", whole, rejections(status)))
    lines = [text.table(_HEADS, rows)]
    if status.data_plane_counts:
        named = [(each.name, str(each.count)) for each in status.data_plane_counts]
        lines += ["", text.table((f"DATA PLANE ({status.data_plane.driver or 'none'})", "COUNT"), named)]
    return "\n".join(lines)


def tunnel_text(tunnel: TunnelStatus) -> str:
    """Return one tunnel down to its SAs."""
    rows = [_row(tunnel.name, tunnel.counters, tunnel.rejected)]
    for child in tunnel.children:
        rows.append(_row(f"  {child.name}", child.counters, child.rejected))
        rows += [_row(f"    SA {sa.spi_in} {sa.spi_out}", sa.counters, sa.rejected) for sa in child.sas]
    lines = [text.table(_HEADS, rows)]
    refused = [(name, str(count)) for name, count in dataclasses.asdict(tunnel.rejected).items() if count]
    if refused:
        lines += ["", text.table(("REFUSED BECAUSE OF", "PACKETS"), refused)]
    if tunnel.queues:
        queues = [
            (
                str(each.queue),
                text.octets(each.bytes),
                str(each.packets),
                str(each.dropped_packets),
                str(each.depth_packets),
            )
            for each in tunnel.queues
        ]
        lines += ["", text.table(_QUEUE_HEADS, queues)]
        if tunnel.rate_kbps is not None:
            lines.append(f"Together they send {tunnel.rate_kbps} kbit/s at most.")
    return "\n".join(lines)


def _row(name: str, counters: Counters, rejected: Rejections) -> tuple[str, ...]:
    return (
        name,
        text.octets(counters.bytes_in),
        str(counters.packets_in),
        text.octets(counters.bytes_out),
        str(counters.packets_out),
        str(sum(dataclasses.asdict(rejected).values())),
    )
