"""CREATE_CHILD_SA for children: further ones and rekeys (RFC 7296 sections 1.3.1, 1.3.3, 2.8, 2.25.1).

::

    SK {[N(REKEY_SA),] SA, Ni, [KEi,] TSi, TSr} -->
                                                <--  SK {SA, Nr, [KEr,] TSi, TSr}
    SK {D(old)}                                 -->                              after a rekey
                                                <--  SK {D(old)}

The responder of a rekey sends on the old SA until that Delete. When both ends rekey one child at once, both new pairs
come up; the pair with the lowest of the four nonces is deleted by the end that made it, the old one by the other end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.contract import algorithms
from agents.contract.config import Child
from agents.ike import proposals
from agents.ike.crypto.dh import KeyPair
from agents.ike.errors import PeerError
from agents.ike.v2 import key_exchange as ke
from agents.ike.v2 import negotiation, steps
from agents.ike.v2.child import ChildSa
from agents.ike.v2.negotiation import Accepted
from agents.ike.v2.pieces import Piece
from agents.ike.v2.request import ChildRequest, agree, answer, setting
from agents.ike.v2.states import LIVE_CHILD, ChildState, SaState
from agents.ike.v2.tasks import rekey
from agents.ike.v2.tasks.base import Task, refusal
from agents.ike.v2.tasks.delete import DeleteChildren, DeleteUnaccepted
from agents.ike.v2.tasks.first import CHILD_CODES, install_failed, install_own, report_terms
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import KeyExchangeData, Nonce, Notify, Payload, SecurityAssociation
from agents.ike.wire.registry import Exchange, NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa

NONCE_OCTETS = 32
_AGAIN_S = 60.0
"""Pause after a refused rekey: the old SA still works, and the other end may be edited meanwhile."""


class CreateChild(Task):
    """Asks for a child by name, new or in the place of ``replaced``."""

    exchange = Exchange.CREATE_CHILD_SA

    def __init__(self, name: str, replaced: ChildSa | None = None) -> None:
        self.name = name
        self.replaced = replaced
        self.redundant: ChildSa | None = None
        self._group: str | None = None
        self._restarted = False
        self._request: ChildRequest | None = None
        self._key_pair: KeyPair | None = None
        self._nonce = b""
        self._answer: Message | None = None

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        assert sa.tunnel is not None
        config = sa.tunnel.child_config(self.name)
        if config is None or sa.state is not SaState.ESTABLISHED:
            return None
        if self.replaced is None:
            if not sa.tunnel.lacks(config):
                return None
        elif self.replaced not in sa.children or self.replaced.state not in _REKEYABLE:
            return None
        else:
            self.replaced.state = ChildState.REKEYING
        sa.deleted_early.clear()
        request = self._request = ChildRequest(sa, config, pfs=True, asked=self._piece(sa, config))
        self._nonce = sa.core.hub.entropy.octets(NONCE_OCTETS)
        rekey_sa: tuple[Payload, ...] = ()
        if self.replaced is not None:
            old = self.replaced.spi_in.to_bytes(4, "big")
            rekey_sa = (Notify(type=NotifyType.REKEY_SA, protocol=self.replaced.protocol, spi=old),)
        else:
            steps.child_requested(sa, self.name)
        return (
            *rekey_sa,
            *request.notifies(),
            request.offer(),
            Nonce(data=self._nonce),
            *self._key_exchange(sa, config),
            *request.selectors(),
        )

    def _piece(self, sa: IkeSa, config: Child) -> Piece | None:
        """Return the selectors to ask for where they are not all of the child's: one pair, or those of the old SA."""
        assert sa.tunnel is not None
        if self.replaced is None:
            return sa.tunnel.missing_piece(self.name)
        agreement = self.replaced.agreement
        beside = any(
            child.name == self.name and child.agreement.slot != agreement.slot and child.state in LIVE_CHILD
            for child in sa.children
        )
        return (agreement.local_ts, agreement.remote_ts) if beside else None

    def _key_exchange(self, sa: IkeSa, config: Child) -> tuple[Payload, ...]:
        if not config.pfs_groups:
            self._key_pair = None
            return ()
        group = algorithms.KEY_EXCHANGE[self._group or config.pfs_groups[0]]
        self._key_pair = KeyPair.generate(group, sa.core.hub.entropy)
        return (KeyExchangeData(group=group.number, data=self._key_pair.public),)

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Take the answer."""
        request = self._request
        assert request is not None
        if sa.state is not SaState.ESTABLISHED:  # deleted meanwhile, and the child with it
            request.release(sa)
            return
        wrong_group = message.notify(NotifyType.INVALID_KE_PAYLOAD)
        if wrong_group is not None and self._change_group(sa, wrong_group, now):
            return
        error = refusal(message, CHILD_CODES, f"The peer refused child {self.name}")
        if error is not None:
            error.configured = proposals.describe_ipsec(request.config)
            raise error
        self._answer = message
        accepted = request.accept(sa, message)
        nonce = message.find(Nonce)
        assert nonce is not None  # the payload rules ask for it
        shared = _finished(self._key_pair, message)
        if any(child_spi in sa.deleted_early for child_spi in _peer_spis(message)):
            self._deleted_meanwhile(sa, now)
            return
        agreement = request.agree(sa, accepted, (self._nonce, nonce.data), shared, self.replaced)
        child = sa.add_child(agreement, now)
        if self.replaced is None:
            install_own(sa, child, accepted, now)
        else:
            self._install_successor(sa, child, self.replaced, now)

    def abandoned(self, sa: IkeSa, now: float) -> None:
        """Give the SPI back."""
        self._release(sa)

    def _release(self, sa: IkeSa) -> None:
        if self._request is not None:
            self._request.release(sa)

    def _deleted_meanwhile(self, sa: IkeSa, now: float) -> None:
        """The peer's Delete of the new child overtook its own answer: what is missing now is asked for again."""
        assert sa.tunnel is not None
        self._release(sa)
        sa.tunnel.postpone_child(self.name, sa.postponed(now))
        if self.replaced is not None and self.replaced in sa.children:
            sa.enqueue(DeleteChildren((self.replaced,)), now)

    def _install_successor(self, sa: IkeSa, child: ChildSa, old: ChildSa, now: float) -> None:
        def installed(problem: str | None, then: float) -> None:
            latest = sa.latest()
            if child not in latest.children:
                return
            if problem is not None:
                if old.state is ChildState.REKEYING:
                    old.state = ChildState.INSTALLED
                    old.rekey_at = then + _AGAIN_S
                install_failed(latest, child, problem, then)
                return
            latest.child_up(child, then, rekeyed=True)
            self._settle(latest, child, old, then)

        # The peer has forgotten a pair that loses as soon as our Delete comes: nothing must be sent on it.
        child.outbound_held = self._loses(sa, child)
        sa.core.hub.install(sa, child, replaces=old.sa_ids, outbound_later=child.outbound_held, then=installed)

    def _loses(self, sa: IkeSa, child: ChildSa) -> bool:
        redundant = self.redundant
        return redundant is not None and redundant in sa.children and child.lowest_nonce() < redundant.lowest_nonce()

    def _settle(self, sa: IkeSa, child: ChildSa, old: ChildSa, now: float) -> None:
        """Delete what is superfluous: the old child, or ours when the peer's rekey of the same child wins (2.8.1)."""
        redundant = self.redundant
        if redundant is not None and redundant in sa.children:
            sa.report("ike.simultaneous", f"Both ends rekeyed child {child.name}")
            if self._loses(sa, child):
                if old.state is ChildState.REKEYING:
                    old.state = ChildState.REPLACED
                    old.rekey_at = None
                sa.enqueue(DeleteChildren((child,)), now)
                return
            redundant.state = ChildState.REPLACED
            redundant.rekey_at = None
        sa.switch_outbound(child)
        if old in sa.children and old.state is not ChildState.DELETING:
            old.state = ChildState.REPLACED
            sa.enqueue(DeleteChildren((old,)), now)

    def _change_group(self, sa: IkeSa, notify: Notify, now: float) -> bool:
        assert self._request is not None
        group = proposals.group_by_number(int.from_bytes(notify.data, "big")) if len(notify.data) == 2 else None
        if self._restarted or group is None or group.slug not in self._request.config.pfs_groups:
            return False
        self._restarted = True
        self._group = group.slug
        self._release(sa)
        if self.replaced is not None and self.replaced.state is ChildState.REKEYING:
            self.replaced.state = ChildState.INSTALLED
        sa.report("ike.group-changed", f"The peer asked for {group.slug}", received=group.slug)
        sa.enqueue(self, now, first=True)
        return True

    def failed(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """The answer is a refusal or not acceptable."""
        assert sa.tunnel is not None
        self._release(sa)
        error.about(self.name)
        if self._answer is not None and self._request is not None:
            sa.enqueue(DeleteUnaccepted(self._answer, self._request.spi_in), now)
        old = self.replaced
        if error.notify == NotifyType.TEMPORARY_FAILURE:
            self._try_later(sa, now)
            return
        if old is None:
            sa.report_error(error)
            steps.child_failed(sa, self.name, error)
            sa.tunnel.child_refused(self.name, error, now, None if self._request is None else self._request.asked)
            return
        if error.notify == NotifyType.CHILD_SA_NOT_FOUND:
            # The peer has already deleted or replaced it (2.25.1); what is still missing is made anew.
            if old.state is ChildState.REKEYING:
                sa.remove_child(old, now)
            return
        sa.report_error(error)
        if self.redundant is not None and self.redundant in sa.children:
            return
        if old.state is ChildState.REKEYING:
            old.state = ChildState.INSTALLED
            old.rekey_at = now + _AGAIN_S * (0.75 + 0.5 * sa.core.hub.entropy.uniform())
        sa.tunnel.note_error(error)

    def _try_later(self, sa: IkeSa, now: float) -> None:
        assert sa.tunnel is not None
        old = self.replaced
        if old is None:
            sa.tunnel.postpone_child(self.name, sa.postponed(now))
        elif old.state is ChildState.REKEYING:
            superseded = self.redundant is not None and self.redundant in sa.children
            old.state = ChildState.REPLACED if superseded else ChildState.INSTALLED
            old.rekey_at = None if superseded else sa.postponed(now, old.expire_at)


_REKEYABLE = frozenset({ChildState.INSTALLED})


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Answer a request for a child. Raises PeerError for the funnel."""
    assert sa.tunnel is not None
    tunnel = sa.tunnel
    if isinstance(sa.current, rekey.RekeyIke):
        raise _busy("The IKE SA is being rekeyed")
    old = _rekeyed_child(sa, message)
    ours = sa.current if isinstance(sa.current, CreateChild) else None
    accepted = negotiation.accept_request(
        tunnel.config.children,
        message,
        setting(sa),
        pfs=True,
        is_live=lambda name: tunnel.live_child(name) is not None,
        rekeyed=None if old is None else old.name,
    )
    if old is None and ours is not None and ours.replaced is None and ours.name == accepted.config.name and sa.opener:
        raise _busy("Both ends ask for the same child; the opener of the IKE SA goes first")
    key_exchange, shared = _answered(sa, message, accepted)  # may refuse: before an SPI is taken
    nonce = message.find(Nonce)
    assert nonce is not None  # the payload rules ask for it
    nonces = (nonce.data, sa.core.hub.entropy.octets(NONCE_OCTETS))
    child = sa.add_child(agree(sa, accepted, nonces, shared, old), now)
    if old is not None:
        if ours is not None and ours.replaced is old:
            ours.redundant = child
        else:
            old.state = ChildState.REPLACED
            old.rekey_at = None
    _install(sa, child, old, accepted, key_exchange, now)


def _rekeyed_child(sa: IkeSa, message: Message) -> ChildSa | None:
    notify = message.notify(NotifyType.REKEY_SA)
    if notify is None:
        return None
    old = sa.child_by_spi_out(notify.protocol, int.from_bytes(notify.spi, "big"))
    if old is None and isinstance(sa.current, CreateChild):
        raise _busy("The child may be the one whose answer is on its way")
    if old is None:
        raise PeerError(
            NotifyType.CHILD_SA_NOT_FOUND,
            "drop.state",
            "The peer rekeys a child that does not exist",
            received=notify.spi.hex(),
            data=b"",
        )
    if old.state not in (ChildState.INSTALLED, ChildState.REKEYING):
        raise _busy(f"Child {old.name} is {old.state}")
    return old


def _install(
    sa: IkeSa,
    child: ChildSa,
    old: ChildSa | None,
    accepted: Accepted,
    key_exchange: tuple[Payload, ...],
    now: float,
) -> None:
    agreement = child.agreement

    def installed(problem: str | None, then: float) -> None:
        if child not in sa.children or sa.state is SaState.CLOSED:
            return
        if problem is not None:
            sa.remove_child(child, then)
            if old is not None and old.state is ChildState.REPLACED:
                old.state = ChildState.INSTALLED
                old.rekey_at = sa.postponed(then, old.expire_at)
            raise PeerError(
                NotifyType.TEMPORARY_FAILURE,
                "child.install-failed",
                f"The data plane refused child {child.name}: {problem}",
                attributes={"child": child.name},
            )
        sa.respond(answer(agreement, accepted, (Nonce(data=agreement.nonce_r), *key_exchange)), then)
        sa.child_up(child, then, rekeyed=old is not None)
        if old is None:
            _delete_duplicates(sa, child, then)

    report_terms(sa, accepted)
    child.outbound_held = old is not None
    sa.core.hub.install(
        sa,
        child,
        replaces=() if old is None else old.sa_ids,
        outbound_later=old is not None,
        then=installed,
    )


def _delete_duplicates(sa: IkeSa, child: ChildSa, now: float) -> None:
    """The peer asked for a child that stood already (requests crossed, or it lost its own): the newer one stays."""
    agreement = child.agreement
    for other in tuple(sa.children):
        same = (other.agreement.local_ts, other.agreement.remote_ts) == (agreement.local_ts, agreement.remote_ts)
        if other is not child and other.name == child.name and same and other.state is ChildState.INSTALLED:
            sa.enqueue(DeleteChildren((other,)), now)


def _peer_spis(message: Message) -> list[tuple[int, int]]:
    offer = message.find(SecurityAssociation)
    found = () if offer is None else offer.proposals
    return [(each.protocol, int.from_bytes(each.spi, "big")) for each in found]


def _finished(key_pair: KeyPair | None, message: Message) -> bytes | None:
    key_exchange = message.find(KeyExchangeData)
    return None if key_pair is None or key_exchange is None else ke.finish(key_pair, key_exchange.data)


def _answered(sa: IkeSa, message: Message, accepted: Accepted) -> tuple[tuple[Payload, ...], bytes | None]:
    key_exchange = message.find(KeyExchangeData)
    if accepted.choice.group is None or key_exchange is None:
        return (), None
    payload, shared = ke.answer(accepted.choice.group, key_exchange.data, sa.core.hub.entropy)
    return (payload,), shared


def _busy(why: str) -> PeerError:
    return PeerError(NotifyType.TEMPORARY_FAILURE, "ike.simultaneous", why)
