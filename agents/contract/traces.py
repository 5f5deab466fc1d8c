"""What the console asks of traces: ``POST /v1/traces``. A trace records what a gateway's processes do, by category."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agents.contract import check
from agents.contract.errors import FieldError

MOST_SECONDS = 3_600
MOST_OCTETS = 4 * 1024 * 1024
"""Per process: what three of them recorded fits one frame of the socket that hands it out."""


class Category(StrEnum):
    """What is recorded; the names are AIX's (FEATURES A25)."""

    ERROR = "error"
    FILTER = "filter"
    FILTER_INFORMATION = "filter-information"
    TUNNEL = "tunnel"
    TUNNEL_INFORMATION = "tunnel-information"
    CAPSULATION = "capsulation"
    CAPSULATION_INFORMATION = "capsulation-information"
    CRYPTO = "crypto"
    CRYPTO_INFORMATION = "crypto-information"

    @property
    def costly(self) -> bool:
        """Whether recording it slows the gateway down."""
        return self.value.endswith("-information")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """One trace of a whole gateway; ``seconds`` end it, and ``octets`` what one of its processes records.

    ``id`` makes a repeated request harmless: the same trace is not begun twice. ``version`` is 4 or 6 to record packets
    of one IP version only.
    """

    id: str
    categories: tuple[Category, ...]
    seconds: int = 60
    octets: int = 1024 * 1024
    version: int | None = None

    def __post_init__(self) -> None:
        check.uuid("id", self.id)
        check.count("categories", self.categories, len(Category))
        if len(set(self.categories)) != len(self.categories):
            raise FieldError("categories", "has one of them twice")
        check.bounded("seconds", self.seconds, 1, MOST_SECONDS)
        check.bounded("octets", self.octets, 1, MOST_OCTETS)
        if self.version not in (None, 4, 6):
            raise FieldError("version", "must be 4 or 6, or absent for both")
