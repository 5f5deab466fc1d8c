"""Segmentation and coalescing at the TUN: frames with a virtio-net header <-> IP packets (virtio 1.2 section 5.1.6).

``segment`` cuts the super-packet of up to 64 KiB that the kernel hands over (TSO, USO) into packets for the wire, with
lengths, numbers, flags and checksums as the kernel would have made them. ``coalesce`` puts consecutive TCP segments of
one flow together again, so that system calls and the receiving stack are paid once per run. It joins only what a
receiver cannot tell apart: same headers but for length, IPv4 identification, sequence number and PSH, and only after
the run's TCP checksums have been verified, since the frame tells the kernel that there is none left to check.

Checksums are integers modulo 65535: a big-endian number is congruent to the sum of its 16-bit words.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache

from agents.dataplane.userspace import vector
from agents.dataplane.userspace.ip import MalformedPacket

VNET_OCTETS = 10
PLAIN_FRAME = bytes(VNET_OCTETS)
"""The header of a frame that is one packet with nothing left to do."""

_NEEDS_CSUM = 1
_GSO_NONE, _GSO_TCPV4, _GSO_TCPV6, _GSO_UDP_L4, _GSO_ECN = 0, 1, 4, 5, 0x80
_TCP, _UDP = 6, 17
_FIN, _PSH, _ACK, _CWR = 0x01, 0x08, 0x10, 0x80
_MAX_IP_OCTETS = 65535
_MODULUS = 0xFFFF

_vnet = struct.Struct("=BBHHHH")
_pack_16_into = struct.Struct("!H").pack_into
_pack_two_16_into = struct.Struct("!HH").pack_into
_pack_32_into = struct.Struct("!I").pack_into
_octets_to_int = int.from_bytes

Frame = Sequence[bytes]
"""Pieces of one frame, for one ``writev``."""


def segment(frame: bytes) -> list[bytes]:
    """Return the packets of a frame read from the TUN; raises :class:`MalformedPacket`."""
    flags, kind, _header, size, start, offset = _vnet.unpack_from(frame)
    kind &= ~_GSO_ECN
    packet = frame[VNET_OCTETS:]
    if kind == _GSO_NONE:
        if flags & _NEEDS_CSUM:
            return [_with_checksum(packet, start, offset)]
        return [packet]
    if not size or len(packet) < start + 20 or start < 20:
        raise MalformedPacket("segmentation header")
    if kind in (_GSO_TCPV4, _GSO_TCPV6):
        return _segment_tcp(packet, start, size)
    if kind == _GSO_UDP_L4:
        return _segment_udp(packet, start, size)
    raise MalformedPacket(f"segmentation type {kind}")


def _with_checksum(packet: bytes, start: int, offset: int) -> bytes:
    """Finish a checksum whose field holds the pseudo-header's sum."""
    if len(packet) < start + offset + 2:
        raise MalformedPacket("checksum position")
    changed = bytearray(packet)
    value = -_residue(packet[start:]) % _MODULUS
    _pack_16_into(changed, start + offset, value or (_MODULUS if offset == 6 else 0))
    return bytes(changed)


