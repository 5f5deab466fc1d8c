"""What the protocol core asks its shell to do, and the values both speak in.

The shell (``agents.iked``) drives one :class:`agents.ike.engine.Engine`:

* inputs: ``configure(document, now)``, ``receive(datagram, path, now)``, ``handle_timer(now)``, the verbs ``initiate``,
  ``terminate``, ``rekey_ike``, ``rekey_child``, ``clear_ike``, ``clear_ipsec`` (each ``(tunnel_id, now)``), and the
  results of effects ``psk_found(request_id, secret_or_none, now)``, ``signed(request_id, signature_or_none, now)``,
  ``validated(request_id, verdict, now)``, ``child_installed(install_id, now)``,
  ``child_install_failed(install_id, reason, now)``, ``sa_expired(tunnel_id, spi_in, hard, now)``,
  ``peer_moved(tunnel_id, spi_in, address, port, now)``, ``traffic_seen(tunnel_id, now)``,
  ``traffic_sent(tunnel_id, now)``,
  ``traffic_wanted(tunnel_id, now)`` (a policy without SA), ``addresses_changed(addresses, now)`` (those this host has
  now), ``datagram_too_big(path, packet_octets, now)`` (the largest IP packet the path takes), ``dataplane_lost(now)``;
* after each input: ``take_outputs() -> tuple[Output, ...]``, then ``next_deadline() -> float | None``;
* at any time: ``snapshot(now) -> tuple[TunnelStatus, ...]`` with counters left at zero for the shell to fill in.

``now`` is monotonic seconds. Statuses carry monotonic times too; the shell turns them into Unix time.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

from agents.contract.config import Identity, RemoteAuthentication
from agents.contract.secret import Secret
from agents.dataplane.base import PolicySpec, SaId, SaSpec


class Entropy(Protocol):
    """Where the core's randomness comes from; tests pass a seeded one."""

    def octets(self, count: int) -> bytes:
        """Return ``count`` unpredictable octets."""
        ...

    def uniform(self) -> float:
        """Return a number in [0, 1) for jitter; need not be secret."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """Where a datagram came from or goes to. ``local_port`` 4500 means the non-ESP marker is in use.

    The marker itself is the shell's: it adds and strips the four zero octets (RFC 3948 section 2.2).
    """

    local_address: str
    local_port: int
    remote_address: str
    remote_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transmit:
    """Send this IKE message, without non-ESP marker, on this path."""

    path: Path
    datagram: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FindPsk:
    """Answer with ``psk_found(request_id, ...)``: the PSK for this pair of addresses and identities.

    ``shown_identity`` is what the peer calls itself where the identity configured for it is partial.
    """

    request_id: int
    tunnel_id: str
    local_address: str
    remote_address: str
    local_identity: Identity
    remote_identity: Identity
    shown_identity: Identity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Answer with ``signed(request_id, ...)``: ``octets`` signed with the key of this certificate of the document.

    ``signature`` is a slug of :data:`agents.contract.algorithms.SIGNATURE`; what comes back is the bare signature
    (ECDSA: DER for method 14, r and s side by side for methods 9 to 11). With IKEv1 it is one of
    :data:`agents.contract.ikev1.SIGNATURE`, and ``octets`` is HASH_I or HASH_R, which is not hashed again (ECDSA: r and
    s side by side).
    """

    request_id: int
    tunnel_id: str
    certificate: str
    signature: str
    octets: bytes = dataclasses.field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validate:
    """Answer with ``validated(request_id, Verdict, ...)``: whether this chain proves the identity shown.

    ``chain`` is DER as received, the leaf first, the others in any order. ``policy`` says which anchors, whether
    revocation is checked, and whether the identity must stand in the leaf.
    """

    request_id: int
    tunnel_id: str
    chain: tuple[bytes, ...]
    id_type: int
    id_data: bytes
    policy: RemoteAuthentication


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A chain's verdict: the leaf's SubjectPublicKeyInfo (DER) when it is good, else an event code and a sentence."""

    public_key: bytes | None = None
    subject: str = ""
    code: str = ""
    message: str = ""
    received: str | None = None
    configured: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    """Send one octet 0xFF on this path so that a NAT keeps its mapping (RFC 3948 section 2.3)."""

    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallChild:
    """Put a child's two SAs and its policies in place, inbound first; answer by ``child_installed`` or ``..._failed``.

    ``replaces`` are the SAs that a rekey makes old: they stay until their own :class:`RemoveChild`. ``outbound_later``
    asks to install the inbound SA now and the outbound SA only with :class:`SwitchOutbound` (the responder of a rekey
    keeps sending on the old SA until the new one is known to work, RFC 7296 section 2.8).
    """

    install_id: int
    tunnel_id: str
    child: str
    inbound: SaSpec
    outbound: SaSpec
    policies: tuple[PolicySpec, ...]
    replaces: tuple[SaId, ...] = ()
    outbound_later: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchOutbound:
    """Install the outbound SA that an earlier ``InstallChild(outbound_later=True)`` held back."""

    install_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveChild:
    """Take a child's two SAs out; ``policies`` are those that no other SA of the child needs any more."""

    tunnel_id: str
    child: str
    sas: tuple[SaId, ...]
    policies: tuple[PolicySpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveChild:
    """The peer's outer address or port changed: update these SAs in place."""

    tunnel_id: str
    old: SaId
    spec: SaSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Something happened that has a code in :data:`agents.contract.events.KINDS`."""

    code: str
    message: str
    tunnel_id: str | None = None
    received: str | None = None
    configured: str | None = None
    field: str | None = None
    attributes: dict[str, str] = dataclasses.field(default_factory=dict)


Output = (
    Transmit | FindPsk | Sign | Validate | Keepalive | InstallChild | SwitchOutbound | RemoveChild | MoveChild | Report
)

PskAnswer = Secret | None
