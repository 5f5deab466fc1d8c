"""The decrepit shelf: what is broken and kept for peers that know nothing else, off unless a gateway allows legacy.

DES, 3DES and HMAC-MD5; the small MODP groups are in :mod:`agents.ike.crypto.ffdh`. Everything here is a ``legacy`` row
of :mod:`agents.contract.algorithms`, and to drop it is to drop this module and those rows.
"""

from __future__ import annotations

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm
from cryptography.hazmat.primitives.hashes import MD5, HashAlgorithm


def block_cipher(slug: str, key: bytes) -> BlockCipherAlgorithm | None:
    """Return DES (as 3DES with the same key thrice, which undoes itself once) or 3DES; None for anything else."""
    if slug == "des-cbc":
        return TripleDES(key * 3)
    return TripleDES(key) if slug == "3des-cbc" else None


def md5() -> HashAlgorithm:
    """Return MD5, for HMAC only (RFC 2403)."""
    return MD5()  # noqa: S303 - the shelf says what it is
