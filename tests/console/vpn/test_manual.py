"""Tunnels with manual keys: what is refused and why, how keys are kept, made and shown."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.test import Client
from django.urls import reverse

from agents.contract.secret import Secret
from tests.console import cast
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways.models import Gateway
from vpnconsole.vpn import manual, match, queries, services
from vpnconsole.vpn.inputs import Keys, ManualInput, ManualSaInput, Protocol, SelectorInput, TunnelInput
from vpnconsole.vpn.models import ManualSa, Tunnel

pytestmark = pytest.mark.django_db


def with_sas(paris: Gateway, lyon: Gateway, *sas: ManualSaInput, **changes: Any) -> TunnelInput:
    data = cast.manual_input(paris, lyon)
    pair = dataclasses.replace(data.selectors[0], manual=cast.manual(sas=sas, **changes))
    return dataclasses.replace(data, selectors=[pair])


def errors(data: TunnelInput) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as caught:
        services.create_tunnel(None, data)
    return dict(caught.value.message_dict)


def allowing_legacy(gateway: Gateway) -> Gateway:
    Gateway.objects.filter(pk=gateway.pk).update(allow_legacy=True)
    return Gateway.objects.get(pk=gateway.pk)


def sas(tunnel: Tunnel) -> dict[str, ManualSa]:
    return {row.direction: row for row in queries.get_tunnel(tunnel.pk).selectors.all()[0].manual.sas.all()}


def test_it_has_sas_and_neither_policies_nor_a_key(paris: Gateway, lyon: Gateway) -> None:
    tunnel = cast.make_manual(paris, lyon)
    assert (tunnel.ike_policy, tunnel.ipsec_policy, tunnel.psk, tunnel.add_routes) == (None, None, None, False)
    rows = sas(tunnel)
    assert {direction: row.esp_spi for direction, row in rows.items()} == {"out": 0x1001, "in": 0x1002}
    assert rows["out"].key("encryption_key") == Secret(bytes([1]) * 16)
    assert rows["in"].key("ah_key") is None
    assert tunnel.selectors.all()[0].manual.replay_window == 0


@pytest.mark.parametrize(
    ("encryption", "integrity", "octets"),
    [("aes-256-cbc", "hmac-sha2-512-256", (32, 64)), ("null", "hmac-sha2-256-128", (0, 32))],
)
def test_keys_are_made_as_long_as_their_algorithms_take(
    paris: Gateway, lyon: Gateway, encryption: str, integrity: str, octets: tuple[int, int]
) -> None:
    paris, lyon = (allowing_legacy(gateway) for gateway in (paris, lyon))
    made = [
        ManualSaInput(direction=way, encryption=encryption, integrity=integrity, ah_integrity="hmac-sha2-384-192")
        for way in ("in", "out")
    ]
    rows = sas(services.create_tunnel(None, with_sas(paris, lyon, *made, protocol=Protocol.ESP_AH)))
    for row in rows.values():
        found = [row.key(field) for field in manual.KEY_FIELDS]
        assert tuple(0 if key is None else len(key) for key in found) == (*octets, 48)
    assert rows["in"].key("integrity_key") != rows["out"].key("integrity_key")
    assert len({row.esp_spi for row in rows.values()} | {row.ah_spi for row in rows.values()}) == 4


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"esp_spi": 255}, "esp_spi", "SPIs of 1 to 255 are reserved"),
        ({"esp_spi": 2**32}, "esp_spi", "32 bits"),
        ({"encryption": ""}, "encryption", "Choose a cipher"),
        ({"encryption": "rot-13"}, "encryption", "valid choice"),
        ({"encryption": "aes-128-gcm-16"}, "encryption", "the same key and IV twice give the plain text away"),
        ({"encryption": "aes-128-ctr"}, "encryption", "counts in its IV"),
        ({"encryption": "chacha20-poly1305"}, "encryption", "counts in its IV"),
        ({"encryption": "aes-128-gmac"}, "encryption", "counts in its IV"),
        ({"encryption": "aes-128-ccm-8"}, "encryption", "counts in its IV"),
        ({"integrity": ""}, "integrity", "needs an integrity algorithm"),
        ({"encryption_key": Secret(bytes(8))}, "encryption_key", "takes a key of 16 octets (32 hex"),
        ({"encryption_key": None}, "encryption_key", "enter one, or let the console generate it"),
        ({"integrity": "hmac-sha1-96"}, "integrity_key", "HMAC-SHA1-96 takes a key of 20 octets"),
        ({"encryption": "3des-cbc", "encryption_key": Secret(bytes(24))}, "encryption", "legacy algorithm"),
    ],
)
def test_an_impossible_sa_is_refused_beside_its_field(
    paris: Gateway, lyon: Gateway, change: dict[str, Any], field: str, words: str
) -> None:
    found = errors(with_sas(paris, lyon, cast.manual_sa("out", 1), cast.manual_sa("in", 2, **change)))
    assert list(found) == [f"selectors.0.in.{field}"]
    assert words in found[f"selectors.0.in.{field}"][0]
    assert not ManualSa.objects.exists()


def test_every_cipher_that_counts_is_one_the_contract_refuses() -> None:
    for slug in manual.counter_ciphers():
        assert slug.split("-")[0] in ("aes", "chacha20", "camellia"), slug
    assert "aes-256-cbc" not in manual.counter_ciphers()


@pytest.mark.parametrize(
    ("ways", "fine"), [(["both"], True), (["in", "out"], True), (["in"], False), (["both", "in"], False), ([], False)]
)
def test_both_or_in_and_out(paris: Gateway, lyon: Gateway, ways: list[str], fine: bool) -> None:
    data = with_sas(paris, lyon, *(cast.manual_sa(way, number) for number, way in enumerate(ways, 1)))
    if fine:
        assert services.create_tunnel(None, data).pk
    else:
        assert "one SA for both directions, or one each" in errors(data)["selectors.0.manual"][0]


def test_what_a_pair_and_a_tunnel_may_have(paris: Gateway, lyon: Gateway) -> None:
    data = cast.manual_input(paris, lyon)
    bare = dataclasses.replace(data, selectors=[dataclasses.replace(data.selectors[0], manual=None)])
    assert "nothing is negotiated" in errors(bare)["selectors.0.manual"][0]
    many = [
        SelectorInput(network_a=f"10.1.{n}.0/24", network_b=f"10.2.{n}.0/24", manual=cast.manual()) for n in range(9)
    ]
    assert "at most 8 pairs" in errors(dataclasses.replace(data, selectors=many))["selectors"][0]
    wide = with_sas(paris, lyon, *cast.manual().sas, replay_window=5_000)
    assert list(errors(wide)) == ["selectors.0.manual.replay_window"]
    transport = with_sas(paris, lyon, *cast.manual().sas, mode="transport")
    assert "for transport mode" in errors(transport)["selectors.0.network_a"][0]


def test_an_spi_names_one_sa_at_an_address(paris: Gateway, lyon: Gateway) -> None:
    pairs = [SelectorInput(network_a="10.1.0.0/24", network_b=f"10.2.{n}.0/24", manual=cast.manual()) for n in range(2)]
    found = errors(cast.manual_input(paris, lyon, selectors=pairs))
    assert set(found) == {"selectors.1.in.esp_spi", "selectors.1.out.esp_spi"}
    assert "ESP SPI 0x00001002 at 192.0.2.1 belongs to pair 1" in found["selectors.1.in.esp_spi"][0]
    cast.make_manual(paris, lyon)
    other = cast.make_gateway("nice", "203.0.113.77", "10.77.0.0/24")
    again = cast.manual_input(paris, other)
    assert "belongs to tunnel paris-lyon-manual" in errors(again)["selectors.0.in.esp_spi"][0]


def test_one_child_compresses_at_an_address(paris: Gateway, lyon: Gateway) -> None:
    def pairs(*compressing: bool) -> list[SelectorInput]:
        return [
            SelectorInput(
                network_a="10.1.0.0/24", network_b=f"10.2.{n}.0/24",
                manual=cast.manual(sas=[cast.manual_sa("both", 20 + n)], ipcomp=ipcomp),
            )
            for n, ipcomp in enumerate(compressing)
        ]  # fmt: skip

    found = errors(cast.manual_input(paris, lyon, selectors=pairs(True, True)))
    assert list(found) == ["selectors.1.manual.ipcomp"]
    assert "Pair 1 compresses at 192.0.2.1 already" in found["selectors.1.manual.ipcomp"][0]
    cast.make_manual(paris, lyon, selectors=pairs(True, False))
    other = cast.make_gateway("nice", "203.0.113.77", "10.77.0.0/24")
    far = cast.manual_sa("both", 70)
    pair = SelectorInput(network_a="10.1.0.0/24", network_b="10.77.0.0/24", manual=cast.manual(sas=[far], ipcomp=True))
    data = cast.manual_input(paris, other, selectors=[pair])
    assert "tunnel paris-lyon-manual compresses" in errors(data)["selectors.0.manual.ipcomp"][0]
    waiting = services.create_tunnel(None, dataclasses.replace(data, enabled=False))
    with pytest.raises(ValidationError, match="let one of them do without"):
        services.set_enabled(None, waiting, True)


def test_other_networks_leave_the_sas_and_their_name(paris: Gateway, lyon: Gateway) -> None:
    pairs = [
        SelectorInput(
            network_a="10.1.0.0/24",
            network_b=f"10.2.{n}.0/24",
            manual=cast.manual(sas=[cast.manual_sa("both", 20 + n)]),
        )
        for n in range(2)
    ]
    tunnel = cast.make_manual(paris, lyon, selectors=pairs)
    before = {pair.seq: pair.manual.sas.all()[0].pk for pair in tunnel.selectors.all()}
    data = TunnelInput.of(tunnel)
    moved = [dataclasses.replace(data.selectors[1], network_b="10.2.7.0/24"), data.selectors[0]]
    tunnel = services.update_tunnel(None, tunnel, dataclasses.replace(data, selectors=moved))
    assert [(pair.seq, pair.network_b) for pair in tunnel.selectors.all()] == [(2, "10.2.7.0/24"), (1, "10.2.0.0/24")]
    assert {pair.seq: pair.manual.sas.all()[0].pk for pair in tunnel.selectors.all()} == before


def test_keys_are_kept_replaced_and_checked_against_another_algorithm(paris: Gateway, lyon: Gateway) -> None:
    tunnel = cast.make_manual(paris, lyon)
    before = {way: row.key("encryption_key") for way, row in sas(tunnel).items()}
    data = TunnelInput.of(tunnel)
    moved = dataclasses.replace(data.selectors[0], network_b="10.2.8.0/24")
    services.update_tunnel(None, tunnel, dataclasses.replace(data, selectors=[moved]))
    assert {way: row.key("encryption_key") for way, row in sas(tunnel).items()} == before

    kept = TunnelInput.of(queries.get_tunnel(tunnel.pk)).selectors[0]
    assert kept.manual is not None
    longer = [dataclasses.replace(sa, encryption="aes-256-cbc") for sa in kept.manual.sas]
    bad = dataclasses.replace(kept, manual=dataclasses.replace(kept.manual, sas=longer))
    with pytest.raises(ValidationError) as caught:
        services.update_tunnel(None, tunnel, dataclasses.replace(data, selectors=[bad]))
    assert "32 octets (64 hexadecimal digits), the stored one has 16" in str(caught.value.message_dict)
    fresh = [dataclasses.replace(sa, keys=Keys.GENERATE) for sa in longer]
    good = dataclasses.replace(kept, manual=dataclasses.replace(kept.manual, sas=fresh))
    services.update_tunnel(None, tunnel, dataclasses.replace(data, selectors=[good]))
    assert [len(row.key("encryption_key") or b"") for row in sas(tunnel).values()] == [32, 32]
    event = AuditEvent.objects.first()
    assert event is not None
    assert event.details["fields"] == ["manual SAs", "manual keys"]


def test_the_keys_of_another_tunnel_are_not_to_be_had(paris: Gateway, lyon: Gateway) -> None:
    theirs = sas(cast.make_manual(paris, lyon))["in"].pk
    other = cast.make_gateway("nice", "203.0.113.77", "10.77.0.0/24")
    data = with_sas(paris, other, *(cast.manual_sa(way, 7, keys=Keys.KEEP, stored=theirs) for way in ("in", "out")))
    assert "enter one, or let the console generate it" in errors(data)["selectors.0.in.encryption_key"][0]


def test_a_copy_has_spis_and_keys_of_its_own(paris: Gateway, lyon: Gateway) -> None:
    tunnel = cast.make_manual(paris, lyon)
    held = TunnelInput.of(tunnel).selectors[0].manual
    assert isinstance(held, ManualInput)
    assert {(sa.esp_spi, sa.keys, sa.stored) for sa in held.fresh().sas} == {(None, Keys.GENERATE, None)}


def test_deleting_and_changing_the_kind_takes_the_keys_along(paris: Gateway, lyon: Gateway) -> None:
    tunnel = cast.make_manual(paris, lyon)
    services.update_tunnel(None, tunnel, cast.tunnel_input(paris, lyon, cast.make_psk()))
    assert not ManualSa.objects.exists()
    services.update_tunnel(None, tunnel, cast.manual_input(paris, lyon))
    assert ManualSa.objects.count() == 2
    services.delete_tunnel(None, tunnel)
    assert not ManualSa.objects.exists()


def test_advice_says_that_negotiated_keys_are_better(paris: Gateway, lyon: Gateway) -> None:
    data = with_sas(paris, lyon, cast.manual_sa("both", 1, integrity="hmac-sha1-96", integrity_key=Secret(bytes(20))))
    codes = [each.code for each in match.tunnel_advice(services.create_tunnel(None, data))]
    assert codes == ["manual-keys", "one-key", "weak-algorithm", "no-route", "no-route"]


def test_legacy_algorithms_go_only_where_gateways_allow_them(paris: Gateway, extranet: Gateway) -> None:
    old = {"encryption": "3des-cbc", "encryption_key": Secret(bytes(24))}
    both = [cast.manual_sa(way, number, **old) for number, way in enumerate(("in", "out"), 1)]
    assert "3DES" in errors(with_sas(paris, extranet, *both))["selectors.0.in.encryption"][0]
    assert services.create_tunnel(None, with_sas(allowing_legacy(paris), extranet, *both)).pk


def test_a_manual_key_is_shown_nowhere_but_by_a_logged_action(
    alice: User, client: Client, paris: Gateway, lyon: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    planted = bytes.fromhex("5a17c0dec0ffee0badf00d1234567890")
    client.force_login(alice)
    with caplog.at_level(logging.DEBUG):
        data = with_sas(paris, lyon, cast.manual_sa("out", 1), cast.manual_sa("in", 2, encryption_key=Secret(planted)))
        tunnel = services.create_tunnel(alice, data)
        stored = queries.get_tunnel(tunnel.pk)
        row = stored.selectors.all()[0].manual.sas.all()[0]
        shown = [repr(data), repr(TunnelInput.of(stored)), repr(row), str(vars(row)), caplog.text]
        shown += [str(list(ManualSa.objects.values())), str(list(AuditEvent.objects.values()))]
        for name, arguments in (
            ("monitor:tunnel", [tunnel.pk]),
            ("vpn:tunnel-edit", [tunnel.pk]),
            ("vpn:manual-keys", [tunnel.pk]),
            ("rollout:changes", []),
            ("monitor:tunnels", []),
            ("accounts:audit", []),
        ):
            response = client.get(reverse(name, args=arguments))
            assert response.status_code == 200
            shown.append(response.content.decode())
        page = client.post(reverse("vpn:manual-keys", args=[tunnel.pk]))
    assert planted.hex() in page.content.decode()
    assert "no-store" in page["Cache-Control"]
    assert AuditEvent.objects.filter(action="tunnel.manual-keys-revealed", actor="alice").count() == 1
    for text in (*shown, caplog.text):
        assert planted.hex() not in text
        assert str(planted) not in text
