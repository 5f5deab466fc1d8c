"""What the packet filter does with packets in clear text that should leave through a tunnel."""

from __future__ import annotations

import dataclasses
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from agents.agentd.host import Route
from agents.agentd.parts import filter as parts_filter
from agents.agentd.parts.carried import carried
from agents.agentd.parts.filter import FilterPlan
from agents.contract.carriage import Carriage, Context
from agents.contract.config import Tunnel
from agents.contract.traffic import TrafficSelector
from tests.agentd.fakes import OTHER_TUNNEL_ID, TUNNEL_ID, FakeHost, document, tunnel, up_status
from tests.agentd.filter_site import (
    HERE,
    INNER,
    LAN6,
    PEER,
    REMOTE,
    REMOTE6,
    STRANGER,
    TUN,
    Site,
    apply,
    built,
    counts,
    filtered,
    hearing,
    lab_document,
    send,
    send_raw,
    until_counted,
)
from tests.agentd.test_routes import MANUAL_ID, called, manual, on_demand

OTHER_TUN = "vpnbbbbbbbb"
needs_nft = pytest.mark.needs("nft")


def planned(
    *tunnels: Tunnel, routes: tuple[Route, ...] = (), driver: str = "userspace", vrfs: bool = False
) -> FilterPlan:
    view = FakeHost().view
    seen = carried(document(1, *tunnels), {each.id: up_status(each, up=False) for each in tunnels}, driver)
    return parts_filter.plan(
        seen, dataclasses.replace(view, routes=(*view.routes, *routes)), kernel=driver == "kernel", vrfs=vrfs
    )


def rules(plan: FilterPlan, chain: str) -> list[str]:
    return [str(each["rule"]["expr"]) for each in plan.rules if each["rule"]["chain"] == chain]


def test_each_data_plane_is_asked_in_its_own_way_whether_a_packet_is_protected() -> None:
    assert [each for each in rules(planned(tunnel(), driver="kernel"), "leaving") if "{'rt': {'key': 'ipsec'}}" in each]
    assert not [each for each in rules(planned(tunnel()), "leaving") if "'rt'" in each]
    assert [each for each in rules(planned(tunnel(), vrfs=True), "leaving") if "'oifkind'" in each]
    assert not [each for each in rules(planned(tunnel()), "leaving") if "'oifkind'" in each]


def test_of_an_on_demand_tunnel_what_its_sas_protect_and_of_a_manual_one_its_pairs() -> None:
    which = on_demand()
    given = document(1, which)
    view = FakeHost().view
    quiet = parts_filter.plan(carried(given, {which.id: called(which)}, "userspace"), view, kernel=False, vrfs=False)
    assert rules(quiet, "leaving4") == []
    status = called(which, ("203.0.113.7:4500", "10.20.1.0/24"))
    busy = parts_filter.plan(carried(given, {which.id: status}, "userspace"), view, kernel=False, vrfs=False)
    (rule,) = rules(busy, "leaving4")
    assert "'field': 'daddr'}}, 'right': {'prefix': {'addr': '10.20.1.0', 'len': 24}}" in rule
    by_hand = dataclasses.replace(document(1), tunnels=(), manual_tunnels=(manual(),))
    plan = parts_filter.plan(carried(by_hand, {}, "kernel"), view, kernel=True, vrfs=False)
    (rule,) = rules(plan, "leaving4")
    assert f"t-{MANUAL_ID}-leaving" in rule


