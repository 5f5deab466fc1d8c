"""What IKEv1 asks of a tunnel, said beside the field: suites with numbers, single ports, one key per pair of addresses.

Pure checks on rows given, like ``rules``. What keeps a suite out of IKEv1 is the contract's to say
(``agents.contract.ikev1``); what a make of peer cannot do is in ``peers``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agents.contract import algorithms, ikev1
from vpnconsole.lib.errors import FieldErrors
from vpnconsole.vpn.choices import ExchangeModeChoice, IkeVersionChoice, Side
from vpnconsole.vpn.models import IKEPolicy, IKEProposal, IPsecPolicy, IPsecProposal, SelectorPair, Tunnel, TunnelEnd

AGGRESSIVE_OCTETS = 20
"""A key as long as a SHA-1 hash: shorter ones can be guessed from what Aggressive Mode shows."""

_ANY_PORT = (0, 65_535)
WAYS_OUT = (
    "use another local address for one of them, Aggressive Mode with an identity of its own, IKEv2, certificates, or "
    "one key for both"
)


def ike_obstacle(proposal: IKEProposal) -> str:
    """Return why a proposal cannot be used in phase 1, or nothing."""
    found = ikev1.ike_obstacle(_IkeSuite(proposal))
    return found[1] if found else ""


def ipsec_obstacle(proposal: IPsecProposal) -> str:
    """Return why a proposal cannot be used in phase 2, or nothing."""
    found = ikev1.ipsec_obstacle(proposal)
    return found[1] if found else ""


class _IkeSuite:
    """A stored proposal as the contract's table asks for it."""

    def __init__(self, row: IKEProposal) -> None:
        self.encryption, self.integrity, self.prf, self.group = row.encryption, row.integrity, row.prf, row.group
        self.additional_key_exchanges = (row.additional_key_exchange,) if row.additional_key_exchange else ()


def policy_problem(policy: IKEPolicy | IPsecPolicy, version: str) -> str:
    """Return why a policy cannot be used with an IKE version, or nothing.

    With IKEv1 alone every proposal has to suit it, with "IKEv2, else IKEv1" one of them.
    """
    if version == IkeVersionChoice.V2:
        return ""
    if isinstance(policy, IKEPolicy):
        found = [(row.name, ike_obstacle(row)) for row in policy.ordered_proposals()]
    else:
        found = [(row.name, ipsec_obstacle(row)) for row in policy.ordered_proposals()]
    obstacles = [(name, sentence) for name, sentence in found if sentence]
    if obstacles and (version == IkeVersionChoice.V1 or len(obstacles) == len(found)):
        name, sentence = obstacles[0]
        which = "no proposal that IKEv1 can use" if len(found) > 1 and len(obstacles) == len(found) else name
        return f"Policy {policy.name} has {which}{'' if which == name else f', for instance {name}'}: {sentence}."
    if isinstance(policy, IPsecPolicy) and policy.pfs_group and policy.pfs_group not in ikev1.GROUPS:
        label = algorithms.KEY_EXCHANGE[policy.pfs_group].label
        return f"Policy {policy.name} has PFS group {label}, for which IKEv1 has no number."
    return ""


def check_policies(errors: FieldErrors, tunnel: Tunnel, pairs: Iterable[SelectorPair]) -> None:
    """Note policies that the tunnel's IKE version cannot use."""
    for field, policy in tunnel.policy_choices(pairs):
        if problem := policy_problem(policy, tunnel.version):
            errors.add(field, f"{problem} Choose another policy, or IKEv2.", "ikev1")


