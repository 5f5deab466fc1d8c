"""What the tunnel form offers and says of IKE versions, policies and makes of peer. The services judge it again.

What does not go with the chosen ends stays in the lists, in a group of its own: it is shown, not hidden, and refused
with its reason when it is chosen all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vpnconsole.gateways.models import Gateway
from vpnconsole.gateways.profiles import Profile
from vpnconsole.vpn import ikev1, legacy, match, ondemand, peers
from vpnconsole.vpn.choices import ExchangeModeChoice, IkeVersionChoice
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, PresharedKey

_UNFIT = "Not for these ends and this IKE version"


def versions(gateways: Iterable[Gateway], chosen: str) -> list[tuple[str, str]]:
    """Return the versions that every chosen gateway speaks, and the one that is chosen already."""
    rows = list(gateways)
    return [
        (value, label)
        for value, label in IkeVersionChoice.choices
        if value == chosen or not any(peers.version_problem(row, value) for row in rows)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen so far, that a policy has to go with."""

    gateways: Sequence[Gateway]
    version: str
    on_demand: bool = False


def policies(rows: Iterable[IKEPolicy] | Iterable[IPsecPolicy], chosen: Choice, empty: str) -> list[Any]:
    """Return the choices of a list of policies, those that do not go with ends and version in a group below."""
    fit: list[tuple[str, str]] = []
    unfit: list[tuple[str, str]] = []
    for row in rows:
        (unfit if problem(row, chosen) else fit).append((str(row.pk), row.name))
    return [("", empty), *fit, *([(_UNFIT, unfit)] if unfit else [])]


def problem(policy: IKEPolicy | IPsecPolicy, chosen: Choice) -> str:
    """Return why a policy does not go with kind, version and makes, or nothing."""
    found = [ikev1.policy_problem(policy, chosen.version)]
    if chosen.on_demand:
        found.append(ondemand.policy_problem(policy, chosen.version))
    for gateway in chosen.gateways:
        if isinstance(policy, IKEPolicy):
            found.append(peers.ike_policy_problem(gateway, policy, chosen.version))
        else:
            found.append(peers.ipsec_policy_problem(gateway, policy))
    return next(filter(None, found), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remarks:
    """What is to be said of a chosen policy: why it would be refused, and what is weak about it."""

    refused: list[str]
    weak: list[str]


def remarks(policy: IKEPolicy | IPsecPolicy, chosen: Choice, field: str) -> Remarks:
    """Return what is to be said of a policy."""
    refused = [problem(policy, chosen), legacy.problem(policy, chosen.gateways)]
    weak = [each.message for each in match.policy_advice(policy, field)]
    return Remarks(refused=list(filter(None, refused)), weak=weak)


def key_notes(
    policy: IKEPolicy | None, choice: Choice, addresses: Sequence[str], psk: PresharedKey | None
) -> tuple[list[str], list[str]]:
    """Return what to know of how IKEv1 finds the key, and what is risky about the stored key that is chosen."""
    if policy is None or choice.version == IkeVersionChoice.V2:
        return [], []
    if choice.on_demand and ondemand.policy_problem(policy, choice.version):
        return [], []  # what is refused needs no note on how it would work
    known = [address for address in addresses if address]
    notes = [ikev1.key_note(policy.exchange_mode, *(known if len(known) == 2 else ()))]
    risky = psk is not None and policy.exchange_mode == ExchangeModeChoice.AGGRESSIVE
    warning = ikev1.guessable(psk.length_octets) if psk is not None and risky else ""
    return notes, [warning] if warning else []


def makes(gateways: Iterable[Gateway]) -> list[Profile]:
    """Return the makes among the ends of which something is known, each once."""
    return list({row.peer.slug: row.peer for row in gateways if row.peer.fixed}.values())
