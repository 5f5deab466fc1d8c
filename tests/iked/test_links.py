from __future__ import annotations

import pytest

from agents.contract.config import IpsecProposal
from agents.iked.links import inner_mtu, link_name, path_mtu, tunnel_link

from .cast import tunnel, uid

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
    assert tunnel_link(tunnel("t", *V4, mtu=1_234)).mtu == 1_234


def test_the_route_says_the_outer_mtu_and_no_route_means_ethernet() -> None:
    assert path_mtu("127.0.0.1", "127.0.0.2") == 9_000  # loopback has 65536, which is more than we count on
    assert path_mtu("203.0.113.77", "203.0.113.78") == 1_500


def test_the_name_is_that_of_the_tunnels_id() -> None:
    assert link_name(uid("t")) == f"vpn{uid('t')[:8]}"
