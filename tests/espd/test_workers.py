"""Several workers: the order of one SA, its limits, what came to the wrong one, and what happens when one dies."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agents.contract.secret import Secret
from agents.dataplane.base import Expired, Limits, Lost, Repaired, SaId, SaState, TunnelLink
from agents.dataplane.userspace import ip
from agents.dataplane.userspace.esp import build_transform
from agents.dataplane.userspace.inward import Arrival
from agents.espd import shared
from agents.espd.__main__ import WORKER_LOST, workers_of
from agents.espd.shared import SharedNumbers, Table, TableFull
from agents.espd.steering import Mail
from agents.espd.workers import MOST
from agents.runtime.rpc import Client
from tests.espd.pair import (
    INNER_4,
    LINK,
    OUTER_4,
    TUNNEL,
    End,
    counters,
    espd_pair,
    key,
    ping,
    run_inside,
    sa_specs,
    udp_at,
)
from tests.espd.test_bad_input import Ears

WORKERS = 2
FLOWS, DATAGRAMS = 32, 12
"""Fewer together than a TUN's queue holds, so that none is lost before it is sealed."""
ROUNDS = 5
_UDP_SEGMENT = 103


@asynccontextmanager
async def ends() -> AsyncIterator[tuple[End, End]]:
    async with espd_pair(workers=WORKERS) as both:
        yield both


async def ask(end: End, worker: int, method: str) -> Any:
    name = f"espd-{worker}.sock" if worker else "espd.sock"
    async with await Client.connect(end.run / name) as client:
        return await client.call(method)


async def flood(end: End) -> None:
    """Send datagrams of many flows from the left end to the right."""
    await run_inside(end, "python3", "-m", "tests.espd.many_flows", INNER_4[1], str(FLOWS), str(DATAGRAMS), "600")


async def of(end: End, sa: SaId) -> SaState:
    (state,) = [state for state in await end.driver.list_sas() if state.id == sa]
    return state


def packets(states: tuple[SaState, ...], spi: int) -> int:
    (state,) = [state for state in states if state.id.spi == spi]
    return state.counters.packets_in + state.counters.packets_out


@pytest.mark.lab
async def test_one_sa_keeps_its_order_through_all_workers() -> None:
    async with ends() as (left, right):
        # With so small a window every packet that is overtaken is late.
        out, _back = specs = sa_specs(replay_window=1)
        await key((left, right), specs)
        for number in range(1, ROUNDS + 1):
            await flood(left)
            async with asyncio.timeout(60):
                while packets(await right.driver.list_sas(), out.spi) < number * FLOWS * DATAGRAMS:
                    await asyncio.sleep(0.01)
        sent = ROUNDS * FLOWS * DATAGRAMS
        state = await of(right, out.id)
        assert (state.counters.packets_in, state.rejected.late, state.rejected.replayed) == (sent, 0, 0)
        assert packets(await left.driver.list_sas(), out.spi) == sent
        by_the_second = (await ask(left, 1, "list_sas"))["sas"]
        assert 0 < sum(row["counters"]["packets_out"] for row in by_the_second) < sent


@pytest.mark.lab
async def test_a_limit_in_packets_is_for_all_workers_together_and_told_once() -> None:
    async with ends() as (left, right):
        ears = Ears(left)
        # Between the two floods: a worker that passes both limits before it hears of the first tells the second alone.
        hard = FLOWS * DATAGRAMS + 100
        out, back = sa_specs(limits=Limits(soft_packets=100, hard_packets=hard))
        await key((left, right), (out, back), limits=Limits())
        await flood(left)
        await ears.until(Expired)
        await flood(left)
        await ears.until(Expired, 2)
        # Both have looked at what they share for the last time when both have answered.
        for worker in range(WORKERS):
            assert [row for row in (await ask(left, worker, "list_sas"))["sas"] if row["id"]["spi"] == out.spi] == []
        assert [(each.id, each.hard) for each in await ears.until(Expired)] == [(out.id, False), (out.id, True)]
        # A forged one behind all that was sent: when it is refused, what came before it has been counted.
        with udp_at(left, OUTER_4[0], 40123) as udp:
            udp.sendto(struct.pack("!2I", out.spi, 10_000) + bytes(40), (OUTER_4[1], 4500))
        async with asyncio.timeout(60):
            while (state := await of(right, out.id)).counters.packets_in < hard or not state.rejected.integrity:
                await asyncio.sleep(0.01)
        assert state.counters.packets_in < hard + WORKERS * 80
        await ears.close()


