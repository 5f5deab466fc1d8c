"""CREATE_CHILD_SA that rekeys the IKE SA itself (RFC 7296 sections 1.3.2, 2.18, 2.25.2).

::

    SK {SA, Ni, KEi} -->
                     <--  SK {SA, Nr, KEr}
    SK {KEi(1), N(..)} -->                   IKE_FOLLOWUP_KE, once for each additional key exchange (RFC 9370)
                     <--  SK {KEr(1)}
    SK {D(IKE)}      -->                     on the old SA, after the children went to the new one
                     <--  SK {}

When both ends rekey at once two new SAs come up; the one with the lowest of the four nonces is deleted by the end that
made it, and the other one takes the children. A rekey waits while a child is being made or deleted (TEMPORARY_FAILURE).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.contract import algorithms
from agents.contract.config import IkeProposal
from agents.ike import mismatch, proposals
from agents.ike.crypto.dh import KeyPair
from agents.ike.crypto.suite import IkeSuite
from agents.ike.errors import PeerError
from agents.ike.timers import LINGER_S
from agents.ike.v2 import key_exchange as ke
from agents.ike.v2.states import SaState
from agents.ike.v2.tasks import followup
from agents.ike.v2.tasks.base import Task, refusal
from agents.ike.v2.tasks.followup import Unfinished
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import KeyExchangeData, Nonce, Notify, Payload, SecurityAssociation
from agents.ike.wire.registry import Exchange, NotifyType, Protocol

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa

NONCE_OCTETS = 32
_AGAIN_S = 60.0
_CODES = {int(NotifyType.NO_PROPOSAL_CHOSEN): "ike.peer-refused-proposal"}


def is_request(message: Message) -> bool:
    """Return whether a CREATE_CHILD_SA request is about the IKE SA."""
    offer = message.find(SecurityAssociation)
    return offer is not None and offer.proposals[0].protocol == Protocol.IKE


class RekeyIke(Task):
    """Makes the successor of an IKE SA."""

    exchange = Exchange.CREATE_CHILD_SA

    def __init__(self) -> None:
        self.redundant: IkeSa | None = None
        self._new: IkeSa | None = None
        self._offered: tuple[IkeProposal, ...] = ()
        self._group: str | None = None
        self._restarted = False
        self._key_pair: KeyPair | None = None
        self._unfinished: Unfinished | None = None

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        assert sa.tunnel is not None
        if sa.state is not SaState.ESTABLISHED:
            self._leave_to_peer(sa, now)
            return None
        if self._unfinished is not None and self._unfinished.next_group is not None:
            self._key_pair = KeyPair.generate(self._unfinished.next_group, sa.core.hub.entropy)
            further = KeyExchangeData(group=self._key_pair.group.number, data=self._key_pair.public)
            return (further, followup.link_to(self._unfinished))
        configured = self._offered = sa.tunnel.config.ike.proposals
        group = algorithms.KEY_EXCHANGE[self._group or configured[0].group]
        self._key_pair = KeyPair.generate(group, sa.core.hub.entropy)
        if self._new is None:
            self._new = sa.spawn(initiator=True, now=now)
        self._new.nonce_i = sa.core.hub.entropy.octets(NONCE_OCTETS)
        return (
            proposals.offer_ike(configured, self._new.spi_own),
            Nonce(data=self._new.nonce_i),
            KeyExchangeData(group=group.number, data=self._key_pair.public),
        )

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Take the answer."""
        assert sa.tunnel is not None
        assert self._new is not None
        assert self._key_pair is not None
        if self._unfinished is not None:
            self._answered_further(sa, self._unfinished, message, now)
            return
        new = self._new
        configured = self._offered  # the document may have changed since: the peer has answered to these
        wrong_group = message.notify(NotifyType.INVALID_KE_PAYLOAD)
        if wrong_group is not None and self._change_group(sa, wrong_group, now):
            return
        error = refusal(message, _CODES, "The peer refused to rekey the IKE SA")
        if error is not None:
            error.configured = proposals.describe_ike(configured)
            raise error
        offer, key_exchange, nonce = (
            message.find(SecurityAssociation),
            message.find(KeyExchangeData),
            message.find(Nonce),
        )
        if offer is None or key_exchange is None or nonce is None or not proposals.is_answer(offer):
            raise PeerError(0, "drop.payload-rules", "The peer's answer to an IKE rekey is incomplete")
        choice = proposals.choose_ike(configured, offer, 8)
        suite = None if choice is None else IkeSuite.from_proposal(choice.proposal)
        if choice is None or suite is None or key_exchange.group != self._key_pair.group.number:
            raise PeerError(0, "ike.no-proposal", "The peer's answer to an IKE rekey is not what was offered")
        if suite.group is not self._key_pair.group:
            raise PeerError(0, "ike.no-proposal", "The peer's answer to an IKE rekey mixes two groups")
        new.spi_peer = choice.peer_spi
        new.nonce_r = nonce.data
        self._go_on(sa, Unfinished(new, suite, ke.finish(self._key_pair, key_exchange.data)), message, now)

    def _answered_further(self, sa: IkeSa, unfinished: Unfinished, message: Message, now: float) -> None:
        """Take the answer to an IKE_FOLLOWUP_KE request."""
        assert self._key_pair is not None
        error = refusal(message, _CODES, "The peer refused an additional key exchange")
        if error is not None:
            raise error
        key_exchange = message.find(KeyExchangeData)
        if key_exchange is None or key_exchange.group != self._key_pair.group.number:
            raise PeerError(0, "ike.invalid-ke", "The peer's additional key exchange is not the one agreed on")
        unfinished.further += (ke.finish(self._key_pair, key_exchange.data),)
        self._go_on(sa, unfinished, message, now)

    def _go_on(self, sa: IkeSa, unfinished: Unfinished, message: Message, now: float) -> None:
        """Do the next key exchange, or take the new SA into use when all are done."""
        assert sa.tunnel is not None
        if unfinished.next_group is not None:
            link = message.notify(NotifyType.ADDITIONAL_KEY_EXCHANGE)
            if link is None:
                raise PeerError(0, "ike.invalid-ke", "The peer left out an additional key exchange")
            unfinished.link = link.data
            self._unfinished = unfinished
            self.exchange = Exchange.IKE_FOLLOWUP_KE
            sa.enqueue(self, now, first=True)
            return
        unfinished.take_keys(sa)
        sa.core.register(unfinished.new)
        self._new = None
        self._settle(sa, unfinished.new, now)
        if self._offered != sa.tunnel.config.ike.proposals:
            sa.tunnel.renew_suite(now)

    def _settle(self, sa: IkeSa, new: IkeSa, now: float) -> None:
        redundant, self.redundant = self.redundant, None
        new.establish(now)
        if sa.state is not SaState.ESTABLISHED:
            # Deleted here while the peer answered: it has moved the children, so the new SA must go as well.
            for each in (new, redundant):
                if each is not None:
                    each.start_delete(now)
            return
        if redundant is not None and redundant.state is SaState.ESTABLISHED:
            sa.report("ike.simultaneous", "Both ends rekeyed the IKE SA")
            if min(new.nonce_i, new.nonce_r) < min(redundant.nonce_i, redundant.nonce_r):
                sa.hand_over(redundant, now)  # the peer deletes the old SA, we the one we just made
                new.start_delete(now)
                return
            sa.hand_over(new, now)
            # The peer deletes the one it made, unless our Delete overtakes our answer to its rekey: it then forgets
            # that rekey (RFC 7296 section 2.25.2), and what we made of it must not stand long.
            redundant.supersede(now, LINGER_S / 2)
            sa.start_delete(now)
            return
        sa.hand_over(new, now)
        sa.start_delete(now)

    def _change_group(self, sa: IkeSa, notify: Notify, now: float) -> bool:
        assert sa.tunnel is not None
        assert self._key_pair is not None
        group = proposals.group_by_number(int.from_bytes(notify.data, "big")) if len(notify.data) == 2 else None
        configured = [proposal.group for proposal in sa.tunnel.config.ike.proposals]
        if self._restarted or group is None or group is self._key_pair.group or group.slug not in configured:
            return False
        self._restarted = True
        self._group = group.slug
        sa.enqueue(self, now, first=True)
        return True

    def failed(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """The answer is a refusal or not acceptable."""
        if self._leave_to_peer(sa, now) or sa.state is not SaState.ESTABLISHED:
            return
        if error.notify == NotifyType.TEMPORARY_FAILURE:
            sa.rekey_at = sa.postponed(now, sa.expire_at)
            return
        sa.report_error(error)
        sa.rekey_at = now + _AGAIN_S * (0.75 + 0.5 * sa.core.hub.entropy.uniform())

    def abandoned(self, sa: IkeSa, now: float) -> None:
        """The old SA ended with this request unanswered: the children live on in the peer's successor, if any."""
        self._leave_to_peer(sa, now)

    def _leave_to_peer(self, sa: IkeSa, now: float) -> bool:
        """Our rekey came to nothing: where the peer's did not, that one counts. Returns whether there is one."""
        self._drop_new(now)
        redundant, self.redundant = self.redundant, None
        if redundant is None or redundant.state is not SaState.ESTABLISHED:
            return False
        if sa.state is SaState.ESTABLISHED:
            sa.hand_over(redundant, now)
        else:
            redundant.start_delete(now)
        return True

    def _drop_new(self, now: float) -> None:
        if self._new is not None:
            self._new.close(now)
            self._new = None


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Answer a rekey of the IKE SA. Raises PeerError for the funnel."""
    assert sa.tunnel is not None
    _check_free(sa)
    offer, nonce, key_exchange = message.find(SecurityAssociation), message.find(Nonce), message.find(KeyExchangeData)
    if offer is None or nonce is None or key_exchange is None:
        raise PeerError(NotifyType.INVALID_SYNTAX, "drop.payload-rules", "An IKE rekey without key exchange")
    configured = sa.tunnel.config.ike.proposals
    choice = proposals.choose_ike(configured, offer, 8)
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
    our_key_exchange, shared = ke.answer(suite.group, key_exchange.data, sa.core.hub.entropy)
    new = sa.spawn(initiator=False, now=now)
    new.spi_peer = choice.peer_spi
    new.nonce_i, new.nonce_r = nonce.data, sa.core.hub.entropy.octets(NONCE_OCTETS)
    payloads = (proposals.answer_ike(choice, new.spi_own), Nonce(data=new.nonce_r), our_key_exchange)
    _answer(sa, Unfinished(new, suite, shared), payloads, now)


def respond_further(sa: IkeSa, message: Message, now: float) -> None:
    """Answer an IKE_FOLLOWUP_KE request. Raises PeerError for the funnel."""
    unfinished, our_key_exchange = followup.respond(sa, message)
    _check_free(sa)
    _answer(sa, unfinished, (our_key_exchange,), now)


def _check_free(sa: IkeSa) -> RekeyIke | None:
    """Return our own rekey that is under way, if any. Raises PeerError when the peer's cannot be done now."""
    ours = sa.current if isinstance(sa.current, RekeyIke) else None
    if sa.busy_with_children() or (ours is not None and ours.redundant is not None):
        raise PeerError(NotifyType.TEMPORARY_FAILURE, "ike.simultaneous", "A child is being made or deleted")
    return ours


def _answer(sa: IkeSa, unfinished: Unfinished, payloads: tuple[Payload, ...], now: float) -> None:
    """Answer; with the last key exchange the new SA stands."""
    if unfinished.next_group is not None:
        sa.respond((*payloads, followup.keep(sa, unfinished, now)), now)
        return
    ours, new = _check_free(sa), unfinished.new
    unfinished.take_keys(sa)
    sa.core.register(new)
    sa.respond(payloads, now)
    new.establish(now)
    if ours is not None:
        ours.redundant = new
        new.crossed = sa
    else:
        sa.hand_over(new, now)
