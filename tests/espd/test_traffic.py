"""Real packets through two real ``espd`` processes."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agents.contract.carriage import DfBit
from agents.contract.secret import Secret
from agents.dataplane.base import AuthenticationHeader, Direction, UdpEncapsulation
from tests.espd.pair import (
    INNER_4,
    INNER_6,
    NAT,
    OUTER_4,
    OUTER_6,
    End,
    counters,
    espd_pair,
    key,
    ping,
    router_between,
    run_inside,
    sa_specs,
    udp_at,
)
from tests.kernel.guest.harness import Wire

pytestmark = pytest.mark.lab

MEBIBYTE = 1 << 20
AH = AuthenticationHeader(spi=0x3003, integrity="hmac-sha2-256-128", key=Secret(bytes(32)))
UDP_SEGMENT = 103
GCM, CBC = ("aes-128-gcm-16", None), ("aes-256-cbc", "hmac-sha2-256-128")


@pytest.mark.parametrize("outer", [OUTER_4, OUTER_6], ids=["outer4", "outer6"])
@pytest.mark.parametrize("encapsulation", [NAT, None], ids=["udp", "proto50"])
async def test_pings_both_ways(outer: tuple[str, str], encapsulation: UdpEncapsulation | None) -> None:
    async with espd_pair() as ends:
        await key(ends, sa_specs(outer=outer, encapsulation=encapsulation))
        assert await ping(ends[0], INNER_4[1], INNER_4[0]) == 3
        assert await ping(ends[0], INNER_6[1], INNER_6[0]) == 3
        assert await ping(ends[1], INNER_4[0], INNER_4[1], 2, 1300) == 2
        for end in ends:
            states = {state.direction: state for state in await end.driver.list_sas()}
            assert states[Direction.OUT].counters.packets_out == 8
            assert states[Direction.IN].counters.packets_in == 8
            assert states[Direction.OUT].counters.bytes_out == 3 * 84 + 3 * 104 + 2 * 1328
            assert states[Direction.IN].counters.bytes_in == 3 * 84 + 3 * 104 + 2 * 1328
            assert await counters(end) == {}


SCRIPT = str(Path(__file__).with_name("transfer.py"))


@asynccontextmanager
async def serving(receiver: End, address: str) -> AsyncIterator[None]:
    server = await asyncio.create_subprocess_exec(
        *receiver.namespace.command([sys.executable, SCRIPT, "serve", address, "5555"]),
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    try:
        assert await asyncio.wait_for(server.stdout.readline(), 60) == b"ready\n"
        yield
    finally:
        if server.returncode is None:
            server.kill()
        await server.communicate()


async def transfer(sender: End, receiver: End, address: str, octets: int) -> str:
    async with serving(receiver, address):
        return await asyncio.wait_for(
            run_inside(sender, sys.executable, SCRIPT, "send", address, "5555", str(octets)), 80
        )


@asynccontextmanager
async def transferring(sender: End, receiver: End, address: str) -> AsyncIterator[None]:
    """Let data be sent until the block is over, however long that takes; all of it must arrive as sent."""
    async with serving(receiver, address):
        process = await asyncio.create_subprocess_exec(
            *sender.namespace.command([sys.executable, SCRIPT, "send", address, "5555", "-"]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield
            output, _none = await asyncio.wait_for(process.communicate(b""), 60)
            assert output == b"same\n"
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


CASES = {
    "gcm, IPv4 in UDP": (OUTER_4, NAT, GCM, INNER_4, 48),
    "gcm, IPv6 in UDP": (OUTER_4, NAT, GCM, INNER_6, 32),
    "cbc, IPv4 in UDP over IPv6": (OUTER_6, NAT, CBC, INNER_4, 16),
    "chacha, IPv6 in protocol 50": (OUTER_4, None, ("chacha20-poly1305", None), INNER_6, 16),
    "gcm, IPv4 in protocol 50 over IPv6": (OUTER_6, None, GCM, INNER_4, 16),
}


@pytest.mark.parametrize(("outer", "encapsulation", "suite", "inner", "mebibytes"), CASES.values(), ids=CASES)
async def test_a_large_transfer_arrives_as_sent(
    outer: tuple[str, str],
    encapsulation: UdpEncapsulation | None,
    suite: tuple[str, str | None],
    inner: tuple[str, str],
    mebibytes: int,
) -> None:
    async with espd_pair() as ends:
        await key(ends, sa_specs(suite, outer, encapsulation))
        assert await transfer(ends[0], ends[1], inner[1], mebibytes * MEBIBYTE) == "same\n"
        (into,) = [state for state in await ends[1].driver.list_sas() if state.direction is Direction.IN]
        assert into.counters.bytes_in > mebibytes * MEBIBYTE
        assert (into.rejected.integrity, into.rejected.replayed) == (0, 0)
        assert set(await counters(ends[1])) <= {"esp.late"}


@pytest.mark.parametrize("encapsulation", [NAT, None], ids=["udp", "proto50"])
async def test_an_outer_path_below_the_tunnels_mtu_works_by_fragments(encapsulation: UdpEncapsulation | None) -> None:
    """Where DF is not to be set; segmentation offload is refused there, and packets go one by one."""
    async with espd_pair(mtu=1300) as ends:
        await key(ends, sa_specs(encapsulation=encapsulation, df_bit=DfBit.CLEAR))
        assert await ping(ends[0], INNER_4[1], INNER_4[0], 1, 1372) == 1
        assert await transfer(ends[0], ends[1], INNER_4[1], 4 * MEBIBYTE) == "same\n"
        assert "out.too-big" not in await counters(ends[0])


NARROW: dict[str, tuple[tuple[str, str], UdpEncapsulation | None, dict[str, Any]]] = {
    "UDP": (OUTER_4, NAT, {}),
    "protocol 50": (OUTER_4, None, {}),
    "protocol 50 over IPv6": (OUTER_6, None, {}),
    "UDP over IPv6": (OUTER_6, NAT, {}),
    "AH": (OUTER_4, None, {"ah": AH}),
    "AH over IPv6": (OUTER_6, None, {"ah": AH}),
}


@pytest.mark.parametrize(("outer", "encapsulation", "changes"), NARROW.values(), ids=NARROW)
async def test_senders_hear_that_a_path_is_narrow(
    outer: tuple[str, str], encapsulation: UdpEncapsulation | None, changes: dict[str, Any]
) -> None:
    """DF goes outwards: who may not be cut is told how much fits, and TCP lives by it."""
    async with espd_pair(mtu=1400) as ends:
        await key(ends, sa_specs(outer=outer, encapsulation=encapsulation, **changes))
        refused = await ping_output(ends[0], "-M", "do", "-s", "1372", INNER_4[1])
        assert "Frag needed and DF set" in refused
        assert "Packet too big" in await ping_output(ends[0], "-M", "do", "-s", "1352", INNER_6[1])
        assert "1 received" in await ping_output(ends[0], "-M", "dont", "-s", "1372", INNER_4[1])
        for inner in (INNER_4, INNER_6):
            assert await transfer(ends[0], ends[1], inner[1], 2 * MEBIBYTE) == "same\n"
        assert (await counters(ends[0]))["out.too-big"] == 2


@pytest.mark.parametrize("encapsulation", [NAT, None], ids=["udp", "proto50"])
async def test_with_df_always_on_fragments_are_inside(encapsulation: UdpEncapsulation | None) -> None:
    async with espd_pair(mtu=1300) as ends:
        await key(ends, sa_specs(encapsulation=encapsulation, df_bit=DfBit.SET))
        wire = Wire(ends[0].namespace, "wan")
        try:
            assert "1 received" in await ping_output(ends[0], "-M", "dont", "-s", "1372", INNER_4[1])
            frames = wire.frames()
        finally:
            wire.close()
        # UDP leaves as one super-packet, which is cut behind the capture.
        assert len(frames) == (2 if encapsulation is None else 1)
        assert {frame[20] for frame in frames} == {0x40}


async def test_a_narrow_place_further_on_is_learned_from_its_router() -> None:
    """The path's own end is wide: a router in the middle says that it is not (RFC 1191)."""
    async with espd_pair() as ends, router_between(ends, 1300):
        await key(ends, sa_specs())
        assert await transfer(ends[0], ends[1], INNER_4[1], 2 * MEBIBYTE) == "same\n"
        assert (await counters(ends[0]))["out.too-big"] >= 1


