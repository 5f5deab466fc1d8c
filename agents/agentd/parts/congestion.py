"""Congestion that a tunnel of the kernel's data plane cannot tell anybody of: such packets are dropped.

RFC 6040 section 4.2: a packet that is not ECN-capable and came under an outer header with CE (congestion experienced)
is dropped; the kernel delivers it. Its mark survives decryption, so two chains of ours do it:

* ``ecn-in`` sees what comes to an outer address of ours, after IPv4 has put its fragments together (of IPv6 it is the
  first fragment, unless somebody's rules have them put together before). Under CE it sets a bit of the mark, and takes
  it off otherwise. It is behind the other chains of that hook.
* ``ecn-out`` sees what came out, before anybody else does, also before fragments of that are put together. With the bit
  it drops and counts what is not ECN-capable, and takes the bit off all else. The kernel has copied CE into that.

So no rule, route or policy of anybody meets the bit. What is in between of several layers (ESP in transport mode around
IPIP, as small packets of IPComp are) passes both chains once more: it has the outer header still.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agents.agentd.nft import Command
from agents.agentd.parts.carried import Carried
from agents.agentd.parts.nftables import (
    DROP,
    IP,
    IPSEC,
    NAT_T_PORT,
    base_chain,
    chain_of,
    jump,
    matches,
    meta,
    payload,
    rule_of,
    udp,
)
from agents.contract.status import NamedCount
from agents.dataplane.outer import CONGESTED_MARK
from agents.dataplane.userspace.drops import CONGESTION

COUNTER = "congestion"
_IN, _OUT = "ecn-in", "ecn-out"
_TO_US, _OUTSIDE, _INSIDE = "ecn-to-us", "ecn-outside", "ecn-inside"
_LAST = 300
_FIRST = -450
"""Before fragments are put together (-400; linux/netfilter_ipv4.h, ``NF_IP_PRI_RAW_BEFORE_DEFRAG``)."""
_NOT_ECT, _CE = 0, 3
_IPIP = (4, 41)


def _mark(operator: str, bits: int) -> dict[str, Any]:
    return {"mangle": {"key": meta("mark"), "value": {operator: [meta("mark"), bits]}}}


_PUT_ON, _TAKE_OFF = _mark("|", CONGESTED_MARK), _mark("&", 0xFFFF_FFFF ^ CONGESTED_MARK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Congestion:
    """Where it is looked for: at these outer addresses, and where a tunnel has one of these interfaces."""

    addresses: tuple[str, ...]
    interfaces: tuple[str, ...] = ()


def wanted(tunnels: Sequence[Carried], *, kernel: bool) -> Congestion | None:
    """Return what is to be looked at; ``espd`` does it by itself."""
    addresses = sorted({address for tunnel in tunnels for address in tunnel.local})
    if not kernel or not addresses:
        return None
    interfaces = sorted({tunnel.interface for tunnel in tunnels if tunnel.interface is not None})
    return Congestion(addresses=tuple(addresses), interfaces=tuple(interfaces))


def counters(congestion: Congestion | None) -> tuple[str, ...]:
    """Return the name of the counter, none where nothing is dropped."""
    return () if congestion is None else (COUNTER,)


def chains(congestion: Congestion | None) -> list[Command]:
    """Return the chains, none where nothing is looked at."""
    if congestion is None:
        return []
    hooks = [base_chain("input", _IN, _LAST), base_chain("prerouting", _OUT, _FIRST)]
    return [*hooks, *map(chain_of, (_TO_US, _OUTSIDE, _INSIDE))]


def rules(congestion: Congestion | None) -> list[Command]:
    """Return the rules, in order."""
    if congestion is None:
        return []
    found = []
    for version in (4, 6):
        ours = [each for each in congestion.addresses if ipaddress.ip_address(each).version == version]
        if ours:
            found.append(rule_of(_IN, [matches(payload(IP[version], "daddr"), {"set": ours}), jump(_TO_US)]))
    between = [matches(meta("ipsec"), True), matches(meta("l4proto"), {"set": list(_IPIP)})]
    outside = ([IPSEC], [udp("dport", [NAT_T_PORT])], between)
    found += [rule_of(_TO_US, [*each, jump(_OUTSIDE)]) for each in outside]
    # The mark is anybody's, and so was the bit until here.
    found.append(rule_of(_OUTSIDE, [_TAKE_OFF]))
    found += [rule_of(_OUTSIDE, [matches(payload(IP[version], "ecn"), _CE), _PUT_ON]) for version in (4, 6)]
    has_bit = matches({"&": [meta("mark"), CONGESTED_MARK]}, 0, "!=")
    # Of what comes from elsewhere it says nothing. That a packet was decrypted a VTI hides.
    came_out = [[matches(meta("ipsec"), True)]]
    if congestion.interfaces:
        came_out.append([matches(meta("iifname"), {"set": list(congestion.interfaces)})])
    found += [rule_of(_OUT, [has_bit, *each, jump(_INSIDE)]) for each in came_out]
    for version in (4, 6):
        not_capable = matches(payload(IP[version], "ecn"), _NOT_ECT)
        found.append(rule_of(_INSIDE, [not_capable, {"counter": COUNTER}, DROP]))
    return [*found, rule_of(_INSIDE, [_TAKE_OFF])]


def counted(packets: Mapping[str, int]) -> tuple[NamedCount, ...]:
    """Return what the kernel's data plane dropped, under the name that the other one has for it; nothing is no count.

    ``packets`` are those of each counter of our table.
    """
    return tuple(NamedCount(name=CONGESTION, count=packets[name]) for name in (COUNTER,) if name in packets)
