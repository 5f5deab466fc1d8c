"""Manual keys move packets: two daemons with userspace ESP in namespaces, no IKE between them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agents.contract.codec import from_plain
from agents.contract.manual import ManualChild
from agents.contract.secret import Secret
from agents.contract.status import TunnelState, TunnelStatus
from agents.dataplane.base import Direction, PolicySpec
from agents.runtime.rpc import Client
from tests.interop.rig import OUR_HOST, OUR_NET, OURS, THEIR_HOST, THEIR_NET, THEIRS, OurGateway, ping, two_namespaces

from .cast import CBC_SHA1, document, manual, manual_child, uid

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

BACK = replace(CBC_SHA1, esp_spi=0x3003, encryption_key=Secret(b"the way back has"), integrity_key=Secret(bytes(20)))


def mirrored(child: ManualChild) -> ManualChild:
    return replace(
        child,
        local_ts=child.remote_ts,
        remote_ts=child.local_ts,
        inbound=child.outbound,
        outbound=child.inbound,
    )


async def keyed(ours: OurGateway, theirs: OurGateway, *children: ManualChild) -> None:
    """Give both ends a tunnel of these children, as ours sees them, and wait until it stands."""
    back = [mirrored(each) for each in children]
    ends = [(ours, OURS, THEIRS, children, THEIR_NET), (theirs, THEIRS, OURS, back, OUR_NET)]
    for gateway, here, there, each, network in ends:
        made = manual("m", here, there, children=each)
        await gateway.load(document("g", [], [], manual_tunnels=[made]))
        gateway.route_into(uid("m"), network, gateway.inner_address)
    for gateway in (ours, theirs):
        await gateway.until(stands, "stands")


def stands(status: TunnelStatus) -> bool:
    return status.state is TunnelState.UP


@asynccontextmanager
async def gateways(directory: Path) -> AsyncIterator[tuple[OurGateway, OurGateway]]:
    with two_namespaces("manual") as (left, right):
        async with (
            OurGateway(left, directory / "ours") as ours,
            OurGateway(right, directory / "theirs", THEIR_HOST) as theirs,
        ):
            yield ours, theirs


def since(status: TunnelStatus) -> float:
    """Return when the first child's SAs were installed; 0 while they are not."""
    return max((sa.installed_at for sa in status.children[0].sas), default=0.0)


async def both_ping(ours: OurGateway, theirs: OurGateway) -> None:
    await asyncio.to_thread(ping, ours.namespace, OUR_HOST, THEIR_HOST)
    await asyncio.to_thread(ping, theirs.namespace, THEIR_HOST, OUR_HOST)


def packets(status: TunnelStatus) -> tuple[int, int]:
    return status.counters.packets_in, status.counters.packets_out


async def counted(gateway: OurGateway, accept: Callable[[TunnelStatus], bool]) -> TunnelStatus:
    """Return a status whose counters are right; each asking reads them anew."""
    async with asyncio.timeout(60):
        while True:
            (status,) = await gateway.tunnels()
            if accept(status):
                return status


async def until_first(gateway: OurGateway, source: str) -> None:
    """Wait until what goes out from ``source`` is looked at before all other traffic, and nothing is under way."""
    async with asyncio.timeout(60), await Client.connect(gateway.run / "espd.sock") as espd:
        while True:
            policies = [from_plain(PolicySpec, each) for each in (await espd.call("list_policies"))["policies"]]
            outwards = [each for each in policies if each.direction is Direction.OUT]
            first, *others = sorted(outwards, key=lambda each: each.priority)
            if first.selector.source == source and all(first.priority < each.priority for each in others):
                break
    await gateway.until(lambda now: all(child.sas for child in now.children), "every child stands")


