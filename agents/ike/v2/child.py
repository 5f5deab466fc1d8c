"""One child: a pair of SAs (RFC 7296 section 2.17), as specs for a data plane, and when it is to be replaced.

Each direction is ESP, AH, or ESP inside AH, with IPComp before it where that was agreed on.
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
from agents.ike.v2.keymat import derive_child_keys
from agents.ike.v2.states import ChildState
from agents.ike.wire.payloads import SelectorRange
from agents.ike.wire.registry import Protocol

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa


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
    original: OriginalAddresses | None = None

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """The protocols of its SAs, the inner one first."""
        esp = () if self.proposal.encryption is None else (Protocol.ESP,)
        return esp if self.proposal.ah_integrity is None else (*esp, Protocol.AH)


def host_of(sa: IkeSa) -> Host:
    """Return which host the peer of an IKE SA is."""
    assert sa.tunnel is not None
    shown = sa.auth.identity
    return Host(
        tunnel_id=sa.tunnel.config.id,
        identity=b"" if shown is None else bytes((shown.id_type,)) + shown.data.lower(),
    )


class ChildSa:
    """A child of one IKE SA from installation to removal."""

    __slots__ = (
        "agreement",
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
        "switch_at",
    )

    def __init__(self, sa: IkeSa, agreement: Agreement, now: float) -> None:
        """Derive the keys and write the specs; nothing is installed yet."""
        self.agreement = agreement
        self.name = agreement.config.name
        self.host = host_of(sa)
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
        self.inbound, self.outbound, self.policies = specs.moved(
            self.inbound, self.outbound, self.policies, path, encapsulated
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
    config, proposal, tunnel_id = agreement.config, agreement.proposal, sa.tunnel.config.id
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
    sending = specs.Keys(encryption=keys.encr_i, integrity=keys.integ_i, ah=keys.ah_i)
    receiving = specs.Keys(encryption=keys.encr_r, integrity=keys.integ_r, ah=keys.ah_r)
    if not agreement.initiator:
        sending, receiving = receiving, sending
    return specs.build(
        specs.Blueprint(
            tunnel_id=tunnel_id,
            reqid=sa.core.hub.reqid(tunnel_id, config.name, sa.tunnel.slot(agreement.slot)),
            path=sa.esp_path,
            encapsulated=sa.encapsulated,
            proposal=proposal,
            mode=agreement.mode,
            esn=agreement.esn,
            replay_window=config.replay_window,
            limits=specs.limits(
                config,
                lifetime_s=config.lifetime_s,
                lifetime_bytes=config.lifetime_bytes,
                esn=agreement.esn,
                uniform=uniform,
            ),
            spi_in=agreement.spi_in,
            spi_out=agreement.spi_out,
            ah_spi_in=agreement.spi_in,
            ah_spi_out=agreement.spi_out if agreement.ah_spi_out is None else agreement.ah_spi_out,
            keys_in=receiving,
            keys_out=sending,
            cpi_in=agreement.cpi_in,
            cpi_out=agreement.cpi_out,
            local_ts=agreement.local_ts,
            remote_ts=agreement.remote_ts,
            original=agreement.original,
            carriage=sa.tunnel.config.carriage,
            rank=rules.rank(sa.tunnel.config.children, config.name),
        )
    )
