"""Which packets are a tunnel's: between its outer addresses, on its interface, or between its networks.

The kernel's socket filter (classic BPF) keeps away what is between other addresses, so that a busy gateway does not
copy everything to us; protocols and ports are looked at here.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from agents.contract.captures import CaptureView
from agents.contract.config import Tunnel
from agents.contract.manual import ManualTunnel
from agents.contract.status import TunnelStatus
from agents.contract.traffic import TrafficSelector
from agents.dataplane.userspace import ip

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Pair = tuple[Network, Network]
"""Source and destination of packets looked for."""

MOST_PAIRS = 64
"""With more, the kernel's filter would be long: then everything comes and is looked at here."""

_ESP, _AH, _IPCOMP, _UDP = 50, 51, 108, 17
_IKE_PORTS = frozenset({500, 4500})
_EXTENSIONS = frozenset({0, 43, 60, 135})
_FRAGMENT = 44
_LOAD_OCTET, _LOAD_WORD, _SHIFT_RIGHT, _AND, _JUMP_EQUAL, _RETURN = 0x30, 0x20, 0x74, 0x54, 0x15, 0x06

NOTHING = [(_RETURN, 0, 0, 0)]
"""The filter that takes no packet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What to capture. ``interface`` None means every one; ``pairs`` empty means whatever is there.

    ``note`` is a sentence for the reader of the file. ``wanted`` looks at a packet from its IP header on.
    """

    note: str
    interface: str | None = None
    pairs: tuple[Pair, ...] = ()
    wanted: Callable[[bytes], bool] = lambda _packet: True


def scope_of(view: CaptureView, tunnel: Tunnel | ManualTunnel, status: TunnelStatus | None) -> Scope:
    """Return where one view of a tunnel is to be seen now."""
    if view is CaptureView.OUTER:
        return _outer(tunnel, status)
    if status is not None and status.interface is not None:
        note = f"What tunnel {tunnel.name} carries, in clear text, as its interface {status.interface} sees it."
        return Scope(note=note, interface=status.interface)
    return _inner_by_selectors(tunnel)


def _outer(tunnel: Tunnel | ManualTunnel, status: TunnelStatus | None) -> Scope:
    if isinstance(tunnel, ManualTunnel):
        here, there = {tunnel.local_address}, {tunnel.remote_address}
    else:
        here = {tunnel.local.address, *tunnel.local.more_addresses}
        there = set(tunnel.remote.more_addresses)
        if not tunnel.remote.anywhere:
            there.add(tunnel.remote.address)
    for sa in status.ike_sas if status is not None else ():
        here.add(_host(sa.local))
        there.add(_host(sa.remote))
    note = f"IKE, ESP, AH and IPComp packets of tunnel {tunnel.name}, between {_listed(here)} and {_listed(there)}."
    if not there:
        note = f"IKE, ESP, AH and IPComp packets of {_listed(here)}: tunnel {tunnel.name} has no peer now."
    return Scope(note=note, pairs=_both_ways(_hosts(here), _hosts(there)), wanted=_is_outer)


def _inner_by_selectors(tunnel: Tunnel | ManualTunnel) -> Scope:
    local: list[TrafficSelector] = []
    remote: list[TrafficSelector] = []
    for child in tunnel.children:
        ours, theirs = child.local_ts, child.remote_ts
        local += [ours] if isinstance(ours, TrafficSelector) else ours
        remote += [theirs] if isinstance(theirs, TrafficSelector) else theirs
    note = (
        f"Tunnel {tunnel.name} has no interface of its own: these are the packets between its networks on every"
        " interface of the gateway. Each may be here twice, and some may have passed in clear text beside the tunnel."
    )

    locals_, remotes = [_Rule.of(each) for each in local], [_Rule.of(each) for each in remote]

    def wanted(packet: bytes) -> bool:
        try:
            flow = ip.parse_flow(packet)
        except ip.MalformedPacket:
            return False
        here, there = (flow.source, flow.source_port), (flow.destination, flow.destination_port)
        return any(
            any(rule.fits(flow, *one) for rule in locals_) and any(rule.fits(flow, *other) for rule in remotes)
            for one, other in ((here, there), (there, here))
        )

    networks = [[ipaddress.ip_network(each.network) for each in side] for side in (local, remote)]
    return Scope(note=note, pairs=_both_ways(*networks), wanted=wanted)


