"""Key exchange for the groups of :data:`agents.contract.algorithms.KEY_EXCHANGE`.

Public values are in the form of the KE payload's data: MODP as a number as long as the modulus (RFC 7296 section 3.4),
ECP as x and y (RFC 5903 section 7), Curve25519 as 32 octets (RFC 8031). The private value is derived from the entropy
given, so a seeded run repeats.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from agents.contract.algorithms import KeyExchange
from agents.ike.crypto import ffdh
from agents.ike.crypto.errors import InvalidPublicValue
from agents.ike.outputs import Entropy

__all__ = ["InvalidPublicValue", "KeyPair"]

_MODP_BITS = {14: 2048, 15: 3072, 16: 4096}

_CURVES: dict[int, ec.EllipticCurve] = {19: ec.SECP256R1(), 20: ec.SECP384R1(), 21: ec.SECP521R1()}


class _Private(Protocol):
    public: bytes

    def shared(self, peer_public: bytes) -> bytes: ...


class KeyPair:
    """An ephemeral private value and its public value; used for one exchange."""

    __slots__ = ("_private", "group", "public")

    def __init__(self, group: KeyExchange, private: _Private) -> None:
        self.group = group
        self._private = private
        self.public = private.public

    def __repr__(self) -> str:
        return f"KeyPair({self.group.slug})"

    @classmethod
    def generate(cls, group: KeyExchange, entropy: Entropy) -> KeyPair:
        """Draw a private value. Raises ValueError for a group this module does not carry."""
        if group.number == 31:
            return cls(group, _Curve25519(entropy.octets(32)))
        if group.number in _CURVES:
            curve = _CURVES[group.number]
            # Eight octets more than the order has make the bias of the reduction negligible (FIPS 186-5 A.2.1).
            drawn = int.from_bytes(entropy.octets(group.public_octets // 2 + 8), "big")
            return cls(group, _PrimeCurve(curve, drawn % (curve.group_order - 1) + 1))
        if group.number in _MODP_BITS:
            bits = _MODP_BITS[group.number]
            drawn = int.from_bytes(entropy.octets(ffdh.exponent_octets(bits)), "big")
            # The top bit set keeps the exponent's length fixed and the value far from 0 and 1.
            return cls(group, ffdh.PrivateExponent(bits, drawn | 1 << (8 * ffdh.exponent_octets(bits) - 1)))
        raise ValueError(f"{group.slug} is not a group this module carries")

    def shared(self, peer_public: bytes) -> bytes:
        """Return the shared secret g^ir. Raises InvalidPublicValue (RFC 6989, RFC 8031 section 3)."""
        if len(peer_public) != self.group.public_octets:
            raise InvalidPublicValue(
                f"{self.group.slug} takes a public value of {self.group.public_octets} octets, not {len(peer_public)}"
            )
        return self._private.shared(peer_public)


class _Curve25519:
    __slots__ = ("_key", "public")

    def __init__(self, private: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(private)
        self.public = self._key.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes) -> bytes:
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError:  # the library refuses the all-zero result of a low-order point (RFC 7748 section 6.1)
            raise InvalidPublicValue("the public value is a point of low order") from None


class _PrimeCurve:
    __slots__ = ("_key", "public")

    def __init__(self, curve: ec.EllipticCurve, private: int) -> None:
        self._key = ec.derive_private_key(private, curve)
        numbers = self._key.public_key().public_numbers()
        octets = (curve.key_size + 7) // 8
        self.public = numbers.x.to_bytes(octets, "big") + numbers.y.to_bytes(octets, "big")

    def shared(self, peer_public: bytes) -> bytes:
        try:
            peer = ec.EllipticCurvePublicKey.from_encoded_point(self._key.curve, b"\x04" + peer_public)
        except ValueError:
            raise InvalidPublicValue("the public value is not a point of the curve") from None
        return self._key.exchange(ec.ECDH(), peer)
