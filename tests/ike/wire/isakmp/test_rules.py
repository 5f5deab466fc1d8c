"""Headers that are refused, and payloads that a message may and must carry."""

from __future__ import annotations

from typing import Any

import pytest

from agents.ike.errors import WireError
from agents.ike.wire.isakmp import rules
from agents.ike.wire.isakmp.payloads import (
    Cert,
    CertReq,
    Delete,
    Fragment,
    Hash,
    Identification,
    KeyExchangeData,
    NatDetection,
    NatOriginalAddress,
    Nonce,
    Notify,
    Opaque,
    Payload,
    Signature,
    VendorId,
)
from agents.ike.wire.isakmp.registry import Exchange, Flag, IdType, NotifyType, PayloadType, Protocol
from tests.ike.wire.isakmp.samples import IKE_SA, header

_SA = IKE_SA
_KE = KeyExchangeData(data=b"public")
_NONCE = Nonce(data=bytes(16))
_ID = Identification(id_type=IdType.IPV4_ADDR, data=bytes(4))
_HASH = Hash(data=bytes(20))
_SIGNATURE = Signature(data=bytes(128))
_CERT = Cert(encoding=4, data=b"certificate")
_CERTREQ = CertReq(encoding=4)
_NAT_D = NatDetection(data=bytes(20))
_NAT_D_DRAFT = NatDetection(data=bytes(20), draft=True)
_NAT_OA = NatOriginalAddress(id_type=IdType.IPV4_ADDR, data=bytes(4))
_NOTIFY = Notify(type=NotifyType.INITIAL_CONTACT)
_DELETE = Delete(protocol=Protocol.ESP, spis=(b"abcd",))
_VENDOR = VendorId(data=b"anybody")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"next_payload": PayloadType.SA},
        {"exchange": Exchange.AGGRESSIVE, "flags": Flag.ENCRYPTED},
        {"exchange": Exchange.QUICK, "flags": Flag.ENCRYPTED | Flag.COMMIT, "message_id": 9},
        {"exchange": Exchange.INFORMATIONAL, "flags": Flag.AUTHENTICATION},
        {"exchange": Exchange.INFORMATIONAL, "message_id": 9},
        {"exchange": Exchange.INFORMATIONAL, "flags": Flag.ENCRYPTED, "message_id": 9},
        {"exchange": Exchange.QUICK, "next_payload": PayloadType.FRAGMENT},
        {"exchange": Exchange.MAIN, "next_payload": PayloadType.FRAGMENT, "message_id": 9},
    ],
)
def test_right_headers(fields: dict[str, Any]) -> None:
    rules.check_header(header(**fields))


@pytest.mark.parametrize(
    ("fields", "code", "notify", "received"),
    [
        ({"version": 0x20}, "major-version", NotifyType.INVALID_MAJOR_VERSION, "2"),
        ({"version": 0x12}, "minor-version", NotifyType.INVALID_MINOR_VERSION, "2"),
        ({"spi_i": bytes(8)}, "initiator-cookie", None, "0"),
        ({"next_payload": 0x99}, "next-payload", NotifyType.INVALID_PAYLOAD_TYPE, "0x99"),
        ({"next_payload": 2}, "next-payload", NotifyType.INVALID_PAYLOAD_TYPE, "0x2"),
        ({"exchange": 34}, "exchange-unsupported", NotifyType.UNSUPPORTED_EXCHANGE_TYPE, "exchange 34"),
        ({"exchange": 6}, "exchange-unsupported", NotifyType.UNSUPPORTED_EXCHANGE_TYPE, "transaction"),
        ({"flags": 0xF0}, "flags", NotifyType.INVALID_FLAGS, "0xf0"),
        ({"message_id": 0x100100}, "message-id", NotifyType.INVALID_MESSAGE_ID, "0x100100"),
        ({"exchange": 4, "message_id": 1}, "message-id", NotifyType.INVALID_MESSAGE_ID, "0x1"),
        ({"exchange": 32, "flags": 1}, "message-id", NotifyType.INVALID_MESSAGE_ID, "0x0"),
        ({"exchange": 5, "flags": 1}, "message-id", NotifyType.INVALID_MESSAGE_ID, "0x0"),
    ],
)
def test_wrong_headers(fields: dict[str, Any], code: str, notify: NotifyType | None, received: str) -> None:
    with pytest.raises(WireError) as caught:
        rules.check_header(header(**fields))
    assert (caught.value.code, caught.value.notify) == (f"ikev1.{code}", notify)
    assert caught.value.received == received
    assert caught.value.expected


_QUICK = (_HASH, _SA, _NONCE)


