"""What is outside the tunnels: the mark of the IKE, ESP and AH that this gateway sends, in both data planes.

In transport mode inner packets have the outer addresses. The rules that lead them into a tunnel of the userspace data
plane (:mod:`agents.agentd.parts.transport`) take nothing that has this mark. Those of endpoints that are not in the
main table (:mod:`agents.agentd.parts.endpoints`) take what has it.
"""

from __future__ import annotations

import contextlib
import socket

OUTER_MARK = 0x0800_0000
"""One bit, so that rules can ask for its absence whatever else marks packets here."""
CONGESTED_MARK = 0x0400_0000
"""On its way in: the outer header said congestion experienced (:mod:`agents.agentd.parts.congestion`)."""
_SO_MARK = 36


def mark(opened: socket.socket) -> None:
    """Mark what a socket sends; without CAP_NET_ADMIN nothing is marked, nor are there rules to be passed by."""
    with contextlib.suppress(PermissionError):
        opened.setsockopt(socket.SOL_SOCKET, _SO_MARK, OUTER_MARK)