def check_ports(errors: FieldErrors, tunnel: Tunnel, pairs: Sequence[SelectorPair]) -> None:
    """Note port ranges: an identity of Quick Mode holds one port, 0 for any (RFC 2407 section 4.6.2)."""
    if not tunnel.allows_v1:
        return
    for index, pair in enumerate(pairs):
        for side in Side.values:
            ports = getattr(pair, f"port_{side}_start"), getattr(pair, f"port_{side}_end")
            if ports != _ANY_PORT and (ports[0] != ports[1] or ports[0] == 0):
                errors.add(
                    f"selectors.{index}.port_{side}_end",
                    "IKEv1 has no port ranges: give one port, leave it empty for any, or use IKEv2.",
                    "ikev1",
                )


def chooses_key_by_addresses(tunnel: Tunnel) -> bool:
    """Whether the pair of addresses alone chooses the tunnel's key: in Main Mode the key encrypts the identities.

    An on-demand tunnel has no such pair and is refused with Main Mode.
    """
    return tunnel.exchange_mode == ExchangeModeChoice.MAIN and not tunnel.is_on_demand


def check_keys(errors: FieldErrors, tunnel: Tunnel, ends: Sequence[TunnelEnd], others: Iterable[Tunnel]) -> None:
    """Note another tunnel between the same addresses with another key: Main Mode could not tell which one is meant.

    Both ends count, whoever runs them: the peer has to choose too (RFC 2409 section 5.4).
    """
    if not chooses_key_by_addresses(tunnel):
        return
    pair = {end.address for end in ends}
    for other in others:
        if not other.enabled or not chooses_key_by_addresses(other) or other.psk_id == tunnel.psk_id:
            continue
        if {other.end_a.address, other.end_b.address} == pair:
            errors.add("psk", conflict(other, *sorted(pair)), "indistinct")
            return


def conflict(other: Tunnel, one: str, two: str) -> str:
    """Return the sentence on two keys between the same two addresses in Main Mode."""
    return (
        f"Tunnel {other.name} has another pre-shared key between {one} and {two}. In Main Mode of IKEv1 the key has to "
        "be known before the identity is, so only the two addresses choose it, and two keys under one address cannot "
        f'be told apart (AIX says "PSK remote id already exists"): {WAYS_OUT}.'
    )


def check_keys_of_policy(errors: FieldErrors, tunnels: Iterable[Tunnel]) -> None:
    """Note tunnels whose keys cannot be told apart now that a policy uses Main Mode; ``tunnels`` are all there are."""
    first: dict[tuple[frozenset[object], frozenset[str]], Tunnel] = {}
    for tunnel in tunnels:
        if not tunnel.enabled or not chooses_key_by_addresses(tunnel):
            continue
        ends = (tunnel.end_a, tunnel.end_b)
        key = frozenset(end.gateway_id for end in ends), frozenset(end.address for end in ends)
        other = first.setdefault(key, tunnel)
        if other.psk_id != tunnel.psk_id:
            errors.add(
                "exchange_mode",
                f"{tunnel.name}: {conflict(other, ends[0].address, ends[1].address)}",
                "indistinct",
            )
            return


def key_note(tunnel_mode: str, one: str = "", two: str = "") -> str:
    """Return what a person should know of how IKEv1 finds the pre-shared key, or nothing without IKEv1."""
    if tunnel_mode == ExchangeModeChoice.MAIN:
        pair = f" {one} and {two}" if one and two else ""
        return (
            f"IKEv1 in Main Mode: the key is chosen by the pair of addresses{pair}; the identity is not known yet "
            "when it is needed."
        )
    if tunnel_mode == ExchangeModeChoice.AGGRESSIVE:
        return (
            "IKEv1 in Aggressive Mode: the key is chosen by the identity, which travels in the clear together with a "
            "hash made with the key."
        )
    return ""


def guessable(length_octets: int) -> str:
    """Return the warning on a key of this length in Aggressive Mode, or nothing."""
    if length_octets >= AGGRESSIVE_OCTETS:
        return ""
    return (
        f"Aggressive Mode shows a hash made with the key to whoever asks, and this key of {length_octets} octets can "
        f"be guessed from it offline: use a random key of {AGGRESSIVE_OCTETS} octets or more, Main Mode or IKEv2."
    )
