"""One child: a pair of SAs (RFC 7296 section 2.17), as specs for a data plane, and when it is to be replaced.

Each direction is ESP, AH, or ESP inside AH, with IPComp before it where that was agreed on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agents.contract import algorithms
from agents.contract.config import Child, IpsecProposal, Mode
from agents.contract.secret import Secret
from agents.dataplane.base import (
    AuthenticationHeader,
    Direction,
    Limits,
    PolicySpec,
    SaId,
    SaProtocol,
    SaSpec,
)
from agents.ike import selectors
from agents.ike.outputs import Path
from agents.ike.paths import encapsulation
from agents.ike.timers import rekey_after_s, soft_limit
from agents.ike.v2.keymat import derive_child_keys
from agents.ike.v2.states import ChildState
from agents.ike.wire.payloads import SelectorRange
from agents.ike.wire.registry import Protocol

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa

_MOST_PACKETS = 2**32 - 1
"""Sequence numbers of 32 bits must not begin again (RFC 4303 section 3.3.3): a new SA is there before."""

_SA_PROTOCOLS = {Protocol.ESP: SaProtocol.ESP, Protocol.AH: SaProtocol.AH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What an exchange agreed on for a child; ``initiator`` says whether we sent the request.

    ``spi_in`` is ESP's and AH's alike, ``spi_out`` ESP's where there is ESP; ``ah_spi_out`` is AH's around ESP.
    ``slot`` tells children of one name with different selectors apart.
    """

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
    ah_spi_out: int | None = None
    esn: bool = False
    mode: Mode = Mode.TUNNEL
    cpi_in: int | None = None
    cpi_out: int | None = None
    slot: int = 0

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """The protocols of its SAs, the inner one first."""
        esp = () if self.proposal.encryption is None else (Protocol.ESP,)
        return esp if self.proposal.ah_integrity is None else (*esp, Protocol.AH)


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
        uniform = sa.core.hub.entropy.uniform()
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

    @property
    def protocol(self) -> Protocol:
        """The protocol that ``spi_in`` and ``spi_out`` belong to."""
        return self.agreement.protocols[0]

    def sends_to(self, protocol: int, spi: int) -> bool:
        """Return whether the peer receives this child on that protocol and SPI."""
        agreement = self.agreement
        return (protocol == self.protocol and spi == agreement.spi_out) or (
            protocol == Protocol.AH and spi == agreement.ah_spi_out
        )

    def lowest_nonce(self) -> bytes:
        """Return the lower nonce of the exchange that made it (RFC 7296 section 2.8.1)."""
        return min(self.agreement.nonce_i, self.agreement.nonce_r)

    def move(self, path: Path, encapsulated: bool) -> None:
        """Rewrite specs and policies for another path, inside UDP or not."""
        local, remote = path.local_address, path.remote_address
        self.inbound = replace(
            self.inbound,
            source=remote,
            destination=local,
            encapsulation=encapsulation(path, Direction.IN) if encapsulated else None,
        )
        self.outbound = replace(
            self.outbound,
            source=local,
            destination=remote,
            encapsulation=encapsulation(path, Direction.OUT) if encapsulated else None,
        )
        self.policies = tuple(
            replace(policy, source=local, destination=remote)
            if policy.direction is Direction.OUT
            else replace(policy, source=remote, destination=local)
            for policy in self.policies
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


def _specs(sa: IkeSa, agreement: Agreement, uniform: float) -> tuple[SaSpec, SaSpec, tuple[PolicySpec, ...]]:
    assert sa.tunnel is not None
    config, path = agreement.config, sa.esp_path
    tunnel_id = sa.tunnel.config.id
    packets = config.lifetime_packets
    if not agreement.esn:
        packets = min(packets or _MOST_PACKETS, _MOST_PACKETS)
    base = SaSpec(
        tunnel_id=tunnel_id,
        direction=Direction.IN,
        spi=agreement.spi_in,
        source=path.remote_address,
        destination=path.local_address,
        reqid=sa.core.hub.reqid(tunnel_id, config.name, agreement.slot),
        encryption=agreement.proposal.encryption,
        integrity=agreement.proposal.integrity,
        mode=agreement.mode,
        extended_sequence_numbers=agreement.esn,
        replay_window=config.replay_window,
        limits=Limits(
            hard_s=config.lifetime_s,
            soft_bytes=soft_limit(config.lifetime_bytes, uniform),
            hard_bytes=config.lifetime_bytes,
            soft_packets=soft_limit(packets, uniform),
            hard_packets=packets,
        ),
    )
    inbound, outbound = _directions(sa, agreement, base)
    policies = selectors.policies(
        tunnel_id=tunnel_id,
        reqid=base.reqid,
        local_address=path.local_address,
        remote_address=path.remote_address,
        local_ts=agreement.local_ts,
        remote_ts=agreement.remote_ts,
        mode=agreement.mode,
        protocols=tuple(_SA_PROTOCOLS[each] for each in agreement.protocols),
        compressed=agreement.cpi_in is not None,
    )
    return inbound, outbound, policies


def _directions(sa: IkeSa, agreement: Agreement, base: SaSpec) -> tuple[SaSpec, SaSpec]:
    """Return the specs with keys, CPIs and encapsulation: the inbound one, then the outbound one."""
    proposal, path = agreement.proposal, sa.esp_path
    keys = derive_child_keys(
        sa.suite.prf,
        sa.keys.sk_d,
        agreement.nonce_i,
        agreement.nonce_r,
        agreement.shared,
        None if proposal.encryption is None else algorithms.ENCRYPTION[proposal.encryption],
        None if proposal.integrity is None else algorithms.INTEGRITY[proposal.integrity],
        None if proposal.ah_integrity is None else algorithms.INTEGRITY[proposal.ah_integrity],
    )
    sending, receiving = (keys.encr_i, keys.integ_i, keys.ah_i), (keys.encr_r, keys.integ_r, keys.ah_r)
    if not agreement.initiator:
        sending, receiving = receiving, sending

    def keyed(spec: SaSpec, keys: tuple[Secret, Secret | None, Secret | None], ah_spi: int, cpi: int | None) -> SaSpec:
        encryption_key, integrity_key, ah_key = keys
        ah = None
        if proposal.ah_integrity is not None and ah_key is not None:
            ah = AuthenticationHeader(spi=ah_spi, integrity=proposal.ah_integrity, key=ah_key)
        return replace(
            spec,
            encryption_key=None if proposal.encryption is None else encryption_key,
            integrity_key=integrity_key,
            ah=ah,
            compression_cpi=cpi,
            encapsulation=encapsulation(path, spec.direction) if sa.encapsulated else None,
        )

    outbound = replace(
        base,
        direction=Direction.OUT,
        spi=agreement.spi_out,
        source=path.local_address,
        destination=path.remote_address,
    )
    ah_spi_out = agreement.spi_out if agreement.ah_spi_out is None else agreement.ah_spi_out
    return (
        keyed(base, receiving, agreement.spi_in, agreement.cpi_in),
        keyed(outbound, sending, ah_spi_out, agreement.cpi_out),
    )
