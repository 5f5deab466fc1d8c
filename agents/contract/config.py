"""The gateway document: everything one gateway is to be, whole, with a generation.

The console compiles it, the agent's ledger accepts or refuses it, and nothing else configures a gateway. A document is
compared by :func:`agents.contract.codec.digest`; ``nonce`` keeps that digest from being an oracle for a weak PSK.
Addresses and prefixes are text in canonical form; times are seconds, sizes octets unless the name says otherwise.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

from agents.contract import algorithms, check
from agents.contract.errors import FieldError
from agents.contract.secret import Secret

SCHEMA_VERSION = 1


class DataPlane(StrEnum):
    """Which data plane carries ESP; ``auto`` probes and prefers the kernel."""

    AUTO = "auto"
    KERNEL = "kernel"
    USERSPACE = "userspace"


class IdentityType(StrEnum):
    """Kinds of IKE identity (RFC 7296 section 3.5) a document can hold today."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    FQDN = "fqdn"
    EMAIL = "email"
    KEY_ID = "key-id"


class ConnectionType(StrEnum):
    """Who may start the negotiation; seed 003 section 6.4."""

    INITIATOR_ONLY = "initiator-only"
    RESPONDER_ONLY = "responder-only"
    BOTH = "both"


class IkeVersion(StrEnum):
    """IKE versions a tunnel may ask for."""

    V2 = "v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a peer calls itself; ``value`` is text, hexadecimal for ``key-id``."""

    type: IdentityType
    value: str

    def __post_init__(self) -> None:
        if self.type in (IdentityType.IPV4, IdentityType.IPV6):
            version = 4 if self.type is IdentityType.IPV4 else 6
            if check.address("value", self.value).version != version:
                raise FieldError("value", f"must be an IPv{version} address")
        elif self.type is IdentityType.KEY_ID:
            if not re.fullmatch(r"([0-9a-f]{2}){1,128}", self.value):
                raise FieldError("value", "must be 1 to 128 octets in lowercase hexadecimal")
        elif not 1 <= len(self.value) <= 255 or not self.value.isprintable() or " " in self.value:
            raise FieldError("value", "must be 1 to 255 printable characters without spaces")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One end of a tunnel: the outer address it speaks from and the identity it shows."""

    address: str
    identity: Identity

    def __post_init__(self) -> None:
        address = check.address("address", self.address)
        if address.is_unspecified or address.is_multicast:
            raise FieldError("address", "must be a unicast address")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSelector:
    """Inner traffic by prefix, protocol (0 is any) and inclusive port range."""

    network: str
    protocol: int = 0
    start_port: int = 0
    end_port: int = 65535

    def __post_init__(self) -> None:
        try:
            canonical = str(ipaddress.ip_network(self.network))
        except ValueError as error:
            raise FieldError("network", str(error)) from None
        if canonical != self.network:
            raise FieldError("network", f"must be written {canonical}")
        check.bounded("protocol", self.protocol, 0, 255)
        check.bounded("start_port", self.start_port, 0, 65535)
        check.bounded("end_port", self.end_port, self.start_port, 65535)

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_network(self.network).version


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeProposal:
    """One suite for the IKE SA; ``integrity`` is None exactly when the cipher is an AEAD (RFC 5282)."""

    encryption: str
    integrity: str | None = None
    prf: str
    group: str

    def __post_init__(self) -> None:
        check.suite(self.encryption, self.integrity)
        check.known("prf", self.prf, algorithms.PSEUDO_RANDOM)
        check.known("group", self.group, algorithms.KEY_EXCHANGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class IpsecProposal:
    """One ESP suite; ``integrity`` is None exactly when the cipher is an AEAD."""

    encryption: str
    integrity: str | None = None

    def __post_init__(self) -> None:
        check.suite(self.encryption, self.integrity)


@dataclass(frozen=True, slots=True, kw_only=True)
class IkePolicy:
    """How the IKE SA is negotiated and kept; ``dpd_interval_s`` 0 turns liveness checks off."""

    proposals: tuple[IkeProposal, ...]
    lifetime_s: int = 86_400
    dpd_interval_s: int = 30

    def __post_init__(self) -> None:
        check.count("proposals", self.proposals, 16)
        check.bounded("lifetime_s", self.lifetime_s, 60, 99_999_999)
        check.bounded("dpd_interval_s", self.dpd_interval_s, 0, 86_400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One pair of selector lists and the policy of its ESP SAs; limits of 0 mean none."""

    name: str
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    proposals: tuple[IpsecProposal, ...]
    pfs_groups: tuple[str, ...] = ()
    lifetime_s: int = 3_600
    lifetime_bytes: int = 0
    lifetime_packets: int = 0
    replay_window: int = 64

    def __post_init__(self) -> None:
        check.slug("name", self.name)
        check.count("local_ts", self.local_ts, 255)
        check.count("remote_ts", self.remote_ts, 255)
        check.count("proposals", self.proposals, 16)
        for group in self.pfs_groups:
            check.known("pfs_groups", group, algorithms.KEY_EXCHANGE)
        check.bounded("lifetime_s", self.lifetime_s, 60, 99_999_999)
        check.bounded("lifetime_bytes", self.lifetime_bytes, 0, 2**63)
        check.bounded("lifetime_packets", self.lifetime_packets, 0, 2**63)
        check.bounded("replay_window", self.replay_window, 0, 4096)
        if {ts.version for ts in self.local_ts} != {ts.version for ts in self.remote_ts}:
            raise FieldError("remote_ts", "must be of the same IP version as local_ts")


