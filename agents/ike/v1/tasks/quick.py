"""Quick Mode (RFC 2409 section 5.5): both roles. A rekey is a Quick Mode for a pair that has SAs already.

::

    1  HDR*, HASH(1), SA, Ni, [KE,] IDci, IDcr   -->
    2                                            <--  HDR*, HASH(2), SA, Nr, [KE,] IDci, IDcr
    3  HDR*, HASH(3)                             -->

The responder has its inbound SA in place before it answers, and sends on the new one from the third message on. The
commit bit is tolerated: a fourth message (CONNECTED) changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agents.contract.algorithms import KeyExchange
from agents.contract.config import Child
from agents.dataplane.base import OriginalAddresses
from agents.ike import selectors as ranges
from agents.ike.crypto import dh
from agents.ike.crypto.dh import InvalidPublicValue, KeyPair
from agents.ike.errors import PeerError
from agents.ike.v1 import keymat, mismatch, natd, quick_proposals, quickmode, selectors, sending, steps
from agents.ike.v1.child import ChildSa, Pair
from agents.ike.v1.common import need
from agents.ike.v1.exchange import Exchange
from agents.ike.v1.phase1 import NONCE_OCTETS
from agents.ike.v1.quick_proposals import QuickChoice
from agents.ike.v1.states import ChildState
from agents.ike.v1.tasks import info
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import (
    Identification,
    KeyExchangeData,
    Nonce,
    Payload,
    SecurityAssociation,
)
from agents.ike.wire.isakmp.registry import Exchange as ExchangeType
from agents.ike.wire.isakmp.registry import NotifyType, Protocol

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa


def _group(child: Child) -> KeyExchange | None:
    """Return the group of a request of ours: the first that IKEv1 has."""
    return quick_proposals.group_of(child)


# --- initiator


class Initiator:
    """A Quick Mode that we began. ``replaced`` is the child that it rekeys."""

    def __init__(self, sa: IsakmpSa, config: Child, slot: int, pair: Pair, replaced: ChildSa | None) -> None:
        self.sa = sa
        self.config = config
        self.slot = slot
        self.pair = pair
        self.replaced = replaced
        self.exchange = Exchange(message_id=sa.new_message_id(), number=ExchangeType.QUICK)
        self.done = False
        self._spis: quickmode.Spis | None = None
        self._offered: SecurityAssociation | None = None
        self._keys: KeyPair | None = None
        self._nonce = b""
        self._began_at = 0.0

    @property
    def spis(self) -> frozenset[bytes]:
        """What we asked for by: SPIs as a peer's notify names them."""
        return frozenset() if self._spis is None else frozenset(self._spis.octets().values())

    @property
    def key(self) -> tuple[str, int]:
        """Name and slot of the child asked for."""
        return self.config.name, self.slot

    def begin(self, now: float) -> None:
        """Send the first message, unless it is known that nothing can come of it."""
        try:
            self._offer(now)
        except PeerError as error:
            self.sa.report_error(error.about(self.config.name))
            self.refused(error, now)

    def _offer(self, now: float) -> None:
        sa, hub = self.sa, self.sa.core.hub
        self._began_at = now
        quickmode.check_ends(sa, self.config, self.pair)
        config = quickmode.feasible(sa, self.config)
        usable = quick_proposals.configured(config)
        compressed = config.ipcomp and quickmode.circumstances(sa, config, None).compression
        self._spis = quickmode.Spis(
            sa,
            esp=any(each.encryption is not None for each in usable),
            ah=any(each.ah_integrity is not None for each in usable),
            compressed=compressed,
        )
        group = _group(config)
        self._keys = None if group is None else KeyPair.generate(group, hub.entropy)
        self._nonce = hub.entropy.octets(NONCE_OCTETS)
        self._offered = quick_proposals.offer_quick(
            config,
            self._spis.octets(),
            group=group,
            encapsulation=natd.encapsulation_mode(config.mode, sa.nat.encapsulates, bool(sa.peer.nat_draft)),
            cpi=self._spis.cpi,
            extended=quickmode.circumstances(sa, config, None).extended,
        )
        rest: tuple[Payload, ...] = (
            self._offered,
            Nonce(data=self._nonce),
            *(() if self._keys is None else (KeyExchangeData(data=self._keys.public),)),
            *self._identities(),
            *quickmode.original_addresses(sa, config.mode, initiator=True),
        )
        steps.child_requested(sa, self.config.name, self._identities())
        sa.exchanges[self.exchange.message_id] = self.exchange
        self.exchange.iv = sa.iv_of(self.exchange.message_id)
        self.exchange.take, self.exchange.gave_up = self._answered, self._gave_up
        made = sending.hash_of(sa, self.exchange.message_id, rest)
        sending.send_hashed(sa, self.exchange, made, rest, now, asks=True)

    def _identities(self) -> tuple[Identification, Identification]:
        return selectors.to_identification(self.pair[0]), selectors.to_identification(self.pair[1])

    def _answered(self, message: Message, now: float) -> None:
        sa = self.sa
        assert self._offered is not None
        assert self._spis is not None
        nonce = need(message, Nonce)
        made = keymat.quick_hash_2(
            sa.suite.prf, sa.keys.skeyid_a, self.exchange.message_id, self._nonce, message.protected
        )
        sending.check_hash(message, made)
        try:
            choice, shared, original = self._read(message)
        except PeerError as error:
            sa.report_error(error.about(self.config.name))
            info.refuse(sa, error, need(message, SecurityAssociation), now)
            self.refused(error, now)
            return
        if self._deleted_already(choice):
            self.exchange.finish(now)
            self._gave_up(now)
            return
        self._spis.keep_for(choice)
        child = ChildSa(
            sa,
            quickmode.agreement_of(
                self.config,
                choice,
                self._spis,
                self.pair,
                self.slot,
                initiator=True,
                began_at=self._began_at,
                nonces=(self._nonce, nonce.data),
                shared=shared,
                original=original,
            ),
            now,
        )
        assert sa.tunnel is not None
        sa.tunnel.children.add(child)
        self.exchange.take = None
        self.done = True

        def installed(problem: str | None, at: float) -> None:
            self._installed(child, nonce.data, problem, at)

        replaces = () if self.replaced is None else self.replaced.sa_ids
        sa.core.hub.install(sa, child, replaces=replaces, outbound_later=False, then=installed)

    def _deleted_already(self, choice: QuickChoice) -> bool:
        """Return whether the peer's Delete of what it answers with has overtaken its answer."""
        protocol = Protocol.AH if choice.proposal.encryption is None else Protocol.ESP
        at = self.sa.deleted.get((protocol, int.from_bytes(choice.peer_spi, "big")))
        return at is not None and at >= self._began_at

    def _read(self, message: Message) -> tuple[QuickChoice, bytes | None, OriginalAddresses | None]:
        """Return what the peer chose, the secret of PFS and what a NAT makes of the addresses. Raises PeerError."""
        assert self._offered is not None
        ke = message.find(KeyExchangeData)
        config = quickmode.feasible(self.sa, self.config)
        if (self._keys is None and ke is not None) or (self._keys is not None and ke is None):
            raise mismatch.quick_refusal(
                config, need(message, SecurityAssociation), quickmode.circumstances(self.sa, config, ke), message=2
            )
        choice = quick_proposals.read_answer_quick(
            config, self._offered, need(message, SecurityAssociation), quickmode.circumstances(self.sa, config, ke)
        )
        choice = self._shortened(choice, message)
        shown = tuple(map(selectors.from_identification, message.find_all(Identification)))
        received = (shown[0], shown[1]) if shown else None
        if received is not None and quickmode.as_seen(self.sa, config, received) != self.pair:
            raise selectors.refusal((self.pair,), received, 2)
        original = quickmode.original_of(self.sa, config, message, received, initiator=True)
        quickmode.check_free(self.sa, self.config, self.slot, self.pair, original)
        try:
            return choice, None if self._keys is None or ke is None else self._keys.shared(ke.data), original
        except InvalidPublicValue as error:
            raise quickmode.invalid_public(error) from None

    def _shortened(self, choice: QuickChoice, message: Message) -> QuickChoice:
        """Return the choice with the shorter lifetimes of a responder that says them (RFC 2407 section 4.6.3.1)."""
        notify = message.notify(NotifyType.RESPONDER_LIFETIME)
        if notify is None:
            return choice
        seconds, kilobytes = info.responder_lifetimes(
            self.sa, self.config.name, notify, choice.lifetime_s, choice.lifetime_kilobytes
        )
        return replace(choice, lifetime_s=seconds, lifetime_kilobytes=kilobytes)

    def _installed(self, child: ChildSa, nonce_r: bytes, problem: str | None, now: float) -> None:
        sa = self.sa
        assert sa.tunnel is not None
        if child.state is ChildState.GONE:
            return
        if problem is not None:
            self.exchange.finish(now)
            info.send_delete(sa, now, (child,))
            sa.tunnel.children.not_installed(sa, child, problem, now)
            return
        if not sa.standing:
            sa.tunnel.children.remove(child, now)
            return
        made = keymat.quick_hash_3(sa.suite.prf, sa.keys.skeyid_a, self.exchange.message_id, self._nonce, nonce_r)
        sending.send_hashed(sa, self.exchange, made, (), now, asks=False)
        self.exchange.finish(now)
        sa.tunnel.children.up(sa, child, now, asked=True)

    def refused(self, error: PeerError, now: float) -> None:
        """The peer, or we its answer: the child is asked for again later."""
        if self.done:
            return
        self.done = True
        self.exchange.finish(now)
        if self._spis is not None:
            self._spis.give_back()
        assert self.sa.tunnel is not None
        steps.child_failed(self.sa, self.config.name, error)
        self.sa.tunnel.children.refused(self.key, error, now)

    def _gave_up(self, now: float) -> None:
        """The ISAKMP SA ended, or no answer came: then the child has failed, else it is asked for elsewhere."""
        if self.done:
            return
        self.done = True
        if self.sa.standing:
            steps.child_failed(self.sa, self.config.name, quickmode.silence(1, self.config.name))
        if self._spis is not None:
            self._spis.give_back()
        if self.sa.tunnel is not None:
            self.sa.tunnel.children.over(self, now)


