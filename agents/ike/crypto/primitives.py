"""Keyed primitives behind one form each, for IKE and for userspace ESP: AEADs, block ciphers, MACs.

Objects here are made once per key and used for each message. Nonces, padding, truncation and what is covered are the
callers' business: :mod:`agents.ike.crypto.cipher` and :mod:`agents.dataplane.userspace.esp`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Protocol, cast, runtime_checkable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import Camellia
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm, Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.utils import Buffer

from agents.contract.algorithms import Encryption
from agents.ike.crypto import decrepit


class Aead(Protocol):
    """An AEAD with its key; what it gives ends with the ICV."""

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, /) -> bytes:
        """Return ciphertext and ICV."""
        ...

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, /) -> bytes:
        """Return the plaintext; raises :class:`cryptography.exceptions.InvalidTag`."""
        ...


@runtime_checkable
class AeadInto(Protocol):
    """One that can write into memory of the caller's."""

    def encrypt_into(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /) -> int:
        """Write ciphertext and ICV."""
        ...

    def decrypt_into(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer, /) -> int:
        """Write the plaintext; raises :class:`cryptography.exceptions.InvalidTag`."""
        ...


def aead(row: Encryption, key: bytes) -> Aead:
    """Return the AEAD of a row: AES-GCM (GMAC too), AES-CCM or ChaCha20-Poly1305. ``key`` is without salt."""
    if row.slug == "chacha20-poly1305":
        return ChaCha20Poly1305(key)
    if "-ccm-" in row.slug:
        return AESCCM(key, tag_length=row.icv_octets)
    return AESGCM(key) if row.icv_octets == 16 else _ShortGcm(key, row.icv_octets)


class _ShortGcm:
    """AES-GCM with an ICV of 8 or 12 octets (RFC 4106), which the library's AESGCM does not take.

    Opening decrypts with GCM's own counter mode and seals again, which takes half the time of the library's general
    interface; no plaintext leaves before its ICV has been compared.
    """

    __slots__ = ("_cut", "_gcm", "_icv_octets", "_stream")

    def __init__(self, key: bytes, icv_octets: int) -> None:
        self._gcm = AESGCM(key)
        self._icv_octets = icv_octets
        self._cut = icv_octets - 16
        self._stream = Cipher(AES(key), modes.CTR(bytes(16))).decryptor()

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, /) -> bytes:
        return self._gcm.encrypt(nonce, data, associated_data)[: self._cut]

    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, /) -> bytes:
        end = len(data) - self._icv_octets
        if end < 0:
            raise InvalidTag
        # Counter 1 masks the tag, the text begins with 2 (SP 800-38D section 7.1 with a 96-bit IV).
        self._stream.reset_nonce(bytes(nonce) + b"\0\0\0\2")
        plain = self._stream.update(data[:end])
        if not hmac.compare_digest(self.encrypt(nonce, plain, associated_data)[end:], data[end:]):
            raise InvalidTag
        return plain


def block_cipher(row: Encryption, key: bytes) -> BlockCipherAlgorithm:
    """Return the block cipher under a CBC row; raises ValueError for a row that has none."""
    if row.slug.startswith("aes-"):
        return AES(key)
    if row.slug.startswith("camellia-"):  # not broken: the library calls it decrepit because nobody uses it
        return Camellia(key)
    algorithm = decrepit.block_cipher(row.slug, key)
    if algorithm is None:
        raise ValueError(f"{row.slug} is not a block cipher")
    return algorithm


_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
    "md5": decrepit.md5,
}


def keyed_mac(name: str, key: bytes) -> Callable[[Buffer], bytes]:
    """Return the function from octets to their whole MAC.

    ``name`` is the ``hash`` of an integrity or PRF row. AES-XCBC and AES-CMAC take 16 octets of key.
    """
    if name == "aes-xcbc":
        return _AesXcbc(key)
    template = _cmac(key) if name == "aes-cmac" else HMAC(key, _HASHES[name]())

    def mac(data: Buffer) -> bytes:
        context = template.copy()
        context.update(data)
        return context.finalize()

    return mac


class _AesXcbc:
    """AES-XCBC-MAC (RFC 3566 section 4) by way of CMAC.

    Both are CBC-MACs under K1 that mask the last block: CMAC with a value L of its own, XCBC with K2 or K3. A message
    of whole blocks whose last one is masked with K2 xor L (K3 xor L where 1 and zeros fill it up) therefore has the
    CMAC that is its XCBC.
    """

    __slots__ = ("_cmac", "_whole", "_with_padding")

    def __init__(self, key: bytes) -> None:
        k1, k2, k3 = (_encrypt_block(key, bytes((number,)) * 16) for number in (1, 2, 3))
        zero = int.from_bytes(_encrypt_block(k1, bytes(16)), "big")
        mask = (zero << 1 ^ 0x87 * (zero >> 127)) & (1 << 128) - 1  # SP 800-38B section 6.1
        self._cmac = _cmac(k1)
        self._whole = int.from_bytes(k2, "big") ^ mask
        self._with_padding = int.from_bytes(k3, "big") ^ mask

    def __call__(self, data: Buffer) -> bytes:
        octets = len(data)
        end = (octets - 1) // 16 * 16 if octets else 0
        last = bytes(data[end:])
        if len(last) == 16:
            block = int.from_bytes(last, "big") ^ self._whole
        else:
            block = int.from_bytes((last + b"\x80").ljust(16, b"\0"), "big") ^ self._with_padding
        context = self._cmac.copy()
        context.update(data[:end])
        context.update(block.to_bytes(16, "big"))
        return context.finalize()


def _cmac(key: bytes) -> HMAC:
    """Return a CMAC under the type of an HMAC: they do the same, but CMAC is declared to take ``bytes`` only."""
    return cast(HMAC, CMAC(AES(key)))


def _encrypt_block(key: bytes, block: bytes) -> bytes:
    return Cipher(AES(key), modes.CBC(bytes(16))).encryptor().update(block)
