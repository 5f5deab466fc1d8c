"""Encryption of IKEv1 messages (RFC 2409 appendix B): CBC whose IV no message carries.

Each message of an exchange starts from the last ciphertext block of the one before; the first from
:func:`agents.ike.v1.keymat.first_iv` or :func:`~agents.ike.v1.keymat.exchange_iv`. A message that comes twice, or is no
message, must not move the chain: so the cipher keeps no IV, and the exchange takes :meth:`Phase1Cipher.next_iv` when
it has accepted what it opened. Nothing here shows whether a message is genuine; its HASH payload does.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, modes

from agents.contract.algorithms import Encryption
from agents.ike.crypto.primitives import block_cipher
from agents.ike.errors import WireError


class Phase1Cipher:
    """Seals and opens what follows the ISAKMP header, with the key of one ISAKMP SA."""

    __slots__ = ("_algorithm", "block_octets")

    def __init__(self, encryption: Encryption, key: bytes) -> None:
        """Take the key of :func:`agents.ike.v1.keymat.encryption_key`.

        Raises ValueError for a cipher without CBC, and when the key's length is not the cipher's.
        """
        if len(key) != encryption.key_octets:
            raise ValueError(f"{encryption.slug} takes {encryption.key_octets} octets of key")
        if encryption.block_octets == 1:
            raise ValueError(f"{encryption.slug} does not protect IKEv1 messages")
        self._algorithm = block_cipher(encryption, key)
        self.block_octets = encryption.block_octets

    def seal(self, iv: bytes, plaintext: bytes) -> bytes:
        """Return the ciphertext of a payload chain, filled up with zeros to whole blocks."""
        padded = plaintext + bytes(-len(plaintext) % self.block_octets)
        return Cipher(self._algorithm, modes.CBC(iv)).encryptor().update(padded)

    def open(self, iv: bytes, ciphertext: bytes) -> bytes:
        """Return the payload chain with its padding, whose length only the chain's payloads tell. Raises WireError."""
        if not ciphertext or len(ciphertext) % self.block_octets:
            raise WireError(
                "ikev1.payload-malformed",
                "the encrypted part is not a number of whole blocks",
                received=f"{len(ciphertext)} octets",
                expected=f"a multiple of {self.block_octets}",
            )
        return Cipher(self._algorithm, modes.CBC(iv)).decryptor().update(ciphertext)

    def next_iv(self, ciphertext: bytes) -> bytes:
        """Return the IV of the exchange's next message, in either direction: the last block of this one."""
        return ciphertext[-self.block_octets :]
