"""``vpn-agent trace``: record what the agent's processes do, by category, for a while."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from agents.cli import text
from agents.cli.ask import ask
from agents.contract.traces import MOST_OCTETS, MOST_SECONDS, Category
from agents.runtime import paths, tracing

_WARNING = (
    "Warning: information categories record every message or packet and slow the gateway down while the trace runs."
)
_SECONDS, _OCTETS = 60, 1024 * 1024


def add(commands: Any, places: argparse.ArgumentParser, output: argparse.ArgumentParser) -> None:
    """Add the command and its own commands to a parser's."""
    group = commands.add_parser("trace", help="record what the agent does, by category").add_subparsers(
        required=True, metavar="COMMAND"
    )
    on = group.add_parser(
        "on",
        parents=[places, output],
        help="begin a trace in the place of any other",
        description="The trace ends by itself when its time is over or its octets are full. It holds no keys and no "
        f"payloads. {_WARNING}",
    )
    names = ", ".join(Category)
    on.add_argument("categories", nargs="+", choices=[str(each) for each in Category], metavar="CATEGORY", help=names)
    on.add_argument("--seconds", type=int, default=_SECONDS, help=f"at most {MOST_SECONDS} (default: {_SECONDS})")
    octets = f"of each process, at most {MOST_OCTETS} (default: {_OCTETS})"
    on.add_argument("--octets", type=int, default=_OCTETS, help=octets)
    only = on.add_mutually_exclusive_group()
    for version in (4, 6):
        only.add_argument(
            f"-{version}", dest="version", action="store_const", const=version, help=f"of packets, only IPv{version}"
        )
    on.set_defaults(command=_on)
    off = group.add_parser("off", parents=[places, output], help="end the trace; what it recorded stays")
    off.set_defaults(command=_off)
    show = group.add_parser("show", parents=[places, output], help="print what was recorded")
    show.set_defaults(command=_show)


def _on(arguments: argparse.Namespace) -> int:
    categories = list(dict.fromkeys(arguments.categories))
    params = {
        "action": "on",
        "categories": categories,
        "seconds": arguments.seconds,
        "octets": arguments.octets,
        "version": arguments.version,
    }
    if any(Category(each).costly for each in categories):
        print(_WARNING, file=sys.stderr)
    answer = _ask(arguments, params)
    if arguments.json:
        print(json.dumps(answer["processes"], indent=2))
    else:
        print(f"Tracing {', '.join(categories)} for {arguments.seconds} s at most; vpn-agent trace show prints it.")
        _print_away(answer)
    return 0


def _off(arguments: argparse.Namespace) -> int:
    answer = _ask(arguments, {"action": "off"})
    print(json.dumps(answer["processes"], indent=2) if arguments.json else "The trace is off; show prints it.")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    answer = _ask(arguments, {"action": "show"})
    if arguments.json:
        print(json.dumps(answer, indent=2))
        return 0
    for line in tracing.lines(answer, text.moment):
        print(line)
    return 0


def _print_away(answer: dict[str, Any]) -> None:
    for process, state in answer["processes"].items():
        if not state["on"]:
            print(f"{process} does not trace: {state['ended_because']}")


def _ask(arguments: argparse.Namespace, params: dict[str, Any]) -> dict[str, Any]:
    async def call(agentd: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await agentd.client.call("trace", params)
        return answer

    return ask(paths.from_arguments(arguments).agentd_socket, call)
