"""Documents of on-demand and manual tunnels, of carriage and contexts; and what the change page says of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from agents.contract import codec
from agents.contract.config import ConnectionType, ExchangeMode, GatewayDocument, TunnelKind
from agents.contract.manual import ManualSa
from agents.contract.psk import PresharedKeys
from agents.contract.secret import Secret
from tests.console import cast
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway, GatewayContext
from vpnconsole.rollout import snapshot
from vpnconsole.rollout.changes import differences
from vpnconsole.rollout.compile import compile_document
from vpnconsole.rollout.delivery import tunnel_digests
from vpnconsole.vpn import policies, services
from vpnconsole.vpn.inputs import CarriageInput, EndInput, Keys, PeersInput, RouteInput, SelectorInput, TunnelInput
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, QosPolicy, Tunnel

pytestmark = pytest.mark.django_db


def compiled(gateway: Gateway) -> GatewayDocument:
    document = compile_document(snapshot.take(gateway.pk), generation=1, nonce="0" * 32)
    assert codec.decode(GatewayDocument, codec.encode(document)) == document
    return document


def test_an_on_demand_tunnel_in_its_gateway_s_document(paris: Gateway) -> None:
    cast.make_on_demand(paris)
    document = compiled(paris)
    (tunnel,) = document.tunnels
    assert (tunnel.kind, tunnel.most_peers) == (TunnelKind.ON_DEMAND, 20)
    assert tunnel.connection_type is ConnectionType.RESPONDER_ONLY
    assert (tunnel.local.address, tunnel.remote.address) == (cast.PARIS_ADDRESS, "0.0.0.0")
    assert (tunnel.remote.identity.value, tunnel.remote.identity.exact) == ("*.example.org", False)
    (key,) = document.preshared_keys
    assert (key.local_address, key.remote_address, key.remote_identity) == (
        cast.PARIS_ADDRESS, None, tunnel.remote.identity,
    )  # fmt: skip
    # From wherever the peer comes, and whatever it is called below the name.
    coming = dataclasses.replace(tunnel.remote, address="203.0.113.200")
    shown = dataclasses.replace(tunnel.remote.identity, value="gw7.example.org")
    assert PresharedKeys(document.preshared_keys).find_for(tunnel.local, coming, shown) == key.secret


def test_ikev1_on_demand_is_aggressive_and_ipv6_comes_from_anywhere(db: None) -> None:
    six = cast.make_gateway("six", "2001:db8::6", "2001:db8:6::/64")
    cast.default_policies()
    policy = IKEPolicy.objects.get(name="compatible")
    IKEPolicy.objects.filter(pk=policy.pk).update(exchange_mode="aggressive")
    cast.make_on_demand(
        six,
        version="v1",
        ike_policy=IKEPolicy.objects.get(pk=policy.pk),
        ipsec_policy=IPsecPolicy.objects.get(name="compatible"),
        selectors=[SelectorInput(network_a="2001:db8:6::/64", network_b="2001:db8:f000::/36")],
        peers=PeersInput(identity_type="any"),
    )
    (tunnel,) = compiled(six).tunnels
    assert (tunnel.remote.address, tunnel.remote.identity.value) == ("::", "*")
    assert tunnel.ike.exchange_mode is ExchangeMode.AGGRESSIVE


def test_manual_sas_are_mirrored(paris: Gateway, lyon: Gateway) -> None:
    cast.make_manual(paris, lyon)
    (here,), (there,) = compiled(paris).manual_tunnels, compiled(lyon).manual_tunnels
    assert (here.local_address, here.remote_address) == (there.remote_address, there.local_address)
    (a,), (b,) = here.children, there.children
    assert (a.name, a.inbound, a.outbound) == (b.name, b.outbound, b.inbound)
    assert (a.local_ts, a.remote_ts) == (b.remote_ts, b.local_ts)
    assert a.outbound == ManualSa(
        esp_spi=0x1001,
        encryption="aes-128-cbc",
        encryption_key=Secret(bytes([1]) * 16),
        integrity="hmac-sha2-256-128",
        integrity_key=Secret(bytes([1]) * 32),
    )
    assert a.inbound.esp_spi == 0x1002
    assert compiled(paris).tunnels == ()
    assert compiled(paris).preshared_keys == ()


def test_one_manual_sa_serves_both_ways_and_one_end_is_enough(paris: Gateway, extranet: Gateway) -> None:
    data = cast.manual_input(paris, extranet)
    both = dataclasses.replace(data.selectors[0], manual=cast.manual(sas=[cast.manual_sa("both", 3)], ipcomp=True))
    services.create_tunnel(None, dataclasses.replace(data, selectors=[both], enabled=False))
    (tunnel,) = compiled(paris).manual_tunnels
    (child,) = tunnel.children
    assert child.inbound == child.outbound
    assert (child.ipcomp, child.replay_window, tunnel.enabled) == (True, 0, False)


def test_carriage_is_that_of_the_gateway_s_end(paris: Gateway, lyon: Gateway) -> None:
    GatewayContext.objects.create(gateway=lyon, name="blue", table=100)
    GatewayContext.objects.create(gateway=lyon, name="uplink-a", table=101)
    Gateway.objects.filter(pk=lyon.pk).update(packet_filter=True)
    qos = QosPolicy.objects.create(name="voice", queues=4, rate_kbps=8_000)
    far = EndInput(
        gateway=lyon, address=cast.LYON_ADDRESS, context="blue", endpoint_context="uplink-a", route_cost=10,
        routes=[RouteInput(network="10.44.0.0/16", cost=5)],
    )  # fmt: skip
    carriage = CarriageInput(attachment="interface", df_bit="set", copy_dscp=False, clamp_tcp_mss=True, qos_policy=qos)
    cast.make_tunnel(paris, lyon, end_b=far, carriage=carriage)
    here, there = compiled(paris).tunnels[0].carriage, compiled(lyon).tunnels[0].carriage
    assert (here.attachment, here.df_bit, here.copy_dscp, here.queues) == ("interface", "set", False, 4)
    assert here.clamp_tcp_mss
    assert (here.rate_kbps, there.rate_kbps) == (8_000, 8_000)
    assert (here.context, here.route_cost, here.routes) == ("local", 0, ())
    assert (there.context, there.route_cost) == ("blue", 10)
    assert (here.endpoint_context, there.endpoint_context) == ("local", "uplink-a")
    assert [(row.network, row.cost) for row in there.routes] == [("10.44.0.0/16", 5)]
    assert [(row.name, row.table) for row in compiled(lyon).contexts] == [("blue", 100), ("uplink-a", 101)]
    assert (compiled(paris).packet_filter, compiled(lyon).packet_filter) == (False, True)


def test_a_rate_is_told_as_what_changed(paris: Gateway, lyon: Gateway) -> None:
    qos = policies.save_qos_policy(None, name="voice", queues=4)
    cast.make_tunnel(paris, lyon, carriage=CarriageInput(attachment="interface", qos_policy=qos))
    old = compiled(paris)
    policies.save_qos_policy(None, qos, name="voice", queues=4, rate_kbps=8_000)
    (change,) = differences(old, compiled(paris))
    assert change.details == ("carriage rate (kbit/s): none → 8000",)


def test_the_order_of_the_rules_reaches_the_document_and_names_stay(paris: Gateway, lyon: Gateway) -> None:
    pairs = [SelectorInput(network_a="10.1.0.0/24", network_b=f"10.2.{n}.0/24") for n in range(2)]
    tunnel = cast.make_tunnel(paris, lyon, selectors=pairs)
    old = compiled(paris)
    services.update_tunnel(None, tunnel, dataclasses.replace(TunnelInput.of(tunnel), selectors=pairs[::-1]))
    new = compiled(paris)
    assert [child.name for child in new.tunnels[0].children] == ["pair-2", "pair-1"]
    (change,) = differences(old, new)
    assert change.details == ("order of the rules: pair-2, pair-1",)
    assert "no SA of a pair that stays is cleared" in change.remark


# What the change page says


def changed(paris: Gateway, tunnel: Tunnel, data: TunnelInput) -> tuple[str, tuple[str, ...], str]:
    old = compiled(paris)
    services.update_tunnel(None, tunnel, data)
    (change,) = differences(old, compiled(paris))
    return change.action, change.details, change.remark


def test_of_manual_keys_only_that_they_changed_is_said(paris: Gateway, lyon: Gateway) -> None:
    tunnel = cast.make_manual(paris, lyon)
    old = compiled(paris)
    assert [(each.action, each.subject) for each in differences(None, old)] == [("added", "tunnel paris-lyon-manual")]
    data = TunnelInput.of(tunnel)
    pair = data.selectors[0]
    assert pair.manual is not None
    other = [cast.manual_sa("out", 1), cast.manual_sa("in", 2, encryption_key=Secret(b"sixteen octets!!"))]
    sas = dataclasses.replace(pair, manual=dataclasses.replace(pair.manual, sas=other))
    action, details, remark = changed(paris, tunnel, dataclasses.replace(data, selectors=[sas]))
    assert action == "changed"
    assert details == ("selector pairs pair-1 inbound SA encryption key: changed",)
    assert remark.startswith("Manual keys: change both ends together.")
    renamed = dataclasses.replace(TunnelInput.of(tunnel), mtu=1300)
    assert changed(paris, tunnel, dataclasses.replace(renamed, selectors=[sas]))[1:] == (("MTU: none → 1300",), "")
    # The same keys again are no change.
    assert differences(compiled(paris), compiled(paris)) == ()


def test_no_key_is_in_any_change(paris: Gateway, lyon: Gateway) -> None:
    tunnel = cast.make_manual(paris, lyon)
    old = compiled(paris)
    pairs = [
        SelectorInput(
            network_a=f"10.1.{n}.0/24", network_b="10.2.0.0/24",
            manual=cast.manual(sas=[cast.manual_sa("both", 40 + n, keys=Keys.ENTER)], replay_window=64),
        )
        for n in range(2)
    ]  # fmt: skip
    services.update_tunnel(None, tunnel, dataclasses.replace(TunnelInput.of(tunnel), selectors=pairs))
    new = compiled(paris)
    text = " ".join(map(str, [*differences(old, new), *differences(new, old), *differences(None, new)]))
    assert "added (10.1.1.0/24 ↔ 10.2.0.0/24)" in text
    for document in (old, new):
        for child in document.manual_tunnels[0].children:
            for sa in (child.inbound, child.outbound):
                for plain in codec.to_plain(sa).values():
                    assert not isinstance(plain, str) or len(plain) < 20 or plain not in text
    assert "encryption key: changed" in text


def test_becoming_manual_is_one_change_without_values(paris: Gateway, lyon: Gateway) -> None:
    tunnel = cast.make_tunnel(paris, lyon)
    data = dataclasses.replace(cast.manual_input(paris, lyon), name=tunnel.name)
    action, details, _ = changed(paris, tunnel, data)
    assert (action, details[0]) == ("changed", "keys: negotiated → manual")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"carriage": CarriageInput(attachment="interface")}, "attachment: shared → interface"),
        ({"carriage": CarriageInput(df_bit="clear")}, "DF bit: propagate → clear"),
        ({"carriage": CarriageInput(copy_dscp=False)}, "copying of the DSCP: on → off"),
        ({"carriage": CarriageInput(clamp_tcp_mss=True)}, "clamping of TCP's segment size: off → on"),
        ({"peers": PeersInput(identity_value="*.example.org", most_peers=7)}, "peers at a time: 20 → 7"),
    ],
)
def test_carriage_and_peers_in_words(paris: Gateway, change: dict[str, Any], words: str) -> None:
    tunnel = cast.make_on_demand(paris)
    _, details, _ = changed(paris, tunnel, dataclasses.replace(TunnelInput.of(tunnel), **change))
    assert len(details) == 1
    assert words in details[0]


def test_routes_in_words(paris: Gateway, lyon: Gateway) -> None:
    tunnel = cast.make_tunnel(paris, lyon)
    data = TunnelInput.of(tunnel)
    routed = dataclasses.replace(data.end_a, route_cost=7, routes=[RouteInput(network="10.44.0.0/16", cost=5)])
    _, details, _ = changed(paris, tunnel, dataclasses.replace(data, end_a=routed))
    assert details == (
        "carriage cost of routes: 0 → 7",
        "carriage static routes: none → 10.44.0.0/16 at cost 5",
    )


def test_contexts_and_filter_are_changes_of_the_gateway(paris: Gateway) -> None:
    old = compiled(paris)
    GatewayContext.objects.create(gateway=paris, name="blue", table=100)
    Gateway.objects.filter(pk=paris.pk).update(packet_filter=True)
    (change,) = differences(old, compiled(paris))
    assert change.subject == "gateway settings"
    assert change.details == ("contexts: none → blue table 100", "packet filter: off → on")
    old = compiled(paris)
    GatewayContext.objects.create(gateway=paris, name="red", table=101)
    GatewayContext.objects.filter(name="blue").update(table=102)
    (change,) = differences(old, compiled(paris))
    assert change.details == ("contexts blue table: 100 → 102", "contexts red: added (table 101)")


def test_a_changed_manual_key_is_another_digest(paris: Gateway, lyon: Gateway) -> None:
    tunnel = cast.make_manual(paris, lyon)
    before = tunnel_digests(compiled(paris))
    assert list(before) == [str(tunnel.pk)]
    data = TunnelInput.of(tunnel)
    pair = data.selectors[0]
    assert pair.manual is not None
    sas = [dataclasses.replace(sa, keys=Keys.GENERATE) for sa in pair.manual.sas]
    fresh = dataclasses.replace(pair, manual=dataclasses.replace(pair.manual, sas=sas))
    services.update_tunnel(None, tunnel, dataclasses.replace(data, selectors=[fresh]))
    assert tunnel_digests(compiled(paris)) != before


def test_the_page_shows_the_changes(client: Client, alice: User, paris: Gateway, lyon: Gateway) -> None:
    cast.make_manual(paris, lyon)
    cast.make_on_demand(paris)
    client.force_login(alice)
    page = client.get(reverse("rollout:changes")).content.decode()
    assert "tunnel paris-lyon-manual" in page
    assert "change both ends together" in page
    assert "tunnel paris-peers" in page
