"""What an agent reports of itself: ``GET /v1/status``.

Counters are octets and packets of inner traffic; those of children and tunnels, rejections likewise, are cumulative
across rekeys and restarts from schema 4 on, until then since ``boot_id`` began. Times are Unix seconds. A value that is
not known is None, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

STATUS_SCHEMA_VERSION = 6


class TunnelState(StrEnum):
    """State of one tunnel as its gateway sees it; the console adds those only it can know."""

    NEGOTIATING = "negotiating"
    UP = "up"
    PARTLY_UP = "partly-up"
    IDLE = "idle"
    DOWN = "down"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Traffic in both directions as this gateway counts it."""

    bytes_in: int = 0
    bytes_out: int = 0
    packets_in: int = 0
    packets_out: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            bytes_in=self.bytes_in + other.bytes_in,
            bytes_out=self.bytes_out + other.bytes_out,
            packets_in=self.packets_in + other.packets_in,
            packets_out=self.packets_out + other.packets_out,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejections:
    """Inbound packets refused, by why: ICV wrong, seen before, older than the window, malformed inside, outside the
    selectors, or in the other mode.
    """

    integrity: int = 0
    replayed: int = 0
    late: int = 0
    malformed: int = 0
    selectors: int = 0
    mode: int = 0

    def __add__(self, other: Rejections) -> Rejections:
        return Rejections(
            integrity=self.integrity + other.integrity,
            replayed=self.replayed + other.replayed,
            late=self.late + other.late,
            malformed=self.malformed + other.malformed,
            selectors=self.selectors + other.selectors,
            mode=self.mode + other.mode,
        )


NO_REJECTIONS = Rejections()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStatus:
    """One priority queue of a tunnel's outbound traffic; 0 is the highest. ``depth_packets`` wait now."""

    queue: int
    packets: int = 0
    bytes: int = 0
    dropped_packets: int = 0
    depth_packets: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterCounters:
    """What the packet filter counted for one tunnel: outer packets admitted, inner packets dropped.

    Those are packets in clear text that should have come through the tunnel, and such that should have left through it.
    """

    admitted_ike: int = 0
    admitted_ipsec: int = 0
    dropped_clear: int = 0
    dropped_leaving: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRecord:
    """A line of the route ledger: which route stood from when to when, and for whom.

    ``cause`` is ``selector`` or ``static``; ``spis`` are the inbound SPIs of the child's SAs when it was laid;
    ``until`` is None while it stands.
    """

    network: str
    interface: str
    gateway: str | None
    context: str
    cost: int
    tunnel_id: str
    child: str | None
    spis: tuple[str, ...]
    cause: str
    since: float
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCount:
    """A counter by name: one of the data plane's own, under the name that it has there, or one of IPSEC_COUNTS."""

    name: str
    count: int


