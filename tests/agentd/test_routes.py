"""Which route a tunnel gets, which of two is used, and what the ledger and the journal say of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.agentd.database import Database
from agents.agentd.host import HostView, Link, Route
from agents.agentd.parts import routes, sysctl
from agents.agentd.parts.carried import carried, host_of, selectors
from agents.agentd.route_ledger import MOST_ENDED, RouteLedger
from agents.contract.carriage import Attachment, Carriage, Context, StaticRoute
from agents.contract.codec import encode
from agents.contract.config import ConnectionType, Endpoint, GatewayDocument, Identity, IdentityType, Tunnel, TunnelKind
from agents.contract.manual import ManualChild, ManualSa, ManualTunnel
from agents.contract.secret import Secret
from agents.contract.status import (
    ChildSaStatus,
    ChildStatus,
    Counters,
    IkeSaStatus,
    Reason,
    RouteRecord,
    TunnelState,
    TunnelStatus,
)
from agents.contract.traffic import TrafficSelector
from tests.agentd.bench import Bench, eventually
from tests.agentd.fakes import OTHER_TUNNEL_ID, TUNNEL_ID, FakeHost, FakeIked, document, tunnel, up_status

MANUAL_ID = "cccccccc-3333-4333-8333-333333333333"
TUN, OTHER_TUN, MANUAL_TUN = "vpnaaaaaaaa", "vpnbbbbbbbb", "vpncccccccc"
NETWORK = "10.2.0.0/24"
VIEW = replace(
    FakeHost().view,
    links=(
        *FakeHost().view.links,
        Link(index=4, name=OTHER_TUN, mtu=1_400, up=True),
        Link(index=5, name=MANUAL_TUN, mtu=1_400, up=True),
    ),
)


def child_sa(spi: int, remote_ts: str, local_ts: str = "10.1.0.0/24") -> ChildSaStatus:
    return ChildSaStatus(
        spi_in=f"{spi:08x}", spi_out="00000bad", encryption="aes-128-gcm-16", integrity=None, group=None,
        udp_encapsulation=False, local_ts=(local_ts,), remote_ts=(remote_ts,), installed_at=1.0, rekey_at=None,
        expires_at=None, counters=Counters(),
    )  # fmt: skip


def ike_sa(remote: str) -> IkeSaStatus:
    return IkeSaStatus(
        spi_i="1" * 16, spi_r="2" * 16, initiator=False, state="established", local="127.0.0.1:500", remote=remote,
        nat_local=False, nat_remote=False, encryption="aes-128-gcm-16", integrity=None, prf="prf-hmac-sha2-256",
        group="group-31", established_at=1.0, rekey_at=None,
    )  # fmt: skip


def on_demand(**changes: Any) -> Tunnel:
    anyone = Endpoint(address="0.0.0.0", identity=Identity(type=IdentityType.FQDN, value="*.example.org"))
    values: dict[str, Any] = {
        "kind": TunnelKind.ON_DEMAND, "remote_ts": ("0.0.0.0/0",), "connection_type": ConnectionType.RESPONDER_ONLY,
    }  # fmt: skip
    made = tunnel(remote="192.0.2.9", **(values | changes | {"kind": TunnelKind.STATIC}))
    return replace(made, remote=anyone, kind=TunnelKind.ON_DEMAND)


def called(which: Tunnel, *peers: tuple[str, str], spi: int = 0xC0000001) -> TunnelStatus:
    """The status of an on-demand tunnel with these peers: outer endpoint and network behind it."""
    sas = tuple(child_sa(spi + number, network) for number, (_, network) in enumerate(peers))
    return TunnelStatus(
        id=which.id, name=which.name, state=TunnelState.UP if peers else TunnelState.IDLE, since=1.0,
        ike_sas=tuple(ike_sa(endpoint) for endpoint, _ in peers),
        children=(ChildStatus(name="net", up=bool(peers), sas=sas),), kind="on-demand", peers=len(peers),
    )  # fmt: skip


def manual(**carriage: Any) -> ManualTunnel:
    sa = ManualSa(
        esp_spi=0x1000, encryption="aes-128-cbc", encryption_key=Secret(bytes(16)),
        integrity="hmac-sha2-256-128", integrity_key=Secret(bytes(32)),
    )  # fmt: skip
    child = ManualChild(
        name="net",
        local_ts=TrafficSelector(network="10.1.0.0/24"),
        remote_ts=TrafficSelector(network="10.5.0.0/24"),
        inbound=sa,
        outbound=sa,
    )
    return ManualTunnel(
        id=MANUAL_ID, name="by-hand", local_address="127.0.0.1", remote_address="192.0.2.20", children=(child,),
        carriage=Carriage(**carriage),
    )  # fmt: skip


def want(
    given: GatewayDocument, *statuses: TunnelStatus, driver: str = "userspace", view: HostView = VIEW
) -> routes.WantedRoutes:
    tunnels = carried(given, {each.id: each for each in statuses}, driver)
    assert sysctl.plan(tunnels, view, lambda _name: None) == {}
    return routes.wanted(tunnels, routes.tables(given), view)


def pair(first: int = 5, second: int = 10) -> tuple[Tunnel, Tunnel]:
    return (
        tunnel(carriage=Carriage(route_cost=first)),
        tunnel(id=OTHER_TUNNEL_ID, name="backup", remote="192.0.2.10", carriage=Carriage(route_cost=second)),
    )


def test_a_cost_is_the_metric_and_the_context_the_table() -> None:
    which = tunnel(carriage=Carriage(route_cost=7, context="blue"))
    given = document(1, which, contexts=(Context(name="blue", table=100),))
    (claim,) = want(given, up_status(which)).claims
    assert claim.route == Route(network=NETWORK, interface=TUN, source="10.1.0.1", priority=7, table=100)
    assert (claim.context, claim.cost, claim.cause, claim.child) == ("blue", 7, "selector", "net")


def test_the_lowest_cost_is_used_and_the_other_stands_by() -> None:
    first, second = pair(10, 5)
    found = want(document(1, first, second), up_status(first), up_status(second))
    assert [(claim.tunnel_id, claim.route.interface, claim.route.priority) for claim in found.claims] == [
        (OTHER_TUNNEL_ID, OTHER_TUN, 5),
        (TUNNEL_ID, TUN, 10),
    ]


def test_two_of_one_outer_interface_have_one_route() -> None:
    first, second = pair()
    both = document(1, first, second)
    found = want(both, up_status(first), up_status(second), driver="kernel")
    assert [claim.tunnel_id for claim in found.claims] == [TUNNEL_ID]
    found = want(both, up_status(first, up=False), up_status(second), driver="kernel")
    assert [(claim.tunnel_id, claim.route.priority) for claim in found.claims] == [(OTHER_TUNNEL_ID, 10)]


@pytest.mark.parametrize("driver", ["kernel", "userspace"])
def test_a_tunnel_with_an_interface_routes_into_it(driver: str) -> None:
    which = tunnel(carriage=Carriage(attachment=Attachment.INTERFACE), remote_ts=("0.0.0.0/0",))
    found = want(document(1, which), up_status(which, interface=OTHER_TUN), driver=driver)
    assert {(claim.route.network, claim.route.interface, claim.route.gateway) for claim in found.claims} == {
        ("0.0.0.0/1", OTHER_TUN, None),
        ("128.0.0.0/1", OTHER_TUN, None),
        ("192.0.2.9/32", "wan", "198.51.100.1"),
    }


def test_static_routes_are_laid_while_the_tunnel_is_up_even_without_routes_by_selector() -> None:
    carriage = Carriage(routes=(StaticRoute(network="10.77.0.0/16", cost=3),))
    which = tunnel(add_routes=False, carriage=carriage)
    (claim,) = want(document(1, which), up_status(which)).claims
    assert claim.route == Route(network="10.77.0.0/16", interface=TUN, source="10.1.0.1", priority=3)
    assert (claim.cause, claim.cost, claim.child) == ("static", 3, None)
    assert want(document(1, which), up_status(which, up=False)).claims == ()


def test_a_manual_tunnel_has_static_routes_only() -> None:
    by_hand = manual(routes=(StaticRoute(network="10.5.0.0/24", cost=2),))
    given = document(1, manual_tunnels=(by_hand,))
    (claim,) = want(given, up_status(by_hand)).claims
    assert (claim.tunnel_id, claim.cause) == (MANUAL_ID, "static")
    assert claim.route == Route(network="10.5.0.0/24", interface=MANUAL_TUN, source="10.1.0.1", priority=2)
    plain = manual()
    assert want(document(1, manual_tunnels=(plain,)), up_status(plain)).claims == ()


@pytest.mark.parametrize("driver", ["kernel", "userspace"])
def test_an_on_demand_tunnel_routes_to_those_who_called_and_only_to_them(driver: str) -> None:
    which = on_demand()
    given = document(1, which)
    assert want(given, called(which), driver=driver) == routes.WantedRoutes()
    status = called(which, ("203.0.113.7:4500", "10.20.1.0/24"), ("[2001:db8::7]:500", "10.20.2.0/24[6/80-80]"))
    found = want(given, status, driver=driver)
    interface, gateway = (TUN, None) if driver == "userspace" else ("wan", "198.51.100.1")
    assert [(each.route.network, each.route.interface, each.route.gateway) for each in found.claims] == [
        ("10.20.1.0/24", interface, gateway),
        ("10.20.2.0/24", interface, gateway),
    ]
    assert [claim.spis for claim in found.claims] == [("c0000001",), ("c0000002",)]


def test_an_on_demand_tunnel_whose_peers_are_not_known_takes_the_default_route() -> None:
    which = on_demand()
    status = replace(called(which, ("203.0.113.7:4500", "10.20.1.0/24")), ike_sas=())
    (claim,) = want(document(1, which), status, driver="kernel").claims
    assert (claim.route.interface, claim.route.gateway) == ("wan", "198.51.100.1")
    nowhere = replace(VIEW, routes=())
    assert want(document(1, which), status, driver="kernel", view=nowhere).problems


def test_the_peer_of_an_on_demand_tunnel_stays_outside_of_it() -> None:
    which = on_demand()
    status = called(which, ("203.0.113.7:4500", "203.0.113.0/24"))
    found = want(document(1, which), status)
    assert ("203.0.113.7/32", "wan") in {(claim.route.network, claim.route.interface) for claim in found.claims}


def test_a_tunnel_to_the_peer_itself_has_no_way_around_it() -> None:
    which = tunnel(remote_ts=("192.0.2.9/32",), carriage=Carriage(route_cost=5))
    (claim,) = want(document(1, which), up_status(which)).claims
    assert claim.route.interface == TUN


def test_selectors_are_read_as_status_words_them() -> None:
    texts = (
        "10.0.0.0/25,10.0.0.128/26",
        "10.2.0.0/24[6/80-90]",
        "fd00::/64[any/1-2]",
        "10.3.0.1/32[1/type 8 code 0-8 code 255]",
    )
    assert [(ts.network, ts.protocol, ts.start_port, ts.end_port) for ts in selectors(texts)] == [
        ("10.0.0.0/25", 0, 0, 65_535),
        ("10.0.0.128/26", 0, 0, 65_535),
        ("10.2.0.0/24", 6, 80, 90),
        ("fd00::/64", 0, 1, 2),
        ("10.3.0.1/32", 1, 0x0800, 0x08FF),
    ]
    assert selectors(("what is this", "10.2.0.0/24[6/opaque]")) == (TrafficSelector(network="10.2.0.0/24", protocol=6),)
    assert (host_of("192.0.2.1:500"), host_of("[2001:db8::1]:4500")) == ("192.0.2.1", "2001:db8::1")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench[FakeHost]]:
    made = Bench.make(tmp_path, FakeHost(VIEW))
    await made.start()
    yield made
    await made.stop()


def laid(bench: Bench[FakeHost]) -> list[tuple[str, str, int]]:
    ours = [route for route in bench.host.view.routes if route.protocol == 86]
    return sorted((route.network, route.interface, route.priority) for route in ours)


async def test_traffic_moves_to_the_other_tunnel_and_back_and_both_are_told(bench: Bench[FakeHost]) -> None:
    first, second = pair()
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1, first, second)))
        await iked.configured.wait()
        await iked.set_up(TUNNEL_ID, OTHER_TUNNEL_ID)
        both = [(NETWORK, TUN, 5), (NETWORK, OTHER_TUN, 10)]
        await eventually(lambda: laid(bench) == both)
        reason = Reason(code="ike.timeout", message="The peer does not answer")
        iked.statuses[TUNNEL_ID] = replace(up_status(first, up=False), reason=reason)
        await iked.changed()
        await eventually(lambda: laid(bench) == both[1:])
        del iked.statuses[TUNNEL_ID]
        await iked.changed()
        await eventually(lambda: laid(bench) == both)
        await eventually(lambda: bench.codes().count("agent.route-moved") == 2)
        moves = [event for event in bench.agent.events(0, 100).events if event.code == "agent.route-moved"]
        assert [(event.tunnel_id, event.message) for event in moves] == [
            (
                OTHER_TUNNEL_ID,
                "Traffic to 10.2.0.0/24 moved from paris-lyon to backup: paris-lyon is down: The peer does not answer",
            ),
            (
                TUNNEL_ID,
                "Traffic to 10.2.0.0/24 moved from backup to paris-lyon: "
                "paris-lyon is up with cost 5, which is before the 10 of backup",
            ),
        ]
        assert moves[0].attributes["network"] == NETWORK
        added = [event.message for event in bench.agent.events(0, 100).events if event.code == "agent.route-added"]
        assert added[1] == f"Route to {NETWORK} through {OTHER_TUN} added; it stands by with cost 10"


async def test_the_ledger_says_who_put_a_route_there_and_when_it_left(bench: Bench[FakeHost]) -> None:
    first, second = pair()
    with_spis = replace(
        up_status(first), children=(ChildStatus(name="net", up=True, sas=(child_sa(0xC0000001, NETWORK),)),)
    )
    async with FakeIked(bench.paths.iked_socket) as iked:
        iked.statuses[TUNNEL_ID] = with_spis
        await bench.agent.offer(encode(document(1, first, second)))
        await iked.configured.wait()
        await iked.set_up(OTHER_TUNNEL_ID)
        await eventually(lambda: len(bench.agent.routes.standing) == 2)
        rekeyed = replace(with_spis, children=(ChildStatus(name="net", up=True, sas=(child_sa(0xC0000009, NETWORK),)),))
        iked.statuses[TUNNEL_ID] = rekeyed
        await bench.agent.reconciler.reconcile()
        line = bench.agent.routes.standing[0]
        assert (line.tunnel_id, line.child, line.spis, line.cause, line.cost) == (
            TUNNEL_ID, "net", ("c0000001",), "selector", 5,
        )  # fmt: skip
        iked.statuses[TUNNEL_ID] = up_status(first, up=False)
        await bench.agent.reconciler.reconcile()
        lines = (await bench.agent.status()).route_ledger
        assert [(each.tunnel_id, each.until is None) for each in lines] == [
            (TUNNEL_ID, False),
            (OTHER_TUNNEL_ID, True),
        ]
        assert lines[0].until is not None
        assert lines[0].until >= lines[0].since
        assert [each.routes for each in (await bench.agent.status()).tunnels] == [(), (NETWORK,)]


async def test_a_route_put_back_has_a_new_line_and_a_restart_keeps_the_old_one(bench: Bench[FakeHost]) -> None:
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1)))
        await iked.configured.wait()
        await iked.set_up(TUNNEL_ID)
        await eventually(lambda: len(bench.agent.routes.standing) == 1)
        bench.host.drop(NETWORK)
        await eventually(lambda: len(bench.agent.routes.lines()) == 2)
        ended, standing = bench.agent.routes.lines()
        assert (ended.until is None, standing.until) == (False, None)
        await bench.stop()
        again = Bench.make(bench.paths.state.parent, bench.host)
        await again.start()
        try:
            await eventually(lambda: again.agent.reconciler.status.routes == {TUNNEL_ID: (NETWORK,)})
            assert again.agent.routes.lines() == (ended, standing)
            await iked.set_up()
            await eventually(lambda: not again.agent.routes.standing)
            withdrawn = [each for each in again.agent.events(0, 100).events if each.code == "agent.route-withdrawn"]
            assert [each.tunnel_id for each in withdrawn] == [TUNNEL_ID]
        finally:
            await again.stop()
        bench.database = Database(bench.paths.journal)


async def test_a_manual_tunnel_is_listed_and_routed(bench: Bench[FakeHost]) -> None:
    by_hand = manual(routes=(StaticRoute(network="10.5.0.0/24"),))
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.agent.offer(encode(document(1, manual_tunnels=(by_hand,))))
        await iked.configured.wait()
        await iked.set_up(MANUAL_ID)
        await eventually(lambda: laid(bench) == [("10.5.0.0/24", MANUAL_TUN, 1)])
    await eventually(lambda: bench.agent.link.view is None)
    shown = (await bench.agent.status()).tunnels
    assert [(each.name, each.kind) for each in shown] == [("paris-lyon", "static"), ("by-hand", "manual")]


def record(number: int) -> RouteRecord:
    return RouteRecord(
        network=f"10.{number // 256}.{number % 256}.0/24", interface=TUN, gateway=None, context="local", cost=0,
        tunnel_id=TUNNEL_ID, child="net", spis=(), cause="selector", since=0.0,
    )  # fmt: skip


def test_the_oldest_lines_go_but_never_one_of_a_route_that_stands(tmp_path: Path) -> None:
    database = Database(tmp_path / "journal")
    ledger = RouteLedger(database)
    ledger.keep([record(0), *(record(number) for number in range(1, MOST_ENDED + 11))])
    ledger.keep([record(0)])
    kept = RouteLedger(database).lines()
    assert len(kept) == MOST_ENDED + 1
    assert [line.network for line in kept if line.until is None] == ["10.0.0.0/24"]
    assert kept[1].network == "10.0.11.0/24"
    with database.transaction() as connection:
        connection.execute("INSERT INTO route (ended, body) VALUES (0, ?)", (b'{"network": 7}',))
    assert len(RouteLedger(database).standing) == 1
    database.close()
