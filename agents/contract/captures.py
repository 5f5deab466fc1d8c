"""What the console asks of packet captures: ``POST /v1/captures``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agents.contract import check

MOST_SECONDS = 600
MOST_OCTETS = 64 * 1024 * 1024
LEAST_OCTETS = 64 * 1024
MOST_PACKETS = 1_000_000
KEPT_S = 3_600
"""So long a capture that ended can be fetched; then the gateway deletes it."""


class CaptureView(StrEnum):
    """What of a tunnel is captured: its IKE, ESP and AH packets, or the packets it carries, in clear text."""

    OUTER = "outer"
    INNER = "inner"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequest:
    """One capture of one tunnel; it ends with the first bound it reaches. ``octets`` is the size of the file.

    ``id`` makes a repeated request harmless: the same capture is not begun twice.
    """

    id: str
    tunnel_id: str
    view: CaptureView
    seconds: int = 60
    octets: int = 8 * 1024 * 1024
    packets: int = 100_000

    def __post_init__(self) -> None:
        check.uuid("id", self.id)
        check.uuid("tunnel_id", self.tunnel_id)
        check.bounded("seconds", self.seconds, 1, MOST_SECONDS)
        check.bounded("octets", self.octets, LEAST_OCTETS, MOST_OCTETS)
        check.bounded("packets", self.packets, 1, MOST_PACKETS)