# --- responder


def respond(sa: IsakmpSa, exchange: Exchange, message: Message, now: float) -> None:
    """Answer the first message, whose hash is right, or refuse it."""
    assert sa.tunnel is not None
    try:
        _respond(sa, exchange, message, now)
    except PeerError as error:
        exchange.finish(now)
        sa.report_error(error)
        info.refuse(sa, error, need(message, SecurityAssociation), now)
        steps.child_failed(sa, error.child, error)
        sa.tunnel.note_error(error)


def _respond(sa: IsakmpSa, exchange: Exchange, message: Message, now: float) -> None:
    assert sa.tunnel is not None
    steps.selectors_received(sa, message.find_all(Identification))
    received = _received_pair(sa, message)
    ke, offer = message.find(KeyExchangeData), need(message, SecurityAssociation)
    config, slot, pair, choice = _accept(sa, received, message)
    original = quickmode.original_of(sa, config, message, received, initiator=False)
    quickmode.check_free(sa, config, slot, pair, original)
    public, shared = _respond_dh(sa, choice, ke)
    spis = quickmode.Spis(
        sa,
        esp=choice.proposal.encryption is not None,
        ah=choice.proposal.ah_integrity is not None,
        compressed=choice.peer_cpi is not None,
    )
    nonce_i, nonce_r = need(message, Nonce).data, sa.core.hub.entropy.octets(NONCE_OCTETS)
    child = ChildSa(
        sa,
        quickmode.agreement_of(
            config,
            choice,
            spis,
            pair,
            slot,
            initiator=False,
            began_at=now,
            nonces=(nonce_i, nonce_r),
            shared=shared,
            original=original,
        ),
        now,
    )
    child.outbound_held = True
    sa.tunnel.children.add(child)
    rest = _answer(sa, message, child, choice, spis, public)

    def installed(problem: str | None, at: float) -> None:
        if child.state is ChildState.GONE or sa.tunnel is None:
            return
        if problem is not None:
            exchange.finish(at)
            error = sa.tunnel.children.not_installed(sa, child, problem, at)
            info.refuse(sa, error, offer, at)
            return
        if not sa.standing:
            sa.tunnel.children.remove(child, at)
            return
        exchange.take = lambda final, then: _confirmed(sa, exchange, child, (nonce_i, nonce_r), final, then)
        exchange.gave_up = lambda then: _unconfirmed(sa, child, then)
        made = keymat.quick_hash_2(sa.suite.prf, sa.keys.skeyid_a, exchange.message_id, nonce_i, wire.encode(rest)[1])
        sending.send_hashed(sa, exchange, made, rest, at, asks=True)

    replaces = tuple(each for old in sa.tunnel.children.replaced_by(child) for each in old.sa_ids)
    sa.core.hub.install(sa, child, replaces=replaces, outbound_later=True, then=installed)


