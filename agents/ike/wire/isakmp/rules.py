"""What a header must hold, and which payloads each message of an exchange may and must carry (RFC 2409 section 5).

What goes beyond counting (which SA, which identities, what the hash covers) the machine asks itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from agents.ike.errors import WireError
from agents.ike.wire.header import NO_SPI, Header
from agents.ike.wire.isakmp import faults
from agents.ike.wire.isakmp.payloads import Payload, may_stand, payload_type
from agents.ike.wire.isakmp.registry import (
    CARRIED_PAYLOADS,
    Exchange,
    Flag,
    NotifyType,
    PayloadType,
    exchange_name,
    payload_name,
)

SPOKEN = frozenset((Exchange.MAIN, Exchange.AGGRESSIVE, Exchange.INFORMATIONAL, Exchange.QUICK))
"""The exchanges of this daemon; authentication only, configuration and new groups are refused by name."""

_PHASE_1 = frozenset((Exchange.MAIN, Exchange.AGGRESSIVE))
_FLAGS = int(Flag.ENCRYPTED | Flag.COMMIT | Flag.AUTHENTICATION)

_P = PayloadType
_MANY = 64

Bounds = Mapping[int, tuple[int, int]]

_ANYWHERE: Bounds = {_P.NOTIFY: (0, _MANY), _P.VENDOR_ID: (0, _MANY)}
_PHASE_1_ANYWHERE: Bounds = {**_ANYWHERE, _P.CERTREQ: (0, _MANY)}
_NAT_D: Bounds = {_P.NAT_D: (0, _MANY), _P.NAT_D_DRAFT: (0, _MANY)}
_PROOF: Bounds = {_P.HASH: (0, 1), _P.SIGNATURE: (0, 1), _P.CERT: (0, _MANY)}
_KEYS: Bounds = {_P.KE: (1, 1), _P.NONCE: (1, 1)}
_QUICK: Bounds = {
    **_ANYWHERE,
    _P.HASH: (1, 1),
    _P.SA: (1, _MANY),
    _P.NONCE: (1, 1),
    _P.KE: (0, 1),
    _P.ID: (0, 2),
    _P.NAT_OA: (0, 2),
    _P.NAT_OA_DRAFT: (0, 2),
}

# (exchange, number of the message from 1): payload type -> (least, most). RFC 2408 section 3.10 lets a CERTREQ stand
# anywhere; a fourth message of Quick Mode ends one with the commit bit (RFC 2409 section 5.5).
RULES: Mapping[tuple[int, int], Bounds] = MappingProxyType(
    {
        (Exchange.MAIN, 1): {**_PHASE_1_ANYWHERE, _P.SA: (1, 1)},
        (Exchange.MAIN, 2): {**_PHASE_1_ANYWHERE, _P.SA: (1, 1)},
        (Exchange.MAIN, 3): {**_PHASE_1_ANYWHERE, **_KEYS, **_NAT_D, _P.CERT: (0, _MANY)},
        (Exchange.MAIN, 4): {**_PHASE_1_ANYWHERE, **_KEYS, **_NAT_D, _P.CERT: (0, _MANY)},
        (Exchange.MAIN, 5): {**_PHASE_1_ANYWHERE, **_PROOF, _P.ID: (1, 1)},
        (Exchange.MAIN, 6): {**_PHASE_1_ANYWHERE, **_PROOF, _P.ID: (1, 1)},
        (Exchange.AGGRESSIVE, 1): {**_PHASE_1_ANYWHERE, **_KEYS, _P.SA: (1, 1), _P.ID: (1, 1)},
        (Exchange.AGGRESSIVE, 2): {
            **_PHASE_1_ANYWHERE,
            **_KEYS,
            **_NAT_D,
            **_PROOF,
            _P.SA: (1, 1),
            _P.ID: (1, 1),
        },
        (Exchange.AGGRESSIVE, 3): {**_PHASE_1_ANYWHERE, **_NAT_D, **_PROOF},
        (Exchange.QUICK, 1): _QUICK,
        (Exchange.QUICK, 2): _QUICK,
        (Exchange.QUICK, 3): {**_ANYWHERE, _P.HASH: (1, 1)},
        (Exchange.QUICK, 4): {**_ANYWHERE, _P.HASH: (1, 1), _P.NOTIFY: (1, _MANY)},
        (Exchange.INFORMATIONAL, 1): {**_ANYWHERE, _P.HASH: (0, 1), _P.DELETE: (0, _MANY)},
    }
)


def check_header(header: Header) -> None:
    """Raise WireError when an IKEv1 header is one that RFC 2408 section 5.2 refuses."""
    check_fields(header)
    check_message_id(header)


def check_fields(header: Header) -> None:
    """Raise WireError for all that :func:`check_header` refuses but the message ID: that is one of an SA."""
    _check_version(header.version)
    if not header.spi_i or header.spi_i == NO_SPI:
        raise WireError(
            "ikev1.initiator-cookie",
            "The initiator's cookie is zero",
            received="0",
            expected="8 octets that are not all zero",
        )
    if not may_stand(header.next_payload) and header.next_payload != PayloadType.NONE:
        raise faults.next_payload(header.next_payload)
    if header.exchange not in SPOKEN:
        raise WireError(
            "ikev1.exchange-unsupported",
            f"The exchange type {exchange_name(header.exchange)} ({header.exchange:#x}) is not supported",
            notify=NotifyType.UNSUPPORTED_EXCHANGE_TYPE,
            received=exchange_name(header.exchange),
            expected=", ".join(exchange_name(number) for number in sorted(SPOKEN)),
        )
    if header.flags & ~_FLAGS:
        raise WireError(
            "ikev1.flags",
            f"The flags ({header.flags:#x}) are invalid",
            notify=NotifyType.INVALID_FLAGS,
            received=f"{header.flags:#x}",
            expected=f"none but {_FLAGS:#x}",
        )


def _check_version(version: int) -> None:
    if version >> 4 != 1:
        raise WireError(
            "ikev1.major-version",
            f"The major version ({version >> 4}) is not 1",
            notify=NotifyType.INVALID_MAJOR_VERSION,
            received=version >> 4,
            expected=1,
        )
    if version & 0x0F:
        raise WireError(
            "ikev1.minor-version",
            f"The minor version ({version & 0x0F}) is not supported",
            notify=NotifyType.INVALID_MINOR_VERSION,
            received=version & 0x0F,
            expected=0,
        )


def check_message_id(header: Header) -> None:
    """Raise WireError for a message ID that the exchange cannot have.

    An Informational in clear belongs to phase 1 or to nothing, and its senders differ about its message ID.

    So they do about that of a fragment, which counts for nothing: the whole has a header of its own.
    """
    if header.next_payload == PayloadType.FRAGMENT:
        return
    if header.exchange in _PHASE_1:
        wrong, expected = header.message_id != 0, "0x0 in phase 1"
    elif header.exchange == Exchange.QUICK or header.flags & Flag.ENCRYPTED:
        wrong, expected = header.message_id == 0, "not 0x0 in phase 2"
    else:
        return
    if wrong:
        raise WireError(
            "ikev1.message-id",
            f"The message ID ({header.message_id:#x}) is invalid in {exchange_name(header.exchange)}",
            notify=NotifyType.INVALID_MESSAGE_ID,
            received=f"{header.message_id:#x}",
            expected=expected,
        )


def check(exchange: int, payloads: Sequence[Payload], step: int = 1) -> None:
    """Raise WireError ``drop.payload-rules`` when the table forbids this message, the ``step``-th of its exchange.

    Payloads that are carried unread are passed over wherever they stand.
    """
    bounds = RULES.get((exchange, step))
    if bounds is None:
        raise _violation(
            f"Message {step} of {exchange_name(exchange)} does not exist", step, None, NotifyType.INVALID_EXCHANGE_TYPE
        )
    types = [number for number in map(payload_type, payloads) if number not in CARRIED_PAYLOADS]
    where = f"in message {step} of {exchange_name(exchange)}"
    for number in types:
        if number not in bounds:
            name = payload_name(number)
            raise _violation(f"{name} is not allowed {where}", name, None, NotifyType.INVALID_PAYLOAD_TYPE)
    for number, (least, most) in bounds.items():
        count = types.count(number)
        if not least <= count <= most:
            raise _violation(
                f"{payload_name(number)} stands {count} times {where}",
                count,
                least if least == most else f"{least} to {most}",
            )
    _check_order(exchange, types, where)
    proof = bounds.keys() >= _PROOF.keys()
    if proof and types.count(_P.HASH) + types.count(_P.SIGNATURE) != 1:
        raise _violation(f"There is not one hash or signature {where}", None, "one HASH or one SIGNATURE")


def _check_order(exchange: int, types: list[int], where: str) -> None:
    """Only phase 2 has an order: the hash is first, in Quick Mode the SA follows (RFC 2409 section 5.5)."""
    if _P.HASH in types and exchange in (Exchange.QUICK, Exchange.INFORMATIONAL) and types[0] != _P.HASH:
        raise _violation(f"HASH is not the first payload {where}", payload_name(types[0]), "HASH")
    if exchange == Exchange.QUICK and types.count(_P.ID) == 1:
        raise _violation(f"One identity stands alone {where}", 1, "0 or 2")
    if exchange == Exchange.QUICK and _P.SA in types and types[1] != _P.SA:
        raise _violation(f"SA does not follow HASH {where}", payload_name(types[1]), "SA")


def _violation(
    detail: str, received: object, expected: object, notify: NotifyType = NotifyType.PAYLOAD_MALFORMED
) -> WireError:
    return WireError("drop.payload-rules", detail, notify=notify, received=received, expected=expected)
