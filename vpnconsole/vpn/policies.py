"""What is done to proposals and policies: one transaction each, audited; errors are keyed by field.

A policy's ``proposals`` are given whole and in order of preference. Tunnels take a change up with the next deployment.
The caller's row stays as it is; what is returned is the row as stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from django.db import models, transaction

from vpnconsole.accounts import audit
from vpnconsole.accounts.models import User
from vpnconsole.lib.deletion import delete_unused
from vpnconsole.lib.errors import FieldErrors
from vpnconsole.vpn import ikev1, legacy, ondemand, peers, queries, rules
from vpnconsole.vpn.choices import (
    DpdActionChoice,
    ExchangeModeChoice,
    IkeVersionChoice,
    ModeChoice,
    ReauthenticationChoice,
    SequenceNumbersChoice,
    TunnelKindChoice,
    UniquePolicyChoice,
)
from vpnconsole.vpn.models import (
    IKEPolicy,
    IKEPolicyProposal,
    IKEProposal,
    IPsecPolicy,
    IPsecPolicyProposal,
    IPsecProposal,
    QosPolicy,
    SelectorPair,
    Tunnel,
)

MOST_PROPOSALS = 16
_Row = TypeVar("_Row", IKEProposal, IPsecProposal, IKEPolicy, IPsecPolicy, QosPolicy)


@transaction.atomic
def save_ike_proposal(
    actor: User | None,
    proposal: IKEProposal | None = None,
    *,
    name: str,
    encryption: str,
    prf: str,
    group: str,
    integrity: str | None = None,
    additional_key_exchange: str | None = None,
    description: str = "",
) -> IKEProposal:
    """Make an IKE proposal, or change the one given; raises ValidationError by field."""
    row = IKEProposal.objects.get(pk=proposal.pk) if proposal else IKEProposal()
    row.name, row.description = name, description
    row.encryption, row.integrity, row.prf, row.group = encryption, integrity or None, prf, group
    row.additional_key_exchange = additional_key_exchange or None
    saved = _saved(actor, row)
    _refuse_unfit("", queries.ike_policies().filter(proposals=saved))
    return saved


@transaction.atomic
def save_ipsec_proposal(
    actor: User | None,
    proposal: IPsecProposal | None = None,
    *,
    name: str,
    encryption: str | None = None,
    integrity: str | None = None,
    ah_integrity: str | None = None,
    description: str = "",
) -> IPsecProposal:
    """Make an IPsec proposal, or change the one given; raises ValidationError by field."""
    row = IPsecProposal.objects.get(pk=proposal.pk) if proposal else IPsecProposal()
    row.name, row.description = name, description
    row.encryption, row.integrity, row.ah_integrity = encryption or None, integrity or None, ah_integrity or None
    saved = _saved(actor, row)
    _refuse_unfit("", queries.ipsec_policies().filter(proposals=saved))
    return saved


@transaction.atomic
def save_ike_policy(
    actor: User | None,
    policy: IKEPolicy | None = None,
    *,
    name: str,
    proposals: Sequence[IKEProposal],
    lifetime_s: int = 86_400,
    lifetime_kilobytes: int = 0,
    exchange_mode: str = ExchangeModeChoice.MAIN,
    dpd_interval_s: int = 30,
    dpd_action: str = DpdActionChoice.RESTART,
    reauth_s: int = 0,
    reauthentication: str = ReauthenticationChoice.MAKE_BEFORE_BREAK,
    keepalive_s: int = 20,
    mobike: bool = True,
    fragmentation: bool = True,
    unique: str = UniquePolicyChoice.REPLACE,
    description: str = "",
) -> IKEPolicy:
    """Make an IKE policy, or change the one given; raises ValidationError by field."""
    row = IKEPolicy.objects.get(pk=policy.pk) if policy else IKEPolicy()
    row.name, row.description = name, description
    row.lifetime_s, row.dpd_interval_s, row.dpd_action = lifetime_s, dpd_interval_s, dpd_action
    row.lifetime_kilobytes, row.exchange_mode = lifetime_kilobytes, exchange_mode
    row.reauth_s, row.reauthentication, row.unique = reauth_s, reauthentication, unique
    row.keepalive_s, row.mobike, row.fragmentation = keepalive_s, mobike, fragmentation
    saved = _saved(actor, row, proposals)
    saved.proposal_links.all().delete()
    for seq, proposal in enumerate(proposals, 1):
        IKEPolicyProposal.objects.create(policy=saved, proposal=proposal, seq=seq)
    _refuse_unfit("proposals", [saved])
    _refuse_on_demand("exchange_mode", saved)
    if saved.exchange_mode == ExchangeModeChoice.MAIN:
        _refuse_indistinct_keys(saved)
    return saved


@transaction.atomic
def save_ipsec_policy(
    actor: User | None,
    policy: IPsecPolicy | None = None,
    *,
    name: str,
    proposals: Sequence[IPsecProposal],
    lifetime_s: int = 3_600,
    lifetime_bytes: int = 0,
    lifetime_packets: int = 0,
    replay_window: int = 64,
    mode: str = ModeChoice.TUNNEL,
    sequence_numbers: str = SequenceNumbersChoice.NORMAL,
    ipcomp: bool = False,
    pfs_group: str | None = None,
    description: str = "",
) -> IPsecPolicy:
    """Make an IPsec policy, or change the one given; raises ValidationError by field."""
    row = IPsecPolicy.objects.get(pk=policy.pk) if policy else IPsecPolicy()
    row.name, row.description, row.pfs_group = name, description, pfs_group or None
    row.lifetime_s, row.lifetime_bytes, row.lifetime_packets = lifetime_s, lifetime_bytes, lifetime_packets
    row.replay_window, row.sequence_numbers, row.mode, row.ipcomp = replay_window, sequence_numbers, mode, ipcomp
    saved = _saved(actor, row, proposals)
    saved.proposal_links.all().delete()
    for seq, proposal in enumerate(proposals, 1):
        IPsecPolicyProposal.objects.create(policy=saved, proposal=proposal, seq=seq)
    _refuse_unfit("proposals", [saved])
    _refuse_on_demand("mode", saved)
    if saved.mode == ModeChoice.TRANSPORT:
        _refuse_transport(saved)
    return saved


def _refuse_unfit(field: str, changed: Iterable[IKEPolicy | IPsecPolicy]) -> None:
    """Raise ValidationError where a tunnel in use could not use the policies as stored now, or a gateway would not."""
    errors = FieldErrors()
    changed = list(changed)
    legacy.check_policies(errors, field, changed)
    for policy in changed:
        for tunnel in queries.tunnels_using(policy):
            if problem := _unfit(tunnel):
                errors.add(field, f"Tunnel {tunnel.name} uses it. {problem}", "unfit")
                break
    errors.raise_any()


def _unfit(tunnel: Tunnel) -> str:
    """Return why a tunnel cannot use its policies, or nothing."""
    pairs = tunnel.selectors.all()
    found = [ikev1.policy_problem(policy, tunnel.version) for _field, policy in tunnel.policy_choices(pairs)]
    for end in tunnel.ends.all():
        found.append(peers.ike_policy_problem(end.gateway, tunnel.policies.ike_policy, tunnel.version))
        found += [peers.ipsec_policy_problem(end.gateway, policy) for _field, policy in tunnel.ipsec_choices(pairs)]
    return next(filter(None, found), "")


def _refuse_on_demand(field: str, policy: IKEPolicy | IPsecPolicy) -> None:
    """Raise ValidationError where an on-demand tunnel could not use the policy any more."""
    errors = FieldErrors()
    for tunnel in queries.tunnels_using(policy).filter(kind=TunnelKindChoice.ON_DEMAND):
        if problem := ondemand.policy_problem(policy, tunnel.version):
            errors.add(field, f"Tunnel {tunnel.name} uses it. {problem}", "on_demand")
            break
    errors.raise_any()


def _refuse_indistinct_keys(policy: IKEPolicy) -> None:
    """Raise ValidationError where Main Mode could not tell the keys of the policy's tunnels from those of others."""
    if not policy.tunnels.exclude(version=IkeVersionChoice.V2).exists():
        return
    errors = FieldErrors()
    ikev1.check_keys_of_policy(errors, queries.tunnels())
    errors.raise_any()


