"""The algorithms both sides know, as tables: slug, IANA number, sizes.

Numbers: IANA "Internet Key Exchange Version 2 (IKEv2) Parameters", transform types 1 to 5; sizes from RFC 3602, 4106,
4868, 5282, 5903, 7634, 8031. ``weakness`` is one sentence for people, empty where there is nothing to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """An ENCR transform. ``key_octets`` excludes the salt; ``icv_octets`` is 0 unless the cipher is an AEAD."""

    slug: str
    label: str
    number: int
    key_octets: int
    key_length_attribute: bool
    salt_octets: int = 0
    iv_octets: int
    block_octets: int
    icv_octets: int = 0
    weakness: str = ""

    @property
    def aead(self) -> bool:
        """Whether the cipher protects integrity itself, so no INTEG transform goes with it."""
        return self.icv_octets > 0

    @property
    def keymat_octets(self) -> int:
        """Octets taken from KEYMAT: key and salt (RFC 4106 section 8.1)."""
        return self.key_octets + self.salt_octets


@dataclass(frozen=True, slots=True, kw_only=True)
class Integrity:
    """An INTEG transform; ``hash`` is a hashlib name."""

    slug: str
    label: str
    number: int
    hash: str
    key_octets: int
    icv_octets: int
    weakness: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoRandom:
    """A PRF transform; the preferred key length equals the output length for HMAC."""

    slug: str
    label: str
    number: int
    hash: str
    output_octets: int
    weakness: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyExchange:
    """A key exchange method (Diffie-Hellman group); ``public_octets`` is the length of the KE payload's data."""

    slug: str
    label: str
    number: int
    family: str
    public_octets: int
    weakness: str = ""


_SHA1 = "SHA-1 is kept for old peers only; prefer SHA2-256"

_ENCRYPTION = (
    *(
        Encryption(
            slug=f"aes-{bits}-cbc", label=f"AES-{bits}-CBC", number=12, key_octets=bits // 8,
            key_length_attribute=True, iv_octets=16, block_octets=16,
        )
        for bits in (128, 192, 256)
    ),
    *(
        Encryption(
            slug=f"aes-{bits}-gcm-16", label=f"AES-{bits}-GCM", number=20, key_octets=bits // 8,
            key_length_attribute=True, salt_octets=4, iv_octets=8, block_octets=1, icv_octets=16,
        )
        for bits in (128, 256)
    ),
    Encryption(
        slug="chacha20-poly1305", label="ChaCha20-Poly1305", number=28, key_octets=32,
        key_length_attribute=False, salt_octets=4, iv_octets=8, block_octets=1, icv_octets=16,
    ),
)  # fmt: skip

_INTEGRITY = (
    Integrity(slug="hmac-sha1-96", label="HMAC-SHA1-96", number=2, hash="sha1", key_octets=20, icv_octets=12, weakness=_SHA1),
    Integrity(slug="hmac-sha2-256-128", label="HMAC-SHA2-256-128", number=12, hash="sha256", key_octets=32, icv_octets=16),
    Integrity(slug="hmac-sha2-384-192", label="HMAC-SHA2-384-192", number=13, hash="sha384", key_octets=48, icv_octets=24),
    Integrity(slug="hmac-sha2-512-256", label="HMAC-SHA2-512-256", number=14, hash="sha512", key_octets=64, icv_octets=32),
)  # fmt: skip

_PSEUDO_RANDOM = (
    PseudoRandom(slug="prf-hmac-sha1", label="PRF HMAC-SHA1", number=2, hash="sha1", output_octets=20, weakness=_SHA1),
    PseudoRandom(slug="prf-hmac-sha2-256", label="PRF HMAC-SHA2-256", number=5, hash="sha256", output_octets=32),
    PseudoRandom(slug="prf-hmac-sha2-384", label="PRF HMAC-SHA2-384", number=6, hash="sha384", output_octets=48),
    PseudoRandom(slug="prf-hmac-sha2-512", label="PRF HMAC-SHA2-512", number=7, hash="sha512", output_octets=64),
)  # fmt: skip

_KEY_EXCHANGE = (
    KeyExchange(slug="group-14", label="14 (MODP 2048)", number=14, family="modp", public_octets=256),
    KeyExchange(slug="group-15", label="15 (MODP 3072)", number=15, family="modp", public_octets=384),
    KeyExchange(slug="group-16", label="16 (MODP 4096)", number=16, family="modp", public_octets=512),
    KeyExchange(slug="group-19", label="19 (ECP P-256)", number=19, family="ecp", public_octets=64),
    KeyExchange(slug="group-20", label="20 (ECP P-384)", number=20, family="ecp", public_octets=96),
    KeyExchange(slug="group-21", label="21 (ECP P-521)", number=21, family="ecp", public_octets=132),
    KeyExchange(slug="group-31", label="31 (Curve25519)", number=31, family="curve25519", public_octets=32),
)  # fmt: skip

_Row = TypeVar("_Row", Encryption, Integrity, PseudoRandom, KeyExchange)


def _by_slug(rows: Iterable[_Row]) -> Mapping[str, _Row]:
    return MappingProxyType({row.slug: row for row in rows})


ENCRYPTION: Mapping[str, Encryption] = _by_slug(_ENCRYPTION)
INTEGRITY: Mapping[str, Integrity] = _by_slug(_INTEGRITY)
PSEUDO_RANDOM: Mapping[str, PseudoRandom] = _by_slug(_PSEUDO_RANDOM)
KEY_EXCHANGE: Mapping[str, KeyExchange] = _by_slug(_KEY_EXCHANGE)
