"""The cast and the things every console test needs: Alice is an administrator, Bob and Charlie are not.

Paris and Lyon are managed gateways, the extranet is a peer of somebody else's. Everything is made by the services.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings

from agents.contract.secret import Secret
from vpnconsole.accounts.models import User
from vpnconsole.gateways.models import Gateway
from vpnconsole.gateways.services import AddressInput, GatewayInput, create_gateway
from vpnconsole.lib import sealed
from vpnconsole.vpn import keys, services
from vpnconsole.vpn.defaults import create_defaults
from vpnconsole.vpn.inputs import (
    EndInput,
    Keys,
    ManualInput,
    ManualSaInput,
    PeersInput,
    SelectorInput,
    TunnelInput,
)
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, PresharedKey, Tunnel

PARIS_ADDRESS, PARIS_NETWORK = "192.0.2.1", "10.1.0.0/24"
LYON_ADDRESS, LYON_NETWORK = "198.51.100.1", "10.2.0.0/24"
EXTRANET_ADDRESS, EXTRANET_NETWORK = "203.0.113.9", "10.9.0.0/24"
PLANTED = "planted-key-Oq7vZ2mX4tB9"
"""A key's text that must be found nowhere but in its envelope."""


def use_kek(directory: Path) -> Path:
    """Make a key file in ``directory`` and let the settings point to it."""
    path = directory / "kek"
    sealed.add_key(path)
    settings.VPNCONSOLE_KEK_FILE = path
    return path


def make_user(name: str, *, admin: bool = False) -> User:
    """Return a user whose password is their name three times."""
    return User.objects.create_user(name, password=name * 3, is_staff=admin, is_superuser=admin)


def make_gateway(name: str, address: str, *networks: str, **more: Any) -> Gateway:
    """Return a gateway with one address."""
    data = GatewayInput(name=name, addresses=[AddressInput(address=address)], protected_networks=networks, **more)
    return create_gateway(None, data)


def make_paris() -> Gateway:
    """Return the managed gateway paris."""
    return make_gateway("paris", PARIS_ADDRESS, PARIS_NETWORK)


def make_lyon() -> Gateway:
    """Return the managed gateway lyon."""
    return make_gateway("lyon", LYON_ADDRESS, LYON_NETWORK)


def make_extranet() -> Gateway:
    """Return the unmanaged peer."""
    return make_gateway("extranet", EXTRANET_ADDRESS, EXTRANET_NETWORK, kind="extranet")


def make_psk(name: str = "paris-lyon", value: str = PLANTED) -> PresharedKey:
    """Return a key that an operator typed."""
    return keys.create_psk(None, name=name, value=value, encoding="ascii")


def default_policies() -> tuple[IKEPolicy, IPsecPolicy]:
    """Return the policies called default, made anew where a test emptied the tables."""
    create_defaults(apps)
    return IKEPolicy.objects.get(name="default"), IPsecPolicy.objects.get(name="default")


def tunnel_input(end_a: Gateway, end_b: Gateway, psk: PresharedKey | None = None, /, **changes: Any) -> TunnelInput:
    """Return a tunnel between the first addresses and networks of two gateways, with ``changes`` to the fields."""
    ike_policy, ipsec_policy = default_policies()
    address_a, address_b = end_a.addresses.all()[0].address, end_b.addresses.all()[0].address
    networks = [gateway.protected_networks.all()[0].prefix for gateway in (end_a, end_b)]
    data = TunnelInput(
        name=f"{end_a.name}-{end_b.name}",
        end_a=EndInput(gateway=end_a, address=address_a),
        end_b=EndInput(gateway=end_b, address=address_b),
        selectors=[SelectorInput(network_a=networks[0], network_b=networks[1])],
        ike_policy=ike_policy,
        ipsec_policy=ipsec_policy,
        psk=psk,
    )
    return dataclasses.replace(data, **changes)


def make_tunnel(end_a: Gateway, end_b: Gateway, psk: PresharedKey | None = None, /, **changes: Any) -> Tunnel:
    """Return a tunnel; without a key it gets one of its own."""
    key = psk or keys.generate_psk(None, name=changes.get("name", f"{end_a.name}-{end_b.name}"))
    return services.create_tunnel(None, tunnel_input(end_a, end_b, key, **changes))


def on_demand_input(gateway: Gateway, psk: PresharedKey | None = None, /, **changes: Any) -> TunnelInput:
    """Return a tunnel for peers below example.org, with ``changes`` to the fields."""
    ike_policy, ipsec_policy = default_policies()
    data = TunnelInput(
        name=f"{gateway.name}-peers",
        kind="on-demand",
        end_a=EndInput(gateway=gateway, address=gateway.addresses.all()[0].address),
        peers=PeersInput(identity_type="fqdn", identity_value="*.example.org", most_peers=20),
        selectors=[SelectorInput(network_a=gateway.protected_networks.all()[0].prefix, network_b="10.200.0.0/16")],
        ike_policy=ike_policy,
        ipsec_policy=ipsec_policy,
        psk=psk,
    )
    return dataclasses.replace(data, **changes)


def make_on_demand(gateway: Gateway, /, **changes: Any) -> Tunnel:
    """Return an on-demand tunnel with a key of its own."""
    key = keys.generate_psk(None, name=changes.get("name", f"{gateway.name}-peers"))
    return services.create_tunnel(None, on_demand_input(gateway, key, **changes))


def manual_sa(direction: str, number: int, **changes: Any) -> ManualSaInput:
    """Return an SA of AES-128-CBC and SHA2-256 whose keys hold only the octet ``number``."""
    data = ManualSaInput(
        direction=direction,
        esp_spi=0x1000 + number,
        encryption="aes-128-cbc",
        integrity="hmac-sha2-256-128",
        keys=Keys.ENTER,
        encryption_key=Secret(bytes([number]) * 16),
        integrity_key=Secret(bytes([number]) * 32),
    )
    return dataclasses.replace(data, **changes)


def manual(**changes: Any) -> ManualInput:
    """Return SAs for both directions of one pair."""
    data = ManualInput(sas=[manual_sa("out", 1), manual_sa("in", 2)])
    return dataclasses.replace(data, **changes)


def manual_input(end_a: Gateway, end_b: Gateway, /, **changes: Any) -> TunnelInput:
    """Return a tunnel with manual keys between two gateways."""
    plain = tunnel_input(end_a, end_b)
    pairs = [dataclasses.replace(pair, manual=manual()) for pair in plain.selectors]
    name = f"{end_a.name}-{end_b.name}-manual"
    data = dataclasses.replace(
        plain, name=name, kind="manual", selectors=pairs, ike_policy=None, ipsec_policy=None, psk=None
    )
    return dataclasses.replace(data, **changes)


def make_manual(end_a: Gateway, end_b: Gateway, /, **changes: Any) -> Tunnel:
    """Return a tunnel with manual keys."""
    return services.create_tunnel(None, manual_input(end_a, end_b, **changes))
