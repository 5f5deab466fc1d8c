"""One child of IKEv1: a pair of SAs for one pair of selectors (RFC 2409 section 5.5), as specs for a data plane.

A child of the document has one of these for each of its pairs (:func:`agents.ike.v1.selectors.pairs`): a Quick Mode
names one pair. ``slot`` tells them apart, and with it each has a reqid of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agents.contract import algorithms
from agents.contract.config import Child, IpsecProposal, Mode
from agents.dataplane.base import OriginalAddresses, PolicySpec, SaId, SaSpec
from agents.ike import rules, specs
from agents.ike.outputs import Path
from agents.ike.protected import Host
from agents.ike.timers import rekey_after_s
from agents.ike.v1.keymat import derive_sa_keys
from agents.ike.v1.states import ChildState
from agents.ike.wire.isakmp.registry import Protocol
from agents.ike.wire.payloads import SelectorRange

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa

Pair = tuple[SelectorRange, SelectorRange]
KILOBYTE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What a Quick Mode agreed on; ``initiator`` says whether we began it, ``began_at`` when.

    ``spi_in`` and ``spi_out`` are ESP's, or AH's where there is no ESP; ``ah_spi_in`` and ``ah_spi_out`` those of AH
    around ESP.
    """

    config: Child
    proposal: IpsecProposal
    group: str | None
    local: SelectorRange
    remote: SelectorRange
    spi_in: int
    spi_out: int
    ah_spi_in: int | None
    ah_spi_out: int | None
    cpi_in: int | None
    cpi_out: int | None
    initiator: bool
    began_at: float
    nonce_i: bytes
    nonce_r: bytes
    shared: bytes | None
    esn: bool
    mode: Mode
    lifetime_s: int
    lifetime_kilobytes: int
    slot: int
    original: OriginalAddresses | None = None

    @property
    def protocol(self) -> Protocol:
        """The protocol that ``spi_in`` and ``spi_out`` belong to."""
        return Protocol.AH if self.proposal.encryption is None else Protocol.ESP


def host_of(sa: IsakmpSa) -> Host:
    """Return which host the peer of an ISAKMP SA is; an ID payload's protocol and port say nothing about it."""
    assert sa.tunnel is not None
    shown = sa.phase1.id_peer
    return Host(tunnel_id=sa.tunnel.config.id, identity=shown[:1] + shown[4:].lower())


class ChildSa:
    """A pair of SAs from installation to removal; it belongs to the tunnel."""

    __slots__ = (
        "agreement",
        "delete_at",
        "expire_at",
        "host",
        "inbound",
        "install_id",
        "installed_at",
        "name",
        "outbound",
        "outbound_held",
        "policies",
        "rekey_at",
        "state",
    )

    def __init__(self, sa: IsakmpSa, agreement: Agreement, now: float) -> None:
        """Derive the keys and write the specs; nothing is installed yet."""
        self.agreement = agreement
        self.name = agreement.config.name
        self.host = host_of(sa)
        self.state = ChildState.INSTALLING
        self.install_id = 0
        self.outbound_held = False
        self.installed_at = now
        uniform = sa.core.hub.entropy.uniform()
        self.rekey_at: float | None = now + rekey_after_s(agreement.lifetime_s, agreement.initiator, uniform)
        self.expire_at = now + agreement.lifetime_s
        self.delete_at: float | None = None
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
    def slot(self) -> int:
        """Which of the child's pairs it is for."""
        return self.agreement.slot

    @property
    def sa_ids(self) -> tuple[SaId, SaId]:
        """Both SAs' names, inbound first."""
        return (self.inbound.id, self.outbound.id)

    @property
    def inbound_spis(self) -> tuple[tuple[Protocol, int], ...]:
        """What a Delete of ours names: protocol and SPI of each SA that we receive on (RFC 2408 section 3.15)."""
        agreement = self.agreement
        ah = () if agreement.ah_spi_in is None else ((Protocol.AH, agreement.ah_spi_in),)
        return ((agreement.protocol, agreement.spi_in), *ah)

    def sends_to(self, protocol: int, spi: int) -> bool:
        """Return whether the peer receives it on that protocol and SPI."""
        agreement = self.agreement
        return (protocol == agreement.protocol and spi == agreement.spi_out) or (
            protocol == Protocol.AH and spi == agreement.ah_spi_out
        )

    def lowest_nonce(self) -> bytes:
        """Return the lower nonce of the Quick Mode that made it: both ends see the same."""
        return min(self.agreement.nonce_i, self.agreement.nonce_r)

    def move(self, path: Path, encapsulated: bool) -> None:
        """Rewrite specs and policies for another path, inside UDP or not."""
        self.inbound, self.outbound, self.policies = specs.moved(
            self.inbound, self.outbound, self.policies, path, encapsulated
        )

    def shorten(self, lifetime_s: int, uniform: float) -> None:
        """The peer keeps it for less time than was offered."""
        lifetime_s = min(lifetime_s, self.agreement.lifetime_s)
        self.agreement = replace(self.agreement, lifetime_s=lifetime_s)
        if self.rekey_at is not None:
            self.rekey_at = self.installed_at + rekey_after_s(lifetime_s, self.agreement.initiator, uniform)
        self.expire_at = self.installed_at + lifetime_s

    def retime(self, config: Child, uniform: float) -> None:
        """Take over other lifetimes of the document; they count from the installation, and never beyond what stands."""
        self.agreement = replace(self.agreement, config=config)
        self.shorten(min(config.lifetime_s, self.inbound.limits.hard_s), uniform)


