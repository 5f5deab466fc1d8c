"""The machine through netlink, in a namespace made for the test."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agents.agentd.daemon import Agent
from agents.agentd.database import Database
from agents.agentd.errors import HostError
from agents.agentd.host import NO_TABLE, LinuxHost, Route, Rule
from agents.agentd.identity import GatewayIdentity
from agents.contract.codec import encode
from agents.runtime.paths import Paths
from deploy.lab.netns import Namespace, connect
from tests.agentd.bench import eventually
from tests.agentd.fakes import GATEWAY_ID, TUNNEL_ID, FakeIked, document, tunnel
from tests.agentd.inside import run_inside

pytestmark = pytest.mark.lab


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    here, there = Namespace(f"vc{os.getpid()}h", "here"), Namespace(f"vc{os.getpid()}h", "there")
    try:
        here.create()
        there.create()
        here.sysctl("net.ipv6.conf.default.addr_gen_mode", 1)  # no link-local addresses, which come late
        connect(here, "wan", ["192.0.2.1/24", "2001:db8::1/64"], there, "wan", ["192.0.2.2/24", "2001:db8::2/64"])
        connect(here, "other", [], there, "other", [])
        here.ip("route", "add", "default", "via", "192.0.2.2")
        yield here
    finally:
        here.remove()
        there.remove()


def test_links_addresses_and_routes_are_seen(namespace: Namespace) -> None:
    async def look() -> None:
        async with LinuxHost() as host:
            view = await host.look()
        link = view.link("wan")
        assert link is not None
        assert (link.up, link.mtu) == (True, 1_500)
        assert {"127.0.0.1", "192.0.2.1", "2001:db8::1"} <= {each.address for each in view.addresses}
        seen = {(route.network, route.interface, route.gateway) for route in view.routes}
        assert {
            ("0.0.0.0/0", "wan", "192.0.2.2"),
            ("192.0.2.0/24", "wan", None),
            ("2001:db8::/64", "wan", None),
        } <= seen

    run_inside(namespace, look)


@pytest.mark.parametrize(
    "route",
    [
        Route(network="10.2.0.0/24", interface="wan"),
        Route(network="10.2.0.0/24", interface="wan", gateway="192.0.2.2", source="192.0.2.1"),
        Route(network="fd02::/64", interface="wan", priority=1),
        Route(network="fd02::/64", interface="wan", priority=1, gateway="2001:db8::2", source="2001:db8::1"),
        Route(network="0.0.0.0/1", interface="wan"),
        Route(network="198.51.100.7/32", interface="wan", gateway="192.0.2.2"),
        Route(network="10.2.0.0/24", interface="wan", priority=5, table=100),
        Route(network="fd02::/64", interface="wan", priority=6, table=100_000),
        Route(network="192.0.2.2/32", interface="wan", source="192.0.2.1", table=0x56000006, mtu=65_520),
        Route(network="2001:db8::2/128", interface="wan", priority=1, table=0x56000006, mtu=65_520),
    ],
)
def test_a_route_is_added_as_asked_seen_as_asked_and_removed(namespace: Namespace, route: Route) -> None:
    async def work() -> None:
        async with LinuxHost() as host:
            before = await host.look()
            await host.add_route(route)
            assert set((await host.look()).routes) - set(before.routes) == {route}
            with pytest.raises(HostError, match="add route"):
                await host.add_route(route)
            other = replace(route, interface="other", gateway=None, source=None)
            await host.replace_route(other)
            assert set((await host.look()).routes) - set(before.routes) == {other}
            await host.remove_route(other)
            assert await host.look() == before
            await host.add_route(route)
            await host.remove_route(route)
            assert await host.look() == before
            await host.remove_route(route)
            await host.remove_route(Route(network=route.network, interface="gone"))

    run_inside(namespace, work)


@pytest.mark.parametrize(
    "rule",
    [
        Rule(version=4, priority=10_000, table=100, source="10.1.0.0/24"),
        Rule(version=6, priority=10_000, table=100, interface="wan"),
        Rule(version=4, priority=9_000, table=0x56000006, source="0.0.0.0/32", destination="192.0.2.2/32"),
        Rule(
            version=4, priority=9_000, table=0x56000006, source="192.0.2.1/32", destination="192.0.2.2/32",
            interface="lo", protocol=6, source_ports=(443, 443), destination_ports=(1024, 65_534), unmarked=1 << 27,
        ),
        Rule(
            version=6, priority=9_001, table=0x56000007, source="2001:db8::1/128", destination="2001:db8::2/128",
            interface="lo", unmarked=1 << 27,
        ),
        Rule(version=6, priority=9_490, table=NO_TABLE, source="8000::/1", destination="fd02::2/128", skip_to=9_999),
        Rule(version=6, priority=9_999, table=NO_TABLE),
        Rule(version=4, priority=9_990, table=101, source="192.0.2.1/32", marked=1 << 27),
        Rule(version=6, priority=9_991, table=NO_TABLE, source="2001:db8::1/128", marked=1 << 27, unreachable=True),
    ],
)  # fmt: skip
def test_a_rule_is_added_as_asked_seen_as_asked_and_removed(namespace: Namespace, rule: Rule) -> None:
    async def work() -> None:
        async with LinuxHost() as host:
            await host.add_rule(rule)
            assert (await host.look()).rules == (rule,)
            with pytest.raises(HostError, match="add rule"):
                await host.add_rule(rule)
            await host.remove_rule(replace(rule, priority=rule.priority + 5))
            assert (await host.look()).rules == (rule,)
            await host.remove_rule(rule)
            assert (await host.look()).rules == ()
            await host.remove_rule(rule)

    run_inside(namespace, work)


def test_many_may_look_at_once_while_things_change(namespace: Namespace) -> None:
    async def work() -> None:
        routes = [Route(network=f"10.9.{number}.0/24", interface="wan") for number in range(20)]
        async with LinuxHost() as host:
            views = await asyncio.gather(
                *(host.look() for _ in range(20)), *(host.add_route(route) for route in routes), host.look()
            )
            assert len(views) == 41
            assert set(routes) <= set((await host.look()).routes)

    run_inside(namespace, work)


def test_a_foreign_route_is_not_removed(namespace: Namespace) -> None:
    async def work() -> None:
        namespace.ip("route", "add", "10.9.0.0/24", "dev", "wan")
        async with LinuxHost() as host:
            await host.remove_route(Route(network="10.9.0.0/24", interface="wan"))
        assert "10.9.0.0/24" in namespace.ip("route", "show")

    run_inside(namespace, work)


def test_a_change_behind_our_back_is_told(namespace: Namespace) -> None:
    async def work() -> None:
        async with LinuxHost() as host:
            changes = host.changes()
            waiting = asyncio.ensure_future(anext(changes))
            for number in itertools.count():  # another one each time: it may not listen yet when the first one comes
                await asyncio.to_thread(namespace.ip, "route", "add", f"10.9.{number}.0/24", "dev", "wan")
                await asyncio.wait([waiting], timeout=0.5)
                if waiting.done():
                    break
            await waiting

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work()

    run_inside(namespace, bounded)


def test_the_agent_routes_for_a_kernel_tunnel_and_leaves_the_rest_alone(namespace: Namespace, tmp_path: Path) -> None:
    namespace.ip("route", "add", "10.8.0.0/24", "dev", "wan")
    namespace.ip("address", "add", "10.1.0.1/32", "dev", "lo")
    before = namespace.ip("route", "show")

    def shown() -> str:
        return namespace.ip("route", "show", "proto", "86").strip()

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(condition):
                await asyncio.sleep(0.05)

    async def work() -> None:
        paths = Paths(state=tmp_path / "state", run=tmp_path / "run")
        paths.prepare()
        gateway = GatewayIdentity(gateway_id=GATEWAY_ID, gateway_name="paris", agent_port=0, directory=tmp_path)
        database = Database(paths.journal)
        async with LinuxHost() as host, FakeIked(paths.iked_socket, driver="kernel") as iked:
            agent = Agent(gateway, paths, host, database)
            running = asyncio.create_task(agent.run())
            await agent.offer(encode(document(1, tunnel(local="192.0.2.1", remote="198.51.100.9"))))
            await iked.configured.wait()
            await iked.set_up(TUNNEL_ID)
            await until(lambda: shown() == "10.2.0.0/24 via 192.0.2.2 dev wan src 10.1.0.1")
            namespace.ip("route", "del", "10.2.0.0/24")
            await until(lambda: "10.2.0.0/24" in shown())
            # The kernel has the route before the agent has heard that it does.
            await eventually(lambda: "agent.repaired" in [event.code for event in agent.events(0, 100).events])
            assert namespace.run("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1"
            await iked.set_up()
            await until(lambda: shown() == "")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        database.close()
        assert namespace.ip("route", "show") == before

    run_inside(namespace, work)


def test_link_and_settings_are_changed(namespace: Namespace) -> None:
    async def work() -> None:
        async with LinuxHost() as host:
            namespace.ip("link", "set", "wan", "down")
            await host.set_link("wan", 1_300)
            link = (await host.look()).link("wan")
            assert link is not None
            assert (link.up, link.mtu) == (True, 1_300)
            with pytest.raises(HostError, match="no link"):
                await host.set_link("missing", 1_300)
            host.change_setting("net/ipv4/conf/wan/rp_filter", "2")
            assert host.setting("net/ipv4/conf/wan/rp_filter") == "2"
            assert host.setting("net/ipv4/no_such_setting") is None
            with pytest.raises(HostError):
                host.change_setting("net/ipv4/no_such_setting", "1")

    run_inside(namespace, work)
