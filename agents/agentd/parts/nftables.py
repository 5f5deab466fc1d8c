"""The words of our nftables table: its name, its counters, and sets, chains and rules as JSON (libnftables-json(5))."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agents.agentd.nft import Command

FAMILY, TABLE = "inet", "vpnconsole"
PRIORITY = -5
"""Before those who filter at the usual 0, so that our counters see what comes."""
IKE_PORT, NAT_T_PORT = 500, 4500
IP = {4: "ip", 6: "ip6"}
DROP: Command = {"drop": None}
ACCEPT: Command = {"accept": None}
RETURN: Command = {"return": None}


def counter_name(tunnel_id: str, kind: str) -> str:
    """Return the name of a tunnel's counter: ``ike``, ``ipsec``, ``clear`` or ``leaving``."""
    return f"t-{tunnel_id}-{kind}"


def in_table(value: dict[str, Any]) -> dict[str, Any]:
    """Return an object of our table."""
    return {"family": FAMILY, "table": TABLE, **value}


def table_itself() -> Command:
    """Return our table."""
    return {"table": {"family": FAMILY, "name": TABLE}}


def set_of(name: str, kind: str, elements: Iterable[Any], *flags: str) -> Command:
    """Return a set of this type."""
    value: dict[str, Any] = {"name": name, "type": kind}
    if flags:
        value["flags"] = list(flags)
    if listed := list(elements):
        value["elem"] = listed
    return {"set": in_table(value)}


def map_of(name: str, key: str | list[str], elements: Mapping[Any, str]) -> Command:
    """Return a map from such a key to counters."""
    value: dict[str, Any] = {"name": name, "type": key, "map": "counter"}
    if elements:
        value["elem"] = [
            [{"concat": list(each)} if isinstance(each, tuple) else each, counter] for each, counter in elements.items()
        ]
    return {"map": in_table(value)}


def chain_of(name: str, **hook: Any) -> Command:
    """Return a chain."""
    return {"chain": in_table({"name": name, **hook})}


def base_chain(hook: str, name: str | None = None, priority: int = PRIORITY) -> Command:
    """Return a chain of this hook, which lets pass what no rule drops; its name is the hook's unless it has another."""
    return chain_of(name or hook, type="filter", hook=hook, prio=priority, policy="accept")


def rule_of(chain: str, expressions: Sequence[dict[str, Any]]) -> Command:
    """Return a rule."""
    return {"rule": in_table({"chain": chain, "expr": list(expressions)})}


def matches(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    """Return a comparison."""
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol: str, field: str) -> dict[str, Any]:
    """Return a field of a header."""
    return {"payload": {"protocol": protocol, "field": field}}


def meta(key: str) -> dict[str, Any]:
    """Return a fact beside the packet."""
    return {"meta": {"key": key}}


def jump(chain: str) -> dict[str, Any]:
    """Return a jump."""
    return {"jump": {"target": chain}}


def udp(field: str, ports: list[int]) -> dict[str, Any]:
    """Match UDP by ``sport`` or ``dport``."""
    return matches(payload("udp", field), {"set": ports} if len(ports) > 1 else ports[0])


def prefix(network: str) -> dict[str, Any]:
    """Return a network as one value."""
    address, _, length = network.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}}


def collapsed(networks: Iterable[str]) -> list[str]:
    """Return the same addresses as networks that do not overlap, which a set of intervals asks for."""
    kept: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for network in sorted(
        {ipaddress.ip_network(each) for each in networks}, key=lambda each: (each[0], each.prefixlen)
    ):
        if not kept or network[0] not in kept[-1]:
            kept.append(network)
    return [str(network) for network in kept]


def address_type(version: int) -> str:
    """Return nft's type of an address."""
    return f"ipv{version}_addr"


IPSEC = matches(meta("l4proto"), {"set": ["esp", "ah"]})
