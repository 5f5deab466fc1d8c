"""The packet filter between a start and ``iked``'s first answer: kept, held, taken over."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.agentd.host import LinuxHost
from agents.contract.codec import encode
from agents.runtime.paths import Paths
from tests.agentd.bench import Bench, eventually
from tests.agentd.fakes import TUNNEL_ID, Authority, FakeHost, FakeIked, make_identity, tunnel
from tests.agentd.filter_site import (
    HERE,
    INNER,
    PEER,
    REMOTE,
    STRANGER,
    TUN,
    Site,
    built,
    counts,
    filtered,
    hearing,
    lab_document,
    send,
)
from tests.agentd.gateways import eventually as eventually_sync
from tests.agentd.inside import run_inside

ROOT = Path(__file__).resolve().parents[2]
DAMAGED = (
    b'{"nftables": [',
    b"[]",
    json.dumps({"nftables": [{"flush": {"ruleset": None}}]}).encode(),
    json.dumps({"nftables": [{"delete": {"table": {"family": "inet", "name": "vpnconsole"}}}]}).encode(),
    json.dumps({"nftables": [{"add": {"chain": {"family": "inet", "table": "other", "name": "input"}}}]}).encode(),
)


@pytest.fixture
async def bench(tmp_path: Path) -> Bench[FakeHost]:
    """An agent with a filter in force, whose files a later one finds."""
    made = Bench.make(tmp_path, FakeHost())
    await made.start()
    async with FakeIked(made.paths.iked_socket):
        await made.agent.offer(encode(filtered(1)))
        await eventually(lambda: made.agent.reconciler.status.applied_generation == 1)
    await made.stop()
    return made


async def test_an_agent_holds_the_filter_of_before_and_replaces_it_when_iked_answers(bench: Bench[FakeHost]) -> None:
    nft = bench.host.nft
    kept, held = bench.paths.kept_filter, list(nft.rest)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert b"planted" not in kept.read_bytes()
    nft.perform([{"delete": {"table": {"family": "inet", "name": "vpnconsole"}}}])
    again = Bench.make(bench.paths.state.parent, bench.host)
    before = len(nft.transactions)
    await again.start()
    await eventually(lambda: again.codes().count("agent.repaired") == 1)
    assert nft.rest == held
    nft.counters[f"t-{TUNNEL_ID}-leaving"] = 3
    async with FakeIked(again.paths.iked_socket):
        await eventually(lambda: again.agent.reconciler.status.applied_generation == 1)
        await again.agent.reconciler.reconcile()
        assert (nft.rest, nft.counters[f"t-{TUNNEL_ID}-leaving"]) == (held, 3)
        assert len(nft.transactions) == before + 2
        assert again.codes().count("agent.repaired") == 1
        first = kept.read_bytes()
        await again.agent.offer(encode(filtered(2, tunnel(remote="192.0.2.10"))))
        await eventually(lambda: kept.read_bytes() != first)
        await again.agent.offer(encode(filtered(3, on=False)))
        await eventually(lambda: not nft.there)
        assert not kept.exists()
    await again.stop()


async def test_a_filter_switched_off_while_the_agent_was_away_is_not_held(bench: Bench[FakeHost]) -> None:
    nft = bench.host.nft
    nft.perform([{"delete": {"table": {"family": "inet", "name": "vpnconsole"}}}])
    again = Bench.make(bench.paths.state.parent, bench.host)
    await again.agent.offer(encode(filtered(2, on=False)))
    before = len(nft.transactions)
    await again.start()
    async with FakeIked(again.paths.iked_socket):
        await eventually(lambda: not again.paths.kept_filter.exists())
    await again.stop()
    assert not [each for each in nft.transactions[before:] if "add" in each[0]]


@pytest.mark.parametrize("octets", DAMAGED)
async def test_what_cannot_be_loaded_is_told_and_harms_nothing(bench: Bench[FakeHost], octets: bytes) -> None:
    nft = bench.host.nft
    right = list(nft.rest)
    nft.perform([{"delete": {"table": {"family": "inet", "name": "vpnconsole"}}}])
    bench.paths.kept_filter.write_bytes(octets)
    again = Bench.make(bench.paths.state.parent, bench.host)
    await again.start()
    await eventually(lambda: "agent.repair-failed" in again.codes())
    assert not nft.there
    async with FakeIked(again.paths.iked_socket):
        await eventually(lambda: nft.there)
        await eventually(lambda: again.agent.reconciler.status.applied_generation == 1)
        assert nft.rest == right
        assert again.agent.reconciler.status.problems == ()
    assert again.paths.kept_filter.read_bytes() != octets
    await again.stop()


async def test_a_filter_that_cannot_be_kept_is_in_force_and_a_problem(bench: Bench[FakeHost]) -> None:
    bench.paths.kept_filter.unlink()
    (bench.paths.kept_filter / "in the way").mkdir(parents=True)
    again = Bench.make(bench.paths.state.parent, bench.host)
    await again.start()
    async with FakeIked(again.paths.iked_socket):
        await eventually(lambda: again.agent.reconciler.status.applied_generation == 1)
        assert again.agent.reconciler.status.problems == ("keep the packet filter for the next start: Is a directory",)
        assert again.host.nft.there
        (bench.paths.kept_filter / "in the way").rmdir()
        bench.paths.kept_filter.rmdir()
        assert (await again.agent.reconciler.reconcile()).problems == ()
        assert bench.paths.kept_filter.is_file()
    await again.stop()


@pytest.fixture
def site() -> Iterator[Site]:
    with built("k") as made:
        yield made


def hold(site: Site, paths: Paths) -> str:
    command = [sys.executable, "-m", "agents.cli", "hold", "--state", str(paths.state), "--run", str(paths.run)]
    return subprocess.run(site.here.command(command), cwd=ROOT, capture_output=True, text=True, check=True).stdout


def repairs(bench: Bench[LinuxHost]) -> list[str]:
    """What is told of a packet filter that was not as it should be."""
    told = bench.agent.events(0, 1_000).events
    return [each.message for each in told if each.code == "agent.repaired" and "packet filter" in each.message]


def table(site: Site) -> list[str]:
    """Our table but for counts and the elements of sets, which have no order."""
    shown = site.here.run("nft", "--stateless", "list", "table", "inet", "vpnconsole")
    return [line for line in shown.splitlines() if "elements" not in line]


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_a_machine_that_starts_lets_nothing_past_before_its_agent_runs(site: Site, tmp_path: Path) -> None:
    paths = Paths(state=tmp_path / "state", run=tmp_path / "run")

    async def first_life() -> None:
        async with LinuxHost() as host:
            bench = Bench.make(tmp_path, host)
            await bench.start()
            async with FakeIked(paths.iked_socket):
                await bench.agent.offer(encode(lab_document()))
                await eventually(lambda: bench.agent.reconciler.status.applied_generation == 1)
            await bench.stop()

    async def second_life() -> None:
        async with LinuxHost() as host:
            bench = Bench.make(tmp_path, host)
            await bench.start()
            async with FakeIked(paths.iked_socket):
                await eventually(lambda: bench.agent.reconciler.status.applied_generation == 1)
            assert repairs(bench) == []
            await bench.stop()

    async def without_iked() -> None:
        async with LinuxHost() as host:
            bench = Bench.make(tmp_path, host)
            await bench.start()
            await eventually(lambda: repairs(bench))
            await bench.stop()

    run_inside(site.here, first_life)
    make_identity(paths.identity, Authority.make())
    before = table(site)
    site.remove()
    site.here.create()  # as after a start of the machine: no filter, and no interface to name in one
    assert hold(site, Paths(state=tmp_path / "other", run=paths.run)) == "There is nothing to hold.\n"
    assert hold(site, paths) == "The packet filter of before is in force.\n"
    assert hold(site, paths) == "There is nothing to hold.\n"
    assert table(site) == before
    site.wire()
    site.peer.forward()
    with hearing(site.peer, REMOTE, 7) as (remote,), hearing(site.here, HERE, 500) as (ike,):
        send(site.peer, STRANGER, HERE, 500)
        send(site.peer, PEER, HERE, 500)
        assert ike.recvfrom(100)[1][0] == PEER
        send(site.lan, INNER, REMOTE, 7, b"a leak")
        eventually_sync(lambda: counts(site).dropped_leaving == 1)
        site.here.ip("route", "replace", "10.2.0.0/24", "dev", TUN)
        send(site.lan, INNER, REMOTE, 7, b"in the tunnel")
        assert remote.recv(100) == b"in the tunnel"
    site.here.ip("route", "replace", "10.2.0.0/24", "dev", "wan")
    run_inside(site.here, second_life)
    assert table(site) == before
    assert counts(site).dropped_leaving == 1
    site.here.run("nft", "delete", "table", "inet", "vpnconsole")
    run_inside(site.here, without_iked)
    assert table(site) == before
