"""ESP packets (RFC 4303): one transform object per SA, which holds the keyed cipher for the SA's whole life.

AES-GCM (RFC 4106), ChaCha20-Poly1305 (RFC 7634), and AES-CBC (RFC 3602) with HMAC (RFC 2404, RFC 4868). An AEAD's IV is
the 64-bit sequence number, which a key never sees twice. Deliberately not here: replay, selectors, addresses, ESN (the
sequence number on the wire and in the ICV is 32 bits; callers never let it pass 2^32 - 1).
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Sequence
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hmac import HMAC

from agents.contract.algorithms import ENCRYPTION, INTEGRITY
from agents.contract.secret import Secret
from agents.dataplane.userspace import drops
from agents.dataplane.userspace.drops import Dropped

MAX_SEQUENCE = (1 << 32) - 1
HEADER_OCTETS = 8

NEXT_IPV4 = 4
NEXT_IPV6 = 41
NEXT_DUMMY = 59

_head = struct.Struct("!II").pack
_iv64 = struct.Struct("!Q").pack

PADDING = bytes(range(1, 256))


def _trailers(block: int, next_header: int) -> tuple[bytes, ...]:
    """Padding, pad length and next header by inner length modulo ``block`` (section 2.4: pad octets 1, 2, 3...)."""
    rows = []
    for length in range(block):
        pad = -(length + 2) % block
        rows.append(PADDING[:pad] + bytes((pad, next_header)))
    return tuple(rows)


_TRAILERS = {(block, number): _trailers(block, number) for block in (4, 16) for number in (NEXT_IPV4, NEXT_IPV6)}


TRAILERS_4 = {block: _TRAILERS[block, NEXT_IPV4] for block in (4, 16)}
TRAILERS_6 = {block: _TRAILERS[block, NEXT_IPV6] for block in (4, 16)}
"""By block length, then by inner length modulo it: what ends a packet of which no octet is more than needed."""


class Transform(Protocol):
    """What an SA does to its packets. ``block`` is the length plaintexts are padded to a multiple of."""

    block: int

    def seal(self, sequence: int, packets: Sequence[bytes]) -> list[bytes]:
        """Return ESP packets for inner IP ``packets`` of one version, numbered from ``sequence``."""
        ...

    def open(self, packet: bytes | memoryview) -> bytes:
        """Return the plaintext, its trailer included (:func:`strip`); raises :class:`Dropped`."""
        ...


class AeadTransform:
    """AES-GCM with 16-octet ICV, or ChaCha20-Poly1305. ``key`` ends with the 4-octet salt."""

    __slots__ = ("_decrypt", "_encrypt", "_salt", "_spi", "block")

    def __init__(self, spi: int, slug: str, key: Secret) -> None:
        octets = key.reveal()
        self.block = 4
        self._spi = spi
        self._salt = octets[-4:]
        aead = ChaCha20Poly1305(octets[:-4]) if slug == "chacha20-poly1305" else AESGCM(octets[:-4])
        self._encrypt = aead.encrypt
        self._decrypt = aead.decrypt

    def seal(self, sequence: int, packets: Sequence[bytes]) -> list[bytes]:
        """See :class:`Transform`."""
        spi, salt, encrypt = self._spi, self._salt, self._encrypt
        trailers = TRAILERS_6[4] if packets[0][0] >> 4 == 6 else TRAILERS_4[4]
        sealed = []
        for number, packet in enumerate(packets, sequence):
            aad = _head(spi, number)
            iv = _iv64(number)
            sealed.append(aad + iv + encrypt(salt + iv, packet + trailers[len(packet) & 3], aad))
        return sealed

    def open(self, packet: bytes | memoryview) -> bytes:
        """See :class:`Transform`."""
        if len(packet) < 36 or len(packet) & 3:
            raise Dropped(drops.MALFORMED, "length")
        try:
            return self._decrypt(self._salt + packet[8:16], packet[16:], packet[:8])
        except InvalidTag:
            raise Dropped(drops.INTEGRITY, "ICV") from None


class CbcTransform:
    """AES-CBC with HMAC over everything before the ICV.

    The cipher contexts live as long as the SA. Sealing feeds one block of fresh entropy before the plaintext, and what
    comes out for it is the packet's IV: as unpredictable as RFC 3602 section 3 asks, and ready chained. Opening feeds
    the IV as the first block and drops the octets it decrypts to.
    """

    __slots__ = ("_decrypt", "_encrypt", "_entropy", "_icv_octets", "_mac", "_spi", "block")

    def __init__(
        self, spi: int, integrity: str, key: Secret, integrity_key: Secret, entropy: Callable[[int], bytes]
    ) -> None:
        row = INTEGRITY[integrity]
        cipher = Cipher(algorithms.AES(key.reveal()), modes.CBC(bytes(16)))
        self.block = 16
        self._spi = spi
        self._encrypt = cipher.encryptor().update
        self._decrypt = cipher.decryptor().update
        self._entropy = entropy
        self._icv_octets = row.icv_octets
        self._mac = HMAC(integrity_key.reveal(), _HASHES[row.hash]())

    def seal(self, sequence: int, packets: Sequence[bytes]) -> list[bytes]:
        """See :class:`Transform`."""
        spi, encrypt, icv_octets = self._spi, self._encrypt, self._icv_octets
        trailers = TRAILERS_6[16] if packets[0][0] >> 4 == 6 else TRAILERS_4[16]
        fresh = self._entropy(16 * len(packets))
        sealed = []
        for index, packet in enumerate(packets):
            block = fresh[16 * index : 16 * index + 16]
            body = _head(spi, sequence + index) + encrypt(block + packet + trailers[len(packet) & 15])
            mac = self._mac.copy()
            mac.update(body)
            sealed.append(body + mac.finalize()[:icv_octets])
        return sealed

    def open(self, packet: bytes | memoryview) -> bytes:
        """See :class:`Transform`."""
        end = len(packet) - self._icv_octets
        if end < HEADER_OCTETS + 32 or (end - HEADER_OCTETS) & 15:
            raise Dropped(drops.MALFORMED, "length")
        mac = self._mac.copy()
        mac.update(packet[:end])
        if not hmac.compare_digest(mac.finalize()[: self._icv_octets], packet[end:]):
            raise Dropped(drops.INTEGRITY, "ICV")
        return self._decrypt(packet[HEADER_OCTETS:end])[16:]


def strip(plain: bytes) -> tuple[int, bytes]:
    """Return next header and payload (TFC padding included), the trailer taken off; raises :class:`Dropped`.

    The padding is inspected as section 2.4 advises.
    """
    pad = plain[-2]
    end = len(plain) - 2 - pad
    if end < 0 or (pad and plain[end:-2] != PADDING[:pad]):
        raise Dropped(drops.MALFORMED, "padding")
    return plain[-1], plain[:end]


_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
}


def build_transform(
    spi: int,
    encryption: str,
    encryption_key: Secret,
    integrity: str | None,
    integrity_key: Secret | None,
    entropy: Callable[[int], bytes],
) -> Transform:
    """Build the SA's transform; raises ValueError for an unknown algorithm or a key of the wrong length."""
    row = ENCRYPTION.get(encryption)
    if row is None:
        raise ValueError(f"unknown cipher {encryption!r}")
    if len(encryption_key) != row.keymat_octets:
        raise ValueError(f"{encryption} takes {row.keymat_octets} octets of key and salt, not {len(encryption_key)}")
    if row.aead:
        if integrity is not None or integrity_key is not None:
            raise ValueError(f"{encryption} takes no integrity algorithm")
        return AeadTransform(spi, encryption, encryption_key)
    if integrity is None or integrity not in INTEGRITY or integrity_key is None:
        raise ValueError(f"{encryption} needs an integrity algorithm and its key")
    if len(integrity_key) != INTEGRITY[integrity].key_octets:
        raise ValueError(f"{integrity} takes {INTEGRITY[integrity].key_octets} octets of key, not {len(integrity_key)}")
    return CbcTransform(spi, integrity, encryption_key, integrity_key, entropy)
