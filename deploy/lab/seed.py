"""What the demo's operator does, through the services the browser uses.

Django is set up once :func:`configure` has said where the console's data lies; nothing of it is imported before.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.lab.netns import run
from deploy.lab.topology import EXTRANET, LYON, OFFICE, PARIS, Site

if TYPE_CHECKING:
    from vpnconsole.accounts.models import User

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = "admin"
FIELD_DOMAIN = "field.example.org"
FIELD_NETWORKS = "10.64.0.0/10"
"""Peers of the on-demand tunnel have names below this one, and a network each somewhere in these."""


def configure(data: Path, sockets: Path) -> None:
    """Point this process and its children at a console of its own, and make that console's keys and database."""
    os.environ["VPNCONSOLE_DATA_DIR"] = str(data)
    os.environ["VPNCONSOLE_RUN_DIR"] = str(sockets)
    os.environ["DJANGO_SETTINGS_MODULE"] = "vpnconsole.settings"
    for other in (
        "VPNCONSOLE_BROKER_URL",
        "VPNCONSOLE_DATABASE_URL",
        "VPNCONSOLE_KEK_FILE",
        "VPNCONSOLE_SECRET_KEY_FILE",
    ):
        os.environ.pop(other, None)
    run(sys.executable, str(ROOT / "manage.py"), "setup", "--verbosity", "0")
    import django

    django.setup()


def set_up(username: str, password: str) -> None:
    """Make the first user."""
    from vpnconsole.accounts.services import create_first_user

    create_first_user(username=username, password=password, source="demo")


def create_gateway(site: Site, agent_host: str, agent_port: int) -> str:
    """Define a managed gateway and return a one-time token for its agent."""
    from vpnconsole.gateways import services

    data = services.GatewayInput(
        name=site.name, agent_host=agent_host, agent_port=agent_port,
        addresses=[services.AddressInput(address=site.outer_address, label="internet")],
        protected_networks=[site.lan_network],
    )  # fmt: skip
    gateway = services.create_gateway(_operator(), data)
    return services.issue_enrolment_token(_operator(), gateway).text()


def create_extranet(site: Site, description: str) -> None:
    """Define a gateway that is not ours to manage."""
    from vpnconsole.gateways import services
    from vpnconsole.gateways.choices import GatewayKind

    data = services.GatewayInput(
        name=site.name, kind=GatewayKind.EXTRANET, description=description,
        addresses=[services.AddressInput(address=site.outer_address)], protected_networks=[site.lan_network],
    )  # fmt: skip
    services.create_gateway(_operator(), data)


def contacted(name: str) -> bool:
    """Tell whether a gateway's agent has answered the console."""
    from vpnconsole.gateways.models import Gateway

    return Gateway.objects.get(name=name).last_contact_at is not None


def create_tunnels(extranet_psks: Mapping[str, str], field_psk: str) -> None:
    """Define paris-lyon, paris's tunnels to the extranet gateways with these keys by name and the one for whoever
    calls from the field, and deploy them.
    """
    from vpnconsole.rollout.services import deploy
    from vpnconsole.vpn import keys
    from vpnconsole.vpn.choices import IkeVersionChoice

    operator = _operator()
    between = keys.generate_psk(operator, name="paris-lyon", description="Generated for the tunnel paris-lyon")
    for name, value in extranet_psks.items():
        keys.create_psk(operator, name=f"paris-{name}", value=value, description="Agreed with the partner")
    _create_tunnel("paris-lyon", PARIS, LYON, between.name)
    _create_tunnel("paris-extranet", PARIS, EXTRANET, "paris-extranet")
    _create_tunnel("paris-office", PARIS, OFFICE, "paris-office", version=IkeVersionChoice.V1, policies="compatible")
    _create_on_demand_tunnel(field_psk)
    deploy(operator, note="First tunnels")


def create_token() -> str:
    """Return a new API token for whoever reads ``demo.json``."""
    from vpnconsole.accounts.services import create_api_token

    _, token = create_api_token(_operator(), _operator(), "demo.json")
    return token


def all_up() -> bool:
    """Tell whether the console shows every tunnel as up."""
    from vpnconsole.monitor.choices import ConsoleState
    from vpnconsole.monitor.queries import tunnel_rows

    rows = tunnel_rows()
    return bool(rows) and all(row.state == ConsoleState.UP for row in rows)


def _operator() -> User:
    from vpnconsole.accounts.models import User

    return User.objects.get(username=OPERATOR)


def _create_tunnel(
    name: str, here: Site, there: Site, psk: str, *, version: str = "v2", policies: str = "default"
) -> None:
    from vpnconsole.gateways.models import Gateway
    from vpnconsole.vpn import services
    from vpnconsole.vpn.inputs import EndInput, SelectorInput, TunnelInput
    from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, PresharedKey

    def end(site: Site) -> EndInput:
        return EndInput(gateway=Gateway.objects.get(name=site.name), address=site.outer_address)

    data = TunnelInput(
        name=name, end_a=end(here), end_b=end(there),
        selectors=[SelectorInput(network_a=here.lan_network, network_b=there.lan_network)],
        ike_policy=IKEPolicy.objects.get(name=policies), ipsec_policy=IPsecPolicy.objects.get(name=policies),
        psk=PresharedKey.objects.get(name=psk), version=version,
    )  # fmt: skip
    services.create_tunnel(_operator(), data)


def _create_on_demand_tunnel(psk: str) -> None:
    from vpnconsole.gateways.models import Gateway
    from vpnconsole.vpn import keys, services
    from vpnconsole.vpn.choices import ConnectionTypeChoice, TunnelKindChoice
    from vpnconsole.vpn.inputs import EndInput, PeersInput, SelectorInput, TunnelInput
    from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy

    key = keys.create_psk(_operator(), name="paris-field", value=psk, description="For whoever calls from the field")
    data = TunnelInput(
        name="paris-field", kind=TunnelKindChoice.ON_DEMAND, psk=key,
        end_a=EndInput(
            gateway=Gateway.objects.get(name=PARIS.name), address=PARIS.outer_address,
            connection_type=ConnectionTypeChoice.RESPONDER_ONLY,
        ),
        peers=PeersInput(identity_value=f"*.{FIELD_DOMAIN}", most_peers=20),
        selectors=[SelectorInput(network_a=PARIS.lan_network, network_b=FIELD_NETWORKS)],
        ike_policy=IKEPolicy.objects.get(name="default"), ipsec_policy=IPsecPolicy.objects.get(name="default"),
    )  # fmt: skip
    services.create_tunnel(_operator(), data)
