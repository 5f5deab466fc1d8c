"""Protection of the Encrypted payload's contents (RFC 7296 section 3.14, RFC 5282, RFC 7634).

One :class:`SkCipher` per direction of an IKE SA. It deals in octets: which header precedes the payload and what is
inside is the codec's business. Initialization vectors are the caller's: random for CBC, never repeated for an AEAD.
"""

from __future__ import annotations

import hmac
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from agents.contract.algorithms import Encryption, Integrity
from agents.ike.crypto.errors import IntegrityError

__all__ = ["IntegrityError", "SkCipher"]


class _Mode(Protocol):
    icv_octets: int

    def seal(self, aad: bytes, padded: bytes, iv: bytes) -> bytes: ...

    def open(self, aad: bytes, body: bytes) -> bytes: ...


class SkCipher:
    """Seals and opens the body of an Encrypted payload: IV, ciphertext, ICV."""

    __slots__ = ("_block_octets", "_mode", "iv_octets")

    def __init__(
        self,
        encryption: Encryption,
        integrity: Integrity | None,
        encryption_key: bytes,
        integrity_key: bytes,
    ) -> None:
        """Take keys as cut from KEYMAT; an AEAD's key ends with its salt and ``integrity_key`` is then empty.

        Raises ValueError when a key's length is not the algorithm's.
        """
        if len(encryption_key) != encryption.keymat_octets:
            raise ValueError(f"{encryption.slug} takes {encryption.keymat_octets} octets of key and salt")
        if len(integrity_key) != (0 if integrity is None else integrity.key_octets):
            raise ValueError("the integrity key has not the length of its algorithm")
        self.iv_octets = encryption.iv_octets
        self._block_octets = encryption.block_octets
        self._mode: _Mode
        if encryption.aead:
            self._mode = _Aead(encryption, encryption_key)
        else:
            if integrity is None:
                raise ValueError(f"{encryption.slug} needs an integrity algorithm")
            self._mode = _CbcHmac(encryption, integrity, encryption_key, integrity_key)

    def overhead(self, plaintext_octets: int) -> int:
        """Return how many octets :meth:`seal` adds: IV, padding, the pad length octet and ICV."""
        return self.iv_octets + self._pad_octets(plaintext_octets) + 1 + self._mode.icv_octets

    def seal(self, aad: bytes, plaintext: bytes, iv: bytes) -> bytes:
        """Return IV, ciphertext and ICV of ``plaintext``.

        ``aad`` is everything from the IKE header through the Encrypted payload's generic header with the final lengths
        (RFC 5282 section 5.1); with CBC it goes into the checksum (RFC 7296 section 3.14).
        """
        if len(iv) != self.iv_octets:
            raise ValueError(f"the IV takes {self.iv_octets} octets")
        pad_octets = self._pad_octets(len(plaintext))
        return self._mode.seal(aad, plaintext + bytes(pad_octets) + bytes((pad_octets,)), iv)

    def open(self, aad: bytes, body: bytes) -> bytes:
        """Return the plaintext of IV, ciphertext and ICV without its padding. Raises IntegrityError."""
        padded = self._mode.open(aad, body)
        if not padded or padded[-1] >= len(padded):
            raise IntegrityError("the padding is longer than the message")
        return padded[: -1 - padded[-1]]

    def _pad_octets(self, plaintext_octets: int) -> int:
        return -(plaintext_octets + 1) % self._block_octets


class _Aead:
    """AES-GCM and ChaCha20-Poly1305: nonce is salt and IV (RFC 5282 section 4, RFC 7634 section 2)."""

    __slots__ = ("_aead", "_iv_octets", "_salt", "icv_octets")

    def __init__(self, encryption: Encryption, keymat: bytes) -> None:
        key, self._salt = keymat[: encryption.key_octets], keymat[encryption.key_octets :]
        self._aead: AESGCM | ChaCha20Poly1305
        self._aead = ChaCha20Poly1305(key) if encryption.slug == "chacha20-poly1305" else AESGCM(key)
        self._iv_octets = encryption.iv_octets
        self.icv_octets = encryption.icv_octets

    def seal(self, aad: bytes, padded: bytes, iv: bytes) -> bytes:
        return iv + self._aead.encrypt(self._salt + iv, padded, aad)

    def open(self, aad: bytes, body: bytes) -> bytes:
        if len(body) < self._iv_octets + self.icv_octets:
            raise IntegrityError("the message is shorter than IV and checksum")
        try:
            return self._aead.decrypt(self._salt + body[: self._iv_octets], body[self._iv_octets :], aad)
        except InvalidTag:
            raise IntegrityError("the checksum is wrong") from None


class _CbcHmac:
    """AES-CBC, then a truncated HMAC over header, IV and ciphertext (RFC 7296 section 3.14)."""

    __slots__ = ("_algorithm", "_hash", "_integrity_key", "_iv_octets", "icv_octets")

    def __init__(self, encryption: Encryption, integrity: Integrity, key: bytes, integrity_key: bytes) -> None:
        self._algorithm = AES(key)
        self._integrity_key = integrity_key
        self._hash = integrity.hash
        self._iv_octets = encryption.iv_octets
        self.icv_octets = integrity.icv_octets

    def seal(self, aad: bytes, padded: bytes, iv: bytes) -> bytes:
        body = iv + Cipher(self._algorithm, modes.CBC(iv)).encryptor().update(padded)
        return body + self._icv(aad + body)

    def open(self, aad: bytes, body: bytes) -> bytes:
        ciphertext_octets = len(body) - self._iv_octets - self.icv_octets
        if ciphertext_octets <= 0 or ciphertext_octets % self._iv_octets:
            raise IntegrityError("the ciphertext is not a number of whole blocks")
        covered, icv = body[: -self.icv_octets], body[-self.icv_octets :]
        if not hmac.compare_digest(self._icv(aad + covered), icv):
            raise IntegrityError("the checksum is wrong")
        iv = covered[: self._iv_octets]
        return Cipher(self._algorithm, modes.CBC(iv)).decryptor().update(covered[self._iv_octets :])

    def _icv(self, covered: bytes) -> bytes:
        return hmac.digest(self._integrity_key, covered, self._hash)[: self.icv_octets]
