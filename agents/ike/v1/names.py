"""Numbers of IKEv1 as people know them: the slugs of :mod:`agents.contract.algorithms`, or kind and number."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from agents.contract import algorithms, ikev1
from agents.contract.algorithms import Encryption, KeyExchange
from agents.ike.wire.isakmp.registry import EncapsulationMode, Protocol

GROUPS: Mapping[int, KeyExchange] = MappingProxyType(
    {row.number: row for row in algorithms.KEY_EXCHANGE.values() if row.slug in ikev1.GROUPS}
)
"""The Diffie-Hellman groups of IKEv1 by number."""

_METHODS: Mapping[int, str] = MappingProxyType(
    {
        1: "psk",
        2: "dss-signature",
        3: "rsa-signature",
        4: "rsa-encryption (not implemented)",
        5: "revised-rsa-encryption (not implemented)",
        6: "elgamal-encryption (not implemented)",
        7: "revised-elgamal-encryption (not implemented)",
        9: "ecdsa-p256",
        10: "ecdsa-p384",
        11: "ecdsa-p521",
        64221: "hybrid-rsa (not implemented)",
        65001: "xauth-psk (not implemented)",
        65005: "xauth-rsa-signature (not implemented)",
    }
)
_MODES: Mapping[int, str] = MappingProxyType(
    {int(each): each.name.lower().replace("_", "-") for each in EncapsulationMode}
)
_PROTOCOLS: Mapping[int, str] = MappingProxyType(
    {Protocol.ISAKMP: "ISAKMP", Protocol.AH: "AH", Protocol.ESP: "ESP", Protocol.IPCOMP: "IPComp"}
)
_COMPRESSION: Mapping[int, str] = MappingProxyType({1: "oui", 2: "deflate", 3: "lzs", 4: "lzjh"})


def key_length_of(cipher: Encryption) -> int | None:
    """Return the key length attribute that goes with a cipher: without salt (RFC 4106 section 8.3), None for none."""
    return cipher.key_octets * 8 if cipher.key_length_attribute else None


def _ciphers(numbers: Mapping[str, int]) -> Mapping[tuple[int, int | None], str]:
    rows = ((number, algorithms.ENCRYPTION[slug]) for slug, number in numbers.items())
    return MappingProxyType({(number, key_length_of(row)): row.slug for number, row in rows})


_ENCRYPTION = _ciphers(ikev1.ENCRYPTION)
_ESP = _ciphers(ikev1.ESP)
_HASH = {number: name for name, number in ikev1.HASH.items()}
_AUTHENTICATION = {number: slug for slug, number in ikev1.AUTHENTICATION.items()}
_AH = {number: slug for slug, number in ikev1.AH.items()}


def encryption(number: int | None, key_length: int | None) -> str:
    """Return the cipher of phase 1."""
    return _cipher(_ENCRYPTION, "encryption", number, key_length)


def esp(number: int, key_length: int | None) -> str:
    """Return the cipher of an ESP transform."""
    return _cipher(_ESP, "esp", number, key_length)


def _cipher(table: Mapping[tuple[int, int | None], str], kind: str, number: int | None, key_length: int | None) -> str:
    if number is None:
        return "none"
    known = table.get((number, key_length))
    if known is not None:
        return known
    return f"{kind}-{number}" if key_length is None else f"{kind}-{number}-{key_length}"


def hash_(number: int | None) -> str:
    """Return the hash of phase 1 by its hashlib name."""
    return _named(_HASH, "hash", number)


def method(number: int | None) -> str:
    """Return the authentication method; those with public-key encryption are not implemented, and say so."""
    return _named(_METHODS, "method", number)


def group(number: int | None) -> str:
    """Return the Diffie-Hellman group."""
    if number is None:
        return "none"
    return f"group-{number}"


def authentication(number: int | None) -> str:
    """Return the integrity algorithm of phase 2."""
    return _named(_AUTHENTICATION, "authentication", number)


def ah(number: int) -> str:
    """Return the integrity algorithm of an AH transform."""
    return _named(_AH, "ah", number)


def compression(number: int) -> str:
    """Return the algorithm of an IPComp transform (RFC 2407 section 4.4.5)."""
    return _named(_COMPRESSION, "ipcomp", number)


def mode(number: int | None) -> str:
    """Return the encapsulation mode."""
    return _named(_MODES, "mode", number)


def protocol(number: int) -> str:
    """Return the security protocol."""
    return _named(_PROTOCOLS, "protocol", number)


def _named(table: Mapping[int, str], kind: str, number: int | None) -> str:
    if number is None:
        return "none"
    return table.get(number, f"{kind}-{number}")
