"""Tunnels that are not static: on demand, waiting and with peers, and with manual keys; and what paris says of them."""

from __future__ import annotations

import dataclasses
import time

from agents.contract import status as contract
from agents.contract.secret import Secret
from agents.contract.status import TunnelState
from tests.console import cast
from vpnconsole.gateways.models import Gateway
from vpnconsole.gateways.services import AddressInput, ContextInput, GatewayInput, update_gateway
from vpnconsole.vpn.inputs import CarriageInput, EndInput, ManualInput, PeersInput, RouteInput, SelectorInput
from vpnconsole.vpn.models import QosPolicy, Tunnel

PEERS = 3


def tunnels(paris: Gateway, lyon: Gateway, extranet: Gateway) -> list[Tunnel]:
    """Return the tunnels; lyon gets a routing context for them."""
    data = GatewayInput(
        name=lyon.name,
        description=lyon.description,
        agent_host=lyon.agent_host,
        addresses=[AddressInput(address=row.address) for row in lyon.addresses.all()],
        protected_networks=[row.prefix for row in lyon.protected_networks.all()],
        contexts=[ContextInput(name="blue", table=100)],
        packet_filter=True,
    )
    update_gateway(None, lyon, data)
    here = EndInput(
        gateway=lyon,
        address=cast.LYON_ADDRESS,
        context="blue",
        route_cost=5,
        routes=[RouteInput(network="10.44.0.0/16")],
    )
    pairs = [
        SelectorInput(network_a="10.2.44.0/24", network_b="10.9.44.0/24", manual=cast.manual()),
        SelectorInput(network_a="10.2.45.0/24", network_b="10.9.45.0/24", manual=_second_pair()),
    ]
    priority = QosPolicy.objects.update_or_create(name="priority", defaults={"queues": 4, "rate_kbps": 8_000})[0]
    return [
        cast.make_on_demand(paris, description="branch offices"),
        cast.make_on_demand(
            paris, name="paris-field", peers=PeersInput(identity_type="email", identity_value="*@example.org")
        ),
        cast.make_manual(
            lyon,
            extranet,
            end_a=here,
            selectors=pairs,
            carriage=CarriageInput(attachment="interface", df_bit="clear", qos_policy=priority),
        ),
    ]


def _second_pair() -> ManualInput:
    return cast.manual(
        sas=[dataclasses.replace(cast.manual_sa("both", 9), integrity="hmac-sha1-96", integrity_key=Secret(bytes(20)))]
    )


def statuses(rows: dict[str, Tunnel], here: str) -> list[contract.TunnelStatus]:
    """Return what the gateway ``here`` says of those that end there."""
    if here == "paris":
        return [_on_demand(rows["paris-peers"], 0), _on_demand(rows["paris-field"], PEERS)]
    return [_manual(rows["lyon-extranet-manual"])] if here == "lyon" else []


def _on_demand(tunnel: Tunnel, peers: int) -> contract.TunnelStatus:
    sas = tuple(_sa(f"10.200.{number}.0/24", number) for number in range(peers))
    return contract.TunnelStatus(
        id=str(tunnel.pk),
        name=tunnel.name,
        state=TunnelState.UP if peers else TunnelState.IDLE,
        since=time.time() - 700,
        kind="on-demand",
        peers=peers,
        ike_sas=tuple(_ike(number) for number in range(peers)),
        children=(contract.ChildStatus(name="pair-1", up=peers > 0, sas=sas),),
    )


def _manual(tunnel: Tunnel) -> contract.TunnelStatus:
    children = tuple(
        contract.ChildStatus(
            name=f"pair-{number}",
            up=True,
            sas=(dataclasses.replace(_sa("10.9.44.0/24", number), rekey_at=None, expires_at=None, group=None),),
        )
        for number in (1, 2)
    )
    return contract.TunnelStatus(
        id=str(tunnel.pk),
        name=tunnel.name,
        state=TunnelState.UP,
        since=time.time() - 700,
        kind="manual",
        children=children,
    )


def _ike(number: int) -> contract.IkeSaStatus:
    return contract.IkeSaStatus(
        spi_i=f"{number + 1:016x}",
        spi_r=f"{number + 17:016x}",
        initiator=False,
        state="established",
        local="192.0.2.1:4500",
        remote=f"203.0.113.{90 + number}:4500",
        nat_local=False,
        nat_remote=True,
        encryption="aes-256-gcm-16",
        integrity=None,
        prf="prf-hmac-sha2-384",
        group="group-31",
        established_at=time.time() - 600,
        rekey_at=time.time() + 80_000,
        local_auth="psk",
        remote_auth="psk",
        remote_identity=f"branch-{number + 1}@example.org",
    )


def _sa(remote: str, number: int) -> contract.ChildSaStatus:
    since = time.time() - 600
    return contract.ChildSaStatus(
        spi_in=f"c0ffee{number:02x}",
        spi_out=f"deadbe{number:02x}",
        encryption="aes-128-cbc",
        integrity="hmac-sha2-256-128",
        group=None,
        udp_encapsulation=False,
        local_ts=("10.1.0.0/24",),
        remote_ts=(remote,),
        installed_at=since,
        rekey_at=since + 3000,
        expires_at=since + 3600,
        counters=contract.Counters(bytes_in=1_000_000, bytes_out=2_000_000, packets_in=900, packets_out=1_700),
    )
