"""The largest inner packet that fits a path, whatever suite of the tunnel comes to be used.

The UDP header is always counted where SAs are negotiated, since a NAT may appear at any time.
"""

from __future__ import annotations

import ipaddress

from agents.contract.config import Tunnel
from agents.contract.manual import ManualTunnel
from agents.dataplane.userspace.sizes import largest_payload

_SMALLEST_MTU = {4: 576, 6: 1_280}


def inner_mtu(tunnel: Tunnel, outer_mtu: int) -> int:
    """Return the largest inner packet that any suite of the tunnel carries in one outer packet of ``outer_mtu``."""
    addresses = (tunnel.remote.address, *tunnel.remote.more_addresses)
    version = max(ipaddress.ip_address(each).version for each in addresses)
    fits = min(
        largest_payload(
            outer_mtu,
            version,
            encryption=proposal.encryption,
            integrity=proposal.integrity,
            ah_integrity=proposal.ah_integrity,
            in_udp=proposal.ah_integrity is None,
        )
        for child in tunnel.children
        for proposal in child.proposals
    )
    inner_version = max(selector.version for child in tunnel.children for selector in child.local_ts)
    return max(fits, _SMALLEST_MTU[inner_version])


def manual_mtu(tunnel: ManualTunnel, outer_mtu: int) -> int:
    """The same for a tunnel with manual keys, which is never inside UDP: what leaves here has to fit."""
    version = ipaddress.ip_address(tunnel.remote_address).version
    fits = min(
        largest_payload(
            outer_mtu,
            version,
            encryption=child.outbound.encryption,
            integrity=child.outbound.integrity,
            ah_integrity=child.outbound.ah_integrity,
            in_udp=False,
        )
        for child in tunnel.children
    )
    inner_version = max(child.local_ts.version for child in tunnel.children)
    return max(fits, _SMALLEST_MTU[inner_version])