def _segment_tcp(packet: bytes, start: int, size: int) -> list[bytes]:
    """Cut a packet with TCP at ``start`` into segments of ``size`` octets of payload.

    Sums of payload are taken in two halves, since a number of half the length is quicker to reduce than the whole.
    """
    header = start + (packet[start + 12] >> 4) * 4
    if len(packet) <= header or header < start + 20:
        raise MalformedPacket("nothing to segment")
    head = bytearray(packet[:header])
    lengths = _IpLengths(head, start)
    sequence = _octets_to_int(head[start + 4 : start + 8], "big")
    last_flags, once = head[start + 13] & (_FIN | _PSH), head[start + 13] & _CWR
    head[start + 13] ^= last_flags
    _pack_32_into(head, start + 4, 0)
    _pack_16_into(head, start + 16, 0)
    # TCP's own length is part of the sum, so this is for segments of full size.
    constant = (lengths.addresses + _TCP + _octets_to_int(head[start:], "big") + header - start + size) % _MODULUS
    half, odd = size // 4 * 2, size & 1
    packets: list[bytes] = []
    lengths.set(head, header + size)
    last = header + (len(packet) - header - 1) // size * size
    begin = header
    if last - header >= vector.WORTH * size and not odd:
        run = vector.Run(
            head=bytes(head),
            start=start,
            header=header,
            size=size,
            count=(last - header) // size,
            sequence=sequence,
            constant=constant,
            ip_sum=lengths.base + header + size if lengths.counting else None,
            identification=lengths.identification - 1,
            once=once,
        )
        packets = vector.cut(packet, run)
        sequence = (sequence + last - header) & 0xFFFFFFFF
        head[start + 13] ^= once
        constant -= once
        if lengths.counting:
            lengths.identification = (lengths.identification + run.count - 1) & 0xFFFF
            lengths.set(head, header + size)
        begin = last
    for at in range(begin, last, size):
        first, second = packet[at : at + half], packet[at + half : at + size]
        value = _octets_to_int(first, "big") + _octets_to_int(second, "big")
        if odd:
            value = _octets_to_int(first + second, "big") << 8
        _pack_32_into(head, start + 4, sequence)
        _pack_16_into(head, start + 16, -(constant + sequence + value % _MODULUS) % _MODULUS)
        packets.append(b"".join((head, first, second)))
        sequence = (sequence + size) & 0xFFFFFFFF
        if lengths.counting:
            lengths.set(head, header + size)
        if once:
            # Only the first segment says that the window was reduced (RFC 3168 section 6.1.2).
            head[start + 13] ^= once
            constant -= once
            once = 0
    rest = packet[last:]
    if len(rest) != size:
        lengths.set(head, header + len(rest))
    head[start + 13] |= last_flags
    _pack_32_into(head, start + 4, sequence)
    value = constant + last_flags + sequence + len(rest) - size + _residue(rest)
    _pack_16_into(head, start + 16, -value % _MODULUS)
    packets.append(b"".join((head, rest)))
    return packets


def _segment_udp(packet: bytes, start: int, size: int) -> list[bytes]:
    """Cut a packet with UDP at ``start`` into datagrams of ``size`` octets of data."""
    header = start + 8
    head = bytearray(packet[:header])
    lengths = _IpLengths(head, start)
    _pack_two_16_into(head, start + 4, 0, 0)
    constant = (lengths.addresses + _UDP + _octets_to_int(head[start:], "big")) % _MODULUS
    packets = []
    for at in range(header, len(packet), size):
        chunk = packet[at : at + size]
        transport = 8 + len(chunk)
        lengths.set(head, start + transport)
        # The length counts twice: in the header and in the pseudo-header.
        value = -(constant + 2 * transport + _residue(chunk)) % _MODULUS
        _pack_two_16_into(head, start + 4, transport, value or _MODULUS)
        packets.append(b"".join((head, chunk)))
    return packets


class _IpLengths:
    """What differs between the IP headers of segments: length, IPv4 identification and checksum.

    With DF set (``counting`` is false) the identification has no meaning (RFC 6864 section 4.1) and stays as it is, so
    segments of equal length have equal headers.
    """

    __slots__ = ("_version_4", "addresses", "base", "counting", "identification")

    def __init__(self, head: bytearray, start: int) -> None:
        self._version_4 = head[0] >> 4 == 4
        if self._version_4:
            self.identification = head[4] << 8 | head[5]
            self.counting = not head[6] & 0x40
            _pack_two_16_into(head, 2, 0, 0)
            _pack_16_into(head, 10, 0)
            self.base = _octets_to_int(head[:start], "big") % _MODULUS
            self.addresses = _octets_to_int(head[12:20], "big")
        else:
            self.identification = self.base = 0
            self.counting = False
            self.addresses = _octets_to_int(head[8:40], "big")

    def set(self, head: bytearray, length: int) -> None:
        """Write the IP header of the next packet of ``length`` octets."""
        if not self._version_4:
            _pack_16_into(head, 4, length - 40)
            return
        _pack_two_16_into(head, 2, length, self.identification)
        _pack_16_into(head, 10, -(self.base + length + self.identification) % _MODULUS)
        if self.counting:
            self.identification = (self.identification + 1) & 0xFFFF


def _residue(octets: bytes) -> int:
    """Return the sum of 16-bit words modulo 65535; a last odd octet is the high half of a word."""
    value = _octets_to_int(octets, "big")
    return (value << 8 if len(octets) & 1 else value) % _MODULUS


def coalesce(packets: Sequence[bytes]) -> list[Frame]:
    """Return frames to write to the TUN, in order, runs of TCP segments joined."""
    frames: list[Frame] = []
    begin = 0
    while begin < len(packets):
        start = _joinable(packets[begin])
        if start:
            end = _run_end(packets, begin, start)
            if end > begin + 1:
                frames.extend(_join(packets[begin:end], start))
                begin = end
                continue
        frames.append((PLAIN_FRAME, packets[begin]))
        begin += 1
    return frames


