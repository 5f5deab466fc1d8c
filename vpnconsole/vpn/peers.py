"""What a make of peer cannot do, said beside the field of the tunnel and by the name of the make.

Pure checks on rows given; the table is ``gateways.profiles``. A tunnel has at most one extranet end, but each end is
asked, so that nothing here depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agents.contract import algorithms
from agents.contract.config import ExchangeMode, IkeVersion
from vpnconsole.gateways.choices import IdentityTypeChoice
from vpnconsole.gateways.models import Gateway
from vpnconsole.gateways.profiles import Profile
from vpnconsole.lib.errors import FieldErrors
from vpnconsole.vpn.choices import IkeVersionChoice, ModeChoice, TunnelKindChoice
from vpnconsole.vpn.models import (
    IKEPolicy,
    IKEProposal,
    IPsecPolicy,
    IPsecProposal,
    SelectorPair,
    Tunnel,
    TunnelEnd,
)

_ADDRESSES = (IdentityTypeChoice.IPV4, IdentityTypeChoice.IPV6)


def check(
    errors: FieldErrors,
    tunnel: Tunnel,
    ends: Sequence[TunnelEnd],
    pairs: Iterable[SelectorPair],
    others: Iterable[Tunnel],
) -> None:
    """Note what the makes of a negotiated tunnel's ends rule out; ``others`` share a gateway with it.

    Of an on-demand tunnel only our end is known, which has no make.
    """
    pairs, others = list(pairs), list(others)
    for end, far in (ends, ends[::-1]) if len(ends) == 2 else ():
        if problem := version_problem(end.gateway, tunnel.version):
            errors.add("version", problem, "peer")
            continue
        if problem := ike_policy_problem(end.gateway, tunnel.policies.ike_policy, tunnel.version):
            errors.add("ike_policy", problem, "peer")
        for field, policy in tunnel.ipsec_choices(pairs):
            if problem := ipsec_policy_problem(end.gateway, policy):
                errors.add(field, problem, "peer")
        _check_identities(errors, tunnel, end, far)
        _check_key(errors, tunnel, end, far, others)


def version_problem(gateway: Gateway, version: str) -> str:
    """Return why the make of a gateway rules a version out, or nothing."""
    peer = gateway.peer
    if version not in IkeVersionChoice.values or peer.speaks(IkeVersion(version)):
        return ""
    spoken = " and ".join(IkeVersionChoice(each).label for each in sorted(peer.versions))
    return f"{gateway.name} is {peer.named}, which speaks {spoken} only: choose that."


def ike_policy_problem(gateway: Gateway, policy: IKEPolicy, version: str) -> str:
    """Return why the make of a gateway rules an IKE policy out, or nothing."""
    peer = gateway.peer
    who = f"{gateway.name} is {peer.named}"
    if version != IkeVersionChoice.V2 and ExchangeMode(policy.exchange_mode) not in peer.modes:
        return (
            f"Policy {policy.name} uses {policy.get_exchange_mode_display()}, but {who}, which has {_modes(peer)} only."
        )
    if peer.ike is None:
        return ""
    if not any(_has_ike(peer, row) for row in policy.ordered_proposals()):
        return f"Policy {policy.name} has no proposal for it: {who}, which knows {peer.ike.says}."
    low, high = peer.ike.lifetime_s
    if not low <= policy.lifetime_s <= high:
        return f"Policy {policy.name} has a lifetime of {policy.lifetime_s} s, but {who}: {low} to {high:,} s."
    return ""


def _modes(peer: Profile) -> str:
    return " and ".join("Main Mode" if mode is ExchangeMode.MAIN else "Aggressive Mode" for mode in sorted(peer.modes))


def _has_ike(peer: Profile, row: IKEProposal) -> bool:
    limits = peer.ike
    return limits is None or (
        row.encryption in limits.encryption
        and row.integrity in limits.integrity
        and row.prf in limits.prf
        and row.group in limits.groups
        and row.additional_key_exchange is None
    )


def ipsec_policy_problem(gateway: Gateway, policy: IPsecPolicy) -> str:
    """Return why the make of a gateway rules an IPsec policy out, or nothing."""
    peer, limits = gateway.peer, gateway.peer.ipsec
    if limits is None:
        return ""
    who = f"{gateway.name} is {peer.named}, which knows {limits.says}"
    if policy.mode == ModeChoice.TRANSPORT and not limits.transport:
        return f"Policy {policy.name} is for transport mode, but {who}."
    if not any(_has_ipsec(peer, row) for row in policy.ordered_proposals()):
        return f"Policy {policy.name} has no proposal for it: {who}."
    if policy.pfs_group and limits.groups is not None and policy.pfs_group not in limits.groups:
        label = algorithms.KEY_EXCHANGE[policy.pfs_group].label
        groups = ", ".join(sorted((each.removeprefix("group-") for each in limits.groups), key=int))
        return f"Policy {policy.name} has PFS group {label}, but {gateway.name} is {peer.named}: groups {groups}."
    return ""


def _has_ipsec(peer: Profile, row: IPsecProposal) -> bool:
    limits = peer.ipsec
    if limits is None:
        return True
    integrities = [each for each in (row.integrity, row.ah_integrity) if each]
    return (
        (limits.ah or row.ah_integrity is None)
        and (limits.encryption is None or row.encryption is None or row.encryption in limits.encryption)
        and (limits.integrity is None or all(each in limits.integrity for each in integrities))
    )


def _check_identities(errors: FieldErrors, tunnel: Tunnel, end: TunnelEnd, far: TunnelEnd) -> None:
    if not end.gateway.peer.address_identities or tunnel.exchange_mode != ExchangeMode.MAIN:
        return
    for each in (end, far):
        if each.identity_type not in _ADDRESSES:
            errors.add(
                f"end_{each.side}.identity_type",
                f"{end.gateway.name} is {end.gateway.peer.named}: in Main Mode with a pre-shared key both identities "
                "are IP addresses.",
                "peer",
            )


def _check_key(errors: FieldErrors, tunnel: Tunnel, end: TunnelEnd, far: TunnelEnd, others: Iterable[Tunnel]) -> None:
    """Note a second key for one of our addresses at a peer that keeps its keys under the other system's address.

    The peer's own address does not help: it is the far end, ours, that the key is filed under there.
    """
    if not end.gateway.peer.one_key_per_address or "psk" in errors:
        return
    for other in others:
        if other.kind != TunnelKindChoice.STATIC:
            continue
        its_end = next((row for row in other.ends.all() if row.gateway_id == end.gateway_id), None)
        if its_end is None or not other.enabled or other.psk_id == tunnel.psk_id:
            continue
        its_far = other.end_b if its_end.side == other.end_a.side else other.end_a
        if its_far.address == far.address:
            errors.add(
                "psk",
                f"{end.gateway.name} is {end.gateway.peer.named}, where a pre-shared key is found by the IP address of "
                f"the remote system, here {far.address}, and tunnel {other.name} has a key under it already: a second "
                'one is refused there with "PSK remote id already exists". Use another address of '
                f"{far.gateway.name}, or the key {other.preshared_key.name} for both.",
                "peer",
            )
            return


def distinct(choices: Iterable[tuple[str, IPsecPolicy]]) -> list[tuple[str, IPsecPolicy]]:
    """Return choices without those of a policy that stands further up: what is said of it is said once."""
    first: dict[int, tuple[str, IPsecPolicy]] = {}
    for field, policy in choices:
        first.setdefault(policy.pk, (field, policy))
    return list(first.values())


def proposals_in_vain(tunnel: Tunnel, gateway: Gateway) -> list[tuple[str, str]]:
    """Return field and sentence of proposals that are offered although the make of the peer has them not."""
    ike_policy = tunnel.policies.ike_policy
    found = [("ike_policy", row.name) for row in ike_policy.ordered_proposals() if not _has_ike(gateway.peer, row)]
    found += [
        (field, row.name)
        for field, policy in distinct(tunnel.ipsec_choices(tunnel.selectors.all()))
        for row in policy.ordered_proposals()
        if not _has_ipsec(gateway.peer, row)
    ]
    return [(field, f"{name} is offered in vain: {gateway.name} is {gateway.peer.named}.") for field, name in found]


def habits(tunnel: Tunnel, gateway: Gateway) -> list[tuple[str, str]]:
    """Return field and sentence of what works with the make of the peer only under a condition."""
    peer, policy = gateway.peer, tunnel.policies.ike_policy
    found = []
    if not peer.answers_liveness and policy.dpd_interval_s and tunnel.allows_v1:
        found.append(
            (
                "ike_policy",
                f"Liveness checks are on in policy {policy.name}, but {gateway.name} is {peer.named}, which does not "
                "answer them as it comes: switch them on there, or off here.",
            )
        )
    if peer.whole_minutes:
        ipsec = distinct(tunnel.ipsec_choices(tunnel.selectors.all()))
        choices: list[tuple[str, IKEPolicy | IPsecPolicy]] = [("ike_policy", policy), *ipsec]
        found += [
            (
                field,
                f"A lifetime of {row.lifetime_s} s is not whole minutes, which is what {gateway.name}, {peer.named}, "
                "can be told.",
            )
            for field, row in choices
            if row.lifetime_s % 60
        ]
    return found
