"""Finite-field Diffie-Hellman, groups 14 to 16 (RFC 3526), the only user of ``cryptography``'s deprecated ``dh``.

The deprecation warning is silenced here and nowhere else, so that the day the library drops it is seen in one place.
Only groups of 2048 bits and more: the library validates smaller ones anew for every peer value.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator

from cryptography.hazmat.primitives.asymmetric import dh
from cryptography.utils import CryptographyDeprecationWarning

from agents.ike.crypto.errors import InvalidPublicValue

_GENERATOR = 2

# bits: (the constant added to pi's digits in RFC 3526 sections 3 to 5, octets of a private exponent). Exponents have
# at least twice the group's strength (RFC 3526 section 8: 110 to 160, 130 to 210, 150 to 240 bits).
_GROUPS = {2048: (124_476, 32), 3072: (1_690_314, 40), 4096: (240_904, 48)}


@contextlib.contextmanager
def _deprecation_silenced() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        yield


def exponent_octets(bits: int) -> int:
    """Return how much entropy a private exponent of this group takes."""
    return _GROUPS[bits][1]


class PrivateExponent:
    """One private exponent in the group whose modulus has ``bits`` bits."""

    __slots__ = ("_key", "_numbers", "public")

    def __init__(self, bits: int, exponent: int) -> None:
        self._numbers = _parameters(bits)
        with _deprecation_silenced():
            generator = dh.DHPublicNumbers(_GENERATOR, self._numbers)
            # The library wants a public value beside the exponent but derives nothing from it; exchanging with the
            # generator itself yields ours in constant time, which pow() would not.
            self._key = dh.DHPrivateNumbers(exponent, generator).private_key()
            self.public = self._key.exchange(generator.public_key())

    def shared(self, peer_public: bytes) -> bytes:
        """Return g^ir, as long as the modulus.

        Raises InvalidPublicValue outside 1 < y < p - 1 (RFC 6989 section 2.1).
        """
        value = int.from_bytes(peer_public, "big")
        if not 1 < value < self._numbers.p - 1:
            raise InvalidPublicValue("the public value is out of range")
        with _deprecation_silenced():
            return self._key.exchange(dh.DHPublicNumbers(value, self._numbers).public_key())


@functools.cache
def _parameters(bits: int) -> dh.DHParameterNumbers:
    with _deprecation_silenced():
        return dh.DHParameterNumbers(modulus(bits), _GENERATOR)


@functools.cache
def modulus(bits: int) -> int:
    """Return RFC 3526's prime 2^n - 2^(n-64) - 1 + 2^64 * (floor(2^(n-130) * pi) + c)."""
    pi_digits = _pi_scaled(bits - 130)
    return int(2**bits - 2 ** (bits - 64) - 1 + 2**64 * (pi_digits + _GROUPS[bits][0]))


def _pi_scaled(bits: int) -> int:
    """Return floor(2^bits * pi) by Machin's formula, with 64 guard bits."""
    one = 1 << (bits + 64)
    return (4 * (4 * _arctan_of_inverse(5, one) - _arctan_of_inverse(239, one))) >> 64


def _arctan_of_inverse(n: int, one: int) -> int:
    power = one // n
    total = power
    divisor = 1
    while power:
        power //= -n * n
        divisor += 2
        total += power // divisor
        if power == -1:  # floor division of a negative number never reaches zero
            break
    return total
