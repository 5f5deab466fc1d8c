"""One child: a pair of ESP SAs (RFC 7296 section 2.17), as specs for a data plane, and when it is to be replaced."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agents.contract import algorithms
from agents.contract.config import Child, IpsecProposal
from agents.contract.secret import Secret
from agents.dataplane.base import Direction, Limits, PolicySpec, SaId, SaSpec, UdpEncapsulation
from agents.ike import selectors
from agents.ike.outputs import Path
from agents.ike.timers import rekey_after_s, soft_limit
from agents.ike.v2.keymat import derive_child_keys
from agents.ike.v2.states import ChildState
from agents.ike.wire.payloads import SelectorRange

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa

NAT_PORT = 4500
_UNNATTED_PORT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What an exchange agreed on for a child; ``initiator`` says whether we sent the request."""

    config: Child
    proposal: IpsecProposal
    group: str | None
    local_ts: tuple[SelectorRange, ...]
    remote_ts: tuple[SelectorRange, ...]
    spi_in: int
    spi_out: int
    initiator: bool
    nonce_i: bytes
    nonce_r: bytes
    shared: bytes | None


class ChildSa:
    """A child of one IKE SA from installation to removal."""

    __slots__ = (
        "agreement",
        "expire_at",
        "inbound",
        "install_id",
        "installed_at",
        "name",
        "outbound",
        "outbound_held",
        "policies",
        "rekey_at",
        "state",
        "switch_at",
    )

    def __init__(self, sa: IkeSa, agreement: Agreement, now: float) -> None:
        """Derive the keys and write the specs; nothing is installed yet."""
        self.agreement = agreement
        self.name = agreement.config.name
        self.state = ChildState.INSTALLING
        self.install_id = 0
        self.outbound_held = False
        self.switch_at: float | None = None
        self.installed_at = now
        lifetime_s = agreement.config.lifetime_s
        uniform = sa.core.entropy.uniform()
        self.rekey_at: float | None = now + rekey_after_s(lifetime_s, agreement.initiator, uniform)
        self.expire_at = now + lifetime_s
        self.inbound, self.outbound, self.policies = _specs(sa, agreement, uniform)

    @property
    def spi_in(self) -> int:
        """The SPI the peer sends to."""
        return self.agreement.spi_in

    @property
    def spi_out(self) -> int:
        """The SPI we send to."""
        return self.agreement.spi_out

    @property
    def sa_ids(self) -> tuple[SaId, SaId]:
        """Both SAs' names, inbound first."""
        return (self.inbound.id, self.outbound.id)

    def lowest_nonce(self) -> bytes:
        """Return the lower nonce of the exchange that made it (RFC 7296 section 2.8.1)."""
        return min(self.agreement.nonce_i, self.agreement.nonce_r)

    def move(self, path: Path) -> None:
        """Rewrite the specs for another path."""
        self.inbound = replace(
            self.inbound,
            source=path.remote_address,
            destination=path.local_address,
            encapsulation=encapsulation(path, Direction.IN),
        )
        self.outbound = replace(
            self.outbound,
            source=path.local_address,
            destination=path.remote_address,
            encapsulation=encapsulation(path, Direction.OUT),
        )

    def retime(self, config: Child, uniform: float) -> None:
        """Take over other lifetimes of the document; they count from the installation.

        The data plane ends the SA at the lifetime it was installed with, so a longer one begins with the next SA.
        """
        self.agreement = replace(self.agreement, config=config)
        lifetime_s = min(config.lifetime_s, self.inbound.limits.hard_s)
        if self.rekey_at is not None:
            self.rekey_at = self.installed_at + rekey_after_s(lifetime_s, self.agreement.initiator, uniform)
        self.expire_at = self.installed_at + lifetime_s


def encapsulation(path: Path, direction: Direction) -> UdpEncapsulation:
    """Return the UDP ports of ESP on this path; where IKE stayed on 500, ESP still uses 4500 (RFC 3948)."""
    local = NAT_PORT if path.local_port == _UNNATTED_PORT else path.local_port
    remote = NAT_PORT if path.remote_port == _UNNATTED_PORT else path.remote_port
    if direction is Direction.OUT:
        return UdpEncapsulation(source_port=local, destination_port=remote)
    return UdpEncapsulation(source_port=remote, destination_port=local)


def _specs(sa: IkeSa, agreement: Agreement, uniform: float) -> tuple[SaSpec, SaSpec, tuple[PolicySpec, ...]]:
    assert sa.tunnel is not None
    config, proposal, path = agreement.config, agreement.proposal, sa.path
    assert proposal.encryption is not None
    encryption = algorithms.ENCRYPTION[proposal.encryption]
    integrity = None if proposal.integrity is None else algorithms.INTEGRITY[proposal.integrity]
    keys = derive_child_keys(
        sa.suite.prf, sa.keys.sk_d, agreement.nonce_i, agreement.nonce_r, agreement.shared, encryption, integrity
    )
    from_initiator, from_responder = (keys.encr_i, keys.integ_i), (keys.encr_r, keys.integ_r)
    sending, receiving = from_initiator, from_responder
    if not agreement.initiator:
        sending, receiving = receiving, sending
    tunnel_id = sa.tunnel.config.id
    reqid = sa.core.reqid(tunnel_id, config.name)
    limits = Limits(
        hard_s=config.lifetime_s,
        soft_bytes=soft_limit(config.lifetime_bytes, uniform),
        hard_bytes=config.lifetime_bytes,
        soft_packets=soft_limit(config.lifetime_packets, uniform),
        hard_packets=config.lifetime_packets,
    )

    def spec(direction: Direction, spi: int, outer: tuple[str, str], pair: tuple[Secret, Secret | None]) -> SaSpec:
        return SaSpec(
            tunnel_id=tunnel_id,
            direction=direction,
            spi=spi,
            source=outer[0],
            destination=outer[1],
            reqid=reqid,
            encryption=proposal.encryption,
            encryption_key=pair[0],
            integrity=proposal.integrity,
            integrity_key=pair[1],
            encapsulation=encapsulation(path, direction) if sa.encapsulated else None,
            replay_window=config.replay_window,
            limits=limits,
        )

    inbound = spec(Direction.IN, agreement.spi_in, (path.remote_address, path.local_address), receiving)
    outbound = spec(Direction.OUT, agreement.spi_out, (path.local_address, path.remote_address), sending)
    policies = selectors.policies(
        tunnel_id=tunnel_id,
        reqid=reqid,
        local_address=path.local_address,
        remote_address=path.remote_address,
        local_ts=agreement.local_ts,
        remote_ts=agreement.remote_ts,
    )
    return inbound, outbound, policies
