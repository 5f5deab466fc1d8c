"""Transport mode through a NAT with the userspace data plane: two gateways with all their processes, one hidden.

::

    paris 192.168.7.2 -- 192.168.7.1 router 192.0.2.9 (masquerades UDP, other ports) -- 192.0.2.2 lyon
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.contract.config import ConnectionType, DataPlane, GatewayDocument, Mode, TrafficSelector
from deploy.lab.netns import Namespace, connect
from tests.agentd.gateways import OUTER, Gateway, Pair, eventually, gateway_document
from tests.harness import echo, talk
from tests.harness.talk import Talker

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.needs("nft")]

HIDDEN, FACE, LYON = "192.168.7.2", "192.0.2.9", OUTER["lyon"]


class Hidden(Pair):
    """Paris is behind a router that shows it with another address and other ports."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.router = Namespace(f"vc{os.getpid()}g", "router")

    def join(self) -> None:
        """Make what is between the two."""
        paris, lyon = (self.gateways[name].namespace for name in ("paris", "lyon"))
        self.router.create()
        connect(paris, "wan", [f"{HIDDEN}/24"], self.router, "lan", ["192.168.7.1/24"])
        connect(self.router, "wan", [f"{FACE}/24"], lyon, "wan", [f"{LYON}/24"])
        paris.ip("route", "add", "192.0.2.0/24", "via", "192.168.7.1")
        self.router.forward()
        self.router.run("nft", "add table ip nat; add chain ip nat out { type nat hook postrouting priority 100; }")
        self.router.run("nft", 'add rule ip nat out oifname "wan" ip protocol udp masquerade to :20000-29999 random')

    def remove(self) -> None:
        """Make it undone."""
        super().remove()
        self.router.remove()


def of_hosts(name: str) -> GatewayDocument:
    """The document of one gateway: between the addresses that it sees."""
    own, peer = (HIDDEN, LYON) if name == "paris" else (LYON, FACE)
    given = gateway_document(name, 1)
    (was,) = given.tunnels
    child = dataclasses.replace(
        was.children[0],
        mode=Mode.TRANSPORT,
        local_ts=(TrafficSelector(network=f"{own}/32"),),
        remote_ts=(TrafficSelector(network=f"{peer}/32"),),
    )
    kind = ConnectionType.INITIATOR_ONLY if name == "paris" else ConnectionType.RESPONDER_ONLY
    tunnel = dataclasses.replace(
        was,
        local=dataclasses.replace(was.local, address=own),
        remote=dataclasses.replace(was.remote, address=peer),
        children=(child,),
        connection_type=kind,
    )
    return dataclasses.replace(given, tunnels=(tunnel,), data_plane=DataPlane.USERSPACE)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Hidden(tmp_path_factory.mktemp("hidden"))
    try:
        made.build()
        for name in ("lyon", "paris"):
            made.gateways[name].configure(of_hosts(name))
        for gateway in made.gateways.values():
            eventually(lambda gateway=gateway: gateway.up() and led(gateway))  # type: ignore[misc]
        yield made
    finally:
        made.remove()


def led(gateway: Gateway) -> bool:
    return gateway.namespace.ip("rule").count("fwmark 0/0x8000000") == 4


def talkers(pair: Pair) -> tuple[Talker, Talker]:
    return (
        Talker(namespace=pair.gateways["paris"].namespace, address=HIDDEN, seen=FACE),
        Talker(namespace=pair.gateways["lyon"].namespace, address=LYON),
    )


def spis(gateway: Gateway) -> set[str]:
    return {sa.spi_in for child in gateway.status().tunnels[0].children for sa in child.sas}


def carried(gateway: Gateway) -> int:
    counters = gateway.status().tunnels[0].counters
    return min(counters.packets_in, counters.packets_out)


def echoes(gateway: Gateway, target: str, payload: int) -> bool:
    with echo.opened(gateway.namespace, target) as raw:
        return echo.answers(raw, target, 2, payload, interval_s=0.05, none_s=5.0) == 2


async def test_each_reaches_the_other_by_the_address_it_sees(pair: Pair) -> None:
    paris, lyon = talkers(pair)
    for rekeyed in (False, True):
        if rekeyed:  # by the end in the open, whose peer reads the selectors the other way round
            old = spis(pair.gateways["lyon"])
            assert pair.gateways["lyon"].act("hidden-rekey", "rekey-child")["accepted"]
            for gateway in pair.gateways.values():
                eventually(lambda gateway=gateway, old=old: len(spis(gateway)) == 1 and gateway.up())  # type: ignore[misc]
            eventually(lambda old=old: not spis(pair.gateways["lyon"]) & old)  # type: ignore[misc]
        before = {name: carried(gateway) for name, gateway in pair.gateways.items()}
        for payload in (56, 3_000):
            assert echoes(pair.gateways["paris"], LYON, payload)
            assert echoes(pair.gateways["lyon"], FACE, payload)
        for here, there in ((paris, lyon), (lyon, paris)):
            await talk.datagram(here, there, 7_000, 3_000)
            await talk.stream(here, there, 7_001)
        for name, gateway in pair.gateways.items():
            assert carried(gateway) - before[name] >= 8 + 2 + 2, name