@pytest.mark.lab
async def test_datagrams_of_two_sas_that_the_kernel_joins_reach_both_workers() -> None:
    async with ends() as (left, right):
        inner = (
            ip.header(bytes([10, 2, 0, 1]), bytes([10, 1, 0, 1]), 17, 108)
            + struct.pack("!4H", 9, 9, 108, 0)
            + bytes(100)
        )
        sealed = []
        for spi in (0x2000, 0x2003):
            outwards, inwards = sa_specs(spi=spi - 1)
            await key((left, right), (outwards, inwards))
            secret = inwards.encryption_key or Secret(b"")
            transform = build_transform(inwards.spi, "aes-128-gcm-16", secret, None, None, os.urandom)
            sealed.append(transform.seal(1, [inner] * 8))
        mixed = [packet for both in zip(*sealed, strict=True) for packet in both]
        with udp_at(right, OUTER_4[1], 40123) as udp:
            segment = [(socket.SOL_UDP, _UDP_SEGMENT, struct.pack("=H", len(mixed[0])))]
            udp.sendmsg([b"".join(mixed)], segment, 0, (OUTER_4[0], 4500))
        async with asyncio.timeout(60):
            while [packets(await left.driver.list_sas(), spi) for spi in (0x2000, 0x2003)] != [8, 8]:
                await asyncio.sleep(0.01)
        assert await counters(left) == {}


@pytest.mark.lab
async def test_a_worker_that_dies_takes_all_with_it() -> None:
    async with ends() as (left, right):
        await key((left, right), sa_specs())
        ears = Ears(left)
        os.kill((await ask(left, 1, "health"))["health"]["pid"], signal.SIGKILL)
        await ears.until(Lost)
        assert await asyncio.to_thread(left.process.wait, 10) == WORKER_LOST
        assert "worker 1 has ended" in left.log
        async with asyncio.timeout(60):
            while LINK in left.namespace.ip("link", "show"):  # goes with the last that has it, whichever that is
                await asyncio.sleep(0.01)
        await ears.close()


@pytest.mark.lab
async def test_a_link_that_somebody_removes_has_all_its_queues_again() -> None:
    async with ends() as (left, right):
        await key((left, right), sa_specs())
        ears = Ears(right)
        right.namespace.ip("link", "delete", LINK)
        await ears.until(Repaired)
        right.namespace.ip("address", "replace", f"{INNER_4[1]}/32", "dev", LINK)
        right.namespace.ip("route", "replace", "10.0.0.0/8", "dev", LINK, "src", INNER_4[1])
        async with asyncio.timeout(60):
            while f"numqueues {WORKERS}" not in right.namespace.ip("-d", "link", "show", LINK):
                await asyncio.sleep(0.01)
        assert await ping(left, INNER_4[1], INNER_4[0]) == 3
        assert await ping(right, INNER_4[0], INNER_4[1]) == 3
        await ears.close()


@pytest.mark.lab
async def test_a_tunnel_with_priorities_stays_with_the_first_worker() -> None:
    async with ends() as (left, right):
        await left.driver.open_link(TunnelLink(tunnel_id=TUNNEL, name=LINK, mtu=1400, queues=4))
        await key((left, right), sa_specs())
        assert "numqueues 1 " in left.namespace.ip("-d", "link", "show", LINK)
        await flood(left)
        async with asyncio.timeout(60):
            while packets(await right.driver.list_sas(), 0x1001) < FLOWS * DATAGRAMS:
                await asyncio.sleep(0.01)
        assert [row["counters"]["packets_out"] for row in (await ask(left, 1, "list_sas"))["sas"]] == [0, 0]


