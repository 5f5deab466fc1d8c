"""Identities: document <-> ID payloads (RFC 7296 section 3.5), and what a peer calls itself as safe text."""

from __future__ import annotations

import functools
import ipaddress

from agents.contract.config import Identity, IdentityType
from agents.ike.wire.payloads import Identification, IdI, IdR
from agents.ike.wire.registry import IdType

_TYPES = {
    IdentityType.IPV4: IdType.IPV4_ADDR,
    IdentityType.IPV6: IdType.IPV6_ADDR,
    IdentityType.FQDN: IdType.FQDN,
    IdentityType.EMAIL: IdType.RFC822_ADDR,
    IdentityType.KEY_ID: IdType.KEY_ID,
}
_NAMES = {int(wire): str(kind) for kind, wire in _TYPES.items()}


@functools.lru_cache(maxsize=4096)
def _octets(identity: Identity) -> bytes:
    if identity.type in (IdentityType.IPV4, IdentityType.IPV6):
        return ipaddress.ip_address(identity.value).packed
    if identity.type is IdentityType.KEY_ID:
        return bytes.fromhex(identity.value)
    return identity.value.encode("utf-8")


def to_id_i(identity: Identity) -> IdI:
    """Return the IDi payload of an identity."""
    return IdI(id_type=_TYPES[identity.type], data=_octets(identity))


def to_id_r(identity: Identity) -> IdR:
    """Return the IDr payload of an identity."""
    return IdR(id_type=_TYPES[identity.type], data=_octets(identity))


def matches(identity: Identity, shown: Identification) -> bool:
    """Return whether the payload shows this identity; names compare without regard to case."""
    if _TYPES[identity.type] != shown.id_type:
        return False
    own = _octets(identity)
    if identity.type in (IdentityType.FQDN, IdentityType.EMAIL):
        return own.lower() == shown.data.lower()
    return own == shown.data


def describe(shown: Identification) -> str:
    """Return a peer's identity as bounded text without control characters."""
    name = _NAMES.get(shown.id_type, f"type {shown.id_type}")
    if shown.id_type in (IdType.IPV4_ADDR, IdType.IPV6_ADDR) and len(shown.data) in (4, 16):
        return f"{name} {ipaddress.ip_address(shown.data)}"
    if shown.id_type in (IdType.FQDN, IdType.RFC822_ADDR):
        return f"{name} {printable(shown.data)}"
    return f"{name} {shown.data[:64].hex()}"


def describe_own(identity: Identity) -> str:
    """Return a configured identity in the same form as :func:`describe`."""
    return f"{identity.type} {identity.value}"


def printable(octets: bytes, limit: int = 100) -> str:
    """Return peer text as ASCII; whatever is not printable becomes a dot."""
    return "".join(chr(octet) if 0x20 <= octet < 0x7F else "." for octet in octets[:limit])
