"""Proposals and policies made from what is known of a make of peer, by name: ``SmartEdge defaults``.

Made when a person asks for them; theirs to change from then on, and left alone when asked for again.
"""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import transaction

from vpnconsole.accounts.models import User
from vpnconsole.gateways import profiles
from vpnconsole.gateways.profiles import Profile
from vpnconsole.vpn import policies, queries
from vpnconsole.vpn.models import IKEPolicy, IKEProposal, IPsecPolicy, IPsecProposal


def policy_name(peer: Profile) -> str:
    """Return the name of both policies of a make."""
    return f"{peer.label} defaults"


def existing(peer: Profile) -> tuple[IKEPolicy | None, IPsecPolicy | None]:
    """Return the policies of a make as far as they were made."""
    name = policy_name(peer)
    return queries.ike_policies().filter(name=name).first(), queries.ipsec_policies().filter(name=name).first()


@transaction.atomic
def make(actor: User | None, slug: str) -> tuple[IKEPolicy, IPsecPolicy]:
    """Make what is missing of a make's policies and return both; raises ValidationError for a make without."""
    peer = profiles.get(slug)
    defaults = peer.defaults
    if defaults is None:
        raise ValidationError("Nothing is known of this make that a policy could be made from.", code="profile")
    ike, ipsec = existing(peer)
    name, about = policy_name(peer), f"{defaults.about}."
    if ike is None:
        ike = policies.save_ike_policy(
            actor,
            name=name,
            description=about,
            proposals=_ike_proposals(actor, peer),
            lifetime_s=defaults.ike_lifetime_s,
            dpd_interval_s=defaults.dpd_interval_s,
        )
    if ipsec is None:
        ipsec = policies.save_ipsec_policy(
            actor,
            name=name,
            description=about,
            proposals=_ipsec_proposals(actor, peer),
            lifetime_s=defaults.ipsec_lifetime_s,
        )
    return ike, ipsec


def _ike_proposals(actor: User | None, peer: Profile) -> list[IKEProposal]:
    assert peer.defaults is not None
    return [
        IKEProposal.objects.filter(name=f"{peer.label}: {suite.name}").first()
        or policies.save_ike_proposal(
            actor,
            name=f"{peer.label}: {suite.name}",
            encryption=suite.encryption,
            integrity=suite.integrity,
            prf=suite.prf,
            group=suite.group,
        )
        for suite in peer.defaults.ike
    ]


def _ipsec_proposals(actor: User | None, peer: Profile) -> list[IPsecProposal]:
    assert peer.defaults is not None
    return [
        IPsecProposal.objects.filter(name=f"{peer.label}: {suite.name}").first()
        or policies.save_ipsec_proposal(
            actor, name=f"{peer.label}: {suite.name}", encryption=suite.encryption, integrity=suite.integrity
        )
        for suite in peer.defaults.ipsec
    ]