IPSEC_COUNTS = (
    *("bytes.in", "bytes.out", "packets.in", "packets.out", "esp.in", "esp.out", "ah.in", "ah.out"),
    *("dropped.in", "dropped.out", "no-sa", "out.no-policy", "sa.added", "sa.expired", "sa.deleted"),
    *(f"{prefix}rejected.{field.name}" for prefix in ("", "esp.", "ah.") for field in fields(Rejections)),
)
"""The names in ``GatewayStatus.ipsec_counts``: what all tunnels that there ever were have counted, cumulative across
restarts. ``sa.*`` are pairs of SAs. One that was never counted is absent; all are where nobody counts.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureStatus:
    """A packet capture on the gateway, running or done; ``view`` is ``outer`` or ``inner``, never with keys."""

    id: str
    tunnel_id: str
    view: str
    running: bool
    started_at: float
    packets: int = 0
    octets: int = 0
    ended_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTrace:
    """How the trace stands in one process of the agent; ``records`` are its lines so far."""

    process: str
    running: bool
    records: int = 0
    ended_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStatus:
    """The newest trace on the gateway, running or done. ``octets`` bound each process; ``version`` is an IP version."""

    id: str
    categories: tuple[str, ...]
    started_at: float
    ends_at: float
    octets: int
    version: int | None = None
    processes: tuple[ProcessTrace, ...] = ()

    @property
    def running(self) -> bool:
        """Whether any process still records."""
        return any(each.running for each in self.processes)

    @property
    def records(self) -> int:
        """The lines of all processes."""
        return sum(each.records for each in self.processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a tunnel is not up: an event code, one sentence, the two values and the document field to change."""

    code: str
    message: str
    received: str | None = None
    configured: str | None = None
    field: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeSaStatus:
    """One IKE SA; SPIs are 16 hexadecimal digits, ``local`` and ``remote`` are address:port in use now.

    ``local_auth`` and ``remote_auth`` say how each end proved itself: ``psk`` or a signature's slug. ``version`` is
    ``v1`` or ``v2``; ``exchange_mode`` is IKEv1's (``main``, ``aggressive``). SPIs are IKEv1's cookies there.
    """

    spi_i: str
    spi_r: str
    initiator: bool
    state: str
    local: str
    remote: str
    nat_local: bool
    nat_remote: bool
    encryption: str
    integrity: str | None
    prf: str
    group: str
    established_at: float
    rekey_at: float | None
    additional_key_exchanges: tuple[str, ...] = ()
    local_auth: str | None = None
    remote_auth: str | None = None
    remote_identity: str | None = None
    reauth_at: float | None = None
    fragmentation: bool = False
    mobike: bool = False
    ppk: bool = False
    version: str = "v2"
    exchange_mode: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSaStatus:
    """One pair of ESP SAs; SPIs are 8 hexadecimal digits, selectors are text like ``10.1.0.0/24``."""

    spi_in: str
    spi_out: str
    encryption: str | None
    integrity: str | None
    group: str | None
    udp_encapsulation: bool
    local_ts: tuple[str, ...]
    remote_ts: tuple[str, ...]
    installed_at: float
    rekey_at: float | None
    expires_at: float | None
    counters: Counters
    ah_integrity: str | None = None
    mode: str = "tunnel"
    esn: bool = False
    ipcomp: bool = False
    rejected: Rejections = NO_REJECTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStatus:
    """One configured child and the SAs it has now (two during a rekey, none when it is down)."""

    name: str
    up: bool
    sas: tuple[ChildSaStatus, ...] = ()
    counters: Counters = Counters()
    rejected: Rejections = NO_REJECTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelStatus:
    """One configured tunnel; ``step`` says in a few words where a negotiation is.

    ``kind`` is ``static``, ``on-demand`` or ``manual``. An on-demand tunnel shows the SAs of all its peers, and
    ``peers`` how many have one. ``rate_kbps`` is what its queues send at most, None without a limit.
    """

    id: str
    name: str
    state: TunnelState
    since: float
    step: str | None = None
    reason: Reason | None = None
    ike_sas: tuple[IkeSaStatus, ...] = ()
    children: tuple[ChildStatus, ...] = ()
    counters: Counters = Counters()
    interface: str | None = None
    routes: tuple[str, ...] = ()
    kind: str = "static"
    peers: int = 0
    rejected: Rejections = NO_REJECTIONS
    queues: tuple[QueueStatus, ...] = ()
    rate_kbps: int | None = None
    filter: FilterCounters | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentHealth:
    """One process of the agent (``agentd``, ``iked``, ``espd``) or one part of ``iked``; ``detail`` is for people.

    The parts are ``iked.router``, ``iked.v1``, ``iked.v2``, ``iked.credentials`` and ``iked.tunnels``; only those that
    the document needs are listed. ``log_level`` is the least level that the component logs.
    """

    name: str
    healthy: bool
    version: str | None = None
    pid: int | None = None
    started_at: float | None = None
    detail: str = ""
    log_level: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlaneStatus:
    """The data plane in use (``kernel``, ``userspace`` or None before the choice) and the sentence that says why."""

    driver: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeCounters:
    """Messages of one IKE exchange type since the IKE daemon started; ``exchange`` is its name in lowercase."""

    exchange: str
    requests_in: int = 0
    requests_out: int = 0
    responses_in: int = 0
    responses_out: int = 0
    retransmissions_in: int = 0
    retransmissions_out: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The last document that was not taken: which generation, which field, what is wrong."""

    generation: int
    path: str
    message: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayStatus:
    """The whole report. ``accepted_*`` is what the ledger holds, ``applied_generation`` what is in force."""

    gateway_id: str
    agent_version: str
    boot_id: str
    observed_at: float
    schema: int = STATUS_SCHEMA_VERSION
    accepted_generation: int = 0
    accepted_digest: str = ""
    applied_generation: int = 0
    refusal: Refusal | None = None
    problems: tuple[str, ...] = ()
    data_plane: DataPlaneStatus = DataPlaneStatus()
    components: tuple[ComponentHealth, ...] = ()
    tunnels: tuple[TunnelStatus, ...] = ()
    exchanges: tuple[ExchangeCounters, ...] = ()
    route_ledger: tuple[RouteRecord, ...] = ()
    data_plane_counts: tuple[NamedCount, ...] = ()
    captures: tuple[CaptureStatus, ...] = ()
    last_event: int = 0
    ipsec_counts: tuple[NamedCount, ...] = ()
    trace: TraceStatus | None = None
