"""IKE_INTERMEDIATE (RFC 9242): the additional key exchanges of RFC 9370 before the ends authenticate.

::

    initiator                                         responder
    SA(.. ADDKE1 ..), KE, Ni,
      N(INTERMEDIATE_EXCHANGE_SUPPORTED)      -->
                                              <--     SA(.. ADDKE1 ..), KE, Nr, N(INTERMEDIATE_EXCHANGE_SUPPORTED)
    SK {KEi(1)}                               -->
                                              <--     SK {KEr(1)}              from here on with new keys
    SK {IDi, AUTH, ...}                       -->                              AUTH signs both messages too

The keys change after every exchange; what was said in it is folded into IntAuth with the keys it was protected by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents.contract.algorithms import KeyExchange
from agents.ike.crypto.dh import KeyPair
from agents.ike.errors import PeerError
from agents.ike.v2 import key_exchange as ke
from agents.ike.v2.keymat import further_ike_keys, int_auth_chunk
from agents.ike.v2.states import SaState
from agents.ike.v2.tasks import auth
from agents.ike.v2.tasks.base import Task, refusal
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import KeyExchangeData, Payload
from agents.ike.wire.registry import Exchange, NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa


@dataclass(slots=True)
class Intermediate:
    """Where an SA is in its IKE_INTERMEDIATE exchanges; ``sent`` is what of our last message goes into IntAuth."""

    pending: tuple[KeyExchange, ...] = ()
    auth_i: bytes = b""
    auth_r: bytes = b""
    sent: bytes = b""


class AdditionalKeyExchange(Task):
    """The initiator's next additional key exchange."""

    exchange = Exchange.IKE_INTERMEDIATE

    def __init__(self) -> None:
        self._key_pair: KeyPair | None = None

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        if sa.state is not SaState.AUTHENTICATING:
            return None
        self._key_pair = KeyPair.generate(sa.intermediate.pending[0], sa.core.hub.entropy)
        return (KeyExchangeData(group=self._key_pair.group.number, data=self._key_pair.public),)

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Take the answer."""
        assert self._key_pair is not None
        if sa.state is not SaState.AUTHENTICATING:
            sa.close(now)
            return
        error = refusal(message, {}, "The peer refused an additional key exchange")
        if error is not None:
            raise error
        key_exchange = message.find(KeyExchangeData)
        group = self._key_pair.group
        if key_exchange is None or key_exchange.group != group.number:
            raise _wrong_method(key_exchange, group)
        shared = ke.finish(self._key_pair, key_exchange.data)
        _fold(sa, sa.intermediate.sent, message.authenticated, shared, sa.requests.next_id)
        begin(sa, now)

    def failed(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """The answer is a refusal or not acceptable."""
        sa.fail(error, now)


def begin(sa: IkeSa, now: float) -> None:
    """Do the initiator's next additional key exchange, or authenticate when all are done."""
    if sa.intermediate.pending:
        sa.enqueue(AdditionalKeyExchange(), now)
    else:
        auth.begin(sa, now)


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Answer an additional key exchange. Raises PeerError for the funnel."""
    key_exchange = message.find(KeyExchangeData)
    group = sa.intermediate.pending[0] if sa.intermediate.pending else None
    if group is None or key_exchange is None or key_exchange.group != group.number:
        raise _wrong_method(key_exchange, group)
    ours, shared = ke.answer(group, key_exchange.data, sa.core.hub.entropy)
    sa.respond((ours,), now)
    _fold(sa, message.authenticated, sa.intermediate.sent, shared, sa.responses.expected)


def check_done(sa: IkeSa) -> None:
    """Raise PeerError when the peer authenticates before every key exchange agreed on is done."""
    if sa.intermediate.pending:
        raise PeerError(
            NotifyType.INVALID_SYNTAX,
            "ike.invalid-ke",
            "The peer left out an additional key exchange",
            configured=", ".join(each.slug for each in sa.intermediate.pending),
            field="ike.proposals",
            fatal=True,
        )


def _fold(sa: IkeSa, authenticated_i: bytes, authenticated_r: bytes, shared: bytes, next_id: int) -> None:
    """Take the exchange into IntAuth and the keys (RFC 9242 section 3.3.2, RFC 9370 section 2.2.2)."""
    state, suite, keys = sa.intermediate, sa.suite, sa.keys
    state.auth_i = int_auth_chunk(suite.prf, keys.sk_pi, state.auth_i, authenticated_i)
    state.auth_r = int_auth_chunk(suite.prf, keys.sk_pr, state.auth_r, authenticated_r)
    sa.int_auth = state.auth_i + state.auth_r + next_id.to_bytes(4, "big")
    state.pending, state.sent = state.pending[1:], b""
    sa.take_keys(suite, further_ike_keys(suite, keys.sk_d, sa.nonce_i, sa.nonce_r, shared, sa.spi_i, sa.spi_r))


def _wrong_method(shown: KeyExchangeData | None, agreed: KeyExchange | None) -> PeerError:
    return PeerError(
        NotifyType.INVALID_SYNTAX,
        "ike.invalid-ke",
        "The peer's additional key exchange is not the one agreed on",
        received="none" if shown is None else str(shown.group),
        configured="none" if agreed is None else agreed.slug,
        field="ike.proposals",
        fatal=True,
    )
