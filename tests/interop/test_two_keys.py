"""Seed 000: two tunnels from 10.1.1.1 and 10.1.1.2 to the same 10.1.1.101, each with a pre-shared key of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.contract.config import ConnectionType, GatewayDocument
from agents.contract.status import TunnelState
from deploy.lab.netns import Namespace, connect
from deploy.lab.strongswan import StrongSwan
from tests.iked.cast import document, psk, tunnel
from tests.interop.peer import SUITES
from tests.interop.rig import OurGateway, ping

pytestmark = [pytest.mark.lab, pytest.mark.needs("strongswan"), pytest.mark.timeout(120)]

HUB = "10.1.1.101"
LOCALS = ("10.1.1.1", "10.1.1.2")
KEYS = (bytes.fromhex("a1" * 32), bytes.fromhex("b2" * 32))
SUITE = SUITES["aes-gcm, group 31"]


def inner(side: int, index: int) -> str:
    """Return the inner address of a side (0 ours, 1 the hub's) of tunnel ``index``."""
    return f"10.{20 + side}.{index}.1"


def network(side: int, index: int) -> str:
    return f"10.{20 + side}.{index}.0/24"


@contextmanager
def one_segment() -> Iterator[tuple[Namespace, Namespace]]:
    """Ours with two addresses and the hub with one, on one wire."""
    prefix = f"vc{os.getpid()}-keys"
    ours, hub = Namespace(prefix, "ours"), Namespace(prefix, "hub")
    try:
        for side, namespace in enumerate((ours, hub)):
            namespace.create()
            for index in range(2):
                namespace.ip("address", "add", f"{inner(side, index)}/24", "dev", "lo")
        connect(ours, "wan", [f"{address}/24" for address in LOCALS], hub, "wan", [f"{HUB}/24"])
        yield ours, hub
    finally:
        ours.remove()
        hub.remove()


def swanctl_conf(keys: tuple[bytes, bytes]) -> str:
    connections, secrets = [], []
    for index, (local, secret) in enumerate(zip(LOCALS, keys, strict=True)):
        connections.append(
            f"to{index} {{ version = 2\n local_addrs = {HUB}\n remote_addrs = {local}\n"
            f" proposals = {SUITE.theirs_ike}\n"
            f" local {{ auth = psk\n id = {HUB} }}\n remote {{ auth = psk\n id = {local} }}\n"
            f" children {{ net {{ local_ts = {network(1, index)}\n remote_ts = {network(0, index)}\n"
            f" esp_proposals = {SUITE.theirs_esp} }} }} }}"
        )
        secrets.append(f"ike-to{index} {{ id-1 = {local}\n secret = 0x{secret.hex()} }}")
    return "connections {\n" + "\n".join(connections) + "\n}\nsecrets {\n" + "\n".join(secrets) + "\n}\n"


def our_document(connection_type: ConnectionType) -> GatewayDocument:
    tunnels = [
        tunnel(
            f"to-hub-{index}", local, HUB, local_ts=network(0, index), remote_ts=network(1, index),
            proposals=(SUITE.ike,), esp=(SUITE.esp,), connection_type=connection_type,
        )
        for index, local in enumerate(LOCALS)
    ]  # fmt: skip
    return document("ours", tunnels, [psk(local, HUB, key, local) for local, key in zip(LOCALS, KEYS, strict=True)])


async def until(gateway: OurGateway, states: dict[str, TunnelState]) -> None:
    """Wait until the tunnels are in these states by name."""
    async with asyncio.timeout(60):
        while {each.name: each.state for each in await gateway.tunnels()} != states:
            await gateway.changed()


@pytest.mark.parametrize("initiator", [True, False], ids=["initiator", "responder"])
async def test_both_tunnels_to_one_address_come_up_each_with_its_own_key(initiator: bool, tmp_path: Path) -> None:
    kind = ConnectionType.INITIATOR_ONLY if initiator else ConnectionType.RESPONDER_ONLY
    with one_segment() as (ours, hub):
        async with OurGateway(ours, tmp_path / "ours", inner(0, 0)) as gateway:
            with StrongSwan(hub, tmp_path / "hub", swanctl_conf(KEYS)) as peer:
                await gateway.configure(our_document(kind))
                for index in range(2):
                    if not initiator:
                        await asyncio.to_thread(peer.swanctl, "--initiate", "--ike", f"to{index}", "--child", "net")
                await until(gateway, {"to-hub-0": TunnelState.UP, "to-hub-1": TunnelState.UP})
                for index in range(2):
                    await asyncio.to_thread(ping, ours, inner(0, index), inner(1, index))
                    await asyncio.to_thread(ping, hub, inner(1, index), inner(0, index))


async def test_exchanged_keys_bring_neither_up(tmp_path: Path) -> None:
    """The keys belong to their pair: with the two exchanged at the hub, neither tunnel authenticates."""
    with one_segment() as (ours, hub):
        async with OurGateway(ours, tmp_path / "ours", inner(0, 0)) as gateway:
            with StrongSwan(hub, tmp_path / "hub", swanctl_conf((KEYS[1], KEYS[0]))):
                await gateway.configure(our_document(ConnectionType.INITIATOR_ONLY))
                async with asyncio.timeout(60):
                    tunnels = await gateway.tunnels()
                    while not all(each.reason for each in tunnels):
                        await gateway.changed()
                        tunnels = await gateway.tunnels()
                assert all(each.state is not TunnelState.UP for each in tunnels)
                assert {each.reason.code for each in tunnels if each.reason} == {"ike.peer-refused-auth"}
