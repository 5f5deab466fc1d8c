"""Addresses of this app. The list of tunnels and a tunnel's page are the monitor's."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path

from vpnconsole.vpn.views import keys, policies, tunnels

app_name = "vpn"
urlpatterns: list[URLPattern | URLResolver] = [
    path("tunnels/new/", tunnels.create, name="tunnel-create"),
    path("tunnels/form/", tunnels.refill, name="tunnel-refill"),
    path("tunnels/<uuid:tunnel_id>/edit/", tunnels.edit, name="tunnel-edit"),
    path("tunnels/<uuid:tunnel_id>/switch/", tunnels.switch, name="tunnel-switch"),
    path("tunnels/<uuid:tunnel_id>/delete/", tunnels.delete, name="tunnel-delete"),
    path("tunnels/<uuid:tunnel_id>/manual-keys/", tunnels.manual_keys, name="manual-keys"),
    path("keys/", keys.key_list, name="keys"),
    path("keys/new/", keys.key_create, name="key-create"),
    path("keys/<uuid:key_id>/", keys.key, name="key"),
    path("keys/<uuid:key_id>/reveal/", keys.key_reveal, name="key-reveal"),
    path("keys/<uuid:key_id>/replace/", keys.key_replace, name="key-replace"),
    path("keys/<uuid:key_id>/delete/", keys.key_delete, name="key-delete"),
    path("policies/", policies.policy_list, name="policies"),
    path("policies/<slug:kind>/new/", policies.policy_edit, name="policy-create"),
    path("policies/<slug:kind>/<int:row_id>/", policies.policy_edit, name="policy-edit"),
    path("policies/<slug:kind>/<int:row_id>/delete/", policies.policy_delete, name="policy-delete"),
]
