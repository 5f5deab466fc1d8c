"""On-demand and manual tunnels, carriage, contexts: what the contract refuses, and beside which field."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agents.contract.carriage import Carriage, Context, StaticRoute
from agents.contract.config import ConnectionType, ExchangeMode, GatewayDocument, IkeVersion, Tunnel
from agents.contract.errors import FieldError
from agents.contract.manual import ManualChild, ManualSa, ManualTunnel
from agents.contract.secret import Secret
from agents.contract.traffic import TrafficSelector
from tests.contract.values import GATEWAY_DOCUMENT, MANUAL_TUNNEL, ON_DEMAND_TUNNEL, TUNNEL_ID

STATIC = GATEWAY_DOCUMENT.tunnels[1]
BY_THE_UPLINK = GATEWAY_DOCUMENT.tunnels[2]
ESP_KEYS = {"encryption": "aes-128-cbc", "encryption_key": Secret(bytes(16)), "integrity": "hmac-sha1-96"}
ESP: dict[str, Any] = {"esp_spi": 256, **ESP_KEYS, "integrity_key": Secret(bytes(20))}


def with_policy(tunnel: Tunnel, **changes: Any) -> Tunnel:
    return dataclasses.replace(tunnel, ike=dataclasses.replace(tunnel.ike, **changes))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("remote.address", {"remote": dataclasses.replace(ON_DEMAND_TUNNEL.remote, address="198.51.100.7")}),
        (
            "remote.more_addresses",
            {"remote": dataclasses.replace(ON_DEMAND_TUNNEL.remote, more_addresses=("198.51.100.7",))},
        ),
        ("connection_type", {"connection_type": ConnectionType.BOTH}),
        ("ike.exchange_mode", {"version": IkeVersion.V1}),
        ("ike.exchange_mode", {"version": IkeVersion.V2_ELSE_V1}),
        ("most_peers", {"most_peers": 0}),
        ("most_peers", {"most_peers": 8_001}),
    ],
)
def test_an_on_demand_tunnel_takes_whoever_comes_and_only_so(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        dataclasses.replace(ON_DEMAND_TUNNEL, **changes)
    assert caught.value.field == field


@pytest.mark.parametrize("version", list(IkeVersion))
def test_an_on_demand_tunnel_may_speak_either_version_with_ikev1_in_aggressive_mode(version: IkeVersion) -> None:
    proposals = (dataclasses.replace(ON_DEMAND_TUNNEL.ike.proposals[0], encryption="aes-256-cbc",
                                     integrity="hmac-sha2-256-128", group="group-14"),)  # fmt: skip
    aggressive = with_policy(ON_DEMAND_TUNNEL, proposals=proposals, exchange_mode=ExchangeMode.AGGRESSIVE)
    assert dataclasses.replace(aggressive, version=version).remote.anywhere


def test_only_the_peers_of_an_on_demand_tunnel_come_from_anywhere() -> None:
    with pytest.raises(FieldError, match="on-demand") as caught:
        dataclasses.replace(STATIC, remote=dataclasses.replace(STATIC.remote, address="::"))
    assert caught.value.field == "remote.address"
    with pytest.raises(FieldError) as caught:
        dataclasses.replace(STATIC, local=dataclasses.replace(STATIC.local, address="::"))
    assert caught.value.field == "local.address"


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("esp_spi", {}),
        ("esp_spi", {**ESP, "esp_spi": 255}),
        ("esp_spi", {**ESP, "esp_spi": 2**32}),
        ("encryption", {"encryption": "aes-128-cbc", "ah_spi": 256, "ah_integrity": "hmac-sha1-96"}),
        ("encryption", {**ESP, "encryption": None}),
        ("encryption", {"esp_spi": 256, "encryption": "aes-128-gcm-16", "encryption_key": Secret(bytes(20))}),
        ("encryption", {**ESP, "encryption": "aes-128-ctr", "encryption_key": Secret(bytes(20))}),
        ("encryption_key", {**ESP, "encryption_key": Secret(bytes(15))}),
        ("encryption_key", {**ESP, "encryption": "null"}),
        ("integrity", {**ESP, "integrity": None}),
        ("integrity_key", {**ESP, "integrity_key": Secret(bytes(16))}),
        ("integrity_key", {**ESP, "integrity_key": None}),
        ("ah_spi", {"ah_spi": 1, "ah_integrity": "hmac-sha1-96", "ah_key": Secret(bytes(20))}),
        ("ah_integrity", {"ah_spi": 256}),
        ("ah_integrity", {**ESP, "ah_integrity": "hmac-sha1-96"}),
        # Seed 003, example 7: HMAC-MD5-96 with a key of 8 octets, which MD5 does not take (RFC 2403 section 3).
        ("ah_key", {"ah_spi": 256, "ah_integrity": "hmac-md5-96", "ah_key": Secret(bytes(8))}),
    ],
)
def test_a_manual_sa_has_what_its_algorithms_need_and_nothing_else(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        ManualSa(**values)
    assert caught.value.field == field


def test_keys_of_a_manual_sa_stand_in_no_repr() -> None:
    assert "AAAA" not in repr(MANUAL_TUNNEL)
    assert all(str(number) not in repr(MANUAL_TUNNEL.children[0].inbound.ah_key) for number in range(20))


def manual_child(**changes: Any) -> ManualChild:
    values: dict[str, Any] = {
        "name": "rule-1",
        "local_ts": TrafficSelector(network="10.1.0.0/24"),
        "remote_ts": TrafficSelector(network="10.2.0.0/24"),
        "inbound": ManualSa(**ESP),
        "outbound": ManualSa(**ESP),
    }
    return ManualChild(**values | changes)


def test_both_directions_of_a_manual_child_have_the_same_protocols() -> None:
    ah = ManualSa(ah_spi=256, ah_integrity="hmac-sha1-96", ah_key=Secret(bytes(20)))
    with pytest.raises(FieldError) as caught:
        manual_child(outbound=ah)
    assert caught.value.field == "outbound"
    with pytest.raises(FieldError) as caught:
        manual_child(remote_ts=TrafficSelector(network="fd00::/64"))
    assert caught.value.field == "remote_ts"


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("remote_address", {"remote_address": "192.0.2.1"}),
        ("remote_address", {"remote_address": "2001:db8::1"}),
        ("local_address", {"local_address": "0.0.0.0"}),
        ("children", {"children": ()}),
        ("children", {"children": tuple(manual_child(name=f"rule-{number}") for number in range(9))}),
        ("mtu", {"mtu": 100}),
    ],
)
def test_an_impossible_manual_tunnel_is_refused_by_its_field(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        dataclasses.replace(MANUAL_TUNNEL, **changes)
    assert caught.value.field == field


def document(*tunnels: ManualTunnel, **changes: Any) -> GatewayDocument:
    return dataclasses.replace(GATEWAY_DOCUMENT, manual_tunnels=tunnels, **changes)


def test_no_two_manual_sas_of_one_address_have_the_same_inbound_spi() -> None:
    other = dataclasses.replace(MANUAL_TUNNEL, id=TUNNEL_ID[:-1] + "e", name="other")
    with pytest.raises(FieldError, match=r"ESP SPI 4096 at .* is tunnel paris-manual.s") as caught:
        document(MANUAL_TUNNEL, other)
    assert caught.value.field == "manual_tunnels[1].children"
    document(MANUAL_TUNNEL, dataclasses.replace(other, local_address="192.0.2.2"))


def test_legacy_algorithms_of_manual_keys_need_the_gateways_leave() -> None:
    modern = tuple(tunnel for tunnel in GATEWAY_DOCUMENT.tunnels[1:])
    with pytest.raises(FieldError, match="legacy") as caught:
        document(MANUAL_TUNNEL, tunnels=modern, allow_legacy=False)
    assert caught.value.field == "manual_tunnels[0].children[0].inbound.encryption"


def test_names_and_ids_are_those_of_one_tunnel_of_either_kind() -> None:
    for twin in (
        dataclasses.replace(MANUAL_TUNNEL, name=STATIC.name),
        dataclasses.replace(MANUAL_TUNNEL, id=STATIC.id),
    ):
        with pytest.raises(FieldError) as caught:
            document(twin)
        assert caught.value.field == "tunnels"


@pytest.mark.parametrize(
    ("field", "kind", "values"),
    [
        ("queues", Carriage, {"queues": 2}),
        ("rate_kbps", Carriage, {"rate_kbps": 800}),
        ("rate_kbps", Carriage, {"queues": 4, "rate_kbps": 63}),
        ("rate_kbps", Carriage, {"queues": 4, "rate_kbps": 10_000_001}),
        ("context", Carriage, {"context": "Not a slug"}),
        ("endpoint_context", Carriage, {"endpoint_context": "Not a slug"}),
        ("route_cost", Carriage, {"route_cost": -1}),
        ("routes", Carriage, {"routes": (StaticRoute(network="10.0.0.0/8"), StaticRoute(network="10.0.0.0/8"))}),
        ("network", StaticRoute, {"network": "10.0.0.1/8"}),
        ("cost", StaticRoute, {"network": "10.0.0.0/8", "cost": 65_536}),
        ("name", Context, {"name": "local", "table": 10}),
        ("table", Context, {"name": "blue", "table": 254}),
        ("table", Context, {"name": "blue", "table": 0}),
    ],
)
def test_impossible_carriage_is_refused_by_its_field(field: str, kind: type, values: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as caught:
        kind(**values)
    assert caught.value.field == field


def test_contexts_are_named_once_and_used_only_where_they_are() -> None:
    with pytest.raises(FieldError) as caught:
        dataclasses.replace(GATEWAY_DOCUMENT, contexts=())
    assert caught.value.field == "tunnels[2].carriage.context"
    for other in (Context(name="blue", table=101), Context(name="red", table=100)):
        with pytest.raises(FieldError) as caught:
            dataclasses.replace(GATEWAY_DOCUMENT, contexts=(*GATEWAY_DOCUMENT.contexts, other))
        assert caught.value.field == "contexts"


def test_the_context_of_an_endpoint_is_one_of_the_documents() -> None:
    with pytest.raises(FieldError) as caught:
        dataclasses.replace(GATEWAY_DOCUMENT, contexts=GATEWAY_DOCUMENT.contexts[:1])
    assert caught.value.field == "tunnels[2].carriage.endpoint_context"
    elsewhere = dataclasses.replace(MANUAL_TUNNEL, carriage=Carriage(endpoint_context="nowhere"))
    with pytest.raises(FieldError) as caught:
        document(elsewhere)
    assert caught.value.field == "manual_tunnels[0].carriage.endpoint_context"


@pytest.mark.parametrize("context", ["local", "blue"])
def test_a_local_address_is_in_one_context(context: str) -> None:
    shares = dataclasses.replace(
        MANUAL_TUNNEL,
        enabled=True,
        local_address=BY_THE_UPLINK.local.address,
        carriage=Carriage(endpoint_context=context),
    )
    with pytest.raises(FieldError, match=r"tunnel paris-roaming has 192\.0\.2\.20 in context uplink-a") as caught:
        document(shares)
    assert caught.value.field == "manual_tunnels[0].carriage.endpoint_context"
    document(dataclasses.replace(shares, enabled=False))
    document(dataclasses.replace(shares, carriage=Carriage(endpoint_context="uplink-a")))


def test_further_local_addresses_are_in_the_context_of_the_first() -> None:
    further = dataclasses.replace(STATIC.local, more_addresses=(BY_THE_UPLINK.local.address,))
    tunnels = (dataclasses.replace(STATIC, local=further), BY_THE_UPLINK)
    with pytest.raises(FieldError, match=r"tunnel .* has 192\.0\.2\.20 in context local") as caught:
        dataclasses.replace(GATEWAY_DOCUMENT, tunnels=tunnels)
    assert caught.value.field == "tunnels[1].carriage.endpoint_context"
