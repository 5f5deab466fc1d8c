"""What each value refuses, and what secrets, tokens and tables promise."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from agents.contract import algorithms
from agents.contract.config import (
    Child,
    Endpoint,
    Identity,
    IdentityType,
    IkeProposal,
    IpsecProposal,
    PresharedKey,
    Retransmission,
    TrafficSelector,
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

REFUSED: list[tuple[str, type, dict[str, Any]]] = [
    ("value", Identity, {"type": IdentityType.IPV4, "value": "2001:db8::1"}),
    ("value", Identity, {"type": IdentityType.IPV6, "value": "192.0.2.1"}),
    ("value", Identity, {"type": IdentityType.IPV6, "value": "2001:DB8::1"}),
    ("value", Identity, {"type": IdentityType.KEY_ID, "value": "abc"}),
    ("value", Identity, {"type": IdentityType.FQDN, "value": "two words"}),
    ("value", Identity, {"type": IdentityType.EMAIL, "value": ""}),
    ("address", Endpoint, {"address": "0.0.0.0", "identity": TUNNEL.local.identity}),
    ("address", Endpoint, {"address": "224.0.0.1", "identity": TUNNEL.local.identity}),
    ("address", Endpoint, {"address": "192.0.2.01", "identity": TUNNEL.local.identity}),
    ("network", TrafficSelector, {"network": "10.0.0.1/24"}),
    ("network", TrafficSelector, {"network": "10.0.0.0/255.0.0.0"}),
    ("protocol", TrafficSelector, {"network": "10.0.0.0/8", "protocol": 256}),
    ("end_port", TrafficSelector, {"network": "10.0.0.0/8", "start_port": 9, "end_port": 8}),
    ("integrity", IkeProposal, {"encryption": "aes-128-cbc", "prf": "prf-hmac-sha1", "group": "group-14"}),
    ("group", IkeProposal, {"encryption": "aes-128-gcm-16", "prf": "prf-hmac-sha1", "group": "group-2"}),
    ("prf", IkeProposal, {"encryption": "aes-128-gcm-16", "prf": "prf-hmac-md5", "group": "group-14"}),
    ("integrity", IpsecProposal, {"encryption": "aes-128-gcm-16", "integrity": "hmac-sha1-96"}),
    ("encryption", IpsecProposal, {"encryption": "rc5-cbc", "integrity": "hmac-sha1-96"}),
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
        ("pfs_groups", {"pfs_groups": ("group-1",)}),
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
    }
    assert sizes == {
        "aes-128-cbc": (12, 16, 16, 0),
        "aes-192-cbc": (12, 24, 16, 0),
        "aes-256-cbc": (12, 32, 16, 0),
        "aes-128-gcm-16": (20, 20, 8, 16),
        "aes-256-gcm-16": (20, 36, 8, 16),
        "chacha20-poly1305": (28, 36, 8, 16),
    }
    assert {row.number: (row.key_octets, row.icv_octets) for row in algorithms.INTEGRITY.values()} == {
        2: (20, 12),
        12: (32, 16),
        13: (48, 24),
        14: (64, 32),
    }
    assert {row.number for row in algorithms.KEY_EXCHANGE.values()} == {14, 15, 16, 19, 20, 21, 31}
    assert {row.number for row in algorithms.PSEUDO_RANDOM.values()} == {2, 5, 6, 7}


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