@dataclass(frozen=True, slots=True, kw_only=True)
class PresharedKey:
    """A PSK and the pair it belongs to; None matches anything, the most specific row wins.

    The pair is what picks the key (seed 000): two rows may share the remote address with other local addresses.
    """

    id: str
    secret: Secret
    local_address: str | None = None
    remote_address: str | None = None
    local_identity: Identity | None = None
    remote_identity: Identity | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.secret) <= 1024:
            raise FieldError("secret", "must be 1 to 1024 octets")
        for field in ("local_address", "remote_address"):
            value = getattr(self, field)
            if value is not None:
                check.address(field, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """One static tunnel as this gateway sees it; ``mtu`` None lets the data plane compute it."""

    id: str
    name: str
    local: Endpoint
    remote: Endpoint
    ike: IkePolicy
    children: tuple[Child, ...]
    version: IkeVersion = IkeVersion.V2
    connection_type: ConnectionType = ConnectionType.BOTH
    enabled: bool = True
    force_udp_encapsulation: bool = False
    add_routes: bool = True
    mtu: int | None = None

    def __post_init__(self) -> None:
        check.slug("name", self.name)
        check.uuid("id", self.id)
        check.count("children", self.children, 64)
        check.unique("children", [child.name for child in self.children])
        if ipaddress.ip_address(self.local.address).version != ipaddress.ip_address(self.remote.address).version:
            raise FieldError("remote", "must have an address of the same IP version as local")
        if self.local.address == self.remote.address:
            raise FieldError("remote", "must have another address than local")
        if self.mtu is not None:
            check.bounded("mtu", self.mtu, 256, 65_535)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retransmission:
    """IKE retransmission as data: wait ``initial_ms``, times ``factor`` each time, ``tries`` transmissions in all."""

    initial_ms: int = 1_000
    factor: float = 1.8
    tries: int = 6

    def __post_init__(self) -> None:
        check.bounded("initial_ms", self.initial_ms, 50, 60_000)
        check.bounded("tries", self.tries, 1, 20)
        if not 1.0 <= self.factor <= 10.0:
            raise FieldError("factor", "must be between 1 and 10")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayDocument:
    """The whole of one gateway. ``gateway_id`` is the console's UUID, ``nonce`` 32 hexadecimal digits."""

    gateway_id: str
    gateway_name: str
    generation: int
    nonce: str
    schema: int = SCHEMA_VERSION
    data_plane: DataPlane = DataPlane.AUTO
    retransmission: Retransmission = Retransmission()
    preshared_keys: tuple[PresharedKey, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()

    def __post_init__(self) -> None:
        if self.schema != SCHEMA_VERSION:
            raise FieldError("schema", f"must be {SCHEMA_VERSION}; upgrade the agent to read {self.schema}")
        check.uuid("gateway_id", self.gateway_id)
        check.slug("gateway_name", self.gateway_name)
        check.bounded("generation", self.generation, 1, 2**63 - 1)
        if not re.fullmatch(r"[0-9a-f]{32}", self.nonce):
            raise FieldError("nonce", "must be 32 lowercase hexadecimal digits")
        check.unique("tunnels", [tunnel.id for tunnel in self.tunnels])
        check.unique("tunnels", [tunnel.name for tunnel in self.tunnels])
        check.unique("preshared_keys", [key.id for key in self.preshared_keys])
