"""A tunnel as an operator defines it, whole: what forms, the API and the demo hand to ``services``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vpnconsole.gateways.models import Gateway
from vpnconsole.vpn.choices import ConnectionTypeChoice, IkeVersionChoice
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, PresharedKey, SelectorPair, Tunnel, TunnelEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class EndInput:
    """One end. An empty identity means the address itself."""

    gateway: Gateway | None
    address: str
    identity_type: str = ""
    identity_value: str = ""
    connection_type: str = ConnectionTypeChoice.BOTH

    @classmethod
    def of(cls, end: TunnelEnd) -> EndInput:
        """Return what would make ``end`` again."""
        return cls(
            gateway=end.gateway,
            address=end.address,
            identity_type=end.identity_type,
            identity_value=end.identity_value,
            connection_type=end.connection_type,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorInput:
    """One pair of networks; ports are inclusive ranges and need a protocol (6 TCP, 17 UDP)."""

    network_a: str
    network_b: str
    protocol: int = 0
    port_a_start: int = 0
    port_a_end: int = 65_535
    port_b_start: int = 0
    port_b_end: int = 65_535

    @classmethod
    def of(cls, pair: SelectorPair) -> SelectorInput:
        """Return what would make ``pair`` again."""
        return cls(
            network_a=pair.network_a,
            network_b=pair.network_b,
            protocol=pair.protocol,
            port_a_start=pair.port_a_start,
            port_a_end=pair.port_a_end,
            port_b_start=pair.port_b_start,
            port_b_end=pair.port_b_end,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelInput:
    """The whole tunnel; None where a form may leave a choice open, which the services refuse beside the field."""

    name: str
    end_a: EndInput
    end_b: EndInput
    selectors: Sequence[SelectorInput]
    ike_policy: IKEPolicy | None
    ipsec_policy: IPsecPolicy | None
    psk: PresharedKey | None
    version: str = IkeVersionChoice.V2
    description: str = ""
    enabled: bool = True
    mtu: int | None = None
    force_udp_encapsulation: bool = False
    add_routes: bool = True

    @classmethod
    def of(cls, tunnel: Tunnel) -> TunnelInput:
        """Return what would make ``tunnel`` again: what an edit or a copy starts from."""
        return cls(
            name=tunnel.name,
            description=tunnel.description,
            end_a=EndInput.of(tunnel.end_a),
            end_b=EndInput.of(tunnel.end_b),
            selectors=[SelectorInput.of(pair) for pair in tunnel.selectors.all()],
            ike_policy=tunnel.ike_policy,
            ipsec_policy=tunnel.ipsec_policy,
            psk=tunnel.psk,
            version=tunnel.version,
            enabled=tunnel.enabled,
            mtu=tunnel.mtu,
            force_udp_encapsulation=tunnel.force_udp_encapsulation,
            add_routes=tunnel.add_routes,
        )
