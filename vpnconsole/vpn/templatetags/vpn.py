"""What pages say about proposals and manual SAs."""

from __future__ import annotations

from django import template

from vpnconsole.vpn import match
from vpnconsole.vpn.forms.manual import spi_text
from vpnconsole.vpn.models import IKEProposal, IPsecProposal

register = template.Library()

register.filter("spi", spi_text)


@register.filter
def weaknesses(proposal: IKEProposal | IPsecProposal) -> list[str]:
    """Why the algorithms of a proposal are weak, one sentence each."""
    return match.proposal_weaknesses(proposal)
