"""Totals over runs of ``iked`` and of ``agentd``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.agentd.daemon import Agent
from agents.agentd.database import Database
from agents.agentd.iked_link import IkedView
from agents.agentd.journal import Journal
from agents.agentd.totals import SAVE_EVERY_S, Totals
from agents.contract.status import (
    ChildStatus,
    ComponentHealth,
    Counters,
    DataPlaneStatus,
    NamedCount,
    Rejections,
    TunnelState,
    TunnelStatus,
)
from agents.runtime.paths import Paths
from tests.agentd.fakes import GATEWAY_ID, TUNNEL_ID, Authority, FakeHost, FakeIked, document, make_identity


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "journal")
    yield opened
    opened.close()


def tunnel(packets: int, late: int = 0, identity: str = TUNNEL_ID) -> TunnelStatus:
    counted = {"counters": Counters(packets_in=packets), "rejected": Rejections(late=late)}
    return TunnelStatus(
        id=identity,
        name="t",
        state=TunnelState.UP,
        since=0.0,
        children=(ChildStatus(name="net", up=True, **counted),),  # type: ignore[arg-type]
        **counted,  # type: ignore[arg-type]
    )


def view(*tunnels: TunnelStatus, esp: int = 0) -> IkedView:
    return IkedView(
        generation=1,
        data_plane=DataPlaneStatus(driver="userspace"),
        health=ComponentHealth(name="iked", healthy=True),
        parts=(),
        tunnels={each.id: each for each in tunnels},
        counters={},
        exchanges=(),
        ipsec_counts=(NamedCount(name="esp.in", count=esp),),
    )


def shown(totals: Totals) -> tuple[int, int, int, tuple[NamedCount, ...]]:
    told = totals.total(tunnel(0))
    return told.counters.packets_in, told.children[0].counters.packets_in, told.rejected.late, totals.ipsec()


def test_runs_of_iked_are_added_up(database: Database) -> None:
    totals = Totals(database)
    totals.take(view(tunnel(5, 1), esp=5), "one")
    totals.take(view(tunnel(7, 1), esp=7), "one")
    totals.take(view(tunnel(2, 0), esp=2), "two")
    assert shown(totals) == (9, 9, 1, (NamedCount(name="esp.in", count=9),))


def test_a_run_goes_on_over_a_restart_of_agentd_and_its_end_is_seen_after_it(database: Database) -> None:
    totals = Totals(database)
    totals.take(view(tunnel(5)), "one")
    totals.save()
    again = Totals(database)
    assert shown(again)[0] == 5
    again.take(view(tunnel(8)), "one")
    again.save()
    third = Totals(database)
    third.take(view(tunnel(1)), "two")
    assert shown(third)[0] == 9


def test_the_end_of_a_run_is_on_the_disk_when_the_next_one_is_seen(database: Database) -> None:
    totals = Totals(database, lambda: 0.0)
    totals.take(view(tunnel(1)), "one")
    totals.take(view(tunnel(5)), "one")
    totals.take(view(tunnel(2)), "two")
    again = Totals(database)
    again.take(view(tunnel(3)), "two")
    assert shown(again)[0] == 8


def test_the_disk_follows_in_time(database: Database) -> None:
    now = 0.0
    totals = Totals(database, lambda: now)
    totals.take(view(tunnel(1)), "one")
    totals.take(view(tunnel(2)), "one")
    assert shown(Totals(database))[0] == 1
    now = SAVE_EVERY_S
    totals.take(view(tunnel(3)), "one")
    assert shown(Totals(database))[0] == 3


def test_a_tunnel_that_iked_forgot_and_has_again_goes_on(database: Database) -> None:
    totals = Totals(database)
    totals.take(view(tunnel(5)), "one")
    totals.take(view(tunnel(1)), "one")
    assert shown(totals)[0] == 6


def test_what_a_tunnel_counted_goes_with_it_but_not_the_gateways_counts(database: Database) -> None:
    totals = Totals(database)
    totals.take(view(tunnel(5), tunnel(4, identity="other"), esp=9), "one")
    totals.save()
    totals.keep({"other"})
    totals.save()
    assert shown(totals) == (0, 0, 0, (NamedCount(name="esp.in", count=9),))
    kept = {str(owner) for (owner,) in database.rows("SELECT owner FROM total")}
    assert kept == {"gateway", "other", "other/net"}


def test_another_gateway_begins_with_nothing(database: Database) -> None:
    Journal(database).adopt(GATEWAY_ID)
    totals = Totals(database)
    totals.take(view(tunnel(5)), "one")
    totals.save()
    Journal(database).adopt("another")
    assert shown(Totals(database))[0] == 0


async def test_status_tells_totals_also_while_iked_is_away(tmp_path: Path) -> None:
    paths = Paths(state=tmp_path / "state", run=tmp_path / "run")
    paths.prepare()
    database = Database(paths.journal)
    agent = Agent(make_identity(paths.identity, Authority.make()), paths, FakeHost(), database)
    running = asyncio.create_task(agent.run())
    for boot_id in ("boot-1", "boot-2"):
        async with FakeIked(paths.iked_socket, boot_id=boot_id) as iked:
            iked.happen("ike.initiate")
            if boot_id == "boot-1":
                await agent.ledger.offer(_octets(), _anything)
            agent.reconciler.wake()
            async with asyncio.timeout(60):
                await iked.configured.wait()
                while agent.link.boot_id != boot_id or agent.link.view is None or not agent.link.view.tunnels:
                    await agent.link.refresh()
                    await asyncio.sleep(0.01)
    async with asyncio.timeout(60):
        while agent.link.view is not None:
            await asyncio.sleep(0.01)
    assert (await agent.status()).tunnels[0].counters == Counters(bytes_in=10, packets_in=2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    database.close()


def _octets() -> bytes:
    from agents.contract.codec import encode

    return encode(document(1))


async def _anything(_document: object) -> None:
    return None
