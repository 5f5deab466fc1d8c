"""Advice on a tunnel: what works but is unwise, in one sentence with the field to change.

Both ends derive from one tunnel, so they match each other by construction; what is left to check is how good the common
choice is, and how the tunnel sits beside others. Pure: rows come with their relations fetched.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from agents.contract import algorithms
from vpnconsole.vpn import ikev1, keys, manual, peers, rules
from vpnconsole.vpn.choices import AttachmentChoice, ExchangeModeChoice, PeerIdentityChoice, SaDirection, Side
from vpnconsole.vpn.models import IKEPolicy, IKEProposal, IPsecPolicy, IPsecProposal, Tunnel


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One remark: a stable code, the sentence, and the form's field."""

    code: str
    message: str
    field: str


class _Weak(Protocol):
    @property
    def label(self) -> str: ...
    @property
    def weakness(self) -> str: ...


def proposal_weaknesses(proposal: IKEProposal | IPsecProposal) -> list[str]:
    """Return why the algorithms of a proposal are weak, one sentence each."""
    rows: list[str] = []
    cipher = algorithms.ENCRYPTION.get(proposal.encryption or "")
    integrity = algorithms.INTEGRITY.get(proposal.integrity or "")
    found: tuple[_Weak | None, ...]
    if isinstance(proposal, IKEProposal):
        prf = algorithms.PSEUDO_RANDOM.get(proposal.prf)
        group = algorithms.KEY_EXCHANGE.get(proposal.group)
        found = (cipher, integrity, prf, group)
    else:
        found = (cipher, integrity, algorithms.INTEGRITY.get(proposal.ah_integrity or ""))
    for row in found:
        if row is not None and row.weakness and row.weakness not in rows:
            rows.append(row.weakness)
    return rows


def policy_advice(policy: IKEPolicy | IPsecPolicy, field: str) -> list[Advice]:
    """Return remarks on a policy under the name of the form's field."""
    weak: dict[str, list[str]] = {}
    for proposal in policy.ordered_proposals():
        for sentence in proposal_weaknesses(proposal):
            weak.setdefault(sentence, []).append(proposal.name)
    advice = [
        Advice(code="weak-algorithm", message=f"{', '.join(names)}: {sentence}.", field=field)
        for sentence, names in weak.items()
    ]
    if isinstance(policy, IPsecPolicy):
        if policy.pfs_group is None:
            message = "No PFS group: who learns the keys of the IKE SA can read all traffic under it. Choose one."
            advice.append(Advice(code="no-pfs", message=message, field=field))
        if policy.replay_window == 0:
            message = "Replay protection is off: recorded packets can be sent again. Use a window of 64 or more."
            advice.append(Advice(code="no-replay-window", message=message, field=field))
    return advice


def tunnel_advice(tunnel: Tunnel, others: Iterable[Tunnel] = ()) -> list[Advice]:
    """Return remarks on a tunnel, the weightiest first; ``others`` are those that share a gateway with it."""
    others = [other for other in others if other.pk != tunnel.pk]
    advice = _manual(tunnel) if tunnel.is_manual else _negotiated(tunnel, others)
    advice += _shared_in_context(tunnel)
    advice += _outer_inside(tunnel)
    advice += _nested(tunnel, others)
    return advice


def _shared_in_context(tunnel: Tunnel) -> list[Advice]:
    """A VRF holds interfaces: a tunnel without one has no place in it."""
    names = [end.context.name for end in tunnel.ends.all() if end.context]
    if not names or tunnel.attachment == AttachmentChoice.INTERFACE:
        return []
    message = (
        f"Context {' and '.join(names)}: where the kernel has VRFs, only a tunnel with an interface of its own can be "
        "in one, and this one would get no routes. Choose that attachment."
    )
    return [Advice(code="shared-in-context", message=message, field="attachment")]


def _negotiated(tunnel: Tunnel, others: list[Tunnel]) -> list[Advice]:
    policies = tunnel.policies
    advice: list[Advice] = []
    if weakness := keys.weakness(tunnel.preshared_key):
        advice.append(Advice(code="short-psk", message=weakness, field="psk"))
    shared = [other.name for other in others if other.psk_id == tunnel.psk_id]
    if shared:
        message = f"The key is used by {', '.join(shared[:3])} as well: a key of its own keeps a leak to one tunnel."
        advice.append(Advice(code="shared-psk", message=message, field="psk"))
    advice += _crowd(tunnel)
    advice += _aggressive(tunnel)
    advice += policy_advice(policies.ike_policy, "ike_policy")
    for field, policy in peers.distinct(tunnel.ipsec_choices(tunnel.selectors.all())):
        advice += policy_advice(policy, field)
    advice += _peers(tunnel)
    return advice


