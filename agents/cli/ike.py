"""``ike cmd=...``: the tunnel manager's command line as AIX has it, over this agent.

Phase 1 tunnels are the configured tunnels, numbered in the order of the configuration; phase 2 tunnels are their
children, numbered through. ``cmd=log`` shows what the negotiation said, by the levels ``errors``, ``events`` and
``information``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from agents.cli import text
from agents.cli.ask import FAILED, Agentd, CommandError, ask, fail
from agents.cli.places import take_places
from agents.contract.actions import Verb
from agents.contract.events import Event, Severity
from agents.contract.status import ChildStatus, GatewayStatus, TunnelState, TunnelStatus

USAGE = """usage: ike cmd=list [phase=1|2] [numlist=N,...] [name=NAME] [verbose=yes]
       ike cmd=activate [phase=1|2] numlist=N,... | name=NAME
       ike cmd=remove [phase=1|2] numlist=N,... | name=NAME
       ike cmd=log [level=none|errors|events|information] [count=N]
       everywhere: [--json] [--state DIR] [--run DIR]"""
NOT_AVAILABLE = "not available"
_KNOWN = {
    "list": {"phase", "numlist", "name", "verbose"},
    "activate": {"phase", "numlist", "name"},
    "remove": {"phase", "numlist", "name"},
    "log": {"level", "count"},
}
_STATES = {
    TunnelState.UP: "Active",
    TunnelState.PARTLY_UP: "Active",
    TunnelState.IDLE: "Active",
    TunnelState.NEGOTIATING: "Negotiating",
    TunnelState.DOWN: "Dormant",
    TunnelState.DISABLED: "Disabled",
}
_LEVELS = {
    "none": frozenset[Severity](),
    "errors": frozenset({Severity.ERROR}),
    "events": frozenset({Severity.ERROR, Severity.WARNING}),
    "information": frozenset(Severity),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of ``cmd=list``."""

    phase: int
    number: int
    name: str
    status: str
    local: str
    remote: str
    tunnel_id: str
    ike: str = NOT_AVAILABLE


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        places, words = take_places(sys.argv[1:] if arguments is None else arguments)
        as_json = "--json" in words
        options = _options([word for word in words if word != "--json"])
        command = options.pop("cmd", "")
        unknown = set(options) - _KNOWN.get(command, set())
        if command not in _KNOWN or unknown:
            print(USAGE, file=sys.stderr)
            return 2
        if command == "list":
            status = ask(places.agentd_socket, lambda agentd: agentd.status())
            print(_list(status, options, as_json))
            return 0
        if command == "log":
            return ask(places.agentd_socket, lambda agentd: _log(agentd, options, as_json))
        verb = {"activate": {1: Verb.INITIATE, 2: Verb.INITIATE}, "remove": {1: Verb.TERMINATE, 2: Verb.CLEAR_IPSEC}}
        return ask(places.agentd_socket, lambda agentd: _act(agentd, verb[command], options))
    except CommandError as error:
        return fail("ike", error)


def rows(status: GatewayStatus) -> list[Row]:
    """Return both phases' lines."""
    found: list[Row] = []
    number = 0
    for index, tunnel in enumerate(status.tunnels, start=1):
        found.append(_phase_1(index, tunnel))
        for child in tunnel.children:
            number += 1
            found.append(_phase_2(number, tunnel, child))
    return found


def _phase_1(number: int, tunnel: TunnelStatus) -> Row:
    sa = tunnel.ike_sas[0] if tunnel.ike_sas else None
    return Row(
        phase=1,
        number=number,
        name=tunnel.name,
        status="Active" if sa is not None and tunnel.state is not TunnelState.NEGOTIATING else _STATES[tunnel.state],
        local=sa.local if sa is not None else NOT_AVAILABLE,
        remote=sa.remote if sa is not None else NOT_AVAILABLE,
        tunnel_id=tunnel.id,
        ike=text.ike_version(sa) if sa is not None else NOT_AVAILABLE,
    )