def test_a_way_of_the_machine_is_its_own_only_into_a_part_or_to_what_is_attached() -> None:
    ways = (
        Route(network="0.0.0.0/0", interface="uplink", gateway="203.0.113.1", protocol=3, priority=100),
        Route(network="10.2.0.0/24", interface="leased", gateway="10.9.0.1", protocol=4),
        Route(network="10.2.0.128/25", interface="lab", gateway="10.9.0.2", protocol=4),
        Route(network="10.2.0.0/24", interface="bridge", protocol=2, priority=5),
    )
    shown = rules(planned(tunnel(), tunnel(id=OTHER_TUNNEL_ID, name="all", remote_ts=("0.0.0.0/0",))), "leaving")
    assert not [each for each in shown if "'oifname'}}, 'right': 'uplink'" in each]
    for chain, field in (("leaving", "oifname"), ("clear", "iifname")):
        shown = rules(planned(tunnel(), routes=ways), chain)
        named = [
            name for name in ("uplink", "leased", "lab", "bridge") if f"'{field}'}}}}, 'right': '{name}'" in str(shown)
        ]
        assert named == ["lab", "bridge"], chain
    assert "'uplink'" not in str(rules(planned(tunnel(remote_ts=("0.0.0.0/0",)), routes=ways), "leaving"))


def test_local_hosts_on_the_interface_that_leads_to_peers_are_neighbours_and_others_there_are_not() -> None:
    one_leg = dataclasses.replace(
        FakeHost().view, routes=(*FakeHost().view.routes, Route(network="10.1.0.0/24", interface="wan", protocol=2))
    )

    def ways(**changes: Any) -> str:
        seen = carried(document(1, tunnel(**changes)), {}, "userspace")
        plan = parts_filter.plan(seen, one_leg, kernel=False, vrfs=False)
        return str([each for each in rules(plan, "leaving") if "'right': 'wan'" in each])

    shown = ways(remote_ts=("0.0.0.0/0",))
    assert "10.1.0.0" in shown
    assert "198.51.100.0" not in shown
    assert ways(local_ts=("0.0.0.0/0",), remote_ts=("0.0.0.0/0",)) == "[]"
    assert ways() == "[]"


def test_a_local_network_inside_the_remote_one_is_left_out_and_the_other_way_round_it_is_not() -> None:
    (branch,) = rules(planned(tunnel(remote_ts=("10.0.0.0/8",))), "leaving4")
    assert "{'op': '!=', 'left': {'payload': {'protocol': 'ip', 'field': 'daddr'}}, 'right': {'set': [" in branch
    assert "'addr': '10.1.0.0', 'len': 24" in branch.partition("!=")[2]
    (hub,) = rules(planned(tunnel(local_ts=("10.0.0.0/8",))), "leaving4")
    assert "!=" not in hub


@pytest.fixture
def site() -> Iterator[Site]:
    with built("l") as made:
        made.peer.forward()
        yield made


def through(site: Site, interface: str, network: str = "10.2.0.0/24") -> None:
    """Route as ``agentd`` does with the tunnel up, or as the machine does by itself while it is down."""
    site.here.ip("route", "replace", network, "dev", interface)


@pytest.mark.lab
@needs_nft
def test_while_the_tunnel_is_down_nothing_leaves_beside_it_and_while_it_is_up_all_arrives(site: Site) -> None:
    with hearing(site.peer, REMOTE, 7) as (remote,):
        send(site.lan, INNER, REMOTE, 7, b"without a filter")
        assert remote.recv(100) == b"without a filter"
        apply(site, lab_document())
        send(site.lan, INNER, REMOTE, 7, b"a leak")
        with pytest.raises(PermissionError):
            send(site.here, "10.1.0.1", REMOTE, 7, b"a leak of its own")
        send(site.here, HERE, REMOTE, 7, b"from no local network")
        assert remote.recv(100) == b"from no local network"
        until_counted(site, lambda seen: seen.dropped_leaving == 2)
        through(site, TUN)
        send(site.lan, INNER, REMOTE, 7, b"in the tunnel")
        assert remote.recv(100) == b"in the tunnel"
        send(site.here, "10.1.0.1", REMOTE, 7, b"its own in the tunnel")
        assert remote.recv(100) == b"its own in the tunnel"
    until_counted(site, lambda seen: (seen.dropped_leaving, seen.dropped_clear) == (2, 0))


