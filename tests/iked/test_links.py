from __future__ import annotations

import dataclasses

import pytest

from agents.contract.carriage import Attachment, Carriage, Context
from agents.contract.config import ConnectionType, Endpoint, IpsecProposal, TunnelKind
from agents.dataplane.mtu import inner_mtu, manual_mtu
from agents.dataplane.outer import path_mtu
from agents.iked.links import link_name, manual_link, tables, tunnel_link

from .cast import AH_SHA1, CBC_SHA1, manual, manual_child, tunnel, uid

V4 = ("192.0.2.1", "192.0.2.2")


@pytest.mark.parametrize(
    ("encryption", "integrity", "expected"),
    [
        # 1500 - 20 - 8 (UDP) - 8 (ESP) = 1464; less IV and ICV, down to the alignment, less two octets of trailer
        ("aes-128-gcm-16", None, 1440 - 2),
        ("chacha20-poly1305", None, 1440 - 2),
        ("aes-256-cbc", "hmac-sha2-256-128", 1424 - 2),  # 1464 - 16 - 16 = 1432, 89 blocks of 16
        ("aes-256-cbc", "hmac-sha2-512-256", 1408 - 2),  # 1464 - 16 - 32 = 1416, 88 blocks of 16
        ("aes-128-cbc", "hmac-sha1-96", 1424 - 2),
    ],
)
def test_the_largest_inner_packet_of_each_suite(encryption: str, integrity: str | None, expected: int) -> None:
    proposal = IpsecProposal(encryption=encryption, integrity=integrity)
    assert inner_mtu(tunnel("t", *V4, esp=(proposal,)), 1_500) == expected


def test_the_worst_of_several_suites_counts() -> None:
    suites = (
        IpsecProposal(encryption="aes-128-gcm-16"),
        IpsecProposal(encryption="aes-128-cbc", integrity="hmac-sha1-96"),
    )
    assert inner_mtu(tunnel("t", *V4, esp=suites), 1_500) == 1_422


def test_a_narrow_path_never_goes_below_what_ip_demands() -> None:
    assert inner_mtu(tunnel("t", *V4), 500) == 576
    inner_v6 = tunnel("t", *V4, local_ts="2001:db8:1::/64", remote_ts="2001:db8:2::/64")
    assert inner_mtu(inner_v6, 1_280) == 1_280


def test_the_document_wins() -> None:
    assert tunnel_link(tunnel("t", *V4, mtu=1_234), {}).mtu == 1_234
    assert manual_link(dataclasses.replace(manual("m", *V4), mtu=1_234), {}).mtu == 1_234


def test_the_route_says_the_outer_mtu_and_no_route_means_ethernet() -> None:
    assert path_mtu("127.0.0.1", "127.0.0.2") == 9_000  # loopback has 65536, which is more than we count on
    assert path_mtu("203.0.113.77", "203.0.113.78") == 1_500


def test_the_name_is_that_of_the_tunnels_id() -> None:
    assert link_name(uid("t")) == f"vpn{uid('t')[:8]}"


def test_the_peers_of_an_on_demand_tunnel_have_no_route_to_look_at() -> None:
    """Connecting to 0.0.0.0 would ask for the MTU of the loopback."""
    static = tunnel("t", *V4)
    anywhere = Endpoint(address="0.0.0.0", identity=static.remote.identity)
    roaming = dataclasses.replace(
        static, remote=anywhere, kind=TunnelKind.ON_DEMAND, connection_type=ConnectionType.RESPONDER_ONLY
    )
    link = tunnel_link(roaming, {})
    assert (link.mtu, link.local, link.remote) == (1_438, V4[0], None)


def test_the_carriage_is_the_links() -> None:
    contexts = tables((Context(name="blue", table=100), Context(name="red", table=200)))
    carriage = Carriage(attachment=Attachment.INTERFACE, queues=4, rate_kbps=800, context="red")
    for link in (
        tunnel_link(dataclasses.replace(tunnel("t", *V4), carriage=carriage), contexts),
        manual_link(dataclasses.replace(manual("t", *V4), carriage=carriage), contexts),
    ):
        assert (link.attachment, link.queues, link.rate_kbps, link.table) == (Attachment.INTERFACE, 4, 800, 200)
        assert (link.local, link.remote, link.name) == (*V4, link_name(uid("t")))
    assert tunnel_link(tunnel("t", *V4), contexts).table is None


def test_manual_keys_are_never_inside_udp() -> None:
    # 1500 - 20 - 8 (ESP) - 16 (IV) - 12 (ICV) = 1444, 90 blocks of 16; AH alone takes 16 + 12
    assert manual_mtu(manual("m", *V4), 1_500) == 1_440 - 2
    assert manual_mtu(manual("m", *V4, children=(manual_child(sa=AH_SHA1),)), 1_500) == 1_500 - 20 - (12 + 12)
    both = dataclasses.replace(CBC_SHA1, ah_spi=0x5000, ah_integrity=AH_SHA1.ah_integrity, ah_key=AH_SHA1.ah_key)
    assert manual_mtu(manual("m", *V4, children=(manual_child(sa=both),)), 1_500) == 1_408 - 2
