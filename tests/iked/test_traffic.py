from __future__ import annotations

import asyncio

from agents.contract.status import Counters
from agents.dataplane.base import Direction, SaState
from agents.dataplane.fake import FakeDriver
from agents.iked.traffic import Sum, Traffic

from .cast import sa

IN, OUT = Direction.IN, Direction.OUT


async def opened(*specs: object) -> FakeDriver:
    driver = FakeDriver()
    await driver.open()
    for spec in specs:
        await driver.add_sa(spec)  # type: ignore[arg-type]
    return driver


async def test_a_total_is_kept_when_an_sa_is_replaced() -> None:
    traffic, old, new = Traffic(), sa(IN, 1), sa(IN, 2)
    driver = await opened(old, new)
    for spec in (old, new):
        traffic.started(spec, spec.spi)
    driver.count(old.id, packets=3, octets=300)
    await traffic.refresh(driver)
    traffic.ended(old.id)
    driver.count(new.id, packets=2, octets=50)
    await traffic.refresh(driver)
    assert traffic.totals() == {"t": Sum(counters=Counters(bytes_in=350, packets_in=5))}
    assert traffic.of_sa("t", IN, 2).counters == Counters(bytes_in=50, packets_in=2)
    assert traffic.of_sa("t", IN, 1) == Sum()


async def test_both_directions_are_one_total_and_name_one_child() -> None:
    traffic, inbound, outbound = Traffic(), sa(IN, 0x10), sa(OUT, 0x20)
    driver = await opened(inbound, outbound)
    traffic.started(inbound, inbound.spi)
    traffic.started(outbound, inbound.spi)
    driver.count(inbound.id, packets=1, octets=10)
    driver.count(outbound.id, packets=2, octets=20)
    await traffic.refresh(driver)
    assert traffic.totals()["t"].counters == Counters(bytes_in=10, packets_in=1, bytes_out=20, packets_out=2)
    assert traffic.child_of(outbound.id) == traffic.child_of(inbound.id) == ("t", 0x10)


async def test_only_packets_that_came_in_are_heard() -> None:
    traffic, inbound, outbound = Traffic(), sa(IN, 1), sa(OUT, 2)
    driver = await opened(inbound, outbound)
    traffic.started(inbound, 1)
    traffic.started(outbound, 1)
    driver.count(outbound.id, packets=9, octets=9)
    assert await traffic.refresh(driver) == frozenset()
    driver.count(inbound.id, packets=1, octets=9)
    assert await traffic.refresh(driver) == {("t", 1)}
    assert await traffic.refresh(driver) == frozenset()


async def test_a_total_survives_the_loss_of_the_data_plane_but_not_the_tunnel() -> None:
    traffic, inbound = Traffic(), sa(IN, 1)
    driver = await opened(inbound)
    traffic.started(inbound, 1)
    driver.count(inbound.id, packets=1, octets=9)
    await traffic.refresh(driver)
    traffic.all_ended()
    assert traffic.totals() == {"t": Sum(counters=Counters(bytes_in=9, packets_in=1))}
    assert len(traffic) == 0
    traffic.forget("t")
    assert traffic.totals() == {}


async def test_a_moved_sa_goes_on_counting() -> None:
    traffic, outbound = Traffic(), sa(OUT, 5)
    traffic.started(outbound, 4)
    moved = type(outbound.id)(spi=5, destination="198.51.100.9")
    traffic.moved(outbound.id, moved)
    assert traffic.child_of(outbound.id) is None
    assert traffic.child_of(moved) == ("t", 4)
    traffic.ended(moved)
    assert len(traffic) == 0


class SlowDriver(FakeDriver):
    """Counts listings and lets a test hold one up."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.begun = 0

    async def list_sas(self) -> tuple[SaState, ...]:
        self.begun += 1
        found = await super().list_sas()
        await self.gate.wait()
        return found


async def test_a_listing_under_way_is_not_taken_for_a_later_one_and_many_askers_share_one() -> None:
    traffic, inbound = Traffic(), sa(IN, 1)
    driver = SlowDriver()
    await driver.open()
    await driver.add_sa(inbound)
    traffic.started(inbound, 1)
    first = asyncio.create_task(traffic.refresh(driver))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    driver.count(inbound.id, packets=1, octets=1)  # after the first listing looked
    later = [asyncio.create_task(traffic.refresh(driver)) for _ in range(5)]
    await asyncio.sleep(0)
    driver.gate.set()
    assert await first == frozenset()
    assert await asyncio.gather(*later) == [{("t", 1)}] * 5
    assert driver.begun == 2
