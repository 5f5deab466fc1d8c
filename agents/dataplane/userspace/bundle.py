"""What an SA does to packets where it is more than ESP in tunnel mode: transport mode, IPComp, AH, AH around ESP.

On the way out IPComp comes first, then ESP, then AH (RFC 3173 section 2, RFC 4301 section 4.3). Both headers of a
packet have the same sequence number. Packets go one by one here: :mod:`agents.dataplane.userspace.inward` and
``outward`` have the quick way for ESP in tunnel mode and come here for everything else.
"""

from __future__ import annotations

import ipaddress

from agents.contract.config import Mode
from agents.dataplane.base import SaSpec
from agents.dataplane.userspace import drops, ip, ipcomp
from agents.dataplane.userspace.ah import AhTransform
from agents.dataplane.userspace.drops import Dropped
from agents.dataplane.userspace.esp import (
    NEXT_AH,
    NEXT_COMPRESSED,
    NEXT_DUMMY,
    NEXT_ESP,
    NEXT_IPV4,
    NEXT_IPV6,
    Transform,
)
from agents.dataplane.userspace.replay import ReplayWindow

_NEXT_VERSION = {NEXT_IPV4: 4, NEXT_IPV6: 6}
_NOT_BEFORE_ESP = frozenset({0, 43, 44})
"""IPv6 headers that stay in front of ESP (RFC 4303 section 3.1.1): hop-by-hop options, routing, fragment."""


def is_plain(spec: SaSpec) -> bool:
    """Whether an SA is ESP in tunnel mode and no more."""
    return spec.mode is Mode.TUNNEL and spec.ah is None and spec.compression_cpi is None


def check_encapsulation(spec: SaSpec) -> None:
    """Raise ValueError for an SA that cannot go in UDP."""
    if spec.encapsulation is not None and spec.ah is not None:
        raise ValueError("AH covers the outer addresses, so it cannot go in UDP through a NAT")


class Bundle:
    """One direction. Raises ValueError for what cannot be: unknown algorithms, keys of a wrong length, AH in UDP.

    ``window`` is AH's, where it is around ESP, which has the SA's.
    """

    __slots__ = ("_addresses", "_compressor", "_cpi", "_shift", "ah", "esp", "transport", "window")

    def __init__(self, spec: SaSpec, esp: Transform | None) -> None:
        check_encapsulation(spec)
        self.esp = esp
        self.ah: AhTransform | None = None
        if spec.ah is not None:
            spi = spec.ah.spi if spec.encryption is not None else spec.spi
            self.ah = AhTransform(spi, spec.ah.integrity, spec.ah.key, extended=spec.extended_sequence_numbers)
        self.transport = spec.mode is Mode.TRANSPORT
        self.window = ReplayWindow(spec.replay_window)
        self._cpi = spec.compression_cpi
        self._compressor = None if spec.compression_cpi is None else ipcomp.Compressor(spec.compression_cpi)
        self.move(spec)

    def move(self, spec: SaSpec) -> None:
        """Take other outer addresses."""
        self._addresses = ipaddress.ip_address(spec.source).packed, ipaddress.ip_address(spec.destination).packed
        self._shift = 0
        if spec.original is not None:
            was = (ipaddress.ip_address(each).packed for each in (spec.original.source, spec.original.destination))
            self._shift = (ip.checksum(b"".join(self._addresses)) - ip.checksum(b"".join(was))) % 0xFFFF

    def seal(self, number: int, packet: bytes, traffic_class: int, *, dont_fragment: bool) -> bytes:
        """Return the packet under ``number`` as a socket of its protocol takes it; raises :class:`Dropped` (``out.*``).

        With AH over IPv4 that is the outer header too, which the ICV covers.
        """
        next_header, payload = _transport_payload(packet) if self.transport else (_next_header(packet), packet)
        if self._compressor is not None:
            compressed = self._compressor.compress(next_header, payload)
            if compressed is not None:
                next_header, payload = NEXT_COMPRESSED, compressed
        if self.esp is not None:
            (payload,) = self.esp.seal(number, (payload,), next_header)
            next_header = NEXT_ESP
        if self.ah is None:
            return payload
        octets = self.ah.octets(4 if len(self._addresses[0]) == 4 else 6) + len(payload)
        header = ip.header(
            *self._addresses,
            NEXT_AH,
            octets,
            traffic_class=traffic_class,
            identification=number & 0xFFFF or 1,
            dont_fragment=dont_fragment,
        )
        authenticated = self.ah.seal(number, header, next_header, payload)
        return authenticated if header[0] >> 4 == 6 else header + authenticated

    def unwrap(self, next_header: int, payload: bytes, traffic_class: int) -> bytes:
        """Return the inner packet of what was under AH and ESP, empty for a dummy; raises :class:`Dropped`.

        In transport mode the packet gets a header with the SA's addresses and the outer ``traffic_class``, and where a
        NAT has changed those the checksum that covers them is made right (RFC 3948 section 3.1.2).
        """
        if next_header == NEXT_DUMMY:
            return b""
        if next_header == NEXT_COMPRESSED:
            if self._cpi is None:
                raise Dropped(drops.MODE, "IPComp was not agreed on")
            next_header, payload = ipcomp.decompress(self._cpi, payload)
        if self.transport:
            if next_header in _NEXT_VERSION:
                raise Dropped(drops.MODE, "tunnel mode received, transport mode agreed on")
            if self._shift:
                payload = ip.with_checksum_shifted(next_header, payload, self._shift)
            return ip.header(*self._addresses, next_header, len(payload), traffic_class=traffic_class) + payload
        return tunnelled(next_header, payload)


def tunnelled(next_header: int, payload: bytes) -> bytes:
    """Return the inner packet of tunnel mode without what is behind it; raises :class:`Dropped`."""
    version = _NEXT_VERSION.get(next_header)
    if version is None:
        raise Dropped(drops.MODE, "transport mode received, tunnel mode agreed on")
    if not payload or version != payload[0] >> 4:
        raise Dropped(drops.MALFORMED, "next header")
    try:
        return payload[: ip.packet_length(payload)]
    except ip.MalformedPacket:
        raise Dropped(drops.MALFORMED, "inner packet") from None


def _next_header(packet: bytes) -> int:
    return NEXT_IPV6 if packet[0] >> 4 == 6 else NEXT_IPV4


def _transport_payload(packet: bytes) -> tuple[int, bytes]:
    """Return protocol and payload of a whole packet whose header has nothing that would have to stay in front."""
    if packet[0] >> 4 == 6:
        if packet[6] in _NOT_BEFORE_ESP:
            raise Dropped(drops.LOCAL_TRANSPORT, "IPv6 extension headers")
        return packet[6], packet[40:]
    if packet[0] != 0x45 or packet[6] & 0x3F or packet[7]:
        raise Dropped(drops.LOCAL_TRANSPORT, "IPv4 options or a fragment")
    return packet[9], packet[20:]
