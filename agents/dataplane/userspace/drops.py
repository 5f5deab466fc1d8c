"""Why a packet was not let through.

Each reason a peer can cause has the event code of :mod:`agents.contract.events` that is reported for it; the local ones
are only counted.
"""

from __future__ import annotations

INTEGRITY = "esp.integrity"
REPLAY = "esp.replay"
LATE = "esp.late"
NO_SA = "esp.no-sa"
MALFORMED = "esp.malformed"
POLICY = "esp.policy"
MODE = "esp.mode"
"""In the other mode, or not wrapped as agreed on: ESP without the AH around it, IPComp that nobody agreed on."""

LOCAL_NO_POLICY = "out.no-policy"
LOCAL_NO_SA = "out.no-sa"
LOCAL_MALFORMED = "out.malformed"
LOCAL_TOO_BIG = "out.too-big"
LOCAL_TRANSPORT = "out.transport"
"""A packet that transport mode cannot carry: a fragment, or one with headers that would have to stay in front."""
CONGESTION = "in.congestion"
"""Outer CE on an inner packet that is not ECN-capable: RFC 6040 section 4.2 says drop."""


class Dropped(Exception):  # noqa: N818 - an outcome of one packet, not a fault of ours
    """One packet is refused; ``code`` is one of this module."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
