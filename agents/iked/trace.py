"""One debug line per IKE message, in (``<``) and out (``>``): the header's facts, never its contents.

It is logged by the part of ``iked`` that speaks the version (:data:`agents.runtime.log_levels.PARTS`).
"""

from __future__ import annotations

import logging

from agents.ike.outputs import Path
from agents.ike.wire.header import HEADER_OCTETS
from agents.ike.wire.isakmp.registry import Flag as FlagV1
from agents.ike.wire.isakmp.registry import PayloadType, exchange_name
from agents.ike.wire.registry import Exchange, Flag
from agents.runtime.log_levels import ROUTER, V1, V2, logger_of
from agents.runtime.logs import bound

_LOGGERS = {1: logger_of(V1), 2: logger_of(V2)}
_OTHER = logger_of(ROUTER)


def message(sign: str, datagram: bytes, path: Path) -> None:
    """Log a datagram when somebody reads debug lines."""
    whole = len(datagram) >= HEADER_OCTETS
    version = datagram[17] >> 4 if whole else 0
    log = _LOGGERS.get(version, _OTHER)
    if not log.isEnabledFor(logging.DEBUG):
        return
    peer, octets = f"{path.remote_address}:{path.remote_port}", f"{len(datagram)} octets"
    if not whole:
        log.debug("%s %s %s", sign, peer, octets)
        return
    facts = _facts_v1(datagram) if version == 1 else _facts(datagram)
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
