"""Routing contexts: what is planned, and that the kernel looks up where it should and nothing foreign is touched."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.agentd.host import HostView, Link, LinuxHost, Rule
from agents.agentd.parts import contexts
from agents.agentd.parts.carried import Carried, carried
from agents.agentd.parts.contexts import ALIAS, ContextPlan, Vrf
from agents.contract.carriage import Carriage, Context
from agents.contract.codec import encode
from agents.contract.config import Tunnel
from deploy.lab.netns import Namespace, connect
from tests.agentd.bench import Bench, eventually
from tests.agentd.fakes import OTHER_TUNNEL_ID, TUNNEL_ID, FakeHost, FakeIked, document, tunnel, up_status
from tests.agentd.inside import run_inside

THIRD_TUNNEL_ID = "cccccccc-3333-4333-8333-333333333333"
BLUE, RED = Context(name="blue", table=100), Context(name="red", table=101)
VRF_BLUE = Vrf(name="vrf-blue", table=100, context="blue")
VIEW = FakeHost().view
TUN = "vpnaaaaaaaa"


def in_context(context: str, cost: int = 0, **changes: object) -> Tunnel:
    return tunnel(carriage=Carriage(context=context, route_cost=cost), **changes)


def seen(*tunnels: Tunnel, driver: str = "userspace") -> tuple[Carried, ...]:
    given = document(1, *tunnels, contexts=(BLUE, RED))
    return carried(given, {each.id: up_status(each) for each in tunnels}, driver)


def vrf_link(index: int, name: str = "vrf-blue", alias: str | None = ALIAS + "blue", table: int = 100) -> Link:
    return Link(index=index, name=name, mtu=65_575, up=True, kind="vrf", alias=alias, table=table)


def with_links(*links: Link, **masters: int) -> HostView:
    changed = tuple(replace(link, master=masters.get(link.name)) for link in VIEW.links)
    return replace(VIEW, links=(*changed, *links))


def test_without_contexts_there_is_nothing_to_do() -> None:
    for vrfs in (True, False):
        assert contexts.plan((), seen(tunnel()), VIEW, vrfs=vrfs) == ContextPlan()


def test_a_vrf_is_made_and_gets_the_interface_of_its_tunnel() -> None:
    tunnels = seen(in_context("blue"))
    plan = contexts.plan((BLUE,), tunnels, VIEW, vrfs=True)
    assert plan == ContextPlan(add_vrfs=(VRF_BLUE,), masters=((TUN, "vrf-blue"),))
    assert contexts.plan((BLUE,), tunnels, with_links(vrf_link(9), **{TUN: 9}), vrfs=True) == ContextPlan()


def test_a_tunnel_that_leaves_its_context_leaves_the_vrf() -> None:
    view = with_links(vrf_link(9), **{TUN: 9})
    assert contexts.plan((BLUE,), seen(tunnel()), view, vrfs=True) == ContextPlan(masters=((TUN, None),))
    plan = contexts.plan((), seen(tunnel()), view, vrfs=True)
    assert plan == ContextPlan(remove_vrfs=(VRF_BLUE,), masters=((TUN, None),))


def test_a_vrf_with_another_table_is_made_anew_and_its_interfaces_return() -> None:
    view = with_links(vrf_link(9, table=7), **{TUN: 9})
    plan = contexts.plan((BLUE,), seen(in_context("blue")), view, vrfs=True)
    assert plan == ContextPlan(
        remove_vrfs=(replace(VRF_BLUE, table=7),), add_vrfs=(VRF_BLUE,), masters=((TUN, "vrf-blue"),)
    )


def test_what_is_not_ours_is_not_touched() -> None:
    foreign = with_links(vrf_link(9, alias=None), Link(index=10, name="br0", mtu=1_500, up=True), **{TUN: 10})
    plan = contexts.plan((BLUE, RED), seen(in_context("red")), foreign, vrfs=True)
    assert (plan.remove_vrfs, plan.masters) == ((), ())
    assert [vrf.name for vrf in plan.add_vrfs] == ["vrf-red"]
    assert plan.problems == (
        "context blue: an interface vrf-blue that is not ours is in the way",
        f"paris-lyon: its interface {TUN} belongs to br0, which is not ours",
    )


def test_names_of_vrfs_fit_and_differ() -> None:
    names = {contexts.vrf_name(each) for each in ("blue", "a-long-name-of-a-context", "a-long-name-of-another")}
    assert len(names) == 3
    assert max(map(len, names)) <= 15


def test_a_tunnel_without_an_interface_cannot_be_in_a_vrf() -> None:
    shared = seen(in_context("blue"), driver="kernel")
    routed, problems = contexts.routable(shared, vrfs=True)
    assert (routed, len(problems)) == ((), 1)
    assert "carriage.attachment" in problems[0]
    assert contexts.routable(shared, vrfs=False) == (shared, [])


def test_rules_lead_sources_and_interfaces_of_a_context_to_its_table_the_cheaper_first() -> None:
    dear = in_context("blue", 10)
    cheap = in_context("red", 5, id=OTHER_TUNNEL_ID, name="other", local_ts=("10.1.0.0/24", "10.9.0.0/24"))
    plan = contexts.plan((BLUE, RED), seen(dear, cheap), VIEW, vrfs=False)
    assert plan.add_rules == (
        Rule(version=4, priority=10_005, table=101, interface="vpnbbbbbbbb"),
        Rule(version=4, priority=10_005, table=101, source="10.1.0.0/24"),
        Rule(version=4, priority=10_005, table=101, source="10.9.0.0/24"),
        Rule(version=4, priority=10_010, table=100, interface=TUN),
        Rule(version=4, priority=10_010, table=100, source="10.1.0.0/24"),
    )
    right = replace(VIEW, rules=plan.add_rules)
    assert contexts.plan((BLUE, RED), seen(dear, cheap), right, vrfs=False) == ContextPlan()
    assert contexts.plan((BLUE,), seen(tunnel()), right, vrfs=False).remove_rules == plan.add_rules


async def test_a_vrf_comes_and_goes_with_its_context_and_is_put_back(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path, FakeHost())
    bench.host.vrfs = True
    await bench.start()
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1, in_context("blue"), contexts=(BLUE,))))
        await iked.configured.wait()
        await iked.set_up(TUNNEL_ID)
        await eventually(lambda: [route.table for route in bench.host.view.routes if route.protocol == 86] == [100])
        vrf = bench.host.view.link("vrf-blue")
        link = bench.host.view.link(TUN)
        assert vrf is not None
        assert link is not None
        assert (vrf.table, link.master) == (100, vrf.index)
        assert bench.agent.reconciler.contexts.shown == (
            {
                "name": "blue", "table": 100, "vrf": "vrf-blue", "rules": [], "tunnels": ["paris-lyon"],
                "endpoints": [],
            },
        )  # fmt: skip
        await bench.host.remove_vrf("vrf-blue", 100)
        await bench.agent.reconciler.reconcile()
        assert bench.host.view.link("vrf-blue") is not None
        await bench.agent.offer(encode(document(2)))
        await eventually(lambda: bench.host.view.link("vrf-blue") is None)
        told = [code for code in bench.codes() if "context" in code or code == "agent.repaired"]
        assert told[0] == "agent.context-made"
        assert told[-1] == "agent.context-removed"
        assert "agent.repaired" in told
    await bench.stop()


async def test_traffic_moves_between_contexts_of_rules_that_want_the_same_source(tmp_path: Path) -> None:
    links = (*VIEW.links, Link(index=4, name="vpnbbbbbbbb", mtu=1_400, up=True))
    bench = Bench.make(tmp_path, FakeHost(replace(VIEW, links=links)))
    await bench.start()
    cheap = in_context("red", 5)
    dear = in_context("blue", 10, id=OTHER_TUNNEL_ID, name="backup", remote="192.0.2.10")
    apart = in_context("blue", 20, id=THIRD_TUNNEL_ID, name="apart", remote="192.0.2.11", local_ts=("10.99.0.0/24",))
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1, apart, dear, cheap, contexts=(BLUE, RED))))
        await iked.configured.wait()
        await iked.set_up(TUNNEL_ID, OTHER_TUNNEL_ID)
        await eventually(lambda: len(bench.agent.routes.standing) == 2)
        await iked.set_up(OTHER_TUNNEL_ID)
        await eventually(lambda: bench.codes().count("agent.route-moved") == 1)
        await iked.set_up(TUNNEL_ID, OTHER_TUNNEL_ID)
        await eventually(lambda: bench.codes().count("agent.route-moved") == 2)
        moves = [each.attributes for each in bench.agent.events(0, 100).events if each.code == "agent.route-moved"]
        assert [(each["from"], each["to"], each["context"]) for each in moves] == [
            ("paris-lyon", "backup", "blue"),
            ("backup", "paris-lyon", "red"),
        ]
    await bench.stop()


@pytest.fixture
def gateway() -> Iterator[Namespace]:
    """A gateway with a LAN, a way out and an interface that has the name of a tunnel's."""
    here, there = Namespace(f"vc{os.getpid()}c", "here"), Namespace(f"vc{os.getpid()}c", "there")
    try:
        here.create()
        there.create()
        here.forward()
        connect(here, "wan", ["192.0.2.1/24"], there, "wan", ["192.0.2.2/24"])
        connect(here, "lan", ["10.1.0.1/24", "10.7.0.1/24"], there, "lan", [])
        connect(here, TUN, [], there, "tunnel", [])
        here.ip("route", "add", "default", "via", "192.0.2.2")
        here.ip("rule", "add", "from", "10.66.0.0/16", "lookup", "100", "priority", "10000")
        here.ip("route", "add", "10.55.0.0/16", "dev", "lan", "table", "100")
        yield here
    finally:
        here.remove()
        there.remove()