def _received_pair(sa: IsakmpSa, message: Message) -> Pair:
    """Return the selectors as we see them: the responder's first. Without identities they are the two hosts."""
    shown = message.find_all(Identification)
    if not shown:
        return ranges.host(sa.path.local_address), ranges.host(sa.path.remote_address)
    remote, local = (selectors.from_identification(each) for each in shown)
    return local, remote


def _accept(sa: IsakmpSa, received: Pair, message: Message) -> tuple[Child, int, Pair, QuickChoice]:
    """Find the child asked for: with exactly these selectors, else one that holds them. Raises PeerError, about it."""
    assert sa.tunnel is not None
    ke, offer = message.find(KeyExchangeData), need(message, SecurityAssociation)
    refused: list[tuple[bool, bool, PeerError]] = []
    met = []
    for config in sa.tunnel.config.children:
        found = selectors.match(sa.tunnel.children.pairs_of(config), quickmode.as_seen(sa, config, received))
        if found is None:
            continue
        usable = quickmode.feasible(sa, config)
        here = quickmode.circumstances(sa, usable, ke)
        choice = quick_proposals.choose_quick(usable, offer, here)
        nearness = not found.exact, sa.tunnel.children.live(config.name) is not None
        if choice is None:
            refused.append((*nearness, mismatch.quick_refusal(usable, offer, here)))
            continue
        met.append((*nearness, config, found, choice))
    if met:
        _inexact, _live, config, found, choice = min(met, key=lambda entry: entry[:2])
        return config, sa.tunnel.children.slot_of(config, found), found.received, choice
    if refused:
        raise min(refused, key=lambda entry: entry[:2])[2]
    every = tuple(pair for config in sa.tunnel.config.children for pair in sa.tunnel.children.pairs_of(config))
    raise selectors.refusal(every, received)


