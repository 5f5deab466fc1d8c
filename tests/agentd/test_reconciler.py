"""The reconcile loop against an iked and a machine in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.contract.codec import encode
from agents.contract.status import TunnelState
from tests.agentd.bench import Bench, eventually, routed
from tests.agentd.fakes import OTHER_TUNNEL_ID, TUNNEL_ID, FakeHost, FakeIked, document, tunnel

ROUTE = "10.2.0.0/24"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench[FakeHost]]:
    made = Bench.make(tmp_path, FakeHost())
    await made.start()
    yield made
    await made.stop()


async def test_routes_come_with_the_tunnel_and_go_with_it(bench: Bench[FakeHost]) -> None:
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1)))
        await eventually(lambda: bench.agent.reconciler.status.applied_generation == 1)
        assert routed(bench) == set()
        await iked.set_up(TUNNEL_ID)
        await eventually(lambda: routed(bench) == {ROUTE})
        await eventually(lambda: bench.agent.reconciler.status.routes == {TUNNEL_ID: (ROUTE,)})
        await iked.set_up()
        await eventually(lambda: routed(bench) == set() and "agent.route-withdrawn" in bench.codes())
        events = bench.agent.events(0, 100).events
        told = [event for event in events if event.code in ("agent.route-added", "agent.route-withdrawn")]
        assert [(event.code, event.tunnel_id, event.attributes["network"]) for event in told] == [
            ("agent.route-added", TUNNEL_ID, ROUTE),
            ("agent.route-withdrawn", TUNNEL_ID, ROUTE),
        ]


async def test_a_route_removed_behind_its_back_is_put_back_and_told(bench: Bench[FakeHost]) -> None:
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1)))
        await iked.configured.wait()
        await iked.set_up(TUNNEL_ID)
        await eventually(lambda: routed(bench) == {ROUTE})
        bench.host.drop(ROUTE)
        await eventually(lambda: routed(bench) == {ROUTE})
        await eventually(lambda: "agent.repaired" in bench.codes())
        assert bench.codes().count("agent.route-added") == 1


async def test_a_repair_that_fails_is_told_once_and_stands_in_the_status(bench: Bench[FakeHost]) -> None:
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1)))
        await iked.configured.wait()
        bench.host.refuse = "Operation not permitted"
        await iked.set_up(TUNNEL_ID)
        problem = f"add route {ROUTE}: Operation not permitted"
        await eventually(lambda: problem in bench.agent.reconciler.status.problems)
        for _ in range(3):
            await bench.agent.reconciler.reconcile()
        assert bench.codes().count("agent.repair-failed") == 1
        bench.host.refuse = None
        status = await bench.agent.reconciler.reconcile()
        assert status.problems == ()
        assert routed(bench) == {ROUTE}


async def test_a_restarted_iked_is_configured_again_and_routes_wait_for_it(bench: Bench[FakeHost]) -> None:
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1)))
        await iked.configured.wait()
        await iked.set_up(TUNNEL_ID)
        await eventually(lambda: routed(bench) == {ROUTE})
    await eventually(lambda: "agent.component-lost" in bench.codes())
    status = await bench.agent.status()
    assert [(each.name, each.state) for each in status.tunnels] == [("paris-lyon", TunnelState.DOWN)]
    assert status.tunnels[0].reason is not None
    assert not {each.name: each.healthy for each in status.components}["iked"]
    assert not [each.name for each in status.components if each.name.startswith("iked.")]
    assert routed(bench) == {ROUTE}
    async with FakeIked(bench.paths.iked_socket, boot_id="boot-2") as again:
        await eventually(lambda: again.documents)
        assert again.documents[-1] == document(1)
        await eventually(lambda: "agent.component-back" in bench.codes())
        await eventually(lambda: routed(bench) == set())
        assert (await bench.agent.status()).boot_id == "boot-2"


async def test_restarting_agentd_touches_nothing(tmp_path: Path) -> None:
    host = FakeHost()
    first = Bench.make(tmp_path, host)
    await first.start()
    async with FakeIked(first.paths.iked_socket) as iked:
        await first.agent.offer(encode(document(1)))
        await iked.configured.wait()
        await iked.set_up(TUNNEL_ID)
        await eventually(lambda: routed(first) == {ROUTE})
        await first.stop()
        writes = host.writes
        assert routed(first) == {ROUTE}
        second = Bench.make(tmp_path, host)
        await second.start()
        await eventually(lambda: second.agent.reconciler.status.routes == {TUNNEL_ID: (ROUTE,)})
        assert second.agent.reconciler.status.applied_generation == 1
        assert host.writes == writes
        assert second.codes().count("agent.config-applied") == 1
        assert "agent.component-lost" not in second.codes()
        assert iked.actions == []
        assert {each.generation for each in iked.documents} == {1}
        await second.stop()


async def test_a_configuration_iked_refuses_is_not_called_applied(bench: Bench[FakeHost]) -> None:
    async with FakeIked(bench.paths.iked_socket) as iked:
        iked.refuse_configuration = "tunnels[0].ike: not today"
        await bench.agent.offer(encode(document(1)))
        await eventually(lambda: "not today" in "".join(bench.agent.reconciler.status.problems))
        assert bench.agent.reconciler.status.applied_generation == 0
        iked.refuse_configuration = ""
        assert (await bench.agent.reconciler.reconcile()).applied_generation == 1


async def test_a_removed_tunnel_takes_its_route_with_it(bench: Bench[FakeHost]) -> None:
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1)))
        await iked.configured.wait()
        await iked.set_up(TUNNEL_ID)
        await eventually(lambda: routed(bench) == {ROUTE})
        other = tunnel(id=OTHER_TUNNEL_ID, name="other", remote_ts=("10.7.0.0/24",))
        await bench.agent.offer(encode(document(2, other)))
        await eventually(lambda: routed(bench) == set())
        await eventually(lambda: bench.agent.reconciler.status.applied_generation == 2)
        assert [each.name for each in (await bench.agent.status()).tunnels] == ["other"]


async def test_events_of_iked_reach_the_journal_once(bench: Bench[FakeHost]) -> None:
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1)))
        await iked.configured.wait()
        iked.happen("ike.initiate")
        iked.happen("ike.sa-established")
        await iked.changed()
        await eventually(lambda: "ike.sa-established" in bench.codes())
        for _ in range(3):
            await bench.agent.reconciler.reconcile()
        assert bench.codes().count("ike.initiate") == 1
        sequences = [event.sequence for event in bench.agent.events(0, 1_000).events]
        assert sequences == list(range(1, len(sequences) + 1))


async def test_an_action_while_iked_is_away_performs_nothing_and_may_be_repeated(bench: Bench[FakeHost]) -> None:
    from agents.contract.actions import Action, Verb

    action = Action(id="a1", verb=Verb.INITIATE, tunnel_id=TUNNEL_ID)
    await bench.agent.offer(encode(document(1)))
    assert not (await bench.agent.perform(action)).accepted
    async with FakeIked(bench.paths.iked_socket) as iked:
        await iked.configured.wait()
        assert (await bench.agent.perform(action)).accepted
        assert (await bench.agent.perform(action)).accepted
        assert iked.actions == [("initiate", TUNNEL_ID)]


async def test_a_pass_that_fails_is_a_status_and_the_next_one_works(
    bench: Bench[FakeHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1)))
        await iked.configured.wait()
        await eventually(lambda: bench.agent.reconciler.status.applied_generation == 1)
        view, broken = bench.host.view, replace(bench.host.view, routes=None)  # type: ignore[arg-type]
        bench.host.view = broken
        status = await bench.agent.reconciler.reconcile()
        assert "a pass failed" in status.problems[0]
        bench.host.view = view
        assert (await bench.agent.reconciler.reconcile()).problems == ()
