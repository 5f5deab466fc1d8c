"""Two gateways with all their processes and the packet filter on: the tunnel works, clear text beside it does not."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator

import pytest

from agents.contract.carriage import Carriage
from agents.contract.config import (
    ConnectionType,
    Endpoint,
    GatewayDocument,
    Identity,
    IdentityType,
    TrafficSelector,
    TunnelKind,
)
from agents.contract.status import FilterCounters
from tests.agentd.gateways import OUTER, Gateway, Pair, eventually, gateway_document
from tests.agentd.inside import run_inside
from tests.agentd.test_mss import End, announced

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.needs("nft")]


def filtered(name: str, generation: int, *, on: bool = True) -> GatewayDocument:
    return dataclasses.replace(gateway_document(name, generation), packet_filter=on)


def on_demand(generation: int) -> GatewayDocument:
    """Paris for whoever calls, from anywhere."""
    given = filtered("paris", generation)
    child = dataclasses.replace(given.tunnels[0].children[0], remote_ts=(TrafficSelector(network="0.0.0.0/0"),))
    tunnel = dataclasses.replace(
        given.tunnels[0],
        kind=TunnelKind.ON_DEMAND,
        connection_type=ConnectionType.RESPONDER_ONLY,
        remote=Endpoint(address="0.0.0.0", identity=Identity(type=IdentityType.ANY, value="*")),
        children=(child,),
    )
    return dataclasses.replace(given, tunnels=(tunnel,))


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("filtered"))
    try:
        made.build()
        yield made
    finally:
        made.remove()


def counted(gateway: Gateway) -> FilterCounters:
    found = gateway.status().tunnels[0].filter
    assert found is not None
    return found


def test_a_filtered_tunnel_comes_up_carries_packets_and_counts(pair: Pair) -> None:
    paris, lyon = pair.gateways["paris"], pair.gateways["lyon"]
    for name, gateway in pair.gateways.items():
        gateway.configure(filtered(name, 1))
    for gateway in (paris, lyon):
        eventually(gateway.up)
    eventually(paris.reaches)
    before = counted(paris)
    assert paris.ping(5)
    after = counted(paris)
    assert before.admitted_ike > 0
    assert after.admitted_ipsec - before.admitted_ipsec == 5
    assert after.dropped_clear == after.dropped_leaving == 0
    with pytest.raises(PermissionError):
        _send_clear(lyon)
    assert counted(lyon).dropped_leaving == 1
    _without_filter(lyon)
    _send_clear(lyon)
    eventually(lambda: counted(paris).dropped_clear == 1)
    assert "paris-lyon" in paris.command("cli", "filter")
    paris.configure(filtered("paris", 2, on=False))
    eventually(lambda: "vpnconsole" not in paris.namespace.run("nft", "list", "tables"))
    assert paris.command("cli", "filter") == "The packet filter is off.\n"
    eventually(paris.reaches)


def test_a_peer_that_is_gone_gets_nothing_in_clear_text(pair: Pair) -> None:
    """Lyon's processes end; its machine goes on to forward, and Paris has a way to it beside the tunnel."""
    paris, lyon = pair.gateways["paris"], pair.gateways["lyon"]
    paris.namespace.ip("route", "add", "10.2.0.0/24", "via", OUTER["lyon"], "metric", "4000")
    lyon.namespace.ip("route", "add", "10.1.0.0/24", "via", OUTER["paris"], "metric", "4000")
    eventually(paris.reaches)  # without a tunnel in clear text
    paris.configure(filtered("paris", 1))
    lyon.configure(filtered("lyon", 1, on=False))
    eventually(lambda: paris.up() and lyon.up())
    eventually(paris.reaches)
    carried_before = counted(paris).dropped_leaving
    assert paris.ping(5)
    assert counted(paris).dropped_leaving == carried_before
    lyon.stop()
    eventually(lambda: not paris.up() and paris.routes() == "")
    before = counted(paris).dropped_leaving
    assert not paris.reaches(3)
    assert counted(paris).dropped_leaving == before + 3
    assert "CLEAR TEXT OUT DROPPED" in paris.command("cli", "filter")
    paris.configure(filtered("paris", 2, on=False))
    eventually(paris.reaches)  # what the filter kept in was all that was kept in


def test_one_gateway_that_clamps_is_enough_for_both_ends(pair: Pair) -> None:
    paris, lyon = pair.gateways["paris"], pair.gateways["lyon"]
    paris.configure(gateway_document("paris", 1, mtu=1_300, carriage=Carriage(clamp_tcp_mss=True)))
    lyon.configure(gateway_document("lyon", 1))
    eventually(lambda: paris.up() and lyon.up())
    eventually(paris.reaches)
    ends = (End(paris.host, "lan", "10.1.0.2"), End(lyon.host, "lan", "10.2.0.2"))
    eventually(lambda: "mss-out" in paris.namespace.run("nft", "list", "ruleset"))
    assert announced(*ends) == announced(*reversed(ends)) == (1_260, 1_260)
    assert paris.command("cli", "filter") == "The packet filter is off.\n"
    paris.configure(gateway_document("paris", 2, mtu=1_300))
    eventually(lambda: "vpnconsole" not in paris.namespace.run("nft", "list", "tables"))
    assert announced(*ends) == (1_460, 1_460)


def test_who_calls_an_on_demand_tunnel_is_admitted_routed_to_and_protected(pair: Pair) -> None:
    paris, lyon = pair.gateways["paris"], pair.gateways["lyon"]
    paris.configure(on_demand(1))
    lyon.configure(filtered("lyon", 1))
    eventually(lyon.up)
    eventually(paris.reaches)
    eventually(lambda: paris.status().tunnels[0].routes == ("10.2.0.0/24",))
    status = paris.status()
    assert (status.tunnels[0].kind, status.tunnels[0].peers) == ("on-demand", 1)
    (line,) = status.route_ledger
    assert line.spis == tuple(sa.spi_in for child in status.tunnels[0].children for sa in child.sas)
    assert counted(paris).admitted_ike > 0
    _without_filter(lyon)
    _send_clear(lyon)
    eventually(lambda: counted(paris).dropped_clear == 1)
    lyon.act("end", "terminate")
    eventually(lambda: paris.routes() == "")
    eventually(lambda: "10.2.0.0" not in paris.namespace.run("nft", "list", "table", "inet", "vpnconsole"))


def _send_clear(lyon: Gateway) -> None:
    """Send one packet of Lyon's inner network past the tunnel."""
    lyon.namespace.ip("route", "replace", "10.1.0.0/24", "via", OUTER["paris"], "dev", "wan", "metric", "4000")

    async def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wan")
            sending.bind(("10.2.0.1", 0))
            sending.sendto(b"clear", ("10.1.0.2", 7))

    run_inside(lyon.namespace, work)


def _without_filter(lyon: Gateway) -> None:
    """Take Lyon's filter away, which would let nothing leave beside the tunnel."""
    lyon.configure(filtered("lyon", 2, on=False))
    eventually(lambda: "vpnconsole" not in lyon.namespace.run("nft", "list", "tables"))
    eventually(lyon.up)