@pytest.mark.lab
async def test_a_trace_is_of_all_workers_and_has_its_room_once() -> None:
    async with ends() as (left, right):
        await key((left, right), sa_specs())
        async with await Client.connect(left.run / "espd.sock") as client:
            wanted = {
                "id": str(uuid.uuid4()),
                "categories": ["capsulation-information"],
                "seconds": 60,
                "octets": 200_000,
            }
            begun = await client.call("trace", {"action": "on", **wanted})
            assert (begun["begun"]["octets"], begun["count"]) == (200_000, 0)
            await flood(left)
            async with asyncio.timeout(60):
                while packets(await right.driver.list_sas(), 0x1001) < FLOWS * DATAGRAMS:
                    await asyncio.sleep(0.01)
            mine = await client.call("trace", {"action": "off"})
            other = (await ask(left, 1, "trace"))["records"]
        assert 0 < len(other) < len(mine["records"]) == mine["count"]
        assert all(record in mine["records"] for record in other)
        assert [each["time"] for each in mine["records"]] == sorted(each["time"] for each in mine["records"])


@pytest.mark.parametrize(
    ("text", "workers"), [("1", 1), ("3", 3), ("99", MOST), ("cores", len(os.sched_getaffinity(0)))]
)
def test_how_many_workers(text: str, workers: int) -> None:
    assert workers_of(text) == workers


@pytest.mark.parametrize("text", ["0", "-1", "many"])
def test_an_impossible_number_of_workers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        workers_of(text)


# What they share


def test_numbers_are_taken_once_and_sent_in_their_order() -> None:
    table = Table(2, slots=1)
    slot = table.allocate()
    mine, other = SharedNumbers(table, slot, 0), SharedNumbers(table, slot, 1)
    first, second = mine.take(3, 300, 5), other.take(2, 200, 5)
    assert first is not None
    assert second is not None
    assert (first.first, first.octets, first.packets) == (1, 300, 3)
    assert (second.first, second.octets, second.packets) == (4, 500, 5)
    assert mine.take(1, 100, 5) is None, "there is no number left"
    order: list[int] = []

    def send_second() -> None:
        second.wait()
        order.append(2)
        second.done()

    thread = threading.Thread(target=send_second)
    thread.start()
    first.wait()
    order.append(1)
    first.done()
    thread.join(10)
    assert order == [1, 2]


def test_a_worker_that_never_sends_ends_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "LOST_S", 0.01)
    table = Table(2, slots=1)
    slot = table.allocate()
    SharedNumbers(table, slot, 0).take(1, 100, 10)
    turn = SharedNumbers(table, slot, 1).take(1, 100, 10)
    assert turn is not None
    with pytest.raises(SystemExit, match="does not send"):
        turn.wait()


def test_a_slot_is_fresh_each_time_and_there_are_so_many() -> None:
    table = Table(2, slots=1)
    slot = table.allocate()
    SharedNumbers(table, slot, 0).take(7, 700, 10)
    with pytest.raises(TableFull, match="more than 1 outbound"):
        table.allocate()
    table.release(slot)
    turn = SharedNumbers(table, table.allocate(), 0).take(1, 100, 10)
    assert turn is not None
    assert turn.first == 1


@pytest.mark.parametrize(("local", "remote"), [("192.0.2.1", "198.51.100.7"), ("2001:db8::1", "2001:db8::7")])
def test_what_came_to_the_wrong_worker_is_handed_over_as_it_came(local: str, remote: str) -> None:
    mail = Mail(2)
    arrival = Arrival(local, remote, 4500, 0xBA)
    assert mail.receive(1) is None
    assert mail.send(1, arrival, b"an ESP packet")
    assert mail.receive(1) == (arrival, b"an ESP packet")
    assert mail.receive(0) is None


def test_a_worker_that_does_not_read_its_mail_loses_some() -> None:
    mail = Mail(2)
    arrival = Arrival("192.0.2.1", "198.51.100.7", 4500, 0)
    sent = 0
    while mail.send(1, arrival, bytes(1_000)):
        sent += 1
        assert sent < 1_000_000
    assert sent > 5
