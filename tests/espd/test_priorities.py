"""Four queues with strict priority on a path that is too slow for what is sent: real packets, real times."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agents.contract.status import QueueStatus
from agents.dataplane.base import TunnelLink, UdpEncapsulation
from agents.dataplane.plain import IkeDatagram
from tests.espd.pair import INNER_4, LINK, NAT, OUTER_4, TUNNEL, End, espd_pair, key, run_inside, sa_specs

pytestmark = pytest.mark.lab

PATH_MEGABITS = 10
"""So slow that what the machine does beside it takes little of the time that packets wait."""
CS0, CS2, CS4, CS6 = 0x00, 0x40, 0x80, 0xC0


@dataclass(frozen=True, slots=True)
class Seen:
    """Round trip times in milliseconds of echoes of CS6, each of which was answered."""

    average_ms: float
    most_ms: float


async def slow_down(end: End) -> None:
    """Let the outer link send at :data:`PATH_MEGABITS` and hold back what is more, as a modem does."""
    rate = ["rate", f"{PATH_MEGABITS}mbit", "burst", "20kb", "limit", "3mb"]
    await run_inside(end, "tc", "qdisc", "add", "dev", "wan", "root", "tbf", *rate)


@dataclass(slots=True)
class Flood:
    """``sent`` is how many packets there were, once it is over."""

    sent: int = 0


@asynccontextmanager
async def flood(end: End, tos: int, megabits: float) -> AsyncIterator[Flood]:
    """Send at this rate for a second before the block begins, and until it is over."""
    script = str(Path(__file__).with_name("flood.py"))
    process = await asyncio.create_subprocess_exec(
        *end.namespace.command([sys.executable, script, INNER_4[1], hex(tos), str(megabits)]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    found = Flood()
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"begun\n"
        yield found
    finally:
        output, _none = await process.communicate(b"")
    found.sent = int(output)


async def echoes(end: End, tos: int, count: int) -> Seen:
    """Send one after the other, each when the one before is back."""
    times = []
    for _ in range(count):
        shown = await run_inside(end, "ping", "-n", "-c", "1", "-W", "20", "-Q", hex(tos), INNER_4[1])
        found = re.search(r"time=([\d.]+) ms", shown)
        assert found is not None, shown
        times.append(float(found[1]))
    return Seen(sum(times) / count, max(times))


async def queues(end: End) -> dict[int, QueueStatus]:
    return {row.queue: row for row in (await end.driver.queues()).get(TUNNEL, ())}


async def until_full(end: End, queue: int) -> None:
    """Wait until a queue has had to drop something."""
    async with asyncio.timeout(60):
        while not (await queues(end))[queue].dropped_packets:
            await asyncio.sleep(0.02)


async def until_held_back(end: End, octets: int) -> None:
    """Wait until the path holds back as much."""
    async with asyncio.timeout(60):
        while True:
            shown = await run_inside(end, "tc", "-s", "-j", "qdisc", "show", "dev", "wan")
            if json.loads(shown)[0]["backlog"] >= octets:
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("encapsulation", [NAT, None], ids=["udp", "proto50"])
async def test_cs6_keeps_its_latency_and_cs0_is_starved(encapsulation: UdpEncapsulation | None) -> None:
    async with espd_pair() as ends:
        left = ends[0]
        await slow_down(left)
        await key(ends, sa_specs(encapsulation=encapsulation))
        await left.driver.open_link(TunnelLink(tunnel_id=TUNNEL, name=LINK, mtu=1400, queues=4))
        # CS4 alone is more than the path takes; CS0 beside it would like half as much.
        async with flood(left, CS4, 15) as much:
            await until_full(left, 1)
            async with flood(left, CS0, 5):
                seen = await echoes(left, CS6, 20)
        rows = await queues(left)
        for number, row in rows.items():
            print(f"queue {number}: {row.packets} sent, {row.dropped_packets} dropped")
        print(f"CS6 round trip: average {seen.average_ms} ms, at most {seen.most_ms} ms")
        # 128 KiB with the kernel's overhead wait in the socket and 16 packets may be under way: 100 ms at this rate.
        assert seen.average_ms < 200
        assert (rows[0].packets, rows[0].dropped_packets) == (20, 0)
        assert rows[1].packets + rows[1].dropped_packets >= much.sent * 0.9
        assert rows[1].dropped_packets > 0
        # The path was CS4's: the little that CS0 got went where CS4 was late.
        assert rows[3].dropped_packets > rows[3].packets
        assert rows[3].packets < rows[1].packets / 5
        async with asyncio.timeout(60):
            while any(row.depth_packets for row in (await queues(left)).values()):
                await asyncio.sleep(0.02)


async def test_a_rate_makes_packets_wait_here_whatever_the_path_takes() -> None:
    """What lies behind the first hop tells no socket that it is full: the rate does."""
    async with espd_pair() as ends:
        left = ends[0]
        await key(ends, sa_specs())
        link = TunnelLink(tunnel_id=TUNNEL, name=LINK, mtu=1400, queues=4)
        await left.driver.open_link(link)
        async with flood(left, CS0, 4):
            pass
        async with asyncio.timeout(60):
            while (before := (await queues(left))[3]).depth_packets:
                await asyncio.sleep(0.02)
        assert before.dropped_packets < before.packets / 10, "the path takes it all"
        await left.driver.open_link(replace(link, rate_kbps=1_000))
        async with flood(left, CS0, 4) as much:
            seen = await echoes(left, CS6, 20)
        rows = await queues(left)
        low = rows[3]
        sent, dropped = low.packets - before.packets, low.dropped_packets - before.dropped_packets
        print(f"CS0: {much.sent} given, {sent} sent, {dropped} dropped")
        print(f"CS6 round trip: average {seen.average_ms} ms, at most {seen.most_ms} ms")
        # At 1 Mbit/s a packet of CS0 takes 10 ms; the 20 that may wait take 200.
        assert seen.average_ms < 100
        assert (rows[0].packets, rows[0].dropped_packets) == (20, 0)
        assert sent + dropped + low.depth_packets >= much.sent * 0.9
        assert dropped > 2 * sent


async def test_with_one_queue_everything_waits_together() -> None:
    """What the four queues are for: without them the same echo waits behind all that the path holds back."""
    async with espd_pair() as ends:
        left = ends[0]
        await slow_down(left)
        await key(ends, sa_specs())
        async with flood(left, CS0, 15):
            await until_held_back(left, PATH_MEGABITS * 125_000 // 2)
            seen = await echoes(left, CS6, 3)
        print(f"CS6 round trip: average {seen.average_ms} ms, at most {seen.most_ms} ms")
        assert seen.average_ms > 300
        assert await left.driver.queues() == {}


async def test_ike_is_not_lost_while_tunnels_fill_its_socket() -> None:
    async with espd_pair() as ends:
        left, right = ends
        heard: asyncio.Queue[IkeDatagram] = asyncio.Queue()
        right.driver.on_ike = heard.put_nowait
        await slow_down(left)
        await key(ends, sa_specs())
        await left.driver.open_link(TunnelLink(tunnel_id=TUNNEL, name=LINK, mtu=1400, queues=4))
        async with flood(left, CS0, 30):
            await until_full(left, 3)
            for number in range(100):
                message = IkeDatagram(
                    local_address=OUTER_4[0], remote_address=OUTER_4[1], remote_port=4500, datagram=bytes((number,))
                )
                left.driver.send_ike(message)
            arrived = [(await asyncio.wait_for(heard.get(), 60)).datagram[0] for _ in range(100)]
        # UDP promises no order: each processor of the kernel hands on what it took from the path, one may be late.
        assert sorted(arrived) == list(range(100))
        assert (await queues(left))[3].dropped_packets > 0


async def test_classes_go_through_their_queues() -> None:
    async with espd_pair() as ends:
        left = ends[0]
        await key(ends, sa_specs())
        await left.driver.open_link(TunnelLink(tunnel_id=TUNNEL, name=LINK, mtu=1400, queues=4))
        for number, classes in enumerate(((0xC0, 0xE0), (0x80, 0xB8), (0x40, 0x68), (0x00, 0x20))):
            for tos in classes:
                await run_inside(left, "ping", "-c", "1", "-W", "10", "-Q", hex(tos), INNER_4[1])
            assert (await queues(left))[number].packets == 2
        assert [row.bytes for row in (await queues(left)).values()] == [168] * 4
        assert " qlen 4096" in left.namespace.ip("link", "show", LINK)
        # Other values of a link leave its queues as they are; one queue has nothing to tell.
        await left.driver.open_link(TunnelLink(tunnel_id=TUNNEL, name=LINK, mtu=1300, queues=4))
        assert (await queues(left))[0].packets == 2
        await left.driver.open_link(TunnelLink(tunnel_id=TUNNEL, name=LINK, mtu=1300))
        assert await left.driver.queues() == {}
        assert " qlen 500" in left.namespace.ip("link", "show", LINK)
        await run_inside(left, "ping", "-c", "1", "-W", "10", INNER_4[1])
