"""Keys, policies and tunnels in the browser."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from tests.console import cast
from vpnconsole.accounts.models import AuditEvent, User
from vpnconsole.gateways.models import Gateway
from vpnconsole.vpn.models import IKEPolicy, IKEProposal, IPsecPolicy, IPsecProposal, PresharedKey, Tunnel


@pytest.fixture
def client(client: Client, alice: User) -> Client:
    client.force_login(alice)
    return client


def errors(response: Any, form: Any, field: str) -> str:
    assert response.status_code == 422
    return " ".join(form.errors.get(field, []))


# Keys


def test_generated_key_is_not_shown(client: Client) -> None:
    response = client.post(reverse("vpn:key-create"), {"name": "k", "how": "generate", "encoding": "hex"}, follow=True)
    key = PresharedKey.objects.get()
    assert key.length_octets == 32
    assert key.secret.reveal().hex() not in response.content.decode()


def test_typed_key_is_revealed_by_a_logged_post_only(client: Client) -> None:
    values = {"name": "k", "how": "enter", "encoding": "ascii", "value": cast.PLANTED}
    client.post(reverse("vpn:key-create"), values)
    key = PresharedKey.objects.get()
    page = reverse("vpn:key", args=[key.pk])
    reveal = reverse("vpn:key-reveal", args=[key.pk])
    assert cast.PLANTED not in client.get(page).content.decode()
    assert client.get(reveal).status_code == 405
    response = client.post(reveal)
    assert cast.PLANTED in response.content.decode()
    assert "no-store" in response["Cache-Control"]
    assert AuditEvent.objects.filter(action="psk.revealed", actor="alice").count() == 1
    assert cast.PLANTED not in client.get(page).content.decode()


@pytest.mark.parametrize(
    ("value", "encoding", "words"),
    [
        ('with "quotes" inside', "ascii", "Leave out quotes"),
        ("xyz0", "hex", "Use only the digits"),
        ("abc", "hex", "odd number"),
        ("", "hex", "Enter the key"),
    ],
)
def test_bad_key_is_refused_beside_the_field(client: Client, value: str, encoding: str, words: str) -> None:
    values = {"name": "k", "how": "enter", "encoding": encoding, "value": value}
    response = client.post(reverse("vpn:key-create"), values)
    assert words in errors(response, response.context["form"], "value")
    assert not PresharedKey.objects.exists()


def test_replace_rename_delete_key(client: Client, psk: PresharedKey) -> None:
    before = psk.secret.reveal()
    client.post(reverse("vpn:key-replace", args=[psk.pk]), {"how": "generate", "encoding": "hex"})
    psk.refresh_from_db()
    assert psk.secret.reveal() != before
    client.post(reverse("vpn:key", args=[psk.pk]), {"name": "renamed", "description": ""})
    psk.refresh_from_db()
    assert psk.name == "renamed"
    client.post(reverse("vpn:key-delete", args=[psk.pk]))
    assert not PresharedKey.objects.exists()


def test_key_in_use_is_not_deleted(client: Client, tunnel: Tunnel) -> None:
    response = client.post(reverse("vpn:key-delete", args=[tunnel.psk_id]), follow=True)
    assert "is used by" in response.content.decode()
    assert PresharedKey.objects.exists()


# Policies


def test_create_and_edit_ike_proposal(client: Client) -> None:
    values = {
        "name": "cbc",
        "encryption": "aes-256-cbc",
        "integrity": "hmac-sha2-256-128",
        "prf": "prf-hmac-sha2-256",
        "group": "group-14",
    }
    client.post(reverse("vpn:policy-create", args=["ike-proposal"]), values)
    row = IKEProposal.objects.get(name="cbc")
    url = reverse("vpn:policy-edit", args=["ike-proposal", row.pk])
    client.post(url, {**values, "encryption": "aes-256-gcm-16", "integrity": ""})
    row.refresh_from_db()
    assert (row.encryption, row.integrity) == ("aes-256-gcm-16", None)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"group": ""}, "group", "without a Diffie-Hellman group"),
        ({"integrity": ""}, "integrity", "needs an integrity algorithm"),
        ({"encryption": "aes-256-gcm-16"}, "integrity", "protects integrity itself"),
    ],
)
def test_bad_proposal_is_refused_beside_the_field(
    client: Client, change: dict[str, str], field: str, words: str
) -> None:
    values = {
        "name": "cbc",
        "encryption": "aes-256-cbc",
        "integrity": "hmac-sha2-256-128",
        "prf": "prf-hmac-sha2-256",
        "group": "group-14",
    }
    response = client.post(reverse("vpn:policy-create", args=["ike-proposal"]), {**values, **change})
    assert words in errors(response, response.context["form"], field)


def test_weak_choices_say_why(client: Client) -> None:
    page = client.get(reverse("vpn:policy-create", args=["ike-proposal"])).content.decode()
    assert "SHA-1 is kept for old peers only" in page


def test_the_list_says_which_proposals_are_weak_and_why(client: Client) -> None:
    cast.default_policies()
    url = reverse("vpn:policies")
    assert "SHA-1 is kept" not in client.get(url).content.decode()
    IPsecProposal.objects.create(name="old", encryption="aes-128-cbc", integrity="hmac-sha1-96")
    assert "SHA-1 is kept" in client.get(url).content.decode()


def test_ipsec_policy_keeps_the_order_of_proposals(client: Client) -> None:
    cast.default_policies()
    first, second = IPsecProposal.objects.order_by("-name")[:2]
    values = {
        "name": "p", "lifetime_s": "3600", "lifetime_bytes": "0", "lifetime_packets": "0", "replay_window": "64",
        "sequence_numbers": "prefer-extended", "mode": "tunnel", "ipcomp": "on", "pfs_group": "group-31",
        "proposals_0": str(first.pk), "proposals_1": "", "proposals_2": str(second.pk), "proposals_3": "",
    }  # fmt: skip
    client.post(reverse("vpn:policy-create", args=["ipsec-policy"]), values)
    policy = IPsecPolicy.objects.get(name="p")
    assert policy.ordered_proposals() == [first, second]
    assert (policy.sequence_numbers, policy.mode, policy.ipcomp) == ("prefer-extended", "tunnel", True)
    response = client.post(
        reverse("vpn:policy-edit", args=["ipsec-policy", policy.pk]), {**values, "proposals_2": str(first.pk)}
    )
    assert "can stand once" in errors(response, response.context["form"], "proposals_0")


def test_policy_without_proposals_is_refused(client: Client) -> None:
    cast.default_policies()
    values = {
        "name": "p", "lifetime_s": "86400", "dpd_interval_s": "30", "dpd_action": "hold", "keepalive_s": "15",
        "reauth_s": "7200", "reauthentication": "break-before-make", "unique": "keep", "fragmentation": "on",
    }  # fmt: skip
    response = client.post(reverse("vpn:policy-create", args=["ike-policy"]), values)
    assert "Choose 1 to 16" in errors(response, response.context["form"], "proposals_0")
    values["proposals_0"] = str(IKEProposal.objects.all()[0].pk)
    client.post(reverse("vpn:policy-create", args=["ike-policy"]), values)
    policy = IKEPolicy.objects.get(name="p")
    assert (policy.dpd_action, policy.keepalive_s, policy.reauth_s, policy.unique) == ("hold", 15, 7200, "keep")
    assert (policy.reauthentication, policy.mobike, policy.fragmentation) == ("break-before-make", False, True)
    page = client.get(reverse("vpn:policy-edit", args=["ike-policy", policy.pk]))
    assert page.context["form"].initial["reauth_s"] == 7200


def test_policy_in_use_is_not_deleted(client: Client, tunnel: Tunnel) -> None:
    url = reverse("vpn:policy-delete", args=["ike-policy", tunnel.policies.ike_policy.pk])
    assert "is used by" in client.post(url, follow=True).content.decode()
    assert IKEPolicy.objects.filter(pk=tunnel.policies.ike_policy.pk).exists()


def test_unknown_kind_is_not_found(client: Client) -> None:
    assert client.get(reverse("vpn:policy-create", args=["no-such-kind"])).status_code == 404


# Tunnels


@pytest.fixture
def form(paris: Gateway, lyon: Gateway) -> dict[str, str]:
    ike_policy, ipsec_policy = cast.default_policies()
    return {
        "name": "paris-lyon",
        "description": "office to plant",
        "end_a-gateway": str(paris.pk),
        "end_a-address": cast.PARIS_ADDRESS,
        "end_a-identity_type": "",
        "end_a-identity_value": "",
        "end_a-connection_type": "both",
        "end_b-gateway": str(lyon.pk),
        "end_b-address": cast.LYON_ADDRESS,
        "end_b-identity_type": "",
        "end_b-identity_value": "",
        "end_b-connection_type": "both",
        "pairs": "1",
        "selectors-0-network_a": cast.PARIS_NETWORK,
        "selectors-0-network_b": cast.LYON_NETWORK,
        "selectors-0-protocol": "0",
        "ike_policy": str(ike_policy.pk),
        "ipsec_policy": str(ipsec_policy.pk),
        "key_how": "generate",
        "key_encoding": "hex",
        "enabled": "on",
        "add_routes": "on",
    }


def test_create_tunnel_with_a_key_of_its_own(client: Client, form: dict[str, str]) -> None:
    response = client.post(reverse("vpn:tunnel-create"), form)
    tunnel = Tunnel.objects.get()
    assert response["Location"] == reverse("monitor:tunnel", args=[tunnel.pk])
    assert tunnel.preshared_key.name == "paris-lyon"
    assert tunnel.end_a.identity_value == cast.PARIS_ADDRESS
    assert str(tunnel.selectors.get()) == f"{cast.PARIS_NETWORK} - {cast.LYON_NETWORK}"


def test_create_tunnel_with_a_typed_key(client: Client, form: dict[str, str]) -> None:
    typed = {**form, "key_how": "enter", "key_value": "ab" * 32, "key_name": "agreed"}
    client.post(reverse("vpn:tunnel-create"), typed)
    assert Tunnel.objects.get().preshared_key.secret.reveal() == bytes.fromhex("ab" * 32)


def test_ports_reach_the_selector(client: Client, form: dict[str, str]) -> None:
    narrowed = {**form, "selectors-0-protocol": "6", "selectors-0-ports_a": "1000-2000", "selectors-0-ports_b": "443"}
    client.post(reverse("vpn:tunnel-create"), narrowed)
    pair = Tunnel.objects.get().selectors.get()
    assert (pair.protocol, pair.port_a_start, pair.port_a_end, pair.port_b_start, pair.port_b_end) == (
        6,
        1000,
        2000,
        443,
        443,
    )


@pytest.mark.parametrize(
    ("change", "where", "field", "words"),
    [
        ({"name": ""}, "main", "name", "cannot be blank"),
        ({"end_b-gateway": ""}, "end_b", "gateway", "Choose a gateway"),
        ({"end_b-address": "203.0.113.200"}, "end_b", "address", "has no address"),
        ({"end_a-identity_type": "ipv4", "end_a-identity_value": "nonsense"}, "end_a", "identity_value", "identity"),
        ({"selectors-0-network_b": cast.PARIS_NETWORK}, "pair", "network_b", "overlap"),
        ({"selectors-0-network_b": "2001:db8::/64"}, "pair", "network_b", "same kind"),
        ({"selectors-0-network_b": "10.2.0.1/24"}, "pair", "network_b", "did you mean"),
        ({"selectors-0-ports_a": "x"}, "pair", "ports_a", "Write a port"),
        ({"selectors-0-protocol": "6", "selectors-0-ports_a": "9-3"}, "pair", "ports_a", "before the first"),
        ({"key_how": "enter", "key_value": 'a"b', "key_encoding": "ascii"}, "main", "key_value", "Leave out quotes"),
        ({"key_how": "existing"}, "main", "psk", "Choose a key"),
        ({"ike_policy": ""}, "main", "ike_policy", "Choose an IKE policy"),
        ({"mtu": "90"}, "main", "mtu", "256"),
        (
            {"end_a-connection_type": "responder-only", "end_b-connection_type": "responder-only"},
            "end_b", "connection_type", "neither",
        ),
    ],
)  # fmt: skip
def test_bad_value_is_refused_beside_its_field(
    client: Client, form: dict[str, str], change: dict[str, str], where: str, field: str, words: str
) -> None:
    response = client.post(reverse("vpn:tunnel-create"), {**form, **change})
    forms = response.context["forms"]
    target = {"main": forms.main, "pair": forms.pairs[0], **forms.ends}[where]
    assert words in errors(response, target, field)
    assert not Tunnel.objects.exists()
    assert not PresharedKey.objects.exists()
    page = response.content.decode()
    assert 'data-test="error-summary"' in page
    assert "office to plant" in page


def test_errors_of_a_later_pair_stand_there_when_an_earlier_one_is_blank(client: Client, form: dict[str, str]) -> None:
    values = {
        **form, "pairs": "2", "selectors-0-network_a": "", "selectors-0-network_b": "",
        "selectors-1-network_a": "10.1.0.0/24", "selectors-1-network_b": "10.1.0.0/16",
    }  # fmt: skip
    response = client.post(reverse("vpn:tunnel-create"), values)
    assert not response.context["forms"].pairs[0].errors
    assert "overlap" in errors(response, response.context["forms"].pairs[1], "network_b")


def test_edit_shows_and_saves(client: Client, tunnel: Tunnel, form: dict[str, str]) -> None:
    url = reverse("vpn:tunnel-edit", args=[tunnel.pk])
    page = client.get(url).content.decode()
    assert cast.PARIS_NETWORK in page
    assert cast.PLANTED not in page
    values = {**form, "key_how": "existing", "psk": str(tunnel.psk_id), "mtu": "1400"}
    assert client.post(url, values)["Location"] == reverse("monitor:tunnel", args=[tunnel.pk])
    tunnel.refresh_from_db()
    assert tunnel.mtu == 1400
    response = client.post(url, {**values, "mtu": "1"})
    assert response.status_code == 422


def test_copy_starts_from_another_tunnel(client: Client, tunnel: Tunnel) -> None:
    forms = client.get(reverse("vpn:tunnel-create"), {"copy": str(tunnel.pk)}).context["forms"]
    assert forms.main["name"].value() == "paris-lyon-copy"
    assert forms.main["key_how"].value() == "generate"
    assert forms.pairs[0]["network_a"].value() == cast.PARIS_NETWORK


def test_switch_off_and_on(client: Client, tunnel: Tunnel) -> None:
    url = reverse("vpn:tunnel-switch", args=[tunnel.pk])
    client.post(url, {"enabled": "no"})
    tunnel.refresh_from_db()
    assert not tunnel.enabled
    assert tunnel.disabled_by is not None
    client.post(url, {"enabled": "yes"})
    tunnel.refresh_from_db()
    assert tunnel.enabled


def test_delete_asks_first(client: Client, tunnel: Tunnel) -> None:
    url = reverse("vpn:tunnel-delete", args=[tunnel.pk])
    assert "keep carrying its traffic" in client.get(url).content.decode()
    assert Tunnel.objects.exists()
    client.post(url)
    assert not Tunnel.objects.exists()
    assert PresharedKey.objects.exists()


# What the form fills in by itself


def test_choosing_gateways_fills_in_the_rest(client: Client, form: dict[str, str]) -> None:
    for name in ("name", "end_a-address", "end_b-address", "selectors-0-network_a", "selectors-0-network_b"):
        form[name] = ""
    response = client.post(reverse("vpn:tunnel-refill"), form, headers={"HX-Request": "true"})
    assert response.status_code == 200
    assert b"<html" not in response.content
    forms = response.context["forms"]
    assert forms.main["name"].value() == "paris-lyon"
    assert forms.ends["end_b"]["address"].value() == cast.LYON_ADDRESS
    assert forms.ends["end_b"]["identity_value"].value() == cast.LYON_ADDRESS
    assert forms.pairs[0]["network_b"].value() == cast.LYON_NETWORK


def test_without_scripts_the_whole_page_is_filled(client: Client, form: dict[str, str]) -> None:
    response = client.post(reverse("vpn:tunnel-refill"), {**form, "name": "", "fill": "yes"})
    assert b"<html" in response.content
    assert response.context["forms"].main["name"].value() == "paris-lyon"
    assert not Tunnel.objects.exists()


def test_add_and_remove_a_pair(client: Client, form: dict[str, str]) -> None:
    more = client.post(reverse("vpn:tunnel-refill"), {**form, "add_pair": "yes"}).context["forms"]
    assert [pair["network_a"].value() for pair in more.pairs] == [cast.PARIS_NETWORK, None]
    values = {**form, "pairs": "2", "selectors-1-network_a": "10.7.0.0/24", "remove_pair": "0"}
    fewer = client.post(reverse("vpn:tunnel-refill"), values).context["forms"]
    assert [pair["network_a"].value() for pair in fewer.pairs] == ["10.7.0.0/24"]


def test_weak_policy_says_why_in_the_form(client: Client, form: dict[str, str]) -> None:
    policy = IPsecPolicy.objects.get(name="default")
    policy.pfs_group = None
    policy.save()
    page = client.post(reverse("vpn:tunnel-refill"), form).content.decode()
    assert "No PFS group" in page


# IKEv1 and makes of peers


@pytest.fixture
def aix(db: None) -> Gateway:
    return cast.make_gateway("aix", cast.EXTRANET_ADDRESS, cast.EXTRANET_NETWORK, kind="extranet", profile="aix")


def test_version_of_a_tunnel_is_created_and_edited(client: Client, form: dict[str, str]) -> None:
    ike_policy, ipsec_policy = IKEPolicy.objects.get(name="compatible"), IPsecPolicy.objects.get(name="compatible")
    old = {**form, "version": "v1", "ike_policy": str(ike_policy.pk), "ipsec_policy": str(ipsec_policy.pk)}
    client.post(reverse("vpn:tunnel-create"), old)
    tunnel = Tunnel.objects.get()
    assert tunnel.version == "v1"
    url = reverse("vpn:tunnel-edit", args=[tunnel.pk])
    page = client.get(url)
    assert page.context["forms"].main["version"].value() == "v1"
    assert "the key is chosen by the pair of addresses 192.0.2.1 and 198.51.100.1" in page.content.decode()
    client.post(url, {**old, "key_how": "existing", "psk": str(tunnel.psk_id), "version": "v2-else-v1"})
    tunnel.refresh_from_db()
    assert tunnel.version == "v2-else-v1"


def test_a_policy_that_ikev1_cannot_use_is_refused_beside_it(client: Client, form: dict[str, str]) -> None:
    response = client.post(reverse("vpn:tunnel-create"), {**form, "version": "v1"})
    assert "choose a cipher in CBC mode" in errors(response, response.context["forms"].main, "ike_policy")
    offered = dict(response.context["forms"].main.fields["ike_policy"].widget.choices)
    assert [name for _, name in offered["Not for these ends and this IKE version"]] == ["default"]
    assert "compatible" in offered.values()


def test_an_error_about_a_new_key_stands_where_it_can_be_seen(
    client: Client, form: dict[str, str], tunnel: Tunnel
) -> None:
    ids = {
        name: str(kind.objects.get(name="compatible").pk)
        for name, kind in (("ike_policy", IKEPolicy), ("ipsec_policy", IPsecPolicy))
    }
    Tunnel.objects.update(version="v1", ike_policy_id=ids["ike_policy"], ipsec_policy_id=ids["ipsec_policy"])
    values = {
        **form, **ids, "name": "second", "version": "v1", "selectors-0-network_a": "10.1.7.0/24",
        "end_a-identity_type": "fqdn", "end_a-identity_value": "second.paris", "selectors-0-network_b": "10.2.7.0/24",
    }  # fmt: skip
    response = client.post(reverse("vpn:tunnel-create"), values)
    assert "PSK remote id already exists" in errors(response, response.context["forms"].main, "key_how")
    assert PresharedKey.objects.count() == 1


def test_the_form_offers_what_a_peer_can(client: Client, form: dict[str, str], aix: Gateway) -> None:
    Gateway.objects.filter(pk=aix.pk).update(profile="omnipcx-office")
    forms = client.get(reverse("vpn:tunnel-create")).context["forms"]
    auto = {f"auto_{name}": forms.auto[name] for name in ("version", "ike_policy", "ipsec_policy")}
    values = {**form, **auto, "version": "v2", "end_b-gateway": str(aix.pk), "end_b-address": ""}
    response = client.post(reverse("vpn:tunnel-refill"), values, headers={"hx-request": "true"})
    forms = response.context["forms"]
    assert forms.main["version"].value() == "v1"
    assert forms.main.fields["version"].widget.choices == [("v1", "IKEv1")]
    page = response.content.decode()
    assert "aix is an OmniPCX Office" in page
    assert "may call ID PROTECT" in page
    assert "called OmniPCX Office defaults" in page


def test_defaults_of_a_make_by_one_click(client: Client, form: dict[str, str], aix: Gateway) -> None:
    values = {**form, "end_b-gateway": str(aix.pk), "end_b-address": cast.EXTRANET_ADDRESS, "version": "v1"}
    response = client.post(reverse("vpn:tunnel-refill"), {**values, "make_defaults": "aix"})
    made = IKEPolicy.objects.get(name="AIX defaults")
    forms = response.context["forms"]
    assert forms.main["ike_policy"].value() == str(made.pk)
    assert forms.main["name"].value() == "paris-lyon"
    page = response.content.decode()
    assert 'data-test="make-defaults"' not in page
    # Whoever chooses them learns at once what the gateway has to allow.
    assert "which paris does not allow" in page
    assert AuditEvent.objects.filter(action="ike-policy.created", actor="alice").count() == 1
    response = client.post(reverse("vpn:tunnel-refill"), {**values, "make_defaults": "nobody"})
    assert "Nothing is known of this make" in response.content.decode()


def test_a_stored_key_that_is_short_for_aggressive_mode_is_warned_of(
    client: Client, form: dict[str, str], psk: PresharedKey
) -> None:
    short = cast.make_psk("short", "nineteen-octets-key")
    policy = IKEPolicy.objects.get(name="compatible")
    IKEPolicy.objects.filter(pk=policy.pk).update(exchange_mode="aggressive")
    values = {**form, "version": "v1", "ike_policy": str(policy.pk), "key_how": "existing"}
    for key, warned in ((short, True), (psk, False)):
        response = client.post(reverse("vpn:tunnel-refill"), {**values, "psk": str(key.pk)})
        page = response.content.decode()
        assert ("guessed from it offline" in page) is warned
        assert "travels in the clear" in page


def test_exchange_mode_and_kilobytes_of_an_ike_policy(client: Client) -> None:
    cast.default_policies()
    values = {
        "name": "p", "lifetime_s": "86400", "dpd_interval_s": "30", "dpd_action": "hold", "keepalive_s": "15",
        "reauth_s": "0", "reauthentication": "break-before-make", "unique": "keep", "exchange_mode": "aggressive",
        "lifetime_kilobytes": "5000", "proposals_0": str(IKEProposal.objects.all()[0].pk),
    }  # fmt: skip
    client.post(reverse("vpn:policy-create", args=["ike-policy"]), values)
    policy = IKEPolicy.objects.get(name="p")
    assert (policy.exchange_mode, policy.lifetime_kilobytes) == ("aggressive", 5_000)
    assert "Aggressive Mode with IKEv1" in client.get(reverse("vpn:policies")).content.decode()
    page = client.get(reverse("vpn:policy-edit", args=["ike-policy", policy.pk]))
    assert page.context["form"].initial["lifetime_kilobytes"] == 5_000
    assert "For IKEv1 only" in page.content.decode()
    response = client.post(reverse("vpn:policy-create", args=["ike-policy"]), {**values, "lifetime_kilobytes": "-1"})
    assert "greater than or equal to 0" in errors(response, response.context["form"], "lifetime_kilobytes")
