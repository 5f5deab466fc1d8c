"""Two of our gateways in network namespaces: plain ESP and UDP, IPv4 and IPv6 outside, a NAT between them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from agents.contract.codec import to_plain
from agents.contract.config import ConnectionType, Endpoint, Identity, IdentityType, IpsecProposal, PresharedKey, Tunnel
from agents.contract.secret import Secret
from deploy.lab.netns import Namespace, connect
from tests.iked.cast import document, psk, tunnel, uid
from tests.interop.rig import OUR_HOST, OUR_NET, OURS, THEIR_HOST, THEIR_NET, THEIRS, OurGateway, ping, two_namespaces

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

OURS_6, THEIRS_6 = "2001:db8::1", "2001:db8::2"
CBC = IpsecProposal(encryption="aes-256-cbc", integrity="hmac-sha2-512-256")
INITIATOR, RESPONDER = ConnectionType.INITIATOR_ONLY, ConnectionType.RESPONDER_ONLY


@asynccontextmanager
async def gateways(
    spaces: tuple[Namespace, Namespace], directory: Path
) -> AsyncIterator[tuple[OurGateway, OurGateway]]:
    """Run our daemons in both namespaces."""
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(OurGateway(spaces[0], directory / "ours"))
        theirs = await stack.enter_async_context(OurGateway(spaces[1], directory / "theirs", THEIR_HOST))
        yield ours, theirs


def ends(here: str, there: str, esp: IpsecProposal, *, forced: bool) -> tuple[Tunnel, Tunnel]:
    """Return the same tunnel from both ends."""
    ours = tunnel("there", here, there, local_ts=OUR_NET, remote_ts=THEIR_NET, esp=(esp,), connection_type=INITIATOR)
    theirs = tunnel("here", there, here, local_ts=THEIR_NET, remote_ts=OUR_NET, esp=(esp,), connection_type=RESPONDER)
    return dataclasses.replace(ours, force_udp_encapsulation=forced), theirs


@pytest.mark.parametrize("forced", [False, True], ids=["protocol 50", "UDP"])
@pytest.mark.parametrize("version", [4, 6])
async def test_a_tunnel_carries_and_counts(version: int, forced: bool, tmp_path: Path) -> None:
    here, there = (OURS, THEIRS) if version == 4 else (OURS_6, THEIRS_6)
    with two_namespaces("ours") as spaces:
        for namespace, address in zip(spaces, (OURS_6, THEIRS_6), strict=True):
            namespace.ip("address", "add", f"{address}/64", "dev", "wan", "nodad")
        async with gateways(spaces, tmp_path) as (ours, theirs):
            one, other = ends(here, there, CBC, forced=forced)
            await theirs.configure(document("theirs", [other], [psk(there, here)]))
            await ours.configure(document("ours", [one], [psk(here, there)]))
            status = await ours.until_up()
            await theirs.until_up()
            assert status.children[0].sas[0].udp_encapsulation is forced
            await asyncio.to_thread(ping, spaces[0], OUR_HOST, THEIR_HOST, 5)
            await asyncio.to_thread(ping, spaces[1], THEIR_HOST, OUR_HOST, 2)
            for gateway in (ours, theirs):
                (after,) = await gateway.tunnels()
                # An echo packet is 84 octets: 7 went and 7 came at either end.
                assert after.counters == dataclasses.replace(
                    after.counters, packets_in=7, packets_out=7, bytes_in=588, bytes_out=588
                )


async def test_a_gateway_behind_a_nat_reaches_another(tmp_path: Path) -> None:
    """Ours has 192.168.7.2 behind a router that shows it as 192.0.2.9 with other ports."""
    prefix = f"vc{os.getpid()}-nat"
    ours_space, router, theirs_space = (Namespace(prefix, role) for role in ("ours", "router", "theirs"))
    spaces = (ours_space, router, theirs_space)
    try:
        for namespace in spaces:
            namespace.create()
        connect(ours_space, "wan", ["192.168.7.2/24"], router, "lan", ["192.168.7.1/24"])
        connect(router, "wan", ["192.0.2.9/24"], theirs_space, "wan", [f"{THEIRS}/24"])
        ours_space.ip("address", "add", f"{OUR_HOST}/24", "dev", "lo")
        theirs_space.ip("address", "add", f"{THEIR_HOST}/24", "dev", "lo")
        ours_space.ip("route", "add", "192.0.2.0/24", "via", "192.168.7.1")
        router.forward()
        router.run("nft", "add table ip nat; add chain ip nat out { type nat hook postrouting priority 100; }")
        router.run("nft", 'add rule ip nat out oifname "wan" ip protocol udp masquerade to :20000-29999 random')
        async with gateways((ours_space, theirs_space), tmp_path) as (ours, theirs):
            me = Identity(type=IdentityType.FQDN, value="behind.nat.example")
            one, _ = ends("192.168.7.2", THEIRS, CBC, forced=False)
            one = dataclasses.replace(one, local=Endpoint(address="192.168.7.2", identity=me))
            _, other = ends("192.0.2.9", THEIRS, CBC, forced=False)
            other = dataclasses.replace(other, remote=Endpoint(address="192.0.2.9", identity=me))
            key = PresharedKey(id=uid("k"), secret=Secret(b"for whoever is called so"), remote_identity=me)
            mine = PresharedKey(id=uid("k"), secret=Secret(b"for whoever is called so"), local_identity=me)
            await theirs.configure(document("theirs", [other], [key]))
            await ours.configure(document("ours", [one], [mine]))
            status = await ours.until_up()
            assert status.ike_sas[0].nat_local
            assert not status.ike_sas[0].nat_remote
            assert status.ike_sas[0].remote == f"{THEIRS}:4500"
            seen = await theirs.until_up()
            address, port = seen.ike_sas[0].remote.split(":")
            assert (address, int(port) in range(20_000, 30_000)) == ("192.0.2.9", True)
            await asyncio.to_thread(ping, ours_space, OUR_HOST, THEIR_HOST)
            await asyncio.to_thread(ping, theirs_space, THEIR_HOST, OUR_HOST)
    finally:
        for namespace in spaces:
            namespace.remove()


async def test_a_data_plane_that_comes_late_or_stays_away_for_a_while(tmp_path: Path) -> None:
    with two_namespaces("late") as spaces:
        async with gateways(spaces, tmp_path) as (ours, theirs):
            ours.stop("espd")
            one, other = ends(OURS, THEIRS, CBC, forced=False)
            await theirs.configure(document("theirs", [other], [psk(THEIRS, OURS)]))
            await ours.client.call("configure", {"document": to_plain(document("ours", [one], [psk(OURS, THEIRS)]))})
            status = await ours.status()
            assert status["data_plane"]["driver"] is None
            assert "espd does not answer" in status["data_plane"]["reason"]
            assert [each["name"] for each in status["tunnels"]] == ["there"]
            ours.start("espd")
            first = await ours.until_up()
            ours.stop("espd")
            await ours.until(lambda now: not now.children[0].sas, "the loss is shown")
            ours.start("espd")
            second = await ours.until_up()
            assert second.children[0].sas[0].spi_in != first.children[0].sas[0].spi_in
            assert (await ours.status())["health"]["healthy"]
