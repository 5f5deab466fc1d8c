"""Where a field that an agent names is changed: every place is an input that the page really has."""

from __future__ import annotations

import pytest
from django.test import Client

from agents.contract.events import KINDS
from vpnconsole.accounts.models import User
from vpnconsole.vpn import places
from vpnconsole.vpn.models import Tunnel

pytestmark = pytest.mark.django_db

#: Fields of documents that have no form of the console yet.
_NO_FORM = {
    "certificates",
    "ike.childless",
    "local.more_addresses",
    "local_auth",
    "local_auth.certificate",
    "local_auth.signatures",
    "ppk",
    "ppk_required",
    "remote.more_addresses",
    "remote_auth",
    "remote_auth.kind",
    "remote_auth.revocation",
    "remote_auth.signatures",
    "remote_auth.trust_anchors",
    "remote_auth.validate_identity",
}


def test_every_field_of_an_event_has_its_input(client: Client, alice: User, tunnel: Tunnel) -> None:
    client.force_login(alice)
    pages: dict[str, str] = {}
    without = set()
    for field in sorted({kind.field for kind in KINDS.values()} - {""}):
        place = places.of(tunnel, field, "a")
        if place is None:
            without.add(field)
            continue
        url, _, target = place.url.partition("#")
        page = pages.setdefault(url, client.get(url).content.decode())
        assert f'id="{target}"' in page, field
    assert without <= _NO_FORM


@pytest.mark.parametrize(
    ("field", "side", "label"),
    [
        ("version", "a", "the IKE version of the tunnel"),
        ("preshared_keys", "", "the pre-shared key of the tunnel"),
        ("ike.exchange_mode", "a", "the exchange mode in IKE policy default"),
        ("ike.proposals[0].encryption", "a", "the proposals in IKE policy default"),
        ("children.pfs_groups", "a", "the PFS group in IPsec policy default"),
        ("children[1].pfs_groups", "a", "the PFS group in IPsec policy default"),
        ("local.identity", "a", "the identity of paris"),
        ("remote.identity", "a", "the identity of lyon"),
        ("local.identity", "b", "the identity of lyon"),
        ("remote.address", "b", "the address of paris"),
    ],
)
def test_words(tunnel: Tunnel, field: str, side: str, label: str) -> None:
    place = places.of(tunnel, field, side)
    assert place is not None
    assert place.label == label


@pytest.mark.parametrize("field", ["", "ppk", "ike.childless", "local.identity"])
def test_no_place(tunnel: Tunnel, field: str) -> None:
    assert places.of(tunnel, field, "") is None
