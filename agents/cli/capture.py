"""``vpn-agent capture``: begin, end, list and delete packet captures of tunnels on this gateway."""

from __future__ import annotations

import argparse
import json
import time
import uuid
from typing import Any

from agents.cli import text
from agents.cli.ask import Agentd, CommandError, ask, find_tunnel
from agents.contract.captures import KEPT_S, MOST_OCTETS, MOST_PACKETS, MOST_SECONDS, CaptureRequest, CaptureView
from agents.contract.codec import from_plain, to_plain
from agents.contract.errors import FieldError
from agents.contract.status import CaptureStatus, GatewayStatus
from agents.runtime import paths

_HEADS = ("ID", "TUNNEL", "VIEW", "STATE", "STARTED", "PACKETS", "SIZE")
_DEFAULT = CaptureRequest(id=str(uuid.UUID(int=0)), tunnel_id=str(uuid.UUID(int=0)), view=CaptureView.OUTER)


def add(commands: Any, places: argparse.ArgumentParser, output: argparse.ArgumentParser) -> None:
    """Add the command and its own commands to a parser's."""
    group = commands.add_parser("capture", help="packet captures of tunnels").add_subparsers(
        required=True, metavar="COMMAND"
    )
    start = group.add_parser(
        "start",
        parents=[places, output],
        help="begin one",
        description="The capture ends with the first bound it reaches. Keys are in none: inner packets are those that "
        f"the gateway decrypted, or is about to encrypt. The file is deleted after {text.age(KEPT_S)}.",
    )
    start.add_argument("tunnel", help="name or id")
    start.add_argument("--view", choices=[str(view) for view in CaptureView], default="outer", help="(default: outer)")
    for name, bound, most in (
        ("seconds", _DEFAULT.seconds, MOST_SECONDS),
        ("octets", _DEFAULT.octets, MOST_OCTETS),
        ("packets", _DEFAULT.packets, MOST_PACKETS),
    ):
        what = f"at most {most} (default: {bound})"
        start.add_argument(f"--{name}", type=int, default=bound, metavar="N", help=what)
    start.set_defaults(command=_start)
    for name, command, does in (
        ("stop", _stop, "end one"),
        ("remove", _remove, "delete one"),
        ("file", _file, "print where its file is"),
    ):
        acting = group.add_parser(name, parents=[places, output], help=does)
        acting.add_argument("id", help="as list shows it")
        acting.set_defaults(command=command)
    listing = group.add_parser("list", parents=[places, output], help="show those that there are")
    listing.set_defaults(command=_list)


def _start(arguments: argparse.Namespace) -> int:
    async def start(agentd: Agentd) -> CaptureStatus:
        tunnel = find_tunnel(await agentd.status(), arguments.tunnel)
        request = CaptureRequest(
            id=str(uuid.uuid4()),
            tunnel_id=tunnel.id,
            view=CaptureView(arguments.view),
            seconds=arguments.seconds,
            octets=arguments.octets,
            packets=arguments.packets,
        )
        return from_plain(CaptureStatus, await agentd.client.call("capture_start", to_plain(request)))

    try:
        status = ask(paths.from_arguments(arguments).agentd_socket, start)
    except FieldError as error:
        raise CommandError(f"--{error}") from None
    print(json.dumps(to_plain(status), indent=2) if arguments.json else f"Capture {status.id} runs.")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    answer = _call(arguments, "capture_stop")
    status = from_plain(CaptureStatus, answer)
    print(json.dumps(answer, indent=2) if arguments.json else f"{status.packets} packets: {status.ended_because}.")
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    _call(arguments, "capture_remove")
    print("{}" if arguments.json else "Deleted.")
    return 0


def _file(arguments: argparse.Namespace) -> int:
    answer = _call(arguments, "capture_file")
    print(json.dumps(answer) if arguments.json else answer["path"])
    return 0


def _call(arguments: argparse.Namespace, method: str) -> Any:
    async def call(agentd: Agentd) -> Any:
        return await agentd.client.call(method, {"id": arguments.id})

    return ask(paths.from_arguments(arguments).agentd_socket, call)


def _list(arguments: argparse.Namespace) -> int:
    status = ask(paths.from_arguments(arguments).agentd_socket, lambda agentd: agentd.status())
    if arguments.json:
        print(json.dumps(to_plain(status.captures), indent=2))
    elif status.captures:
        print(text.table(_HEADS, [_row(each, status) for each in status.captures]))
    else:
        print("There is no capture.")
    return 0


def _row(each: CaptureStatus, status: GatewayStatus) -> tuple[str, ...]:
    names = {tunnel.id: tunnel.name for tunnel in status.tunnels}
    return (
        each.id,
        names.get(each.tunnel_id, each.tunnel_id),
        each.view,
        "running" if each.running else each.ended_because,
        f"{text.age(time.time() - each.started_at)} ago",
        str(each.packets),
        text.octets(each.octets),
    )
