"""The algorithms both sides know, as tables: slug, IANA number, sizes.

Numbers: IANA "Internet Key Exchange Version 2 (IKEv2) Parameters", transform types 1 to 5; sizes from RFC 2403, 2405,
2409, 2410, 2451, 3526, 3566, 3602, 3686, 4106, 4309, 4312, 4434, 4494, 4543, 4615, 4868, 5114, 5282, 5529, 5903, 5930,
6932, 6954, 7634, 8031, FIPS 203. ``weakness`` is one sentence for people, empty where there is nothing to say;
``legacy`` algorithms are taken only where a gateway allows them. ``ike`` and ``esp`` say what an algorithm is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Encryption:
    """An ENCR transform. ``key_octets`` excludes salt or nonce; ``icv_octets`` is 0 unless it protects integrity itself.

    ``iv_octets`` travel in each packet. AES-GMAC counts as an AEAD that encrypts nothing (RFC 4543).
    """

    slug: str
    label: str
    number: int
    key_octets: int
    key_length_attribute: bool
    salt_octets: int = 0
    iv_octets: int
    block_octets: int
    icv_octets: int = 0
    ike: bool = True
    esp: bool = True
    legacy: bool = False
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
    """An INTEG transform for IKE, ESP and AH; ``hash`` is a hashlib name, or ``aes-xcbc``, ``aes-cmac``."""

    slug: str
    label: str
    number: int
    hash: str
    key_octets: int
    icv_octets: int
    legacy: bool = False
    weakness: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoRandom:
    """A PRF transform; the preferred key length equals the output length.

    ``fixed_key`` marks those of RFC 4434 and 4615, whose nonces are cut to half the key each (RFC 7296 section 2.14).
    """

    slug: str
    label: str
    number: int
    hash: str
    output_octets: int
    fixed_key: bool = False
    legacy: bool = False
    weakness: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyExchange:
    """A key exchange method (Diffie-Hellman group or KEM); ``public_octets`` is the length of the KE payload's data.

    A KEM's answer has another length, ``response_octets``, and it is only an additional key exchange (RFC 9370): its
    values are too long for IKE_SA_INIT.
    """

    slug: str
    label: str
    number: int
    family: str
    public_octets: int
    response_octets: int = 0
    legacy: bool = False
    weakness: str = ""

    @property
    def additional_only(self) -> bool:
        """Whether it may only stand beside another key exchange."""
        return self.family == "ml-kem"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A way to sign AUTH: by RFC 7427 (``method`` 14) or by one of the older method numbers.

    ``hash`` is a hashlib name, ``identity`` for EdDSA (RFC 8420). ``key`` is ``rsa``, ``ed25519``, ``ed448`` or the
    name of a curve; empty where any curve does.
    """

    slug: str
    label: str
    method: int
    key: str
    hash: str
    pss: bool = False
    weakness: str = ""


_SHA1 = "SHA-1 is kept for old peers only; prefer SHA2-256"
_MD5 = "MD5 is broken; for peers that know nothing else"
_DES = "A 56-bit key is found by trying; for peers that know nothing else"
_3DES = "64-bit blocks repeat after some gigabytes (Sweet32); prefer AES"
_SMALL = "A group this small is within reach of attackers; for peers that know nothing else"
_SUBGROUP = "The group's origin is not documented (RFC 8247 advises against it); prefer group 14 or 19"
_PLAIN = "Nothing is hidden: integrity only"

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
        for bits in (128, 192, 256)
    ),
    Encryption(
        slug="chacha20-poly1305", label="ChaCha20-Poly1305", number=28, key_octets=32,
        key_length_attribute=False, salt_octets=4, iv_octets=8, block_octets=1, icv_octets=16,
    ),
    *(
        Encryption(
            slug=f"aes-{bits}-gcm-{icv}", label=f"AES-{bits}-GCM, {icv}-octet ICV", number=number, key_octets=bits // 8,
            key_length_attribute=True, salt_octets=4, iv_octets=8, block_octets=1, icv_octets=icv,
        )
        for icv, number in ((12, 19), (8, 18))
        for bits in (128, 192, 256)
    ),
    *(
        Encryption(
            slug=f"aes-{bits}-ccm-{icv}", label=f"AES-{bits}-CCM, {icv}-octet ICV", number=number, key_octets=bits // 8,
            key_length_attribute=True, salt_octets=3, iv_octets=8, block_octets=1, icv_octets=icv,
        )
        for icv, number in ((16, 16), (12, 15), (8, 14))
        for bits in (128, 192, 256)
    ),
    *(
        Encryption(
            slug=f"aes-{bits}-ctr", label=f"AES-{bits}-CTR", number=13, key_octets=bits // 8,
            key_length_attribute=True, salt_octets=4, iv_octets=8, block_octets=1,
        )
        for bits in (128, 192, 256)
    ),
    *(
        Encryption(
            slug=f"camellia-{bits}-cbc", label=f"Camellia-{bits}-CBC", number=23, key_octets=bits // 8,
            key_length_attribute=True, iv_octets=16, block_octets=16,
        )
        for bits in (128, 192, 256)
    ),
    *(
        Encryption(
            slug=f"aes-{bits}-gmac", label=f"AES-{bits}-GMAC (integrity only)", number=21, key_octets=bits // 8,
            key_length_attribute=True, salt_octets=4, iv_octets=8, block_octets=1, icv_octets=16, ike=False,
            weakness=_PLAIN,
        )
        for bits in (128, 192, 256)
    ),
    Encryption(
        slug="null", label="NULL (integrity only)", number=11, key_octets=0, key_length_attribute=False,
        iv_octets=0, block_octets=1, ike=False, legacy=True, weakness=_PLAIN,
    ),
    Encryption(
        slug="3des-cbc", label="3DES-CBC", number=3, key_octets=24, key_length_attribute=False,
        iv_octets=8, block_octets=8, legacy=True, weakness=_3DES,
    ),
    Encryption(
        slug="des-cbc", label="DES-CBC", number=2, key_octets=8, key_length_attribute=False,
        iv_octets=8, block_octets=8, legacy=True, weakness=_DES,
    ),
)  # fmt: skip