@dataclass(frozen=True, slots=True)
class _Rule:
    """A traffic selector in the form that packets are looked at with."""

    version: int
    mask: int
    network: int
    protocol: int
    ports: range

    @classmethod
    def of(cls, selector: TrafficSelector) -> _Rule:
        network = ipaddress.ip_network(selector.network)
        ports = range(selector.start_port, selector.end_port + 1)
        return cls(network.version, int(network.netmask), int(network.network_address), selector.protocol, ports)

    def fits(self, flow: ip.Flow, address: int, port: int | None) -> bool:
        """Whether one end of a packet is inside; a port that is not to be seen may be."""
        if flow.version != self.version or address & self.mask != self.network:
            return False
        return self.protocol in (0, flow.protocol) and (port is None or port in self.ports)


def _is_outer(packet: bytes) -> bool:
    """Whether a packet is of IPsec or IKE; later fragments of UDP may be, and show no ports."""
    protocol, offset, first = _protocol(packet)
    if protocol in (_ESP, _AH, _IPCOMP):
        return True
    if protocol != _UDP:
        return False
    if not first:
        return True
    return len(packet) >= offset + 4 and not _IKE_PORTS.isdisjoint(struct.unpack_from("!HH", packet, offset))


def _protocol(packet: bytes) -> tuple[int, int, bool]:
    """Return protocol, where it begins, and whether it is there: IPv6 headers before AH are passed over, AH is not."""
    if packet[0] >> 4 == 4:
        return packet[9], (packet[0] & 15) * 4, not (packet[6] & 0x1F or packet[7])
    protocol, offset, first = packet[6], 40, True
    while (protocol in _EXTENSIONS or protocol == _FRAGMENT) and len(packet) >= offset + 8:
        if protocol == _FRAGMENT:
            first = not (packet[offset + 2] << 8 | packet[offset + 3]) & 0xFFF8
            protocol, offset = packet[offset], offset + 8
        else:
            protocol, offset = packet[offset], offset + (packet[offset + 1] + 1) * 8
    return protocol, offset, first


def socket_filter(pairs: Sequence[Pair]) -> list[tuple[int, int, int, int]]:
    """Return a classic BPF program (code, jump if true, jump if false, operand) that takes packets of these pairs.

    A packet begins with its IP header. No pairs, or very many, give an empty program: take everything.
    """
    if not 0 < len(pairs) <= MOST_PAIRS:
        return []
    program: list[tuple[int, int, int, int]] = []
    for source, destination in pairs:
        tests: list[tuple[int, int, int | None, int]] = [(_LOAD_OCTET, 0, None, source.version)]
        first = {4: (12, 16), 6: (8, 24)}[source.version]
        for offset, network in zip(first, (source, destination), strict=True):
            tests += _words(offset, network)
        steps: list[tuple[int, int, int, int]] = []
        for load, where, mask, value in tests:
            steps.append((load, 0, 0, where))
            steps.append((_SHIFT_RIGHT, 0, 0, 4) if mask is None else (_AND, 0, 0, mask))
            steps.append((_JUMP_EQUAL, 0, 0, value))
        # What does not match goes on behind this pair's return.
        program += [
            (code, 0, len(steps) - index, operand) if code == _JUMP_EQUAL else (code, 0, 0, operand)
            for index, (code, _, _, operand) in enumerate(steps)
        ]
        program.append((_RETURN, 0, 0, 0xFFFFFFFF))
    return program + NOTHING


def _words(offset: int, network: Network) -> Iterable[tuple[int, int, int, int]]:
    """Yield load, offset, mask and value for each 32-bit word of an address that the prefix says something about."""
    masks, values = network.netmask.packed, network.network_address.packed
    for start in range(0, len(masks), 4):
        mask = int.from_bytes(masks[start : start + 4], "big")
        if mask:
            yield _LOAD_WORD, offset + start, mask, int.from_bytes(values[start : start + 4], "big")


def _both_ways(one: Iterable[Network], other: Iterable[Network]) -> tuple[Pair, ...]:
    """Return the pairs of equal version in both directions; with nothing on the other side, that side is anything."""
    ones, others = list(dict.fromkeys(one)), list(dict.fromkeys(other))
    if not others:
        others = [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]
    found = [(a, b) for a in ones for b in others if a.version == b.version]
    return tuple(dict.fromkeys([*found, *((b, a) for a, b in found)]))


def _hosts(addresses: Iterable[str]) -> list[Network]:
    return [ipaddress.ip_network(each) for each in sorted(addresses)]


def _host(endpoint: str) -> str:
    """Return the address of ``address:port``, IPv6 in brackets or not."""
    return endpoint.rpartition(":")[0].strip("[]")


def _listed(addresses: Iterable[str]) -> str:
    return ", ".join(sorted(addresses))
