"""IKE_SA_INIT (RFC 7296 section 1.2): suite, key exchange, nonces, NAT detection.

::

    initiator                                   responder
    SA, KE, Ni, N(NATD) x2, N(..) -->
                                  <--           N(COOKIE)               begin again with the cookie first (2.6)
                                  <--           N(INVALID_KE_PAYLOAD)   begin again with the group named (1.3)
                                  <--           SA, KE, Nr, N(NATD) x2, N(..)

N(..): IKEV2_FRAGMENTATION_SUPPORTED (RFC 7383), INTERMEDIATE_EXCHANGE_SUPPORTED (RFC 9242).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.contract import algorithms
from agents.contract.config import IkeProposal
from agents.ike import mismatch, proposals
from agents.ike.crypto.dh import KeyPair
from agents.ike.crypto.suite import IkeSuite
from agents.ike.errors import IkeError, PeerError
from agents.ike.outputs import Path, Transmit
from agents.ike.paths import NAT_PORT
from agents.ike.tally import Count
from agents.ike.v2 import announce, natd, steps
from agents.ike.v2 import key_exchange as ke
from agents.ike.v2.keymat import derive_ike_keys
from agents.ike.v2.protection import Sent
from agents.ike.v2.states import SaState
from agents.ike.v2.tasks import intermediate
from agents.ike.v2.tasks.base import Task, refusal
from agents.ike.wire.header import NO_SPI, Header
from agents.ike.wire.message import Message, serialize_clear
from agents.ike.wire.payloads import KeyExchangeData, Nonce, Notify, Payload, SecurityAssociation
from agents.ike.wire.registry import Exchange, Flag, NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.core import Core
    from agents.ike.v2.sa import IkeSa

NONCE_OCTETS = 32
_OPENING_NONCE_OCTETS = 96
"""The opener's nonce is longer: what only an answer carries (CERTREQ, CHILDLESS_IKEV2_SUPPORTED) then mostly fits into
the length of the request, beyond which no answer goes before a cookie has come back."""

_MOST_RESTARTS = 4
_FRAGMENTATION = Notify(type=NotifyType.IKEV2_FRAGMENTATION_SUPPORTED)
_INTERMEDIATE = Notify(type=NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED)
_CODES = {int(NotifyType.NO_PROPOSAL_CHOSEN): "ike.peer-refused-proposal"}


class InitiateSa(Task):
    """The first request; begins again for a cookie or another group."""

    exchange = Exchange.IKE_SA_INIT

    def __init__(self) -> None:
        self._cookie: bytes | None = None
        self._key_pair: KeyPair | None = None
        self._group: str | None = None
        self._restarts = 0

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        assert sa.tunnel is not None
        config = sa.tunnel.config.ike
        group = self._group or config.proposals[0].group
        if self._key_pair is None or self._key_pair.group.slug != group:
            self._key_pair = KeyPair.generate(algorithms.KEY_EXCHANGE[group], sa.core.hub.entropy)
        if not sa.nonce_i:
            steps.requested(sa)
            sa.nonce_i = sa.core.hub.entropy.octets(_OPENING_NONCE_OCTETS)
        cookie = () if self._cookie is None else (Notify(type=NotifyType.COOKIE, data=self._cookie),)
        additional = any(each.additional_key_exchanges for each in config.proposals)
        return (
            *cookie,
            proposals.offer_ike(config.proposals),
            KeyExchangeData(group=self._key_pair.group.number, data=self._key_pair.public),
            Nonce(data=sa.nonce_i),
            *natd.notifies(sa.spi_i, NO_SPI, sa.path, pretends_nat(sa), sa.core.hub.entropy),
            *((_FRAGMENTATION,) if config.fragmentation else ()),
            *((_INTERMEDIATE,) if additional else ()),
            *announce.request(sa),
        )

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Take the answer."""
        assert sa.tunnel is not None
        cookie = message.notify(NotifyType.COOKIE)
        if cookie is not None:
            self._cookie = cookie.data
            sa.report("ike.cookie-required", "The peer asked for a cookie")
            self._restart(sa, now)
            return
        wrong_group = message.notify(NotifyType.INVALID_KE_PAYLOAD)
        if wrong_group is not None:
            self._change_group(sa, wrong_group, now)
            return
        error = refusal(message, _CODES, "The peer refused the IKE SA")
        if error is not None:
            error.configured = proposals.describe_ike(sa.tunnel.config.ike.proposals)
            raise error
        self._agree(sa, message, now)

    def failed(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """The answer is a refusal or not acceptable."""
        sa.fail(error, now)

    def _restart(self, sa: IkeSa, now: float) -> None:
        self._restarts += 1
        if self._restarts > _MOST_RESTARTS:
            raise PeerError(0, "ike.sa-failed", "The peer asked to begin again too often")
        sa.requests.restart()
        sa.enqueue(self, now, first=True)

    def _change_group(self, sa: IkeSa, notify: Notify, now: float) -> None:
        assert sa.tunnel is not None
        assert self._key_pair is not None
        wanted = proposals.group_by_number(int.from_bytes(notify.data, "big")) if len(notify.data) == 2 else None
        configured = [proposal.group for proposal in sa.tunnel.config.ike.proposals]
        if wanted is None or wanted.slug not in configured or wanted.slug == self._key_pair.group.slug:
            raise PeerError(
                0,
                "ike.no-proposal",
                "The peer asks for a key exchange group that no IKE proposal has",
                received=notify.data[:8].hex(),
                configured=", ".join(dict.fromkeys(configured)),
                field="ike.proposals",
            )
        self._group = wanted.slug
        sa.report("ike.group-changed", f"The peer asked for {wanted.slug}", received=wanted.slug)
        self._restart(sa, now)

    def _agree(self, sa: IkeSa, message: Message, now: float) -> None:
        assert sa.tunnel is not None
        assert self._key_pair is not None
        header = message.header
        offer, key_exchange, nonce = (
            message.find(SecurityAssociation),
            message.find(KeyExchangeData),
            message.find(Nonce),
        )
        if offer is None or key_exchange is None or nonce is None or header.spi_r == NO_SPI:
            raise PeerError(0, "drop.payload-rules", "The peer's first answer is incomplete")
        configured = _possible(sa.tunnel.config.ike.proposals, message)
        choice = proposals.choose_ike(configured, offer, 0) if proposals.is_answer(offer) else None
        if choice is None or proposals.group_by_number(key_exchange.group) is not self._key_pair.group:
            raise mismatch.ike_refusal(configured, offer)
        suite = IkeSuite.from_proposal(choice.proposal)
        if suite.group is not self._key_pair.group:
            raise mismatch.ike_refusal(configured, offer)
        sa.spi_peer = header.spi_r
        sa.fragmentation = sa.tunnel.config.ike.fragmentation and message.notify(_FRAGMENTATION.type) is not None
        sa.nonce_r = nonce.data
        shared = ke.finish(self._key_pair, key_exchange.data)
        sa.take_keys(suite, derive_ike_keys(suite, sa.nonce_i, sa.nonce_r, shared, sa.spi_i, sa.spi_r))
        sa.nat = natd.detect(message, sa.spi_i, sa.spi_r, sa.path, pretends_nat(sa))
        announce.note_answer(sa, message)
        if sa.encapsulated:
            sa.report("ike.nat-detected", f"UDP encapsulation is in use: {sa.nat.ends}")
        if sa.encapsulated or (sa.nat.supported and sa.tunnel.config.ike.mobike):  # RFC 4555 section 3.3
            sa.path = Path(
                local_address=sa.path.local_address,
                local_port=NAT_PORT,
                remote_address=sa.path.remote_address,
                remote_port=NAT_PORT if sa.path.remote_port == 500 else sa.path.remote_port,
            )
        sa.state = SaState.AUTHENTICATING
        sa.intermediate.pending = suite.additional
        intermediate.begin(sa, now)


class AnswerTooLongError(IkeError):
    """The answer to a first request would be longer than the request, and its sender has not shown a cookie."""


def respond(
    core: Core,
    sa: IkeSa,
    message: Message,
    datagram: bytes,
    configured: tuple[IkeProposal, ...],
    now: float,
    most_octets: int | None = None,
) -> None:
    """Answer a first request with keys, in at most ``most_octets``.

    Raises PeerError or AnswerTooLongError before anything but ``sa`` exists.
    """
    offer, key_exchange, nonce = message.find(SecurityAssociation), message.find(KeyExchangeData), message.find(Nonce)
    assert offer is not None  # all three: the payload rules ask for them
    assert key_exchange is not None
    assert nonce is not None
    choice = proposals.choose_ike(_possible(configured, message), offer, 0)
    if choice is None:
        raise mismatch.ike_refusal(configured, offer)
    suite = IkeSuite.from_proposal(choice.proposal)
    if key_exchange.group != suite.group.number:
        raise PeerError(
            NotifyType.INVALID_KE_PAYLOAD,
            "ike.group-changed",
            "The peer's key exchange is of another group than the one chosen",
            data=suite.group.number.to_bytes(2, "big"),
            received=str(key_exchange.group),
            configured=suite.group.slug,
        )
    sa.intermediate.pending = suite.additional
    our_key_exchange, shared = ke.answer(suite.group, key_exchange.data, core.hub.entropy)
    sa.spi_peer = message.header.spi_i
    sa.nonce_i, sa.nonce_r = nonce.data, core.hub.entropy.octets(NONCE_OCTETS)
    sa.take_keys(suite, derive_ike_keys(suite, sa.nonce_i, sa.nonce_r, shared, sa.spi_i, sa.spi_r))
    pretend = core.pretends_nat(sa.path)
    sa.nat = natd.detect(message, sa.spi_i, NO_SPI, sa.path, pretend)
    natd_notifies = natd.notifies(sa.spi_i, sa.spi_r, sa.path, pretend, core.hub.entropy) if sa.nat.supported else ()
    candidates = core.candidates(sa.path.local_address, sa.path.remote_address)
    wanted = any(tunnel.config.ike.fragmentation for tunnel in candidates)
    sa.fragmentation = wanted and message.notify(_FRAGMENTATION.type) is not None
    payloads: tuple[Payload, ...] = (
        proposals.answer_ike(choice),
        our_key_exchange,
        Nonce(data=sa.nonce_r),
        *natd_notifies,
        *((_FRAGMENTATION,) if sa.fragmentation else ()),
        *((_INTERMEDIATE,) if suite.additional else ()),
        *announce.answer(sa, message),
    )
    header = Header(
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        next_payload=0,
        exchange=Exchange.IKE_SA_INIT,
        flags=Flag.RESPONSE,
        message_id=0,
    )
    sa.init_request = datagram
    sa.init_response = serialize_clear(Message(header=header, payloads=payloads))
    if most_octets is not None and len(sa.init_response) > most_octets:
        raise AnswerTooLongError
    core.exchanges.add(Exchange.IKE_SA_INIT, Count.RESPONSES_OUT)
    sa.responses.begin(Exchange.IKE_SA_INIT, datagram)
    sa.responses.finish(Sent(header=header, datagrams=(sa.init_response,)))
    core.hub.emit(Transmit(path=sa.path, datagram=sa.init_response))


def refuse(header: Header, error_type: int, data: bytes = b"") -> bytes:
    """Return the answer in clear that carries one notify and leaves no state (RFC 7296 section 2.6, 2.21.1)."""
    answer = Header(
        spi_i=header.spi_i,
        spi_r=NO_SPI,
        next_payload=0,
        exchange=Exchange.IKE_SA_INIT,
        flags=Flag.RESPONSE,
        message_id=0,
    )
    return serialize_clear(Message(header=answer, payloads=(Notify(type=error_type, data=data),)))


def pretends_nat(sa: IkeSa) -> bool:
    """Return whether this initiator asks for UDP encapsulation without a NAT."""
    assert sa.tunnel is not None
    return sa.core.hub.require_udp_encapsulation or sa.tunnel.config.force_udp_encapsulation


def _possible(configured: tuple[IkeProposal, ...], message: Message) -> tuple[IkeProposal, ...]:
    """Return the proposals that the peer can do: additional key exchanges need IKE_INTERMEDIATE (RFC 9370 2.2.1)."""
    if message.notify(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED) is not None:
        return configured
    return tuple(each for each in configured if not each.additional_key_exchanges)
