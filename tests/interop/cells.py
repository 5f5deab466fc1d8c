"""What a cell of the matrix is, and how it becomes our document and strongSwan's connection.

A cell is data: the algorithms, the children, who proves what, and a script of steps (:mod:`tests.interop.steps`) that
come after the tunnel has been brought up, compared and pinged through. The list is in :mod:`tests.interop.matrix`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from agents.contract.config import (
    Child,
    ConnectionType,
    DataPlane,
    Endpoint,
    ExchangeMode,
    GatewayDocument,
    Identity,
    IdentityType,
    IkePolicy,
    IkeProposal,
    IkeVersion,
    IpsecProposal,
    PostquantumKey,
    PresharedKey,
    Retransmission,
    TrafficSelector,
    Tunnel,
    TunnelKind,
)
from agents.contract.secret import Secret
from deploy.lab.vici import Message
from tests.interop import words
from tests.interop.proofs import Proof

if TYPE_CHECKING:
    from tests.interop.session import Session

INITIATOR, RESPONDER = "initiator", "responder"
ROLES = (INITIATOR, RESPONDER)
CONNECTION = "cell"
"""The name of the connection at strongSwan's side."""

PSK = b"interop's \x00\xff octets"
OUR_IDENTITY = Identity(type=IdentityType.FQDN, value="ours.example.net")
THEIR_IDENTITY = Identity(type=IdentityType.FQDN, value="theirs.example.net")
GCM = IkeProposal(encryption="aes-128-gcm-16", prf="prf-hmac-sha2-256", group="group-31")
ESP_GCM = IpsecProposal(encryption="aes-128-gcm-16")

