"""Reading one gateway: status and events in, rows out. Called by the poll task, at most one at a time per gateway.

A lease in the observation row keeps polls of one gateway apart; everything one poll learnt is written in one
transaction. Fetching events after the last stored one is also what tells the agent that it may forget the ones before.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import DataError, transaction
from django.db.models import Q
from django.utils import timezone

from agents.contract.codec import to_plain
from agents.contract.events import Event, EventPage
from agents.contract.status import Counters, GatewayStatus, TunnelStatus
from vpnconsole.gateways import services as gateways
from vpnconsole.gateways.models import Gateway
from vpnconsole.lib import channel
from vpnconsole.lib.sealed import SealError
from vpnconsole.monitor.models import CounterSample, EventRecord, GatewayObservation, TunnelObservation
from vpnconsole.rollout import tasks as rollout
from vpnconsole.rollout.client import AgentClient, AgentError
from vpnconsole.rollout.delivery import record_status
from vpnconsole.vpn.models import Tunnel

logger = logging.getLogger(__name__)

LEASE_S = 25
CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 5.0
EVENT_PAGE = 500
MAX_EVENT_PAGES = 6
SAMPLE_EVERY_S = 10
#: From this schema of the status on a tunnel's counters go on when the agent is started anew.
TOTALS_SINCE_SCHEMA = 4
#: Waits after the first, second ... failed poll; the first failure is looked at again at once.
BACK_OFF_S = (0, 4, 8, 15)
#: So many failures in a row make a gateway unreachable: one lost poll is no news.
FAILURES_TO_UNREACHABLE = 2

_OBSERVED = [
    field.name for field in TunnelObservation._meta.concrete_fields if field.name not in ("id", "tunnel", "gateway")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Journal:
    """Events of one poll and where the console stands after them."""

    epoch: int
    events: tuple[Event, ...]
    last: int
    missed: int


def poll(gateway_id: UUID) -> bool:
    """Read one gateway if nobody else is at it; True when this call read it, successfully or not."""
    gateway = Gateway.objects.filter(pk=gateway_id, enrolled_at__isnull=False).first()
    if gateway is None or not _claim(gateway_id):
        return False
    observation = GatewayObservation.objects.get(pk=gateway_id)
    asked_at = timezone.now()
    try:
        with AgentClient(gateway, connect_timeout_s=CONNECT_TIMEOUT_S, read_timeout_s=READ_TIMEOUT_S) as agent:
            status = agent.status()
            journal = _read_events(agent, observation, status)
    except (AgentError, SealError) as error:
        _record_failure(observation, str(error))
    else:
        try:
            _record_success(observation, status, journal, asked_at)
        except (OverflowError, ValueError, ValidationError, DataError) as error:
            # Well-formed, but with a time, number or id that no agent of ours says; its own rows alone are the worse.
            observation = GatewayObservation.objects.get(pk=gateway_id)
            _record_failure(observation, f"its report holds what cannot be stored ({type(error).__name__}: {error})")
    return True


def _claim(gateway_id: UUID) -> bool:
    now = timezone.now()
    GatewayObservation.objects.get_or_create(gateway_id=gateway_id)
    free = Q(lease_until__isnull=True) | Q(lease_until__lt=now)
    rows = GatewayObservation.objects.filter(free, pk=gateway_id)
    return rows.update(lease_until=now + timedelta(seconds=LEASE_S)) == 1


def _overtaken(observation: GatewayObservation) -> bool:
    """Tell whether this poll outlived its lease: what it read may be older than what is stored by now."""
    mine = GatewayObservation.objects.filter(pk=observation.pk, lease_until=observation.lease_until)
    return mine.select_for_update().values_list("pk").first() is None


def _read_events(agent: AgentClient, observation: GatewayObservation, status: GatewayStatus) -> _Journal:
    epoch, after = observation.event_epoch, observation.last_event
    if status.last_event < after:
        # A journal that counts from the start again: the agent was installed anew.
        epoch, after = epoch + 1, 0
    events: list[Event] = []
    missed = 0
    for _ in range(MAX_EVENT_PAGES):
        if after >= status.last_event:
            break
        page: EventPage = agent.events(after=after, limit=EVENT_PAGE)
        missed += max(0, page.oldest - after - 1)
        if not page.events:
            break
        events.extend(page.events)
        after = page.events[-1].sequence
    return _Journal(epoch=epoch, events=tuple(events), last=after, missed=missed)


def _record_failure(observation: GatewayObservation, error: str) -> None:
    now = timezone.now()
    failures = observation.failures + 1
    lost = failures >= FAILURES_TO_UNREACHABLE and (observation.reachable or observation.reachable_since is None)
    with transaction.atomic():
        if _overtaken(observation):
            return
        observation.failures = failures
        observation.error = error
        observation.lease_until = None
        observation.next_poll_at = now + timedelta(seconds=BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1])
        if lost:
            observation.reachable, observation.reachable_since = False, now
        observation.save()
        TunnelObservation.objects.filter(gateway_id=observation.pk).update(rate_in_bps=None, rate_out_bps=None)
        gateways.record_contact(observation.pk, at=now, error=error)
    if lost:
        logger.warning("! gateway=%s unreachable: %s", observation.pk, error)
        tunnels = TunnelObservation.objects.filter(gateway_id=observation.pk).values_list("tunnel_id", flat=True)
        channel.publish("tunnel", tunnels)
    channel.publish("gateway", [observation.pk])


def _record_success(
    observation: GatewayObservation, status: GatewayStatus, journal: _Journal, asked_at: datetime | None = None
) -> None:
    now = timezone.now()
    came_back = not observation.reachable
    with transaction.atomic():
        if _overtaken(observation):
            return
        changed = _record_tunnels(observation, status, now)
        _store_events(observation.pk, journal)
        if came_back:
            observation.reachable, observation.reachable_since = True, now
        observation.status = to_plain(status)
        observation.read_at = now
        observation.error, observation.failures = "", 0
        observation.next_poll_at = observation.lease_until = None
        observation.boot_id = status.boot_id[:64]
        observation.event_epoch, observation.last_event = journal.epoch, journal.last
        observation.events_missed += journal.missed
        observation.save()
        gateways.record_contact(observation.pk, at=now, agent_version=status.agent_version)
        record_status(observation.pk, status, asked_at)
    rollout.resume_waiting(observation.pk)
    if came_back:
        logger.info("= gateway=%s reachable", observation.pk)
    channel.publish("gateway", [observation.pk])
    channel.publish("tunnel", changed)
    if journal.events:
        channel.publish("event", [observation.pk])


def _store_events(gateway_id: UUID, journal: _Journal) -> None:
    named = {event.tunnel_id for event in journal.events if event.tunnel_id}
    known = {str(key) for key in Tunnel.objects.filter(pk__in=named).values_list("pk", flat=True)}
    EventRecord.objects.bulk_create(
        [
            EventRecord(
                gateway_id=gateway_id,
                epoch=journal.epoch,
                sequence=event.sequence,
                at=_time(event.time),
                code=event.code[:64],
                severity=event.severity.value,
                message=event.message,
                tunnel_id=event.tunnel_id if event.tunnel_id in known else None,
                received=event.received,
                configured=event.configured,
                field=event.field[:200] if event.field else None,
                attributes=event.attributes,
            )
            for event in journal.events
        ],
        ignore_conflicts=True,
    )


def _record_tunnels(observation: GatewayObservation, status: GatewayStatus, now: datetime) -> list[str]:
    """Write what was reported of each tunnel; returns the ids of those that differ from the last reading."""
    rows = {str(row.tunnel_id): row for row in TunnelObservation.objects.filter(gateway_id=observation.pk)}
    known = {
        str(key)
        for key in Tunnel.objects.filter(pk__in=[tunnel.id for tunnel in status.tunnels]).values_list("pk", flat=True)
    }
    before = observation.status or {}
    elapsed_s = status.observed_at - float(before.get("observed_at", status.observed_at))
    # While the agent cannot ask iked it lists tunnels without counters: nothing was counted, nothing starts from zero.
    counted = _counted((part.name, part.pid) for part in status.components)
    counted_before = _counted((part["name"], part.get("pid")) for part in before.get("components", ()))
    same_boot = before.get("boot_id") == status.boot_id and counted_before
    changed, samples, written = [], [], []
    for tunnel in status.tunnels:
        if tunnel.id not in known:
            continue
        row = rows.pop(tunnel.id, None) or TunnelObservation(tunnel_id=tunnel.id, gateway_id=observation.pk)
        fresh = row.pk is None or row.boot_id == ""
        plain = to_plain(tunnel)
        if row.data != plain or not row.present:
            changed.append(tunnel.id)
        moved = _count(row, tunnel, status) if counted else Counters()
        rated = counted and not fresh and same_boot and elapsed_s > 0
        row.rate_in_bps = moved.bytes_in * 8 / elapsed_s if rated else None
        row.rate_out_bps = moved.bytes_out * 8 / elapsed_s if rated else None
        _describe(row, tunnel, plain, now)
        if counted and (row.sampled_at is None or now - row.sampled_at >= timedelta(seconds=SAMPLE_EVERY_S - 1)):
            row.sampled_at = now
            samples.append(_sample(row, tunnel, now))
        # Written as new and merged by (tunnel, gateway): one statement for all of them.
        row.pk = None
        written.append(row)
    TunnelObservation.objects.bulk_create(
        written, update_conflicts=True, unique_fields=["tunnel", "gateway"], update_fields=_OBSERVED
    )
    CounterSample.objects.bulk_create(samples)
    gone = [row.pk for row in rows.values() if row.present]
    if gone:
        changed.extend(key for key, row in rows.items() if row.present)
        TunnelObservation.objects.filter(pk__in=gone).update(present=False, rate_in_bps=None, rate_out_bps=None)
    return changed


def _counted(components: Iterable[tuple[str, int | None]]) -> bool:
    """Tell whether a report's counters come from ``iked``: an agent that cannot ask it names no process for it."""
    return all(name != "iked" or pid is not None for name, pid in components)


