"""Segmentation and coalescing at the TUN: frames with a virtio-net header <-> IP packets (virtio 1.2 section 5.1.6).

``segment`` and :class:`SuperPacket` cut the super-packet of up to 64 KiB that the kernel hands over (TSO, USO) into
packets for the wire, with lengths, numbers, flags and checksums as the kernel would have made them. ``coalesce`` and
``join`` put consecutive TCP segments of one flow together again, so that system calls and the receiving stack are paid
once per run. They join only what a receiver cannot tell apart: same headers but for length, IPv4 identification,
sequence number and PSH, and only after the run's TCP checksums have been verified, since the frame tells the kernel
that there is none left to check.

Checksums are integers modulo 65535: a big-endian number is congruent to the sum of its 16-bit words.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from agents.dataplane.userspace import ip, vector
from agents.dataplane.userspace.ip import MalformedPacket
from agents.dataplane.userspace.rows import Octets, Run

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

Frame = Sequence[bytes | memoryview]
"""Pieces of one frame, for one ``writev``."""


def segment(frame: bytes | memoryview) -> list[bytes]:
    """Return the packets of a frame read from the TUN; raises :class:`MalformedPacket`."""
    packets = read(frame)
    return packets.segments() if isinstance(packets, SuperPacket) else packets


def read(frame: bytes | memoryview) -> SuperPacket | list[bytes]:
    """Return the packets of a frame read from the TUN, TCP still in one piece; raises :class:`MalformedPacket`."""
    flags, kind, _header, size, start, offset = _vnet.unpack_from(frame)
    kind &= ~_GSO_ECN
    if kind == _GSO_NONE:
        packet = bytes(frame[VNET_OCTETS:])
        return [_with_checksum(packet, start, offset)] if flags & _NEEDS_CSUM else [packet]
    if not size or len(frame) < VNET_OCTETS + start + 20 or start < 20:
        raise MalformedPacket("segmentation header")
    if kind in (_GSO_TCPV4, _GSO_TCPV6):
        return SuperPacket(frame[VNET_OCTETS:], start, size)
    if kind == _GSO_UDP_L4:
        return _segment_udp(bytes(frame[VNET_OCTETS:]), start, size)
    raise MalformedPacket(f"segmentation type {kind}")


def _with_checksum(packet: bytes, start: int, offset: int) -> bytes:
    """Finish a checksum whose field holds the pseudo-header's sum."""
    if len(packet) < start + offset + 2:
        raise MalformedPacket("checksum position")
    changed = bytearray(packet)
    value = -_residue(packet[start:]) % _MODULUS
    _pack_16_into(changed, start + offset, value or (_MODULUS if offset == 6 else 0))
    return bytes(changed)


class SuperPacket:
    """A packet with TCP at ``start`` that is to go as segments of ``size`` octets of payload, the last maybe shorter.

    ``head`` is the first one's header, but for what depends on its payload, ``full`` how many have the whole size and
    ``rest`` the payload of the last where it is shorter. Raises :class:`MalformedPacket`.
    """

    __slots__ = ("_constant", "_flags", "_lengths", "_packet", "_start", "full", "head", "rest", "sequence", "size")

    def __init__(self, packet: bytes | memoryview, start: int, size: int) -> None:
        header = start + (packet[start + 12] >> 4) * 4
        if len(packet) <= header or header < start + 20:
            raise MalformedPacket("nothing to segment")
        self._packet, self._start, self.size = packet, start, size
        self.full, self.rest = divmod(len(packet) - header, size)
        self.head = head = bytearray(packet[:header])
        self._lengths = lengths = _IpLengths(head, start)
        self.sequence = _octets_to_int(head[start + 4 : start + 8], "big")
        self._flags = head[start + 13]
        head[start + 13] &= ~(_FIN | _PSH)
        _pack_32_into(head, start + 4, 0)
        _pack_16_into(head, start + 16, 0)
        # TCP's own length is part of the sum, so this is for segments of full size.
        self._constant = (
            lengths.addresses + _TCP + _octets_to_int(head[start:], "big") + header - start + size
        ) % _MODULUS
        lengths.set(head, header + size, 0)

    @property
    def count(self) -> int:
        """How many segments there are."""
        return self.full + bool(self.rest)

    @property
    def octets(self) -> int:
        """The octets of all segments together."""
        return len(self._packet) + len(self.head) * (self.count - 1)

    @property
    def longest(self) -> int:
        """The octets of a full segment, headers included."""
        return len(self.head) + self.size

    def goes_on_with(self, other: SuperPacket) -> bool:
        """Whether the other's segments may go as one with ours: flow, DSCP and ECN, DF and lengths are the same."""
        if self.rest or self.size != other.size or not self.is_even or not other.is_even:
            return False
        ours, theirs = bytes(self.head), bytes(other.head)
        alike = len(ours) == len(theirs) and ours[:2] == theirs[:2] and ours[6] == theirs[6]
        return alike and ip.flow_key(ours) == ip.flow_key(theirs)

    @property
    def is_even(self) -> bool:
        """Whether all segments of full size can be cut at once, and are worth it."""
        return self.full >= vector.WORTH and not self.size & 1

    def segments(self) -> list[bytes]:
        """Return the segments as packets of their own."""
        if self.is_even:
            packets = vector.cut(self.cut())
            return [*packets, self.last()] if self.rest else packets
        packets = [self._one(number, self.size) for number in range(self.full)]
        return [*packets, self.last()] if self.rest else packets

    def last(self) -> bytes:
        """Return the last segment, which is shorter than the others."""
        return self._one(self.full, self.rest)

    def cut(self) -> vector.Cut:
        """Return how the segments of full size are cut, where they :attr:`is_even`."""
        lengths = self._lengths
        return vector.Cut(
            packet=self._packet,
            head=bytes(self.head),
            start=self._start,
            header=len(self.head),
            size=self.size,
            count=self.full,
            sequence=self.sequence,
            constant=self._constant,
            ip_sum=lengths.base + self.longest if lengths.counting else None,
            identification=lengths.identification,
            once=self._flags & _CWR,
            at_last=0 if self.rest else self._flags & (_FIN | _PSH),
        )

    def _one(self, number: int, octets: int) -> bytes:
        """Return one segment; sums of payload are taken in two halves, which are quicker to reduce than the whole."""
        start, head = self._start, self.head[:]
        at = len(head) + number * self.size
        half = octets // 4 * 2
        first, second = bytes(self._packet[at : at + half]), bytes(self._packet[at + half : at + octets])
        value = _residue(first) + _residue(second)
        self._lengths.set(head, len(head) + octets, number)
        if number:
            # Only the first segment says that the window was reduced (RFC 3168 section 6.1.2).
            head[start + 13] &= ~_CWR
            value -= self._flags & _CWR
        if number == self.count - 1:
            head[start + 13] |= self._flags & (_FIN | _PSH)
            value += self._flags & (_FIN | _PSH)
        sequence = (self.sequence + number * self.size) & 0xFFFFFFFF
        _pack_32_into(head, start + 4, sequence)
        _pack_16_into(head, start + 16, -(self._constant + value + sequence + octets - self.size) % _MODULUS)
        return b"".join((head, first, second))