_INTEGRITY = (
    Integrity(slug="hmac-sha1-96", label="HMAC-SHA1-96", number=2, hash="sha1", key_octets=20, icv_octets=12, weakness=_SHA1),
    Integrity(slug="hmac-sha2-256-128", label="HMAC-SHA2-256-128", number=12, hash="sha256", key_octets=32, icv_octets=16),
    Integrity(slug="hmac-sha2-384-192", label="HMAC-SHA2-384-192", number=13, hash="sha384", key_octets=48, icv_octets=24),
    Integrity(slug="hmac-sha2-512-256", label="HMAC-SHA2-512-256", number=14, hash="sha512", key_octets=64, icv_octets=32),
    Integrity(slug="aes-xcbc-96", label="AES-XCBC-96", number=5, hash="aes-xcbc", key_octets=16, icv_octets=12),
    Integrity(slug="aes-cmac-96", label="AES-CMAC-96", number=8, hash="aes-cmac", key_octets=16, icv_octets=12),
    Integrity(slug="hmac-md5-96", label="HMAC-MD5-96", number=1, hash="md5", key_octets=16, icv_octets=12, legacy=True, weakness=_MD5),
)  # fmt: skip

_PSEUDO_RANDOM = (
    PseudoRandom(slug="prf-hmac-sha1", label="PRF HMAC-SHA1", number=2, hash="sha1", output_octets=20, weakness=_SHA1),
    PseudoRandom(slug="prf-hmac-sha2-256", label="PRF HMAC-SHA2-256", number=5, hash="sha256", output_octets=32),
    PseudoRandom(slug="prf-hmac-sha2-384", label="PRF HMAC-SHA2-384", number=6, hash="sha384", output_octets=48),
    PseudoRandom(slug="prf-hmac-sha2-512", label="PRF HMAC-SHA2-512", number=7, hash="sha512", output_octets=64),
    PseudoRandom(slug="prf-aes128-xcbc", label="PRF AES128-XCBC", number=4, hash="aes-xcbc", output_octets=16, fixed_key=True),
    PseudoRandom(slug="prf-aes128-cmac", label="PRF AES128-CMAC", number=8, hash="aes-cmac", output_octets=16, fixed_key=True),
    PseudoRandom(slug="prf-hmac-md5", label="PRF HMAC-MD5", number=1, hash="md5", output_octets=16, legacy=True, weakness=_MD5),
)  # fmt: skip

