"""Two uplinks in two contexts, a tunnel over each to one address of the other gateway: one fails, the other takes over.

Nothing but the endpoints' contexts tells the tunnels' ways apart: the peer is the same, and the main table of the
gateway knows one of the uplinks only. Reverse path filtering is strict there to begin with.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents.contract.carriage import Carriage, Context
from agents.contract.config import Endpoint, GatewayDocument, Identity, IdentityType, Retransmission
from deploy.lab.netns import Namespace, connect
from tests.agentd.fakes import OTHER_TUNNEL_ID, TUNNEL_ID
from tests.agentd.gateways import INNER, Gateway, Pair, eventually, gateway_document, other

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.needs("nft")]

UPLINKS = {"a": "192.0.2", "b": "198.51.100"}
"""The network of each: the gateway has 1, its provider 254."""
TABLES = {"a": 101, "b": 102}
LYON = "203.0.113.1"
TUNNELS = {f"vpn{TUNNEL_ID[:8]}": "a", f"vpn{OTHER_TUNNEL_ID[:8]}": "b"}
PASSED = """
table ip passed {
  chain forward { type filter hook forward priority 0; ip saddr %s.1 ip daddr 203.0.113.1 counter; }
  chain others { type filter hook forward priority 0; ip saddr %s.1 counter; }
}
"""


class Providers(Pair):
    """Paris has two providers; Lyon, whose one address is on its loopback interface, is reached through both."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.of = {name: Namespace(f"vc{os.getpid()}g", f"isp-{name}") for name in UPLINKS}

    def join(self) -> None:
        paris, lyon = (self.gateways[name].namespace for name in ("paris", "lyon"))
        lyon.ip("address", "add", f"{LYON}/32", "dev", "lo")
        for name, network in UPLINKS.items():
            provider, wan = self.of[name], f"wan-{name}"
            provider.create()
            provider.forward()
            connect(paris, wan, [f"{network}.1/24"], provider, "paris", [f"{network}.254/24"])
            connect(lyon, wan, [f"10.90.{TABLES[name]}.1/24"], provider, "lyon", [f"10.90.{TABLES[name]}.2/24"])
            provider.ip("route", "add", LYON, "via", f"10.90.{TABLES[name]}.1")
            lyon.ip("route", "add", f"{network}.0/24", "via", f"10.90.{TABLES[name]}.2")
            others = next(each for each in UPLINKS.values() if each != network)
            text = PASSED % (network, others)
            subprocess.run(provider.command(["nft", "-f", "-"]), input=text, text=True, check=True)
        set_way(paris, "a")
        set_way(paris, "b")
        paris.ip("route", "add", "default", "via", f"{UPLINKS['b']}.254")
        for name in ("all", "default", "wan-a", "wan-b"):
            paris.sysctl(f"net.ipv4.conf.{name}.rp_filter", 1)

    def remove(self) -> None:
        super().remove()
        for provider in self.of.values():
            provider.remove()

    def passed(self, name: str, chain: str) -> int:
        """The packets from Paris that a provider forwarded: to Lyon from its own network, or ``others``."""
        provider = self.of[name]
        listed = json.loads(provider.run("nft", "-j", "list", "chain", "ip", "passed", chain))
        (counter,) = [
            each["counter"]["packets"] for row in listed["nftables"] if "rule" in row
            for each in row["rule"]["expr"] if "counter" in each
        ]  # fmt: skip
        return int(counter)


def set_way(paris: Namespace, name: str) -> None:
    paris.ip("route", "add", "default", "via", f"{UPLINKS[name]}.254", "table", str(TABLES[name]))


def endpoint(address: str) -> Endpoint:
    return Endpoint(address=address, identity=Identity(type=IdentityType.IPV4, value=address))