class Alike:
    """Super-packets in a row whose segments of full size are cut at once: of one kind, only the last with a rest."""

    __slots__ = ("count", "full", "head", "longest", "octets", "packets")

    def __init__(self, packets: Sequence[SuperPacket]) -> None:
        self.packets = packets
        self.head = bytes(packets[0].head)
        self.longest = packets[0].longest
        self.full = sum(packet.full for packet in packets)
        self.count = sum(packet.count for packet in packets)
        self.octets = sum(packet.octets for packet in packets)

    def fill(self, table: Octets) -> None:
        """Write the segments of full size into the rows of a table."""
        vector.fill(table, [packet.cut() for packet in self.packets])

    def last(self) -> bytes | None:
        """Return the last segment where it is shorter than the others."""
        return self.packets[-1].last() if self.packets[-1].rest else None


def _segment_udp(packet: bytes, start: int, size: int) -> list[bytes]:
    """Cut a packet with UDP at ``start`` into datagrams of ``size`` octets of data."""
    header = start + 8
    head = bytearray(packet[:header])
    lengths = _IpLengths(head, start)
    _pack_two_16_into(head, start + 4, 0, 0)
    constant = (lengths.addresses + _UDP + _octets_to_int(head[start:], "big")) % _MODULUS
    packets = []
    for number, at in enumerate(range(header, len(packet), size)):
        chunk = packet[at : at + size]
        transport = 8 + len(chunk)
        lengths.set(head, start + transport, number)
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

    def set(self, head: bytearray, length: int, number: int) -> None:
        """Write the IP header of a packet of ``length`` octets, the ``number``-th from zero."""
        if not self._version_4:
            _pack_16_into(head, 4, length - 40)
            return
        identification = (self.identification + number) & 0xFFFF if self.counting else self.identification
        _pack_two_16_into(head, 2, length, identification)
        _pack_16_into(head, 10, -(self.base + length + identification) % _MODULUS)


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
    """Return where the TCP header starts when the packet may begin a run, else 0: no TCP flag but ACK, and payload."""
    start = _tcp_at(packet)
    header = (packet[start + 12] >> 4) * 4 if start else 0
    plain = header >= 20 and len(packet) > start + header and packet[start + 13] == _ACK
    return start if plain else 0


def _tcp_at(packet: bytes) -> int:
    """Return where the TCP header starts, 0 where the packet cannot be one of a run.

    It can without IP options or extension headers, not being a fragment and (IPv4) never to be one, so that its
    identification means nothing (RFC 6864).
    """
    if packet[0] == 0x45:
        usual = packet[9] == _TCP and len(packet) >= 40 and packet[6] == 0x40 and not packet[7]
        return 20 if usual else 0
    return 40 if packet[0] >> 4 == 6 and packet[6] == _TCP and len(packet) >= 60 else 0


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
    addresses = _addresses(first, start)
    if not _checksums_hold(run, start, addresses):
        return [(PLAIN_FRAME, packet) for packet in run]
    head = _super_head(first[:header], start, len(first) - header, octets, last[start + 13] & _PSH)
    return [[head, *[packet[header:] for packet in run]]]