@pytest.mark.lab
def test_the_kernel_looks_up_what_belongs_to_a_context_in_its_table(gateway: Namespace, tmp_path: Path) -> None:
    foreign_rules, foreign_routes = gateway.ip("rule"), gateway.ip("route", "show", "table", "100")

    def way(source: str, interface: str, destination: str = "10.2.0.5") -> str:
        shown = gateway.ip("route", "get", destination, "from", source, "iif", interface)
        return shown.partition("dev ")[2].split()[0]

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(condition):
                await asyncio.sleep(0.05)

    async def work() -> None:
        async with LinuxHost() as host:
            bench = Bench.make(tmp_path, host)
            assert not await host.has_vrfs()
            await bench.start()
            async with FakeIked(bench.paths.iked_socket) as iked:
                blue = in_context("blue", 5, local="192.0.2.1", remote="192.0.2.9")
                await bench.agent.offer(encode(document(1, blue, contexts=(BLUE,))))
                await iked.configured.wait()
                await iked.set_up(TUNNEL_ID)
                await until(lambda: "10.2.0.0/24" in gateway.ip("route", "show", "table", "100"))
                assert "10.2.0.0/24" not in gateway.ip("route")
                assert way("10.1.0.9", "lan") == TUN
                assert way("10.7.0.9", "lan") == "wan"
                assert way("10.2.0.5", TUN, "10.1.0.9") == "lan"
                rule = Rule(version=4, priority=10_005, table=100, source="10.1.0.0/24")
                await host.remove_rule(rule)
                await until(lambda: way("10.1.0.9", "lan") == TUN)
                await eventually(lambda: "agent.repaired" in bench.codes())
                await bench.agent.offer(encode(document(2, tunnel(local="192.0.2.1", remote="192.0.2.9"))))
                await until(lambda: "10.2.0.0/24" in gateway.ip("route"))
                await until(lambda: gateway.ip("rule") == foreign_rules)
                assert gateway.ip("route", "show", "table", "100") == foreign_routes
            await bench.stop()

    run_inside(gateway, work)