@pytest.mark.parametrize(
    ("exchange", "step", "payloads"),
    [
        (Exchange.MAIN, 1, (_SA, _VENDOR, _VENDOR)),
        (Exchange.MAIN, 2, (_SA, _CERTREQ)),
        (Exchange.MAIN, 3, (_KE, _NONCE, _NAT_D, _NAT_D, _NAT_D)),
        (Exchange.MAIN, 4, (_VENDOR, _NONCE, _KE, _CERTREQ, _NAT_D_DRAFT, _NAT_D_DRAFT)),
        (Exchange.MAIN, 5, (_ID, _HASH, _NOTIFY)),
        (Exchange.MAIN, 6, (_ID, _CERT, _CERT, _SIGNATURE, _CERTREQ)),
        (Exchange.AGGRESSIVE, 1, (_SA, _KE, _NONCE, _ID, _VENDOR)),
        (Exchange.AGGRESSIVE, 2, (_SA, _KE, _NONCE, _ID, _CERT, _SIGNATURE, _NAT_D, _NAT_D)),
        (Exchange.AGGRESSIVE, 3, (_HASH, _NAT_D, _NAT_D, _NOTIFY)),
        (Exchange.QUICK, 1, _QUICK),
        (Exchange.QUICK, 1, (_HASH, _SA, _SA, _NONCE, _KE, _ID, _ID, _NAT_OA, _NAT_OA)),
        (Exchange.QUICK, 2, (*_QUICK, _KE, _ID, _ID, _NOTIFY)),
        (Exchange.QUICK, 3, (_HASH,)),
        (Exchange.QUICK, 4, (_HASH, _NOTIFY)),
        (Exchange.INFORMATIONAL, 1, (_NOTIFY,)),
        (Exchange.INFORMATIONAL, 1, (_HASH, _DELETE, _DELETE, _NOTIFY)),
        (Exchange.MAIN, 1, (_SA, Opaque(type=14, data=b""))),
    ],
)
def test_right_messages(exchange: Exchange, step: int, payloads: tuple[Payload, ...]) -> None:
    rules.check(exchange, payloads, step)


_TYPE, _SHAPE = NotifyType.INVALID_PAYLOAD_TYPE, NotifyType.PAYLOAD_MALFORMED


@pytest.mark.parametrize(
    ("exchange", "step", "payloads", "notify"),
    [
        (Exchange.MAIN, 1, (), _SHAPE),
        (Exchange.MAIN, 1, (_SA, _SA), _SHAPE),
        (Exchange.MAIN, 1, (_SA, _KE), _TYPE),
        (Exchange.MAIN, 2, (_SA, _HASH), _TYPE),
        (Exchange.MAIN, 3, (_KE, _NONCE, _ID), _TYPE),
        (Exchange.MAIN, 3, (_KE,), _SHAPE),
        (Exchange.MAIN, 4, (_KE, _KE, _NONCE), _SHAPE),
        (Exchange.MAIN, 5, (_ID,), _SHAPE),
        (Exchange.MAIN, 5, (_ID, _HASH, _SIGNATURE), _SHAPE),
        (Exchange.MAIN, 6, (_HASH,), _SHAPE),
        (Exchange.MAIN, 7, (_ID, _HASH), NotifyType.INVALID_EXCHANGE_TYPE),
        (Exchange.AGGRESSIVE, 1, (_SA, _KE, _NONCE), _SHAPE),
        (Exchange.AGGRESSIVE, 2, (_SA, _KE, _NONCE, _ID), _SHAPE),
        (Exchange.AGGRESSIVE, 3, (_HASH, _ID), _TYPE),
        (Exchange.AGGRESSIVE, 3, (), _SHAPE),
        (Exchange.QUICK, 1, (_SA, _HASH, _NONCE), _SHAPE),
        (Exchange.QUICK, 1, (_HASH, _NONCE, _SA), _SHAPE),
        (Exchange.QUICK, 1, (*_QUICK, _ID), _SHAPE),
        (Exchange.QUICK, 1, (*_QUICK, _ID, _ID, _ID), _SHAPE),
        (Exchange.QUICK, 2, (_SA, _NONCE), _SHAPE),
        (Exchange.QUICK, 2, (*_QUICK, _CERT), _TYPE),
        (Exchange.QUICK, 3, (_HASH, _NONCE), _TYPE),
        (Exchange.QUICK, 4, (_HASH,), _SHAPE),
        (Exchange.INFORMATIONAL, 1, (_DELETE, _HASH), _SHAPE),
        (Exchange.INFORMATIONAL, 1, (_SA,), _TYPE),
        (Exchange.MAIN, 1, (_SA, Fragment(id=1, number=1, last=True, data=b"x")), _TYPE),
        (Exchange.TRANSACTION, 1, (_HASH,), NotifyType.INVALID_EXCHANGE_TYPE),
    ],
)
def test_wrong_messages(exchange: Exchange, step: int, payloads: tuple[Payload, ...], notify: NotifyType) -> None:
    with pytest.raises(WireError) as caught:
        rules.check(exchange, payloads, step)
    assert (caught.value.code, caught.value.notify) == ("drop.payload-rules", notify)
