"""Finite-field Diffie-Hellman: MODP groups 1, 2 (RFC 2409), 5, 14 to 18 (RFC 3526), 22 to 24 (RFC 5114).

The only user of ``cryptography``'s deprecated ``dh``: the warning is silenced here and nowhere else, so that the day
the library drops it is seen in one place. The legacy groups 1, 2 and 5 never go there: what the library does not know
by name it validates anew for every peer value, 25 ms for group 2, which anybody could make a gateway spend. ``pow``
takes 0.5 to 1.6 ms for them, and powers of the generator are put together from a few kept ones in a third of that.
Neither is constant-time, which matters little beside groups of this size and exponents that are used once. The library
takes about 0.25 ms for each half of an exchange in group 14 and 5 ms in group 18; groups 22 to 24 it knows by name too,
and checks their subgroup.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import dh
from cryptography.utils import CryptographyDeprecationWarning

from agents.ike.crypto.errors import InvalidPublicValue
from agents.ike.outputs import Entropy

_COMB_ROWS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ModpGroup:
    """Modulus p, generator g, and the subgroup's order q where p is not a safe prime.

    Exponents have at least twice the group's strength: RFC 3526 section 8 has 90, 110, 130, 150, 170 and 190 bits for
    groups 5, 14, 15, 16, 17 and 18 (lower estimate). They are whole 64-bit words, since the library's time goes by
    those. With q they are as long as q and below it.
    """

    p: int
    g: int = 2
    q: int | None = None
    exponent_octets: int
    native: bool = True

    @property
    def octets(self) -> int:
        """How long a public value is."""
        return (self.p.bit_length() + 7) // 8


class PrivateValue(Protocol):
    """One private exponent."""

    public: bytes

    def shared(self, peer_public: bytes) -> bytes:
        """Return g^ir, as long as the modulus.

        Raises InvalidPublicValue outside 1 < y < p - 1 (RFC 6989 section 2.1) or, where the group has a q, outside its
        subgroup (section 2.2).
        """
        ...


def draw(number: int, entropy: Entropy) -> PrivateValue:
    """Draw a private exponent for the group of this number."""
    group = GROUPS[number]
    drawn = int.from_bytes(entropy.octets(group.exponent_octets), "big")
    if group.q is not None:
        return private_value(number, drawn % (group.q - 2) + 2)
    # The top bit set keeps the exponent's length fixed and the value far from 0 and 1.
    return private_value(number, drawn | 1 << (8 * group.exponent_octets - 1))


def prepare(number: int) -> None:
    """Make the group's table now, where it has one of ours."""
    if not GROUPS[number].native:
        _comb(number)


def private_value(number: int, exponent: int) -> PrivateValue:
    """Return the private value of an exponent."""
    return _LibraryExponent(number, exponent) if GROUPS[number].native else _PlainExponent(number, exponent)


class _PlainExponent:
    __slots__ = ("_exponent", "_group", "public")

    def __init__(self, number: int, exponent: int) -> None:
        self._group = GROUPS[number]
        self._exponent = exponent
        self.public = _generator_power(number, exponent).to_bytes(self._group.octets, "big")

    def shared(self, peer_public: bytes) -> bytes:
        value = _in_range(peer_public, self._group.p)
        return pow(value, self._exponent, self._group.p).to_bytes(self._group.octets, "big")


class _LibraryExponent:
    __slots__ = ("_key", "_numbers", "public")

    def __init__(self, number: int, exponent: int) -> None:
        self._numbers = _parameters(number)
        generator, generator_key = _generator(number)
        with _deprecation_silenced():
            # The library wants a public value beside the exponent but derives nothing from it; exchanging with the
            # generator itself yields ours in constant time, which pow() would not.
            self._key = dh.DHPrivateNumbers(exponent, generator).private_key()
            self.public = self._key.exchange(generator_key)

    def shared(self, peer_public: bytes) -> bytes:
        value = _in_range(peer_public, self._numbers.p)
        with _deprecation_silenced():
            try:
                return self._key.exchange(dh.DHPublicNumbers(value, self._numbers).public_key())
            except ValueError:  # with q the library has checked that y^q = 1
                raise InvalidPublicValue("the public value is outside the group's subgroup") from None