@pytest.mark.parametrize(
    ("df_bit", "df"), [(DfBit.PROPAGATE, (0x40, 0)), (DfBit.SET, (0x40, 0x40)), (DfBit.CLEAR, (0, 0))]
)
@pytest.mark.parametrize("changes", [{"encapsulation": NAT}, {}, {"ah": AH}], ids=["udp", "proto50", "ah"])
async def test_the_outer_header_is_as_the_sa_says(df_bit: DfBit, df: tuple[int, int], changes: dict[str, Any]) -> None:
    async with espd_pair() as ends:
        await key(ends, sa_specs(**{"encapsulation": None, **changes}, df_bit=df_bit, copy_dscp=False))
        wire = Wire(ends[0].namespace, "wan")
        try:
            assert "1 received" in await ping_output(ends[0], "-M", "do", "-Q", "0xba", INNER_4[1])
            assert "1 received" in await ping_output(ends[0], "-M", "dont", "-Q", "0xba", INNER_4[1])
            frames = wire.frames()
        finally:
            wire.close()
        assert tuple(frame[20] & 0x40 for frame in frames) == df
        # Without its DSCP the inner traffic class is ECN alone, here ECT(0).
        assert {frame[15] for frame in frames} == {2}


async def ping_output(end: End, *arguments: str) -> str:
    command = ["ping", "-n", "-c", "1", "-W", "10", *arguments]
    process = await asyncio.create_subprocess_exec(
        *end.namespace.command(command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _none = await process.communicate()
    return output.decode()


async def test_transfers_of_both_directions_and_families_at_once() -> None:
    async with espd_pair() as ends:
        await key(ends, sa_specs())
        answers = await asyncio.gather(
            transfer(ends[0], ends[1], INNER_4[1], 8 * MEBIBYTE),
            transfer(ends[1], ends[0], INNER_4[0], 8 * MEBIBYTE),
            transfer(ends[0], ends[1], INNER_6[1], 8 * MEBIBYTE),
        )
        assert set(answers) == {"same\n"}


async def test_a_rekey_in_the_middle_of_a_transfer_loses_nothing() -> None:
    async with espd_pair() as ends:
        await key(ends, sa_specs())
        async with transferring(ends[0], ends[1], INNER_4[1]):
            old = {state.id for end in ends for state in await end.driver.list_sas()}
            for number in range(1, 4):
                await asyncio.wait_for(_some_traffic(ends[1]), 30)
                await key(ends, sa_specs(spi=0x1001 + 16 * number))
            for end in ends:
                for sa in old:
                    await end.driver.remove_sa(sa)
            await asyncio.wait_for(_some_traffic(ends[1]), 30)
        newest = {state.id.spi: state.counters for state in await ends[1].driver.list_sas()}
        assert newest[0x1031].packets_in > 0


async def _some_traffic(end: End) -> None:
    """Return when the end's SAs have counted a little more than now."""
    before = sum(state.counters.packets_in for state in await end.driver.list_sas())
    while sum(state.counters.packets_in for state in await end.driver.list_sas()) < before + 50:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("encapsulation", [NAT, None], ids=["udp", "proto50"])
async def test_outside_there_is_nothing_but_esp_of_the_same_traffic_class(
    encapsulation: UdpEncapsulation | None,
) -> None:
    async with espd_pair() as ends:
        await key(ends, sa_specs(encapsulation=encapsulation))
        wire = Wire(ends[0].namespace, "wan")
        try:
            for _ in range(3):
                assert "1 received" in await ping_output(ends[0], "-Q", "0xb8", "-p", "76706e", INNER_4[1])
            frames = wire.frames()
        finally:
            wire.close()
        assert len(frames) == 3
        for frame in frames:
            assert frame[15] == 0xB8
            assert frame[23] == (socket.IPPROTO_ESP if encapsulation is None else socket.IPPROTO_UDP)
            assert b"vpnvpn" not in frame
            assert socket.inet_aton(INNER_4[1]) not in frame[34:]


@pytest.mark.parametrize("inner", [INNER_4, INNER_6], ids=["IPv4", "IPv6"])
async def test_udp_segmented_by_the_sender_arrives_as_datagrams(inner: tuple[str, str]) -> None:
    """Where the kernel has USO the link is handed one packet of all; elsewhere the kernel cuts it before."""
    data = bytes(index & 255 for index in range(10 * 1000 + 300))
    async with espd_pair() as ends:
        await key(ends, sa_specs())
        with udp_at(ends[0], inner[0], 7001) as sending, udp_at(ends[1], inner[1], 7002) as receiving:
            segment = (socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", 1000))
            sending.sendmsg([data], [segment], 0, (inner[1], 7002))
            loop = asyncio.get_running_loop()
            received = [await asyncio.wait_for(loop.sock_recv(receiving, 2000), 60) for _ in range(11)]
        assert [len(datagram) for datagram in received] == [1000] * 10 + [300]
        assert b"".join(received) == data
