"""A tunnel as an operator defines it, whole: what forms, the API and the demo hand to ``services``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from agents.contract.carriage import LOCAL_CONTEXT
from agents.contract.secret import Secret
from vpnconsole.gateways.models import Gateway
from vpnconsole.vpn.choices import (
    AttachmentChoice,
    ConnectionTypeChoice,
    DfBitChoice,
    IkeVersionChoice,
    ModeChoice,
    PeerIdentityChoice,
    SaDirection,
    TunnelKindChoice,
)
from vpnconsole.vpn.models import (
    IKEPolicy,
    IPsecPolicy,
    ManualChild,
    ManualSa,
    PresharedKey,
    QosPolicy,
    SelectorPair,
    Tunnel,
    TunnelEnd,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteInput:
    """A network that an end's gateway reaches through the tunnel; ``cost`` None where what was written is no number."""

    network: str
    cost: int | None = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EndInput:
    """One end. An empty identity means the address itself; contexts are the gateway's own, or ``local``.

    ``context`` is that of what the tunnel carries, ``endpoint_context`` that of its outer packets.
    """

    gateway: Gateway | None
    address: str
    identity_type: str = ""
    identity_value: str = ""
    connection_type: str = ConnectionTypeChoice.BOTH
    context: str = LOCAL_CONTEXT
    endpoint_context: str = LOCAL_CONTEXT
    route_cost: int = 0
    routes: Sequence[RouteInput] = ()

    @classmethod
    def of(cls, end: TunnelEnd) -> EndInput:
        """Return what would make ``end`` again."""
        return cls(
            gateway=end.gateway,
            address=end.address,
            identity_type=end.identity_type,
            identity_value=end.identity_value,
            connection_type=end.connection_type,
            context=end.context.name if end.context else LOCAL_CONTEXT,
            endpoint_context=end.endpoint_context.name if end.endpoint_context else LOCAL_CONTEXT,
            route_cost=end.route_cost,
            routes=tuple(RouteInput(network=row.network, cost=row.cost) for row in end.routes.all()),
        )


NO_END = EndInput(gateway=None, address="")
"""Where end B of an on-demand tunnel would be."""


class Protocol(StrEnum):
    """What a manual SA protects with."""

    ESP = "esp"
    AH = "ah"
    ESP_AH = "esp-ah"

    @property
    def esp(self) -> bool:
        """Whether ESP is in it."""
        return self is not Protocol.AH

    @property
    def ah(self) -> bool:
        """Whether AH is in it."""
        return self is not Protocol.ESP


