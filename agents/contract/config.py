"""The gateway document: everything one gateway is to be, whole, with a generation.

The console compiles it, the agent's ledger accepts or refuses it, and nothing else configures a gateway. A document is
compared by :func:`agents.contract.codec.digest`; ``nonce`` keeps that digest from being an oracle for a weak PSK.
Addresses and prefixes are text in canonical form; times are seconds, sizes octets unless the name says otherwise.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from agents.contract import algorithms, carriage, check, ikev1
from agents.contract.carriage import LOCAL_CONTEXT, Carriage, Context
from agents.contract.errors import FieldError
from agents.contract.kinds import AuthKind as AuthKind
from agents.contract.kinds import Childless as Childless
from agents.contract.kinds import ConnectionType as ConnectionType
from agents.contract.kinds import DataPlane as DataPlane
from agents.contract.kinds import DpdAction as DpdAction
from agents.contract.kinds import ExchangeMode as ExchangeMode
from agents.contract.kinds import IdentityType as IdentityType
from agents.contract.kinds import IkeVersion as IkeVersion
from agents.contract.kinds import Reauthentication as Reauthentication
from agents.contract.kinds import Revocation as Revocation
from agents.contract.kinds import SequenceNumbers as SequenceNumbers
from agents.contract.kinds import TunnelKind as TunnelKind
from agents.contract.kinds import UniquePolicy as UniquePolicy
from agents.contract.manual import ManualTunnel
from agents.contract.psk import PresharedKeys
from agents.contract.secret import Secret
from agents.contract.traffic import Mode as Mode
from agents.contract.traffic import TrafficSelector as TrafficSelector
from agents.contract.traffic import unicast

SCHEMA_VERSION = 5

_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - nothing is bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a peer calls itself; ``value`` is text, hexadecimal for ``key-id``, RFC 4514 for ``dn``, ``*`` for ``any``.

    The identity expected of a peer may be partial: ``*.example.org``, ``*@example.org``, or a ``dn`` with ``*`` for
    the value of an attribute. An exact identity is preferred to a partial one, a partial one to ``any``.
    """

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
        elif self.type is IdentityType.ANY:
            if self.value != "*":
                raise FieldError("value", "must be *")
        elif self.type is IdentityType.DN:
            if not 1 <= len(self.value) <= 1_000 or not self.value.isprintable() or "=" not in self.value:
                raise FieldError("value", "must be a distinguished name like CN=gw.example.org,O=Example")
        elif not 1 <= len(self.value) <= 255 or not self.value.isprintable() or " " in self.value:
            raise FieldError("value", "must be 1 to 255 printable characters without spaces")

    @property
    def exact(self) -> bool:
        """Whether it names one peer only."""
        if self.type in (IdentityType.FQDN, IdentityType.EMAIL):
            return not self.value.startswith("*")
        return self.type is not IdentityType.ANY and not (self.type is IdentityType.DN and "=*" in self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One end of a tunnel: the outer address it speaks from and the identity it shows.

    ``more_addresses`` are further ones of the same end that MOBIKE may move the tunnel to (RFC 4555 section 3.4). The
    peers of an on-demand tunnel have the unspecified address, ``0.0.0.0`` or ``::``: they come from anywhere.
    """

    address: str
    identity: Identity
    more_addresses: tuple[str, ...] = ()

    @property
    def anywhere(self) -> bool:
        """Whether the address is not known beforehand."""
        return self.address in _ANYWHERE

    def __post_init__(self) -> None:
        if not self.anywhere:
            unicast("address", self.address)
        for index, each in enumerate(self.more_addresses):
            unicast(f"more_addresses[{index}]", each)
        if len(self.more_addresses) > 8:
            raise FieldError("more_addresses", "must have at most 8 entries")
        check.unique("more_addresses", [self.address, *self.more_addresses])


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAuthentication:
    """How this gateway proves who it is.

    ``certificate`` is the id of one of the document's certificates; ``signatures`` are slugs of
    :data:`agents.contract.algorithms.SIGNATURE` in order of preference, empty for the best that key and peer allow.
    """

    kind: AuthKind = AuthKind.PSK
    certificate: str | None = None
    signatures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.kind is AuthKind.CERTIFICATE) != (self.certificate is not None):
            raise FieldError("certificate", "is required with certificates and must be absent with a pre-shared key")
        for each in self.signatures:
            check.known("signatures", each, algorithms.SIGNATURE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteAuthentication:
    """What the peer must prove.

    ``trust_anchors`` are ids of the document's trust anchors, empty for all of them. ``validate_identity`` asks that
    the identity stands in the peer's certificate (RFC 4945 section 3.1). ``fetch_private`` allows revocation data to
    be fetched from private and loopback addresses.
    """

    kind: AuthKind = AuthKind.PSK
    trust_anchors: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()
    revocation: Revocation = Revocation.SOFT_FAIL
    validate_identity: bool = True
    fetch_private: bool = False

    def __post_init__(self) -> None:
        for each in self.signatures:
            check.known("signatures", each, algorithms.SIGNATURE)
        if len(self.trust_anchors) > 64:
            raise FieldError("trust_anchors", "must have at most 64 entries")


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeProposal:
    """One suite for the IKE SA; ``integrity`` is None exactly when the cipher is an AEAD (RFC 5282).

    ``additional_key_exchanges`` are done one after the other beside ``group`` (RFC 9370), at most seven.
    """

    encryption: str
    integrity: str | None = None
    prf: str
    group: str
    additional_key_exchanges: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check.suite(self.encryption, self.integrity)
        if not algorithms.ENCRYPTION[self.encryption].ike:
            raise FieldError("encryption", f"{self.encryption} is for ESP only")
        check.known("prf", self.prf, algorithms.PSEUDO_RANDOM)
        check.known("group", self.group, algorithms.KEY_EXCHANGE)
        if algorithms.KEY_EXCHANGE[self.group].additional_only:
            raise FieldError("group", f"{self.group} can only be an additional key exchange")
        if len(self.additional_key_exchanges) > 7:
            raise FieldError("additional_key_exchanges", "must have at most 7 entries")
        for each in self.additional_key_exchanges:
            check.known("additional_key_exchanges", each, algorithms.KEY_EXCHANGE)
        check.unique("additional_key_exchanges", [self.group, *self.additional_key_exchanges])


@dataclass(frozen=True, slots=True, kw_only=True)
class IpsecProposal:
    """One suite of ESP, of AH, or of AH around ESP.

    ESP when ``encryption`` is set; its ``integrity`` is None exactly when the cipher is an AEAD. AH when
    ``ah_integrity`` is set. Both set: ESP inside AH, negotiated as RFC 4306 section 3.3.1 does (two proposals of one
    number); RFC 7296 has dropped that, so only peers configured for it take it.
    """

    encryption: str | None = None
    integrity: str | None = None
    ah_integrity: str | None = None

    def __post_init__(self) -> None:
        if self.encryption is not None:
            check.suite(self.encryption, self.integrity)
        elif self.integrity is not None:
            raise FieldError("integrity", "must be absent without encryption; AH has its own field")
        elif self.ah_integrity is None:
            raise FieldError("encryption", "is required where there is no AH")
        if self.ah_integrity is not None:
            check.known("ah_integrity", self.ah_integrity, algorithms.INTEGRITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class IkePolicy:
    """How the IKE SA is negotiated and kept.

    ``dpd_interval_s`` 0 turns liveness checks off, ``reauth_s`` 0 reauthentication, ``keepalive_s`` 0 NAT keepalives.
    ``fragment_octets`` bounds the IP packets of a fragmented message (RFC 7383 section 2.5.1). ``exchange_mode`` and
    ``lifetime_kilobytes`` (0: none) are IKEv1's; reauthentication, MOBIKE, unique and childless policy are IKEv2's.
    """

    proposals: tuple[IkeProposal, ...]
    lifetime_s: int = 86_400
    lifetime_kilobytes: int = 0
    exchange_mode: ExchangeMode = ExchangeMode.MAIN
    dpd_interval_s: int = 30
    dpd_action: DpdAction = DpdAction.RESTART
    reauth_s: int = 0
    reauthentication: Reauthentication = Reauthentication.MAKE_BEFORE_BREAK
    keepalive_s: int = 20
    mobike: bool = True
    fragmentation: bool = True
    fragment_octets: int = 1_280
    unique: UniquePolicy = UniquePolicy.REPLACE
    childless: Childless = Childless.ALLOW

    def __post_init__(self) -> None:
        check.count("proposals", self.proposals, 16)
        check.bounded("lifetime_s", self.lifetime_s, 10, 99_999_999)
        check.bounded("lifetime_kilobytes", self.lifetime_kilobytes, 0, 2**32 - 1)
        check.bounded("dpd_interval_s", self.dpd_interval_s, 0, 86_400)
        if self.reauth_s:
            check.bounded("reauth_s", self.reauth_s, 10, 99_999_999)
        check.bounded("keepalive_s", self.keepalive_s, 0, 3_600)
        check.bounded("fragment_octets", self.fragment_octets, 576, 65_535)


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One pair of selector lists and the policy of its SAs; limits of 0 mean none.

    ``ipcomp`` offers compression (RFC 3173) beside the proposals, and takes a peer that does not want it.
    """

    name: str
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    proposals: tuple[IpsecProposal, ...]
    pfs_groups: tuple[str, ...] = ()
    lifetime_s: int = 3_600
    lifetime_bytes: int = 0
    lifetime_packets: int = 0
    replay_window: int = 64
    mode: Mode = Mode.TUNNEL
    sequence_numbers: SequenceNumbers = SequenceNumbers.NORMAL
    ipcomp: bool = False

    def __post_init__(self) -> None:
        check.slug("name", self.name)
        check.count("local_ts", self.local_ts, 255)
        check.count("remote_ts", self.remote_ts, 255)
        check.count("proposals", self.proposals, 16)
        for group in self.pfs_groups:
            check.known("pfs_groups", group, algorithms.KEY_EXCHANGE)
            if algorithms.KEY_EXCHANGE[group].additional_only:
                raise FieldError("pfs_groups", f"{group} can only be an additional key exchange of the IKE SA")
        check.bounded("lifetime_s", self.lifetime_s, 10, 99_999_999)
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
class PostquantumKey:
    """A post-quantum pre-shared key and the PPK_ID both ends know it by (RFC 8784)."""

    id: str
    secret: Secret

    def __post_init__(self) -> None:
        if not 1 <= len(self.id) <= 255 or not self.id.isascii() or not self.id.isprintable():
            raise FieldError("id", "must be 1 to 255 printable ASCII characters")
        if not 1 <= len(self.secret) <= 1024:
            raise FieldError("secret", "must be 1 to 1024 octets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate of this gateway: Base64 of DER, the leaf first, then the intermediates to send with it.

    The private key is on the gateway's disk, found by the leaf's public key; it never travels.
    """

    id: str
    chain: tuple[str, ...]

    def __post_init__(self) -> None:
        check.slug("id", self.id)
        check.count("chain", self.chain, 8)
        for index, each in enumerate(self.chain):
            check.base64(f"chain[{index}]", each, 65_535)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustAnchor:
    """A CA that peers' chains may end at: its certificate as Base64 of DER."""

    id: str
    certificate: str

    def __post_init__(self) -> None:
        check.slug("id", self.id)
        check.base64("certificate", self.certificate, 65_535)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """One negotiated tunnel as this gateway sees it; ``mtu`` None lets the data plane compute it.

    The order of ``children`` is that of the rules: where two protect some of the same traffic the earlier one gets it.
    ``ppk`` is the id of one of the document's post-quantum keys; ``ppk_required`` refuses a peer that does not use it.
    An on-demand tunnel serves up to ``most_peers`` at a time, told apart by the identities they prove.
    """

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
    local_auth: LocalAuthentication = LocalAuthentication()
    remote_auth: RemoteAuthentication = RemoteAuthentication()
    ppk: str | None = None
    ppk_required: bool = False
    kind: TunnelKind = TunnelKind.STATIC
    most_peers: int = 50
    carriage: Carriage = carriage.DEFAULT

    @property
    def local_addresses(self) -> tuple[str, ...]:
        """Every outer address of this end, the first one first."""
        return (self.local.address, *self.local.more_addresses)

    @property
    def needs_psk(self) -> bool:
        """Whether either end proves itself by pre-shared key."""
        return AuthKind.PSK in (self.local_auth.kind, self.remote_auth.kind)

    def __post_init__(self) -> None:
        check.slug("name", self.name)
        check.uuid("id", self.id)
        if not self.local.identity.exact:
            raise FieldError("local.identity", "must name this end exactly")
        if self.ppk_required and self.ppk is None:
            raise FieldError("ppk", "is required")
        check.count("children", self.children, 64)
        check.unique("children", [child.name for child in self.children])
        if ipaddress.ip_address(self.local.address).version != ipaddress.ip_address(self.remote.address).version:
            raise FieldError("remote", "must have an address of the same IP version as local")
        if self.local.anywhere:
            raise FieldError("local.address", "must be a unicast address")
        if self.local.address == self.remote.address:
            raise FieldError("remote", "must have another address than local")
        if self.mtu is not None:
            check.bounded("mtu", self.mtu, 256, 65_535)
        check.bounded("most_peers", self.most_peers, 1, 8_000)
        if self.kind is TunnelKind.ON_DEMAND:
            _check_on_demand(self)
        elif self.remote.anywhere:
            raise FieldError("remote.address", "must be a unicast address: only the peers of an on-demand tunnel roam")
        if self.version.allows_v1:
            _check_v1(self)


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
    """The whole of one gateway. ``gateway_id`` is the console's UUID, ``nonce`` 32 hexadecimal digits.

    ``packet_filter`` admits IKE, ESP and AH from the peers of the document only and drops packets in clear text that
    should have come or left through a tunnel.
    """

    gateway_id: str
    gateway_name: str
    generation: int
    nonce: str
    schema: int = SCHEMA_VERSION
    data_plane: DataPlane = DataPlane.AUTO
    retransmission: Retransmission = Retransmission()
    allow_legacy: bool = False
    preshared_keys: tuple[PresharedKey, ...] = ()
    postquantum_keys: tuple[PostquantumKey, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    trust_anchors: tuple[TrustAnchor, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()
    manual_tunnels: tuple[ManualTunnel, ...] = ()
    contexts: tuple[Context, ...] = ()
    packet_filter: bool = False

    def __post_init__(self) -> None:
        if self.schema != SCHEMA_VERSION:
            raise FieldError("schema", f"must be {SCHEMA_VERSION}; upgrade the agent to read {self.schema}")
        check.uuid("gateway_id", self.gateway_id)
        check.slug("gateway_name", self.gateway_name)
        check.bounded("generation", self.generation, 1, 2**63 - 1)
        if not re.fullmatch(r"[0-9a-f]{32}", self.nonce):
            raise FieldError("nonce", "must be 32 lowercase hexadecimal digits")
        all_tunnels: tuple[Tunnel | ManualTunnel, ...] = (*self.tunnels, *self.manual_tunnels)
        check.unique("tunnels", [tunnel.id for tunnel in all_tunnels])
        check.unique("tunnels", [tunnel.name for tunnel in all_tunnels])
        _check_contexts(self)
        check.unique("preshared_keys", [key.id for key in self.preshared_keys])
        check.unique("postquantum_keys", [key.id for key in self.postquantum_keys])
        check.unique("certificates", [each.id for each in self.certificates])
        check.unique("trust_anchors", [each.id for each in self.trust_anchors])
        certificates = {each.id for each in self.certificates}
        anchors = {each.id for each in self.trust_anchors}
        ppks = {key.id for key in self.postquantum_keys}
        for index, tunnel in enumerate(self.tunnels):
            at = f"tunnels[{index}]"
            if tunnel.local_auth.certificate not in {None, *certificates}:
                raise FieldError(f"{at}.local_auth.certificate", "is not one of the document's certificates")
            if tunnel.remote_auth.kind is AuthKind.CERTIFICATE and not anchors:
                raise FieldError(f"{at}.remote_auth.trust_anchors", "the document has no trust anchor")
            if not anchors.issuperset(tunnel.remote_auth.trust_anchors):
                raise FieldError(f"{at}.remote_auth.trust_anchors", "are not all among the document's trust anchors")
            if tunnel.ppk not in {None, *ppks}:
                raise FieldError(f"{at}.ppk", "is not one of the document's post-quantum keys")
            if not self.allow_legacy:
                _refuse_legacy(at, tunnel)
        _check_manual(self)
        _refuse_indistinct_keys(self)


def _check_on_demand(tunnel: Tunnel) -> None:
    """Refuse what a tunnel cannot have whose peers are not known before they come."""
    if not tunnel.remote.anywhere:
        raise FieldError("remote.address", "must be 0.0.0.0 or ::, since peers come from anywhere")
    if tunnel.remote.more_addresses:
        raise FieldError("remote.more_addresses", "must be absent, since peers come from anywhere")
    if tunnel.connection_type is not ConnectionType.RESPONDER_ONLY:
        raise FieldError("connection_type", "must be responder-only: nobody knows where to call the peer")
    if tunnel.version.allows_v1 and tunnel.ike.exchange_mode is not ExchangeMode.AGGRESSIVE:
        raise FieldError(
            "ike.exchange_mode",
            "must be aggressive: in Main Mode of IKEv1 nobody knows who an unknown address is before the key is needed",
        )


def _check_contexts(document: GatewayDocument) -> None:
    check.unique("contexts", [context.name for context in document.contexts])
    check.unique("contexts", [str(context.table) for context in document.contexts])
    known = {LOCAL_CONTEXT, *(context.name for context in document.contexts)}
    first: dict[str, Tunnel | ManualTunnel] = {}
    groups: tuple[tuple[str, Sequence[Tunnel | ManualTunnel]], ...] = (
        ("tunnels", document.tunnels),
        ("manual_tunnels", document.manual_tunnels),
    )
    for kind, tunnels in groups:
        for index, tunnel in enumerate(tunnels):
            at = f"{kind}[{index}].carriage"
            if tunnel.carriage.context not in known:
                raise FieldError(f"{at}.context", "is not one of the document's contexts")
            if tunnel.carriage.endpoint_context not in known:
                raise FieldError(f"{at}.endpoint_context", "is not one of the document's contexts")
            if tunnel.enabled:
                _check_endpoint(f"{at}.endpoint_context", tunnel, first)


def _check_endpoint(field: str, tunnel: Tunnel | ManualTunnel, first: dict[str, Tunnel | ManualTunnel]) -> None:
    """Refuse a local address in two contexts; ``first`` is of the tunnels before this one, by local address."""
    for address in tunnel.local_addresses:
        other = first.setdefault(address, tunnel)
        if other.carriage.endpoint_context != tunnel.carriage.endpoint_context:
            raise FieldError(
                field,
                f"tunnel {other.name} has {address} in context {other.carriage.endpoint_context}: an address is in one "
                "context. Use the same for both, or another local address",
            )


def _check_manual(document: GatewayDocument) -> None:
    """Refuse two SAs of one name here: a packet's SPI must say which it is (RFC 4301 section 4.1)."""
    names: dict[tuple[str, str, int], str] = {}
    for index, tunnel in enumerate(document.manual_tunnels):
        for protocol, spi in tunnel.inbound_spis():
            name = (tunnel.local_address, protocol, spi)
            if name in names:
                raise FieldError(
                    f"manual_tunnels[{index}].children",
                    f"{protocol.upper()} SPI {spi} at {tunnel.local_address} is tunnel {names[name]}'s already",
                )
            names[name] = tunnel.name
        if not document.allow_legacy:
            _refuse_legacy_manual(f"manual_tunnels[{index}]", tunnel)


def _refuse_legacy_manual(at: str, tunnel: ManualTunnel) -> None:
    for number, child in enumerate(tunnel.children):
        for name, sa in (("inbound", child.inbound), ("outbound", child.outbound)):
            place = f"{at}.children[{number}].{name}"
            check.modern(f"{place}.encryption", sa.encryption, algorithms.ENCRYPTION)
            check.modern(f"{place}.integrity", sa.integrity, algorithms.INTEGRITY)
            check.modern(f"{place}.ah_integrity", sa.ah_integrity, algorithms.INTEGRITY)


def _check_v1(tunnel: Tunnel) -> None:
    """Refuse what IKEv1 cannot do; with ``v2-else-v1`` one proposal of each kind must be fit for it."""
    if tunnel.local_auth.kind is not tunnel.remote_auth.kind:
        raise FieldError("remote_auth.kind", "must be that of local_auth: IKEv1 has one method for both ends")
    obstacles = [ikev1.ike_obstacle(each) for each in tunnel.ike.proposals]
    _refuse_obstacle("ike.proposals", obstacles, tunnel.version)
    for number, child in enumerate(tunnel.children):
        at = f"children[{number}]"
        _refuse_obstacle(f"{at}.proposals", [ikev1.ipsec_obstacle(each) for each in child.proposals], tunnel.version)
        if len(child.local_ts) * len(child.remote_ts) > ikev1.MOST_PAIRS:
            raise FieldError(f"{at}.local_ts", f"must make at most {ikev1.MOST_PAIRS} pairs: each is an SA of its own")
        if child.pfs_groups and not ikev1.GROUPS.intersection(child.pfs_groups):
            raise FieldError(f"{at}.pfs_groups", "must have a group that IKEv1 has a number for")
        _refuse_ports(f"{at}.local_ts", child.local_ts, tunnel.version)
        _refuse_ports(f"{at}.remote_ts", child.remote_ts, tunnel.version)
    if tunnel.version is not IkeVersion.V1:
        return
    if tunnel.ppk is not None:
        raise FieldError("ppk", "must be absent: IKEv1 has no post-quantum keys")
    for number, child in enumerate(tunnel.children):
        if not ikev1.GROUPS.issuperset(child.pfs_groups):
            raise FieldError(f"children[{number}].pfs_groups", "must all have a number in IKEv1")


def _refuse_obstacle(field: str, obstacles: Sequence[tuple[str, str] | None], version: IkeVersion) -> None:
    if version is IkeVersion.V2_ELSE_V1 and None in obstacles:
        return
    for index, obstacle in enumerate(obstacles):
        if obstacle is not None:
            raise FieldError(f"{field}[{index}].{obstacle[0]}", obstacle[1])


def _refuse_ports(field: str, selectors: Sequence[TrafficSelector], version: IkeVersion) -> None:
    """Refuse ports that IKEv1 cannot say; with ``v2-else-v1`` it needs one selector it can, and leaves out the rest."""
    obstacles = [ikev1.ports_obstacle(each.start_port, each.end_port) for each in selectors]
    if version is IkeVersion.V2_ELSE_V1 and None in obstacles:
        return
    for obstacle in obstacles:
        if obstacle is not None:
            raise FieldError(field, obstacle)


def _refuse_indistinct_keys(document: GatewayDocument) -> None:
    """Refuse two pre-shared keys that Main Mode could not tell apart.

    There the key decrypts the identities (RFC 2409 section 5.4), so only the pair of addresses can choose it.
    """
    keys = PresharedKeys(document.preshared_keys)
    first: dict[tuple[str, str], Tunnel] = {}
    for index, tunnel in enumerate(document.tunnels):
        if not tunnel.enabled or not tunnel.version.allows_v1 or tunnel.ike.exchange_mode is not ExchangeMode.MAIN:
            continue
        if tunnel.local_auth.kind is not AuthKind.PSK:
            continue
        other = first.setdefault((tunnel.local.address, tunnel.remote.address), tunnel)
        if keys.find_for(tunnel.local, tunnel.remote) != keys.find_for(other.local, other.remote):
            raise FieldError(
                f"tunnels[{index}].ike.exchange_mode",
                f"tunnel {other.name} has another pre-shared key between {tunnel.local.address} and "
                f"{tunnel.remote.address}: in Main Mode of IKEv1 only the two addresses choose the key. Use another "
                "local address, Aggressive Mode, certificates, or one key for both",
            )


def _refuse_legacy(at: str, tunnel: Tunnel) -> None:
    """Refuse algorithms that are kept for old peers only."""
    for index, ike in enumerate(tunnel.ike.proposals):
        check.modern(f"{at}.ike.proposals[{index}].encryption", ike.encryption, algorithms.ENCRYPTION)
        check.modern(f"{at}.ike.proposals[{index}].integrity", ike.integrity, algorithms.INTEGRITY)
        check.modern(f"{at}.ike.proposals[{index}].prf", ike.prf, algorithms.PSEUDO_RANDOM)
        for group in (ike.group, *ike.additional_key_exchanges):
            check.modern(f"{at}.ike.proposals[{index}].group", group, algorithms.KEY_EXCHANGE)
    for number, child in enumerate(tunnel.children):
        for index, each in enumerate(child.proposals):
            place = f"{at}.children[{number}].proposals[{index}]"
            check.modern(f"{place}.encryption", each.encryption, algorithms.ENCRYPTION)
            check.modern(f"{place}.integrity", each.integrity, algorithms.INTEGRITY)
            check.modern(f"{place}.ah_integrity", each.ah_integrity, algorithms.INTEGRITY)
        for group in child.pfs_groups:
            check.modern(f"{at}.children[{number}].pfs_groups", group, algorithms.KEY_EXCHANGE)
