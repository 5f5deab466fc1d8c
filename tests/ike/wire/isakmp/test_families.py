"""The table of refusals agrees with the events that operators read."""

from __future__ import annotations

from agents.contract.events import KINDS
from agents.ike.wire.isakmp.families import BY_CODE, FAMILIES, Action

_TEXTS = {
    Action.CHECK_IKE: "Compare the IKE policies",
    Action.CHECK_IPSEC: "Compare the IPsec policies",
    Action.SUPPORT: "Contact support",
    Action.RESET: "Reset the VPN connection",
}


def test_families_are_numbered_and_their_codes_are_one_of_a_kind() -> None:
    assert [family.number for family in FAMILIES] == list(range(1, 39))
    assert len(BY_CODE) == len({family.name for family in FAMILIES}) == 38


def test_families_stand_in_the_order_of_the_events() -> None:
    codes = [family.code for family in FAMILIES]
    assert [code for code in KINDS if code in BY_CODE] == codes


def test_actions_are_those_of_the_events() -> None:
    for family in FAMILIES:
        action = KINDS[family.code].action
        if family.action is Action.NONE:
            assert action == "", family.code
        else:
            assert action.startswith(_TEXTS[family.action]), family.code
    assert {family.action for family in FAMILIES} == set(Action)
