"""Two gateways with all their processes and the packet filter on: the tunnel works, clear text beside it does not."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator

import pytest

from agents.contract.config import GatewayDocument
from agents.contract.status import FilterCounters
from tests.agentd.gateways import OUTER, Gateway, Pair, eventually, gateway_document
from tests.agentd.inside import run_inside

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.needs("nft")]


def filtered(name: str, generation: int, *, on: bool = True) -> GatewayDocument:
    return dataclasses.replace(gateway_document(name, generation), packet_filter=on)


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("filtered"))
    try:
        made.build()
        for name, gateway in made.gateways.items():
            gateway.configure(filtered(name, 1))
        yield made
    finally:
        made.remove()


def counted(gateway: Gateway) -> FilterCounters:
    found = gateway.status().tunnels[0].filter
    assert found is not None
    return found


def test_a_filtered_tunnel_comes_up_carries_packets_and_counts(pair: Pair) -> None:
    paris, lyon = pair.gateways["paris"], pair.gateways["lyon"]
    for gateway in (paris, lyon):
        eventually(gateway.up)
    eventually(paris.ping, 15)
    before = counted(paris)
    assert paris.ping(5)
    after = counted(paris)
    assert before.admitted_ike > 0
    assert after.admitted_ipsec - before.admitted_ipsec == 5
    assert after.dropped_clear == 0
    _send_clear(lyon)
    eventually(lambda: counted(paris).dropped_clear == 1, 5)
    assert "paris-lyon" in paris.command("cli", "filter")
    paris.configure(filtered("paris", 2, on=False))
    eventually(lambda: "vpnconsole" not in paris.namespace.run("nft", "list", "tables"), 15)
    assert paris.command("cli", "filter") == "The packet filter is off.\n"
    eventually(paris.ping, 15)


def _send_clear(lyon: Gateway) -> None:
    """Send one packet of Lyon's inner network past the tunnel."""
    lyon.namespace.ip("route", "add", "10.1.0.0/24", "via", OUTER["paris"], "dev", "wan", "metric", "4000")

    async def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wan")
            sending.bind(("10.2.0.1", 0))
            sending.sendto(b"clear", ("10.1.0.2", 7))

    run_inside(lyon.namespace, work)