def _refuse_transport(policy: IPsecPolicy) -> None:
    errors = FieldErrors()
    for tunnel in queries.tunnels_using(policy).exclude(kind=TunnelKindChoice.ON_DEMAND):
        found = FieldErrors()
        rules.check_mode(found, tunnel, list(tunnel.ends.all()), list(tunnel.selectors.all()))
        if found.any_below("selectors"):
            errors.add("mode", f"Tunnel {tunnel.name} carries networks, which transport mode cannot.", "mode")
    errors.raise_any()


@transaction.atomic
def save_qos_policy(
    actor: User | None,
    policy: QosPolicy | None = None,
    *,
    name: str,
    queues: int = 4,
    rate_kbps: int | None = None,
    description: str = "",
) -> QosPolicy:
    """Make a QoS policy, or change the one given; raises ValidationError by field."""
    row = QosPolicy.objects.get(pk=policy.pk) if policy else QosPolicy()
    row.name, row.description, row.queues, row.rate_kbps = name, description, queues, rate_kbps
    return _saved(actor, row)


@transaction.atomic
def delete(actor: User | None, row: IKEProposal | IPsecProposal | IKEPolicy | IPsecPolicy | QosPolicy) -> None:
    """Remove a proposal or policy; raises ValidationError naming what uses it."""
    audit.record(actor, f"{_word(row)}.deleted", row)
    delete_unused(row, _user)


def _user(row: models.Model) -> str:
    """Call what uses a row by a name that says where it is."""
    return f"pair {row} of {row.tunnel}" if isinstance(row, SelectorPair) else str(row)


def _word(row: models.Model) -> str:
    return str(row._meta.verbose_name).lower().replace(" ", "-")


def _saved(actor: User | None, row: _Row, proposals: Sequence[models.Model] | None = None) -> _Row:
    """Check and save one row; ``proposals`` None means that the row has none of its own."""
    action = "created" if row._state.adding else "changed"
    errors = FieldErrors()
    errors.clean("", row)
    if proposals is not None:
        if not 1 <= len(proposals) <= MOST_PROPOSALS:
            errors.add("proposals", f"Choose 1 to {MOST_PROPOSALS} proposals.", "count")
        if len({proposal.pk for proposal in proposals}) != len(proposals):
            errors.add("proposals", "Each proposal can stand once.", "twice")
    errors.raise_any()
    row.save()
    details = {"proposals": [str(proposal) for proposal in proposals]} if proposals is not None else {}
    audit.record(actor, f"{_word(row)}.{action}", row, details=details)
    return row