@functools.cache
def _comb(number: int) -> tuple[int, tuple[int, ...]]:
    """Return the columns of a comb, and for each set of its rows the product of their powers of the generator.

    An exponent is cut into six rows of so many bits; row r counts for g^(2^(columns * r)). Making it takes as long as
    one power without it.
    """
    group = GROUPS[number]
    columns = -(-8 * group.exponent_octets // _COMB_ROWS)
    products, power = [1], group.g
    for _ in range(_COMB_ROWS):
        products += [power * each % group.p for each in products]
        for _ in range(columns):
            power = power * power % group.p
    return columns, tuple(products)


def _generator_power(number: int, exponent: int) -> int:
    """Return g^exponent by the comb: one squaring and one product for a bit of each row (Lim and Lee, Crypto '94)."""
    columns, products = _comb(number)
    p = GROUPS[number].p
    if exponent.bit_length() > columns * _COMB_ROWS:
        return pow(GROUPS[number].g, exponent, p)
    result = 1
    for column in range(columns - 1, -1, -1):
        rows = 0
        for row in range(_COMB_ROWS):
            rows |= (exponent >> (row * columns + column) & 1) << row
        result = result * result % p * products[rows] % p
    return result


def _in_range(peer_public: bytes, p: int) -> int:
    value = int.from_bytes(peer_public, "big")
    if not 1 < value < p - 1:
        raise InvalidPublicValue("the public value is out of range")
    return value


@contextlib.contextmanager
def _deprecation_silenced() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        yield


@functools.cache
def _parameters(number: int) -> dh.DHParameterNumbers:
    group = GROUPS[number]
    with _deprecation_silenced():
        return dh.DHParameterNumbers(group.p, group.g, group.q)


@functools.cache
def _generator(number: int) -> tuple[dh.DHPublicNumbers, dh.DHPublicKey]:
    """Return the generator as if it were a peer's public value; making the object takes a tenth of its use."""
    numbers = _parameters(number)
    with _deprecation_silenced():
        generator = dh.DHPublicNumbers(numbers.g, numbers)
        return generator, generator.public_key()


def _safe_prime(bits: int, constant: int) -> int:
    """Return 2^n - 2^(n-64) - 1 + 2^64 * (floor(2^(n-130) * pi) + c), the form of all primes of RFC 2409 and 3526."""
    return int(2**bits - 2 ** (bits - 64) - 1 + 2**64 * (_pi_scaled(bits - 130) + constant))


@functools.cache
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


GROUPS: dict[int, ModpGroup] = {
    1: ModpGroup(p=_safe_prime(768, 149_686), exponent_octets=20, native=False),
    2: ModpGroup(p=_safe_prime(1024, 129_093), exponent_octets=20, native=False),
    5: ModpGroup(p=_safe_prime(1536, 741_804), exponent_octets=24, native=False),
    14: ModpGroup(p=_safe_prime(2048, 124_476), exponent_octets=32),
    15: ModpGroup(p=_safe_prime(3072, 1_690_314), exponent_octets=40),
    16: ModpGroup(p=_safe_prime(4096, 240_904), exponent_octets=40),
    17: ModpGroup(p=_safe_prime(6144, 929_484), exponent_octets=48),
    18: ModpGroup(p=_safe_prime(8192, 4_743_158), exponent_octets=48),
    22: ModpGroup(
        p=int(
            "B10B8F96A080E01DDE92DE5EAE5D54EC52C99FBCFB06A3C69A6A9DCA52D23B616073E28675A23D189838EF1E2EE652C0"
            "13ECB4AEA906112324975C3CD49B83BFACCBDD7D90C4BD7098488E9C219A73724EFFD6FAE5644738FAA31A4FF55BCCC0"
            "A151AF5F0DC8B4BD45BF37DF365C1A65E68CFDA76D4DA708DF1FB2BC2E4A4371",
            16,
        ),
        g=int(
            "A4D1CBD5C3FD34126765A442EFB99905F8104DD258AC507FD6406CFF14266D31266FEA1E5C41564B777E690F5504F213"
            "160217B4B01B886A5E91547F9E2749F4D7FBD7D3B9A92EE1909D0D2263F80A76A6A24C087A091F531DBF0A0169B6A28A"
            "D662A4D18E73AFA32D779D5918D08BC8858F4DCEF97C2A24855E6EEB22B3B2E5",
            16,
        ),
        q=0xF518AA8781A8DF278ABA4E7D64B7CB9D49462353,
        exponent_octets=28,
    ),
    23: ModpGroup(
        p=int(
            "AD107E1E9123A9D0D660FAA79559C51FA20D64E5683B9FD1B54B1597B61D0A75E6FA141DF95A56DBAF9A3C407BA1DF15"
            "EB3D688A309C180E1DE6B85A1274A0A66D3F8152AD6AC2129037C9EDEFDA4DF8D91E8FEF55B7394B7AD5B7D0B6C12207"
            "C9F98D11ED34DBF6C6BA0B2C8BBC27BE6A00E0A0B9C49708B3BF8A317091883681286130BC8985DB1602E714415D9330"
            "278273C7DE31EFDC7310F7121FD5A07415987D9ADC0A486DCDF93ACC44328387315D75E198C641A480CD86A1B9E587E8"
            "BE60E69CC928B2B9C52172E413042E9B23F10B0E16E79763C9B53DCF4BA80A29E3FB73C16B8E75B97EF363E2FFA31F71"
            "CF9DE5384E71B81C0AC4DFFE0C10E64F",
            16,
        ),
        g=int(
            "AC4032EF4F2D9AE39DF30B5C8FFDAC506CDEBE7B89998CAF74866A08CFE4FFE3A6824A4E10B9A6F0DD921F01A70C4AFA"
            "AB739D7700C29F52C57DB17C620A8652BE5E9001A8D66AD7C17669101999024AF4D027275AC1348BB8A762D0521BC98A"
            "E247150422EA1ED409939D54DA7460CDB5F6C6B250717CBEF180EB34118E98D119529A45D6F834566E3025E316A330EF"
            "BB77A86F0C1AB15B051AE3D428C8F8ACB70A8137150B8EEB10E183EDD19963DDD9E263E4770589EF6AA21E7F5F2FF381"
            "B539CCE3409D13CD566AFBB48D6C019181E1BCFE94B30269EDFE72FE9B6AA4BD7B5A0F1C71CFFF4C19C418E1F6EC0179"
            "81BC087F2A7065B384B890D3191F2BFA",
            16,
        ),
        q=0x801C0D34C58D93FE997177101F80535A4738CEBCBF389A99B36371EB,
        exponent_octets=36,
    ),
    24: ModpGroup(
        p=int(
            "87A8E61DB4B6663CFFBBD19C651959998CEEF608660DD0F25D2CEED4435E3B00E00DF8F1D61957D4FAF7DF4561B2AA30"
            "16C3D91134096FAA3BF4296D830E9A7C209E0C6497517ABD5A8A9D306BCF67ED91F9E6725B4758C022E0B1EF4275BF7B"
            "6C5BFC11D45F9088B941F54EB1E59BB8BC39A0BF12307F5C4FDB70C581B23F76B63ACAE1CAA6B7902D52526735488A0E"
            "F13C6D9A51BFA4AB3AD8347796524D8EF6A167B5A41825D967E144E5140564251CCACB83E6B486F6B3CA3F7971506026"
            "C0B857F689962856DED4010ABD0BE621C3A3960A54E710C375F26375D7014103A4B54330C198AF126116D2276E11715F"
            "693877FAD7EF09CADB094AE91E1A1597",
            16,
        ),
        g=int(
            "3FB32C9B73134D0B2E77506660EDBD484CA7B18F21EF205407F4793A1A0BA12510DBC15077BE463FFF4FED4AAC0BB555"
            "BE3A6C1B0C6B47B1BC3773BF7E8C6F62901228F8C28CBB18A55AE31341000A650196F931C77A57F2DDF463E5E9EC144B"
            "777DE62AAAB8A8628AC376D282D6ED3864E67982428EBC831D14348F6F2F9193B5045AF2767164E1DFC967C1FB3F2E55"
            "A4BD1BFFE83B9C80D052B985D182EA0ADB2A3B7313D3FE14C8484B1E052588B9B7D2BBD2DF016199ECD06E1557CD0915"
            "B3353BBB64E0EC377FD028370DF92B52C7891428CDC67EB6184B523D1DB246C32F63078490F00EF8D647D148D4795451"
            "5E2327CFEF98C582664B4C0F6CC41659",
            16,
        ),
        q=0x8CF83642A709A097B447997640129DA299B1A47D1EB3750BA308B0FE64F5FBD3,
        exponent_octets=40,
    ),
}
"""By number. Groups 22 to 24: RFC 5114 sections 2.1 to 2.3; draws are 8 octets longer than q (FIPS 186-5 A.2.1)."""
