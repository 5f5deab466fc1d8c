"""The errors of this codec, each with the notify that RFC 2408 sections 5.2 to 5.15 has for it."""

from __future__ import annotations

from agents.ike.errors import WireError
from agents.ike.wire.isakmp.registry import NotifyType, payload_name

MALFORMED = "ikev1.payload-malformed"


def malformed(
    detail: str, *, received: object = None, expected: object = None, notify: NotifyType = NotifyType.PAYLOAD_MALFORMED
) -> WireError:
    """Return the error of a payload whose lengths or values cannot be."""
    return WireError(MALFORMED, detail, notify=notify, received=received, expected=expected)


def reserved(what: str, value: int, notify: NotifyType) -> WireError:
    """Return the error of a reserved field that is not zero: one inside a proposal is a fault of its syntax."""
    return WireError(
        "ikev1.reserved-field" if notify == NotifyType.BAD_PROPOSAL_SYNTAX else MALFORMED,
        f"A reserved field of the {what} is {value:#x}",
        notify=notify,
        received=f"{value:#x}",
        expected="0x0",
    )


def next_payload(number: int, expected: str = "a payload type of IKEv1") -> WireError:
    """Return the error of a next payload field that names nothing that can stand there."""
    return WireError(
        "ikev1.next-payload",
        f"The next payload {payload_name(number)} ({number:#x}) is invalid",
        notify=NotifyType.INVALID_PAYLOAD_TYPE,
        received=f"{number:#x}",
        expected=expected,
    )


def sa_length(length: int, parts: int) -> WireError:
    """Return the error of an SA payload whose length is not that of what it holds."""
    relation = "greater" if length > parts else "less"
    return WireError(
        "ikev1.sa-length",
        f"Payload length ({length}) is {relation} than SA + Proposal + Xform + Attributes size ({parts})",
        notify=NotifyType.UNEQUAL_PAYLOAD_LENGTHS,
        received=f"{length} octets",
        expected=f"{parts} octets",
    )


def doi(number: int) -> WireError:
    """Return the error of a domain of interpretation other than IPsec."""
    return WireError(
        "ikev1.doi",
        f"The domain of interpretation ({number:#x}) is not supported",
        notify=NotifyType.DOI_NOT_SUPPORTED,
        received=f"{number:#x}",
        expected="0x1",
    )


def protocol_id(number: int, expected: str) -> WireError:
    """Return the error of a security protocol that is none."""
    return WireError(
        "ikev1.protocol-id",
        f"The protocol ID ({number:#x}) is invalid",
        notify=NotifyType.INVALID_PROTOCOL_ID,
        received=f"{number:#x}",
        expected=expected,
    )