def _specs(sa: IsakmpSa, agreement: Agreement, uniform: float) -> tuple[SaSpec, SaSpec, tuple[PolicySpec, ...]]:
    assert sa.tunnel is not None
    config, tunnel_id = agreement.config, sa.tunnel.config.id
    ah_spi_in = agreement.spi_in if agreement.ah_spi_in is None else agreement.ah_spi_in
    ah_spi_out = agreement.spi_out if agreement.ah_spi_out is None else agreement.ah_spi_out
    return specs.build(
        specs.Blueprint(
            tunnel_id=tunnel_id,
            reqid=sa.core.hub.reqid(tunnel_id, config.name, sa.tunnel.slot(agreement.slot)),
            path=sa.path,
            encapsulated=sa.nat.encapsulates,
            proposal=agreement.proposal,
            mode=agreement.mode,
            esn=agreement.esn,
            replay_window=config.replay_window,
            limits=specs.limits(
                config,
                lifetime_s=agreement.lifetime_s,
                lifetime_bytes=agreement.lifetime_kilobytes * KILOBYTE,
                esn=agreement.esn,
                uniform=uniform,
            ),
            spi_in=agreement.spi_in,
            spi_out=agreement.spi_out,
            ah_spi_in=ah_spi_in,
            ah_spi_out=ah_spi_out,
            keys_in=_keys(sa, agreement, agreement.spi_in, ah_spi_in),
            keys_out=_keys(sa, agreement, agreement.spi_out, ah_spi_out),
            cpi_in=agreement.cpi_in,
            cpi_out=agreement.cpi_out,
            local_ts=(agreement.local,),
            remote_ts=(agreement.remote,),
            original=agreement.original,
            carriage=sa.tunnel.config.carriage,
            rank=rules.rank(sa.tunnel.config.children, config.name),
        )
    )


def _keys(sa: IsakmpSa, agreement: Agreement, spi: int, ah_spi: int) -> specs.Keys:
    """Return the keys of one direction: those of an SA are made with the SPI that its receiver chose."""
    proposal = agreement.proposal
    encryption = integrity = ah = None
    if proposal.encryption is not None:
        encryption, integrity = derive_sa_keys(
            sa.suite.prf,
            sa.keys.skeyid_d,
            Protocol.ESP,
            spi.to_bytes(4, "big"),
            agreement.nonce_i,
            agreement.nonce_r,
            agreement.shared,
            algorithms.ENCRYPTION[proposal.encryption],
            None if proposal.integrity is None else algorithms.INTEGRITY[proposal.integrity],
        )
    if proposal.ah_integrity is not None:
        _none, ah = derive_sa_keys(
            sa.suite.prf,
            sa.keys.skeyid_d,
            Protocol.AH,
            ah_spi.to_bytes(4, "big"),
            agreement.nonce_i,
            agreement.nonce_r,
            agreement.shared,
            None,
            algorithms.INTEGRITY[proposal.ah_integrity],
        )
    return specs.Keys(encryption=encryption, integrity=integrity, ah=ah)
