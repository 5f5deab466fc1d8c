"""``vpn-agent routes``, ``filter``, ``contexts`` and ``withdraw``."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.agentd.host import LinuxHost, Route, Rule
from agents.agentd.parts import filter as parts_filter
from agents.contract.status import FilterCounters, RouteRecord
from agents.runtime.rpc import Server
from deploy.lab.netns import Namespace, connect
from tests.agentd.inside import run_inside
from tests.cli.test_commands import DOWN, STATUS, UP, FakeAgentd, vpn

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def agentd(tmp_path: Path) -> Iterator[FakeAgentd]:
    with FakeAgentd(tmp_path) as made:
        yield made


def line(tunnel_id: str, cost: int, until: float | None = None) -> RouteRecord:
    return RouteRecord(
        network="10.2.0.0/24", interface="vpn0", gateway="192.0.2.1" if cost == 5 else None, context="local", cost=cost,
        tunnel_id=tunnel_id, child="net" if cost == 5 else None, spis=("c0000001",) if cost == 5 else (),
        cause="selector" if cost == 5 else "static", since=1_000.0, until=until,
    )  # fmt: skip


def rows(shown: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in shown.splitlines()]


def test_routes_say_whose_they_are_and_which_is_in_use(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    assert vpn(agentd, "routes") == 0
    assert capsys.readouterr().out == "No route is laid.\n"
    ledger = (line(UP.id, 5, 1_100.0), line(DOWN.id, 10), line(UP.id, 5))
    agentd.status = dataclasses.replace(STATUS, route_ledger=ledger)
    assert vpn(agentd, "routes") == 0
    shown = [row[1:8] for row in rows(capsys.readouterr().out)]
    assert shown == [
        ["THROUGH", "CONTEXT", "COST", "STATE", "TUNNEL", "FOR", "SPIS"],
        ["vpn0", "local", "10", "stands by", "paris-rome", "static", "-"],
        ["vpn0 via 192.0.2.1", "local", "5", "in use", "paris-lyon", "child net", "c0000001"],
    ]
    assert vpn(agentd, "routes", "--all") == 0
    assert [row[4] for row in rows(capsys.readouterr().out)[1:]] == ["gone", "stands by", "in use"]
    assert vpn(agentd, "routes", "--all", "--json") == 0
    assert [each["until"] for each in json.loads(capsys.readouterr().out)] == [1_100.0, None, None]


def test_the_filter_shows_its_counters(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    assert vpn(agentd, "filter") == 0
    assert capsys.readouterr().out == "The packet filter is off.\n"
    agentd.filtered = {"on": True, "strangers": {"ike": 4, "ipsec": None}}
    counted = dataclasses.replace(
        UP, filter=FilterCounters(admitted_ike=1, admitted_ipsec=2, dropped_clear=3, dropped_leaving=4)
    )
    agentd.status = dataclasses.replace(STATUS, tunnels=(counted, DOWN))
    assert vpn(agentd, "filter") == 0
    shown = capsys.readouterr().out
    assert [row for row in rows(shown) if row][1:] == [
        ["paris-lyon", "1", "2", "3", "4"],
        ["paris-rome", "-", "-", "-", "-"],
        ["Dropped from strangers: ike 4, ipsec - packets"],
    ]
    assert vpn(agentd, "filter", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["tunnels"]["paris-lyon"]["dropped_clear"] == 3
    assert answer["tunnels"]["paris-lyon"]["dropped_leaving"] == 4


def test_contexts_are_shown_with_what_they_are_made_of(agentd: FakeAgentd, capsys: pytest.CaptureFixture[str]) -> None:
    assert vpn(agentd, "contexts") == 0
    assert "no context but local" in capsys.readouterr().out
    agentd.contexts = [
        {"name": "blue", "table": 100, "vrf": "vrf-blue", "rules": [], "tunnels": ["a", "b"], "endpoints": []},
        {
            "name": "red", "table": 101, "vrf": None, "rules": ["10000: from all lookup 101"], "tunnels": [],
            "endpoints": ["a"],
        },
    ]  # fmt: skip
    assert vpn(agentd, "contexts") == 0
    assert capsys.readouterr().out.splitlines() == [
        "blue: table 100, VRF vrf-blue; tunnels: a, b",
        "red: table 101, rules; tunnels: none; endpoints of: a",
        "  10000: from all lookup 101",
    ]
    assert vpn(agentd, "contexts", "--json") == 0
    assert json.loads(capsys.readouterr().out) == agentd.contexts


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    here, there = Namespace(f"vc{os.getpid()}w", "here"), Namespace(f"vc{os.getpid()}w", "there")
    try:
        here.create()
        there.create()
        connect(here, "wan", ["192.0.2.1/24"], there, "wan", ["192.0.2.2/24"])
        here.ip("route", "add", "10.9.0.0/24", "dev", "wan")
        here.ip("rule", "add", "from", "10.9.0.0/24", "lookup", "100")
        here.run("nft", "add", "table", "inet", "other")
        yield here
    finally:
        here.remove()
        there.remove()


def look(namespace: Namespace) -> tuple[str, ...]:
    return (
        namespace.ip("-4", "route", "show", "table", "all"),  # IPv6 finds its own addresses meanwhile
        namespace.ip("rule"),
        namespace.run("nft", "list", "ruleset"),
    )


def withdrawn(namespace: Namespace, run: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agents.cli", "withdraw", "--run", str(run), "--state", str(run)]
    return subprocess.run(namespace.command(command), cwd=ROOT, capture_output=True, text=True)


@pytest.mark.lab
@pytest.mark.needs("nft")
def test_what_is_the_agents_goes_and_the_rest_stays(namespace: Namespace, tmp_path: Path) -> None:
    before = look(namespace)

    async def work() -> None:
        async with LinuxHost() as host:
            await host.add_route(Route(network="10.2.0.0/24", interface="wan", priority=5, table=100))
            await host.add_route(Route(network="10.2.0.0/24", interface="wan"))
            await host.add_rule(Rule(version=4, priority=10_000, table=100, source="10.1.0.0/24"))
            plan = parts_filter.plan((), await host.look(), kernel=False, vrfs=False)
            await host.filter(parts_filter.transaction(plan, ()))

    run_inside(namespace, work)
    assert look(namespace) != before
    (tmp_path / "filter.json").write_text("{}")
    done = withdrawn(namespace, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Removed route to 10.2.0.0/24 through wan",
        "Removed route to 10.2.0.0/24 through wan",
        "Removed rule 10000: from 10.1.0.0/24 lookup 100",
        "Removed packet filter kept for the next start",
        "Removed packet filter table inet vpnconsole",
    ]
    assert not (tmp_path / "filter.json").exists()
    assert look(namespace) == before
    assert withdrawn(namespace, tmp_path).stdout == "Nothing of the agent's is here.\n"


@pytest.mark.lab
@pytest.mark.needs("nft")
async def test_an_agent_that_runs_is_not_worked_against(namespace: Namespace, tmp_path: Path) -> None:
    import asyncio

    async with Server(tmp_path / "agentd.sock", {}):
        done = await asyncio.to_thread(withdrawn, namespace, tmp_path)
    assert done.returncode == 1
    assert "stop it first" in done.stderr
