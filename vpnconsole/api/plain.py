"""Rows of the queries as JSON-ready values: times ISO 8601 in UTC, never a secret."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from agents.contract.codec import to_plain
from agents.contract.status import TraceStatus
from vpnconsole.monitor.dataplane import CaptureRow, RefusedRow
from vpnconsole.monitor.models import ActionJob, EventRecord
from vpnconsole.monitor.queries import EndRow, Flow, GatewayRow, PairRow, Point, TunnelDetail, TunnelRow
from vpnconsole.rollout.models import Delivery, Deployment


def tunnel(row: TunnelRow) -> dict[str, Any]:
    """Return a tunnel as lists give it."""
    verdict = row.verdict
    return {
        "id": str(row.id),
        "name": row.name,
        "description": row.description,
        "kind": row.kind,
        "enabled": row.enabled,
        "version": row.version,
        "exchange_mode": row.exchange_mode or None,
        "state": str(row.state),
        "label": verdict.label,
        "since": _time(verdict.since),
        "step": verdict.step or None,
        "reason": to_plain(verdict.reason) if verdict.reason else None,
        "sentence": verdict.sentence or None,
        "note": verdict.note or None,
        "pending": verdict.pending,
        "old": verdict.old,
        "pairs_up": verdict.pairs_up,
        "pairs_total": verdict.pairs_total,
        "ends": [_end(end) for end in row.ends],
        "a_to_b": _flow(row.a_to_b),
        "b_to_a": _flow(row.b_to_a),
        "read_at": _time(row.read_at),
    }


def tunnel_detail(detail: TunnelDetail) -> dict[str, Any]:
    """Return a tunnel with its pairs, the status of both ends, last events and actions."""
    return {
        **tunnel(detail.row),
        "status": {end.side: to_plain(end.status) if end.status else None for end in detail.row.ends},
        "pairs": [_pair(pair) for pair in detail.pairs],
        "events": [event(record) for record in detail.events],
        "actions": [job(record) for record in detail.jobs],
        "refused": [_refused(row, detail) for row in detail.plane.refused],
        "refused_last_hour": detail.plane.refused_lately,
        "routes": {end.gateway_name: to_plain((*end.routes, *end.past_routes)) for end in detail.plane.ends},
        "captures": [_capture(row) for row in detail.plane.captures],
    }


def gateway(row: GatewayRow) -> dict[str, Any]:
    """Return a gateway as lists give it."""
    progress = row.progress
    return {
        "id": str(row.gateway.pk),
        "name": row.gateway.name,
        "kind": row.gateway.kind,
        "profile": row.gateway.profile,
        "packet_filter": row.gateway.packet_filter,
        "contexts": [{"name": each.name, "table": each.table} for each in row.gateway.contexts.all()],
        "description": row.gateway.description,
        "state": row.state,
        "since": _time(row.since),
        "read_at": _time(row.read_at),
        "error": row.error or None,
        "agent_version": row.gateway.agent_version or None,
        "data_plane": to_plain(row.status.data_plane) if row.status else None,
        "components": to_plain(row.status.components) if row.status else [],
        "problems": list(row.problems),
        "generation": {
            "newest": progress.newest_generation,
            "accepted": progress.accepted_generation,
            "applied": progress.applied_generation,
        }
        if progress
        else None,
        "ipsecstat": dict(row.statistics) or None,
        "data_plane_counts": {each.name: each.count for each in row.status.data_plane_counts} if row.status else None,
        "trace": _trace(row.status.trace) if row.status and row.status.trace else None,
        "tunnels_total": row.tunnels_total,
        "tunnels_up": row.tunnels_up,
    }


def event(record: EventRecord) -> dict[str, Any]:
    """Return one event; ``id`` is what ``after`` takes."""
    return {
        "id": record.pk,
        "gateway": {"id": str(record.gateway_id), "name": record.gateway.name},
        "sequence": record.sequence,
        "at": _time(record.at),
        "code": record.code,
        "severity": record.severity,
        "message": record.message,
        "action": record.action or None,
        "tunnel": {"id": str(record.tunnel_id), "name": record.tunnel.name} if record.tunnel else None,
        "received": record.received,
        "configured": record.configured,
        "field": record.field,
        "attributes": record.attributes,
    }


def job(record: ActionJob) -> dict[str, Any]:
    """Return an action and where it is."""
    return {
        "id": str(record.pk),
        "tunnel": str(record.tunnel_id),
        "gateway": {"id": str(record.gateway_id), "name": record.gateway.name},
        "verb": record.verb,
        "state": record.state,
        "message": record.message or None,
        "requested_by": record.requested_by.get_username() if record.requested_by else None,
        "created_at": _time(record.created_at),
        "finished_at": _time(record.finished_at),
    }


def deployment(record: Deployment) -> dict[str, Any]:
    """Return a deployment with its deliveries."""
    deliveries = list(record.deliveries.all())
    return {
        "id": str(record.pk),
        "created_at": _time(record.created_at),
        "created_by": record.created_by.get_username() if record.created_by else None,
        "note": record.note,
        "finished": all(delivery.finished for delivery in deliveries),
        "deliveries": [_delivery(delivery) for delivery in deliveries],
    }


def points(series: tuple[Point, ...]) -> list[dict[str, Any]]:
    """Return traffic over time."""
    return [{"at": _time(point.at), "a_to_b_bps": point.a_to_b_bps, "b_to_a_bps": point.b_to_a_bps} for point in series]


def _refused(row: RefusedRow, detail: TunnelDetail) -> dict[str, Any]:
    names = [end.gateway_name for end in detail.plane.ends]
    return {
        "reason": row.name,
        "meaning": row.why.word,
        "help": row.why.hint,
        "packets": dict(zip(names, row.counts, strict=True)),
    }


def _capture(row: CaptureRow) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "gateway": {"id": str(row.gateway_id), "name": row.gateway_name},
        "view": row.view,
        "state": row.state,
        "packets": row.status.packets if row.status else None,
        "octets": row.status.octets if row.status else None,
        "ended_because": (row.status.ended_because or None) if row.status else None,
        "stop": {"state": row.stop.state, "message": row.stop.message or None} if row.stop else None,
    }


def _trace(trace: TraceStatus) -> dict[str, Any]:
    return {**to_plain(trace), "running": trace.running}


def _delivery(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": str(delivery.pk),
        "gateway": {"id": str(delivery.gateway_id), "name": delivery.gateway.name},
        "generation": delivery.revision.generation if delivery.revision else None,
        "state": delivery.state,
        "step": delivery.step,
        "percent": delivery.percent,
        "attempts": delivery.attempts,
        "finished": delivery.finished,
        "error": delivery.error or None,
        "refused_path": delivery.refused_path or None,
        "refused_message": delivery.refused_message or None,
        "next_attempt_at": _time(delivery.next_attempt_at),
    }


def _end(end: EndRow) -> dict[str, Any]:
    return {
        "side": end.side,
        "gateway": {"id": str(end.gateway_id), "name": end.gateway_name} if end.gateway_id else None,
        "managed": end.managed,
        "address": end.address or None,
        "identity": {"type": end.identity_type, "value": end.identity_value},
        "connection_type": end.connection_type,
        "context": end.context,
        "endpoint_context": end.endpoint_context,
        "reachable": end.reachable if end.managed else None,
        "state": str(end.state) if end.state else None,
        "read_at": _time(end.read_at),
    }


def _pair(pair: PairRow) -> dict[str, Any]:
    return {
        "seq": pair.seq,
        "network_a": pair.network_a,
        "network_b": pair.network_b,
        "protocol": pair.protocol,
        "ports_a": list(pair.ports_a),
        "ports_b": list(pair.ports_b),
        "ipsec_policy": {"id": pair.policy.pk, "name": pair.policy.name, "own": pair.own_policy}
        if pair.policy
        else None,
        "up": pair.up,
        "sas": to_plain(pair.sas),
        "total": to_plain(pair.total) if pair.total else None,
        "seen_from": pair.seen_from or None,
    }


def _flow(flow: Flow) -> dict[str, Any]:
    return {"bytes": flow.bytes, "packets": flow.packets, "rate_bps": flow.rate_bps}


def _time(value: datetime | None) -> str | None:
    return value.isoformat() if value else None
