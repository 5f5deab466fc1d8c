"""IPComp with DEFLATE (RFC 3173, RFC 2394), stateless: each packet is compressed by itself.

A packet that does not get smaller goes as it is (RFC 3173 section 2.2), one below :data:`LEAST_OCTETS` is not tried,
and after some that did not help the next ones are passed over. What comes out of one packet is never more than an IP
packet can hold, however little went in.
"""

from __future__ import annotations

import struct
import zlib

from agents.dataplane.userspace import drops
from agents.dataplane.userspace.drops import Dropped

HEADER_OCTETS = 4
LEAST_OCTETS = 90
"""RFC 2394 section 3.2: what is smaller than this hardly gets smaller."""
MOST_OCTETS = 65_535
FAILURES_IN_A_ROW = 8
PASSED_OVER = 64
_WINDOW_BITS_OUT = -11
"""The window the Linux kernel decompresses with; a peer's own may be the largest there is."""
_WINDOW_BITS_IN = -15
_header = struct.Struct("!BBH")


class Compressor:
    """One outbound SA's packets under ``cpi``."""

    __slots__ = ("_cpi", "_failures", "_to_pass")

    def __init__(self, cpi: int) -> None:
        self._cpi = cpi
        self._failures = 0
        self._to_pass = 0

    def compress(self, next_header: int, payload: bytes) -> bytes | None:
        """Return IPComp header and compressed payload, None where that is not shorter than the payload."""
        if len(payload) < LEAST_OCTETS:
            return None
        if self._to_pass:
            self._to_pass -= 1
            return None
        deflate = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, _WINDOW_BITS_OUT)
        text = deflate.compress(payload) + deflate.flush()
        if len(text) + HEADER_OCTETS < len(payload):
            self._failures = 0
            return _header.pack(next_header, 0, self._cpi) + text
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            self._failures, self._to_pass = 0, PASSED_OVER
        return None


def decompress(cpi: int, octets: bytes) -> tuple[int, bytes]:
    """Return next header and payload of what follows an IP or ESP header with next header 108.

    Raises :class:`Dropped` (malformed) for another CPI, for what is not one whole stream, and for one of more than
    :data:`MOST_OCTETS`. The flags mean nothing on receipt (RFC 3173 section 3.1).
    """
    if len(octets) < HEADER_OCTETS:
        raise Dropped(drops.MALFORMED, "IPComp header")
    next_header, _flags, theirs = _header.unpack_from(octets)
    if theirs != cpi:
        raise Dropped(drops.MALFORMED, "another CPI")
    inflate = zlib.decompressobj(_WINDOW_BITS_IN)
    try:
        payload = inflate.decompress(octets[HEADER_OCTETS:], MOST_OCTETS + 1)
    except zlib.error:
        raise Dropped(drops.MALFORMED, "not DEFLATE") from None
    if not inflate.eof or len(payload) > MOST_OCTETS:
        raise Dropped(drops.MALFORMED, "not one whole stream of at most 65,535 octets")
    return next_header, payload
