"""The KE payload of either role (RFC 7296 section 3.4): what a bad public value means for an exchange."""

from __future__ import annotations

from agents.contract.algorithms import KeyExchange
from agents.ike.crypto.dh import InvalidPublicValue, KeyPair, respond
from agents.ike.errors import PeerError
from agents.ike.outputs import Entropy
from agents.ike.wire.payloads import KeyExchangeData
from agents.ike.wire.registry import NotifyType


def answer(group: KeyExchange, public: bytes, entropy: Entropy) -> tuple[KeyExchangeData, bytes]:
    """Return the responder's payload and the shared secret. Raises PeerError INVALID_SYNTAX."""
    try:
        value, shared = respond(group, public, entropy)
    except InvalidPublicValue as error:
        raise _invalid(error) from None
    return KeyExchangeData(group=group.number, data=value), shared


def finish(key_pair: KeyPair, public: bytes) -> bytes:
    """Return the initiator's shared secret. Raises PeerError INVALID_SYNTAX."""
    try:
        return key_pair.shared(public)
    except InvalidPublicValue as error:
        raise _invalid(error) from None


def _invalid(error: InvalidPublicValue) -> PeerError:
    return PeerError(NotifyType.INVALID_SYNTAX, "ike.invalid-ke", str(error))
