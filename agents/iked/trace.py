"""One debug line per IKE message, in (``<``) and out (``>``): the header's facts, never its contents.

It is logged by the part of ``iked`` that speaks the version (:data:`agents.runtime.log_levels.PARTS`), and recorded in
the trace under ``tunnel-information``. What is done to the data plane is recorded here too.
"""

from __future__ import annotations

import logging

from agents.contract.events import KINDS, Severity
from agents.contract.secret import Secret
from agents.contract.status import Counters
from agents.dataplane.base import (
    Acquired,
    Expired,
    Lost,
    Mapped,
    Notice,
    PolicySpec,
    Rejected,
    Repaired,
    SaId,
    SaSpec,
)
from agents.ike.outputs import Path, Report
from agents.ike.wire.header import HEADER_OCTETS
from agents.ike.wire.isakmp.registry import Flag as FlagV1
from agents.ike.wire.isakmp.registry import PayloadType, exchange_name
from agents.ike.wire.registry import Exchange, Flag
from agents.runtime.log_levels import ROUTER, V1, V2, logger_of
from agents.runtime.logs import bound
from agents.runtime.tracing import TRACE, Category, category_of

_LOGGERS = {1: logger_of(V1), 2: logger_of(V2)}
_OTHER = logger_of(ROUTER)


def message(sign: str, datagram: bytes, path: Path) -> None:
    """Log a datagram when somebody reads debug lines."""
    whole = len(datagram) >= HEADER_OCTETS
    version = datagram[17] >> 4 if whole else 0
    log = _LOGGERS.get(version, _OTHER)
    traced = TRACE.wants(Category.TUNNEL_INFORMATION)
    if not traced and not log.isEnabledFor(logging.DEBUG):
        return
    peer, octets = f"{path.remote_address}:{path.remote_port}", f"{len(datagram)} octets"
    if not whole:
        log.debug("%s %s %s", sign, peer, octets)
        return
    facts = _facts_v1(datagram) if version == 1 else _facts(datagram)
    if traced:
        sa = f"{datagram[:8].hex()}_{datagram[8:16].hex()}"
        TRACE.record(Category.TUNNEL_INFORMATION, f"IKE {sign} {peer} {sa} {facts}, {octets}", path.remote_address)
    bound(log, ike_sa=f"{datagram[:8].hex()}_{datagram[8:16].hex()}").debug("%s %s %s, %s", sign, peer, facts, octets)


def _facts(datagram: bytes) -> str:
    """Return exchange, direction and message ID of IKEv2, or of what has a header like it."""
    exchange = datagram[18]
    name = Exchange(exchange).name if exchange in set(Exchange) else f"exchange {exchange}"
    kind = "response" if datagram[19] & Flag.RESPONSE else "request"
    return f"{name} {kind} {_message_id(datagram)}"


def _facts_v1(datagram: bytes) -> str:
    """Return exchange, message ID and protection of IKEv1, whose messages do not say which way they go."""
    facts = f"{exchange_name(datagram[18])} {_message_id(datagram):#010x}"
    if datagram[16] == PayloadType.FRAGMENT:
        return f"{facts}, fragment"
    return f"{facts}, encrypted" if datagram[19] & FlagV1.ENCRYPTED else facts


def _message_id(datagram: bytes) -> int:
    return int.from_bytes(datagram[20:24], "big")


def installed(spec: SaSpec) -> None:
    """Record an SA put in place: who, and with which algorithms and how long keys, never the keys."""
    TRACE.record(Category.TUNNEL, f"SA {_named(spec)} put in place", spec.source)
    if TRACE.wants(Category.CRYPTO_INFORMATION):
        parts = [_algorithm(spec.encryption, spec.encryption_key), _algorithm(spec.integrity, spec.integrity_key)]
        if spec.ah is not None:
            parts.append(f"AH {_algorithm(spec.ah.integrity, spec.ah.key)}")
        parts += ["ESN"] if spec.extended_sequence_numbers else []
        parts.append(f"replay window {spec.replay_window}")
        suite = ", ".join(part for part in parts if part)
        TRACE.record(Category.CRYPTO_INFORMATION, f"SA {_named(spec)}: {suite}", spec.source)


