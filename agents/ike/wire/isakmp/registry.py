"""Numbers of ISAKMP, the Internet IP Security DOI and IKEv1 that this implementation names.

IANA "Internet Security Association and Key Management Protocol (ISAKMP) Identifiers" and "Internet Key Exchange (IKE)
Attributes"; algorithm numbers live in :mod:`agents.contract.ikev1`.
"""

from __future__ import annotations

from enum import IntEnum

VERSION = 0x10
"""Major version 1, minor version 0, as the header's octet (RFC 2408 section 3.1)."""

DOI_IPSEC = 1
"""The Internet IP Security DOI (RFC 2407 section 4.2)."""

SITUATION_IDENTITY_ONLY = 1
"""The one situation without labels (RFC 2407 section 4.2.1)."""

TRANSFORM_KEY_IKE = 1
"""The one transform of phase 1 (RFC 2407 section 4.4.2.1)."""


class Exchange(IntEnum):
    """Exchange types (RFC 2408 section 3.1, RFC 2409 appendix A; 6 is the configuration mode's draft)."""

    MAIN = 2
    AUTHENTICATION_ONLY = 3
    AGGRESSIVE = 4
    INFORMATIONAL = 5
    TRANSACTION = 6
    QUICK = 32
    NEW_GROUP = 33


class Flag(IntEnum):
    """Header flags (RFC 2408 section 3.1)."""

    ENCRYPTED = 0x01
    COMMIT = 0x02
    AUTHENTICATION = 0x04


class PayloadType(IntEnum):
    """Payload types (RFC 2408 section 3.1; 20 and 21 are RFC 3947, the others its drafts and Cisco's fragments)."""

    NONE = 0
    SA = 1
    PROPOSAL = 2
    TRANSFORM = 3
    KE = 4
    ID = 5
    CERT = 6
    CERTREQ = 7
    HASH = 8
    SIGNATURE = 9
    NONCE = 10
    NOTIFY = 11
    DELETE = 12
    VENDOR_ID = 13
    NAT_D = 20
    NAT_OA = 21
    NAT_D_DRAFT = 130
    NAT_OA_DRAFT = 131
    FRAGMENT = 132


class Protocol(IntEnum):
    """Security protocol identifiers (RFC 2407 section 4.4.1)."""

    ISAKMP = 1
    AH = 2
    ESP = 3
    IPCOMP = 4


class IdType(IntEnum):
    """Identification types (RFC 2407 section 4.6.2)."""

    IPV4_ADDR = 1
    FQDN = 2
    USER_FQDN = 3
    IPV4_ADDR_SUBNET = 4
    IPV6_ADDR = 5
    IPV6_ADDR_SUBNET = 6
    IPV4_ADDR_RANGE = 7
    IPV6_ADDR_RANGE = 8
    DER_ASN1_DN = 9
    DER_ASN1_GN = 10
    KEY_ID = 11


class NotifyType(IntEnum):
    """Notify message types (RFC 2408 section 3.14.1, RFC 2407 section 4.6.3, RFC 3706 section 5.3)."""

    INVALID_PAYLOAD_TYPE = 1
    DOI_NOT_SUPPORTED = 2
    SITUATION_NOT_SUPPORTED = 3
    INVALID_COOKIE = 4
    INVALID_MAJOR_VERSION = 5
    INVALID_MINOR_VERSION = 6
    INVALID_EXCHANGE_TYPE = 7
    INVALID_FLAGS = 8
    INVALID_MESSAGE_ID = 9
    INVALID_PROTOCOL_ID = 10
    INVALID_SPI = 11
    INVALID_TRANSFORM_ID = 12
    ATTRIBUTES_NOT_SUPPORTED = 13
    NO_PROPOSAL_CHOSEN = 14
    BAD_PROPOSAL_SYNTAX = 15
    PAYLOAD_MALFORMED = 16
    INVALID_KEY_INFORMATION = 17
    INVALID_ID_INFORMATION = 18
    INVALID_CERT_ENCODING = 19
    INVALID_CERTIFICATE = 20
    CERT_TYPE_UNSUPPORTED = 21
    INVALID_CERT_AUTHORITY = 22
    INVALID_HASH_INFORMATION = 23
    AUTHENTICATION_FAILED = 24
    INVALID_SIGNATURE = 25
    ADDRESS_NOTIFICATION = 26
    NOTIFY_SA_LIFETIME = 27
    CERTIFICATE_UNAVAILABLE = 28
    UNSUPPORTED_EXCHANGE_TYPE = 29
    UNEQUAL_PAYLOAD_LENGTHS = 30
    CONNECTED = 16384
    RESPONDER_LIFETIME = 24576
    REPLAY_STATUS = 24577
    INITIAL_CONTACT = 24578
    R_U_THERE = 36136
    R_U_THERE_ACK = 36137


