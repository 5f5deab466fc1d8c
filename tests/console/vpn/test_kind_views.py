"""The form of each kind of tunnel in the browser: what it takes, moves, refuses and keeps."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from tests.console import cast
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway, GatewayContext
from vpnconsole.vpn.models import ManualSa, PresharedKey, QosPolicy, Tunnel


@pytest.fixture
def client(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


@pytest.fixture
def on_demand(paris: Gateway) -> dict[str, str]:
    ike_policy, ipsec_policy = cast.default_policies()
    return {
        "kind": "on-demand", "name": "paris-peers", "end_a-gateway": str(paris.pk),
        "end_a-address": cast.PARIS_ADDRESS, "peers-identity_type": "fqdn", "peers-identity_value": "*.example.org",
        "peers-most_peers": "7", "pairs": "1", "selectors-0-network_a": cast.PARIS_NETWORK,
        "selectors-0-network_b": "10.200.0.0/16", "ike_policy": str(ike_policy.pk),
        "ipsec_policy": str(ipsec_policy.pk), "key_how": "generate", "key_encoding": "hex", "enabled": "on",
        "add_routes": "on", "copy_dscp": "on",
    }  # fmt: skip


@pytest.fixture
def manual(paris: Gateway, lyon: Gateway) -> dict[str, str]:
    values = {
        "kind": "manual", "name": "by-hand", "end_a-gateway": str(paris.pk), "end_a-address": cast.PARIS_ADDRESS,
        "end_b-gateway": str(lyon.pk), "end_b-address": cast.LYON_ADDRESS, "pairs": "1",
        "selectors-0-network_a": cast.PARIS_NETWORK, "selectors-0-network_b": cast.LYON_NETWORK,
        "selectors-0-manual-protocol": "esp", "selectors-0-manual-directions": "separate",
        "selectors-0-manual-mode": "tunnel", "selectors-0-manual-replay_window": "0", "enabled": "on",
        "key_how": "generate", "key_encoding": "hex",
    }  # fmt: skip
    for way, octet in (("in", "aa"), ("out", "bb")):
        values |= {
            f"selectors-0-{way}-encryption": "aes-128-cbc",
            f"selectors-0-{way}-integrity": "hmac-sha2-256-128",
            f"selectors-0-{way}-esp_spi": f"0x10{octet}",
            f"selectors-0-{way}-keys": "enter",
            f"selectors-0-{way}-key_encoding": "hex",
            f"selectors-0-{way}-encryption_key": octet * 16,
            f"selectors-0-{way}-integrity_key": octet * 32,
        }
    return values


def test_an_on_demand_tunnel_is_made_shown_and_changed(client: Client, on_demand: dict[str, str]) -> None:
    response = client.post(reverse("vpn:tunnel-create"), on_demand)
    tunnel = Tunnel.objects.get()
    assert response["Location"] == reverse("monitor:tunnel", args=[tunnel.pk])
    assert (tunnel.kind, tunnel.most_peers, tunnel.preshared_key.name) == ("on-demand", 7, "paris-peers")
    edit = reverse("vpn:tunnel-edit", args=[tunnel.pk])
    forms = client.get(edit).context["forms"]
    assert (forms.main["kind"].value(), forms.peers["identity_value"].value()) == ("on-demand", "*.example.org")
    values = {**on_demand, "key_how": "existing", "psk": str(tunnel.psk_id), "peers-most_peers": "9"}
    client.post(edit, values)
    tunnel.refresh_from_db()
    assert tunnel.most_peers == 9
    assert "of at most 9" in client.get(reverse("monitor:tunnel", args=[tunnel.pk])).content.decode()
    assert "keep carrying" in client.get(reverse("vpn:tunnel-delete", args=[tunnel.pk])).content.decode()


def test_a_bad_peer_stands_beside_its_field(client: Client, on_demand: dict[str, str]) -> None:
    response = client.post(reverse("vpn:tunnel-create"), {**on_demand, "peers-identity_value": ""})
    assert response.status_code == 422
    assert "what the peers call themselves" in response.context["forms"].peers.errors["identity_value"][0]
    assert not PresharedKey.objects.exists()


def test_the_form_offers_policies_that_go_with_on_demand(client: Client, on_demand: dict[str, str]) -> None:
    response = client.post(reverse("vpn:tunnel-refill"), {**on_demand, "version": "v1"})
    forms = response.context["forms"]
    (group,) = [rows for label, rows in forms.main.fields["ike_policy"].widget.choices if label.startswith("Not for")]
    assert sorted(name for _, name in group) == ["compatible", "default"]


def test_choosing_a_gateway_names_the_tunnel_for_its_peers(client: Client, on_demand: dict[str, str]) -> None:
    values = {**on_demand, "name": "", "end_a-address": "", "selectors-0-network_a": "", "selectors-0-network_b": ""}
    forms = client.post(reverse("vpn:tunnel-refill"), values).context["forms"]
    assert forms.main["name"].value() == "paris-peers"
    assert forms.ends["end_a"]["address"].value() == cast.PARIS_ADDRESS
    assert (forms.pairs[0]["network_a"].value(), forms.pairs[0]["network_b"].value()) == (cast.PARIS_NETWORK, "")
    assert forms.peers["identity_value"].value() == "*.example.org"


def test_a_manual_tunnel_is_made_with_typed_keys(client: Client, manual: dict[str, str]) -> None:
    client.post(reverse("vpn:tunnel-create"), manual)
    rows = {row.direction: row for row in ManualSa.objects.all()}
    assert {way: row.esp_spi for way, row in rows.items()} == {"in": 0x10AA, "out": 0x10BB}
    assert rows["in"].encryption_key.reveal() == b"\xaa" * 16
    assert not PresharedKey.objects.exists()


def test_keys_of_a_manual_tunnel_are_made_or_kept(client: Client, manual: dict[str, str]) -> None:
    generated = {**manual, "selectors-0-in-keys": "generate", "selectors-0-out-keys": "generate"}
    client.post(reverse("vpn:tunnel-create"), generated)
    tunnel = Tunnel.objects.get()
    before = {row.direction: row.encryption_key for row in ManualSa.objects.all()}
    edit = reverse("vpn:tunnel-edit", args=[tunnel.pk])
    page = client.get(edit)
    pair = page.context["forms"].pairs[0].manual
    assert pair.sas["in"]["keys"].value() == "keep"
    for secret in before.values():
        assert secret.reveal().hex() not in page.content.decode()
    kept = {**manual, "mtu": "1400"}
    for way in ("in", "out"):
        kept |= {f"selectors-0-{way}-keys": "keep", f"selectors-0-{way}-stored": pair.sas[way]["stored"].value()}
        del kept[f"selectors-0-{way}-encryption_key"]
    assert client.post(edit, kept).status_code == 302
    assert {row.direction: row.encryption_key for row in ManualSa.objects.all()} == before


@pytest.mark.parametrize(
    ("change", "way", "field", "words"),
    [
        ({"selectors-0-in-encryption": "aes-256-gcm-16"}, "in", "encryption", "counts in its IV"),
        ({"selectors-0-in-encryption_key": "aa" * 15}, "in", "encryption_key", "16 octets (32 hexadecimal digits)"),
        ({"selectors-0-out-integrity_key": "zz"}, "out", "integrity_key", "Use only the digits"),
        ({"selectors-0-out-esp_spi": "many"}, "out", "esp_spi", "Write an SPI like"),
        ({"selectors-0-out-esp_spi": "7"}, "out", "esp_spi", "reserved"),
        (
            {"selectors-0-in-key_encoding": "ascii", "selectors-0-in-encryption_key": "sixteen octets!!"},
            "in", "integrity_key", "takes a key of 32 octets (64 hexadecimal digits), this one has 64",
        ),
    ],
)  # fmt: skip
def test_a_bad_manual_sa_stands_beside_its_field(
    client: Client, manual: dict[str, str], change: dict[str, str], way: str, field: str, words: str
) -> None:
    response = client.post(reverse("vpn:tunnel-create"), {**manual, **change})
    assert response.status_code == 422
    form = response.context["forms"].pairs[0].manual.sas[way]
    assert words in form.errors[field][0]
    assert not Tunnel.objects.exists()


def test_what_another_kind_had_typed_is_kept_but_not_judged(client: Client, manual: dict[str, str]) -> None:
    mixed = {**manual, "peers-identity_value": "two words", "peers-most_peers": "x"}
    assert client.post(reverse("vpn:tunnel-create"), mixed).status_code == 302
    back = client.post(reverse("vpn:tunnel-refill"), {**mixed, "kind": "static"}).context["forms"]
    assert back.peers["identity_value"].value() == "two words"
    assert back.pairs[0].manual.sas["in"]["esp_spi"].value() == "0x10aa"


def test_one_sa_both_ways(client: Client, manual: dict[str, str]) -> None:
    both = {re.sub("^selectors-0-in-", "selectors-0-both-", name): value for name, value in manual.items()}
    client.post(reverse("vpn:tunnel-create"), {**both, "selectors-0-manual-directions": "both"})
    assert [row.direction for row in ManualSa.objects.all()] == ["both"]


def test_a_copy_makes_keys_of_its_own(client: Client, paris: Gateway, lyon: Gateway) -> None:
    tunnel = cast.make_manual(paris, lyon)
    forms = client.get(reverse("vpn:tunnel-create"), {"copy": str(tunnel.pk)}).context["forms"]
    sa = forms.pairs[0].manual.sas["in"]
    assert (sa["keys"].value(), sa["esp_spi"].value(), sa["stored"].value()) == ("generate", "", "")


@pytest.mark.parametrize(
    ("button", "order"),
    [
        ({"up_pair": "1"}, ["10.2.1.0/24", "10.2.0.0/24", "10.2.2.0/24"]),
        ({"down_pair": "1"}, ["10.2.0.0/24", "10.2.2.0/24", "10.2.1.0/24"]),
        ({"up_pair": "0"}, ["10.2.0.0/24", "10.2.1.0/24", "10.2.2.0/24"]),
        ({"down_pair": "2"}, ["10.2.0.0/24", "10.2.1.0/24", "10.2.2.0/24"]),
        ({"remove_pair": "0"}, ["10.2.1.0/24", "10.2.2.0/24"]),
    ],
)
def test_rules_move_with_all_that_belongs_to_them(
    client: Client, manual: dict[str, str], button: dict[str, str], order: list[str]
) -> None:
    values: dict[str, Any] = {**manual, "pairs": "3"}
    for index in range(3):
        values |= {
            f"selectors-{index}-network_a": "10.1.0.0/24", f"selectors-{index}-network_b": f"10.2.{index}.0/24",
            f"selectors-{index}-in-esp_spi": f"0x200{index}",
        }  # fmt: skip
    forms = client.post(reverse("vpn:tunnel-refill"), {**values, **button}).context["forms"]
    assert [pair["network_b"].value() for pair in forms.pairs] == order
    spis = [pair.manual.sas["in"]["esp_spi"].value() for pair in forms.pairs]
    assert spis == [f"0x200{network.split('.')[2]}" for network in order]


def test_the_carriage_is_closed_until_something_differs(client: Client, on_demand: dict[str, str]) -> None:
    def carriage(values: dict[str, str]) -> bool:
        page = client.post(reverse("vpn:tunnel-refill"), values).content.decode()
        return "<details open" in page[page.index('data-test="carriage"') :]

    assert not carriage(on_demand)
    assert carriage({**on_demand, "df_bit": "set"})
    assert carriage({**on_demand, "end_a-route_cost": "5"})
    assert carriage({**on_demand, "end_a-endpoint_context": "uplink-a"})
    fine = {name: value for name, value in on_demand.items() if name != "copy_dscp"}
    assert carriage(fine)
    assert carriage({**on_demand, "clamp_tcp_mss": "on"})


def test_carriage_reaches_the_tunnel(client: Client, manual: dict[str, str]) -> None:
    qos = QosPolicy.objects.create(name="voice", queues=4)
    values = {
        **manual, "attachment": "interface", "df_bit": "clear", "clamp_tcp_mss": "on", "qos_policy": str(qos.pk),
        "end_a-routes": "10.44.0.0/16 5\n\n10.45.0.0/16\n", "end_a-context": "local",
    }  # fmt: skip
    client.post(reverse("vpn:tunnel-create"), values)
    tunnel = Tunnel.objects.get()
    assert (tunnel.attachment, tunnel.df_bit, tunnel.queues, tunnel.copy_dscp) == ("interface", "clear", 4, False)
    assert tunnel.clamp_tcp_mss
    assert [(row.network, row.cost) for row in tunnel.end_a.routes.all()] == [("10.44.0.0/16", 5), ("10.45.0.0/16", 1)]
    page = client.get(reverse("vpn:tunnel-edit", args=[tunnel.pk]))
    assert page.context["forms"].ends["end_a"]["routes"].value() == "10.44.0.0/16 5\n10.45.0.0/16 1"


def test_the_endpoint_s_context_reaches_the_tunnel_and_its_page(client: Client, on_demand: dict[str, str]) -> None:
    paris = Gateway.objects.get(name="paris")
    GatewayContext.objects.create(gateway=paris, name="uplink-a", table=101)
    values = {**on_demand, "end_a-endpoint_context": "uplink-a"}
    client.post(reverse("vpn:tunnel-create"), values)
    tunnel = Tunnel.objects.get()
    assert (tunnel.end_a.context, str(tunnel.end_a.endpoint_context)) == (None, "uplink-a")
    form = client.get(reverse("vpn:tunnel-edit", args=[tunnel.pk])).context["forms"].ends["end_a"]
    assert form["endpoint_context"].value() == "uplink-a"
    assert ("uplink-a", "uplink-a") in form.fields["endpoint_context"].widget.choices
    page = client.get(reverse("monitor:tunnel", args=[tunnel.pk])).content.decode()
    assert "<dt>Endpoint on paris</dt><dd>context uplink-a" in page
    response = client.post(reverse("vpn:tunnel-create"), {**values, "name": "other", "peers-identity_value": "*.test",
                                                          "end_a-endpoint_context": "local"})  # fmt: skip
    assert "in one context" in response.context["forms"].ends["end_a"].errors["endpoint_context"][0]


def test_a_bad_route_stands_beside_the_list(client: Client, manual: dict[str, str]) -> None:
    response = client.post(reverse("vpn:tunnel-create"), {**manual, "end_a-routes": "10.44.0.0/16 far away"})
    assert response.status_code == 422
    assert "a network and its cost" in response.context["forms"].ends["end_a"].errors["routes"][0]


def test_manual_keys_are_only_those_of_a_manual_tunnel(client: Client, tunnel: Tunnel) -> None:
    assert client.get(reverse("vpn:manual-keys", args=[tunnel.pk])).status_code == 404


def test_qos_policies_have_pages(client: Client) -> None:
    client.post(reverse("vpn:policy-create", args=["qos-policy"]), {"name": "voice", "queues": "4"})
    row = QosPolicy.objects.get(name="voice")
    assert row.rate_kbps is None
    url = reverse("vpn:policy-edit", args=["qos-policy", row.pk])
    assert client.get(url).status_code == 200
    client.post(url, {"name": "voice", "queues": "1", "description": "plain"})
    row.refresh_from_db()
    assert (row.queues, row.description) == (1, "plain")
    assert client.post(url, {"name": "voice", "queues": "3"}).status_code == 422
    client.post(url, {"name": "voice", "queues": "4", "rate_kbps": "8000"})
    row.refresh_from_db()
    assert row.rate_kbps == 8_000
    assert client.get(url).context["form"]["rate_kbps"].value() == 8_000
    assert "8,000 kbit/s" in client.get(reverse("vpn:policies")).content.decode()
    assert "voice" in client.get(reverse("vpn:policies")).content.decode()
    client.post(reverse("vpn:policy-delete", args=["qos-policy", row.pk]))
    assert not QosPolicy.objects.filter(pk=row.pk).exists()


@pytest.mark.parametrize(
    ("queues", "rate_kbps", "words"),
    [
        ("1", "8000", "needs four queues"),
        ("4", "63", "64"),
        ("4", "10000001", "10000000"),
        ("4", "fast", "whole number"),
    ],
)
def test_an_impossible_rate_stands_beside_its_field(client: Client, queues: str, rate_kbps: str, words: str) -> None:
    values = {"name": "voice", "queues": queues, "rate_kbps": rate_kbps}
    response = client.post(reverse("vpn:policy-create", args=["qos-policy"]), values)
    assert response.status_code == 422
    assert words in response.context["form"].errors["rate_kbps"][0]
    assert not QosPolicy.objects.filter(name="voice").exists()
