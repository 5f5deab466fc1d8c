"""Two tunnels to one network: the preferred one fails in silence, traffic takes the other, and later goes back."""

from __future__ import annotations

import dataclasses
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.contract.carriage import Carriage
from agents.contract.config import Endpoint, GatewayDocument, Identity, IdentityType, Retransmission
from deploy.lab.netns import connect
from tests.agentd.fakes import OTHER_TUNNEL_ID, TUNNEL_ID
from tests.agentd.gateways import INNER, Gateway, Pair, eventually, gateway_document, other

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.needs("nft")]

SECOND = {"paris": "198.51.100.1", "lyon": "198.51.100.2"}
INTERVAL_S = 0.05
BROKEN = """
table ip broken {
  chain input { type filter hook input priority -100; iifname "wan" drop; }
}
"""


def two_tunnels(name: str) -> GatewayDocument:
    """Over the first link with cost 5, over the second with cost 10; a peer that is silent for a second is gone."""

    def endpoint(address: str) -> Endpoint:
        return Endpoint(address=address, identity=Identity(type=IdentityType.IPV4, value=address))

    given = gateway_document(name, 1)
    ike = dataclasses.replace(given.tunnels[0].ike, dpd_interval_s=1, mobike=False)
    first = dataclasses.replace(given.tunnels[0], name="preferred", ike=ike, carriage=Carriage(route_cost=5))
    second = dataclasses.replace(
        first,
        id=OTHER_TUNNEL_ID,
        name="backup",
        local=endpoint(SECOND[name]),
        remote=endpoint(SECOND[other(name)]),
        carriage=Carriage(route_cost=10),
    )
    quick = Retransmission(initial_ms=200, factor=1.0, tries=5)
    return dataclasses.replace(given, tunnels=(first, second), retransmission=quick)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    try:
        made.build()
        paris, lyon = made.gateways["paris"], made.gateways["lyon"]
        connect(
            paris.namespace, "wan2", [f"{SECOND['paris']}/24"], lyon.namespace, "wan2", [f"{SECOND['lyon']}/24"]
        )  # fmt: skip
        for name, gateway in made.gateways.items():
            gateway.configure(two_tunnels(name))
        yield made
    finally:
        made.remove()


def used(gateway: Gateway) -> str:
    """The interface that traffic to the other network takes now."""
    shown = gateway.namespace.ip("route", "get", f"{INNER[other(gateway.name)]}.2", check=False)
    return shown.partition("dev ")[2].partition(" ")[0]


def answered(log: Path) -> set[int]:
    return {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", log.read_text())}


def moves(gateway: Gateway) -> list[tuple[str, str, str]]:
    events = gateway.events("agent.route-moved")
    return [(each.attributes["network"], each.attributes["from"], each.attributes["to"]) for each in events]


def test_traffic_moves_and_comes_back_by_itself(pair: Pair, tmp_path: Path) -> None:
    paris, lyon = pair.gateways["paris"], pair.gateways["lyon"]
    preferred, backup = f"vpn{TUNNEL_ID[:8]}", f"vpn{OTHER_TUNNEL_ID[:8]}"
    for gateway in (paris, lyon):
        eventually(lambda: used(gateway) == preferred and backup in gateway.routes(), 30)  # noqa: B023 - called here
    eventually(paris.reaches)
    log = tmp_path / "ping"
    with log.open("wb") as written:
        pinging = paris.host.start("ping", "-n", "-i", str(INTERVAL_S), "10.2.0.2", log=written)
        try:
            eventually(lambda: len(answered(log)) > 20)
            failed_at = _change(lyon, BROKEN)
            eventually(lambda: used(paris) == used(lyon) == backup)
            eventually(lambda: _answers_again(log))
            broken = _lost(log)
            moved_s = time.monotonic() - failed_at
            repaired_at = _change(lyon, "delete table ip broken\n")
            eventually(lambda: used(paris) == used(lyon) == preferred)
            returned_s = time.monotonic() - repaired_at
            time.sleep(20 * INTERVAL_S)
        finally:
            pinging.send_signal(signal.SIGINT)
            pinging.wait(10)
    back = _lost(log) - broken
    print(
        f"failure: {len(broken)} packets lost at {1 / INTERVAL_S:.0f}/s, traffic moved after {moved_s:.1f} s; "
        f"recovery: {len(back)} lost, moved back after {returned_s:.1f} s"
    )
    assert broken
    for gateway, network in ((paris, "10.2.0.0/24"), (lyon, "10.1.0.0/24")):
        eventually(lambda: len(moves(gateway)) >= 2)  # noqa: B023 - called here
        assert moves(gateway) == [(network, "preferred", "backup"), (network, "backup", "preferred")]
    ledger = paris.status().route_ledger
    assert sorted((line.tunnel_id, line.cost, line.until is None) for line in ledger) == [
        (TUNNEL_ID, 5, False),
        (TUNNEL_ID, 5, True),
        (OTHER_TUNNEL_ID, 10, True),
    ]


def _change(gateway: Gateway, text: str) -> float:
    """Change the packet filter of a gateway as somebody else would; returns when."""
    command = gateway.namespace.command(["nft", "-f", "-"])
    subprocess.run(command, input=text, text=True, check=True)
    return time.monotonic()


def _lost(log: Path) -> set[int]:
    seen = answered(log)
    return set(range(1, max(seen) + 1)) - seen


def _answers_again(log: Path) -> bool:
    seen = answered(log)
    return bool(_lost(log)) and all(max(seen) - number in seen for number in range(10))
