"""How a tunnel's packets are carried on its host, whatever keys them: interface, header, queues, routes, context."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agents.contract import check
from agents.contract.errors import FieldError

LOCAL_CONTEXT = "local"
"""The context that is the host's main routing table; it needs no row in the document."""

MOST_ROUTES = 64
RATES_KBPS = (64, 10_000_000)
"""The least and the most that :attr:`Carriage.rate_kbps` can be."""
_TABLES = (1, 2**32 - 1)
_RESERVED_TABLES = frozenset({253, 254, 255})


class Attachment(StrEnum):
    """Whether a tunnel has an interface of its own (seed 003: circuit-based) or shares by policy (economical)."""

    SHARED = "shared"
    INTERFACE = "interface"


class DfBit(StrEnum):
    """The outer header's Don't Fragment bit: the inner one's, always on, or always off (RFC 4301 section 8.1)."""

    PROPAGATE = "propagate"
    SET = "set"
    CLEAR = "clear"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRoute:
    """A network reached through the tunnel while it is up; of routes to one network the lowest ``cost`` is used."""

    network: str
    cost: int = 1

    def __post_init__(self) -> None:
        check.network("network", self.network)
        check.bounded("cost", self.cost, 0, 65_535)


@dataclass(frozen=True, slots=True, kw_only=True)
class Carriage:
    """``queues`` is 1, or 4 with strict priority by DSCP; ``copy_dscp`` copies the inner DSCP to the outer header.

    ``clamp_tcp_mss`` lowers the largest segment that the ends of a TCP connection through the tunnel announce (RFC 9293
    section 3.7.1) to what fits, for paths that swallow ICMP. ``rate_kbps`` is what four queues let go at most, in units
    of 1,000 bits a second of inner packets: less than the path takes, so that packets wait where others can pass them.
    ``context`` is one of the document's contexts or ``local``, that of what the tunnel carries; ``endpoint_context`` is
    the one whose table says where IKE, ESP and AH leave, and holds for every tunnel of the same local address.
    ``route_cost`` is the cost of the routes that the traffic selectors ask for. ECN follows RFC 6040 always.
    """

    attachment: Attachment = Attachment.SHARED
    df_bit: DfBit = DfBit.PROPAGATE
    copy_dscp: bool = True
    clamp_tcp_mss: bool = False
    queues: int = 1
    rate_kbps: int | None = None
    context: str = LOCAL_CONTEXT
    endpoint_context: str = LOCAL_CONTEXT
    route_cost: int = 0
    routes: tuple[StaticRoute, ...] = ()

    def __post_init__(self) -> None:
        if self.queues not in (1, 4):
            raise FieldError("queues", "must be 1 or 4")
        if self.rate_kbps is not None:
            check.bounded("rate_kbps", self.rate_kbps, *RATES_KBPS)
            if self.queues == 1:
                raise FieldError("rate_kbps", "needs four queues: with one there is nothing to let pass")
        check.slug("context", self.context)
        check.slug("endpoint_context", self.endpoint_context)
        check.bounded("route_cost", self.route_cost, 0, 65_535)
        if len(self.routes) > MOST_ROUTES:
            raise FieldError("routes", f"must have at most {MOST_ROUTES} entries")
        check.unique("routes", [route.network for route in self.routes])


DEFAULT = Carriage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A routing context beside ``local``: a VRF where the kernel has them, else rules for a table of this number."""

    name: str
    table: int

    def __post_init__(self) -> None:
        check.slug("name", self.name)
        if self.name == LOCAL_CONTEXT:
            raise FieldError("name", f"{LOCAL_CONTEXT} is the host's main table and always there")
        check.bounded("table", self.table, *_TABLES)
        if self.table in _RESERVED_TABLES:
            raise FieldError("table", f"{self.table} is one of the kernel's own tables")
