"""What an on-demand tunnel asks of its gateway, its peers' identity and its policies, said beside the field.

The rule on identities, where AIX's and other guides contradict themselves: at one address of a gateway a peer identity
belongs to one tunnel. The same identity in a static and an on-demand tunnel, or in two on-demand tunnels, is refused
there; at another address of the gateway, or in another form (exact, partial, any), it may stand again, and the more
exact one is preferred. Pure checks on rows given, like ``rules``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agents.contract.config import Identity, IdentityType
from agents.contract.errors import FieldError
from vpnconsole.lib.errors import FieldErrors
from vpnconsole.vpn import rules
from vpnconsole.vpn.choices import ExchangeModeChoice, ModeChoice, PeerIdentityChoice
from vpnconsole.vpn.inputs import PeersInput
from vpnconsole.vpn.models import IKEPolicy, IPsecPolicy, SelectorPair, Tunnel, TunnelEnd, TunnelRoute

ANYTHING = "*"


def fill(errors: FieldErrors, tunnel: Tunnel, data: PeersInput, routes: Sequence[TunnelRoute]) -> None:
    """Set who the peers may be and note what is wrong with it; ``routes`` are the static ones that were asked for."""
    value = data.identity_value.strip()
    if data.identity_type == PeerIdentityChoice.ANY:
        value = ANYTHING
    elif data.identity_type == PeerIdentityChoice.KEY_ID:
        value = value.lower()
    tunnel.peer_identity_type, tunnel.peer_identity_value = data.identity_type, value
    if not 1 <= data.most_peers <= 8_000:
        errors.add("peers.most_peers", "From 1 to 8000 peers at a time.", "range")
    else:
        tunnel.most_peers = data.most_peers
    if data.identity_type not in PeerIdentityChoice.values:
        errors.add("peers.identity_type", "Choose what the peers call themselves.", "required")
    elif not value:
        errors.add(
            "peers.identity_value",
            "Say what the peers call themselves: gw.example.org for one, *.example.org for every name below it.",
            "required",
        )
    else:
        try:
            Identity(type=IdentityType(data.identity_type), value=value)
        except FieldError as error:
            errors.add("peers.identity_value", f"This identity {error.problem}.", "identity")
    if routes:
        errors.add(
            "end_a.routes",
            "An on-demand tunnel has no static routes: each peer's networks are routed to it while it is there.",
            "on_demand",
        )


def check_end(errors: FieldErrors, end: TunnelEnd) -> None:
    """Note a gateway that is not ours, and an address that it does not have."""
    if not end.gateway.is_managed:
        errors.add("end_a.gateway", "Peers call a gateway that this console manages: choose such a one.", "extranet")
    elif not errors.any_below("end_a"):
        rules.check_address(errors, "end_a", end)


def policy_problem(policy: IKEPolicy | IPsecPolicy, version: str) -> str:
    """Return why a policy cannot be used by an on-demand tunnel, or nothing."""
    if isinstance(policy, IPsecPolicy):
        if policy.mode != ModeChoice.TRANSPORT:
            return ""
        return (
            f"Policy {policy.name} is for transport mode, which needs both addresses beforehand: on demand the peer's "
            "is not known. Choose a policy for tunnel mode."
        )
    if version == "v2" or policy.exchange_mode == ExchangeModeChoice.AGGRESSIVE:
        return ""
    return (
        f"Policy {policy.name} uses Main Mode, where IKEv1 needs the key before it knows who is there, and on demand "
        "the address tells nothing. Choose a policy with Aggressive Mode, or IKEv2 as the IKE version."
    )


def check_policies(errors: FieldErrors, tunnel: Tunnel, pairs: Iterable[SelectorPair]) -> None:
    """Note policies that do not go with peers from anywhere."""
    if not tunnel.is_on_demand:
        return
    for field, policy in tunnel.policy_choices(pairs):
        if problem := policy_problem(policy, tunnel.version):
            errors.add(field, problem, "on_demand")


def check_peers_unique(
    errors: FieldErrors, tunnel: Tunnel, ends: Sequence[TunnelEnd], others: Iterable[Tunnel]
) -> None:
    """Note a peer identity that two tunnels claim at one address, at least one of them on demand."""
    mine = dict(_claims(tunnel, ends))
    for other in others:
        if not (tunnel.is_on_demand or other.is_on_demand):
            continue
        for claim, _field in _claims(other, list(other.ends.all())):
            if claim in mine:
                _gateway, address, _kind, value = claim
                errors.add(
                    mine[claim],
                    f"Tunnel {other.name} ({other.get_kind_display().lower()}) has peer {value} at {address} already. "
                    "A peer identity belongs to one tunnel per address when one of them is on demand: use another "
                    "identity, or another address of the gateway.",
                    "clash",
                )


def _claims(tunnel: Tunnel, ends: Sequence[TunnelEnd]) -> Iterable[tuple[tuple[object, str, str, str], str]]:
    """Yield gateway, address and peer identity of every managed end, and the field of that identity."""
    if tunnel.is_on_demand:
        end = ends[0]
        claim = (end.gateway_id, end.address, tunnel.peer_identity_type, tunnel.peer_identity_value)
        yield claim, "peers.identity_value"
        return
    for near, far in (ends, ends[::-1]):
        if near.gateway.is_managed:
            claim = (near.gateway_id, near.address, far.identity_type, far.identity_value)
            yield claim, f"end_{far.side}.identity_value"
