"""Makes the objects one test needs in a console's database, in a process of its own, and prints their ids as JSON.

``python -m tests.console.celery.seed NAME NUMBER PSK``: gateways paris-NAME and lyon-NAME, a tunnel between them with
the key, an API token of alice, and an enrolment token for each gateway.
"""

from __future__ import annotations

import json
import os
import sys

import django


def main(name: str, number: int, psk: str) -> None:
    """Make everything through the services."""
    from vpnconsole.accounts.models import User
    from vpnconsole.accounts.services import create_api_token, create_first_user
    from vpnconsole.gateways.services import AddressInput, GatewayInput, create_gateway, issue_enrolment_token
    from vpnconsole.vpn import keys, services
    from vpnconsole.vpn.inputs import EndInput, SelectorInput, TunnelInput
    from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy

    alice = User.objects.filter(username="alice").first() or create_first_user(
        username="alice", password="a long enough passphrase"
    )
    _, token = create_api_token(alice, alice, name)
    gateways = {}
    for city, net in (("paris", 1), ("lyon", 2)):
        gateways[city] = create_gateway(
            alice,
            GatewayInput(
                name=f"{city}-{name}",
                agent_host="127.0.0.1",
                addresses=[AddressInput(address=f"192.0.{net}.{number}")],
                protected_networks=[f"10.{net}.{number}.0/24"],
            ),
        )
    tunnel = services.create_tunnel(
        alice,
        TunnelInput(
            name=f"tunnel-{name}",
            end_a=EndInput(gateway=gateways["paris"], address=f"192.0.1.{number}"),
            end_b=EndInput(gateway=gateways["lyon"], address=f"192.0.2.{number}"),
            selectors=[SelectorInput(network_a=f"10.1.{number}.0/24", network_b=f"10.2.{number}.0/24")],
            ike_policy=IKEPolicy.objects.get(name="default"),
            ipsec_policy=IPsecPolicy.objects.get(name="default"),
            psk=keys.create_psk(alice, name=name, value=psk, encoding="ascii"),
        ),
    )
    result = {
        "api_token": token,
        "tunnel": str(tunnel.pk),
        "gateways": {city: str(gateway.pk) for city, gateway in gateways.items()},
        "tokens": {city: issue_enrolment_token(alice, gateway).text() for city, gateway in gateways.items()},
    }
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "vpnconsole.settings"
    django.setup()
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
