"""``ipsecstat``: the fixed report of AIX, with this agent's numbers; what nobody counts is said to be not available.

After it comes what AIX does not count: refused packets by reason, the data plane's own counters under the names they
have there, and the IKE messages by exchange type. Packets are those of all tunnels that there ever were, over restarts;
the data plane's counters and the messages are counted since their process, or the kernel, started.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping

from agents.cli.ask import CommandError, ask, fail
from agents.cli.places import take_places
from agents.contract import algorithms
from agents.contract.codec import to_plain
from agents.contract.ipsecstat import rejections, statistics
from agents.contract.status import GatewayStatus

NOT_AVAILABLE = "not available"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        places, words = take_places(sys.argv[1:] if arguments is None else arguments)
        if words not in ([], ["--json"]):
            print("usage: ipsecstat [--json] [--state DIR] [--run DIR]", file=sys.stderr)
            return 2
        status = ask(places.agentd_socket, lambda agentd: agentd.status())
    except CommandError as error:
        return fail("ipsecstat", error)
    numbers = statistics(status)
    if words:
        more = {
            "Rejected packets": to_plain(rejections(status)),
            "Data plane counters": {each.name: each.count for each in status.data_plane_counts},
            "IKE messages": to_plain(status.exchanges) or None,
        }
        print(json.dumps({**numbers, **more}, indent=2))
    else:
        print(report(status, numbers))
    return 0


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
    lines += ["", "Rejected Packets -"]
    lines += [f"{name}: {count}" for name, count in dataclasses.asdict(rejections(status)).items()]
    lines += ["", "Data Plane Counters -"]
    lines += [f"{each.name}: {each.count}" for each in status.data_plane_counts] or [NOT_AVAILABLE]
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
