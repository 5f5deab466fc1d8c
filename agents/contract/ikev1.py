"""What IKEv1 can negotiate of the algorithms both sides know, as tables from slug to number, and whether a suite can.

Phase 1: IANA "Internet Key Exchange (IKE) Attributes" (RFC 2409 appendix A, RFC 3526, 4312, 4868, 5114, 5903, 6932);
phase 2: IANA "IPSEC ISAKMP" (RFC 2407 section 4.4, RFC 3566, 3602, 3686, 4106, 4309, 4312, 4543, 4868). What has no
number there (ChaCha20-Poly1305, AEADs and counter mode in phase 1, AES-CMAC, Curve25519, Curve448, ML-KEM) IKEv1 does
not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from agents.contract import algorithms

ENCRYPTION: Mapping[str, int] = MappingProxyType(
    {
        "des-cbc": 1,
        "3des-cbc": 5,
        **{f"aes-{bits}-cbc": 7 for bits in (128, 192, 256)},
        **{f"camellia-{bits}-cbc": 8 for bits in (128, 192, 256)},
    }
)
"""Phase 1, attribute 1."""

HASH: Mapping[str, int] = MappingProxyType({"md5": 1, "sha1": 2, "sha256": 4, "sha384": 5, "sha512": 6})
"""Phase 1, attribute 2, by hashlib name; HMAC with it is the prf (RFC 2409 section 4)."""

GROUPS: frozenset[str] = frozenset(
    slug for slug, row in algorithms.KEY_EXCHANGE.items() if row.family in ("modp", "ecp", "brainpool")
)
"""Attribute 4 of phase 1, attribute 3 of phase 2: the numbers are those of IKEv2."""

ESP: Mapping[str, int] = MappingProxyType(
    {
        "des-cbc": 2,
        "3des-cbc": 3,
        "null": 11,
        **{f"aes-{bits}-cbc": 12 for bits in (128, 192, 256)},
        **{f"aes-{bits}-ctr": 13 for bits in (128, 192, 256)},
        **{
            f"aes-{bits}-{mode}-{icv}": number
            for (mode, icv), number in {
                ("ccm", 8): 14,
                ("ccm", 12): 15,
                ("ccm", 16): 16,
                ("gcm", 8): 18,
                ("gcm", 12): 19,
                ("gcm", 16): 20,
            }.items()
            for bits in (128, 192, 256)
        },
        **{f"camellia-{bits}-cbc": 22 for bits in (128, 192, 256)},
        **{f"aes-{bits}-gmac": 23 for bits in (128, 192, 256)},
    }
)
"""Phase 2, transform ID of ESP."""

AUTHENTICATION: Mapping[str, int] = MappingProxyType(
    {
        "hmac-md5-96": 1,
        "hmac-sha1-96": 2,
        "hmac-sha2-256-128": 5,
        "hmac-sha2-384-192": 6,
        "hmac-sha2-512-256": 7,
        "aes-xcbc-96": 9,
    }
)
"""Phase 2, attribute 5: the integrity algorithm of ESP and AH."""

AH: Mapping[str, int] = MappingProxyType(
    {
        "hmac-md5-96": 2,
        "hmac-sha1-96": 3,
        "hmac-sha2-256-128": 5,
        "hmac-sha2-384-192": 6,
        "hmac-sha2-512-256": 7,
        "aes-xcbc-96": 9,
    }
)
"""Phase 2, transform ID of AH."""


class _IkeSuite(Protocol):
    """A suite of the IKE SA, whoever stores it; all are slugs of :mod:`agents.contract.algorithms`."""

    @property
    def encryption(self) -> str: ...
    @property
    def integrity(self) -> str | None: ...
    @property
    def prf(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def additional_key_exchanges(self) -> tuple[str, ...]: ...


class _IpsecSuite(Protocol):
    """A suite of ESP, AH or both."""

    @property
    def encryption(self) -> str | None: ...
    @property
    def integrity(self) -> str | None: ...
    @property
    def ah_integrity(self) -> str | None: ...


def ike_obstacle(suite: _IkeSuite) -> tuple[str, str] | None:
    """Return field and sentence of what keeps a suite from phase 1; None where nothing does."""
    if suite.encryption not in ENCRYPTION:
        return "encryption", f"{suite.encryption} has no number in IKEv1: choose a cipher in CBC mode"
    prf = algorithms.PSEUDO_RANDOM[suite.prf]
    if prf.hash not in HASH:
        return "prf", f"{suite.prf} has no number in IKEv1: choose an HMAC"
    if suite.integrity is None or algorithms.INTEGRITY[suite.integrity].hash != prf.hash:
        return "integrity", f"IKEv1 has one hash for both: choose the HMAC that goes with {suite.prf}"
    if suite.group not in GROUPS:
        return "group", f"{suite.group} has no number in IKEv1"
    if suite.additional_key_exchanges:
        return "additional_key_exchanges", "IKEv1 has no additional key exchanges"
    return None


def ipsec_obstacle(suite: _IpsecSuite) -> tuple[str, str] | None:
    """Return field and sentence of what keeps a suite from phase 2; None where nothing does."""
    if suite.encryption is not None and suite.encryption not in ESP:
        return "encryption", f"{suite.encryption} has no number in IKEv1"
    if suite.integrity is not None and suite.integrity not in AUTHENTICATION:
        return "integrity", f"{suite.integrity} has no number in IKEv1"
    if suite.ah_integrity is not None and suite.ah_integrity not in AH:
        return "ah_integrity", f"{suite.ah_integrity} has no number in IKEv1"
    return None


def ports_obstacle(start_port: int, end_port: int) -> str | None:
    """Return what keeps a selector's ports from phase 2, None where nothing does.

    An identity has one port field and 0 in it is every port (RFC 2407 section 4.6.2): a range, and port 0 alone, it
    cannot say.
    """
    if (start_port, end_port) == (0, 65535) or start_port == end_port != 0:
        return None
    ports = str(start_port) if start_port == end_port else f"{start_port}-{end_port}"
    return f"IKEv1 has no way to say port {ports}: choose one port from 1 on, or all of them"


SIGNATURE: Mapping[str, int] = MappingProxyType(
    {"ikev1-rsa": 3, "ikev1-ecdsa-p256": 9, "ikev1-ecdsa-p384": 10, "ikev1-ecdsa-p521": 11}
)
"""Phase 1, attribute 3: ways to sign HASH_I or HASH_R (RFC 2409 section 5.1, RFC 4754 section 3); 1 is a PSK."""

PSK_METHOD = 1

MOST_PAIRS = 64
"""Pairs of selectors of one child: a Quick Mode negotiates one (RFC 2409 section 5.5)."""
