"""What is outside the tunnels: the mark of the IKE, ESP and AH that this gateway sends, in both data planes.

In transport mode inner packets have the outer addresses. The rules that lead them into a tunnel of the userspace data
plane (:mod:`agents.agentd.parts.transport`) take nothing that has this mark. Those of endpoints that are not in the
main table (:mod:`agents.agentd.parts.endpoints`) take what has it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket

OUTER_MARK = 0x0800_0000
"""One bit, so that rules can ask for its absence whatever else marks packets here."""
CONGESTED_MARK = 0x0400_0000
"""On its way in: the outer header said congestion experienced (:mod:`agents.agentd.parts.congestion`)."""
WHOLE_MARK = 0x0200_0000
"""With :data:`OUTER_MARK`: not to be cut on its way (:mod:`agents.agentd.parts.dont_fragment`)."""
_SO_MARK = 36

DEFAULT_PATH_MTU = 1_500
_LARGEST_PATH_MTU = 9_000
_IP_MTU, _IPV6_MTU = 14, 24


def mark(opened: socket.socket) -> None:
    """Mark what a socket sends; without CAP_NET_ADMIN nothing is marked, nor are there rules to be passed by."""
    with contextlib.suppress(PermissionError):
        opened.setsockopt(socket.SOL_SOCKET, _SO_MARK, OUTER_MARK)


def path_mtu(local_address: str, remote_address: str) -> int:
    """Return the MTU of the route from one address to the other, 1500 where there is none yet."""
    v6 = ipaddress.ip_address(remote_address).version == 6
    with socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        mark(probe)
        try:
            probe.bind((local_address, 0))
            probe.connect((remote_address, 9))
            level, option = (socket.IPPROTO_IPV6, _IPV6_MTU) if v6 else (socket.IPPROTO_IP, _IP_MTU)
            return min(probe.getsockopt(level, option), _LARGEST_PATH_MTU)
        except OSError:
            return DEFAULT_PATH_MTU
