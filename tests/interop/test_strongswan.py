"""Against Debian's strongSwan: each side starts, rekeys and deletes; pings both ways after each step.

strongSwan's ESP is its kernel-libipsec, ours the userspace data plane; both run in network namespaces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agents.contract.config import ConnectionType, IkeProposal, IpsecProposal
from agents.contract.status import TunnelStatus
from deploy.lab.netns import Namespace
from deploy.lab.strongswan import StrongSwan
from deploy.lab.vici import Message, Vici
from tests.iked.cast import document, psk, tunnel
from tests.interop.rig import (
    OUR_HOST,
    OUR_NET,
    OURS,
    THEIR_HOST,
    THEIR_NET,
    THEIRS,
    OurGateway,
    is_up,
    ping,
    two_namespaces,
)

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

_PSK = b"interop's \x00\xff octets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """The same algorithms in our words and in strongSwan's."""

    ike: IkeProposal
    esp: IpsecProposal
    theirs_ike: str
    theirs_esp: str
    pfs: tuple[str, ...] = ()


SUITES = {
    "aes-gcm, group 31": Suite(
        ike=IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group="group-31"),
        esp=IpsecProposal(encryption="aes-128-gcm-16"),
        theirs_ike="aes128gcm16-prfsha256-x25519",
        theirs_esp="aes128gcm16",
    ),
    "chacha20, group 19, PFS": Suite(
        ike=IkeProposal(encryption="chacha20-poly1305", prf="prf-hmac-sha2-384", group="group-19"),
        esp=IpsecProposal(encryption="chacha20-poly1305"),
        theirs_ike="chacha20poly1305-prfsha384-ecp256",
        theirs_esp="chacha20poly1305-ecp256",
        pfs=("group-19",),
    ),
    "aes-cbc, group 14": Suite(
        ike=IkeProposal(
            encryption="aes-256-cbc", integrity="hmac-sha2-256-128", prf="prf-hmac-sha2-256", group="group-14"
        ),
        esp=IpsecProposal(encryption="aes-256-cbc", integrity="hmac-sha2-256-128"),
        theirs_ike="aes256-sha256-prfsha256-modp2048",
        theirs_esp="aes256-sha256",
    ),
}


def swanctl_conf(suite: Suite, *, secret: bytes = _PSK) -> str:
    """Return strongSwan's side of the tunnel."""
    return f"""
connections {{
  ours {{
    version = 2
    local_addrs = {THEIRS}
    remote_addrs = {OURS}
    proposals = {suite.theirs_ike}
    local {{ auth = psk
      id = {THEIRS} }}
    remote {{ auth = psk
      id = {OURS} }}
    children {{
      net {{
        local_ts = {THEIR_NET}
        remote_ts = {OUR_NET}
        esp_proposals = {suite.theirs_esp}
      }}
    }}
  }}
}}
secrets {{ ike-ours {{ id-1 = {OURS}
    secret = 0x{secret.hex()} }} }}
"""


class Pair:
    """One tunnel with strongSwan and what can be done to it."""

    def __init__(self, ours: OurGateway, theirs: StrongSwan, vici: Vici, spaces: tuple[Namespace, Namespace]) -> None:
        self.ours = ours
        self.theirs = theirs
        self.vici = vici
        self._spaces = spaces
        self.tunnel_id = ""

    async def configure(self, suite: Suite, connection_type: ConnectionType) -> None:
        """Give our side its tunnel."""
        tunnels = [
            tunnel(
                "strongswan", OURS, THEIRS, local_ts=OUR_NET, remote_ts=THEIR_NET, proposals=(suite.ike,),
                esp=(suite.esp,), pfs=suite.pfs, connection_type=connection_type,
            )
        ]  # fmt: skip
        self.tunnel_id = tunnels[0].id
        await self.ours.configure(document("ours", tunnels, [psk(OURS, THEIRS, _PSK)]))

    async def up_and_carrying(self) -> TunnelStatus:
        """Wait for both ends to be up, ping both ways, return our status."""
        status = await self.ours.until_up()
        sa = status.children[0].sas[0]
        await self._theirs_have(sa.spi_out)
        ours, theirs = self._spaces
        await asyncio.to_thread(ping, ours, OUR_HOST, THEIR_HOST)
        await asyncio.to_thread(ping, theirs, THEIR_HOST, OUR_HOST)
        return status

    async def rekeyed(self, before: TunnelStatus, part: Callable[[TunnelStatus], str]) -> TunnelStatus:
        """Wait until ``part`` of our status has changed and the tunnel is up again; ping."""
        await self.ours.until(lambda now: is_up(now) and part(now) != part(before), "rekeyed")
        return await self.up_and_carrying()

    async def swanctl(self, *arguments: str) -> None:
        """Run swanctl without stopping our own loop."""
        await asyncio.to_thread(self.theirs.swanctl, *arguments)

    async def theirs_gone(self) -> None:
        """Wait until strongSwan has no IKE SA left."""
        if await asyncio.to_thread(self.vici.list_sas):
            await asyncio.to_thread(
                self.vici.wait_event, lambda name, event: name == "ike-updown" and "up" not in event
            )

    async def _theirs_have(self, spi_in: str) -> None:
        """Wait until strongSwan's child with this SPI of its own is installed."""
        if _has_child(await asyncio.to_thread(self.vici.list_sas), spi_in):
            return
        await asyncio.to_thread(
            self.vici.wait_event, lambda name, event: name.startswith("child-") and _has_child(event, spi_in)
        )


