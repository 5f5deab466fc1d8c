"""ESP packets (RFC 4303): one transform object per SA, which holds the keyed cipher for the SA's whole life.

AES-GCM (RFC 4106), AES-CCM (RFC 4309), ChaCha20-Poly1305 (RFC 7634) and AES-GMAC (RFC 4543); CBC (RFC 2405, 2451, 3602,
4312), AES-CTR (RFC 3686) and NULL (RFC 2410) with a MAC. An IV that may not repeat is the 64-bit sequence number, which
a key never sees twice. With extended sequence numbers (section 2.2.1) the high half is in no packet and in every ICV:
where AEADs have it in the associated data (RFC 4106 section 5), a MAC covers it after the packet's end. Deliberately
not here: replay, selectors, addresses, and which high half a packet has (:mod:`agents.dataplane.userspace.replay`).
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from agents.contract.algorithms import ENCRYPTION, INTEGRITY, Encryption, Integrity
from agents.contract.secret import Secret
from agents.dataplane.userspace import drops
from agents.dataplane.userspace.drops import Dropped
from agents.ike.crypto.primitives import aead, block_cipher, keyed_mac

MAX_SEQUENCE = (1 << 32) - 1
MAX_EXTENDED_SEQUENCE = (1 << 64) - 1
HEADER_OCTETS = 8

NEXT_IPV4 = 4
NEXT_IPV6 = 41
NEXT_ESP = 50
NEXT_AH = 51
NEXT_DUMMY = 59
NEXT_COMPRESSED = 108

_head = struct.Struct("!II").pack
_long_head = struct.Struct("!IQ").pack
_high = struct.Struct("!I").pack
_iv64 = struct.Struct("!Q").pack

_ZEROS = bytes(4)

PADDING = bytes(range(1, 256))


@cache
def _trailers(block: int, next_header: int) -> tuple[bytes, ...]:
    """Padding, pad length and next header by inner length modulo ``block`` (section 2.4: pad octets 1, 2, 3...)."""
    rows = []
    for length in range(block):
        pad = -(length + 2) % block
        rows.append(PADDING[:pad] + bytes((pad, next_header)))
    return tuple(rows)


_BLOCKS = (4, 8, 16)
TRAILERS_4 = {block: _trailers(block, NEXT_IPV4) for block in _BLOCKS}
TRAILERS_6 = {block: _trailers(block, NEXT_IPV6) for block in _BLOCKS}
"""By block length, then by inner length modulo it: what ends a packet of which no octet is more than needed."""


def trailers_of(packet: bytes | bytearray, block: int, next_header: int | None = None) -> tuple[bytes, ...]:
    """What ends packets like this one: those of a whole IP packet, unless ``next_header`` says what it is."""
    if next_header is not None:
        return _trailers(block, next_header)
    return TRAILERS_6[block] if packet[0] >> 4 == 6 else TRAILERS_4[block]


class Transform(Protocol):
    """What an SA does to its packets. ``block`` is the length plaintexts are padded to a multiple of."""

    block: int

    def seal(self, sequence: int, packets: Sequence[bytes], next_header: int | None = None) -> list[bytes]:
        """Return ESP packets for inner IP ``packets`` of one version, numbered from ``sequence``.

        With ``next_header`` they are what that protocol's number says, and not IP packets.
        """
        ...

    def open(self, packet: bytes | memoryview, high: int = 0) -> bytes:
        """Return the plaintext, its trailer included (:func:`strip`); raises :class:`Dropped`.

        ``high`` is the high half of an extended sequence number.
        """
        ...


class AeadTransform:
    """AES-GCM, AES-CCM or ChaCha20-Poly1305. ``key`` ends with the salt; no packet is shorter than ``least`` octets."""

    __slots__ = ("_decrypt", "_encrypt", "block", "cipher", "icv_octets", "least", "salt", "spi")

    extended = False

    def __init__(self, spi: int, slug: str, key: Secret) -> None:
        row, octets = ENCRYPTION[slug], key.reveal()
        self.block = 4
        self.spi = spi
        self.salt = octets[row.key_octets :]
        self.icv_octets = row.icv_octets
        self.least = HEADER_OCTETS + row.iv_octets + 4 + row.icv_octets
        cipher = aead(row, octets[: row.key_octets])
        self.cipher = cipher
        self._encrypt = cipher.encrypt
        self._decrypt = cipher.decrypt

    def seal(self, sequence: int, packets: Sequence[bytes], next_header: int | None = None) -> list[bytes]:
        """See :class:`Transform`. The IV is the sequence number, and its first half is always 0."""
        encrypt, spi, nonce, join = self._encrypt, _high(self.spi), self.salt + _ZEROS, b"".join
        trailers = trailers_of(packets[0], 4, next_header)
        if len(packets) == 1:
            (packet,), number = packets, _high(sequence)
            aad = spi + number
            return [join((aad, _ZEROS, number, encrypt(nonce + number, packet + trailers[len(packet) & 3], aad)))]
        numbers = struct.pack(f"!{len(packets)}I", *range(sequence, sequence + len(packets)))
        sealed = []
        at = 0
        for packet in packets:
            number = numbers[at : at + 4]
            at += 4
            aad = spi + number
            text = encrypt(nonce + number, packet + trailers[len(packet) & 3], aad)
            sealed.append(join((aad, _ZEROS, number, text)))
        return sealed

    def open(self, packet: bytes | memoryview, high: int = 0) -> bytes:
        """See :class:`Transform`."""
        if len(packet) < self.least or len(packet) & 3:
            raise Dropped(drops.MALFORMED, "length")
        try:
            return self._decrypt(self.salt + packet[8:16], packet[16:], packet[:8])
        except InvalidTag:
            raise Dropped(drops.INTEGRITY, "ICV") from None


class ExtendedAeadTransform(AeadTransform):
    """The same with extended sequence numbers: 12 octets of associated data."""

    __slots__ = ()

    extended = True

    def seal(self, sequence: int, packets: Sequence[bytes], next_header: int | None = None) -> list[bytes]:
        """See :class:`Transform`."""
        spi, salt, encrypt = self.spi, self.salt, self._encrypt
        trailers = trailers_of(packets[0], 4, next_header)
        sealed = []
        for number, packet in enumerate(packets, sequence):
            iv = _iv64(number)
            text = encrypt(salt + iv, packet + trailers[len(packet) & 3], _long_head(spi, number))
            sealed.append(_head(spi, number & MAX_SEQUENCE) + iv + text)
        return sealed

    def open(self, packet: bytes | memoryview, high: int = 0) -> bytes:
        """See :class:`Transform`."""
        if len(packet) < self.least or len(packet) & 3:
            raise Dropped(drops.MALFORMED, "length")
        aad = b"".join((packet[:4], _high(high), packet[4:8]))
        try:
            return self._decrypt(self.salt + packet[8:16], packet[16:], aad)
        except InvalidTag:
            raise Dropped(drops.INTEGRITY, "ICV") from None


class GmacTransform:
    """AES-GMAC (RFC 4543): nothing is hidden, and the ICV covers header, IV and payload as associated data."""

    __slots__ = ("_decrypt", "_encrypt", "_extended", "_salt", "_spi", "block")

    def __init__(self, spi: int, slug: str, key: Secret, extended: bool) -> None:
        row, octets = ENCRYPTION[slug], key.reveal()
        self.block = 4
        self._spi = spi
        self._salt = octets[row.key_octets :]
        self._extended = extended
        cipher = aead(row, octets[: row.key_octets])
        self._encrypt = cipher.encrypt
        self._decrypt = cipher.decrypt

    def seal(self, sequence: int, packets: Sequence[bytes], next_header: int | None = None) -> list[bytes]:
        """See :class:`Transform`."""
        trailers = trailers_of(packets[0], 4, next_header)
        sealed = []
        for number, packet in enumerate(packets, sequence):
            iv = _iv64(number)
            head = _head(self._spi, number & MAX_SEQUENCE)
            body = iv + packet + trailers[len(packet) & 3]
            covered = _long_head(self._spi, number) if self._extended else head
            sealed.append(head + body + self._encrypt(self._salt + iv, b"", covered + body))
        return sealed

    def open(self, packet: bytes | memoryview, high: int = 0) -> bytes:
        """See :class:`Transform`."""
        if len(packet) < 36 or len(packet) & 3:
            raise Dropped(drops.MALFORMED, "length")
        octets = bytes(packet)
        covered = octets[:4] + _high(high) + octets[4:-16] if self._extended else octets[:-16]
        try:
            self._decrypt(self._salt + octets[8:16], octets[-16:], covered)
        except InvalidTag:
            raise Dropped(drops.INTEGRITY, "ICV") from None
        return octets[16:-16]


class _Authenticated:
    """What transforms with a MAC have in common: it covers everything before it, and the high half (section 2.8)."""

    __slots__ = ("_extended", "_icv_octets", "_mac", "_spi", "block")

    def __init__(self, spi: int, integrity: Integrity, integrity_key: Secret, extended: bool, block: int) -> None:
        self.block = block
        self._spi = spi
        self._extended = extended
        self._icv_octets = integrity.icv_octets
        self._mac = keyed_mac(integrity.hash, integrity_key.reveal())

    def _finish(self, number: int, body: bytes) -> bytes:
        """Return the packet of everything before the ICV."""
        covered = body + _high(number >> 32) if self._extended else body
        return body + self._mac(covered)[: self._icv_octets]

    def _verify(self, packet: bytes | memoryview, end: int, high: int) -> None:
        covered = packet[:end]
        if self._extended:
            covered = b"".join((covered, _high(high)))
        if not hmac.compare_digest(self._mac(covered)[: self._icv_octets], packet[end:]):
            raise Dropped(drops.INTEGRITY, "ICV")


class CbcTransform(_Authenticated):
    """A block cipher in CBC mode with a MAC over everything before the ICV.

    The cipher contexts live as long as the SA. Sealing feeds one block of fresh entropy before the plaintext, and what
    comes out for it is the packet's IV: as unpredictable as RFC 3602 section 3 asks, and ready chained. Opening feeds
    the IV as the first block and drops the octets it decrypts to.
    """

    __slots__ = ("_decrypt", "_encrypt", "_entropy")

    def __init__(
        self,
        spi: int,
        encryption: str,
        integrity: str,
        key: Secret,
        integrity_key: Secret,
        entropy: Callable[[int], bytes],
        extended: bool = False,
    ) -> None:
        row = ENCRYPTION[encryption]
        super().__init__(spi, INTEGRITY[integrity], integrity_key, extended, row.block_octets)
        cipher = Cipher(block_cipher(row, key.reveal()), modes.CBC(bytes(row.iv_octets)))
        self._encrypt = cipher.encryptor().update
        self._decrypt = cipher.decryptor().update
        self._entropy = entropy

    def seal(self, sequence: int, packets: Sequence[bytes], next_header: int | None = None) -> list[bytes]:
        """See :class:`Transform`."""
        spi, size, encrypt = self._spi, self.block, self._encrypt
        trailers = trailers_of(packets[0], size, next_header)
        fresh = self._entropy(size * len(packets))
        sealed = []
        for index, packet in enumerate(packets):
            block = fresh[size * index : size * index + size]
            number = sequence + index
            body = _head(spi, number & MAX_SEQUENCE) + encrypt(block + packet + trailers[len(packet) % size])
            sealed.append(self._finish(number, body))
        return sealed

    def open(self, packet: bytes | memoryview, high: int = 0) -> bytes:
        """See :class:`Transform`."""
        end, size = len(packet) - self._icv_octets, self.block
        if end < HEADER_OCTETS + 2 * size or (end - HEADER_OCTETS) % size:
            raise Dropped(drops.MALFORMED, "length")
        self._verify(packet, end, high)
        return self._decrypt(packet[HEADER_OCTETS:end])[size:]


class CounterTransform(_Authenticated):
    """AES in counter mode: the counter block is the nonce that ends the key, the IV and a number that begins with 1."""

    __slots__ = ("_nonce", "_stream")

    def __init__(self, spi: int, integrity: str, key: Secret, integrity_key: Secret, extended: bool = False) -> None:
        super().__init__(spi, INTEGRITY[integrity], integrity_key, extended, 4)
        octets = key.reveal()
        self._nonce = octets[-4:]
        self._stream = Cipher(algorithms.AES(octets[:-4]), modes.CTR(bytes(16))).encryptor()

    def seal(self, sequence: int, packets: Sequence[bytes], next_header: int | None = None) -> list[bytes]:
        """See :class:`Transform`."""
        trailers = trailers_of(packets[0], 4, next_header)
        sealed = []
        for number, packet in enumerate(packets, sequence):
            iv = _iv64(number)
            self._stream.reset_nonce(self._nonce + iv + b"\0\0\0\1")
            text = self._stream.update(packet + trailers[len(packet) & 3])
            sealed.append(self._finish(number, _head(self._spi, number & MAX_SEQUENCE) + iv + text))
        return sealed

    def open(self, packet: bytes | memoryview, high: int = 0) -> bytes:
        """See :class:`Transform`."""
        end = len(packet) - self._icv_octets
        if end < HEADER_OCTETS + 12 or end & 3:
            raise Dropped(drops.MALFORMED, "length")
        self._verify(packet, end, high)
        self._stream.reset_nonce(self._nonce + packet[8:16] + b"\0\0\0\1")
        return self._stream.update(packet[16:end])


class NullTransform(_Authenticated):
    """No encryption and no IV: a MAC alone."""

    __slots__ = ()

    def __init__(self, spi: int, integrity: str, integrity_key: Secret, extended: bool = False) -> None:
        super().__init__(spi, INTEGRITY[integrity], integrity_key, extended, 4)

    def seal(self, sequence: int, packets: Sequence[bytes], next_header: int | None = None) -> list[bytes]:
        """See :class:`Transform`."""
        trailers = trailers_of(packets[0], 4, next_header)
        return [
            self._finish(number, _head(self._spi, number & MAX_SEQUENCE) + packet + trailers[len(packet) & 3])
            for number, packet in enumerate(packets, sequence)
        ]

    def open(self, packet: bytes | memoryview, high: int = 0) -> bytes:
        """See :class:`Transform`."""
        end = len(packet) - self._icv_octets
        if end < HEADER_OCTETS + 4 or end & 3:
            raise Dropped(drops.MALFORMED, "length")
        self._verify(packet, end, high)
        return bytes(packet[HEADER_OCTETS:end])


def strip(plain: bytes) -> tuple[int, bytes]:
    """Return next header and payload (TFC padding included), the trailer taken off; raises :class:`Dropped`.

    The padding is inspected as section 2.4 advises.
    """
    pad = plain[-2]
    end = len(plain) - 2 - pad
    if end < 0 or (pad and plain[end:-2] != PADDING[:pad]):
        raise Dropped(drops.MALFORMED, "padding")
    return plain[-1], plain[:end]


def build_transform(
    spi: int,
    encryption: str,
    encryption_key: Secret,
    integrity: str | None,
    integrity_key: Secret | None,
    entropy: Callable[[int], bytes],
    *,
    extended: bool = False,
) -> Transform:
    """Build the SA's transform; raises ValueError for an unknown algorithm or a key of the wrong length."""
    row = ENCRYPTION.get(encryption)
    if row is None or not row.esp:
        raise ValueError(f"unknown cipher {encryption!r}")
    if len(encryption_key) != row.keymat_octets:
        raise ValueError(f"{encryption} takes {row.keymat_octets} octets of key and salt, not {len(encryption_key)}")
    if row.aead:
        if integrity is not None or integrity_key is not None:
            raise ValueError(f"{encryption} takes no integrity algorithm")
        if row.slug.endswith("-gmac"):
            return GmacTransform(spi, encryption, encryption_key, extended)
        return (ExtendedAeadTransform if extended else AeadTransform)(spi, encryption, encryption_key)
    if integrity is None or integrity not in INTEGRITY or integrity_key is None:
        raise ValueError(f"{encryption} needs an integrity algorithm and its key")
    if len(integrity_key) != INTEGRITY[integrity].key_octets:
        raise ValueError(f"{integrity} takes {INTEGRITY[integrity].key_octets} octets of key, not {len(integrity_key)}")
    return _with_mac(spi, row, encryption_key, integrity, integrity_key, entropy, extended)


def _with_mac(
    spi: int,
    row: Encryption,
    key: Secret,
    integrity: str,
    integrity_key: Secret,
    entropy: Callable[[int], bytes],
    extended: bool,
) -> Transform:
    if row.slug == "null":
        return NullTransform(spi, integrity, integrity_key, extended)
    if row.block_octets == 1:
        return CounterTransform(spi, integrity, key, integrity_key, extended)
    return CbcTransform(spi, row.slug, integrity, key, integrity_key, entropy, extended)
