"""The 38 families of refused IKEv1 messages: which event code, notify and recommended action each has. One table.

The families are those an operator knows from the log messages of another IKEv1 gateway, in its order; the code is
stable, the text is not. Every such event says what was received, what is configured, and in which message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from agents.ike.wire.isakmp.registry import NotifyType


class Action(StrEnum):
    """The five recommended actions."""

    CHECK_IKE = "compare the IKE policies of both ends"
    CHECK_IPSEC = "compare the IPsec policies of both ends"
    SUPPORT = "contact support"
    RESET = "reset the VPN connection"
    NONE = "none: for information"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family; ``notify`` is what the peer is told or, where it tells us, what it said."""

    number: int
    name: str
    code: str
    notify: NotifyType | None
    action: Action


_N = NotifyType
_A = Action

_ROWS: tuple[tuple[str, str, NotifyType | None, Action], ...] = (
    ("Mismatched pre-shared key", "psk-mismatch", _N.UNEQUAL_PAYLOAD_LENGTHS, _A.CHECK_IKE),
    ("Mismatched Diffie-Hellman group", "group-mismatch", _N.NO_PROPOSAL_CHOSEN, _A.CHECK_IKE),
    ("Mismatched exchange mode", "exchange-mode-mismatch", _N.UNSUPPORTED_EXCHANGE_TYPE, _A.CHECK_IKE),
    ("Mismatched authentication algorithm", "hash-mismatch", _N.NO_PROPOSAL_CHOSEN, _A.CHECK_IKE),
    ("Mismatched encryption algorithm", "encryption-mismatch", _N.NO_PROPOSAL_CHOSEN, _A.CHECK_IKE),
    ("Mismatched authentication method", "auth-method-mismatch", _N.NO_PROPOSAL_CHOSEN, _A.CHECK_IKE),
    ("Certificate identity", "certificate-identity-mismatch", _N.INVALID_ID_INFORMATION, _A.CHECK_IKE),
    ("Certificate identity of no tunnel", "no-tunnel-for-identity", _N.INVALID_ID_INFORMATION, _A.CHECK_IKE),
    ("Identity with a pre-shared key", "psk-identity-mismatch", _N.INVALID_ID_INFORMATION, _A.CHECK_IKE),
    ("Identity not in the certificate", "identity-not-in-certificate", _N.INVALID_ID_INFORMATION, _A.CHECK_IKE),
    ("Identity refused by the peer", "identity-refused-by-peer", _N.INVALID_ID_INFORMATION, _A.CHECK_IKE),
    ("Invalid next payload", "next-payload", _N.INVALID_PAYLOAD_TYPE, _A.CHECK_IKE),
    ("Invalid domain of interpretation", "doi", _N.DOI_NOT_SUPPORTED, _A.SUPPORT),
    ("Invalid situation", "situation", _N.SITUATION_NOT_SUPPORTED, _A.SUPPORT),
    ("Invalid initiator cookie", "initiator-cookie", _N.INVALID_COOKIE, _A.RESET),
    ("Invalid major version", "major-version", _N.INVALID_MAJOR_VERSION, _A.SUPPORT),
    ("Invalid minor version", "minor-version", _N.INVALID_MINOR_VERSION, _A.SUPPORT),
    ("Exchange for an IKE SA that does not exist", "exchange-without-sa", None, _A.RESET),
    ("Invalid flags", "flags", _N.INVALID_FLAGS, _A.RESET),
    ("Invalid message ID", "message-id", _N.INVALID_MESSAGE_ID, _A.SUPPORT),
    ("Invalid protocol ID", "protocol-id", _N.INVALID_PROTOCOL_ID, _A.SUPPORT),
    ("Invalid transform ID", "transform-id", _N.INVALID_TRANSFORM_ID, _A.CHECK_IKE),
    ("Unsupported attribute", "attribute", _N.ATTRIBUTES_NOT_SUPPORTED, _A.CHECK_IKE),
    ("Mismatched proposal", "proposal-mismatch", _N.NO_PROPOSAL_CHOSEN, _A.CHECK_IKE),
    ("Reserved field", "reserved-field", _N.BAD_PROPOSAL_SYNTAX, _A.SUPPORT),
    ("Malformed payload", "payload-malformed", _N.PAYLOAD_MALFORMED, _A.SUPPORT),
    ("Unsupported exchange type", "exchange-unsupported", _N.UNSUPPORTED_EXCHANGE_TYPE, _A.CHECK_IKE),
    ("Length of the SA payload", "sa-length", _N.UNEQUAL_PAYLOAD_LENGTHS, _A.SUPPORT),
    ("Mismatched group of phase 2", "pfs-mismatch", _N.NO_PROPOSAL_CHOSEN, _A.CHECK_IPSEC),
    ("Mismatched authentication of phase 2", "child-integrity-mismatch", _N.NO_PROPOSAL_CHOSEN, _A.CHECK_IPSEC),
    ("Mismatched encryption of phase 2", "child-encryption-mismatch", _N.NO_PROPOSAL_CHOSEN, _A.CHECK_IPSEC),
    ("Selectors sent", "selectors-sent", None, _A.NONE),
    ("Selectors received", "selectors-received", None, _A.NONE),
    ("Mismatched selectors", "selectors-mismatch", _N.INVALID_ID_INFORMATION, _A.CHECK_IPSEC),
    ("Mismatched security protocols", "protocols-mismatch", _N.NO_PROPOSAL_CHOSEN, _A.CHECK_IPSEC),
    ("Lifetime in seconds", "lifetime-seconds", _N.RESPONDER_LIFETIME, _A.NONE),
    ("Lifetime in kilobytes", "lifetime-kilobytes", _N.RESPONDER_LIFETIME, _A.NONE),
    ("Delete received", "delete-received", None, _A.NONE),
)

FAMILIES = tuple(
    Family(number=number, name=name, code=f"ikev1.{code}", notify=notify, action=action)
    for number, (name, code, notify, action) in enumerate(_ROWS, start=1)
)

BY_CODE: Mapping[str, Family] = MappingProxyType({family.code: family for family in FAMILIES})
