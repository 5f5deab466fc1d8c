"""Families of rejected packets: which event code each has and what comes of it. One table.

The families are those an operator knows from the log messages of other IKEv2 gateways; the code is stable, the text is
not. Every such event carries the exchange, the payload, what was received and what would have been right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from agents.ike.wire.registry import PayloadType


class Reaction(StrEnum):
    """What is done with a packet of the family once its sender is known; one in clear is dropped in silence."""

    SYNTAX = "refused with INVALID_SYNTAX, which ends the IKE SA"
    CRITICAL = "refused with UNSUPPORTED_CRITICAL_PAYLOAD"
    AUTHENTICATION = "refused with AUTHENTICATION_FAILED, which ends the IKE SA"
    PROPOSAL = "refused with NO_PROPOSAL_CHOSEN"
    DROP = "dropped; another major version is answered with INVALID_MAJOR_VERSION"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family; ``codes`` has more than one where the parts of a family differ in what mends them."""

    name: str
    codes: tuple[str, ...]
    reaction: Reaction = Reaction.SYNTAX


FAMILIES = (
    Family(name="Authentication payload", codes=("wire.auth-payload",)),
    Family(name="Certificate payload", codes=("wire.cert-payload",)),
    Family(name="CP payload", codes=("wire.cp-payload",)),
    Family(name="Default payload", codes=("wire.default-payload",)),
    Family(name="Delete payload", codes=("wire.delete-payload",)),
    Family(name="EAP payload", codes=("wire.eap-payload",)),
    Family(name="Encrypted payload", codes=("wire.encrypted-payload",)),
    Family(name="ID payload", codes=("wire.id-payload",)),
    Family(name="Key exchange payload", codes=("wire.ke-payload",)),
    Family(name="Nonce payload", codes=("wire.nonce-payload",)),
    Family(name="Notify payload", codes=("wire.notify-payload",)),
    Family(name="Proposal payload", codes=("wire.proposal-payload",)),
    Family(name="SA payload", codes=("wire.sa-payload",)),
    Family(name="Traffic selector payload", codes=("wire.ts-payload",)),
    Family(name="Unsupported payload", codes=("drop.critical-payload",), reaction=Reaction.CRITICAL),
    Family(name="Vendor ID payload", codes=("wire.vendor-id-payload",)),
    Family(name="Xform payload", codes=("wire.transform",)),
    Family(
        name="IKEv2 header",
        codes=("wire.header", "drop.version", "drop.ikev1", "drop.exchange-type", "drop.payload-rules"),
        reaction=Reaction.DROP,
    ),
    Family(name="Incomplete attribute", codes=("wire.incomplete-attribute",)),
    Family(name="Invalid attribute", codes=("wire.invalid-attribute",), reaction=Reaction.AUTHENTICATION),
    Family(
        name="Mismatched attribute",
        codes=(
            "wire.mismatched-attribute",
            "ike.no-proposal",
            "child.no-proposal",
            "child.protocols-mismatch",
            "child.encryption-mismatch",
            "child.integrity-mismatch",
            "child.ah-mismatch",
            "child.pfs-mismatch",
            "child.esn-mismatch",
        ),
        reaction=Reaction.PROPOSAL,
    ),
    Family(name="Traffic selector attribute", codes=("wire.ts-attribute",)),
)

_OF_PAYLOAD: Mapping[int, str] = MappingProxyType(
    {
        PayloadType.SA: "wire.sa-payload",
        PayloadType.KE: "wire.ke-payload",
        PayloadType.ID_I: "wire.id-payload",
        PayloadType.ID_R: "wire.id-payload",
        PayloadType.CERT: "wire.cert-payload",
        PayloadType.CERTREQ: "wire.cert-payload",
        PayloadType.AUTH: "wire.auth-payload",
        PayloadType.NONCE: "wire.nonce-payload",
        PayloadType.NOTIFY: "wire.notify-payload",
        PayloadType.DELETE: "wire.delete-payload",
        PayloadType.VENDOR_ID: "wire.vendor-id-payload",
        PayloadType.TS_I: "wire.ts-payload",
        PayloadType.TS_R: "wire.ts-payload",
        PayloadType.SK: "wire.encrypted-payload",
        PayloadType.SKF: "wire.encrypted-payload",
        PayloadType.CP: "wire.cp-payload",
        PayloadType.EAP: "wire.eap-payload",
    }
)


def code_of(payload_type: int) -> str:
    """Return the code of a payload whose generic header is wrong."""
    return _OF_PAYLOAD.get(payload_type, "wire.default-payload")


def payload_name(payload_type: int) -> str:
    """Return a payload type's name in the registry, or its number as text."""
    try:
        return PayloadType(payload_type).name
    except ValueError:
        return f"type {payload_type}"
