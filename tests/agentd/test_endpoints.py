"""The context of an endpoint: which rules it has, what of the machine stands in its way, and where the kernel sends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.agentd.contexts import describe
from agents.agentd.host import NO_TABLE, Address, HostView, Link, LinuxHost, Route
from agents.agentd.kept_filter import KeptFilter
from agents.agentd.parts import contexts, endpoints, filter_clear, sysctl
from agents.agentd.parts import routes as parts_routes
from agents.agentd.parts.carried import Carried, carried
from agents.agentd.withdraw import withdraw
from agents.contract.carriage import Carriage, Context
from agents.contract.codec import encode
from agents.contract.config import Child, Mode, Tunnel
from agents.dataplane.outer import OUTER_MARK
from agents.runtime.rpc import Connection
from deploy.lab.netns import Namespace, connect
from tests.agentd.bench import Bench, eventually
from tests.agentd.fakes import OTHER_TUNNEL_ID, FakeHost, FakeIked, document, tunnel, up_status
from tests.agentd.inside import run_inside
from tests.contract.values import GATEWAY_DOCUMENT, MANUAL_TUNNEL

UPLINK_A, UPLINK_B = Context(name="uplink-a", table=101), Context(name="uplink-b", table=102)
BOTH = (UPLINK_A, UPLINK_B)
HERE, PEER = "198.51.100.2", "203.0.113.9"
TUN = "vpnaaaaaaaa"
MARK = f"fwmark {OUTER_MARK:#x}/{OUTER_MARK:#x}"
BY_A = Route(network="0.0.0.0/0", interface="wan", gateway="198.51.100.1", protocol=3, table=101)
VIEW = replace(FakeHost().view, routes=(*FakeHost().view.routes, BY_A))


def by(context: str, cost: int = 0, **changes: object) -> Tunnel:
    return tunnel(
        **{"local": HERE, "remote": PEER, "carriage": Carriage(endpoint_context=context, route_cost=cost), **changes}
    )


def seen(*tunnels: Tunnel, driver: str = "userspace", up: bool = True) -> tuple[Carried, ...]:
    given = document(1, *tunnels, contexts=(*BOTH, Context(name="blue", table=100)))
    return carried(given, {each.id: up_status(each, up=up) for each in tunnels}, driver)


def nothing_set(_name: str) -> None:
    return None


def described(tunnels: tuple[Carried, ...]) -> list[str]:
    return sorted(map(describe, endpoints.rules(tunnels)))


def transport_mode(child: Child) -> Child:
    return replace(child, mode=Mode.TRANSPORT)


@pytest.mark.parametrize(("local", "remote", "width", "family"), [
    (HERE, PEER, 32, ""), ("2001:db8::2", "2001:db8:1::9", 128, "IPv6 "),
])  # fmt: skip
def test_what_is_outside_looks_into_the_table_and_nowhere_else(
    local: str, remote: str, width: int, family: str
) -> None:
    assert described(seen(by("uplink-a", local=local, remote=remote))) == [
        f"{family}33000: from {local}/{width} lookup 101",
        f"{family}9990: from {local}/{width} {MARK} lookup 101",
        f"{family}9991: from {local}/{width} {MARK} unreachable",
    ]


def test_an_endpoint_in_the_main_table_needs_no_rule() -> None:
    assert described(seen(by("local"))) == []


def test_tunnels_of_one_address_have_one_set_of_rules_and_further_addresses_have_theirs() -> None:
    first = by("uplink-a")
    second = by("uplink-a", id=OTHER_TUNNEL_ID, name="other", remote="203.0.113.10")
    assert endpoints.rules(seen(first, second)) == endpoints.rules(seen(first))
    more = replace(first, local=replace(first.local, more_addresses=("198.51.100.3",)))
    assert {rule.source for rule in endpoints.rules(seen(more))} == {"198.51.100.2/32", "198.51.100.3/32"}


def test_on_demand_and_manual_tunnels_have_them_too() -> None:
    by_hand = replace(
        MANUAL_TUNNEL, enabled=True, local_address="192.0.2.30", carriage=Carriage(endpoint_context="uplink-a")
    )
    given = replace(GATEWAY_DOCUMENT, manual_tunnels=(by_hand,))
    tables = {(rule.source, rule.table) for rule in endpoints.rules(carried(given, {}, "kernel")) if rule.marked}
    assert tables == {(f"192.0.2.{host}/32", table) for host in (20, 30) for table in (101, NO_TABLE)}


def test_what_two_hosts_say_in_transport_mode_is_outside_without_a_mark() -> None:
    hosts = by("uplink-a")
    hosts = replace(hosts, children=tuple(map(transport_mode, hosts.children)))
    assert set(described(seen(hosts, driver="kernel"))) - set(described(seen(by("uplink-a")))) == {
        f"9990: from {HERE}/32 to {PEER}/32 lookup 101",
        f"9991: from {HERE}/32 to {PEER}/32 unreachable",
    }


def test_a_context_of_endpoints_alone_is_no_vrf() -> None:
    uplinks = document(1, by("uplink-a"), contexts=BOTH)
    assert contexts.tenants(uplinks) == (UPLINK_B,)
    for vrfs in (True, False):
        plan = contexts.plan(contexts.tenants(uplinks), seen(by("uplink-a")), VIEW, vrfs=vrfs)
        assert {vrf.context for vrf in plan.add_vrfs} == ({"uplink-b"} if vrfs else set())
        assert set(plan.add_rules) == endpoints.rules(seen(by("uplink-a")))
    off = document(1, by("uplink-a", enabled=False), contexts=BOTH)
    assert contexts.tenants(off) == (UPLINK_B,)
    both_uses = document(1, by("uplink-a", carriage=Carriage(context="uplink-a", endpoint_context="uplink-a")),
                         contexts=BOTH)  # fmt: skip
    assert contexts.tenants(both_uses) == BOTH


def test_a_table_without_a_way_to_the_peer_is_said() -> None:
    assert endpoints.problems(seen(by("uplink-a")), VIEW, nothing_set) == []
    assert endpoints.problems(seen(by("local")), FakeHost().view, nothing_set) == []
    assert endpoints.problems(seen(by("uplink-b")), VIEW, nothing_set) == [
        f"paris-lyon: there is no route to the peer {PEER} in table 102, that of its endpoint's context"
    ]


@pytest.mark.parametrize(("hears", "said"), [("0", 1), ("1", 0), (None, 0)])
def test_an_address_inside_a_vrf_is_said_where_udp_is_not_heard_there(hears: str | None, said: int) -> None:
    vrf = Link(index=9, name="theirs", mtu=65_575, up=True, kind="vrf", table=9)
    links = tuple(replace(link, master=9) if link.name == "wan" else link for link in VIEW.links)
    inside = replace(VIEW, links=(*links, vrf))
    problems = endpoints.problems(seen(by("uplink-a")), inside, {"net/ipv4/udp_l3mdev_accept": hears}.get)
    assert len(problems) == said
    for problem in problems:
        assert f"{HERE} is on wan in VRF theirs" in problem
        assert "net.ipv4.udp_l3mdev_accept" in problem


def test_the_way_to_the_peer_is_that_of_the_endpoints_table() -> None:
    other_way = replace(BY_A, interface="wan2", gateway="192.0.2.254", table=102)
    view = replace(VIEW, routes=(*VIEW.routes, other_way))
    (first,), (second,), (main,) = seen(by("uplink-a")), seen(by("uplink-b")), seen(by("local"))
    assert parts_routes.ways(first, view) == [BY_A]
    assert parts_routes.ways(second, view) == [other_way]
    assert parts_routes.ways(main, view) == [view.routes[0]]
    (shared,) = parts_routes.wanted(seen(by("uplink-b"), driver="kernel"), {"local": 254}, view).claims
    assert (shared.route.interface, shared.route.gateway, shared.route.table) == ("wan2", "192.0.2.254", 254)
    lan = Route(network="10.2.0.128/25", interface="wan2", protocol=3)
    ways = filter_clear.own_ways([second], filter_clear.pairs([second]), replace(view, routes=(*view.routes, lan)))
    assert ways == []  # wan2 leads to a peer, by the endpoint's table alone


def test_a_peer_inside_the_remote_network_is_pinned_only_in_a_table_that_outer_packets_look_into() -> None:
    def laid(context: str, endpoint: str) -> set[str]:
        carriage = Carriage(context=context, endpoint_context=endpoint)
        inside = by("local", remote_ts=("203.0.113.0/24",), carriage=carriage)
        want = parts_routes.wanted(seen(inside), {"local": 254, "uplink-a": 101}, VIEW)
        assert want.problems == ()
        return {f"{claim.route.network} {claim.route.interface}" for claim in want.claims}

    tunnel_only = {"203.0.113.0/24 vpnaaaaaaaa"}
    assert laid("local", "uplink-a") == tunnel_only
    assert laid("uplink-a", "uplink-a") == tunnel_only | {"203.0.113.9/32 wan"}
    assert laid("local", "local") == tunnel_only | {"203.0.113.9/32 wan"}


def test_reverse_path_filtering_is_loosened_before_the_tunnel_is_up() -> None:
    strict = {
        "net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "1", "net/ipv4/conf/lo/rp_filter": "0",
        "net/ipv4/conf/wan/rp_filter": "1", "net/ipv4/conf/wan2/rp_filter": "1",
    }  # fmt: skip
    assert sysctl.plan(seen(by("local"), up=False), VIEW, strict.get) == {}
    assert sysctl.plan(seen(by("uplink-a"), up=False), VIEW, strict.get) == {"net/ipv4/conf/wan/rp_filter": "2"}
    on_loopback = replace(VIEW, addresses=(Address(interface="lo", address=HERE),))
    assert "net/ipv4/conf/wan/rp_filter" in sysctl.plan(seen(by("uplink-a"), up=False), on_loopback, strict.get)


async def test_the_agent_keeps_shows_and_withdraws_them(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path, FakeHost(VIEW))
    bench.host.vrfs = True
    await bench.start()
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1, by("uplink-a"), contexts=(UPLINK_A,))))
        await iked.configured.wait()
        await eventually(lambda: len(bench.host.view.rules) == 3)
        await eventually(lambda: bench.agent.reconciler.contexts.shown)
        (shown,) = bench.agent.reconciler.contexts.shown
        assert (shown["vrf"], shown["tunnels"], shown["endpoints"]) == (None, [], ["paris-lyon"])
        assert set(shown["rules"]) == set(described(seen(by("uplink-a"))))
        assert not [link for link in bench.host.view.links if link.kind == "vrf"]
        gone = next(rule for rule in bench.host.view.rules if rule.unreachable)
        await bench.host.remove_rule(gone)
        await bench.agent.reconciler.reconcile()
        assert gone in bench.host.view.rules
        repaired = [each for each in bench.agent.events(0, 100).events if each.code == "agent.repaired"]
        assert [each.attributes["context"] for each in repaired] == ["uplink-a"]
        bench.host.view = replace(bench.host.view, routes=FakeHost().view.routes)
        status = await bench.agent.reconciler.reconcile()
        assert any("in table 101" in problem for problem in status.problems)
        await bench.agent.offer(encode(document(2, by("local"))))
        await eventually(lambda: not bench.host.view.rules)
    await bench.stop()


async def test_rules_are_there_before_the_first_message_of_a_new_tunnel(tmp_path: Path) -> None:
    bench = Bench.make(tmp_path, FakeHost(VIEW))

    bench.host.vrfs = True
    found: list[HostView] = []

    class Watching(FakeIked):
        async def _configure(self, params: dict[str, Any], connection: Connection) -> Any:
            found.append(bench.host.view)
            return await super()._configure(params, connection)

    blue = replace(by("uplink-a"), carriage=Carriage(endpoint_context="uplink-a", context="blue"))
    await bench.start()
    async with Watching(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1, blue, contexts=(UPLINK_A, Context(name="blue", table=100)))))
        await iked.configured.wait()
        assert frozenset(found[0].rules) == endpoints.rules(seen(by("uplink-a")))
        await eventually(lambda: bench.host.view.link("vrf-blue") is not None)
        await bench.agent.offer(encode(document(2, by("local"))))
        await eventually(lambda: bench.host.view.link("vrf-blue") is None)
        # What goes is there until iked has let go of it: else a tenant's packets would come out in the main table.
        assert found[1].link("vrf-blue") is not None
        assert found[1].rules
    await bench.stop()


@pytest.fixture
def gateway() -> Iterator[Namespace]:
    """A gateway with two uplinks, a table for each; the main one knows the second."""
    here, there = Namespace(f"vc{os.getpid()}e", "here"), Namespace(f"vc{os.getpid()}e", "there")
    try:
        here.create()
        there.create()
        for name, mine, theirs, table in (
            ("wan-a", "192.0.2.1", "192.0.2.254", "101"), ("wan-b", "198.51.100.2", "198.51.100.254", "102"),
        ):  # fmt: skip
            six = {"wan-a": "2001:db8:a::", "wan-b": "2001:db8:b::"}[name]
            connect(here, name, [f"{mine}/24", f"{six}1/64"], there, name, [f"{theirs}/24", f"{six}2/64"])
            here.ip("route", "add", "default", "via", theirs, "table", table)
            here.ip("-6", "route", "add", "default", "via", f"{six}2", "table", table)
        here.ip("route", "add", "default", "via", "198.51.100.254")
        here.ip("-6", "route", "add", "default", "via", "2001:db8:b::2")
        connect(here, TUN, [], there, "tunnel", [])
        yield here
    finally:
        here.remove()
        there.remove()


@pytest.mark.lab
@pytest.mark.parametrize(("version", "local", "peer"), [
    ("-4", "192.0.2.1", "203.0.113.9"), ("-6", "2001:db8:a::1", "2001:db8:f::9"),
])  # fmt: skip
def test_the_kernel_sends_outer_packets_by_the_table_and_all_else_as_before(
    gateway: Namespace, tmp_path: Path, version: str, local: str, peer: str
) -> None:
    before = (gateway.ip("rule"), gateway.ip("-6", "rule"))

    def way(*marked: str) -> str:
        shown = gateway.ip(version, "route", "get", peer, "from", local, *marked, check=False)
        return shown.partition("dev ")[2].partition(" ")[0]

    def outer() -> str:
        return way("mark", f"{OUTER_MARK:#x}")

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(condition):
                await asyncio.sleep(0.05)

    async def work() -> None:
        async with LinuxHost() as host:
            bench = Bench.make(tmp_path, host)
            await bench.start()
            async with FakeIked(bench.paths.iked_socket) as iked:
                assert outer() == "wan-b"
                first = by("uplink-a", local=local, remote=peer)
                await bench.agent.offer(encode(document(1, first, contexts=BOTH)))
                await iked.configured.wait()
                await until(lambda: outer() == "wan-a")
                assert way() == "wan-b"
                gateway.ip(version, "route", "delete", "default", "table", "101")
                assert outer() == ""  # not by wan-b, which the main table knows
                gateway.ip(version, "route", "delete", "default")
                assert way() == ""
                gateway.ip(version, "route", "add", "default", "dev", "wan-a", "table", "101")
                assert (outer(), way()) == ("wan-a", "wan-a")  # what the main table knows no way for has the same
                await bench.agent.offer(encode(document(2, by("uplink-b", local=local, remote=peer), contexts=BOTH)))
                await until(lambda: outer() == "wan-b")
            await bench.stop()
            removed = await withdraw(host, KeptFilter(bench.paths.kept_filter))
            assert len([line for line in removed if line.startswith("rule ")]) == 3
        assert (gateway.ip("rule"), gateway.ip("-6", "rule")) == before

    run_inside(gateway, work)
