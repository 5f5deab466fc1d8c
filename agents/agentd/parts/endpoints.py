"""The context of an endpoint: its table, and no other, says where IKE, ESP and AH of a local address leave.

Rules lead there, also where the kernel has VRFs (docs/adr/0013). They take what is outside the tunnels by its mark
(:data:`agents.dataplane.outer.OUTER_MARK`), so that an inner packet from the same address, or an answer to who manages
the gateway by it, goes as before. What a table has no route for goes nowhere: by another uplink it would have a source
address that is not that uplink's, and the tunnel would not be known to have failed.

Two more sorts of packets have no mark and are outside all the same:

* What two hosts say in transport mode with the kernel's data plane: those are routed before they are encrypted.
* What reverse path filtering asks after, which is the way of an answer. Where the main table has none, a rule behind it
  leads to the context's; where it has another one, ``sysctl`` loosens the filter.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence

from agents.agentd.host import NO_TABLE, TABLE_MAIN, HostView, Rule
from agents.agentd.parts.carried import Carried
from agents.agentd.parts.routes import ways
from agents.contract.config import Mode
from agents.dataplane.outer import OUTER_MARK

_OUTER, _NOWHERE = 9_990, 9_991
"""Behind the rule of VRFs (1000) and those of transport mode, before those of contexts."""
_ELSE = 33_000
"""Behind the rules of the main and the default table (32766, 32767)."""
_HEARS_VRFS = "net/ipv4/udp_l3mdev_accept"


def rules(tunnels: Iterable[Carried]) -> set[Rule]:
    """Return the rules that lead to the tables of endpoints that are not in the main one."""
    return {rule for tunnel in tunnels if tunnel.endpoint_table != TABLE_MAIN for rule in _rules(tunnel)}


def addresses(tunnels: Iterable[Carried], context: str) -> frozenset[str]:
    """Return the sources, as rules have them, whose outer packets a context routes."""
    return frozenset(
        _only(address)
        for tunnel in tunnels if tunnel.carriage.endpoint_context == context
        for address in tunnel.local
    )  # fmt: skip


def problems(tunnels: Sequence[Carried], view: HostView, setting: Callable[[str], str | None]) -> list[str]:
    """Say which endpoints cannot reach their peers, or not hear them."""
    found = []
    for tunnel in tunnels:
        if tunnel.endpoint_table != TABLE_MAIN and tunnel.peers:
            try:
                ways(tunnel, view)
            except LookupError as error:
                found.append(f"{tunnel.name}: {error.args[0]}")
        if (where := _in_a_vrf(tunnel, view)) is not None and setting(_HEARS_VRFS) == "0":
            found.append(
                f"{tunnel.name}: {where}, and IKE is not heard there: take the interface out of it, and give the "
                f"tunnel an endpoint context instead, or set {_HEARS_VRFS.replace('/', '.')} to 1"
            )
    return found


def _rules(tunnel: Carried) -> Iterator[Rule]:
    together = any(protected.mode is Mode.TRANSPORT for protected in tunnel.protected)
    for address in tunnel.local:
        version = ipaddress.ip_address(address).version
        own = Rule(version=version, priority=_OUTER, table=tunnel.endpoint_table, source=_only(address))
        outer = [dataclasses.replace(own, marked=OUTER_MARK)]
        if together:
            peers = [peer for peer in tunnel.peers if ipaddress.ip_address(peer).version == version]
            outer += [dataclasses.replace(own, destination=_only(peer)) for peer in peers]
        yield from outer
        for rule in outer:
            yield dataclasses.replace(rule, priority=_NOWHERE, table=NO_TABLE, unreachable=True)
        yield dataclasses.replace(own, priority=_ELSE)


def _in_a_vrf(tunnel: Carried, view: HostView) -> str | None:
    """Say which VRF has the interface of a local address, None where none has."""
    by_index = {link.index: link for link in view.links}
    for each in view.addresses:
        link = view.link(each.interface)
        if each.address not in tunnel.local or link is None or link.master is None:
            continue
        master = by_index.get(link.master)
        if master is not None and master.kind == "vrf":
            return f"its local address {each.address} is on {link.name} in VRF {master.name}"
    return None


def _only(address: str) -> str:
    return str(ipaddress.ip_network(address))
