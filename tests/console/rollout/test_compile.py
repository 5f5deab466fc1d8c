"""The compiler: one golden document, and two documents of one tunnel that mirror each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from agents.contract import codec, config
from agents.contract.errors import DocumentError
from agents.contract.secret import Secret
from vpnconsole.rollout.changes import differences
from vpnconsole.rollout.compile import compile_document
from vpnconsole.rollout.snapshot import (
    EndSnapshot,
    GatewaySnapshot,
    IkePolicySnapshot,
    IkeProposalSnapshot,
    IpsecPolicySnapshot,
    IpsecProposalSnapshot,
    SelectorSnapshot,
    TunnelSnapshot,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "rollout" / "document.json"
PARIS, LYON = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
TUNNEL = "00000000-0000-4000-8000-0000000000aa"
NONCE = "00112233445566778899aabbccddeeff"


def end(side: str, gateway_id: str, address: str, **changes: Any) -> EndSnapshot:
    values: dict[str, Any] = {"identity_type": "ipv4", "identity_value": address, "connection_type": "both", **changes}
    return EndSnapshot(side=side, gateway_id=gateway_id, address=address, **values)


def tunnel() -> TunnelSnapshot:
    return TunnelSnapshot(
        id=TUNNEL,
        name="paris-lyon",
        enabled=True,
        force_udp_encapsulation=False,
        add_routes=True,
        mtu=1400,
        end_a=end("a", PARIS, "192.0.2.1", connection_type="initiator-only"),
        end_b=end("b", LYON, "198.51.100.1", identity_type="fqdn", identity_value="lyon.example"),
        ike=IkePolicySnapshot(
            proposals=(
                IkeProposalSnapshot(
                    encryption="aes-256-gcm-16",
                    integrity=None,
                    prf="prf-hmac-sha2-384",
                    group="group-31",
                    additional_key_exchange="ml-kem-768",
                ),
                IkeProposalSnapshot(
                    encryption="aes-256-cbc", integrity="hmac-sha2-256-128", prf="prf-hmac-sha2-256", group="group-14"
                ),
            ),
            lifetime_s=28_800,
            dpd_interval_s=20,
            dpd_action="hold",
            reauth_s=14_400,
            reauthentication="break-before-make",
            keepalive_s=15,
            mobike=False,
            fragmentation=False,
            unique="keep",
        ),
        ipsec=IpsecPolicySnapshot(
            proposals=(
                IpsecProposalSnapshot(encryption="chacha20-poly1305", integrity=None),
                IpsecProposalSnapshot(encryption=None, integrity=None, ah_integrity="hmac-md5-96"),
            ),
            pfs_group="group-19",
            lifetime_s=1_800,
            lifetime_bytes=1_000_000,
            replay_window=128,
            lifetime_packets=1_000,
            mode="transport",
            sequence_numbers="extended",
            ipcomp=True,
        ),
        selectors=(
            SelectorSnapshot(
                seq=1,
                network_a="10.1.0.0/24",
                network_b="10.2.0.0/24",
                protocol=0,
                ports_a=(0, 65535),
                ports_b=(0, 65535),
            ),
            SelectorSnapshot(
                seq=3,
                network_a="10.1.9.0/24",
                network_b="10.2.9.0/24",
                protocol=6,
                ports_a=(0, 65535),
                ports_b=(443, 443),
            ),
        ),
        psk=Secret(b"not much of a secret"),
    )


def gateway(gateway_id: str, name: str, *tunnels: TunnelSnapshot) -> GatewaySnapshot:
    return GatewaySnapshot(id=gateway_id, name=name, data_plane="auto", allow_legacy=True, tunnels=tunnels)


def test_document_is_the_golden_one() -> None:
    document = compile_document(gateway(PARIS, "paris", tunnel()), generation=7, nonce=NONCE)
    assert codec.encode(document) == GOLDEN.read_bytes().rstrip(b"\n")


def test_legacy_algorithms_need_the_gateways_leave() -> None:
    snapshot = dataclasses.replace(gateway(PARIS, "paris", tunnel()), allow_legacy=False)
    with pytest.raises(DocumentError, match="legacy") as caught:
        compile_document(snapshot, generation=7, nonce=NONCE)
    assert caught.value.path == "tunnels[0].children[0].proposals[1].ah_integrity"


def test_two_ends_mirror_each_other() -> None:
    paris = compile_document(gateway(PARIS, "paris", tunnel()), generation=1, nonce=NONCE).tunnels[0]
    lyon = compile_document(gateway(LYON, "lyon", tunnel()), generation=1, nonce=NONCE).tunnels[0]
    assert (paris.local, paris.remote) == (lyon.remote, lyon.local)
    assert paris.ike == lyon.ike
    for here, there in zip(paris.children, lyon.children, strict=True):
        assert here.name == there.name
        assert (here.local_ts, here.remote_ts) == (there.remote_ts, there.local_ts)
        assert here.proposals == there.proposals
    assert paris.children[1].remote_ts[0].start_port == 443
    assert lyon.children[1].local_ts[0].start_port == 443
    assert paris.connection_type == "initiator-only"
    assert lyon.connection_type == "both"


def test_each_tunnel_brings_its_key_with_the_pair_it_belongs_to() -> None:
    other = dataclasses.replace(
        tunnel(),
        id="00000000-0000-4000-8000-0000000000bb",
        name="second",
        end_a=end("a", PARIS, "192.0.2.2"),
        psk=Secret(b"another secret"),
    )
    document = compile_document(gateway(PARIS, "paris", tunnel(), other), generation=1, nonce=NONCE)
    pairs = {key.local_address: (key.remote_address, key.secret) for key in document.preshared_keys}
    assert pairs == {
        "192.0.2.1": ("198.51.100.1", Secret(b"not much of a secret")),
        "192.0.2.2": ("198.51.100.1", Secret(b"another secret")),
    }


def test_impossible_value_names_tunnel_and_field() -> None:
    broken = dataclasses.replace(tunnel(), mtu=100)
    with pytest.raises(DocumentError) as caught:
        compile_document(gateway(PARIS, "paris", tunnel(), broken), generation=1, nonce=NONCE)
    assert caught.value.path == "tunnels[1].mtu"
    assert "paris-lyon" in caught.value.problem


def test_tunnel_of_other_gateways_is_refused() -> None:
    with pytest.raises(DocumentError, match="neither end"):
        compile_document(gateway("00000000-0000-4000-8000-000000000003", "nice", tunnel()), generation=1, nonce=NONCE)


def test_differences_name_fields_and_never_a_secret() -> None:
    old = compile_document(gateway(PARIS, "paris", tunnel()), generation=1, nonce=NONCE)
    edited = dataclasses.replace(
        tunnel(),
        mtu=None,
        psk=Secret(b"the next secret"),
        end_b=end("b", LYON, "198.51.100.7"),
        ipsec=dataclasses.replace(tunnel().ipsec, lifetime_s=900),
        selectors=tunnel().selectors[:1],
    )
    new = compile_document(gateway(PARIS, "paris", edited), generation=2, nonce=NONCE[::-1])
    (change,) = differences(old, new)
    assert change.action == "changed"
    assert change.subject == "tunnel paris-lyon"
    lines = "\n".join(change.details)
    assert "MTU: 1400 → none" in lines
    assert "other end address: 198.51.100.1 → 198.51.100.7" in lines
    assert "selector pairs pair-3: removed (10.1.9.0/24 ↔ 10.2.9.0/24)" in lines
    assert "selector pairs pair-1 lifetime (s): 1800 → 900" in lines
    assert "pre-shared key: changed" in lines
    assert "secret" not in lines
    assert differences(old, dataclasses.replace(old, generation=9, nonce=NONCE[::-1])) == ()


def test_differences_name_what_comes_and_goes() -> None:
    one = compile_document(gateway(PARIS, "paris", tunnel()), generation=1, nonce=NONCE)
    other = dataclasses.replace(tunnel(), id="00000000-0000-4000-8000-0000000000bb", name="second")
    two = compile_document(gateway(PARIS, "paris", other), generation=2, nonce=NONCE)
    assert [str(change) for change in differences(one, two)] == ["tunnel paris-lyon removed", "tunnel second added"]
    assert [str(change) for change in differences(None, one)] == ["tunnel paris-lyon added"]
    userspace = compile_document(
        dataclasses.replace(gateway(PARIS, "paris", tunnel()), data_plane="userspace"), generation=2, nonce=NONCE
    )
    assert [str(change) for change in differences(one, userspace)] == [
        "gateway settings changed: data plane: auto → userspace"
    ]


def test_version_mode_and_kilobytes_are_passed_on() -> None:
    plain = tunnel()
    ike = dataclasses.replace(
        plain.ike, proposals=plain.ike.proposals[1:], exchange_mode="aggressive", lifetime_kilobytes=5_000
    )
    esp = IpsecProposalSnapshot(encryption="aes-256-cbc", integrity="hmac-sha2-256-128")
    old = dataclasses.replace(plain, version="v1", ike=ike, ipsec=dataclasses.replace(plain.ipsec, proposals=(esp,)))
    for gateway_id, name in ((PARIS, "paris"), (LYON, "lyon")):
        (built,) = compile_document(gateway(gateway_id, name, old), generation=7, nonce=NONCE).tunnels
        assert (built.version, built.ike.exchange_mode, built.ike.lifetime_kilobytes) == ("v1", "aggressive", 5_000)


def test_what_ikev1_cannot_do_is_refused_with_its_field() -> None:
    old = dataclasses.replace(tunnel(), version="v1")
    with pytest.raises(DocumentError, match=r"CBC mode \(tunnel paris-lyon\)") as caught:
        compile_document(gateway(PARIS, "paris", old), generation=7, nonce=NONCE)
    assert caught.value.path == "tunnels[0].ike.proposals[0].encryption"


def test_the_preview_says_how_ikev1_finds_the_key() -> None:
    plain = tunnel()
    ike = dataclasses.replace(plain.ike, proposals=plain.ike.proposals[1:])
    esp = IpsecProposalSnapshot(encryption="aes-256-cbc", integrity="hmac-sha2-256-128")
    old = dataclasses.replace(plain, ike=ike, ipsec=dataclasses.replace(plain.ipsec, proposals=(esp,)))

    def built(version: str) -> config.GatewayDocument:
        row = dataclasses.replace(old, version=version)
        return compile_document(gateway(PARIS, "paris", row), generation=7, nonce=NONCE)

    (added,) = differences(None, built("v1"))
    assert "the pair of addresses 192.0.2.1 and 198.51.100.1; the identity is not known yet" in added.remark
    (changed,) = differences(built("v2"), built("v2-else-v1"))
    assert changed.details == ("IKE version: v2 → v2-else-v1",)
    assert changed.remark == added.remark
    (back,) = differences(built("v1"), built("v2"))
    assert back.remark == ""
