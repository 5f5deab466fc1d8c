"""strongSwan as the other end of one tunnel: its configuration, and what can be done to it and awaited from it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
    TIMEOUT_S,
    OurGateway,
    is_up,
    ping,
)

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


def swanctl_conf(suite: Suite, *, remote_ts: str = OUR_NET, start: bool = False) -> str:
    """Return strongSwan's side of the tunnel; ``start`` makes it keep the child up by itself."""
    action = "start" if start else "none"
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
        remote_ts = {remote_ts}
        start_action = {action}
        close_action = {action}
        esp_proposals = {suite.theirs_esp}
      }}
    }}
  }}
}}
secrets {{ ike-ours {{ id-1 = {OURS}
    secret = 0x{_PSK.hex()} }} }}
"""


class Pair:
    """One tunnel with strongSwan and what can be done to it."""

    def __init__(
        self, ours: OurGateway, theirs: StrongSwan, vici: Vici, spaces: tuple[Namespace, Namespace], suite: Suite
    ) -> None:
        self.suite = suite
        self.ours = ours
        self.theirs = theirs
        self.vici = vici
        self._spaces = spaces
        self.tunnel_id = ""

    async def configure(
        self, connection_type: ConnectionType, *, secret: bytes = _PSK, also: Sequence[IkeProposal] = ()
    ) -> None:
        """Give our side its tunnel; proposals in ``also`` come before the suite's own."""
        suite = self.suite
        tunnels = [
            tunnel(
                "strongswan", OURS, THEIRS, local_ts=OUR_NET, remote_ts=THEIR_NET, proposals=(*also, suite.ike),
                esp=(suite.esp,), pfs=suite.pfs, connection_type=connection_type,
            )
        ]  # fmt: skip
        self.tunnel_id = tunnels[0].id
        await self.ours.configure(document("ours", tunnels, [psk(OURS, THEIRS, secret)]))

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
        await self.until_theirs(lambda sas: not sas, "gone")

    async def until_theirs(self, accept: Callable[[list[Message]], bool], what: str) -> None:
        """Wait for a list of strongSwan's IKE SAs that ``accept`` takes: an event may be of an SA before these."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not accept(sas := await asyncio.to_thread(self.vici.stream, "list-sas", "list-sa")):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"not reached at strongSwan: {what}; its SAs are {sas}") from None

    async def _theirs_have(self, spi_in: str) -> None:
        """Wait until strongSwan's child with this SPI of its own is installed."""
        await self.until_theirs(lambda sas: any(_has_child(each, spi_in) for each in sas), f"child {spi_in}")


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