def _describe(row: TunnelObservation, tunnel: TunnelStatus, plain: dict[str, object], now: datetime) -> None:
    row.present = True
    row.state = tunnel.state.value
    row.since = _time(tunnel.since)
    row.step = (tunnel.step or "")[:200]
    row.reason = to_plain(tunnel.reason) if tunnel.reason else None
    row.data = plain
    row.read_at = now


def _count(row: TunnelObservation, tunnel: TunnelStatus, status: GatewayStatus) -> Counters:
    """Add what was counted since the last reading to the totals and return it."""
    raw = tunnel.counters
    names = ("bytes_in", "bytes_out", "packets_in", "packets_out")
    before = {name: getattr(row, f"raw_{name}") for name in names}
    shrunk = any(getattr(raw, name) < before[name] for name in names)
    if status.schema >= TOTALS_SINCE_SCHEMA:
        # The agent keeps totals; one that lost some of them says a little less, which is no traffic.
        moved = {name: max(0, getattr(raw, name) - before[name]) for name in names}
    elif row.boot_id != status.boot_id[:64] or shrunk:
        # Another boot, or a number that went down: the agent counts from zero again, so all it says is new.
        moved = {name: getattr(raw, name) for name in names}
    else:
        moved = {name: getattr(raw, name) - before[name] for name in names}
    for name in names:
        setattr(row, name, getattr(row, name) + moved[name])
        setattr(row, f"raw_{name}", getattr(raw, name))
    row.boot_id = status.boot_id[:64]
    return Counters(**moved)


def _sample(row: TunnelObservation, tunnel: TunnelStatus, now: datetime) -> CounterSample:
    return CounterSample(
        tunnel_id=row.tunnel_id,
        gateway_id=row.gateway_id,
        at=now,
        bytes_in=row.bytes_in,
        bytes_out=row.bytes_out,
        packets_in=row.packets_in,
        packets_out=row.packets_out,
        rejected=sum(asdict(tunnel.rejected).values()),
    )


def _time(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
