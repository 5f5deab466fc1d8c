"""What the primitives refuse.

``CryptoError``
  ``IntegrityError``      a message's checksum is wrong, or what it protects has an impossible shape
  ``InvalidPublicValue``  a peer's public value is not acceptable (RFC 6989)
  ``SignatureError``      a peer's signature, its algorithm or its key is not acceptable

All are the peer's fault or the network's; a wrong argument of ours is a ``ValueError`` as everywhere.
"""

from __future__ import annotations


class CryptoError(Exception):
    """Base of what this package raises."""


class IntegrityError(CryptoError):
    """An encrypted payload failed its integrity check; deliberately says no more than that."""


class InvalidPublicValue(CryptoError):  # noqa: N818 - the name RFC 6989 and the callers use
    """A peer's key exchange value has the wrong length, is out of range or is not on the curve."""


class SignatureError(CryptoError):
    """A signature is wrong, or of a kind or with a key that is not taken; the text says which, in a sentence."""
