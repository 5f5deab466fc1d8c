"""Numbers of "Internet Key Exchange Version 2 (IKEv2) Parameters" that this implementation names.

Only what the protocol core speaks or reports by name; algorithm numbers live in :mod:`agents.contract.algorithms`.
"""

from __future__ import annotations

from enum import IntEnum


class Exchange(IntEnum):
    """Exchange types (RFC 7296 section 3.1; 43 is RFC 9242, 44 is RFC 9370)."""

    IKE_SA_INIT = 34
    IKE_AUTH = 35
    CREATE_CHILD_SA = 36
    INFORMATIONAL = 37
    IKE_INTERMEDIATE = 43
    IKE_FOLLOWUP_KE = 44


class Flag(IntEnum):
    """Header flags (section 3.1)."""

    INITIATOR = 0x08
    VERSION = 0x10
    RESPONSE = 0x20


class PayloadType(IntEnum):
    """Payload types (section 3.2; 53 is RFC 7383)."""

    NONE = 0
    SA = 33
    KE = 34
    ID_I = 35
    ID_R = 36
    CERT = 37
    CERTREQ = 38
    AUTH = 39
    NONCE = 40
    NOTIFY = 41
    DELETE = 42
    VENDOR_ID = 43
    TS_I = 44
    TS_R = 45
    SK = 46
    CP = 47
    EAP = 48
    SKF = 53


class Protocol(IntEnum):
    """Security protocol identifiers (section 3.3.1)."""

    NONE = 0
    IKE = 1
    AH = 2
    ESP = 3


class TransformType(IntEnum):
    """Transform types (section 3.3.2; 6 to 12 are the additional key exchanges of RFC 9370)."""

    ENCR = 1
    PRF = 2
    INTEG = 3
    KE = 4
    ESN = 5
    ADDKE1 = 6
    ADDKE2 = 7
    ADDKE3 = 8
    ADDKE4 = 9
    ADDKE5 = 10
    ADDKE6 = 11
    ADDKE7 = 12


class IdType(IntEnum):
    """Identification types (section 3.5)."""

    IPV4_ADDR = 1
    FQDN = 2
    RFC822_ADDR = 3
    IPV6_ADDR = 5
    DER_ASN1_DN = 9
    DER_ASN1_GN = 10
    KEY_ID = 11


class AuthMethod(IntEnum):
    """Authentication methods (section 3.8; 9 to 11 are RFC 4754, 14 is RFC 7427)."""

    RSA_SIGNATURE = 1
    SHARED_KEY_MIC = 2
    DSS_SIGNATURE = 3
    ECDSA_SHA256_P256 = 9
    ECDSA_SHA384_P384 = 10
    ECDSA_SHA512_P521 = 11
    DIGITAL_SIGNATURE = 14


class CertEncoding(IntEnum):
    """Certificate encodings (section 3.6) that are told apart here; the others are passed over."""

    X509_SIGNATURE = 4


class HashAlgorithm(IntEnum):
    """Hash algorithms of SIGNATURE_HASH_ALGORITHMS (RFC 7427 section 7; 5 is RFC 8420)."""

    SHA1 = 1
    SHA2_256 = 2
    SHA2_384 = 3
    SHA2_512 = 4
    IDENTITY = 5


class TsType(IntEnum):
    """Traffic selector types (section 3.13.1)."""

    IPV4_ADDR_RANGE = 7
    IPV6_ADDR_RANGE = 8


class NotifyType(IntEnum):
    """Notify message types (section 3.10.1); below 16384 they are errors."""

    UNSUPPORTED_CRITICAL_PAYLOAD = 1
    INVALID_IKE_SPI = 4
    INVALID_MAJOR_VERSION = 5
    INVALID_SYNTAX = 7
    INVALID_MESSAGE_ID = 9
    INVALID_SPI = 11
    NO_PROPOSAL_CHOSEN = 14
    INVALID_KE_PAYLOAD = 17
    AUTHENTICATION_FAILED = 24
    SINGLE_PAIR_REQUIRED = 34
    NO_ADDITIONAL_SAS = 35
    INTERNAL_ADDRESS_FAILURE = 36
    FAILED_CP_REQUIRED = 37
    TS_UNACCEPTABLE = 38
    INVALID_SELECTORS = 39
    UNACCEPTABLE_ADDRESSES = 40
    UNEXPECTED_NAT_DETECTED = 41
    TEMPORARY_FAILURE = 43
    CHILD_SA_NOT_FOUND = 44
    STATE_NOT_FOUND = 47
    INITIAL_CONTACT = 16384
    SET_WINDOW_SIZE = 16385
    ADDITIONAL_TS_POSSIBLE = 16386
    IPCOMP_SUPPORTED = 16387
    NAT_DETECTION_SOURCE_IP = 16388
    NAT_DETECTION_DESTINATION_IP = 16389
    COOKIE = 16390
    USE_TRANSPORT_MODE = 16391
    HTTP_CERT_LOOKUP_SUPPORTED = 16392
    REKEY_SA = 16393
    ESP_TFC_PADDING_NOT_SUPPORTED = 16394
    NON_FIRST_FRAGMENTS_ALSO = 16395
    MOBIKE_SUPPORTED = 16396
    ADDITIONAL_IP4_ADDRESS = 16397
    ADDITIONAL_IP6_ADDRESS = 16398
    NO_ADDITIONAL_ADDRESSES = 16399
    UPDATE_SA_ADDRESSES = 16400
    COOKIE2 = 16401
    NO_NATS_ALLOWED = 16402
    AUTH_LIFETIME = 16403
    MULTIPLE_AUTH_SUPPORTED = 16404
    ANOTHER_AUTH_FOLLOWS = 16405
    EAP_ONLY_AUTHENTICATION = 16417
    CHILDLESS_IKEV2_SUPPORTED = 16418
    IKEV2_FRAGMENTATION_SUPPORTED = 16430
    SIGNATURE_HASH_ALGORITHMS = 16431
    USE_PPK = 16435
    PPK_IDENTITY = 16436
    NO_PPK_AUTH = 16437
    INTERMEDIATE_EXCHANGE_SUPPORTED = 16438
    ADDITIONAL_KEY_EXCHANGE = 16441


FIRST_STATUS_NOTIFY = 16384
"""Types from here on are status, below they are errors (section 3.10.1)."""

ATTRIBUTE_KEY_LENGTH = 14
"""The one transform attribute of RFC 7296 (section 3.3.5)."""

_KNOWN_PAYLOADS = frozenset(int(number) for number in PayloadType)
_NOTIFY_NAMES = {int(number): number.name for number in NotifyType}
_EXCHANGES = frozenset(int(number) for number in Exchange)


def is_known_payload(number: int) -> bool:
    """Return whether the payload type is one this codec recognises."""
    return number in _KNOWN_PAYLOADS


def is_known_exchange(number: int) -> bool:
    """Return whether the exchange type is one this daemon speaks."""
    return number in _EXCHANGES


def notify_name(number: int) -> str:
    """Return the registry's name of a notify type, or its number as text."""
    return _NOTIFY_NAMES.get(number, f"notify {number}")


def exchange_name(number: int) -> str:
    """Return the registry's name of an exchange type as a slug, like ``ike-auth``, or its number as text."""
    return Exchange(number).name.lower().replace("_", "-") if number in _EXCHANGES else f"exchange {number}"
