"""Plans as comparisons of sets: no kernel, no daemon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.agentd.host import Address, HostView, Link, Route
from agents.agentd.ledger import Accepted
from agents.agentd.parts import ike, links, routes, sysctl
from agents.agentd.parts.carried import carried
from agents.contract.carriage import Attachment, Carriage
from agents.contract.codec import digest
from agents.contract.config import GatewayDocument, Tunnel
from agents.contract.status import TunnelStatus
from tests.agentd.fakes import OTHER_TUNNEL_ID, TUNNEL_ID, FakeHost, document, tunnel, up_status

TUN = "vpnaaaaaaaa"
VIEW = FakeHost().view


def route(network: str, interface: str = TUN, **values: object) -> Route:
    return Route(network=network, interface=interface, **values)  # type: ignore[arg-type]


def want(
    given: GatewayDocument,
    statuses: Mapping[str, TunnelStatus],
    driver: str = "userspace",
    view: HostView = VIEW,
) -> routes.WantedRoutes:
    return routes.wanted(carried(given, statuses, driver), routes.tables(given), view)


def wanted_networks(*tunnels_: Tunnel, driver: str = "userspace", view: HostView = VIEW, up: bool = True) -> set[Route]:
    chosen = tunnels_ or (tunnel(),)
    statuses = {each.id: up_status(each, up=up) for each in chosen}
    return {claim.route for claim in want(document(1, *chosen), statuses, driver, view).claims}


def test_a_tunnel_that_is_up_wants_its_remote_networks_with_the_inner_address_as_source() -> None:
    assert wanted_networks() == {route("10.2.0.0/24", source="10.1.0.1")}


def test_a_gateway_without_an_inner_address_sends_from_no_particular_one() -> None:
    view = replace(VIEW, addresses=())
    assert wanted_networks(view=view) == {route("10.2.0.0/24")}


@pytest.mark.parametrize("changes", [{"enabled": False}, {"add_routes": False}])
def test_a_tunnel_that_wants_no_routes_gets_none(changes: dict[str, bool]) -> None:
    assert wanted_networks(tunnel(**changes)) == set()


def test_a_tunnel_that_is_down_wants_nothing() -> None:
    assert wanted_networks(up=False) == set()


def test_kernel_mode_routes_out_of_the_interface_that_leads_to_the_peer() -> None:
    assert wanted_networks(driver="kernel") == {route("10.2.0.0/24", "wan", gateway="198.51.100.1", source="10.1.0.1")}


def test_kernel_mode_needs_no_route_where_the_way_to_the_peer_is_the_default_route() -> None:
    assert wanted_networks(tunnel(remote_ts=("0.0.0.0/0",)), driver="kernel") == set()


def test_kernel_mode_without_a_way_to_the_peer_is_a_problem() -> None:
    view = replace(VIEW, routes=())
    found = want(document(1), {TUNNEL_ID: up_status(tunnel())}, "kernel", view)
    assert found.claims == ()
    assert found.problems == ("paris-lyon: there is no route to the peer 192.0.2.9",)


def test_everything_through_the_tunnel_leaves_the_peer_itself_on_its_way() -> None:
    assert wanted_networks(tunnel(remote_ts=("0.0.0.0/0",))) == {
        route("0.0.0.0/1", source="10.1.0.1"),
        route("128.0.0.0/1", source="10.1.0.1"),
        route("192.0.2.9/32", "wan", gateway="198.51.100.1"),
    }


def test_ipv6_routes_have_a_priority_of_their_own_and_a_source_of_their_family() -> None:
    six = tunnel(local_ts=("fd01::/64",), remote_ts=("fd02::/64",))
    view = replace(
        VIEW,
        addresses=(Address(interface="lan", address="fe80::1"), Address(interface="lan", address="fd01::5")),
    )
    assert wanted_networks(six, view=view) == {route("fd02::/64", source="fd01::5", priority=1)}


def test_two_tunnels_with_one_network_the_first_that_is_up_gets_it() -> None:
    first, second = tunnel(), tunnel(id=OTHER_TUNNEL_ID, name="backup", remote="192.0.2.10")
    view = replace(VIEW, links=(*VIEW.links, Link(index=4, name="vpnbbbbbbbb", mtu=1_400, up=True)))
    both = {TUNNEL_ID: up_status(first), OTHER_TUNNEL_ID: up_status(second)}
    found = want(document(1, first, second), both, view=view)
    assert [(claim.tunnel_id, claim.route.interface) for claim in found.claims] == [(TUNNEL_ID, TUN)]
    assert [claim.tunnel_id for claim in found.unlaid] == [OTHER_TUNNEL_ID]
    one = {TUNNEL_ID: up_status(first, up=False), OTHER_TUNNEL_ID: up_status(second)}
    found = want(document(1, first, second), one, view=view)
    assert [(claim.tunnel_id, claim.route) for claim in found.claims] == [
        (OTHER_TUNNEL_ID, route("10.2.0.0/24", "vpnbbbbbbbb", source="10.1.0.1"))
    ]


def test_a_missing_interface_is_a_problem_and_not_a_route() -> None:
    view = replace(VIEW, links=VIEW.links[:2])
    found = want(document(1), {TUNNEL_ID: up_status(tunnel())}, view=view)
    assert (found.claims, found.problems) == ((), (f"paris-lyon: its interface {TUN} is not there",))


def claim(which: Route) -> routes.Claim:
    return routes.Claim(route=which, tunnel_id=TUNNEL_ID, cause="selector", cost=0)


WANT = routes.WantedRoutes(claims=(claim(route("10.2.0.0/24")),))


def with_routes(*rows: Route) -> HostView:
    return replace(VIEW, routes=rows)


def test_what_is_missing_is_added_and_what_is_right_is_left() -> None:
    assert routes.plan(WANT, with_routes(), {}) == routes.RoutePlan(add=(route("10.2.0.0/24"),))
    assert routes.plan(WANT, with_routes(route("10.2.0.0/24")), {}) == routes.RoutePlan()


def test_only_our_own_rows_are_withdrawn() -> None:
    ours, theirs = route("10.9.0.0/24"), route("10.8.0.0/24", protocol=4)
    plan = routes.plan(routes.WantedRoutes(), with_routes(ours, theirs), {})
    assert plan == routes.RoutePlan(remove=(ours,))


def test_a_wrong_row_of_ours_is_replaced() -> None:
    wrong = route("10.2.0.0/24", "wan")
    assert routes.plan(WANT, with_routes(wrong), {}) == routes.RoutePlan(replace=(route("10.2.0.0/24"),))


def test_a_foreign_route_of_the_same_network_is_a_problem_and_is_not_touched() -> None:
    plan = routes.plan(WANT, with_routes(route("10.2.0.0/24", "lan", protocol=4)), {})
    assert (plan.add, plan.remove) == ((), ())
    assert plan.problems == ("a route to 10.2.0.0/24 on lan that is not ours is in the way",)


def test_a_route_that_went_without_us_is_a_repair_unless_its_link_went_too() -> None:
    assert routes.plan(WANT, with_routes(), {route("10.2.0.0/24"): 3}).repairs == {route("10.2.0.0/24")}
    assert routes.plan(WANT, with_routes(), {route("10.2.0.0/24"): 99}).repairs == frozenset()
    assert routes.plan(WANT, with_routes(), {}).repairs == frozenset()


ROWS = st.builds(
    route,
    st.sampled_from([f"10.{number}.0.0/24" for number in range(5)] + ["fd02::/64"]),
    st.sampled_from([TUN, "wan", "lan"]),
    source=st.sampled_from([None, "10.1.0.1"]),
    priority=st.sampled_from([5, 10]),
    table=st.sampled_from([254, 100]),
)


@given(st.lists(ROWS, max_size=6), st.lists(ROWS, max_size=6), st.lists(ROWS, max_size=6))
def test_one_plan_brings_everything_right_and_leaves_foreign_rows(
    right: list[Route], ours: list[Route], others: list[Route]
) -> None:
    foreign = {each.key: replace(each, protocol=4) for each in others}
    present = {each.key: each for each in ours if each.key not in foreign}
    wanted_now = {each.key: each for each in right}
    found = routes.WantedRoutes(claims=tuple(claim(each) for each in wanted_now.values()))
    before = {*foreign.values(), *present.values()}
    plan = routes.plan(found, with_routes(*before), {})
    replaced = {each.key for each in plan.replace}
    assert replaced <= set(present)
    after = {each for each in before if each.protocol != 86 or each.key not in replaced}
    after = (after - set(plan.remove)) | set(plan.add) | set(plan.replace)
    assert set(foreign.values()) <= after
    assert {each for each in after if each.protocol == 86} == {
        each for each in wanted_now.values() if each.key not in foreign
    }
    again = routes.plan(found, with_routes(*after), {})
    assert (again.add, again.remove, again.replace) == ((), (), ())
    assert len(again.problems) == len(set(wanted_now) & set(foreign))


def test_the_way_to_an_address_is_the_longest_foreign_route() -> None:
    view = with_routes(
        route("0.0.0.0/0", "wan", protocol=3),
        route("192.0.2.0/24", "other", protocol=3, priority=100),
        route("192.0.2.0/24", "better", protocol=3, priority=50),
        route("192.0.2.9/32", TUN),
    )
    assert routes.next_hop(view, "192.0.2.9").interface == "better"
    with pytest.raises(LookupError):
        routes.next_hop(view, "2001:db8::1")


def test_links_are_put_right_only_when_wrong() -> None:
    statuses = {TUNNEL_ID: up_status(tunnel())}

    def plan(which: Tunnel, view: HostView = VIEW, driver: str = "userspace") -> links.LinkPlan:
        return links.plan(carried(document(1, which), statuses, driver), view)

    assert plan(tunnel()) == links.LinkPlan()
    assert plan(tunnel(mtu=1_300)).changes == (links.LinkChange(tunnel_id=TUNNEL_ID, name=TUN, mtu=1_300),)
    down = replace(VIEW, links=(Link(index=3, name=TUN, mtu=1_400, up=False),))
    assert plan(tunnel(), down).changes[0].mtu == 1_400
    gone = replace(VIEW, links=())
    assert plan(tunnel(), gone, "kernel") == links.LinkPlan()
    assert plan(tunnel(), gone).problems
    apart = tunnel(carriage=Carriage(attachment=Attachment.INTERFACE))
    assert plan(apart, gone, "kernel").problems


def test_settings_are_changed_only_where_they_stand_in_the_way() -> None:
    statuses = {TUNNEL_ID: up_status(tunnel())}

    def plan(driver: str = "userspace", **settings: str) -> dict[str, str]:
        table = {"net/ipv4/" + name: value for name, value in settings.items()}
        table |= {"net/ipv6/conf/all/forwarding": "0"}
        names = {f"net/ipv4/conf/{TUN}/rp_filter": "tun", "net/ipv4/conf/wan/rp_filter": "wan"}
        for name, short in names.items():
            table[name] = settings.get(short, "0")
        table["net/ipv4/conf/all/rp_filter"] = settings.get("all", "0")
        return sysctl.plan(carried(document(1), statuses, driver), VIEW, table.get)

    assert plan(ip_forward="1") == {}
    assert plan(ip_forward="0") == {"net/ipv4/ip_forward": "1"}
    assert plan(ip_forward="1", tun="1") == {f"net/ipv4/conf/{TUN}/rp_filter": "2"}
    assert plan(ip_forward="1", all="1") == {f"net/ipv4/conf/{TUN}/rp_filter": "2"}
    assert plan(ip_forward="1", tun="2", all="1") == {}
    assert plan("kernel", ip_forward="1", wan="1") == {"net/ipv4/conf/wan/rp_filter": "2"}


def test_iked_is_configured_when_it_has_something_else() -> None:
    accepted = Accepted(document=document(4), digest=digest(document(4)))
    assert not ike.must_configure(None, 0, None)
    assert ike.must_configure(accepted, 0, None)
    assert ike.must_configure(accepted, 4, None)
    assert ike.must_configure(accepted, 4, "other")
    assert ike.must_configure(accepted, 3, accepted.digest)
    assert not ike.must_configure(accepted, 4, accepted.digest)