@pytest.mark.lab
@needs_nft
def test_the_same_with_ipv6(site: Site) -> None:
    site.add_ipv6()
    apply(site, filtered(1, tunnel(local=HERE, remote=PEER, local_ts=("fd01::/64",), remote_ts=("fd02::/64",))))
    with hearing(site.peer, REMOTE6, 7) as (remote,):
        send(site.lan, LAN6, REMOTE6, 7, b"a leak")
        with pytest.raises(PermissionError):
            send(site.here, "fd01::1", REMOTE6, 7, b"a leak")
        send(site.here, "2001:db8::1", REMOTE6, 7, b"from no local network")
        assert remote.recv(100) == b"from no local network"
    until_counted(site, lambda seen: seen.dropped_leaving == 2)


@pytest.mark.lab
@needs_nft
def test_the_kernels_data_plane_goes_by_what_is_encrypted_and_not_by_names(site: Site) -> None:
    apply(site, lab_document(), kernel=True)
    through(site, TUN)
    with hearing(site.peer, REMOTE, 7) as (remote,):
        send(site.lan, INNER, REMOTE, 7, b"a leak")
        send(site.here, HERE, REMOTE, 7, b"from no local network")
        assert remote.recv(100) == b"from no local network"
    until_counted(site, lambda seen: seen.dropped_leaving == 1)


@pytest.mark.lab
@needs_nft
def test_a_tunnel_to_everywhere_cuts_off_neither_peers_nor_management_nor_neighbours(site: Site) -> None:
    site.here.ip("address", "add", "203.0.113.1/32", "dev", "lo")
    apply(site, lab_document(local_ts=("0.0.0.0/0",), remote_ts=("0.0.0.0/0",)))
    with hearing(site.peer, PEER, 500, 4500, 22) as (ike, nat_t, management):
        for port, heard in ((500, ike), (4500, nat_t), (22, management)):
            send(site.here, HERE, PEER, port, b"from an outer address")
            assert heard.recv(100) == b"from an outer address"
        with pytest.raises(PermissionError):
            send(site.here, "203.0.113.1", PEER, 22, b"from another of its addresses")
        send(site.lan, INNER, PEER, 22, b"a leak")
        with hearing(site.here, HERE, 8470) as (agent,):
            send(site.peer, PEER, HERE, 8470, b"from the console")
            assert agent.recv(100) == b"from the console"
        with hearing(site.lan, INNER, 7) as (neighbour,):
            send(site.here, "10.1.0.1", INNER, 7, b"to the lan")
            assert neighbour.recv(100) == b"to the lan"
        send(site.here, HERE, PEER, 22, b"the last")
        assert management.recv(100) == b"the last"
    send(site.here, "10.1.0.1", "224.0.0.251", 5353, device="lan")
    until_counted(site, lambda seen: seen.dropped_leaving == 2)


@pytest.mark.lab
@needs_nft
def test_host_to_host_holds_back_all_but_what_makes_the_tunnel(site: Site) -> None:
    apply(site, lab_document(local_ts=(f"{HERE}/32",), remote_ts=(f"{PEER}/32",)))
    site.here.ip("neigh", "flush", "all")
    with pytest.raises(PermissionError):
        send(site.here, HERE, PEER, 7)
    with hearing(site.here, HERE, 500, 4500) as ours, hearing(site.peer, PEER, 500, 4500) as theirs:
        for from_here, heard in zip(ours, theirs, strict=True):
            from_here.sendto(b"ike", (PEER, heard.getsockname()[1]))
            assert heard.recv(100) == b"ike"
    for protocol in (50, 51):
        send_raw(site.here, HERE, protocol, to=PEER)
    with pytest.raises(PermissionError):
        send_raw(site.here, HERE, 47, to=PEER)
    until_counted(site, lambda seen: seen.dropped_leaving == 2)