def join(run: Run, octets: int) -> list[Frame] | None:
    """Return TCP segments of ``octets`` each as frames in the run's memory, None where they are to go one by one.

    They go together as far as they follow each other; those of one flow, with right checksums.
    """
    table, first = run.table(), run.first()
    start = _tcp_at(first)
    header = start + (first[start + 12] >> 4) * 4 if start else 0
    if not start or not start + 20 <= header < octets or octets & 1:
        return None
    if not _checksums_are_right(table, first, start, octets):
        return None
    flags = table[:, start + 13]
    if ((flags & ~np.uint8(_PSH)) != _ACK).any():
        return None
    follows = vector.alike(table[:, :header], _varying(start, header))
    follows &= vector.rise(table[:, start + 4 : start + 8], octets - header)
    follows &= (flags[:-1] & _PSH) == 0
    size = octets - header
    whole, payloads, frames = run.pieces(0, octets), run.pieces(header, octets), list[Frame]()
    for begin, end in _parts(follows, (_MAX_IP_OCTETS - header) // size):
        head = bytes(whole[begin][:header])
        if _flow(head, start) != _flow(first, start):
            return None
        if end == begin + 1:
            frames.append((PLAIN_FRAME, whole[begin]))
        else:
            push = int(flags[end - 1]) & _PSH
            frames.append([_super_head(head, start, size, header + (end - begin) * size, push), *payloads[begin:end]])
    return frames


def _parts(follows: npt.NDArray[np.bool_], most: int) -> Iterator[tuple[int, int]]:
    """Return where the rows begin and end that go together, ``most`` at once."""
    ends = [*(np.flatnonzero(~follows) + 1).tolist(), len(follows) + 1]
    begin = 0
    for end in ends:
        for at in range(begin, end, most):
            yield at, min(at + most, end)
        begin = end


def _checksums_are_right(table: Octets, first: bytes, start: int, octets: int) -> bool:
    """Whether the checksums of IP and TCP of all rows are right, if addresses and lengths are the first one's."""
    if start == 20 and not vector.are(vector.sums_of(table[:, :20]), 0):
        return False
    sums = vector.sums_of(table[:, start:octets])
    return vector.are(sums, -(_addresses(first, start) + _TCP + octets - start))


def _flow(head: bytes, start: int) -> bytes:
    """Return what segments of one flow and one length have in common."""
    offset = head[start + 12 : start + 13]
    if start == 20:
        return head[:1] + head[2:4] + head[6:8] + head[9:10] + head[12:24] + offset
    return head[:1] + head[4:7] + head[8:44] + offset


def _super_head(first: bytes, start: int, size: int, octets: int, push: int) -> bytes:
    """Return what comes before the payload of a frame of ``octets`` from its IP header on, made of the first header."""
    head = bytearray(first)
    head[start + 13] |= push
    if start == 20:
        kind = _GSO_TCPV4
        _pack_16_into(head, 2, octets)
        _pack_16_into(head, 10, 0)
        _pack_16_into(head, 10, -_octets_to_int(head[:20], "big") % _MODULUS)
    else:
        kind = _GSO_TCPV6
        _pack_16_into(head, 4, octets - 40)
    _pack_16_into(head, start + 16, (_addresses(first, start) + _TCP + octets - start) % _MODULUS)
    return _vnet.pack(_NEEDS_CSUM, kind, len(first), size, start, 16) + head


def _addresses(packet: bytes, start: int) -> int:
    return _octets_to_int(packet[12:20] if start == 20 else packet[8:40], "big")


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
    lengths = full * (count - 1) + last - count * start if start == 20 else 0
    return _sums_hold(total, run[0], start, addresses, count, lengths)


def _sums_hold(total: int, first: bytes, start: int, addresses: int, count: int, lengths: int) -> bool:
    """Whether ``total``, the sum of ``count`` packets, is that of right checksums.

    The length in an IPv6 header and that in the pseudo-header are the same, so they cancel out; in ``lengths`` are
    those of IPv4's pseudo-headers.
    """
    constant = addresses + _TCP
    if start == 40:
        constant -= _octets_to_int(first[:4] + first[6:40], "big")
    return (total + constant * count + lengths) % _MODULUS == 0


@cache
def _varying(start: int, header: int) -> Octets:
    """Bits of IP and TCP header that are the same in segments of one length: but identification, checksums, number,
    PSH."""
    mask = np.frombuffer(_header_masks(start, header)[1].to_bytes(header, "big"), np.uint8).copy()
    mask[2:4] = 0xFF
    mask[4:6] = 0 if start == 20 else 0xFF
    mask[start + 4 : start + 8] = 0
    return mask


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