async def test_pings_both_ways_and_again_after_each_kind_of_loss(tmp_path: Path) -> None:
    async with gateways(tmp_path) as (ours, theirs):
        child = manual_child(local_ts=OUR_NET, remote_ts=THEIR_NET, outbound=BACK)
        await keyed(ours, theirs, child)
        await both_ping(ours, theirs)
        (before,) = await ours.tunnels()
        assert before.interface == f"vpn{uid('m')[:8]}"
        assert before.counters == before.children[0].sas[0].counters
        assert (
            packets(before) == packets(await counted(theirs, lambda now: packets(now) == packets(before)[::-1]))[::-1]
        )

        # Sequence numbers begin anew at one end only: without a window the other does not mind.
        await ours.act("clear-ipsec", uid("m"))
        await ours.until(lambda now: since(now) > since(before), "installed anew")
        await both_ping(ours, theirs)

        ours.stop("espd", signal.SIGKILL)
        await ours.until(lambda now: now.state is TunnelState.DOWN, "lost")
        ours.start("espd")
        await ours.until(stands, "stands again")
        ours.route_into(uid("m"), THEIR_NET, OUR_HOST)
        await both_ping(ours, theirs)
        (after,) = await ours.tunnels()
        assert after.counters.packets_in > before.counters.packets_in

        await ours.disconnect()
        ours.stop("iked", signal.SIGKILL)
        ours.start("iked")
        await ours.connect()
        assert ours.document is not None
        await ours.load(ours.document)
        await ours.until(stands, "stands after a restart")
        await both_ping(ours, theirs)


async def test_a_wrong_key_lets_nothing_through_and_the_right_one_mends_it(tmp_path: Path) -> None:
    async with gateways(tmp_path) as (ours, theirs):
        child = manual_child(local_ts=OUR_NET, remote_ts=THEIR_NET)
        await keyed(ours, theirs, child)
        wrong = replace(CBC_SHA1, integrity_key=Secret(b"twenty other octets!"))
        (right,) = await theirs.tunnels()
        await theirs.load(
            document("g", [], [], manual_tunnels=[
                manual("m", THEIRS, OURS, children=[replace(mirrored(child), inbound=wrong)])]),
        )  # fmt: skip
        # Between the two keys there are none: a packet then is dropped for want of an SA.
        before = await theirs.until(lambda now: since(now) > since(right), "keyed wrongly")
        with pytest.raises(AssertionError):
            await asyncio.to_thread(ping, ours.namespace, OUR_HOST, THEIR_HOST)
        async with asyncio.timeout(60):
            while not any(event.startswith("esp.integrity") for event in await theirs.events()):
                await theirs.changed()
        await keyed(ours, theirs, child)
        await theirs.until(lambda now: since(now) > since(before), "keyed anew")
        await both_ping(ours, theirs)


async def test_of_two_rules_the_first_carries_the_traffic_of_both(tmp_path: Path) -> None:
    """Seed 003 section 8.4: rules are ordered. The second is the more specific one."""
    second = replace(CBC_SHA1, esp_spi=0x5005)
    wide = manual_child("wide", OUR_NET, THEIR_NET)
    narrow = manual_child("narrow", f"{OUR_HOST}/32", f"{THEIR_HOST}/32", sa=second)
    async with gateways(tmp_path) as (ours, theirs):
        await keyed(ours, theirs, wide, narrow)
        await both_ping(ours, theirs)
        status = await counted(ours, lambda now: packets(now)[0] >= 6)
        by_name = {child.name: child.sas[0].counters.packets_out for child in status.children}
        assert by_name["narrow"] == 0
        assert by_name["wide"] >= 6
        installed = {child.name: child.sas[0].installed_at for child in status.children}
        await keyed(ours, theirs, narrow, wide)
        for gateway, source in ((ours, f"{OUR_HOST}/32"), (theirs, f"{THEIR_HOST}/32")):
            await until_first(gateway, source)  # it stood before, and its status does not tell of an order
        await both_ping(ours, theirs)
        status = await counted(ours, lambda now: now.children[0].sas[0].counters.packets_in >= 6)
        assert status.children[0].name == "narrow"
        assert {child.name: child.sas[0].installed_at for child in status.children} == installed
