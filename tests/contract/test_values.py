"""What each value refuses, and what secrets, tokens and tables promise."""

from __future__ import annotations

import dataclasses
import pickle
import re
from typing import Any

import pytest

from agents.contract import algorithms
from agents.contract.config import (
    AuthKind,
    Certificate,
    Child,
    Endpoint,
    ExchangeMode,
    GatewayDocument,
    Identity,
    IdentityType,
    IkePolicy,
    IkeProposal,
    IkeVersion,
    IpsecProposal,
    LocalAuthentication,
    PostquantumKey,
    PresharedKey,
    RemoteAuthentication,
    Retransmission,
    TrafficSelector,
    TrustAnchor,
    Tunnel,
)
from agents.contract.enrolment import EnrolmentGrant, Token, prove, proven
from agents.contract.errors import FieldError
from agents.contract.events import KINDS, Event, Severity
from agents.contract.secret import Secret
from agents.contract.status import Counters
from tests.contract.values import GATEWAY_DOCUMENT, SIGNED_GRANT, SIGNED_REQUEST

TUNNEL = GATEWAY_DOCUMENT.tunnels[0]
CHILD = TUNNEL.children[0]
MODERN = dataclasses.replace(
    TUNNEL,
    version=IkeVersion.V2,
    ike=dataclasses.replace(
        TUNNEL.ike, proposals=(IkeProposal(encryption="aes-256-gcm-16", prf="prf-hmac-sha2-256", group="group-31"),)
    ),
    children=(dataclasses.replace(CHILD, proposals=(IpsecProposal(encryption="aes-256-gcm-16"),)),),
)


def replace_ike(**proposal: Any) -> Tunnel:
    """Return the modern tunnel with this one IKE proposal."""
    return dataclasses.replace(MODERN, ike=dataclasses.replace(MODERN.ike, proposals=(IkeProposal(**proposal),)))


