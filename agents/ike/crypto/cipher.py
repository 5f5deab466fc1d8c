"""Protection of the Encrypted payload's contents (RFC 7296 section 3.14, RFC 5282, RFC 5529, RFC 5930, RFC 7634).

One :class:`SkCipher` per direction of an IKE SA. It deals in octets: which header precedes the payload and what is
inside is the codec's business. Initialization vectors are the caller's: random for CBC, never repeated for an AEAD or
for counter mode.
"""

from __future__ import annotations

import hmac
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from agents.contract.algorithms import Encryption, Integrity
from agents.ike.crypto.errors import IntegrityError
from agents.ike.crypto.primitives import aead, block_cipher, keyed_mac

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
        """Take keys as cut from KEYMAT: a key ends with its salt or nonce, an AEAD's ``integrity_key`` is empty.

        Raises ValueError for an algorithm that is not for IKE, and when a key's length is not the algorithm's.
        """
        if not encryption.ike:
            raise ValueError(f"{encryption.slug} does not protect IKE messages")
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
            text: _Text = _Cbc(encryption, encryption_key) if encryption.block_octets > 1 else _Counter(encryption_key)
            self._mode = _EncryptThenMac(encryption, integrity, text, integrity_key)

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
    """AES-GCM, AES-CCM and ChaCha20-Poly1305: nonce is salt and IV (RFC 5282 section 4, RFC 7634 section 2)."""

    __slots__ = ("_aead", "_iv_octets", "_salt", "icv_octets")

    def __init__(self, encryption: Encryption, keymat: bytes) -> None:
        key, self._salt = keymat[: encryption.key_octets], keymat[encryption.key_octets :]
        self._aead = aead(encryption, key)
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


class _Text(Protocol):
    def encrypt(self, iv: bytes, padded: bytes) -> bytes: ...

    def decrypt(self, iv: bytes, ciphertext: bytes) -> bytes: ...


class _EncryptThenMac:
    """A cipher without integrity, then a truncated MAC over header, IV and ciphertext (RFC 7296 section 3.14)."""

    __slots__ = ("_block_octets", "_iv_octets", "_mac", "_text", "icv_octets")

    def __init__(self, encryption: Encryption, integrity: Integrity, text: _Text, integrity_key: bytes) -> None:
        self._text = text
        self._mac = keyed_mac(integrity.hash, integrity_key)
        self._block_octets = encryption.block_octets
        self._iv_octets = encryption.iv_octets
        self.icv_octets = integrity.icv_octets

    def seal(self, aad: bytes, padded: bytes, iv: bytes) -> bytes:
        body = iv + self._text.encrypt(iv, padded)
        return body + self._icv(aad + body)

    def open(self, aad: bytes, body: bytes) -> bytes:
        ciphertext_octets = len(body) - self._iv_octets - self.icv_octets
        if ciphertext_octets <= 0 or ciphertext_octets % self._block_octets:
            raise IntegrityError("the ciphertext is not a number of whole blocks")
        covered, icv = body[: -self.icv_octets], body[-self.icv_octets :]
        if not hmac.compare_digest(self._icv(aad + covered), icv):
            raise IntegrityError("the checksum is wrong")
        return self._text.decrypt(covered[: self._iv_octets], covered[self._iv_octets :])

    def _icv(self, covered: bytes) -> bytes:
        return self._mac(covered)[: self.icv_octets]


class _Cbc:
    """AES, Camellia, DES or 3DES in CBC mode."""

    __slots__ = ("_algorithm",)

    def __init__(self, encryption: Encryption, key: bytes) -> None:
        self._algorithm = block_cipher(encryption, key)

    def encrypt(self, iv: bytes, padded: bytes) -> bytes:
        return Cipher(self._algorithm, modes.CBC(iv)).encryptor().update(padded)

    def decrypt(self, iv: bytes, ciphertext: bytes) -> bytes:
        return Cipher(self._algorithm, modes.CBC(iv)).decryptor().update(ciphertext)


class _Counter:
    """AES in counter mode: the counter block is nonce, IV and a number that begins with 1 (RFC 5930, RFC 3686)."""

    __slots__ = ("_nonce", "_stream")

    def __init__(self, keymat: bytes) -> None:
        key, self._nonce = keymat[:-4], keymat[-4:]
        self._stream = Cipher(AES(key), modes.CTR(bytes(16))).encryptor()

    def encrypt(self, iv: bytes, padded: bytes) -> bytes:
        self._stream.reset_nonce(self._nonce + iv + b"\0\0\0\1")
        return self._stream.update(padded)

    decrypt = encrypt
