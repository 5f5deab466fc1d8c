"""The 38 families of refused IKEv1 messages: which event code, notify and recommended action each has. One table.

The families are those an operator knows from the log messages of another IKEv1 gateway, in its order, and so are the
actions; the code is stable, the text is not. Every such event says what was received, what is configured, and in which
message.

The notifies are those of RFC 2408 section 3.14.1. Where that gateway does otherwise:

* 14: for a situation it names INVALID_NOTIFY_TYPE, which is in no registry; SITUATION_NOT_SUPPORTED says what is meant.
* 1, 28: its UNEQUAL_PAYLOAD_LENGTH is the registry's UNEQUAL_PAYLOAD_LENGTHS. A hash that is wrong in a message that
  can be read is family 1 as well, and answered with INVALID_HASH_INFORMATION (RFC 2408 section 5.11).
* 2, 4, 5, 6, 9, 10, 21, 27, 29 to 31, 34, 35: it names no notify; the one is sent that RFC 2408 section 5 has.
* 15, 18: nothing is sent, as there. Without a cookie nobody can tell what an answer is about; and whoever answers
  messages for SAs that are not there answers everybody.
* 25, 26: a reserved field inside a proposal is a fault of its syntax, one in the header of a payload makes that
  malformed, as there.
* 29 to 38: it titles them "aggressive mode"; its messages are of phase 2, and so are these.

3, 11 and 24 are also what a peer tells us. In phase 1 that is in clear: anybody can say it, so it is shown and never
acted on. What it says about our proposals has a code of its own, ``ikev1.proposal-refused-by-peer``; what it says in
phase 2 is protected, ends the Quick Mode, and is ``child.peer-refused-proposal`` or ``child.peer-refused-ts``.
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
    ("Invalid initiator cookie", "initiator-cookie", None, _A.RESET),
    ("Invalid major version", "major-version", _N.INVALID_MAJOR_VERSION, _A.SUPPORT),
    ("Invalid minor version", "minor-version", _N.INVALID_MINOR_VERSION, _A.SUPPORT),
    ("Exchange for an IKE SA that does not exist", "exchange-without-sa", None, _A.RESET),
    ("Invalid flags", "flags", _N.INVALID_FLAGS, _A.RESET),
    ("Invalid message ID", "message-id", _N.INVALID_MESSAGE_ID, _A.SUPPORT),
    ("Invalid protocol ID", "protocol-id", _N.INVALID_PROTOCOL_ID, _A.SUPPORT),
    ("Invalid transform ID", "transform-id", _N.INVALID_TRANSFORM_ID, _A.CHECK_IKE),
    ("Unsupported attribute", "attribute", _N.ATTRIBUTES_NOT_SUPPORTED, _A.CHECK_IKE),
    ("Mismatched proposal", "proposal-mismatch", _N.NO_PROPOSAL_CHOSEN, _A.CHECK_IKE),
    ("Reserved field", "reserved-field", _N.BAD_PROPOSAL_SYNTAX, _A.CHECK_IKE),
    ("Malformed payload", "payload-malformed", _N.PAYLOAD_MALFORMED, _A.CHECK_IKE),
    ("Unsupported exchange type", "exchange-unsupported", _N.UNSUPPORTED_EXCHANGE_TYPE, _A.CHECK_IKE),
    ("Length of the SA payload", "sa-length", _N.UNEQUAL_PAYLOAD_LENGTHS, _A.CHECK_IKE),
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
