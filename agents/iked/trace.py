"""One debug line per IKE message, in (``<``) and out (``>``): the header's facts, never its contents."""

from __future__ import annotations

import logging

from agents.ike.outputs import Path
from agents.ike.wire.header import HEADER_OCTETS
from agents.ike.wire.registry import Exchange, Flag
from agents.runtime.logs import bound

_log = logging.getLogger(__name__)


def message(sign: str, datagram: bytes, path: Path) -> None:
    """Log a datagram when somebody reads debug lines."""
    if not _log.isEnabledFor(logging.DEBUG):
        return
    peer = f"{path.remote_address}:{path.remote_port}"
    if len(datagram) < HEADER_OCTETS:
        _log.debug("%s %s %d octets", sign, peer, len(datagram))
        return
    logger = bound(_log, ike_sa=f"{datagram[:8].hex()}_{datagram[8:16].hex()}")
    kind = "response" if datagram[19] & Flag.RESPONSE else "request"
    message_id = int.from_bytes(datagram[20:24], "big")
    logger.debug("%s %s %s %s %d, %d octets", sign, peer, _exchange(datagram[18]), kind, message_id, len(datagram))


def _exchange(number: int) -> str:
    try:
        return Exchange(number).name
    except ValueError:
        return f"exchange {number}"
