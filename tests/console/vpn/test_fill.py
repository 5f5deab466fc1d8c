"""What the tunnel form fills in by itself, and what it leaves alone."""

from __future__ import annotations

from typing import Any

from vpnconsole.vpn.forms.fill import Known, State, fill

PARIS = Known(name="paris", addresses=("192.0.2.1", "2001:db8::1"), networks=("10.1.0.0/24", "2001:db8:1::/64"))
LYON = Known(name="lyon", addresses=("2001:db8::2", "198.51.100.1"), networks=("10.2.0.0/24", "2001:db8:2::/64"))
GATEWAYS = {"p": PARIS, "l": LYON}


def state(**changes: Any) -> State:
    values: dict[str, Any] = {
        "main": {"name": ""},
        "ends": {"end_a": {"gateway": "p"}, "end_b": {"gateway": "l"}},
        "pairs": [{}],
        "auto": {},
    }
    return State(**{**values, **changes})


def pairs(filled: State) -> list[tuple[str, str]]:
    return [(pair["network_a"], pair["network_b"]) for pair in filled.pairs]


def test_fills_everything_from_two_gateways() -> None:
    filled = state()
    fill(filled, GATEWAYS)
    assert filled.main["name"] == "paris-lyon"
    assert filled.ends["end_a"]["address"] == "192.0.2.1"
    # The other end takes its address of the same IP version although it is not its first.
    assert filled.ends["end_b"]["address"] == "198.51.100.1"
    assert filled.ends["end_b"]["identity_type"] == "ipv4"
    assert filled.ends["end_b"]["identity_value"] == "198.51.100.1"
    assert pairs(filled) == [("10.1.0.0/24", "10.2.0.0/24"), ("2001:db8:1::/64", "2001:db8:2::/64")]


def test_one_gateway_fills_its_side_and_the_second_completes_it() -> None:
    filled = state(ends={"end_a": {"gateway": "p"}, "end_b": {"gateway": ""}})
    fill(filled, GATEWAYS)
    assert pairs(filled) == [("10.1.0.0/24", ""), ("2001:db8:1::/64", "")]
    assert filled.main["name"] == ""
    filled.ends["end_b"]["gateway"] = "l"
    fill(filled, GATEWAYS)
    assert pairs(filled) == [("10.1.0.0/24", "10.2.0.0/24"), ("2001:db8:1::/64", "2001:db8:2::/64")]


def test_what_was_typed_stays() -> None:
    typed = state(
        main={"name": "mine"},
        ends={
            "end_a": {"gateway": "p", "address": "2001:db8::1", "identity_type": "fqdn", "identity_value": "vpn.paris"},
            "end_b": {"gateway": "l"},
        },
        pairs=[{"network_a": "10.50.0.0/16", "network_b": "10.60.0.0/16"}],
    )
    fill(typed, GATEWAYS)
    assert typed.main["name"] == "mine"
    assert typed.ends["end_a"]["address"] == "2001:db8::1"
    assert typed.ends["end_a"]["identity_value"] == "vpn.paris"
    assert typed.ends["end_b"]["address"] == "2001:db8::2"
    assert pairs(typed) == [("10.50.0.0/16", "10.60.0.0/16")]


def test_what_was_filled_in_follows_another_gateway() -> None:
    filled = state()
    fill(filled, GATEWAYS)
    filled.ends["end_b"]["gateway"] = "r"
    rome = Known(name="rome", addresses=("203.0.113.7",), networks=("10.3.0.0/24",))
    fill(filled, {**GATEWAYS, "r": rome})
    assert filled.main["name"] == "paris-rome"
    assert filled.ends["end_b"]["identity_value"] == "203.0.113.7"
    assert pairs(filled) == [("10.1.0.0/24", "10.3.0.0/24")]


def test_a_gateway_without_networks_leaves_the_pairs_alone() -> None:
    bare = state(ends={"end_a": {"gateway": "b"}, "end_b": {"gateway": ""}})
    fill(bare, {"b": Known(name="bare")})
    assert bare.pairs == [{}]
    assert bare.ends["end_a"]["address"] == ""


def test_a_gateways_own_identity_is_filled_in_and_follows_the_choice() -> None:
    partner = Known(name="partner", addresses=("203.0.113.9",), identities={"203.0.113.9": ("fqdn", "gw.example.net")})
    gateways = {**GATEWAYS, "x": partner}
    filled = state(ends={"end_a": {"gateway": "p"}, "end_b": {"gateway": "x"}})
    fill(filled, gateways)
    assert (filled.ends["end_b"]["identity_type"], filled.ends["end_b"]["identity_value"]) == ("fqdn", "gw.example.net")
    filled.ends["end_b"]["gateway"] = "l"
    fill(filled, gateways)
    assert (filled.ends["end_b"]["identity_type"], filled.ends["end_b"]["identity_value"]) == ("ipv4", "198.51.100.1")


# IKE version and policies

AIX = Known(name="aix", addresses=("203.0.113.9",), make="aix", version="v1")
POLICIES = {"v2": ("1", "11"), "v1": ("2", "12"), "aix": ("3", "13")}


def chosen(filled: State) -> tuple[str, str, str]:
    return filled.main["version"], filled.main["ike_policy"], filled.main["ipsec_policy"]


def fresh(peer: str) -> State:
    usual = {"version": "v2", "ike_policy": "1", "ipsec_policy": "11"}
    ends = {"end_a": {"gateway": "p"}, "end_b": {"gateway": peer}}
    return state(main={"name": "", **usual}, auto=dict(usual), ends=ends)


def test_the_make_of_a_peer_brings_version_and_policies_and_takes_them_along() -> None:
    gateways = {**GATEWAYS, "x": AIX}
    filled = fresh("x")
    fill(filled, gateways, POLICIES)
    assert chosen(filled) == ("v1", "3", "13")
    filled.ends["end_b"]["gateway"] = "l"
    fill(filled, gateways, POLICIES)
    assert chosen(filled) == ("v2", "1", "11")


def test_a_make_without_policies_of_its_own_gets_those_of_its_version() -> None:
    filled = fresh("x")
    fill(filled, {**GATEWAYS, "x": AIX}, {"v2": POLICIES["v2"], "v1": POLICIES["v1"]})
    assert chosen(filled) == ("v1", "2", "12")


def test_a_chosen_version_brings_policies_that_suit_it_and_stays() -> None:
    filled = fresh("l")
    filled.main["version"] = "v2-else-v1"
    fill(filled, GATEWAYS, POLICIES)
    assert chosen(filled) == ("v2-else-v1", "2", "12")


def test_a_chosen_policy_stays() -> None:
    filled = fresh("x")
    filled.main["ike_policy"] = "7"
    fill(filled, {**GATEWAYS, "x": AIX}, POLICIES)
    assert chosen(filled) == ("v1", "7", "13")


def test_an_existing_tunnel_keeps_what_it_has() -> None:
    filled = fresh("x")
    filled.auto.clear()
    fill(filled, {**GATEWAYS, "x": AIX}, POLICIES)
    assert chosen(filled) == ("v2", "1", "11")
