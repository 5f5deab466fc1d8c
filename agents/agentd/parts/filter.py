"""The packet filter: one nftables table of ours, planned as one transaction.

What it is for (nft syntax, for IPv4; IPv6 is alike):

* ``input``: of what comes to an outer address of ours, IKE (UDP 500 and 4500, NAT keepalives with it), ESP, ESP in UDP
  and AH pass from the peers of the document, and where a tunnel is on demand from anywhere; from others they do not.
* ``input`` and ``forward``: packets from a remote network to a local one are dropped unless they came out of a tunnel.
* ``forward`` and ``output``: packets from a local network to a remote one are dropped unless they go into a tunnel
  (``filter_clear`` has both), up or down, so that nothing leaves in clear text while a tunnel is down.

Where tunnels are to have TCP's segments clamped, the table has two chains for that (``mss``), and where the kernel has
tunnels those for their congestion (``congestion``) and one for DF (``dont_fragment``), also without the filter.

Verdicts of other tables stand: what they drop stays dropped. Counters are named objects that a replacement leaves
alone, so they go on; a pair of addresses that several tunnels share is counted for the first.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.agentd.host import HostView
from agents.agentd.nft import Command
from agents.agentd.parts import congestion, dont_fragment, filter_clear, mss
from agents.agentd.parts.carried import Carried
from agents.agentd.parts.congestion import Congestion
from agents.agentd.parts.mss import Clamp
from agents.agentd.parts.nftables import (
    ACCEPT,
    DROP,
    FAMILY,
    IKE_PORT,
    IP,
    IPSEC,
    NAT_T_PORT,
    RETURN,
    TABLE,
    address_type,
    base_chain,
    chain_of,
    collapsed,
    counter_name,
    in_table,
    jump,
    map_of,
    matches,
    payload,
    prefix,
    rule_of,
    set_of,
    table_itself,
    udp,
)
from agents.contract.status import FilterCounters

STRANGERS = ("strangers-ike", "strangers-ipsec")
"""Counters of what was dropped because it came from nobody's peer."""
_KINDS = ("ike", "ipsec", "clear", "leaving")
_KEEPALIVE_UDP_LENGTH = 8 + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterPlan:
    """What the table is to be: ``counters`` by name, then sets and chains with what they hold, in order."""

    counters: tuple[str, ...]
    sets: tuple[Command, ...]
    chains: tuple[Command, ...]
    rules: tuple[Command, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What the table holds beside the filter, and without it too."""

    clamps: tuple[Clamp, ...] = ()
    congestion: Congestion | None = None
    dont_fragment: bool = False

    def __bool__(self) -> bool:
        return self.configured or self.congestion is not None

    @property
    def configured(self) -> bool:
        """Whether any of it is there because somebody configured it."""
        return bool(self.clamps) or self.dont_fragment

    def plan(self) -> FilterPlan:
        """Return the table that has nothing else."""
        return FilterPlan(
            counters=congestion.counters(self.congestion),
            sets=(),
            chains=(
                *mss.chains(self.clamps),
                *congestion.chains(self.congestion),
                *dont_fragment.chains(self.dont_fragment),
            ),
            rules=(
                *mss.rules(self.clamps),
                *congestion.rules(self.congestion),
                *dont_fragment.rules(self.dont_fragment),
            ),
        )


NOTHING_BESIDE = Beside()


def plan(
    tunnels: Sequence[Carried], view: HostView, *, kernel: bool, vrfs: bool, beside: Beside = NOTHING_BESIDE
) -> FilterPlan:
    """Return the table for these tunnels; ``kernel`` where decrypted packets come without an interface of their own."""
    names = [counter_name(tunnel.id, kind) for tunnel in tunnels for kind in _KINDS]
    interfaces = sorted({"lo", *(tunnel.interface for tunnel in tunnels if tunnel.interface is not None)})
    protected = filter_clear.pairs(tunnels)
    sets = [set_of("own", "ifname", interfaces)]
    for version in (4, 6):
        sets += _outer_sets(tunnels, version)
        remote = collapsed([pair.remote.network for pair in protected if pair.remote.version == version])
        sets.append(set_of(f"remote{version}", address_type(version), map(prefix, remote), "interval"))
    inside = filter_clear.own_ways(tunnels, protected, view)
    others = beside.plan()
    rules = [
        *_entry(),
        *(rule for version in (4, 6) for rule in _outer(version)),
        rule_of("outer", [udp("dport", [IKE_PORT, NAT_T_PORT]), {"counter": STRANGERS[0]}, DROP]),
        rule_of("outer", [IPSEC, {"counter": STRANGERS[1]}, DROP]),
        *filter_clear.arriving(protected, inside, kernel=kernel, vrfs=vrfs),
        *filter_clear.leaving(protected, inside, kernel=kernel, vrfs=vrfs),
        *others.rules,
    ]
    chains = (
        *map(base_chain, ("input", "forward", "output")),
        *map(chain_of, ("outer", "clear", "clear4", "clear6", "leaving", "leaving4", "leaving6")),
        *others.chains,
    )
    counters = (*STRANGERS, *names, *others.counters)
    return FilterPlan(counters=counters, sets=tuple(sets), chains=chains, rules=tuple(rules))


def transaction(wanted: FilterPlan, listed: Iterable[Command]) -> list[Command]:
    """Return the commands that make the table what is wanted; ``listed`` is what it holds now, if it is there.

    Counters that stay are not touched. What is in our table and not of ours goes.
    """
    have = {
        kind: {each[kind]["name"] for each in listed if kind in each} for kind in ("counter", "set", "map", "chain")
    }
    keep = {
        "counter": set(wanted.counters),
        "set": {each["set"]["name"] for each in wanted.sets if "set" in each},
        "map": {each["map"]["name"] for each in wanted.sets if "map" in each},
        "chain": {each["chain"]["name"] for each in wanted.chains},
    }
    flushed = sorted(keep["chain"] | have["chain"])
    commands: list[Command] = [{"add": table_itself()}]
    commands += [{"add": each} for each in wanted.chains]
    commands += [{"flush": {"chain": in_table({"name": name})}} for name in flushed]
    commands += _deletions("chain", have["chain"] - keep["chain"])
    commands += [*_deletions("set", have["set"]), *_deletions("map", have["map"])]
    commands += _deletions("counter", have["counter"] - keep["counter"])
    new = [name for name in wanted.counters if name not in have["counter"]]
    commands += [{"add": {"counter": in_table({"name": name})}} for name in new]
    return [*commands, *({"add": each} for each in wanted.sets), *({"add": each} for each in wanted.rules)]


def is_ours(commands: Iterable[Any]) -> bool:
    """Return whether these are commands as :func:`transaction` makes them of nothing: about our table alone."""
    return all(_about_ours(each) for each in commands)


def removal() -> list[Command]:
    """Return the commands that remove the table."""
    return [{"delete": table_itself()}]


def listing() -> list[Command]:
    """Return the command that lists the table."""
    return [{"list": table_itself()}]


def counters() -> list[Command]:
    """Return the command that lists the table's counters."""
    return [{"list": {"counters": in_table({})}}]


def packets(listed: Iterable[Command]) -> dict[str, int]:
    """Return the packets of each counter in a listing."""
    return {each["counter"]["name"]: int(each["counter"]["packets"]) for each in listed if "counter" in each}


def counters_of(tunnel_id: str, counts: Mapping[str, int]) -> FilterCounters | None:
    """Return a tunnel's counters, None where it is not in the table."""
    found = [counts.get(counter_name(tunnel_id, kind)) for kind in _KINDS]
    ike, ipsec, clear, leaving = found
    if ike is None or ipsec is None or clear is None or leaving is None:
        return None
    return FilterCounters(admitted_ike=ike, admitted_ipsec=ipsec, dropped_clear=clear, dropped_leaving=leaving)


def _about_ours(command: Any) -> bool:
    if not isinstance(command, dict) or list(command) not in (["add"], ["flush"]):
        return False
    (what,) = command.values()
    if not isinstance(what, dict) or len(what) != 1:
        return False
    ((kind, value),) = what.items()
    if not isinstance(value, dict):
        return False
    return (value.get("family"), value.get("name" if kind == "table" else "table")) == (FAMILY, TABLE)


def _deletions(kind: str, names: Iterable[str]) -> list[Command]:
    return [{"delete": {kind: in_table({"name": name})}} for name in sorted(names)]


def _entry() -> list[Command]:
    """Return the rules of the three hooks; what we send to peers ourselves leaves as it is."""
    rules = []
    for version in (4, 6):
        rules.append(rule_of("input", [matches(payload(IP[version], "daddr"), f"@local{version}"), jump("outer")]))
        ours = matches(payload(IP[version], "saddr"), f"@local{version}")
        rules += [rule_of("output", [ours, each, RETURN]) for each in (udp("sport", [IKE_PORT, NAT_T_PORT]), IPSEC)]
    hooks = (("input", "clear"), ("forward", "clear"), ("forward", "leaving"), ("output", "leaving"))
    return [*rules, *(rule_of(hook, [jump(chain)]) for hook, chain in hooks)]


def _outer_sets(tunnels: Sequence[Carried], version: int) -> list[Command]:
    """Return which pair of addresses, or which address of ours alone, is whose."""
    local: dict[str, None] = {}
    pairs: dict[tuple[str, str], str] = {}
    anywhere: dict[str, str] = {}
    for tunnel in tunnels:
        for ours in (each for each in tunnel.local if ipaddress.ip_address(each).version == version):
            local[ours] = None
            if tunnel.anywhere:
                anywhere.setdefault(ours, tunnel.id)
                continue
            for peer in (each for each in tunnel.peers if ipaddress.ip_address(each).version == version):
                pairs.setdefault((peer, ours), tunnel.id)
    of = address_type(version)
    found = [set_of(f"local{version}", of, local)]
    for kind in ("ike", "ipsec"):
        found += [
            map_of(f"{kind}{version}", [of, of], {pair: counter_name(owner, kind) for pair, owner in pairs.items()}),
            map_of(f"any-{kind}{version}", of, {ours: counter_name(owner, kind) for ours, owner in anywhere.items()}),
        ]
    return found


def _outer(version: int) -> list[Command]:
    """Return the rules that admit and count; a lookup that finds nothing goes on to the next rule."""
    source, destination = payload(IP[version], "saddr"), payload(IP[version], "daddr")
    rules = []
    for before, key in (("", {"concat": [source, destination]}), ("any-", destination)):
        ike, ipsec = (
            {"counter": {"map": {"key": key, "data": f"@{before}{kind}{version}"}}} for kind in ("ike", "ipsec")
        )
        no_spi = matches({"payload": {"base": "th", "offset": 64, "len": 32}}, 0)
        keepalive = matches(payload("udp", "length"), _KEEPALIVE_UDP_LENGTH)
        rules += [
            [udp("dport", [IKE_PORT]), ike],
            [udp("dport", [NAT_T_PORT]), keepalive, ike],
            [udp("dport", [NAT_T_PORT]), no_spi, ike],
            [udp("dport", [NAT_T_PORT]), ipsec],
            [IPSEC, ipsec],
        ]
    return [rule_of("outer", [*each, ACCEPT]) for each in rules]
