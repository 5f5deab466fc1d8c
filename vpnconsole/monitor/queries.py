"""What pages and API ask: every configured tunnel and gateway joined with what was last heard. Nothing is left out.

Traffic is given by direction between the ends (``a_to_b``), not by in and out, so that it reads the same from both
ends; it is counted at end A's gateway where that is managed, else at end B's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone

from agents.contract import ipsecstat
from agents.contract.carriage import LOCAL_CONTEXT
from agents.contract.codec import from_plain
from agents.contract.errors import DocumentError
from agents.contract.events import STEPS
from agents.contract.status import ChildSaStatus, Counters, GatewayStatus, Reason, TunnelState, TunnelStatus
from vpnconsole.gateways import queries as gateway_queries
from vpnconsole.gateways.models import Gateway, GatewayContext
from vpnconsole.monitor.choices import PROBLEMS, ConsoleState
from vpnconsole.monitor.dataplane import REASONS, TunnelPlane, Why, tunnel_plane
from vpnconsole.monitor.models import ActionJob, EventRecord, GatewayObservation, TunnelObservation
from vpnconsole.monitor.negotiation import MOST_EVENTS, Negotiation, last_negotiation
from vpnconsole.monitor.state import EndFacts, Report, TunnelFacts, Verdict, judge
from vpnconsole.monitor.traffic import Point as Point
from vpnconsole.monitor.traffic import series as series
from vpnconsole.monitor.traffic import total_series as total_series
from vpnconsole.rollout.compile import child_name
from vpnconsole.rollout.models import Delivery
from vpnconsole.rollout.queries import GatewayProgress, progress_by_gateway, unfinished
from vpnconsole.vpn import queries as vpn_queries
from vpnconsole.vpn.choices import ConnectionTypeChoice
from vpnconsole.vpn.models import IPsecPolicy, Tunnel, TunnelEnd

T = TypeVar("T")

#: A reading older than this looks stale even when nothing failed yet.
STALE_AFTER_S = 15
#: After so long without a reading nobody can say that a gateway is reachable: the workers are not there.
UNASKED_AFTER_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Traffic in one direction; ``rate_bps`` is None when there is no recent pair of readings."""

    bytes: int = 0
    packets: int = 0
    rate_bps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRow:
    """One end of a tunnel with what its gateway says; ``status`` is None for an extranet end or before a report.

    The peers of an on-demand tunnel stand as an end on no gateway, ``gateway_id`` None. An end that is not ours has no
    contexts.
    """

    side: str
    gateway_id: UUID | None
    gateway_name: str
    managed: bool
    address: str
    identity_type: str
    identity_value: str
    connection_type: str
    facts: EndFacts
    context: str | None = None
    endpoint_context: str | None = None
    status: TunnelStatus | None = None
    read_at: datetime | None = None

    @property
    def state(self) -> TunnelState | None:
        """The state as this end's gateway reports it."""
        return self.facts.report.state if self.facts.report else None

    @property
    def reachable(self) -> bool:
        """Whether its gateway answers."""
        return self.facts.reachable


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelRow:
    """One configured tunnel as a list shows it; ``exchange_mode`` is empty without IKEv1."""

    id: UUID
    name: str
    description: str
    kind: str
    enabled: bool
    version: str
    exchange_mode: str
    verdict: Verdict
    end_a: EndRow
    end_b: EndRow
    a_to_b: Flow
    b_to_a: Flow
    read_at: datetime | None

    @property
    def state(self) -> ConsoleState:
        """The console's state."""
        return self.verdict.state

    @property
    def ends(self) -> tuple[EndRow, EndRow]:
        """Both ends."""
        return self.end_a, self.end_b

    @property
    def rate_bps(self) -> float | None:
        """Both directions together."""
        rates = [flow.rate_bps for flow in (self.a_to_b, self.b_to_a) if flow.rate_bps is not None]
        return sum(rates) if rates else None

    @property
    def nat(self) -> str:
        """Where a NAT was found on the path, in words; empty without one. Either end may be the one that tells."""
        for end, other in ((self.end_a, self.end_b), (self.end_b, self.end_a)):
            for sa in end.status.ike_sas[:1] if end.status else ():
                if sa.nat_local and sa.nat_remote:
                    return "at both ends"
                if sa.nat_local or sa.nat_remote:
                    return f"before {(end if sa.nat_local else other).gateway_name}"
        return ""

    @property
    def reason_side(self) -> str:
        """The side whose gateway gave the verdict's reason, or an empty text."""
        reason = self.verdict.reason
        same = (end.side for end in self.ends if end.facts.report and end.facts.report.reason == reason)
        return next(same, "") if reason else ""

    @property
    def stale(self) -> bool:
        """Whether the reading is so old that it should look it."""
        return self.read_at is None or timezone.now() - self.read_at > timedelta(seconds=STALE_AFTER_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """One selector pair and the child that carries it, as each managed end reports it."""

    seq: int
    network_a: str
    network_b: str
    protocol: int
    ports_a: tuple[int, int]
    ports_b: tuple[int, int]
    up: bool
    sas: tuple[ChildSaStatus, ...]
    seen_from: str
    #: What it is negotiated by; None with manual keys. ``own_policy`` says that it is not the tunnel's.
    policy: IPsecPolicy | None = None
    own_policy: bool = False
    #: What all SAs that the child ever had counted; None where the agent does not say.
    total: Counters | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelDetail:
    """All a tunnel's page shows. ``tunnel`` is the intent with its relations."""

    row: TunnelRow
    tunnel: Tunnel
    pairs: tuple[PairRow, ...]
    events: tuple[EventRecord, ...]
    negotiations: tuple[Negotiation, ...]
    plane: TunnelPlane
    jobs: tuple[ActionJob, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayRow:
    """One gateway as a list shows it; ``status`` is the last report, which may be old (``read_at``)."""

    gateway: Gateway
    reachable: bool
    since: datetime | None
    read_at: datetime | None
    error: str
    status: GatewayStatus | None
    progress: GatewayProgress | None
    tunnels_total: int
    tunnels_up: int

    @property
    def state(self) -> str:
        """``extranet``, ``not-enrolled``, ``never-reached`` (enrolled), ``reachable`` or ``unreachable``."""
        if not self.gateway.is_managed:
            return "extranet"
        if not self.gateway.is_enrolled:
            return "not-enrolled"
        if self.reachable:
            return "reachable"
        return "unreachable" if self.since else "never-reached"

    @property
    def statistics(self) -> tuple[tuple[str, int | None], ...]:
        """The report ``ipsecstat``; nothing for an agent that does not count yet."""
        if self.status is None or self.status.schema < 4:
            return ()
        return tuple(ipsecstat.statistics(self.status).items())

    @property
    def refused(self) -> tuple[tuple[Why, int], ...]:
        """Refused packets of every tunnel that there ever was, by reason; only what happened."""
        if self.status is None:
            return ()
        counts = asdict(ipsecstat.rejections(self.status))
        return tuple((REASONS[name], count) for name, count in counts.items() if count)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with it, in sentences."""
        found = []
        if self.state == "unreachable":
            found.append(f"Not heard from: {self.error}")
        elif self.status is not None:
            found.extend(self.status.problems)
            found.extend(
                f"{component.name} is not healthy: {component.detail}"
                for component in self.status.components
                if not component.healthy
            )
        if self.progress is not None and not self.progress.held_is_ours:
            found.append(
                f"It holds generation {self.progress.accepted_generation}, of which this console has no record: deploy"
            )
        refused = self.progress.refused if self.progress else None
        if refused is not None:
            found.append(f"The last deployment was {refused.get_state_display()}: {refused.error}")
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many tunnels are in one state."""

    state: ConsoleState
    label: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """All the dashboard shows; ``problems`` first."""

    problems: tuple[TunnelRow, ...]
    gateway_problems: tuple[GatewayRow, ...]
    counts: tuple[Count, ...]
    tunnels: tuple[TunnelRow, ...]
    gateways: tuple[GatewayRow, ...]
    gateways_reachable: int
    gateways_managed: int
    rate_bps: float | None
    traffic: tuple[Point, ...]
    events: tuple[EventRecord, ...]
    pending: tuple[Delivery, ...]
    read_at: datetime


def tunnel_rows() -> list[TunnelRow]:
    """Return every configured tunnel with its state, by name."""
    world = _World()
    return [_tunnel_row(tunnel, world) for tunnel in vpn_queries.tunnels()]


def tunnel_detail(tunnel_id: UUID) -> TunnelDetail:
    """Return one tunnel with its pairs, last events and actions; raises Tunnel.DoesNotExist."""
    tunnel = vpn_queries.get_tunnel(tunnel_id)
    row = _tunnel_row(tunnel, _World(tunnel_id))
    return TunnelDetail(
        row=row,
        tunnel=tunnel,
        pairs=_pairs(tunnel, row),
        events=tuple(events(tunnel_id=tunnel_id)[:20]),
        negotiations=_negotiations(tunnel),
        plane=tunnel_plane(
            tunnel,
            {end.gateway_id: end.status for end in row.ends if end.gateway_id is not None},
            {end.gateway_id for end in row.ends if end.gateway_id is not None and end.reachable},
        ),
        jobs=tuple(tunnel.actions.select_related("gateway", "requested_by")[:5]),
    )


def _negotiations(tunnel: Tunnel) -> tuple[Negotiation, ...]:
    """Return the last negotiation as each managed end saw it, end A first."""
    found = []
    for end in tunnel.ends.all():
        if end.gateway.is_managed:
            steps = EventRecord.objects.filter(tunnel=tunnel, gateway=end.gateway, code__in=STEPS).order_by("-id")
            negotiation = last_negotiation(end.gateway.name, steps[:MOST_EVENTS])
            if negotiation is not None:
                found.append(negotiation)
    return tuple(found)


def gateway_rows() -> list[GatewayRow]:
    """Return every gateway, managed and extranet, by name."""
    return _gateway_rows(tunnel_rows())


def gateway_detail(gateway_id: UUID) -> tuple[GatewayRow, list[TunnelRow]]:
    """Return one gateway and the tunnels that end there; raises Gateway.DoesNotExist."""
    tunnels = [row for row in tunnel_rows() if gateway_id in (row.end_a.gateway_id, row.end_b.gateway_id)]
    for row in _gateway_rows(tunnels):
        if row.gateway.pk == gateway_id:
            return row, tunnels
    raise Gateway.DoesNotExist


def dashboard() -> Dashboard:
    """Return what the first page shows."""
    tunnels = tunnel_rows()
    gateways = _gateway_rows(tunnels)
    rates = [row.rate_bps for row in tunnels if row.rate_bps is not None]
    by_state = [row.state for row in tunnels]
    managed = [row for row in gateways if row.gateway.is_managed]
    return Dashboard(
        problems=tuple(row for row in tunnels if row.state in PROBLEMS),
        gateway_problems=tuple(row for row in gateways if row.problems),
        counts=tuple(
            Count(state=state, label=str(state.label), count=by_state.count(state))
            for state in ConsoleState
            if state in by_state
        ),
        tunnels=tuple(tunnels),
        gateways=tuple(gateways),
        gateways_reachable=sum(row.reachable for row in managed),
        gateways_managed=len(managed),
        rate_bps=sum(rates) if rates else None,
        traffic=total_series(60),
        events=tuple(events()[:10]),
        pending=tuple(unfinished()),
        read_at=timezone.now(),
    )


def events(
    *,
    tunnel_id: UUID | None = None,
    gateway_id: UUID | None = None,
    severity: str = "",
    code: str = "",
    after: int | None = None,
) -> QuerySet[EventRecord]:
    """Return events, newest first; with ``after`` (an ``id``) the later ones, oldest first."""
    rows = EventRecord.objects.select_related("gateway", "tunnel")
    if tunnel_id is not None:
        rows = rows.filter(tunnel_id=tunnel_id)
    if gateway_id is not None:
        rows = rows.filter(gateway_id=gateway_id)
    if severity:
        rows = rows.filter(severity=severity)
    if code:
        rows = rows.filter(code=code)
    return rows.order_by("-id") if after is None else rows.filter(id__gt=after).order_by("id")


# Joining intent with observations


class _World:
    """Everything observed that rows are joined with, read once."""

    def __init__(self, tunnel_id: UUID | None = None) -> None:
        observed = TunnelObservation.objects.filter(present=True)
        if tunnel_id is not None:
            observed = observed.filter(tunnel_id=tunnel_id)
        self.tunnels: Mapping[tuple[UUID, UUID], TunnelObservation] = {
            (row.tunnel_id, row.gateway_id): row for row in observed
        }
        self.gateways: Mapping[UUID, GatewayObservation] = {
            row.pk: row for row in GatewayObservation.objects.defer("status")
        }
        self.progress = progress_by_gateway()


def _tunnel_row(tunnel: Tunnel, world: _World) -> TunnelRow:
    end_a = _end_row(tunnel, tunnel.end_a, world)
    end_b = _peers_row(tunnel) if tunnel.is_on_demand else _end_row(tunnel, tunnel.end_b, world)
    verdict = judge(
        TunnelFacts(
            enabled=tunnel.enabled,
            disabled_by=tunnel.disabled_by.get_username() if tunnel.disabled_by else "",
            disabled_at=tunnel.disabled_at,
            ends=(end_a.facts, end_b.facts),
            on_demand=tunnel.is_on_demand,
        )
    )
    a_to_b, b_to_a = _flows(tunnel, world)
    return TunnelRow(
        id=tunnel.pk,
        name=tunnel.name,
        description=tunnel.description,
        kind=tunnel.kind,
        enabled=tunnel.enabled,
        version=tunnel.version,
        exchange_mode=tunnel.exchange_mode,
        verdict=verdict,
        end_a=end_a,
        end_b=end_b,
        a_to_b=a_to_b,
        b_to_a=b_to_a,
        read_at=max((end.read_at for end in (end_a, end_b) if end.read_at), default=None),
    )


def _end_row(tunnel: Tunnel, end: TunnelEnd, world: _World) -> EndRow:
    observed = world.tunnels.get((tunnel.pk, end.gateway_id))
    status = _read(TunnelStatus, observed.data) if observed else None
    return EndRow(
        side=end.side,
        gateway_id=end.gateway_id,
        gateway_name=end.gateway.name,
        managed=end.gateway.is_managed,
        address=end.address,
        identity_type=end.identity_type,
        identity_value=end.identity_value,
        connection_type=end.connection_type,
        facts=_end_facts(tunnel, end, world, observed, status),
        context=_context(end, end.context),
        endpoint_context=_context(end, end.endpoint_context),
        status=status,
        read_at=observed.read_at if observed else None,
    )


def _context(end: TunnelEnd, context: GatewayContext | None) -> str | None:
    if context is not None:
        return context.name
    return LOCAL_CONTEXT if end.gateway.is_managed else None


def _peers_row(tunnel: Tunnel) -> EndRow:
    """Return what stands where an on-demand tunnel has no end of its own."""
    return EndRow(
        side="b",
        gateway_id=None,
        gateway_name="peers",
        managed=False,
        address="",
        identity_type=tunnel.peer_identity_type,
        identity_value=tunnel.peer_identity_value,
        connection_type=ConnectionTypeChoice.INITIATOR_ONLY,
        facts=EndFacts(gateway_name="peers", managed=False),
    )


def _end_facts(
    tunnel: Tunnel, end: TunnelEnd, world: _World, observed: TunnelObservation | None, status: TunnelStatus | None
) -> EndFacts:
    heard = world.gateways.get(end.gateway_id)
    progress = world.progress.get(end.gateway_id)
    report = None
    if observed is not None and status is not None:
        report = Report(
            state=status.state,
            since=observed.since,
            step=observed.step,
            reason=_read(Reason, observed.reason) if observed.reason else None,
            pairs_up=sum(child.up for child in status.children),
            pairs_total=len(status.children),
            peers=status.peers,
        )
    key = str(tunnel.pk)
    refused = progress.refused if progress else None
    return EndFacts(
        gateway_name=end.gateway.name,
        managed=end.gateway.is_managed,
        reachable=_heard(heard),
        heard_at=heard.read_at if heard else None,
        held=progress is not None and progress.holds(key),
        arriving=progress is not None and progress.delivers(key),
        refused=refused.error if refused else "",
        report=report,
    )


def _flows(tunnel: Tunnel, world: _World) -> tuple[Flow, Flow]:
    for end in tunnel.ends.all():
        seen = world.tunnels.get((tunnel.pk, end.gateway_id))
        if seen is None or not end.gateway.is_managed:
            continue
        now = _heard(world.gateways.get(end.gateway_id))  # a rate of long ago is not the traffic of now
        out = Flow(bytes=seen.bytes_out, packets=seen.packets_out, rate_bps=seen.rate_out_bps if now else None)
        into = Flow(bytes=seen.bytes_in, packets=seen.packets_in, rate_bps=seen.rate_in_bps if now else None)
        return (out, into) if end.side == "a" else (into, out)
    return Flow(), Flow()


def _pairs(tunnel: Tunnel, row: TunnelRow) -> tuple[PairRow, ...]:
    seen = next((end for end in row.ends if end.status is not None), None)
    children = {child.name: child for child in seen.status.children} if seen and seen.status else {}
    pairs = []
    for pair in tunnel.selectors.all():
        child = children.get(child_name(pair.seq))
        pairs.append(
            PairRow(
                seq=pair.seq,
                network_a=pair.network_a,
                network_b=pair.network_b,
                protocol=pair.protocol,
                ports_a=(pair.port_a_start, pair.port_a_end),
                ports_b=(pair.port_b_start, pair.port_b_end),
                up=child.up if child else False,
                sas=child.sas if child else (),
                seen_from=seen.gateway_name if seen else "",
                policy=None if tunnel.is_manual else tunnel.ipsec_policy_of(pair),
                own_policy=pair.ipsec_policy is not None,
                total=child.counters if child and any(asdict(child.counters).values()) else None,
            )
        )
    return tuple(pairs)


def _gateway_rows(tunnels: list[TunnelRow]) -> list[GatewayRow]:
    observations = {row.pk: row for row in GatewayObservation.objects.all()}
    progress = progress_by_gateway()
    rows = []
    for gateway in gateway_queries.gateways():
        seen = observations.get(gateway.pk)
        mine = [row for row in tunnels if gateway.pk in (row.end_a.gateway_id, row.end_b.gateway_id)]
        rows.append(
            GatewayRow(
                gateway=gateway,
                reachable=_heard(seen),
                since=_since(seen),
                read_at=seen.read_at if seen else None,
                error=_error(seen),
                status=_read(GatewayStatus, seen.status) if seen and seen.status else None,
                progress=progress.get(gateway.pk),
                tunnels_total=len(mine),
                tunnels_up=sum(row.state is ConsoleState.UP for row in mine),
            )
        )
    return rows


def _heard(seen: GatewayObservation | None) -> bool:
    """Whether the gateway answers, as far as anybody has asked lately."""
    return seen is not None and seen.reachable and not _unasked(seen)


def _unasked(seen: GatewayObservation) -> bool:
    return seen.read_at is not None and timezone.now() - seen.read_at > timedelta(seconds=UNASKED_AFTER_S)


def _since(seen: GatewayObservation | None) -> datetime | None:
    if seen is None:
        return None
    return seen.read_at if seen.reachable and _unasked(seen) else seen.reachable_since


def _error(seen: GatewayObservation | None) -> str:
    if seen is None:
        return ""
    if seen.reachable and _unasked(seen):
        return "nobody has asked it lately: is the console's worker running?"
    return seen.error


def _read(kind: type[T], plain: object) -> T | None:
    try:
        return from_plain(kind, plain)
    except DocumentError:
        # Stored by an older version of the console; the next poll replaces it.
        return None