def _has_child(connections: Message, spi_in: str) -> bool:
    for connection in connections.values():
        if isinstance(connection, dict):
            for child in _children(connection):
                if child.get("state") in ("INSTALLED", None) and int(child.get("spi-in", "0"), 16) == int(spi_in, 16):
                    return True
    return False


def _children(section: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for value in section.values():
        if isinstance(value, dict):
            if "spi-in" in value:
                yield value
            else:
                yield from _children(value)


def child_spi(status: TunnelStatus) -> str:
    """Return what a child rekey changes."""
    return status.children[0].sas[0].spi_in


def ike_spi(status: TunnelStatus) -> str:
    """Return what an IKE rekey changes."""
    return status.ike_sas[0].spi_i


@pytest.mark.parametrize("role", ["initiator", "responder"])
@pytest.mark.parametrize("name", list(SUITES))
async def test_a_whole_life(name: str, role: str, tmp_path: Path) -> None:
    suite = SUITES[name]
    initiator = role == "initiator"
    with two_namespaces("life") as spaces:
        theirs = StrongSwan(spaces[1], tmp_path / "charon", swanctl_conf(suite))
        theirs.start()
        try:
            await asyncio.to_thread(theirs.wait_ready)
            with theirs.vici("ike-updown", "child-updown", "child-rekey", "ike-rekey") as vici:
                async with OurGateway(spaces[0], tmp_path / "agent") as ours:
                    await live(Pair(ours, theirs, vici, spaces), suite, initiator=initiator)
        finally:
            theirs.stop()


async def live(pair: Pair, suite: Suite, *, initiator: bool) -> None:
    """Up, rekeys by each side, deletes by each side; traffic after each."""
    ours = pair.ours
    await pair.configure(suite, ConnectionType.INITIATOR_ONLY if initiator else ConnectionType.RESPONDER_ONLY)
    if not initiator:
        await pair.swanctl("--initiate", "--child", "net")
    status = await pair.up_and_carrying()
    assert status.ike_sas[0].initiator is initiator
    assert status.ike_sas[0].encryption == suite.ike.encryption
    assert status.children[0].sas[0].encryption == suite.esp.encryption
    assert status.children[0].sas[0].udp_encapsulation

    await ours.act("rekey-child", pair.tunnel_id)
    status = await pair.rekeyed(status, child_spi)
    await pair.swanctl("--rekey", "--child", "net")
    status = await pair.rekeyed(status, child_spi)
    assert status.children[0].sas[0].group == (suite.pfs[0] if suite.pfs else None)
    await ours.act("rekey-ike", pair.tunnel_id)
    status = await pair.rekeyed(status, ike_spi)
    await pair.swanctl("--rekey", "--ike", "ours")
    status = await pair.rekeyed(status, ike_spi)
    packets = status.counters.packets_in
    assert packets == 4 * 6  # six echo packets a step, through four pairs of SAs; the last step came after the status

    await pair.swanctl("--terminate", "--ike", "ours")
    await pair.theirs_gone()
    if not initiator:
        await ours.until(lambda now: not now.ike_sas, "closed by the peer")
        await pair.swanctl("--initiate", "--child", "net")
    status = await pair.rekeyed(status, ike_spi)
    assert status.counters.packets_in > packets

    # A terminated tunnel stays down at this end until it is initiated again; a cleared one takes the peer's next attempt.
    await ours.act("terminate" if initiator else "clear-ike", pair.tunnel_id)
    await pair.theirs_gone()
    await ours.until(lambda now: not now.ike_sas, "closed by us")
    if initiator:
        await ours.act("initiate", pair.tunnel_id)
    else:
        await pair.swanctl("--initiate", "--child", "net")
    await pair.rekeyed(status, ike_spi)