def removed(sa: SaId) -> None:
    """Record an SA taken out."""
    TRACE.record(Category.TUNNEL, f"SA {_id(sa)} taken out", sa.destination)


def moved(old: SaId, spec: SaSpec) -> None:
    """Record an SA that goes between other addresses now."""
    TRACE.record(Category.TUNNEL, f"SA {old.protocol} {old.spi:08x} moved: {_named(spec)}", spec.source)


def policy(word: str, spec: PolicySpec) -> None:
    """Record a policy put in place or taken out."""
    if TRACE.wants(Category.FILTER_INFORMATION):
        selector = spec.selector
        what = f"{selector.source} > {selector.destination} protocol {selector.protocol}"
        text = f"policy {spec.direction} {what} of reqid {spec.reqid:#x} {word}"
        TRACE.record(Category.FILTER_INFORMATION, text, spec.source)


def failed(what: str) -> None:
    """Record what the data plane refused."""
    TRACE.record(Category.ERROR, what)


def told(report: Report) -> None:
    """Record an event; refused packets of an SA are recorded one by one instead (:func:`refused`)."""
    category = category_of(report.code, KINDS[report.code].severity)
    if not TRACE.wants(category) or (report.code.startswith("esp.") and "spi" in report.attributes):
        return
    values = (("received", report.received), ("configured", report.configured))
    more = ", ".join(f"{name} {value}" for name, value in values if value)
    TRACE.record(category, f"{report.code}: {report.message}" + (f" ({more})" if more else ""))


def passed(spec: SaSpec, before: Counters, now: Counters) -> None:
    """Record what an SA has carried since it was looked at last."""
    if not TRACE.wants(Category.CAPSULATION_INFORMATION):
        return
    way = str(spec.direction)
    packets = getattr(now, f"packets_{way}") - getattr(before, f"packets_{way}")
    octets = getattr(now, f"bytes_{way}") - getattr(before, f"bytes_{way}")
    text = f"SA {_named(spec)}: {packets} packets, {octets} octets more"
    TRACE.record(Category.CAPSULATION_INFORMATION, text, spec.source)


def refused(spec: SaSpec, code: str, count: int) -> None:
    """Record packets that an SA did not let in; every one, where events are few."""
    TRACE.record(category_of(code, Severity.INFO), f"{code}: {count} on SA {_named(spec)}", spec.source)


def noticed(notice: Notice) -> None:
    """Record what the data plane says by itself; refused packets are recorded where they are counted."""
    match notice:
        case Expired():
            limit = "hard" if notice.hard else "soft"
            TRACE.record(Category.TUNNEL, f"SA {_id(notice.id)} is at its {limit} limit", notice.id.destination)
        case Acquired():
            wanted = f"{notice.selector.source} > {notice.selector.destination} protocol {notice.selector.protocol}"
            TRACE.record(Category.FILTER, f"traffic without an SA: {wanted}, reqid {notice.reqid:#x}")
        case Mapped():
            text = f"packets of SA {_id(notice.id)} come from {notice.address}:{notice.port}"
            TRACE.record(Category.CAPSULATION, text, notice.address)
        case Repaired():
            TRACE.record(Category.FILTER, f"put back: {notice.detail}")
        case Lost():
            TRACE.record(Category.ERROR, f"the data plane lost every SA: {notice.reason}")
        case Rejected():
            pass


def _id(sa: SaId) -> str:
    return f"{sa.protocol} {sa.spi:08x} to {sa.destination}"


def _named(spec: SaSpec) -> str:
    return f"{spec.id.protocol} {spec.spi:08x} {spec.direction} {spec.source} > {spec.destination} {spec.mode} mode"


def _algorithm(slug: str | None, key: Secret | None) -> str:
    return "" if slug is None else f"{slug} ({8 * len(key)} bits of key)" if key is not None else slug