_KEY_EXCHANGE = (
    KeyExchange(slug="group-14", label="14 (MODP 2048)", number=14, family="modp", public_octets=256),
    KeyExchange(slug="group-15", label="15 (MODP 3072)", number=15, family="modp", public_octets=384),
    KeyExchange(slug="group-16", label="16 (MODP 4096)", number=16, family="modp", public_octets=512),
    KeyExchange(slug="group-17", label="17 (MODP 6144)", number=17, family="modp", public_octets=768),
    KeyExchange(slug="group-18", label="18 (MODP 8192)", number=18, family="modp", public_octets=1024),
    KeyExchange(slug="group-19", label="19 (ECP P-256)", number=19, family="ecp", public_octets=64),
    KeyExchange(slug="group-20", label="20 (ECP P-384)", number=20, family="ecp", public_octets=96),
    KeyExchange(slug="group-21", label="21 (ECP P-521)", number=21, family="ecp", public_octets=132),
    KeyExchange(slug="group-22", label="22 (MODP 1024, 160-bit subgroup)", number=22, family="modp", public_octets=128, legacy=True, weakness=_SMALL),
    KeyExchange(slug="group-23", label="23 (MODP 2048, 224-bit subgroup)", number=23, family="modp", public_octets=256, weakness=_SUBGROUP),
    KeyExchange(slug="group-24", label="24 (MODP 2048, 256-bit subgroup)", number=24, family="modp", public_octets=256, weakness=_SUBGROUP),
    KeyExchange(slug="group-27", label="27 (Brainpool P224r1)", number=27, family="brainpool", public_octets=56),
    KeyExchange(slug="group-28", label="28 (Brainpool P256r1)", number=28, family="brainpool", public_octets=64),
    KeyExchange(slug="group-29", label="29 (Brainpool P384r1)", number=29, family="brainpool", public_octets=96),
    KeyExchange(slug="group-30", label="30 (Brainpool P512r1)", number=30, family="brainpool", public_octets=128),
    KeyExchange(slug="group-31", label="31 (Curve25519)", number=31, family="curve25519", public_octets=32),
    KeyExchange(slug="group-32", label="32 (Curve448)", number=32, family="curve448", public_octets=56),
    KeyExchange(slug="ml-kem-768", label="ML-KEM-768", number=36, family="ml-kem", public_octets=1184, response_octets=1088),
    KeyExchange(slug="ml-kem-1024", label="ML-KEM-1024", number=37, family="ml-kem", public_octets=1568, response_octets=1568),
    KeyExchange(slug="group-1", label="1 (MODP 768)", number=1, family="modp", public_octets=96, legacy=True, weakness=_SMALL),
    KeyExchange(slug="group-2", label="2 (MODP 1024)", number=2, family="modp", public_octets=128, legacy=True, weakness=_SMALL),
    KeyExchange(slug="group-5", label="5 (MODP 1536)", number=5, family="modp", public_octets=192, legacy=True, weakness=_SMALL),
)  # fmt: skip

_SIGNATURE = (
    *(
        Signature(slug=f"ecdsa-{name}", label=f"ECDSA with {name.upper()}", method=14, key="ecdsa", hash=hash_)
        for name, hash_ in (("sha2-256", "sha256"), ("sha2-384", "sha384"), ("sha2-512", "sha512"))
    ),
    Signature(slug="ed25519", label="Ed25519", method=14, key="ed25519", hash="identity"),
    Signature(slug="ed448", label="Ed448", method=14, key="ed448", hash="identity"),
    *(
        Signature(slug=f"rsa-pss-{name}", label=f"RSA-PSS with {name.upper()}", method=14, key="rsa", hash=hash_, pss=True)
        for name, hash_ in (("sha2-256", "sha256"), ("sha2-384", "sha384"), ("sha2-512", "sha512"))
    ),
    *(
        Signature(slug=f"rsa-{name}", label=f"RSA PKCS#1 v1.5 with {name.upper()}", method=14, key="rsa", hash=hash_)
        for name, hash_ in (("sha2-256", "sha256"), ("sha2-384", "sha384"), ("sha2-512", "sha512"))
    ),
    Signature(slug="method-9", label="ECDSA P-256 with SHA2-256 (method 9)", method=9, key="secp256r1", hash="sha256"),
    Signature(slug="method-10", label="ECDSA P-384 with SHA2-384 (method 10)", method=10, key="secp384r1", hash="sha384"),
    Signature(slug="method-11", label="ECDSA P-521 with SHA2-512 (method 11)", method=11, key="secp521r1", hash="sha512"),
    Signature(slug="method-1", label="RSA with SHA-1 (method 1)", method=1, key="rsa", hash="sha1", weakness=_SHA1),
)  # fmt: skip

_Row = TypeVar("_Row", Encryption, Integrity, PseudoRandom, KeyExchange, Signature)


def _by_slug(rows: Iterable[_Row]) -> Mapping[str, _Row]:
    return MappingProxyType({row.slug: row for row in rows})


ENCRYPTION: Mapping[str, Encryption] = _by_slug(_ENCRYPTION)
INTEGRITY: Mapping[str, Integrity] = _by_slug(_INTEGRITY)
PSEUDO_RANDOM: Mapping[str, PseudoRandom] = _by_slug(_PSEUDO_RANDOM)
KEY_EXCHANGE: Mapping[str, KeyExchange] = _by_slug(_KEY_EXCHANGE)
SIGNATURE: Mapping[str, Signature] = _by_slug(_SIGNATURE)
"""The ways to sign, best first for each kind of key."""
