"""Where a field of a gateway's document is changed in the console: the form and the input, in words and as an address.

Agents name fields as the contract does (``ike.proposals``, ``children.pfs_groups``); what has no form has no place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from django.urls import reverse

from vpnconsole.vpn.choices import Side
from vpnconsole.vpn.models import SelectorPair, Tunnel

_INDEX = re.compile(r"\[\d*\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One input of a form: what it is called and where it is."""

    label: str
    url: str


_IKE: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "proposals": ("the proposals", "proposals_0"),
        "exchange_mode": ("the exchange mode", "exchange_mode"),
        "lifetime_s": ("the lifetime", "lifetime_s"),
        "lifetime_kilobytes": ("the lifetime in kB", "lifetime_kilobytes"),
        "dpd_interval_s": ("the liveness checks", "dpd_interval_s"),
        "dpd_action": ("what happens when the peer is gone", "dpd_action"),
        "reauth_s": ("the reauthentication", "reauth_s"),
        "keepalive_s": ("the NAT keepalive", "keepalive_s"),
        "unique": ("what a second IKE SA does", "unique"),
        "": ("the policy", "name"),
    }
)
_IPSEC: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "proposals": ("the proposals", "proposals_0"),
        "pfs_groups": ("the PFS group", "pfs_group"),
        "mode": ("the mode", "mode"),
        "sequence_numbers": ("the sequence numbers", "sequence_numbers"),
        "ipcomp": ("the compression", "ipcomp"),
        "lifetime_s": ("the lifetime", "lifetime_s"),
    }
)
_TUNNEL: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "version": ("the IKE version", "version"),
        "preshared_keys": ("the pre-shared key", "psk"),
        "mtu": ("the MTU", "mtu"),
        "most_peers": ("how many peers there may be", "peers-most_peers"),
        "carriage.attachment": ("the attachment", "attachment"),
        "carriage.df_bit": ("the DF bit", "df_bit"),
        "carriage.copy_dscp": ("the DSCP", "copy_dscp"),
        "carriage.clamp_tcp_mss": ("the clamping of TCP's segment size", "clamp_tcp_mss"),
        "carriage.queues": ("the QoS policy", "qos_policy"),
        "carriage.rate_kbps": ("the QoS policy", "qos_policy"),
        "manual_tunnels.children": ("the SAs", "selectors-0-manual-protocol"),
        "children": ("the pairs of networks", "selectors-0-network_a"),
        "children.local_ts": ("the pairs of networks", "selectors-0-network_a"),
        "children.remote_ts": ("the pairs of networks", "selectors-0-network_a"),
    }
)
_ENDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "identity": ("the identity", "identity_value"),
        "address": ("the address", "address"),
    }
)


def of(tunnel: Tunnel, field: str, side: str, pair: SelectorPair | None = None) -> Place | None:
    """Return where ``field``, as the end on ``side`` reports it, is changed; None where no form has it.

    ``pair`` is the one that it is about, where that is known.
    """
    name = _INDEX.sub("", field)
    if name in _TUNNEL:
        label, target = _TUNNEL[name]
        return _in_tunnel(tunnel, label, target)
    head, _, rest = name.partition(".")
    rest = rest.partition(".")[0]
    if head in ("local", "remote") and rest in _ENDS and side:
        return _of_end(tunnel, head, rest, side)
    if tunnel.is_manual:
        return None
    if head == "ike" and rest in _IKE:
        policy = tunnel.policies.ike_policy
        return _in_policy("ike-policy", policy.pk, f"IKE policy {policy.name}", *_IKE[rest])
    if head == "children" and rest in _IPSEC:
        return _in_ipsec(tunnel, pair, *_IPSEC[rest])
    return None


def _in_ipsec(tunnel: Tunnel, pair: SelectorPair | None, label: str, target: str) -> Place:
    """Where nobody says which pair it is about, with several policies only the form that chooses them is sure."""
    pairs = tunnel.selectors.all() if pair is None else (pair,)
    used = {policy.pk: policy for policy in map(tunnel.ipsec_policy_of, pairs)}
    if len(used) > 1:
        url = reverse("vpn:tunnel-edit", args=[tunnel.pk])
        return Place(label=f"{label} in the IPsec policies of the tunnel and its pairs", url=f"{url}#id_ipsec_policy")
    policy = next(iter(used.values()), tunnel.policies.ipsec_policy)
    return _in_policy("ipsec-policy", policy.pk, f"IPsec policy {policy.name}", label, target)


def _in_tunnel(tunnel: Tunnel, label: str, target: str) -> Place:
    url = reverse("vpn:tunnel-edit", args=[tunnel.pk])
    return Place(label=f"{label} of the tunnel", url=f"{url}#id_{target}")


def _of_end(tunnel: Tunnel, head: str, rest: str, side: str) -> Place:
    label, target = _ENDS[rest]
    url = reverse("vpn:tunnel-edit", args=[tunnel.pk])
    wanted = side if head == "local" else Side.B if side == Side.A else Side.A
    end = next((each for each in tunnel.ends.all() if each.side == wanted), None)
    if end is None:
        return Place(label=f"{label} of the peers", url=f"{url}#id_peers-identity_value")
    return Place(label=f"{label} of {end.gateway.name}", url=f"{url}#id_end_{end.side}-{target}")


def _in_policy(kind: str, row_id: int, where: str, label: str, target: str) -> Place:
    url = reverse("vpn:policy-edit", args=[kind, row_id])
    return Place(label=f"{label} in {where}", url=f"{url}#id_{target}")
