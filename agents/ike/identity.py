"""Identities: document <-> ID payloads (RFC 7296 section 3.5), which one is meant, and a peer's as safe text.

The identity expected of a peer may be partial (``*.example.org``, ``*@example.org``, a DN with ``*`` for values) or
``any``; an exact one is preferred to a partial one and that to ``any``.
"""

from __future__ import annotations

import functools
import ipaddress
from enum import IntEnum
from typing import Protocol

from cryptography import x509

from agents.contract.config import Identity, IdentityType
from agents.contract.errors import FieldError
from agents.ike import names
from agents.ike.wire.payloads import IdI, IdR
from agents.ike.wire.registry import IdType

_TYPES = {
    IdentityType.IPV4: IdType.IPV4_ADDR,
    IdentityType.IPV6: IdType.IPV6_ADDR,
    IdentityType.FQDN: IdType.FQDN,
    IdentityType.EMAIL: IdType.RFC822_ADDR,
    IdentityType.KEY_ID: IdType.KEY_ID,
    IdentityType.DN: IdType.DER_ASN1_DN,
}
_KINDS = {int(wire): kind for kind, wire in _TYPES.items()}
_NAMES = (IdentityType.FQDN, IdentityType.EMAIL)


class Fit(IntEnum):
    """How well an expected identity fits the one shown; the lower the better."""

    EXACT = 0
    PARTIAL = 1
    ANY = 2


@functools.lru_cache(maxsize=4096)
def _octets(identity: Identity) -> bytes:
    """Return the data of the ID payload. Raises ValueError for a distinguished name that is none."""
    if identity.type in (IdentityType.IPV4, IdentityType.IPV6):
        return ipaddress.ip_address(identity.value).packed
    if identity.type is IdentityType.KEY_ID:
        return bytes.fromhex(identity.value)
    if identity.type is IdentityType.DN:
        return names.to_der(identity.value)
    return identity.value.encode("utf-8")


class Shown(Protocol):
    """An ID payload of either IKE version; the types have the same numbers (RFC 2407 section 4.6.2.1, RFC 7296 3.5)."""

    @property
    def id_type(self) -> int:
        """Its type."""
        ...

    @property
    def data(self) -> bytes:
        """Its value."""
        ...


def to_payload(identity: Identity, subject: bytes | None = None) -> tuple[int, bytes]:
    """Return type and data of the ID payload of an exact identity; otherwise as :func:`to_id_i`."""
    return int(_TYPES[identity.type]), _shown_octets(identity, subject)


def to_id_i(identity: Identity, subject: bytes | None = None) -> IdI:
    """Return the IDi payload of an exact identity.

    ``subject`` is the DER of our certificate's subject: where it is the same name its very octets are sent, since
    peers compare octets. Raises ValueError for a distinguished name that is none.
    """
    return IdI(id_type=_TYPES[identity.type], data=_shown_octets(identity, subject))


def to_id_r(identity: Identity, subject: bytes | None = None) -> IdR:
    """Return the IDr payload of an exact identity; otherwise as :func:`to_id_i`."""
    return IdR(id_type=_TYPES[identity.type], data=_shown_octets(identity, subject))


def _shown_octets(identity: Identity, subject: bytes | None) -> bytes:
    octets = _octets(identity)
    if identity.type is IdentityType.DN and subject is not None and names.equal(octets, subject):
        return subject
    return octets


def fit(identity: Identity, shown: Shown) -> Fit | None:
    """Return how well the expected identity fits what the payload shows, or None when it does not."""
    if identity.type is IdentityType.ANY:
        return Fit.ANY
    if _TYPES[identity.type] != shown.id_type:
        return None
    if identity.exact:
        return Fit.EXACT if _equals(identity, shown.data) else None
    return Fit.PARTIAL if _fits_partly(identity, shown.data) else None


def matches(identity: Identity, shown: Shown) -> bool:
    """Return whether the payload shows this identity; names compare without regard to case."""
    return fit(identity, shown) is not None