def _phase_2(number: int, tunnel: TunnelStatus, child: ChildStatus) -> Row:
    sa = child.sas[0] if child.sas else None
    waiting = "Negotiating" if tunnel.state is TunnelState.NEGOTIATING else "Dormant"
    return Row(
        phase=2,
        number=number,
        name=f"{tunnel.name}/{child.name}",
        status="Active" if child.up else "Disabled" if tunnel.state is TunnelState.DISABLED else waiting,
        local=" ".join(sa.local_ts) if sa is not None else NOT_AVAILABLE,
        remote=" ".join(sa.remote_ts) if sa is not None else NOT_AVAILABLE,
        tunnel_id=tunnel.id,
        ike="",
    )


def select(found: list[Row], options: Mapping[str, str]) -> list[Row]:
    """Return the rows that ``phase``, ``numlist`` and ``name`` name; raises :class:`CommandError` for none."""
    phase = options.get("phase")
    if phase is not None and phase not in ("1", "2"):
        raise CommandError("phase is 1 or 2")
    chosen = [row for row in found if phase is None or row.phase == int(phase)]
    if "numlist" in options:
        numbers = options["numlist"].split(",")
        if not all(number.isascii() and number.isdigit() for number in numbers):
            raise CommandError("numlist is numbers with commas between")
        chosen = [row for row in chosen if str(row.number) in numbers]
    if "name" in options:
        chosen = [row for row in chosen if options["name"] in (row.name, row.name.partition("/")[0])]
    if not chosen and ("numlist" in options or "name" in options):
        raise CommandError("there is no such tunnel; ike cmd=list shows all")
    return chosen


def _list(status: GatewayStatus, options: Mapping[str, str], as_json: bool) -> str:
    chosen = select(rows(status), options)
    if as_json:
        return json.dumps([asdict(row) for row in chosen], indent=2)
    heads = ("Phase", "Tun Id", "Status", "IKE", "Local Id", "Remote Id", "Name")
    lines = [
        (str(row.phase), str(row.number), row.status, row.ike or "-", row.local, row.remote, row.name) for row in chosen
    ]
    shown = text.table(heads, lines)
    if options.get("verbose") == "yes":
        by_id = {tunnel.id: tunnel for tunnel in status.tunnels}
        reasons = [
            f"{row.name}: {reason.message}"
            for row in chosen
            if row.phase == 1 and (reason := by_id[row.tunnel_id].reason) is not None
        ]
        shown = "\n".join([shown, *reasons])
    return shown


async def _act(agentd: Agentd, verbs: Mapping[int, Verb], options: Mapping[str, str]) -> int:
    if "numlist" not in options and "name" not in options:
        raise CommandError("say which tunnel: numlist= or name=")
    chosen = select(rows(await agentd.status()), {"phase": "1", **options})
    outcome = 0
    for tunnel_id, row in {row.tunnel_id: row for row in chosen}.items():
        result = await agentd.act(verbs[row.phase], tunnel_id)
        print(f"Phase {row.phase} tunnel {row.number} ({row.name}): {result.message or 'taken on'}")
        outcome = outcome if result.accepted else FAILED
    return outcome


async def _log(agentd: Agentd, options: Mapping[str, str], as_json: bool) -> int:
    level, count = options.get("level", "information"), options.get("count", "50")
    if level not in _LEVELS:
        raise CommandError("level is none, errors, events or information")
    if not (count.isascii() and count.isdigit()):
        raise CommandError("count is a number")
    newest: list[Event] = []
    after = 0
    while True:
        page = await agentd.events(after, 1_000)
        negotiation = (
            event for event in page.events if event.code.startswith(("ike.", "ikev1.", "child.", "drop.", "wire."))
        )
        newest = [*newest, *(event for event in negotiation if event.severity in _LEVELS[level])][
            -int(count) or len(newest) :
        ]
        if not page.events:
            break
        after = page.events[-1].sequence
    for event in newest if int(count) else []:
        if as_json:
            print(
                json.dumps(
                    {"time": event.time, "code": event.code, "severity": event.severity, "message": event.message}
                )
            )
        else:
            print(f"{text.moment(event.time)}  {event.severity:<7}  {event.code:<24}  {event.message}")
    return 0


def _options(words: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or name in options:
            raise CommandError(f"{word!r} is not name=value\n{USAGE}")
        options[name] = value
    return options


if __name__ == "__main__":
    sys.exit(main())