def _joinable(packet: bytes) -> int:
    """Return where the TCP header starts when the packet may begin a run, else 0.

    That is: no IP options or extension headers, not a fragment and (IPv4) never to be one, so that its identification
    means nothing (RFC 6864); no TCP flag but ACK; payload.
    """
    if packet[0] == 0x45:
        start = 20
        if packet[9] != _TCP or len(packet) < 40 or packet[6] != 0x40 or packet[7]:
            return 0
    else:
        start = 40
        if packet[0] >> 4 != 6 or packet[6] != _TCP or len(packet) < 60:
            return 0
    header = (packet[start + 12] >> 4) * 4
    plain = header >= 20 and len(packet) > start + header and packet[start + 13] == _ACK
    return start if plain else 0


def _run_end(packets: Sequence[bytes], begin: int, start: int) -> int:
    """Return where the run that begins with the packet at ``begin`` ends; ``start`` is where TCP begins in it.

    Headers are compared as integers: ``expected`` is that of the segment that would come next. Where the sequence
    number wraps, its carry makes the ports differ and the run ends. Only the last may be shorter or pushed.
    """
    first = packets[begin]
    header = start + (first[start + 12] >> 4) * 4
    full = len(first)
    size = full - header
    mask, but_push = _header_masks(start, header)
    step = size << (header - start - 8) * 8
    expected = _octets_to_int(first[:header], "big") + step
    end = begin + 1
    for packet in packets[end : begin + (_MAX_IP_OCTETS - header) // size]:
        difference = (_octets_to_int(packet[:header], "big") ^ expected) & mask
        if difference or len(packet) != full:
            if not difference & but_push and header < len(packet) <= full:
                end += 1
            break
        end += 1
        expected += step
    return end


def _join(run: Sequence[bytes], start: int) -> list[Frame]:
    """Return a run as one frame, or packet by packet when a checksum is wrong."""
    first, last = run[0], run[-1]
    header = start + (first[start + 12] >> 4) * 4
    octets = len(first) * (len(run) - 1) + len(last) - header * (len(run) - 1)
    addresses = _octets_to_int(first[12:20] if start == 20 else first[8:40], "big")
    if not _checksums_hold(run, start, addresses):
        return [(PLAIN_FRAME, packet) for packet in run]
    head = bytearray(first[:header])
    head[start + 13] |= last[start + 13] & _PSH
    if start == 20:
        kind = _GSO_TCPV4
        _pack_16_into(head, 2, octets)
        _pack_16_into(head, 10, 0)
        _pack_16_into(head, 10, -_octets_to_int(head[:20], "big") % _MODULUS)
    else:
        kind = _GSO_TCPV6
        _pack_16_into(head, 4, octets - 40)
    _pack_16_into(head, start + 16, (addresses + _TCP + octets - start) % _MODULUS)
    vnet = _vnet.pack(_NEEDS_CSUM, kind, header, len(first) - header, start, 16)
    return [[vnet + head, *[packet[header:] for packet in run]]]


def _checksums_hold(run: Sequence[bytes], start: int, addresses: int) -> bool:
    """Whether the checksums of all segments are right, by their sum.

    An IPv4 header adds nothing when its own checksum is right; an IPv6 header is taken off again.
    """
    count, full, last = len(run), len(run[0]), len(run[-1])
    if count >= vector.WORTH and not full & 1:
        total = vector.total(run)
    else:
        total = sum(map(_octets_to_int, run[:-1]))
        if full & 1:
            total <<= 8
        value = _octets_to_int(run[-1], "big")
        total += value << 8 if last & 1 else value
    constant = addresses + _TCP
    if start == 20:
        lengths = full * (count - 1) + last - count * start
    else:
        # The length in the IPv6 header and that in the pseudo-header are the same, so they cancel out.
        constant -= _octets_to_int(run[0][:4] + run[0][6:40], "big")
        lengths = 0
    return (total + constant * count + lengths) % _MODULUS == 0


@cache
def _header_masks(start: int, header: int) -> tuple[int, int]:
    """Bits of IP and TCP header that must be equal: all but lengths, identification and checksums; the same but PSH."""
    mask = bytearray(b"\xff" * header)
    if start == 20:
        mask[2:6] = bytes(4)
        mask[10:12] = bytes(2)
    else:
        mask[4:6] = bytes(2)
    mask[start + 16 : start + 18] = bytes(2)
    every = _octets_to_int(mask, "big")
    mask[start + 13] ^= _PSH
    return every, _octets_to_int(mask, "big")
