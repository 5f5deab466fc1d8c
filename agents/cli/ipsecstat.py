"""``ipsecstat``: the fixed report of AIX, with this agent's numbers; what is not counted is said to be not available.

After it come the IKE messages by exchange type, which AIX does not count. Packet counts are those of the tunnels
configured now, since ``iked`` started. There is no AH, no source routing and no filter of ours, and nobody counts
expired and deleted SAs, so those lines hold no numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from agents.cli.ask import Agentd, CommandError, ask, fail
from agents.cli.places import take_places
from agents.contract import algorithms
from agents.contract.codec import to_plain
from agents.contract.status import GatewayStatus

NOT_AVAILABLE = "not available"
Counts = Mapping[str, Mapping[str, int] | None]


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        places, words = take_places(sys.argv[1:] if arguments is None else arguments)
        if words not in ([], ["--json"]):
            print("usage: ipsecstat [--json] [--state DIR] [--run DIR]", file=sys.stderr)
            return 2
        status, counts = ask(places.agentd_socket, _read)
    except CommandError as error:
        return fail("ipsecstat", error)
    numbers = statistics(status, counts)
    if words:
        print(json.dumps({**numbers, "IKE messages": to_plain(status.exchanges) or None}, indent=2))
    else:
        print(report(status, numbers))
    return 0


async def _read(agentd: Agentd) -> tuple[GatewayStatus, Counts]:
    return await agentd.status(), await agentd.counters()


def statistics(status: GatewayStatus, counts: Counts) -> dict[str, int | None]:
    """Return the report's numbers in its order; None is not available."""
    events, dropped = counts.get("events"), counts.get("dropped")
    known = status.data_plane.driver is not None
    packets_in = sum(tunnel.counters.packets_in for tunnel in status.tunnels) if known else None
    packets_out = sum(tunnel.counters.packets_out for tunnel in status.tunnels) if known else None

    # Each negotiation and each rekey of a child puts one pair of SAs in place.
    added = events.get("child.established", 0) + events.get("child.rekeyed", 0) if events is not None else None

    def count(table: Mapping[str, int] | None, name: str) -> int | None:
        return None if table is None else table.get(name, 0)

    return {
        "Total incoming packets": None,
        "Incoming AH packets": None,
        "Incoming ESP packets": packets_in,
        "Srcrte packets allowed": None,
        "Total outgoing packets": None,
        "Outgoing AH packets": None,
        "Outgoing ESP packets": packets_out,
        "Total incoming packets dropped": count(dropped, "in"),
        "Filter denies on input": count(dropped, "in.policy"),
        "AH did not compute": None,
        "ESP did not compute": count(dropped, "in.integrity"),
        "AH replay violation": None,
        "ESP replay violation": count(dropped, "in.replay"),
        "Total outgoing packets dropped": count(dropped, "out"),
        "Filter denies on output": None,
        "Tunnel cache entries added": added,
        "Tunnel cache entries expired": None,
        "Tunnel cache entries deleted": None,
    }


def report(status: GatewayStatus, numbers: Mapping[str, int | None]) -> str:
    """Return the text."""
    plane = status.data_plane
    state = f"Available ({plane.driver})" if plane.driver is not None else f"Not available: {plane.reason}"
    lines = ["IP Security Devices:", f"ipsec_v4 {state}", f"ipsec_v6 {state}", "", "Authentication Algorithm:"]
    lines += [f"{row.slug.upper()} -- {row.label}" for row in algorithms.INTEGRITY.values()]
    lines += ["", "Encryption Algorithm:"]
    lines += [f"{row.slug.upper()} -- {row.label}" for row in algorithms.ENCRYPTION.values()]
    lines += ["", "IP Security Statistics -"]
    lines += [f"{name}: {NOT_AVAILABLE if number is None else number}" for name, number in numbers.items()]
    return "\n".join([*lines, "", "IKE Messages -", *_exchanges(status)])


def _exchanges(status: GatewayStatus) -> list[str]:
    """Return one line per IKE exchange type: what AIX's report does not have."""
    lines = [
        f"{each.exchange}: requests {each.requests_in} in, {each.requests_out} out; "
        f"answers {each.responses_in} in, {each.responses_out} out; "
        f"again {each.retransmissions_in} in, {each.retransmissions_out} out; refused {each.refused}"
        for each in status.exchanges
    ]
    return lines or [NOT_AVAILABLE]


if __name__ == "__main__":
    sys.exit(main())
