"""What a network and its people do to packets and devices, on real ones."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from agents.contract.secret import Secret
from agents.contract.status import Rejections
from agents.dataplane.base import AuthenticationHeader, Direction, Notice, Rejected, Repaired, SaState, TunnelLink
from tests.espd.pair import (
    INNER_4,
    INNER_6,
    LINK,
    NAT,
    TUNNEL,
    End,
    counters,
    espd_pair,
    key,
    ping,
    run_inside,
    sa_specs,
)
from tests.espd.test_priorities import flood
from tests.kernel.guest.harness import Wire

pytestmark = pytest.mark.lab

AH = AuthenticationHeader(spi=0x3003, integrity="hmac-sha2-256-128", key=Secret(bytes(32)))
HEADERS = {"udp": 14 + 20 + 8, "proto50": 14 + 20, "ah": 14 + 20}
CARRIED: dict[str, dict[str, Any]] = {
    "udp": {"encapsulation": NAT}, "proto50": {"encapsulation": None}, "ah": {"encapsulation": None, "ah": AH}
}  # fmt: skip


async def inbound(end: End) -> SaState:
    (state,) = [state for state in await end.driver.list_sas() if state.direction is Direction.IN]
    return state


async def rejected(end: End, expected: Rejections) -> None:
    """Wait until the end has refused as much: packets put on a wire arrive when they do."""
    async with asyncio.timeout(60):
        while (await inbound(end)).rejected != expected:
            await asyncio.sleep(0.01)


class Ears:
    """Hears what a driver says."""

    def __init__(self, end: End) -> None:
        self.heard: list[Notice] = []
        self._end = end
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for notice in self._end.driver.notices():
            self.heard.append(notice)

    async def until(self, kind: type[Notice], count: int = 1) -> list[Any]:
        async with asyncio.timeout(60):
            while len(found := [notice for notice in self.heard if isinstance(notice, kind)]) < count:
                await asyncio.sleep(0.01)
        return found

    def counts(self) -> dict[str, int]:
        """Return how many packets were refused, by why; the same reason may be told several times."""
        told = [notice for notice in self.heard if isinstance(notice, Rejected)]
        return {code: sum(row.count for row in told if row.code == code) for code in {row.code for row in told}}

    async def until_counted(self, packets: int) -> None:
        async with asyncio.timeout(60):
            while sum(self.counts().values()) < packets:
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def keyed(name: str, **changes: Any) -> AsyncIterator[tuple[End, End, Wire, Ears]]:
    async with espd_pair() as ends:
        await key(ends, sa_specs(**CARRIED[name], **changes))
        wire, ears = Wire(ends[0].namespace, "wan"), Ears(ends[1])
        try:
            yield ends[0], ends[1], wire, ears
        finally:
            await ears.close()
            wire.close()


def refreshed(frame: bytes) -> bytes:
    """The frame with the IP header's length and checksum as they should be, and no UDP checksum."""
    changed = bytearray(frame)
    changed[16:18] = struct.pack("!H", len(frame) - 14)
    changed[24:26] = b"\0\0"
    total = sum(struct.unpack("!10H", changed[14:34]))
    total = (total & 0xFFFF) + (total >> 16)
    changed[24:26] = struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)
    if frame[23] == 17:
        changed[38:42] = struct.pack("!HH", len(frame) - 34, 0)
    return bytes(changed)


@pytest.mark.parametrize("name", CARRIED)
async def test_duplicates_forgeries_and_late_packets_are_told_apart(name: str) -> None:
    async with keyed(name, replay_window=32) as (left, right, wire, ears):
        assert await ping(left, INNER_4[1], INNER_4[0], 2) == 2
        first, second = wire.frames()
        for frame in (first, second, second):
            wire.send(refreshed(frame))
        await rejected(right, Rejections(replayed=3))
        assert await ping(left, INNER_4[1], INNER_4[0], 40) == 40
        wire.send(refreshed(first))
        await rejected(right, Rejections(replayed=3, late=1))
        # A number that is new, so that the ICV decides.
        forged = bytearray(wire.frames()[-1])
        at = HEADERS[name] + (8 if name == "ah" else 4)
        forged[at : at + 4] = struct.pack("!I", 1000)
        wire.send(refreshed(bytes(forged)))
        await rejected(right, Rejections(replayed=3, late=1, integrity=1))
        # None of it was delivered, and the forgery has not moved the window.
        assert await ping(left, INNER_4[1], INNER_4[0], 2) == 2
        assert (await inbound(right)).counters.packets_in == 44
        await ears.until_counted(5)
        assert ears.counts() == {"esp.replay": 3, "esp.late": 1, "esp.integrity": 1}