Step = Callable[["Session"], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """One child: selectors as text (``10.1.0.0/24``, ``10.1.0.0/24[17/53]``) of each end as *we* are configured.

    ``their_ours`` and ``their_theirs`` say what strongSwan is configured with where that differs; ``pings`` are pairs
    of inner addresses, ours first, empty for the first host of every pair of prefixes.
    """

    name: str = "net"
    ours: tuple[str, ...] = ("10.1.0.0/24",)
    theirs: tuple[str, ...] = ("10.2.0.0/24",)
    their_ours: tuple[str, ...] = ()
    their_theirs: tuple[str, ...] = ()
    pings: tuple[tuple[str, str], ...] = ()
    child: Mapping[str, Any] = field(default_factory=dict)
    peer: Mapping[str, Any] = field(default_factory=dict)

    def routes(self) -> list[tuple[str, str]]:
        """Return which remote prefixes are routed into our TUN, and the source address for each."""
        pairs = []
        for there in self.theirs:
            network = _selector(there).network
            if network.endswith("/0"):
                continue
            version = _selector(there).version
            source = next(_selector(here) for here in self.ours if _selector(here).version == version)
            pairs.append((network, first_host(source.network)))
        return pairs

    def ping_pairs(self) -> tuple[tuple[str, str], ...]:
        """Return the inner addresses to ping between."""
        if self.pings:
            return self.pings
        ours, theirs = ([_selector(each) for each in side] for side in (self.ours, self.theirs))
        return tuple(
            (first_host(here.network), first_host(there.network))
            for here in ours
            for there in theirs
            if here.version == there.version
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row of one axis; ``roles`` are the columns it has. See the module's docstring.

    ``needs`` are names of ``swanctl --list-algs`` without which the peer does not offer it; ``impossible`` is the
    reason why it cannot be shown here, and then nothing is run. ``settings`` are values of strongswan.conf, and with
    ``lab`` they decide which cells share daemons. ``up=False`` leaves bringing the tunnel up to the script; ``answers``
    lets our end as initiator take the peer's negotiations too. ``version``
    and ``mode`` (IKEv1's) are ours; the peer has the same unless ``connection`` says otherwise. ``their_owners`` are
    the identities that the peer keeps the pre-shared key under, empty for all.
    """

    axis: str
    name: str
    roles: tuple[str, ...] = ROLES
    version: IkeVersion = IkeVersion.V2
    mode: ExchangeMode = ExchangeMode.MAIN
    ike: tuple[IkeProposal, ...] = (GCM,)
    esp: tuple[IpsecProposal, ...] = (ESP_GCM,)
    pfs: tuple[str, ...] = ()
    policy: Mapping[str, Any] = field(default_factory=dict)
    tunnel: Mapping[str, Any] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)
    connection: Mapping[str, Any] = field(default_factory=dict)
    their_ike: str | None = None
    their_esp: str | None = None
    nets: tuple[Net, ...] = (Net(),)
    our_identity: Identity = OUR_IDENTITY
    their_identity: Identity = THEIR_IDENTITY
    our_remote_identity: Identity | None = None
    their_words: tuple[str, str] | None = None
    outer: int = 4
    proof: Proof | None = None
    ppks: Mapping[str, bytes] = field(default_factory=dict)
    their_ppks: Mapping[str, bytes] | None = None
    their_psk: bytes | None = None
    their_owners: tuple[str, ...] = ()
    lab: str = "direct"
    settings: tuple[tuple[str, str], ...] = ()
    script: tuple[Step, ...] = ()
    up: bool = True
    answers: bool = False
    needs: tuple[str, ...] = ()
    impossible: str = ""
    quick: bool = False
    limit_s: float = 60.0

    @property
    def group(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Cells of one group share a lab."""
        return self.lab.partition("-")[0], self.settings


ON_DEMAND: Mapping[str, Any] = {
    "kind": TunnelKind.ON_DEMAND,
    "remote": Endpoint(address="0.0.0.0", identity=Identity(type=IdentityType.FQDN, value="*.example.net")),
    "connection_type": ConnectionType.RESPONDER_ONLY,
}
"""What makes our end's tunnel one that takes peers from anywhere, by a partial identity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Outer addresses of one run: what each end speaks from, and where it finds the other."""

    ours: str
    theirs: str
    ours_as_seen: str
    theirs_as_seen: str


def first_host(network: str) -> str:
    """Return the lab's address within a prefix: its first host, or the only one."""
    prefix = ipaddress.ip_network(network)
    return str(prefix.network_address + (0 if prefix.num_addresses == 1 else 1))


def _selector(text: str) -> TrafficSelector:
    network, _, rest = text.partition("[")
    if not rest:
        return TrafficSelector(network=network)
    protocol, _, ports = rest.rstrip("]").partition("/")
    start, _, end = ports.partition("-")
    return TrafficSelector(
        network=network,
        protocol=int(protocol),
        start_port=int(start or 0),
        end_port=int(end or start or 65535),
    )


def tunnel_id(number: int) -> str:
    """Return a UUID whose first digits name the TUN, another one for every run of a cell."""
    return f"{number:08x}-0000-4000-8000-000000000000"


def our_document(cell: Cell, role: str, place: Place, number: int) -> GatewayDocument:
    """Return our side of a cell."""
    begins = ConnectionType.BOTH if cell.answers else ConnectionType.INITIATOR_ONLY
    remote = Endpoint(address=place.theirs_as_seen, identity=cell.our_remote_identity or cell.their_identity)
    tunnel = Tunnel(
        id=tunnel_id(number),
        name="cell",
        version=cell.version,
        ike=IkePolicy(proposals=cell.ike, exchange_mode=cell.mode, **{"dpd_interval_s": 0, **cell.policy}),
        children=tuple(
            Child(
                name=net.name,
                local_ts=tuple(_selector(each) for each in net.ours),
                remote_ts=tuple(_selector(each) for each in net.theirs),
                proposals=cell.esp,
                pfs_groups=cell.pfs,
                **net.child,
            )
            for net in cell.nets
        ),
        **{
            "local": Endpoint(address=place.ours, identity=cell.our_identity),
            "remote": remote,
            "connection_type": begins if role == INITIATOR else ConnectionType.RESPONDER_ONLY,
            **cell.tunnel,
        },
    )
    document = GatewayDocument(
        gateway_id="1e6b0c5e-0000-4000-8000-000000000000",
        gateway_name="ours",
        generation=number,
        nonce="0" * 32,
        data_plane=DataPlane.USERSPACE,
        retransmission=Retransmission(initial_ms=500, tries=4),
        allow_legacy=words.legacy(cell.ike, cell.esp, cell.pfs),
        preshared_keys=(PresharedKey(id="1e6b0c5e-0000-4000-8000-000000000001", secret=Secret(PSK)),),
        postquantum_keys=tuple(PostquantumKey(id=name, secret=Secret(key)) for name, key in cell.ppks.items()),
        tunnels=(tunnel,),
        **cell.document,
    )
    return document if cell.proof is None else cell.proof.put_ours(document)


def empty(document: GatewayDocument) -> GatewayDocument:
    """Return the document without its tunnels."""
    return replace(document, tunnels=())


def their_connection(cell: Cell, place: Place) -> Message:
    """Return strongSwan's side as ``load-conn`` takes it."""
    ours, theirs = cell.their_words or (their_word(cell.our_identity), their_word(cell.their_identity))
    esp = cell.their_esp or ",".join(words.esp_keywords(each, cell.pfs) for each in cell.esp)
    connection: Message = {
        **_spoken(cell),
        "local_addrs": [place.theirs],
        "remote_addrs": [place.ours_as_seen],
        "proposals": (cell.their_ike or ",".join(words.ike_keywords(each) for each in cell.ike)).split(","),
        "dpd_delay": "0s",
        "rekey_time": "0s",
        "local-1": {"auth": "psk", "id": theirs},
        "remote-1": {"auth": "psk", "id": ours},
        "children": {
            net.name: {
                "local_ts": list(net.their_theirs or net.theirs),
                "remote_ts": list(net.their_ours or net.ours),
                "esp_proposals": esp.split(","),
                "rekey_time": "0s",
                "mode": "tunnel",
                **net.peer,
            }
            for net in cell.nets
        },
    }
    if cell.proof is not None:
        cell.proof.put_theirs(connection)
    return _merged(connection, cell.connection)


def _spoken(cell: Cell) -> Message:
    if cell.version is not IkeVersion.V1:
        return {"version": "2"}
    aggressive = "yes" if cell.mode is ExchangeMode.AGGRESSIVE else "no"
    return {"version": "1", "aggressive": aggressive, "reauth_time": "0s"}


def their_word(identity: Identity) -> str:
    """Return the identity as strongSwan's ``id`` has it."""
    match identity.type:
        case IdentityType.FQDN:
            return f"fqdn:{identity.value}" if not identity.value.startswith("*") else identity.value
        case IdentityType.EMAIL:
            return f"email:{identity.value}"
        case IdentityType.KEY_ID:
            return f"keyid:#{identity.value}"
        case IdentityType.ANY:
            return "%any"
        case IdentityType.DN:
            return ", ".join(reversed(identity.value.split(",")))  # RFC 4514 writes the last RDN first
        case _:
            return identity.value


def _merged(one: Message, other: Mapping[str, Any]) -> Message:
    merged = dict(one)
    for key, value in other.items():
        merged[key] = _merged(merged.get(key, {}), value) if isinstance(value, Mapping) else value
    return merged