def _respond_dh(sa: IsakmpSa, choice: QuickChoice, ke: KeyExchangeData | None) -> tuple[bytes | None, bytes | None]:
    if choice.group is None or ke is None:
        return None, None
    try:
        return dh.respond(choice.group, ke.data, sa.core.hub.entropy)
    except InvalidPublicValue as error:
        raise quickmode.invalid_public(error) from None


def _answer(
    sa: IsakmpSa, message: Message, child: ChildSa, choice: QuickChoice, spis: quickmode.Spis, public: bytes | None
) -> tuple[Payload, ...]:
    shorter = quickmode.lifetime_notify(choice, spis)
    return (
        quick_proposals.answer_quick(choice, spis.octets()),
        Nonce(data=child.agreement.nonce_r),
        *(() if public is None else (KeyExchangeData(data=public),)),
        *message.find_all(Identification),
        *quickmode.original_addresses(sa, child.agreement.mode, initiator=False),
        *((shorter,) if shorter is not None else ()),
    )


def _confirmed(
    sa: IsakmpSa, exchange: Exchange, child: ChildSa, nonces: tuple[bytes, bytes], message: Message, now: float
) -> None:
    made = keymat.quick_hash_3(sa.suite.prf, sa.keys.skeyid_a, exchange.message_id, *nonces)
    sending.check_hash(message, made)
    exchange.finish(now)
    if child.state is not ChildState.GONE and sa.tunnel is not None:
        sa.tunnel.children.up(sa, child, now, asked=False)


def _unconfirmed(sa: IsakmpSa, child: ChildSa, now: float) -> None:
    """The third message never came. It may have gone out, so the peer hears that nothing became of it."""
    if child.state is ChildState.INSTALLING and sa.tunnel is not None:
        if sa.standing:
            steps.child_failed(sa, child.name, quickmode.silence(2, child.name))
        sa.tunnel.children.delete((child,), now)
