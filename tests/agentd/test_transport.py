"""Transport mode in the userspace data plane: which rules and routes lead what two hosts say into the tunnel's TUN."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.agentd.contexts import describe
from agents.agentd.host import HostView, Route
from agents.agentd.parts import contexts, routes, sysctl, transport
from agents.agentd.parts.carried import Carried, carried
from agents.contract.carriage import Carriage, Context
from agents.contract.codec import encode
from agents.contract.config import Mode, Tunnel
from agents.contract.status import ChildStatus, TunnelStatus
from agents.dataplane.outer import OUTER_MARK
from tests.agentd.bench import Bench, eventually
from tests.agentd.fakes import OTHER_TUNNEL_ID, TUNNEL_ID, FakeHost, FakeIked, document, tunnel, up_status
from tests.agentd.test_routes import VIEW, child_sa

HERE, PEER, HERE6, PEER6 = "198.51.100.2", "192.0.2.9", "2001:db8::1", "2001:db8::2"
TUN = "vpnaaaaaaaa"
TABLE = 0x5600_0006
"""Of link 3."""
BLUE = Context(name="blue", table=100)


def between(**changes: object) -> Tunnel:
    """A tunnel whose child is for transport mode, as documents have it: with wider selectors than the two hosts."""
    made = tunnel(local=HERE, remote=PEER, local_ts=("0.0.0.0/0",), remote_ts=("192.0.2.0/24",), **changes)
    return dataclasses.replace(
        made, children=tuple(dataclasses.replace(child, mode=Mode.TRANSPORT) for child in made.children)
    )


def saying(which: Tunnel, *pairs: tuple[str, str]) -> TunnelStatus:
    """The status of a tunnel with an SA in transport mode for each pair of selectors."""
    sas = tuple(
        dataclasses.replace(child_sa(0xC0000001 + number, remote, local), mode="transport")
        for number, (local, remote) in enumerate(pairs)
    )
    return dataclasses.replace(
        up_status(which, up=bool(pairs)), children=(ChildStatus(name="net", up=bool(pairs), sas=sas),)
    )


def seen(*pairs: tuple[str, str], driver: str = "userspace", **changes: object) -> tuple[Carried, ...]:
    which = between(**changes)
    return carried(document(1, which, contexts=(BLUE,)), {which.id: saying(which, *pairs)}, driver)


def rules(tunnels: Sequence[Carried], view: HostView = VIEW) -> list[str]:
    return [describe(rule) for rule in contexts.plan((), tunnels, view, vrfs=False).add_rules]


def laid(tunnels: Sequence[Carried]) -> list[Route]:
    want = routes.wanted(tunnels, {"local": 254, "blue": 100}, VIEW)
    assert want.problems == ()
    return [claim.route for claim in want.claims]


def test_everything_two_hosts_say_goes_in_tcp_by_a_table_of_its_own() -> None:
    tunnels = seen((f"{HERE}/32", f"{PEER}/32"))
    unmarked = "fwmark 0/0x8000000"
    assert rules(tunnels) == [
        f"9000: from {HERE}/32 to {PEER}/32 {unmarked} ipproto 6 lookup {TABLE + 1}",
        f"9001: from {HERE}/32 to {PEER}/32 {unmarked} lookup {TABLE}",
        f"9500: from 0.0.0.0/32 to {PEER}/32 {unmarked} iif lo ipproto 6 lookup {TABLE + 1}",
        f"9501: from 0.0.0.0/32 to {PEER}/32 {unmarked} iif lo lookup {TABLE}",
    ]
    route = Route(network=f"{PEER}/32", interface=TUN, source=HERE, table=TABLE + 1)
    assert laid(tunnels) == [route, dataclasses.replace(route, table=TABLE, mtu=transport.WHOLE_DATAGRAMS)]


def test_over_ipv6_what_has_another_source_is_let_past() -> None:
    tunnels = seen((f"{HERE6}/128[17/any]", f"{PEER6}/128"))
    unmarked = "fwmark 0/0x8000000 iif lo"
    assert rules(tunnels) == [
        f"IPv6 9001: from {HERE6}/128 to {PEER6}/128 {unmarked} ipproto 17 lookup {TABLE}",
        f"IPv6 9490: from 8000::/1 to {PEER6}/128 {unmarked} goto 9999",
        f"IPv6 9490: from ::/1 to {PEER6}/128 {unmarked} goto 9999",
        f"IPv6 9501: from all to {PEER6}/128 {unmarked} ipproto 17 lookup {TABLE}",
        "IPv6 9999: from all nop",
    ]
    (route,) = laid(tunnels)
    assert (route.network, route.priority, route.table) == (f"{PEER6}/128", 1, TABLE)


@pytest.mark.parametrize(
    ("local", "remote", "found"),
    [
        ("[6/0-65535]", "[6/80-80]", {(6, None, (80, 80), TABLE + 1)}),
        ("[17/1024-65535]", "[17/0-1023]", {(17, (1024, 65_534), (1, 1023), TABLE)}),
        ("[any/7-9]", "", {(6, (7, 9), None, TABLE + 1), (None, (7, 9), None, TABLE)}),
        ("[47/any]", "[47/any]", {(47, None, None, TABLE)}),
        ("[1/type 8 code 0-type 8 code 255]", "[1/any]", {(1, None, None, TABLE)}),
        ("[17/65535-65535]", "[17/any]", set()),
    ],
)
def test_protocol_and_ports_are_the_rules_own(
    local: str, remote: str, found: set[tuple[int | None, object, object, int]]
) -> None:
    planned = transport.rules(seen((f"{HERE}/32{local}", f"{PEER}/32{remote}")), VIEW, vrfs=False)
    assert {(rule.protocol, rule.source_ports, rule.destination_ports, rule.table) for rule in planned} == found
    assert {rule.unmarked for rule in planned} <= {OUTER_MARK}


def test_of_a_rekey_there_is_one_set_of_rules_and_without_sas_there_is_none() -> None:
    pair = (f"{HERE}/32", f"{PEER}/32")
    assert rules(seen(pair, pair)) == rules(seen(pair))
    assert laid(seen(pair, pair)) == laid(seen(pair))
    assert rules(seen()) == []
    assert laid(seen()) == []


def test_of_two_tunnels_between_the_same_hosts_the_cheaper_has_the_rules() -> None:
    pair = (f"{HERE}/32", f"{PEER}/32")
    (dear,) = seen(pair, carriage=Carriage(route_cost=10))
    (cheap,) = seen(pair, id=OTHER_TUNNEL_ID, name="other", carriage=Carriage(route_cost=5))
    found = transport.rules([dear, cheap], VIEW, vrfs=False)
    assert {rule.table for rule in found} == {0x5600_0008, 0x5600_0009}
    assert {rule.priority for rule in found} == {9_010, 9_011, 9_510, 9_511}


def test_policies_lead_into_the_kernels_data_plane() -> None:
    tunnels = seen((f"{HERE}/32", f"{PEER}/32"), driver="kernel")
    assert rules(tunnels) == []
    assert {route.table for route in laid(tunnels)} == {254}


def test_a_tunnel_with_networks_too_has_a_route_for_those() -> None:
    (made,) = seen((f"{HERE}/32", f"{PEER}/32"))
    (plain,) = carried(document(), {TUNNEL_ID: up_status(tunnel())}, "userspace")
    both = dataclasses.replace(made, protected=(*made.protected, *plain.protected))
    assert [(route.network, route.table) for route in laid([both])] == [
        ("10.2.0.0/24", 254), (f"{PEER}/32", TABLE + 1), (f"{PEER}/32", TABLE),
    ]  # fmt: skip


def test_strict_filtering_of_reverse_paths_is_loosened_where_the_peers_packets_come_in() -> None:
    def setting(name: str) -> str | None:
        return {f"net/ipv4/conf/{each}/rp_filter": "1" for each in ("wan", TUN, "lan")}.get(name)

    loosened = {"net/ipv4/conf/vpnaaaaaaaa/rp_filter": "2"}
    assert sysctl.plan(seen((f"{HERE}/32", f"{PEER}/32")), VIEW, setting) == {
        **loosened, "net/ipv4/conf/wan/rp_filter": "2",
    }  # fmt: skip
    plain = carried(document(), {TUNNEL_ID: up_status(tunnel())}, "userspace")
    assert sysctl.plan(plain, VIEW, setting) == loosened


def test_in_a_vrf_nothing_goes_in_transport_mode() -> None:
    tunnels = seen((f"{HERE}/32", f"{PEER}/32"), carriage=Carriage(context="blue"))
    assert transport.rules(tunnels, VIEW, vrfs=True) == set()
    routed, (problem,) = contexts.routable(tunnels, vrfs=True)
    assert "transport mode" in problem
    assert laid(routed) == []
    assert laid(contexts.routable(tunnels, vrfs=False)[0]) == laid(seen((f"{HERE}/32", f"{PEER}/32")))


async def test_rules_and_routes_come_with_the_sa_and_go_with_it(tmp_path: Path) -> None:
    which = between()
    bench = Bench.make(tmp_path, FakeHost())
    async with FakeIked(bench.paths.iked_socket) as iked:
        await bench.start()
        await bench.agent.offer(encode(document(1, which)))
        iked.statuses[which.id] = saying(which, (f"{HERE}/32", f"{PEER}/32"))
        await iked.set_up(which.id)
        await eventually(lambda: len(bench.host.view.rules) == 4 and _tables(bench) == {TABLE, TABLE + 1})
        bench.host.view = dataclasses.replace(bench.host.view, rules=bench.host.view.rules[1:])
        bench.agent.reconciler.wake()
        await eventually(lambda: len(bench.host.view.rules) == 4)
        assert "agent.repaired" in bench.codes()
        iked.statuses[which.id] = saying(which)
        await iked.set_up()
        await eventually(lambda: not bench.host.view.rules and not _tables(bench))
        await bench.stop()


def _tables(bench: Bench[FakeHost]) -> set[int]:
    return {route.table for route in bench.host.view.routes if route.protocol == 86}
