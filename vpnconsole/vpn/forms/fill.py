"""What the tunnel form fills in by itself when a gateway is chosen: address, identity, networks, name, policies. Pure.

Only what is empty, or was filled in by itself and not touched since, is replaced: nothing typed is ever lost.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vpnconsole.gateways.choices import IdentityTypeChoice
from vpnconsole.vpn.choices import IkeVersionChoice, TunnelKindChoice

_MOST_FILLED = 16
_BY_ADDRESS = ("", IdentityTypeChoice.IPV4, IdentityTypeChoice.IPV6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of one gateway; ``identities``: type and value by address, where it is not the address itself.

    ``make`` is the slug of its make, empty for any other peer; ``version`` the IKE version that goes with it.
    """

    name: str
    addresses: tuple[str, ...] = ()
    identities: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    networks: tuple[str, ...] = ()
    make: str = ""
    version: str = IkeVersionChoice.V2

    def identity(self, address: str) -> tuple[str, str]:
        """Return type and value of what this gateway shows from ``address``."""
        return self.identities.get(address) or _by_address(address)


@dataclass(slots=True, kw_only=True)
class State:
    """The form's values as text; ``auto`` holds what was filled in last: name, pairs, version and policies."""

    main: dict[str, Any]
    ends: dict[str, dict[str, Any]]
    pairs: list[dict[str, Any]]
    auto: dict[str, str]


def fill(
    state: State, gateways: Mapping[str, Known], policies: Mapping[str, tuple[str, str]] = MappingProxyType({})
) -> None:
    """Fill ``state`` in place; ``gateways`` by id as text.

    ``policies`` are the ids of an IKE and an IPsec policy by ``v2``, ``v1`` or a make, for what suits each.
    """
    on_demand = state.main.get("kind") == TunnelKindChoice.ON_DEMAND
    chosen = {side: gateways.get(str(values.get("gateway") or "")) for side, values in state.ends.items()}
    every_default = {known.identity(address) for known in gateways.values() for address in known.addresses}
    for side, known in chosen.items():
        if known is not None:
            other = next(values for name, values in state.ends.items() if name != side)
            _fill_end(state.ends[side], known, str(other.get("address") or ""), every_default)
    if on_demand:
        chosen["end_b"] = None
    _fill_policies(state, [known for known in chosen.values() if known is not None], policies)
    known_a, known_b = chosen["end_a"], chosen["end_b"]
    _fill_pairs(state, known_a.networks if known_a else (), known_b.networks if known_b else ())
    if known_a is not None and (known_b is not None or on_demand):
        name = state.main.get("name") or ""
        if name in ("", state.auto.get("name", "")):
            far = known_b.name if known_b is not None else "peers"
            state.main["name"] = state.auto["name"] = f"{known_a.name}-{far}"[:63]


def _fill_policies(state: State, chosen: Sequence[Known], policies: Mapping[str, tuple[str, str]]) -> None:
    make = next((known for known in chosen if known.make), None)
    _replace(state, "version", make.version if make else IkeVersionChoice.V2)
    usual = IkeVersionChoice.V2 if state.main["version"] == IkeVersionChoice.V2 else IkeVersionChoice.V1
    ids = policies.get(make.make if make else "") or policies.get(usual, ("", ""))
    for name, value in zip(("ike_policy", "ipsec_policy"), ids, strict=True):
        if value:
            _replace(state, name, value)


def _replace(state: State, name: str, value: str) -> None:
    if str(state.main.get(name) or "") in ("", state.auto.get(name, "")):
        state.main[name] = state.auto[name] = value


def _fill_end(end: dict[str, Any], known: Known, other_address: str, every_default: set[tuple[str, str]]) -> None:
    if end.get("address") not in known.addresses:
        end["address"] = _matching(known.addresses, other_address)
    address = end["address"]
    kind, value = str(end.get("identity_type") or ""), str(end.get("identity_value") or "")
    by_default = any(value == text and kind in ("", type_) for type_, text in every_default)
    untouched = by_default if value else kind in _BY_ADDRESS
    if address and untouched:
        end["identity_type"], end["identity_value"] = known.identity(address)


def _by_address(address: str) -> tuple[str, str]:
    version = ipaddress.ip_address(address).version
    return (IdentityTypeChoice.IPV4 if version == 4 else IdentityTypeChoice.IPV6), address


def _matching(addresses: Sequence[str], other: str) -> str:
    """Return the first address of the other end's IP version, else the first."""
    if other:
        version = ipaddress.ip_address(other).version
        same = [address for address in addresses if ipaddress.ip_address(address).version == version]
        if same:
            return same[0]
    return addresses[0] if addresses else ""


def _fill_pairs(state: State, networks_a: Sequence[str], networks_b: Sequence[str]) -> None:
    text = pairs_text(state.pairs)
    if text not in ("", state.auto.get("pairs", "")) or any(pair.get("ipsec_policy") for pair in state.pairs):
        return
    if networks_a and networks_b:
        filled = [
            {"network_a": a, "network_b": b}
            for a in networks_a
            for b in networks_b
            if ipaddress.ip_network(a).version == ipaddress.ip_network(b).version
        ]
    else:
        filled = [{"network_a": a, "network_b": ""} for a in networks_a]
        filled += [{"network_a": "", "network_b": b} for b in networks_b]
    if filled:
        state.pairs = filled[:_MOST_FILLED]
        state.auto["pairs"] = pairs_text(state.pairs)


def pairs_text(pairs: Sequence[Mapping[str, Any]]) -> str:
    """Return the pairs in one line, to tell whether somebody touched them; empty when all are blank."""
    rows = [f"{pair.get('network_a') or ''}>{pair.get('network_b') or ''}" for pair in pairs]
    return ";".join(row for row in rows if row != ">")
