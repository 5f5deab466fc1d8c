"""What a negotiation of either IKE version agreed on for a child, as specs for a data plane.

Each direction is ESP, AH, or ESP inside AH, with IPComp before it where that was agreed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agents.contract.carriage import Carriage
from agents.contract.config import Child, IpsecProposal, Mode
from agents.contract.secret import Secret
from agents.dataplane.base import (
    AuthenticationHeader,
    Direction,
    Limits,
    OriginalAddresses,
    PolicySpec,
    SaProtocol,
    SaSpec,
)
from agents.ike import selectors
from agents.ike.outputs import Path
from agents.ike.paths import encapsulation
from agents.ike.rules import Rank
from agents.ike.timers import soft_limit
from agents.ike.wire.payloads import SelectorRange

_MOST_PACKETS = 2**32 - 1
"""Sequence numbers of 32 bits must not begin again (RFC 4303 section 3.3.3): a new SA is there before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Keys of one direction; None for what it does not have."""

    encryption: Secret | None
    integrity: Secret | None
    ah: Secret | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """One pair of SAs, as we see it. ``spi_in`` and ``spi_out`` are ESP's, or AH's where there is no ESP."""

    tunnel_id: str
    reqid: int
    path: Path
    encapsulated: bool
    proposal: IpsecProposal
    mode: Mode
    esn: bool
    replay_window: int
    limits: Limits
    spi_in: int
    spi_out: int
    ah_spi_in: int
    ah_spi_out: int
    keys_in: Keys
    keys_out: Keys
    cpi_in: int | None
    cpi_out: int | None
    local_ts: Sequence[SelectorRange]
    remote_ts: Sequence[SelectorRange]
    original: OriginalAddresses | None
    carriage: Carriage
    rank: Rank


def limits(config: Child, *, lifetime_s: int, lifetime_bytes: int, esn: bool, uniform: float) -> Limits:
    """Return the limits of an SA; ``uniform`` moves the soft ones, so that not all SAs are rekeyed at once."""
    packets = config.lifetime_packets
    if not esn:
        packets = min(packets or _MOST_PACKETS, _MOST_PACKETS)
    return Limits(
        hard_s=lifetime_s,
        soft_bytes=soft_limit(lifetime_bytes, uniform),
        hard_bytes=lifetime_bytes,
        soft_packets=soft_limit(packets, uniform),
        hard_packets=packets,
    )


def build(plan: Blueprint) -> tuple[SaSpec, SaSpec, tuple[PolicySpec, ...]]:
    """Return the inbound SA, the outbound SA and the policies of both directions."""
    proposal, path = plan.proposal, plan.path
    base = SaSpec(
        tunnel_id=plan.tunnel_id,
        direction=Direction.IN,
        spi=plan.spi_in,
        source=path.remote_address,
        destination=path.local_address,
        reqid=plan.reqid,
        encryption=proposal.encryption,
        integrity=proposal.integrity,
        mode=plan.mode,
        extended_sequence_numbers=plan.esn,
        replay_window=plan.replay_window,
        limits=plan.limits,
        df_bit=plan.carriage.df_bit,
        copy_dscp=plan.carriage.copy_dscp,
    )
    outbound = replace(
        base,
        direction=Direction.OUT,
        spi=plan.spi_out,
        source=path.local_address,
        destination=path.remote_address,
    )
    policies = selectors.policies(
        tunnel_id=plan.tunnel_id,
        reqid=plan.reqid,
        local_address=path.local_address,
        remote_address=path.remote_address,
        local_ts=plan.local_ts,
        remote_ts=plan.remote_ts,
        mode=plan.mode,
        protocols=protocols_of(proposal),
        compressed=plan.cpi_in is not None,
        place=plan.rank.place,
    )
    return (
        _keyed(plan, replace(base, original=plan.original), plan.keys_in, plan.ah_spi_in, plan.cpi_in),
        _keyed(plan, outbound, plan.keys_out, plan.ah_spi_out, plan.cpi_out),
        policies,
    )


def protocols_of(proposal: IpsecProposal) -> tuple[SaProtocol, ...]:
    """Return the protocols of a suite, the inner one first."""
    esp = () if proposal.encryption is None else (SaProtocol.ESP,)
    return esp if proposal.ah_integrity is None else (*esp, SaProtocol.AH)


def _keyed(plan: Blueprint, spec: SaSpec, keys: Keys, ah_spi: int, cpi: int | None) -> SaSpec:
    ah = None
    if plan.proposal.ah_integrity is not None and keys.ah is not None:
        ah = AuthenticationHeader(spi=ah_spi, integrity=plan.proposal.ah_integrity, key=keys.ah)
    return replace(
        spec,
        encryption_key=None if plan.proposal.encryption is None else keys.encryption,
        integrity_key=keys.integrity,
        ah=ah,
        compression_cpi=cpi,
        encapsulation=encapsulation(plan.path, spec.direction) if plan.encapsulated else None,
    )


def moved(
    inbound: SaSpec, outbound: SaSpec, policies: Sequence[PolicySpec], path: Path, encapsulated: bool
) -> tuple[SaSpec, SaSpec, tuple[PolicySpec, ...]]:
    """Return specs and policies for another path, inside UDP or not."""
    local, remote = path.local_address, path.remote_address
    return (
        replace(
            inbound,
            source=remote,
            destination=local,
            encapsulation=encapsulation(path, Direction.IN) if encapsulated else None,
        ),
        replace(
            outbound,
            source=local,
            destination=remote,
            encapsulation=encapsulation(path, Direction.OUT) if encapsulated else None,
        ),
        tuple(
            replace(policy, source=local, destination=remote)
            if policy.direction is Direction.OUT
            else replace(policy, source=remote, destination=local)
            for policy in policies
        ),
    )