def _crowd(tunnel: Tunnel) -> list[Advice]:
    """What it means that every peer of an on-demand tunnel has the same key."""
    if not tunnel.is_on_demand or tunnel.most_peers == 1:
        return []
    if tunnel.peer_identity_type != PeerIdentityChoice.ANY and not tunnel.peer_identity_value.startswith("*"):
        return []
    message = (
        "All peers have one pre-shared key: whoever of them leaks it opens the door for strangers, and each can pass "
        "for another. Give few peers a tunnel each with a key of its own."
    )
    return [Advice(code="crowd-psk", message=message, field="psk")]


def _manual(tunnel: Tunnel) -> list[Advice]:
    advice = [Advice(code="manual-keys", message=manual.ADVICE, field="kind")]
    weak: dict[str, None] = {}
    for index, pair in enumerate(tunnel.selectors.all()):
        child = pair.manual
        for sa in child.sas.all():
            for table, slug in (
                (algorithms.ENCRYPTION, sa.encryption),
                (algorithms.INTEGRITY, sa.integrity),
                (algorithms.INTEGRITY, sa.ah_integrity),
            ):
                row: _Weak | None = table.get(slug or "")
                if row is not None and row.weakness:
                    weak[f"{row.label}: {row.weakness}."] = None
            if sa.direction == SaDirection.BOTH:
                message = (
                    f"{pair}: one key for both directions lets a recorded packet be sent back to where it came from. "
                    "Give each direction its own."
                )
                advice.append(Advice(code="one-key", message=message, field=f"selectors.{index}.manual.directions"))
    advice += [Advice(code="weak-algorithm", message=message, field="selectors") for message in weak]
    for end in tunnel.ends.all():
        if end.gateway.is_managed and not end.routes.all():
            message = (
                f"The console routes nothing into the tunnel on {end.gateway.name}: manual keys add no routes by "
                "themselves. Give a static route, unless a routing protocol or an administrator does."
            )
            advice.append(Advice(code="no-route", message=message, field=f"end_{end.side}.routes"))
    return advice


def _aggressive(tunnel: Tunnel) -> list[Advice]:
    guessable = ikev1.guessable(tunnel.preshared_key.length_octets)
    if not guessable or tunnel.exchange_mode != ExchangeModeChoice.AGGRESSIVE:
        return []
    return [Advice(code="guessable-psk", message=guessable, field="psk")]


def _peers(tunnel: Tunnel) -> list[Advice]:
    """What the make of an end makes of the tunnel, beyond what is refused."""
    advice = []
    for end in tunnel.ends.all():
        for code, found in (
            ("offered-in-vain", peers.proposals_in_vain(tunnel, end.gateway)),
            ("peer-habit", peers.habits(tunnel, end.gateway)),
        ):
            advice += [Advice(code=code, message=message, field=field) for field, message in found]
    return advice


def _outer_inside(tunnel: Tunnel) -> list[Advice]:
    advice = []
    for index, pair in enumerate(tunnel.selectors.all()):
        for end in tunnel.ends.all():
            network = pair.network_a if end.side == Side.A else pair.network_b
            if ipaddress.ip_address(end.address) in ipaddress.ip_network(network):
                message = (
                    f"{network} holds {end.address}, the outer address of {end.gateway.name}: encrypted packets must "
                    "not be sent into the tunnel again."
                )
                field = f"selectors.{index}.network_{end.side}"
                advice.append(Advice(code="outer-inside", message=message, field=field))
    return advice


def _nested(tunnel: Tunnel, others: list[Tunnel]) -> list[Advice]:
    advice: dict[tuple[str, str], Advice] = {}
    ends = list(tunnel.ends.all())
    for index, side, gateway, other, pair in rules.shared_traffic(ends, list(tunnel.selectors.all()), others):
        field = f"selectors.{index}.network_{'b' if side == 'a' else 'a'}"
        decides = "what each peer asks for" if tunnel.is_on_demand or other.is_on_demand else "the longer prefix"
        message = f"Shares packets with {other} ({pair}) on {gateway.name}: {decides} decides."
        advice.setdefault((field, other.name), Advice(code="nested", message=message, field=field))
    return list(advice.values())
