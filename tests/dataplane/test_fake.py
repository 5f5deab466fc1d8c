"""The in-memory driver behaves like a data plane where tests rely on it."""

from __future__ import annotations

import asyncio
import errno

import pytest

from agents.contract.secret import Secret
from agents.contract.status import Counters, NamedCount, QueueStatus, Rejections
from agents.dataplane.base import (
    REQID_BASE,
    Acquired,
    DataplaneError,
    Direction,
    Driver,
    Expired,
    Lost,
    Mapped,
    Notice,
    PolicySpec,
    Rejected,
    SaId,
    SaSpec,
    Selector,
    TunnelLink,
    UdpEncapsulation,
)
from agents.dataplane.fake import FakeDriver

SELECTOR = Selector(source="10.1.0.0/24", destination="10.2.0.0/24")


def sa(spi: int = 0x100, direction: Direction = Direction.OUT) -> SaSpec:
    return SaSpec(
        tunnel_id="t1",
        direction=direction,
        spi=spi,
        source="192.0.2.1",
        destination="192.0.2.2",
        reqid=REQID_BASE + 1,
        encryption="aes-128-gcm-16",
        encryption_key=Secret(bytes(20)),
    )


def policy(priority: int = 1000) -> PolicySpec:
    return PolicySpec(
        tunnel_id="t1",
        direction=Direction.OUT,
        selector=SELECTOR,
        source="192.0.2.1",
        destination="192.0.2.2",
        reqid=REQID_BASE + 1,
        priority=priority,
    )


@pytest.fixture
async def driver() -> FakeDriver:
    fake = FakeDriver()
    await fake.open()
    return fake


def test_is_a_driver() -> None:
    driver: Driver = FakeDriver()
    assert driver is not None


async def test_nothing_works_before_open() -> None:
    with pytest.raises(DataplaneError) as caught:
        await FakeDriver().add_sa(sa())
    assert caught.value.errno == errno.ENOTCONN


async def test_features_say_what_the_test_wants() -> None:
    assert "aes-128-gcm-16" in (await FakeDriver().features()).encryptions
    refused = await FakeDriver(available=False, reason="no ESP here").features()
    assert (refused.available, refused.reason, refused.encryptions) == (False, "no ESP here", frozenset())


async def test_an_sa_is_added_once_counted_and_removed_twice(driver: FakeDriver) -> None:
    await driver.add_sa(sa())
    with pytest.raises(DataplaneError) as caught:
        await driver.add_sa(sa())
    assert caught.value.errno == errno.EEXIST
    driver.count(sa().id, packets=2, octets=168, at=5.0)
    (state,) = await driver.list_sas()
    assert state.counters == Counters(packets_out=2, bytes_out=168)
    assert state.last_used == 5.0
    await driver.remove_sa(sa().id)
    await driver.remove_sa(sa().id)
    assert await driver.list_sas() == ()


async def test_a_repeated_policy_replaces(driver: FakeDriver) -> None:
    await driver.add_policy(policy(1000))
    await driver.add_policy(policy(2000))
    assert await driver.list_policies() == (policy(2000),)
    await driver.remove_policy(policy())
    assert await driver.list_policies() == ()


async def test_a_moved_sa_keeps_its_counters_under_its_new_name(driver: FakeDriver) -> None:
    await driver.add_sa(sa())
    driver.count(sa().id, packets=1, octets=84)
    ports = UdpEncapsulation(source_port=4500, destination_port=31000)
    await driver.update_mapping(sa().id, "192.0.2.1", "198.51.100.9", ports)
    (state,) = await driver.list_sas()
    assert state.id == SaId(spi=0x100, destination="198.51.100.9")
    assert state.counters.packets_out == 1
    with pytest.raises(DataplaneError) as caught:
        await driver.update_mapping(sa().id, "192.0.2.1", "198.51.100.9", ports)
    assert caught.value.errno == errno.ESRCH


async def test_rejections_move_with_their_sa_and_end_with_it(driver: FakeDriver) -> None:
    await driver.add_sa(sa())
    driver.refuse(sa().id, Rejections(integrity=2, mode=1))
    driver.refuse(sa().id, Rejections(integrity=1))
    await driver.update_mapping(sa().id, "192.0.2.1", "198.51.100.9", None)
    (state,) = await driver.list_sas()
    assert state.rejected == Rejections(integrity=3, mode=1)
    await driver.remove_sa(state.id)
    await driver.add_sa(sa())
    assert (await driver.list_sas())[0].rejected == Rejections()


async def test_only_links_with_several_queues_have_them(driver: FakeDriver) -> None:
    link = TunnelLink(tunnel_id="t1", name="vpn0", mtu=1400, queues=4)
    await driver.open_link(link)
    await driver.open_link(TunnelLink(tunnel_id="t2", name="vpn1", mtu=1400))
    driver.queue("t1", QueueStatus(queue=3, packets=7, dropped_packets=2))
    await driver.open_link(link)
    queues = await driver.queues()
    assert set(queues) == {"t1"}
    assert [(row.queue, row.packets, row.dropped_packets) for row in queues["t1"]] == [
        (0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 7, 2),
    ]  # fmt: skip
    await driver.close_link("t1")
    assert await driver.queues() == {}


async def test_counts_add_up_by_name(driver: FakeDriver) -> None:
    driver.count_named("esp.no-sa", 2)
    driver.count_named("esp.no-sa", 3)
    assert await driver.counts() == (NamedCount(name="esp.no-sa", count=5),)


async def test_a_failure_hits_its_operation_once(driver: FakeDriver) -> None:
    driver.fail("add_sa", "no such algorithm", errno.ENOSYS)
    await driver.add_policy(policy())
    with pytest.raises(DataplaneError, match="no such algorithm") as caught:
        await driver.add_sa(sa())
    assert caught.value.errno == errno.ENOSYS
    await driver.add_sa(sa())
    assert [operation for operation, _ in driver.calls] == ["open", "add_policy", "add_sa", "add_sa"]


async def test_notices_come_in_order_and_end_with_close(driver: FakeDriver) -> None:
    await driver.add_sa(sa())
    heard: list[Notice] = []

    async def listen() -> None:
        async for notice in driver.notices():
            heard.append(notice)

    listener = asyncio.create_task(listen())
    driver.expire(sa().id, hard=False)
    driver.acquire(REQID_BASE + 1, SELECTOR)
    driver.move(sa().id, "198.51.100.9", 31000)
    driver.reject("esp.replay", 3, sa().id)
    driver.expire(sa().id, hard=True)
    assert driver.sas == {}
    driver.lose("gone")
    await driver.close()
    await asyncio.wait_for(listener, 1)
    assert heard == [
        Expired(id=sa().id, hard=False),
        Acquired(reqid=REQID_BASE + 1, selector=SELECTOR),
        Mapped(id=sa().id, address="198.51.100.9", port=31000),
        Rejected(code="esp.replay", count=3, id=sa().id),
        Expired(id=sa().id, hard=True),
        Lost(reason="gone"),
    ]


async def test_open_starts_empty(driver: FakeDriver) -> None:
    await driver.add_sa(sa())
    await driver.add_policy(policy())
    await driver.open_link(TunnelLink(tunnel_id="t1", name="vpn01234567", mtu=1400))
    await driver.open()
    assert (driver.sas, driver.policies, driver.links) == ({}, {}, {})