def vars_of(value: Any) -> dict[str, Any]:
    """Return a value's fields."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


REFUSED: list[tuple[str, type, dict[str, Any]]] = [
    ("value", Identity, {"type": IdentityType.IPV4, "value": "2001:db8::1"}),
    ("value", Identity, {"type": IdentityType.IPV6, "value": "192.0.2.1"}),
    ("value", Identity, {"type": IdentityType.IPV6, "value": "2001:DB8::1"}),
    ("value", Identity, {"type": IdentityType.KEY_ID, "value": "abc"}),
    ("value", Identity, {"type": IdentityType.FQDN, "value": "two words"}),
    ("value", Identity, {"type": IdentityType.EMAIL, "value": ""}),
    ("address", Endpoint, {"address": "224.0.0.1", "identity": TUNNEL.local.identity}),
    ("address", Endpoint, {"address": "192.0.2.01", "identity": TUNNEL.local.identity}),
    ("network", TrafficSelector, {"network": "10.0.0.1/24"}),
    ("network", TrafficSelector, {"network": "10.0.0.0/255.0.0.0"}),
    ("protocol", TrafficSelector, {"network": "10.0.0.0/8", "protocol": 256}),
    ("end_port", TrafficSelector, {"network": "10.0.0.0/8", "start_port": 9, "end_port": 8}),
    ("integrity", IkeProposal, {"encryption": "aes-128-cbc", "prf": "prf-hmac-sha1", "group": "group-14"}),
    ("group", IkeProposal, {"encryption": "aes-128-gcm-16", "prf": "prf-hmac-sha1", "group": "group-3"}),
    ("prf", IkeProposal, {"encryption": "aes-128-gcm-16", "prf": "prf-tiger", "group": "group-14"}),
    ("integrity", IpsecProposal, {"encryption": "aes-128-gcm-16", "integrity": "hmac-sha1-96"}),
    ("encryption", IpsecProposal, {"encryption": "rc5-cbc", "integrity": "hmac-sha1-96"}),
    ("encryption", IpsecProposal, {}),
    ("integrity", IpsecProposal, {"integrity": "hmac-sha1-96"}),
    ("ah_integrity", IpsecProposal, {"ah_integrity": "aes-128-gmac"}),
    ("encryption", IkeProposal, {"encryption": "aes-128-gmac", "prf": "prf-hmac-sha1", "group": "group-14"}),
    ("group", IkeProposal, {"encryption": "aes-128-gcm-16", "prf": "prf-hmac-sha1", "group": "ml-kem-768"}),
    (
        "additional_key_exchanges",
        IkeProposal,
        {
            "encryption": "aes-128-gcm-16",
            "prf": "prf-hmac-sha1",
            "group": "group-14",
            "additional_key_exchanges": ("group-14",),
        },
    ),
    ("value", Identity, {"type": IdentityType.ANY, "value": "x"}),
    ("value", Identity, {"type": IdentityType.DN, "value": "gw.example.org"}),
    ("more_addresses[0]", Endpoint, {**vars_of(TUNNEL.local), "more_addresses": ("ff02::1",)}),
    ("more_addresses", Endpoint, {**vars_of(TUNNEL.local), "more_addresses": (TUNNEL.local.address,)}),
    ("certificate", LocalAuthentication, {"kind": AuthKind.CERTIFICATE}),
    ("certificate", LocalAuthentication, {"certificate": "x"}),
    ("signatures", LocalAuthentication, {"signatures": ("rsa-md5",)}),
    ("chain[0]", Certificate, {"id": "x", "chain": ("not Base64",)}),
    ("certificate", TrustAnchor, {"id": "x", "certificate": "QQ==\n"}),
    ("id", PostquantumKey, {"id": "", "secret": Secret(b"k")}),
    ("secret", PresharedKey, {"id": "x", "secret": Secret(b"")}),
    ("remote_address", PresharedKey, {"id": "x", "secret": Secret(b"k"), "remote_address": "any"}),
    ("tries", Retransmission, {"tries": 0}),
    ("factor", Retransmission, {"factor": 0.5}),
]


@pytest.mark.parametrize(("field", "kind", "values"), REFUSED)
def test_an_impossible_value_is_refused_by_its_field(field: str, kind: type, values: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        kind(**values)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": "Paris Lyon"}),
        ("id", {"id": "A1B2C3D4-5E6F-4A7B-8C9D-0E1F2A3B4C5D"}),
        ("children", {"children": ()}),
        ("children", {"children": (CHILD, CHILD)}),
        ("remote", {"remote": GATEWAY_DOCUMENT.tunnels[1].remote}),
        ("remote", {"remote": TUNNEL.local}),
        ("mtu", {"mtu": 100}),
    ],
)
def test_an_impossible_tunnel_is_refused(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        dataclasses.replace(TUNNEL, **changes)
    assert caught.value.field == field
    assert isinstance(TUNNEL, Tunnel)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("remote_ts", {"remote_ts": (TrafficSelector(network="fd00::/8"),)}),
        ("pfs_groups", {"pfs_groups": ("group-4",)}),
        ("lifetime_s", {"lifetime_s": 1}),
        ("proposals", {"proposals": ()}),
        ("replay_window", {"replay_window": 4_097}),
    ],
)
def test_an_impossible_child_is_refused(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        dataclasses.replace(CHILD, **changes)
    assert caught.value.field == field
    assert isinstance(CHILD, Child)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("generation", {"generation": 0}),
        ("nonce", {"nonce": "xyz"}),
        ("tunnels", {"tunnels": (TUNNEL, TUNNEL)}),
        ("preshared_keys", {"preshared_keys": GATEWAY_DOCUMENT.preshared_keys[:1] * 2}),
    ],
)
def test_an_impossible_document_is_refused(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        dataclasses.replace(GATEWAY_DOCUMENT, **changes)
    assert caught.value.field == field


def test_a_secret_shows_nowhere() -> None:
    secret = Secret(b"hunter2")
    for text in (repr(secret), str(secret), f"{secret}", repr(PresharedKey(id="x", secret=secret))):
        assert "hunter2" not in text
        assert "68756e" not in text
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret == Secret(b"hunter2")
    assert secret != Secret(b"hunter3")
    assert secret != b"hunter2"
    assert {secret: 1}[Secret(b"hunter2")] == 1


def test_a_token_reads_what_it_writes_and_repeats_nothing_it_refuses() -> None:
    token = Token(id="0123456789abcdef", secret=Secret(bytes(32)))
    assert Token.parse(f" {token.text()}\n") == token
    for wrong in ("", "vpc1.0123456789abcdef.short", token.text().upper(), token.text() + "A"):
        with pytest.raises(FieldError) as caught:
            Token.parse(wrong)
        assert not wrong or wrong not in str(caught.value)


def test_a_proof_holds_for_one_message_of_one_kind_and_one_secret() -> None:
    secret, other = Secret(b"a" * 32), Secret(b"b" * 32)
    request, grant = SIGNED_REQUEST.request, SIGNED_GRANT.grant
    proof = prove(secret, request)
    assert proven(secret, request, proof)
    assert not proven(other, request, proof)
    assert not proven(secret, dataclasses.replace(request, agent_port=1), proof)
    assert not proven(secret, grant, proof)
    assert not proven(secret, request, "ü")
    assert isinstance(grant, EnrolmentGrant)


def test_the_algorithms_have_the_sizes_of_their_rfcs() -> None:
    sizes = {
        row.slug: (row.number, row.keymat_octets, row.iv_octets, row.icv_octets)
        for row in algorithms.ENCRYPTION.values()
        if "-192-" not in row.slug and "-256-" not in row.slug
    }
    assert sizes == {
        "aes-128-cbc": (12, 16, 16, 0),
        "aes-128-ctr": (13, 20, 8, 0),
        "aes-128-ccm-8": (14, 19, 8, 8),
        "aes-128-ccm-12": (15, 19, 8, 12),
        "aes-128-ccm-16": (16, 19, 8, 16),
        "aes-128-gcm-8": (18, 20, 8, 8),
        "aes-128-gcm-12": (19, 20, 8, 12),
        "aes-128-gcm-16": (20, 20, 8, 16),
        "aes-128-gmac": (21, 20, 8, 16),
        "camellia-128-cbc": (23, 16, 16, 0),
        "chacha20-poly1305": (28, 36, 8, 16),
        "null": (11, 0, 0, 0),
        "3des-cbc": (3, 24, 8, 0),
        "des-cbc": (2, 8, 8, 0),
    }
    for row in algorithms.ENCRYPTION.values():
        if row.key_length_attribute:
            shortest = algorithms.ENCRYPTION[re.sub("-(192|256)", "-128", row.slug)]
            assert (row.number, row.iv_octets, row.icv_octets) == (
                shortest.number,
                shortest.iv_octets,
                shortest.icv_octets,
            )
            assert f"-{8 * row.key_octets}" in row.slug
    assert {row.number: (row.key_octets, row.icv_octets) for row in algorithms.INTEGRITY.values()} == {
        1: (16, 12),
        2: (20, 12),
        5: (16, 12),
        8: (16, 12),
        12: (32, 16),
        13: (48, 24),
        14: (64, 32),
    }
    assert {row.number: row.output_octets for row in algorithms.PSEUDO_RANDOM.values()} == {
        1: 16,
        2: 20,
        4: 16,
        5: 32,
        6: 48,
        7: 64,
        8: 16,
    }
    assert {row.number: row.public_octets for row in algorithms.KEY_EXCHANGE.values()} == {
        **{1: 96, 2: 128, 5: 192, 14: 256, 15: 384, 16: 512, 17: 768, 18: 1024, 22: 128, 23: 256, 24: 256},
        **{19: 64, 20: 96, 21: 132, 27: 56, 28: 64, 29: 96, 30: 128, 31: 32, 32: 56, 36: 1184, 37: 1568},
    }


LEGACY = {"des-cbc", "3des-cbc", "null", "hmac-md5-96", "prf-hmac-md5", "group-1", "group-2", "group-5", "group-22"}


def test_the_legacy_shelf_has_a_warning_on_each() -> None:
    tables = (algorithms.ENCRYPTION, algorithms.INTEGRITY, algorithms.PSEUDO_RANDOM, algorithms.KEY_EXCHANGE)
    legacy = [row for table in tables for row in table.values() if row.legacy]
    assert {row.slug for row in legacy} == LEGACY
    assert all(row.weakness for row in legacy)


@pytest.mark.parametrize(
    ("path", "tunnel"),
    [
        (
            "tunnels[0].ike.proposals[0].encryption",
            replace_ike(encryption="3des-cbc", integrity="hmac-sha1-96", prf="prf-hmac-sha1", group="group-14"),
        ),
        (
            "tunnels[0].ike.proposals[0].group",
            replace_ike(encryption="aes-128-gcm-16", prf="prf-hmac-sha1", group="group-2"),
        ),
        (
            "tunnels[0].children[0].proposals[0].ah_integrity",
            dataclasses.replace(
                MODERN, children=(dataclasses.replace(CHILD, proposals=(IpsecProposal(ah_integrity="hmac-md5-96"),)),)
            ),
        ),
        (
            "tunnels[0].children[0].pfs_groups",
            dataclasses.replace(MODERN, children=(dataclasses.replace(CHILD, pfs_groups=("group-5",)),)),
        ),
    ],
)
def test_legacy_algorithms_are_taken_only_where_the_gateway_allows_them(path: str, tunnel: Tunnel) -> None:
    with pytest.raises(FieldError, match="legacy") as caught:
        dataclasses.replace(GATEWAY_DOCUMENT, allow_legacy=False, tunnels=(tunnel,), manual_tunnels=())
    assert caught.value.field == path
    dataclasses.replace(GATEWAY_DOCUMENT, allow_legacy=True, tunnels=(tunnel,))


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("tunnels[0].local_auth.certificate", {"certificates": ()}),
        ("tunnels[0].remote_auth.trust_anchors", {"trust_anchors": ()}),
        ("tunnels[0].remote_auth.trust_anchors", {"trust_anchors": (TrustAnchor(id="other", certificate="QQ=="),)}),
        ("tunnels[0].ppk", {"postquantum_keys": ()}),
    ],
)
def test_what_a_tunnel_names_must_be_in_the_document(path: str, changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        dataclasses.replace(GATEWAY_DOCUMENT, **changes)
    assert caught.value.field == path


CBC = IkeProposal(encryption="aes-128-cbc", integrity="hmac-sha1-96", prf="prf-hmac-sha1", group="group-14")
GCM = IkeProposal(encryption="aes-256-gcm-16", prf="prf-hmac-sha2-256", group="group-14")
ESP_CBC = IpsecProposal(encryption="aes-128-cbc", integrity="hmac-sha1-96")
ESP_CHACHA = IpsecProposal(encryption="chacha20-poly1305")


def v1_tunnel(
    *ike: IkeProposal,
    version: IkeVersion = IkeVersion.V1,
    esp: tuple[IpsecProposal, ...] = (ESP_CBC,),
    pfs: tuple[str, ...] = (),
    **changes: Any,
) -> Tunnel:
    """Return a tunnel that speaks IKEv1 and has nothing that keeps it from doing so, but for the changes."""
    plain: dict[str, Any] = {
        "version": version,
        "ike": IkePolicy(proposals=ike or (CBC,)),
        "children": (dataclasses.replace(GATEWAY_DOCUMENT.tunnels[1].children[0], proposals=esp, pfs_groups=pfs),),
    }
    return dataclasses.replace(GATEWAY_DOCUMENT.tunnels[1], **{**plain, **changes})


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("encryption", {"encryption": "aes-128-ctr"}),
        ("encryption", {"encryption": "chacha20-poly1305", "integrity": None}),
        ("prf", {"prf": "prf-aes128-xcbc", "integrity": "aes-xcbc-96"}),
        ("integrity", {"integrity": "hmac-sha2-256-128"}),
        ("integrity", {"encryption": "aes-128-cbc", "prf": "prf-hmac-sha2-512"}),
        ("group", {"group": "group-31"}),
        ("additional_key_exchanges", {"additional_key_exchanges": ("ml-kem-768",)}),
    ],
)
def test_a_suite_that_ikev1_has_no_number_for_is_refused_in_phase_1(field: str, changes: dict[str, Any]) -> None:
    odd = dataclasses.replace(CBC, **changes)
    for version, ike, index in ((IkeVersion.V1, (CBC, odd), 1), (IkeVersion.V2_ELSE_V1, (odd,), 0)):
        with pytest.raises(FieldError) as caught:
            v1_tunnel(*ike, version=version)
        assert caught.value.field == f"ike.proposals[{index}].{field}"
    v1_tunnel(odd, version=IkeVersion.V2)
    v1_tunnel(odd, CBC, version=IkeVersion.V2_ELSE_V1)


@pytest.mark.parametrize(
    ("field", "odd"),
    [
        ("encryption", ESP_CHACHA),
        ("integrity", IpsecProposal(encryption="aes-128-cbc", integrity="aes-cmac-96")),
        ("ah_integrity", IpsecProposal(ah_integrity="aes-cmac-96")),
    ],
)
def test_a_suite_that_ikev1_has_no_number_for_is_refused_in_phase_2(field: str, odd: IpsecProposal) -> None:
    for version, esp, index in ((IkeVersion.V1, (ESP_CBC, odd), 1), (IkeVersion.V2_ELSE_V1, (odd,), 0)):
        with pytest.raises(FieldError) as caught:
            v1_tunnel(version=version, esp=esp)
        assert caught.value.field == f"children[0].proposals[{index}].{field}"
    v1_tunnel(version=IkeVersion.V2, esp=(odd,))
    v1_tunnel(version=IkeVersion.V2_ELSE_V1, esp=(odd, ESP_CBC))


def test_pfs_groups_need_a_number_in_ikev1() -> None:
    for version, groups in (
        (IkeVersion.V1, ("group-14", "group-31")),
        (IkeVersion.V1, ("group-31",)),
        (IkeVersion.V2_ELSE_V1, ("group-31", "group-32")),
    ):
        with pytest.raises(FieldError) as caught:
            v1_tunnel(version=version, pfs=groups)
        assert caught.value.field == "children[0].pfs_groups"
    v1_tunnel(version=IkeVersion.V2_ELSE_V1, pfs=("group-31", "group-14"))
    v1_tunnel(version=IkeVersion.V2, pfs=("group-31",))


def test_pairs_of_selectors_are_bounded_where_each_is_an_exchange() -> None:
    child = dataclasses.replace(GATEWAY_DOCUMENT.tunnels[1].children[0], proposals=(ESP_CBC,), pfs_groups=())
    networks = [TrafficSelector(network=f"10.{number}.0.0/16") for number in range(13)]
    for local, remote, fits in ((8, 8, True), (5, 13, False)):
        wide = dataclasses.replace(child, local_ts=tuple(networks[:local]), remote_ts=tuple(networks[:remote]))
        v1_tunnel(version=IkeVersion.V2, children=(wide,))
        if fits:
            v1_tunnel(children=(wide,))
            continue
        with pytest.raises(FieldError) as caught:
            v1_tunnel(children=(wide,))
        assert caught.value.field == "children[0].local_ts"


def test_ikev1_has_one_method_for_both_ends_and_no_post_quantum_keys() -> None:
    mixed = RemoteAuthentication(kind=AuthKind.CERTIFICATE)
    for version in (IkeVersion.V1, IkeVersion.V2_ELSE_V1):
        with pytest.raises(FieldError) as caught:
            v1_tunnel(version=version, remote_auth=mixed)
        assert caught.value.field == "remote_auth.kind"
    v1_tunnel(version=IkeVersion.V2, remote_auth=mixed)
    with pytest.raises(FieldError) as caught:
        v1_tunnel(ppk="ppk-1")
    assert caught.value.field == "ppk"
    v1_tunnel(version=IkeVersion.V2_ELSE_V1, ppk="ppk-1")


@pytest.mark.parametrize("side", ["local_ts", "remote_ts"])
@pytest.mark.parametrize(
    ("ports", "said"),
    [((0, 65_535), True), ((443, 443), True), ((0, 0), False), ((80, 443), False), ((1, 65_535), False)],
)
def test_ikev1_can_say_one_port_or_all_of_them(side: str, ports: tuple[int, int], said: bool) -> None:
    odd = TrafficSelector(network="fd03::/64", protocol=6, start_port=ports[0], end_port=ports[1])
    plain = v1_tunnel().children[0]

    def tunnel(version: IkeVersion, *selectors: TrafficSelector) -> Tunnel:
        changed: dict[str, Any] = {side: selectors}
        return v1_tunnel(version=version, children=(dataclasses.replace(plain, **changed),))

    refused = [(IkeVersion.V1, (*plain.local_ts, odd)), (IkeVersion.V2_ELSE_V1, (odd,))]
    for version, selectors in refused:
        if said:
            tunnel(version, *selectors)
            continue
        with pytest.raises(FieldError, match="IKEv1 has no way to say port") as caught:
            tunnel(version, *selectors)
        assert caught.value.field == f"children[0].{side}"
    tunnel(IkeVersion.V2, odd)
    tunnel(IkeVersion.V2_ELSE_V1, *plain.local_ts, odd)


def with_two_keys(**changes: Any) -> GatewayDocument:
    """Return a document with two tunnels between the same two hosts whose identities have a key of their own each."""
    first = v1_tunnel()
    remote = dataclasses.replace(first.remote, identity=Identity(type=IdentityType.FQDN, value="two.example.org"))
    second = dataclasses.replace(
        first, id="c3d4e5f6-7a8b-4c9d-8e1f-2a3b4c5d6e7f", name="paris-two", **{"remote": remote, **changes}
    )
    keys = (
        PresharedKey(id="one", secret=Secret(b"one"), remote_identity=first.remote.identity),
        PresharedKey(id="two", secret=Secret(b"two"), remote_identity=remote.identity),
    )
    return dataclasses.replace(GATEWAY_DOCUMENT, preshared_keys=keys, tunnels=(first, second))


def test_two_keys_between_the_same_two_addresses_are_refused_in_main_mode() -> None:
    with pytest.raises(FieldError, match="tunnel paris-six has another pre-shared key") as caught:
        with_two_keys()
    assert caught.value.field == "tunnels[1].ike.exchange_mode"
    with pytest.raises(FieldError):
        with_two_keys(version=IkeVersion.V2_ELSE_V1)


@pytest.mark.parametrize(
    "changes",
    [
        {"enabled": False},
        {"version": IkeVersion.V2},
        {"ike": IkePolicy(proposals=(CBC,), exchange_mode=ExchangeMode.AGGRESSIVE)},
        {"local": dataclasses.replace(GATEWAY_DOCUMENT.tunnels[1].local, address="2001:db8::9")},
        {"remote": GATEWAY_DOCUMENT.tunnels[1].remote},
        {
            "local_auth": LocalAuthentication(kind=AuthKind.CERTIFICATE, certificate="gateway-2026"),
            "remote_auth": RemoteAuthentication(kind=AuthKind.CERTIFICATE),
        },
    ],
    ids=["disabled", "v2", "aggressive", "another-address", "same-key", "certificates"],
)
def test_two_keys_between_two_addresses_are_taken_where_something_tells_them_apart(changes: dict[str, Any]) -> None:
    assert len(with_two_keys(**changes).tunnels) == 2


def test_every_error_says_what_to_do() -> None:
    for kind in KINDS.values():
        assert kind.summary
        if kind.severity is Severity.ERROR:
            assert kind.action, kind.code


def test_an_event_is_bounded() -> None:
    with pytest.raises(FieldError):
        Event(sequence=1, time=0, code="agent.started", severity=Severity.INFO, message="x" * 2_001)
    with pytest.raises(FieldError):
        Event(sequence=-1, time=0, code="agent.started", severity=Severity.INFO, message="x")


def test_counters_add() -> None:
    one = Counters(bytes_in=1, bytes_out=2, packets_in=3, packets_out=4)
    assert one + one == Counters(bytes_in=2, bytes_out=4, packets_in=6, packets_out=8)