def two_tunnels(name: str) -> GatewayDocument:
    """By uplink A with cost 5, by uplink B with cost 10; what they carry is in the main context."""
    given = gateway_document(name, 1)
    ike = dataclasses.replace(given.tunnels[0].ike, dpd_interval_s=1, mobike=False)
    tunnels = []
    for uplink, tunnel_id, cost in (("a", TUNNEL_ID, 5), ("b", OTHER_TUNNEL_ID, 10)):
        paris, lyon = endpoint(f"{UPLINKS[uplink]}.1"), endpoint(LYON)
        context = f"uplink-{uplink}" if name == "paris" else "local"
        tunnel = dataclasses.replace(
            given.tunnels[0],
            id=tunnel_id,
            name=f"by-{uplink}",
            local=paris if name == "paris" else lyon,
            remote=lyon if name == "paris" else paris,
            ike=ike,
            carriage=Carriage(route_cost=cost, endpoint_context=context),
        )
        tunnels.append(tunnel)
    contexts = [Context(name=f"uplink-{each}", table=table) for each, table in TABLES.items()]
    return dataclasses.replace(
        given,
        tunnels=tuple(tunnels),
        contexts=tuple(contexts) if name == "paris" else (),
        retransmission=Retransmission(initial_ms=200, factor=1.0, tries=5),
    )


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Providers]:
    made = Providers(tmp_path)
    try:
        made.build()
        for name, gateway in made.gateways.items():
            gateway.configure(two_tunnels(name))
        yield made
    finally:
        made.remove()


def used(gateway: Gateway) -> str:
    """The uplink whose tunnel traffic to the other network takes now."""
    shown = gateway.namespace.ip("route", "get", f"{INNER[other(gateway.name)]}.2", check=False)
    return TUNNELS.get(shown.partition("dev ")[2].partition(" ")[0], "")


def moves(gateway: Gateway) -> list[tuple[str, str]]:
    return [(each.attributes["from"], each.attributes["to"]) for each in gateway.events("agent.route-moved")]


def _without_its_route(pair: Providers) -> Callable[[], None]:
    paris = pair.gateways["paris"].namespace
    paris.ip("route", "delete", "default", "table", str(TABLES["a"]))
    return lambda: set_way(paris, "a")


def _without_its_provider(pair: Providers) -> Callable[[], None]:
    pair.of["a"].ip("link", "set", "lyon", "down")

    def repair() -> None:
        pair.of["a"].ip("link", "set", "lyon", "up")
        pair.of["a"].ip("route", "replace", LYON, "via", f"10.90.{TABLES['a']}.1")

    return repair


def test_an_uplink_fails_and_comes_back(pair: Providers) -> None:
    paris, lyon = pair.gateways["paris"], pair.gateways["lyon"]
    for gateway in (paris, lyon):
        eventually(lambda: used(gateway) == "a" and len(gateway.routes().splitlines()) == 2, 30)  # noqa: B023
    eventually(paris.ping)
    for fail in (_without_its_route, _without_its_provider):
        before, told = (
            pair.passed("b", "forward"),
            {name: len(moves(gateway)) for name, gateway in pair.gateways.items()},
        )
        repair = fail(pair)
        eventually(lambda: used(paris) == used(lyon) == "b")
        eventually(paris.ping)
        assert pair.passed("b", "forward") > before
        if fail is _without_its_route:
            assert any("no route to the peer 203.0.113.1 in table 101" in each for each in paris.status().problems)
        repair()
        eventually(lambda: used(paris) == used(lyon) == "a")
        eventually(paris.ping)
        for gateway in (paris, lyon):
            assert moves(gateway)[told[gateway.name] :] == [("by-a", "by-b"), ("by-b", "by-a")]
    # What has one uplink's address has never left by the other, though the main table leads there.
    assert (pair.passed("a", "others"), pair.passed("b", "others")) == (0, 0)
    shown = paris.command("cli", "contexts")
    assert "uplink-a: table 101, rules; tunnels: none; endpoints of: by-a" in shown
    assert paris.namespace.run("sysctl", "-n", "net.ipv4.conf.wan-a.rp_filter").strip() == "2"