@pytest.mark.lab
@needs_nft
def test_ah_of_ipv6_passes_as_ah_whatever_is_inside(site: Site) -> None:
    """It is an extension header there, which a filter may look through at the packet inside."""
    here, peer = "2001:db8::1", "2001:db8::2"
    apply(site, filtered(1, tunnel(local=here, remote=peer, local_ts=(f"{here}/128",), remote_ts=(f"{peer}/128",))))
    header = struct.pack(">BBHII", socket.IPPROTO_UDP, 4, 0, 0xC0000001, 1) + bytes(12)
    inner = struct.pack(">HHHH", 4000, 7, 8, 0)
    send_raw(site.here, here, socket.IPPROTO_AH, to=peer, data=header + inner)
    assert counts(site).dropped_leaving == 0  # whatever the peer says of an AH that it cannot read
    send_raw(site.peer, peer, socket.IPPROTO_AH, to=here, data=header + inner)
    until_counted(site, lambda seen: seen.admitted_ipsec == 1)


@pytest.mark.lab
@needs_nft
def test_of_two_tunnels_for_the_same_networks_either_carries_them(site: Site) -> None:
    blue = tunnel(
        id=OTHER_TUNNEL_ID, name="backup", local=HERE, remote=STRANGER, carriage=Carriage(context="blue", route_cost=10)
    )
    preferred = tunnel(local=HERE, remote=PEER, carriage=Carriage(route_cost=5))
    contexts = (Context(name="blue", table=100),)
    site.here.ip("link", "add", OTHER_TUN, "type", "veth", "peer", "name", "tunnel2", "netns", site.peer.name)
    site.here.ip("link", "set", OTHER_TUN, "up")
    site.peer.ip("link", "set", "tunnel2", "up")
    apply(site, document(1, preferred, blue, packet_filter=True, contexts=contexts))
    with hearing(site.peer, REMOTE, 7) as (remote,):
        for interface in (TUN, OTHER_TUN):
            through(site, interface)
            send(site.lan, INNER, REMOTE, 7, interface.encode())
            assert remote.recv(100) == interface.encode()
        through(site, "wan")
        send(site.lan, INNER, REMOTE, 7, b"a leak")
        send(site.here, HERE, REMOTE, 7, b"from no local network")
        assert remote.recv(100) == b"from no local network"
    until_counted(site, lambda seen: seen.dropped_leaving == 1)


@pytest.mark.lab
@needs_nft
def test_what_no_rule_of_a_tunnel_names_passes_and_fragments_of_what_one_may_name_do_not(site: Site) -> None:
    web = tunnel(local=HERE, remote=PEER)
    narrow = dataclasses.replace(
        web.children[0],
        local_ts=(TrafficSelector(network="10.1.0.0/24"),),
        remote_ts=(TrafficSelector(network="10.2.0.0/24", protocol=17, start_port=443, end_port=443),),
    )
    apply(site, filtered(1, dataclasses.replace(web, children=(narrow,))))
    with hearing(site.peer, REMOTE, 7, 443) as (other, _):
        send(site.lan, INNER, REMOTE, 443, b"a leak")
        until_counted(site, lambda seen: seen.dropped_leaving == 1)
        send(site.lan, INNER, REMOTE, 443, bytes(2000))
        until_counted(site, lambda seen: seen.dropped_leaving == 3)  # both fragments
        send(site.lan, INNER, REMOTE, 7, b"another port")
        assert other.recv(100) == b"another port"
    with hearing(site.peer, PEER, 443) as (elsewhere,):
        send(site.lan, INNER, PEER, 443, b"another network")
        assert elsewhere.recv(100) == b"another network"
    until_counted(site, lambda seen: seen.dropped_leaving == 3)


def test_a_tunnel_that_is_disabled_protects_nothing() -> None:
    plan = planned(tunnel(enabled=False))
    assert rules(plan, "leaving4") == []
    assert f"t-{TUNNEL_ID}-leaving" not in plan.counters
