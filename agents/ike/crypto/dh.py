"""Key exchange for the methods of :data:`agents.contract.algorithms.KEY_EXCHANGE`: both roles behind one seam.

The initiator makes a :class:`KeyPair`, sends its ``public`` and gives the answer to ``shared``. The responder calls
:func:`respond`, which fits Diffie-Hellman and KEMs alike: a KEM's responder has no key of its own.

Public values are in the form of the KE payload's data: MODP as a number as long as the modulus (RFC 7296 section 3.4),
ECP and Brainpool as x and y (RFC 5903 section 7, RFC 6954), Curve25519 and Curve448 as they are (RFC 8031), ML-KEM as
FIPS 203 encodes keys and ciphertexts. Private values are derived from the entropy given, so a seeded run repeats; the
one exception is an ML-KEM ciphertext, whose randomness the library draws itself.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
    MLKEM1024PrivateKey,
    MLKEM1024PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x448 import X448PrivateKey, X448PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from agents.contract.algorithms import KeyExchange
from agents.ike.crypto import brainpool224, ffdh
from agents.ike.crypto.errors import InvalidPublicValue
from agents.ike.outputs import Entropy

__all__ = ["InvalidPublicValue", "KeyPair", "respond"]

_WEIGHTS = {
    5: 3.0, 15: 2.5, 16: 4.0, 17: 11.0, 18: 20.0, 22: 1.0, 23: 2.0, 24: 2.0, 27: 4.0, 28: 1.5, 29: 3.0, 30: 5.0,
}  # fmt: skip
_CURVES: dict[int, ec.EllipticCurve] = {
    19: ec.SECP256R1(),
    20: ec.SECP384R1(),
    21: ec.SECP521R1(),
    28: ec.BrainpoolP256R1(),
    29: ec.BrainpoolP384R1(),
    30: ec.BrainpoolP512R1(),
}


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
        """Draw a private value. Raises ValueError for a method this module does not carry."""
        return cls(group, _draw(group, entropy))

    def shared(self, answer: bytes) -> bytes:
        """Return the shared secret of the responder's public value or ciphertext.

        Raises InvalidPublicValue (RFC 6989, RFC 8031 section 3, FIPS 203 section 7.3).
        """
        _check_length(self.group, answer, self.group.response_octets or self.group.public_octets)
        return self._private.shared(answer)


def respond(group: KeyExchange, peer_public: bytes, entropy: Entropy) -> tuple[bytes, bytes]:
    """Take the initiator's public value; return what goes into our KE payload, and the shared secret.

    Raises InvalidPublicValue, before anything is drawn where the length tells, and ValueError for a method this module
    does not carry.
    """
    _check_length(group, peer_public, group.public_octets)
    if group.number in _KEMS:
        return _encapsulate(group.number, peer_public)
    pair = KeyPair.generate(group, entropy)
    return pair.public, pair.shared(peer_public)


def prepare(group: KeyExchange) -> None:
    """Make what the first computation in this group would make, so that no peer waits or pays for it."""
    if group.number == 27:
        brainpool224.prepare()
    elif group.number in ffdh.GROUPS:
        ffdh.prepare(group.number)


def weight(group: KeyExchange) -> float:
    """Return how much a responder's computation costs, in times of group 14's (``make bench``, section strangers)."""
    return _WEIGHTS.get(group.number, 1.0)


def _check_length(group: KeyExchange, value: bytes, octets: int) -> None:
    if len(value) != octets:
        raise InvalidPublicValue(f"{group.slug} takes a public value of {octets} octets, not {len(value)}")


def _draw(group: KeyExchange, entropy: Entropy) -> _Private:
    number = group.number
    if number in ffdh.GROUPS:
        return ffdh.draw(number, entropy)
    if number == 31:
        return _Curve25519(entropy.octets(32))
    if number == 32:
        return _Curve448(entropy.octets(56))
    if number == 27:
        return brainpool224.PrivateScalar(_scalar(entropy, group, brainpool224.ORDER))
    if number in _CURVES:
        curve = _CURVES[number]
        return _PrimeCurve(curve, _scalar(entropy, group, curve.group_order))
    if number in _KEMS:
        return _Kem(number, entropy.octets(64))
    raise ValueError(f"{group.slug} is not a key exchange this module carries")


def _scalar(entropy: Entropy, group: KeyExchange, order: int) -> int:
    # Eight octets more than the order has make the bias of the reduction negligible (FIPS 186-5 A.2.1).
    return int.from_bytes(entropy.octets(group.public_octets // 2 + 8), "big") % (order - 1) + 1


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


class _Curve448:
    __slots__ = ("_key", "public")

    def __init__(self, private: bytes) -> None:
        self._key = X448PrivateKey.from_private_bytes(private)
        self.public = self._key.public_key().public_bytes_raw()

    def shared(self, peer_public: bytes) -> bytes:
        try:
            return self._key.exchange(X448PublicKey.from_public_bytes(peer_public))
        except ValueError:  # as for Curve25519 (RFC 7748 section 6.2)
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


_KEMS: dict[
    int, tuple[type[MLKEM768PrivateKey] | type[MLKEM1024PrivateKey], type[MLKEM768PublicKey] | type[MLKEM1024PublicKey]]
] = {
    36: (MLKEM768PrivateKey, MLKEM768PublicKey),
    37: (MLKEM1024PrivateKey, MLKEM1024PublicKey),
}


class _Kem:
    """ML-KEM's initiator (RFC 9370, FIPS 203): sends the encapsulation key, takes a ciphertext."""

    __slots__ = ("_key", "public")

    def __init__(self, number: int, seed: bytes) -> None:
        self._key = _KEMS[number][0].from_seed_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    def shared(self, ciphertext: bytes) -> bytes:
        # A ciphertext that was not made for this key gives a secret nobody knows (implicit rejection): the next
        # message's checksum fails, which is all there is to see.
        return self._key.decapsulate(ciphertext)


def _encapsulate(number: int, encapsulation_key: bytes) -> tuple[bytes, bytes]:
    try:
        shared, ciphertext = _KEMS[number][1].from_public_bytes(encapsulation_key).encapsulate()
    except ValueError:  # the library checks that every coefficient is reduced (FIPS 203 section 7.2)
        raise InvalidPublicValue("the encapsulation key is not in reduced form") from None
    return ciphertext, shared