@pytest.mark.parametrize("name", CARRIED)
async def test_truncated_packets_are_refused_at_every_length(name: str) -> None:
    async with keyed(name) as (left, right, wire, _ears):
        assert await ping(left, INNER_4[1], INNER_4[0], 1) == 1
        (frame,) = wire.frames()
        # Up to the sequence number they are nobody's; from there on the number is one that was seen.
        named = HEADERS[name] + (12 if name == "ah" else 8)
        for length in range(named, len(frame), 7):
            wire.send(refreshed(frame[:length]))
        sent = len(range(named, len(frame), 7))
        async with asyncio.timeout(60):
            while sum(vars_of(await inbound(right))) < sent:
                await asyncio.sleep(0.01)
        assert (await inbound(right)).counters.packets_in == 1
        for length in range(HEADERS[name], named):
            wire.send(refreshed(frame[:length]))
        async with asyncio.timeout(60):
            while (await counters(right)).get("esp.malformed", 0) < (3 if name == "udp" else 4):
                await asyncio.sleep(0.01)
        assert await ping(left, INNER_4[1], INNER_4[0], 1) == 1


def vars_of(state: SaState) -> list[int]:
    return [getattr(state.rejected, name) for name in Rejections.__dataclass_fields__]


async def test_a_flood_of_forgeries_is_told_in_few_words_and_counted_to_the_last() -> None:
    async with keyed("udp") as (left, right, wire, ears):
        assert await ping(left, INNER_4[1], INNER_4[0], 1) == 1
        forged = bytearray(wire.frames()[0])
        for number in range(1000):
            forged[46:50] = struct.pack("!I", 10_000 + number)
            wire.send(refreshed(bytes(forged)))
        await rejected(right, Rejections(integrity=1000))
        await ears.until_counted(1000)
        assert ears.counts() == {"esp.integrity": 1000}
        assert len(await ears.until(Rejected)) <= 5
        assert await ping(left, INNER_4[1], INNER_4[0], 3) == 3


async def test_a_link_that_somebody_removes_is_made_again_and_told() -> None:
    async with keyed("udp") as (left, right, _wire, ears):
        right.namespace.ip("link", "delete", LINK)
        (repaired,) = await ears.until(Repaired)
        assert LINK in repaired.detail
        # Addresses and routes are the agent's to put back, as it does when it sees the link.
        for address in (f"{INNER_4[1]}/32", f"{INNER_6[1]}/128"):
            right.namespace.ip("address", "replace", address, "dev", LINK)
        right.namespace.ip("route", "replace", "10.0.0.0/8", "dev", LINK, "src", INNER_4[1])
        assert await ping(left, INNER_4[1], INNER_4[0], 3) == 3
        assert await ping(right, INNER_4[0], INNER_4[1], 3) == 3


async def test_a_link_of_its_own_that_is_closed_stays_away() -> None:
    async with keyed("udp") as (_left, right, _wire, _ears):
        await right.driver.close_link(TUNNEL)
        assert LINK not in right.namespace.ip("link", "show")


@pytest.mark.parametrize("name", CARRIED)
async def test_a_full_socket_loses_packets_and_counts_them(name: str) -> None:
    """The path takes a megabit, and what it holds back is less than what comes."""
    async with keyed(name) as (left, _right, _wire, _ears):
        rate = ["rate", "1mbit", "burst", "20kb", "limit", "40mb"]
        await run_inside(left, "tc", "qdisc", "add", "dev", "wan", "root", "tbf", *rate)
        async with flood(left, 0, 300), asyncio.timeout(60):
            while (await counters(left)).get("out.full", 0) <= 100:
                await asyncio.sleep(0.01)


async def test_jumbo_frames_carry_jumbo_packets() -> None:
    async with espd_pair(mtu=9000) as ends:
        await key(ends, sa_specs())
        for end in ends:
            await end.driver.open_link(TunnelLink(tunnel_id=TUNNEL, name=LINK, mtu=8900))
        for inner, overhead in ((INNER_4, 28), (INNER_6, 48)):
            command = ("ping", "-c", "2", "-i", "0.05", "-W", "10", "-M", "do", "-s", str(8900 - overhead), inner[1])
            await run_inside(ends[0], *command)
        assert await counters(ends[0]) == {}


async def test_packets_outside_the_selectors_are_counted_on_their_sa_and_not_delivered() -> None:
    async with keyed("udp") as (left, right, _wire, ears):
        for spec in await right.driver.list_policies():
            if spec.direction is Direction.IN:
                await right.driver.remove_policy(spec)
            elif spec.selector.source == "10.2.0.0/16":
                # All of the other network but the host that is asked.
                narrow = replace(spec.selector, source=spec.selector.destination, destination="10.2.1.0/24")
                await right.driver.add_policy(replace(spec, direction=Direction.IN, selector=narrow))
        assert await ping(left, INNER_4[1], INNER_4[0], 3) == 0
        await rejected(right, Rejections(selectors=3))
        assert {row.code for row in await ears.until(Rejected)} == {"esp.policy"}
        assert (await inbound(right)).counters.packets_in == 0


async def test_noise_is_survived() -> None:
    async with keyed("proto50") as (left, _right, wire, _ears):
        assert await ping(left, INNER_4[1], INNER_4[0], 1) == 1
        (frame,) = wire.frames()
        for length in (0, 1, 4, 8, 20, 64, 1400):
            for protocol in (50, 51):
                noise = bytearray(frame[:34] + os.urandom(length))
                noise[23] = protocol
                wire.send(refreshed(bytes(noise)))
        assert await ping(left, INNER_4[1], INNER_4[0], 3) == 3