class Keys(StrEnum):
    """Where the keys of a manual SA come from."""

    GENERATE = "generate"
    ENTER = "enter"
    KEEP = "keep"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualSaInput:
    """One direction of a pair with manual keys. An SPI of None is chosen at random.

    ``keys`` says whether the keys are made, are the ones given here, or are those of the stored SA ``stored``.
    """

    direction: str
    esp_spi: int | None = None
    encryption: str = ""
    integrity: str = ""
    ah_spi: int | None = None
    ah_integrity: str = ""
    keys: Keys = Keys.GENERATE
    encryption_key: Secret | None = None
    integrity_key: Secret | None = None
    ah_key: Secret | None = None
    stored: UUID | None = None

    @classmethod
    def of(cls, row: ManualSa) -> ManualSaInput:
        """Return what would leave ``row`` as it is; its keys stay where they are."""
        return cls(
            direction=row.direction,
            esp_spi=row.esp_spi,
            encryption=row.encryption or "",
            integrity=row.integrity or "",
            ah_spi=row.ah_spi,
            ah_integrity=row.ah_integrity or "",
            keys=Keys.KEEP,
            stored=row.pk,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualInput:
    """The manual SAs of one pair: one for ``both`` directions, or one each for ``in`` and ``out`` of end A."""

    sas: Sequence[ManualSaInput]
    protocol: Protocol = Protocol.ESP
    mode: str = ModeChoice.TUNNEL
    replay_window: int = 0
    ipcomp: bool = False

    @classmethod
    def of(cls, child: ManualChild) -> ManualInput:
        """Return what would leave ``child`` as it is."""
        rows = list(child.sas.all())
        esp, ah = any(row.esp_spi for row in rows), any(row.ah_spi for row in rows)
        return cls(
            sas=tuple(ManualSaInput.of(row) for row in rows),
            protocol=Protocol.ESP_AH if esp and ah else Protocol.AH if ah else Protocol.ESP,
            mode=child.mode,
            replay_window=child.replay_window,
            ipcomp=child.ipcomp,
        )

    def fresh(self) -> ManualInput:
        """Return the like with SPIs and keys of its own: what a copy starts from."""
        sas = [
            ManualSaInput(
                direction=sa.direction,
                encryption=sa.encryption,
                integrity=sa.integrity,
                ah_integrity=sa.ah_integrity,
            )
            for sa in self.sas
        ]
        return ManualInput(
            sas=sas, protocol=self.protocol, mode=self.mode, replay_window=self.replay_window, ipcomp=self.ipcomp
        )


DIRECTIONS = (SaDirection.IN, SaDirection.OUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectorInput:
    """One pair of networks; ports are inclusive ranges and need a protocol (6 TCP, 17 UDP).

    ``ipsec_policy`` None is the tunnel's; ``manual`` holds its SAs where the tunnel has manual keys.
    """

    network_a: str
    network_b: str
    protocol: int = 0
    port_a_start: int = 0
    port_a_end: int = 65_535
    port_b_start: int = 0
    port_b_end: int = 65_535
    ipsec_policy: IPsecPolicy | None = None
    manual: ManualInput | None = None

    @classmethod
    def of(cls, pair: SelectorPair) -> SelectorInput:
        """Return what would make ``pair`` again."""
        child = getattr(pair, "manual", None)
        return cls(
            network_a=pair.network_a,
            network_b=pair.network_b,
            protocol=pair.protocol,
            port_a_start=pair.port_a_start,
            port_a_end=pair.port_a_end,
            port_b_start=pair.port_b_start,
            port_b_end=pair.port_b_end,
            ipsec_policy=pair.ipsec_policy,
            manual=ManualInput.of(child) if child is not None else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersInput:
    """Who may be at the other end of an on-demand tunnel, and how many at a time."""

    identity_type: str = PeerIdentityChoice.FQDN
    identity_value: str = ""
    most_peers: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriageInput:
    """How a tunnel's packets are carried on both hosts."""

    attachment: str = AttachmentChoice.SHARED
    df_bit: str = DfBitChoice.PROPAGATE
    copy_dscp: bool = True
    clamp_tcp_mss: bool = False
    qos_policy: QosPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelInput:
    """The whole tunnel; None where a form may leave a choice open, which the services refuse beside the field.

    An on-demand tunnel has ``peers`` in place of ``end_b``; one with manual keys no policies and no key.
    """

    name: str
    end_a: EndInput
    end_b: EndInput = NO_END
    selectors: Sequence[SelectorInput]
    ike_policy: IKEPolicy | None = None
    ipsec_policy: IPsecPolicy | None = None
    psk: PresharedKey | None = None
    version: str = IkeVersionChoice.V2
    description: str = ""
    enabled: bool = True
    mtu: int | None = None
    force_udp_encapsulation: bool = False
    add_routes: bool = True
    kind: str = TunnelKindChoice.STATIC
    peers: PeersInput = PeersInput()
    carriage: CarriageInput = CarriageInput()

    @classmethod
    def of(cls, tunnel: Tunnel) -> TunnelInput:
        """Return what would make ``tunnel`` again: what an edit or a copy starts from."""
        return cls(
            name=tunnel.name,
            description=tunnel.description,
            end_a=EndInput.of(tunnel.end_a),
            end_b=NO_END if tunnel.is_on_demand else EndInput.of(tunnel.end_b),
            selectors=[SelectorInput.of(pair) for pair in tunnel.selectors.all()],
            ike_policy=tunnel.ike_policy,
            ipsec_policy=tunnel.ipsec_policy,
            psk=tunnel.psk,
            version=tunnel.version,
            enabled=tunnel.enabled,
            mtu=tunnel.mtu,
            force_udp_encapsulation=tunnel.force_udp_encapsulation,
            add_routes=tunnel.add_routes,
            kind=tunnel.kind,
            peers=PeersInput(
                identity_type=tunnel.peer_identity_type or PeerIdentityChoice.FQDN,
                identity_value=tunnel.peer_identity_value,
                most_peers=tunnel.most_peers,
            ),
            carriage=CarriageInput(
                attachment=tunnel.attachment,
                df_bit=tunnel.df_bit,
                copy_dscp=tunnel.copy_dscp,
                clamp_tcp_mss=tunnel.clamp_tcp_mss,
                qos_policy=tunnel.qos_policy,
            ),
        )
