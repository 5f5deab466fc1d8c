"""strongSwan as the peers of the console's profiles: the two tables agree, and the text that the daemon reads."""

from __future__ import annotations

import pytest

from agents.contract.config import ExchangeMode
from deploy.lab.profiles import PROFILES, PeerProfile, swanctl_conf
from tests.interop.words import ENCRYPTION, INTEGRITY, KEY_EXCHANGE
from vpnconsole.gateways import profiles

every_profile = pytest.mark.parametrize("peer", PROFILES.values(), ids=lambda peer: peer.slug)


@every_profile
def test_the_lab_has_what_the_console_proposes(peer: PeerProfile) -> None:
    defaults = profiles.PROFILES[peer.slug].defaults
    assert defaults is not None
    assert peer.ike == tuple(
        f"{ENCRYPTION[each.encryption].keyword}-{INTEGRITY[each.integrity].keyword}-{KEY_EXCHANGE[each.group].keyword}"
        for each in defaults.ike
    )
    assert peer.esp == tuple(
        f"{ENCRYPTION[each.encryption].keyword}-{INTEGRITY[each.integrity].keyword}" for each in defaults.ipsec
    )
    assert (peer.ike_lifetime_s, peer.ipsec_lifetime_s) == (defaults.ike_lifetime_s, defaults.ipsec_lifetime_s)


@every_profile
def test_the_lab_has_a_mode_that_the_peer_has(peer: PeerProfile) -> None:
    known = profiles.PROFILES[peer.slug]
    assert (ExchangeMode.AGGRESSIVE if peer.aggressive else ExchangeMode.MAIN) in known.modes
    assert peer.key_by_remote is known.one_key_per_address


def test_every_make_has_its_lab() -> None:
    assert set(PROFILES) == set(profiles.PROFILES) - {profiles.GENERIC}


def test_a_tree_as_text() -> None:
    tree = {"connections": {"paris": {"version": "1", "proposals": ["a", "b"], "local": {"auth": "psk"}}}}
    assert swanctl_conf(tree) == (
        "connections {\n"
        "  paris {\n"
        "    version = 1\n"
        "    proposals = a,b\n"
        "    local {\n"
        "      auth = psk\n"
        "    }\n"
        "  }\n"
        "}\n"
    )  # fmt: skip
