"""What pages say about proposals."""

from __future__ import annotations

from django import template

from vpnconsole.vpn import match
from vpnconsole.vpn.models import IKEProposal, IPsecProposal

register = template.Library()


@register.filter
def weaknesses(proposal: IKEProposal | IPsecProposal) -> list[str]:
    """Why the algorithms of a proposal are weak, one sentence each."""
    return match.proposal_weaknesses(proposal)