FIRST_STATUS_NOTIFY = 16384
"""Types from here on are status, below they are errors (RFC 2408 section 3.14.1)."""


class Phase1Attribute(IntEnum):
    """Attributes of a phase 1 transform (RFC 2409 appendix A)."""

    ENCRYPTION = 1
    HASH = 2
    AUTHENTICATION_METHOD = 3
    GROUP = 4
    GROUP_TYPE = 5
    GROUP_PRIME = 6
    GROUP_GENERATOR_ONE = 7
    GROUP_GENERATOR_TWO = 8
    GROUP_CURVE_A = 9
    GROUP_CURVE_B = 10
    LIFE_TYPE = 11
    LIFE_DURATION = 12
    PRF = 13
    KEY_LENGTH = 14
    FIELD_SIZE = 15
    GROUP_ORDER = 16


class Phase2Attribute(IntEnum):
    """Attributes of a phase 2 transform (RFC 2407 section 4.5; 11 is RFC 4304)."""

    LIFE_TYPE = 1
    LIFE_DURATION = 2
    GROUP = 3
    ENCAPSULATION_MODE = 4
    AUTHENTICATION = 5
    KEY_LENGTH = 6
    KEY_ROUNDS = 7
    COMPRESS_DICTIONARY_SIZE = 8
    COMPRESS_PRIVATE = 9
    EXTENDED_SEQUENCE_NUMBER = 11


class LifeType(IntEnum):
    """Units of a life duration: the same numbers in both phases."""

    SECONDS = 1
    KILOBYTES = 2


class EncapsulationMode(IntEnum):
    """Encapsulation modes (RFC 2407 section 4.5, RFC 3947 section 5.1, and the drafts before it)."""

    TUNNEL = 1
    TRANSPORT = 2
    UDP_TUNNEL = 3
    UDP_TRANSPORT = 4
    UDP_TUNNEL_DRAFT = 61443
    UDP_TRANSPORT_DRAFT = 61444


class CertEncoding(IntEnum):
    """Certificate encodings (RFC 2408 section 3.9)."""

    NONE = 0
    PKCS7_X509 = 1
    PGP = 2
    DNS_SIGNED_KEY = 3
    X509_SIGNATURE = 4
    X509_KEY_EXCHANGE = 5
    KERBEROS = 6
    CRL = 7
    ARL = 8
    SPKI = 9
    X509_ATTRIBUTE = 10


CARRIED_PAYLOADS = frozenset((*range(14, 20), 22))
"""Payloads that others have a use for and this daemon passes over: 14 is the configuration draft's, 15 to 19 and 22 are
GDOI's (RFC 6407; 15 and 16 were also some drafts' NAT-D and NAT-OA)."""

_KNOWN_PAYLOADS = frozenset(int(number) for number in PayloadType)
_PAYLOAD_NAMES = {int(number): number.name for number in PayloadType}
_NOTIFY_NAMES = {int(number): number.name for number in NotifyType}
_EXCHANGE_NAMES: dict[int, str] = {
    Exchange.MAIN: "main-mode",
    Exchange.AUTHENTICATION_ONLY: "authentication-only",
    Exchange.AGGRESSIVE: "aggressive-mode",
    Exchange.INFORMATIONAL: "informational-v1",
    Exchange.TRANSACTION: "transaction",
    Exchange.QUICK: "quick-mode",
    Exchange.NEW_GROUP: "new-group-mode",
}


def is_known_payload(number: int) -> bool:
    """Return whether the payload type is one this codec recognises."""
    return number in _KNOWN_PAYLOADS


def is_known_exchange(number: int) -> bool:
    """Return whether the exchange type is one that IKEv1 has; not all of them are spoken here."""
    return number in _EXCHANGE_NAMES


def payload_name(number: int) -> str:
    """Return a payload type's name, or its number as text."""
    return _PAYLOAD_NAMES.get(number, f"type {number}")


def notify_name(number: int) -> str:
    """Return the registry's name of a notify type, or its number as text."""
    return _NOTIFY_NAMES.get(number, f"notify {number}")


def exchange_name(number: int) -> str:
    """Return the name of an exchange type as a slug, like ``main-mode``, or its number as text."""
    return _EXCHANGE_NAMES.get(number, f"exchange {number}")