def _equals(identity: Identity, data: bytes) -> bool:
    try:
        own = _octets(identity)
    except ValueError:
        return False
    if identity.type in _NAMES:
        return own.lower() == data.lower()
    return names.equal(own, data) if identity.type is IdentityType.DN else own == data


def _fits_partly(identity: Identity, data: bytes) -> bool:
    if identity.type is IdentityType.DN:
        try:
            return names.fits(_octets(identity), data)
        except ValueError:
            return False
    ending = identity.value[1:].encode("utf-8").lower()
    shown = data.lower()
    return len(shown) > len(ending) and shown.endswith(ending)


def same(one: Shown, other: Shown) -> bool:
    """Return whether two payloads show one identity."""
    if one.id_type != other.id_type:
        return False
    if one.id_type == IdType.DER_ASN1_DN:
        return names.equal(one.data, other.data)
    if one.id_type in (IdType.FQDN, IdType.RFC822_ADDR):
        return one.data.lower() == other.data.lower()
    return one.data == other.data


def from_shown(shown: Shown) -> Identity | None:
    """Return the exact identity a payload shows, None where it is none that a document could hold."""
    kind = _KINDS.get(shown.id_type)
    if kind is None:
        return None
    try:
        if kind in (IdentityType.IPV4, IdentityType.IPV6):
            value = str(ipaddress.ip_address(shown.data))
        elif kind is IdentityType.KEY_ID:
            value = shown.data.hex()
        elif kind is IdentityType.DN:
            value = names.to_text(shown.data)
        else:
            value = shown.data.decode("utf-8").lower()
        identity = Identity(type=kind, value=value)
    except (ValueError, FieldError):
        return None
    return identity if identity.exact else None


def in_certificate(id_type: int, id_data: bytes, certificate: x509.Certificate) -> bool:
    """Return whether a certificate names this identity (RFC 4945 section 3.1).

    Addresses, names and mail addresses stand in the subject alternative name, a distinguished name is the subject; a
    key id stands nowhere. Wildcards of a certificate count for nothing. Never raises, whatever the certificate holds.
    """
    try:
        if id_type == IdType.DER_ASN1_DN:
            return names.equal(certificate.subject.public_bytes(), id_data)
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return False
    if id_type in (IdType.IPV4_ADDR, IdType.IPV6_ADDR):
        return any(
            isinstance(each, ipaddress.IPv4Address | ipaddress.IPv6Address) and each.packed == id_data
            for each in alternative.get_values_for_type(x509.IPAddress)
        )
    wanted = id_data.lower()
    if id_type == IdType.FQDN:
        return any(each.encode("utf-8").lower() == wanted for each in alternative.get_values_for_type(x509.DNSName))
    if id_type == IdType.RFC822_ADDR:
        return any(each.encode("utf-8").lower() == wanted for each in alternative.get_values_for_type(x509.RFC822Name))
    return False


def describe(shown: Shown) -> str:
    """Return a peer's identity as bounded text without control characters."""
    kind = _KINDS.get(shown.id_type)
    name = f"type {shown.id_type}" if kind is None else str(kind)
    if shown.id_type in (IdType.IPV4_ADDR, IdType.IPV6_ADDR) and len(shown.data) in (4, 16):
        return f"{name} {ipaddress.ip_address(shown.data)}"
    if kind in _NAMES:
        return f"{name} {printable(shown.data)}"
    if kind is IdentityType.DN:
        try:
            return f"{name} {names.describe(shown.data)[:200]}"
        except ValueError:
            return f"{name} that cannot be read"
    return f"{name} {shown.data[:64].hex()}"


def describe_own(identity: Identity) -> str:
    """Return a configured identity in the same form as :func:`describe`."""
    return f"{identity.type} {identity.value}"


def printable(octets: bytes, limit: int = 100) -> str:
    """Return peer text as ASCII; whatever is not printable becomes a dot."""
    return "".join(chr(octet) if 0x20 <= octet < 0x7F else "." for octet in octets[:limit])
