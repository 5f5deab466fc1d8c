"""Which payloads an exchange may carry (RFC 7296 section 1.2 to 1.4 and appendix C): a table and its check.

An answer may instead consist of notifies alone (an error, or INFORMATIONAL's empty answer); the check knows that.
What a task needs beyond this (SA, TSi and TSr together) it asks itself, since childless and failed variants exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from agents.ike.errors import WireError
from agents.ike.wire.payloads import Payload, payload_type
from agents.ike.wire.registry import Exchange, NotifyType, PayloadType, is_known_payload

_P = PayloadType
_MANY = 64

Bounds = Mapping[int, tuple[int, int]]

_ANYWHERE: dict[int, tuple[int, int]] = {_P.NOTIFY: (0, _MANY), _P.VENDOR_ID: (0, _MANY)}

# (exchange, is it a response): payload type -> (least, most)
RULES: Mapping[tuple[int, bool], Bounds] = MappingProxyType(
    {
        (Exchange.IKE_SA_INIT, False): {
            **_ANYWHERE,
            _P.SA: (1, 1),
            _P.KE: (1, 1),
            _P.NONCE: (1, 1),
            _P.CERTREQ: (0, _MANY),
        },
        (Exchange.IKE_SA_INIT, True): {
            **_ANYWHERE,
            _P.SA: (1, 1),
            _P.KE: (1, 1),
            _P.NONCE: (1, 1),
            _P.CERTREQ: (0, _MANY),
        },
        (Exchange.IKE_AUTH, False): {
            **_ANYWHERE,
            _P.ID_I: (1, 1),
            _P.ID_R: (0, 1),
            _P.CERT: (0, _MANY),
            _P.CERTREQ: (0, _MANY),
            _P.AUTH: (0, 1),
            _P.CP: (0, 1),
            _P.SA: (0, 1),
            _P.TS_I: (0, 1),
            _P.TS_R: (0, 1),
        },
        (Exchange.IKE_AUTH, True): {
            **_ANYWHERE,
            _P.ID_R: (1, 1),
            _P.CERT: (0, _MANY),
            _P.AUTH: (0, 1),
            _P.EAP: (0, 1),
            _P.CP: (0, 1),
            _P.SA: (0, 1),
            _P.TS_I: (0, 1),
            _P.TS_R: (0, 1),
        },
        (Exchange.CREATE_CHILD_SA, False): {
            **_ANYWHERE,
            _P.SA: (1, 1),
            _P.NONCE: (1, 1),
            _P.KE: (0, 1),
            _P.TS_I: (0, 1),
            _P.TS_R: (0, 1),
            _P.CP: (0, 1),
        },
        (Exchange.CREATE_CHILD_SA, True): {
            **_ANYWHERE,
            _P.SA: (1, 1),
            _P.NONCE: (1, 1),
            _P.KE: (0, 1),
            _P.TS_I: (0, 1),
            _P.TS_R: (0, 1),
            _P.CP: (0, 1),
        },
        (Exchange.IKE_INTERMEDIATE, False): {**_ANYWHERE, _P.KE: (1, 1)},
        (Exchange.IKE_INTERMEDIATE, True): {**_ANYWHERE, _P.KE: (1, 1)},
        (Exchange.IKE_FOLLOWUP_KE, False): {**_ANYWHERE, _P.KE: (1, 1)},
        (Exchange.IKE_FOLLOWUP_KE, True): {**_ANYWHERE, _P.KE: (1, 1)},
        (Exchange.INFORMATIONAL, False): {**_ANYWHERE, _P.DELETE: (0, _MANY), _P.CP: (0, 1)},
        (Exchange.INFORMATIONAL, True): {**_ANYWHERE, _P.DELETE: (0, _MANY), _P.CP: (0, 1)},
    }
)


def check(exchange: int, response: bool, payloads: tuple[Payload, ...]) -> None:
    """Raise WireError ``drop.payload-rules`` (notify INVALID_SYNTAX) when the table forbids this message."""
    bounds = RULES.get((exchange, response))
    if bounds is None:
        raise WireError("drop.exchange-type", f"exchange type {exchange}")
    counts: dict[int, int] = {}
    for payload in payloads:
        number = payload_type(payload)
        if number in bounds:
            counts[number] = counts.get(number, 0) + 1
        elif is_known_payload(number):
            raise _violation(f"{PayloadType(number).name} is not allowed here", PayloadType(number).name, None)
    only_notifies = response and all(number in _ANYWHERE for number in counts)
    for number, (least, most) in bounds.items():
        count = counts.get(number, 0)
        if count > most:
            raise _violation(f"{PayloadType(number).name} stands {count} times", count, f"at most {most}")
        if count < least and not only_notifies:
            raise _violation(f"{PayloadType(number).name} is missing", count, f"at least {least}")


def _violation(detail: str, received: object, expected: object) -> WireError:
    return WireError(
        "drop.payload-rules", detail, notify=NotifyType.INVALID_SYNTAX, received=received, expected=expected
    )
