"""The timers of an ISAKMP SA: sending again, giving up, renewing, expiring, asking whether the peer is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.contract.config import Retransmission
from agents.ike.errors import PeerError
from agents.ike.outputs import Entropy, Keepalive
from agents.ike.tally import Count
from agents.ike.timers import gives_up_after_s, retransmit_after_s
from agents.ike.v1 import place, sending, steps
from agents.ike.v1.exchange import Exchange
from agents.ike.v1.reasons import reason
from agents.ike.v1.states import SaState
from agents.ike.v1.tasks import info

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa


class Liveness:
    """Questions and answers of RFC 3706: one question at a time, sent again under the same sequence number."""

    def __init__(self, entropy: Entropy) -> None:
        self.sequence = int.from_bytes(entropy.octets(4), "big") >> 1
        self.due: float | None = None
        self.tries = 0
        self._peer: int | None = None

    def ask(self, now: float, retransmission: Retransmission) -> bool:
        """Note that a question goes out, or goes out again; False when the tries are used up."""
        if self.tries >= retransmission.tries:
            return False
        if self.tries == 0:
            self.sequence = (self.sequence + 1) % 2**32
        self.tries += 1
        self.due = now + retransmit_after_s(retransmission, self.tries)
        return True

    def answered(self, sequence: int) -> None:
        """An answer came; one to another question is passed over."""
        if sequence == self.sequence:
            self.stop()

    def heard(self) -> None:
        """Anything authentic says that the peer is there."""
        self.stop()

    def stop(self) -> None:
        """No question is open."""
        self.due, self.tries = None, 0

    def is_fresh(self, sequence: int) -> bool:
        """Return whether a question of the peer is not older than its last one (section 5.5)."""
        if self._peer is not None and sequence < self._peer:
            return False
        self._peer = sequence
        return True


def deadline(sa: IsakmpSa) -> float | None:
    """Return when something is due next."""
    times = [sa.expire_at, sa.exchange.due, sa.unanswered.deadline(), sa.reassembly.deadline]
    for exchange in sa.exchanges.values():
        times += (exchange.due, exchange.until)
    if sa.standing:
        times += (sa.delete_at, sa.rekey_at, sa.dpd.due, _keepalive_at(sa), _ask_at(sa))
    return min((time for time in times if time is not None), default=None)


def handle_timer(sa: IsakmpSa, now: float) -> None:
    """Do what is due."""
    if sa.expire_at is not None and now >= sa.expire_at:
        _expired(sa, now)
        return
    sa.reassembly.expire(now)
    for datagrams in sa.unanswered.take_due(now):
        sending.transmit(sa, datagrams, now)
    for exchange in (sa.exchange, *sa.exchanges.values()):
        if exchange.due is not None and now >= exchange.due and not _send_again(sa, exchange, now):
            return
    for message_id in [key for key, each in sa.exchanges.items() if each.until is not None and now >= each.until]:
        del sa.exchanges[message_id]
    if not sa.standing or sa.tunnel is None:
        return
    keepalive_at = _keepalive_at(sa)
    if keepalive_at is not None and now >= keepalive_at:
        sa.last_sent = now
        sa.core.hub.emit(Keepalive(path=sa.path))
    if sa.delete_at is not None and now >= sa.delete_at:
        sa.delete_at = None
        sa.tunnel.delete_sa(sa, now)
        return
    if sa.rekey_at is not None and now >= sa.rekey_at:
        sa.rekey_at = None
        if sa.tunnel.may_initiate:
            sa.report("ike.reauthentication", "A new phase 1 begins before this one ends")
            sa.tunnel.rekey_ike(now)
    _check_liveness(sa, now)


def _keepalive_at(sa: IsakmpSa) -> float | None:
    """Return when a NAT in front of us needs to see a packet (RFC 3948 section 4), None without one."""
    if not sa.nat.local or sa.tunnel is None or not sa.tunnel.config.ike.keepalive_s:
        return None
    return sa.last_sent + sa.tunnel.config.ike.keepalive_s


def _ask_at(sa: IsakmpSa) -> float | None:
    """Return when the peer has been silent for so long that it is asked; None while it is, or cannot answer."""
    if sa.tunnel is None or not sa.peer.dpd or sa.dpd.due is not None:
        return None
    if any(exchange.due is not None for exchange in sa.exchanges.values()):
        return None  # whatever is asked already tells as much
    interval_s = sa.tunnel.config.ike.dpd_interval_s
    return sa.last_heard + interval_s if interval_s else None


def _check_liveness(sa: IsakmpSa, now: float) -> None:
    ask_at = _ask_at(sa)
    if sa.dpd.due is not None:
        if now < sa.dpd.due:
            return
        sa.report("ike.retransmit", "A liveness check was sent again")
    elif ask_at is None or now < ask_at:
        return
    if sa.dpd.ask(now, sa.core.hub.retransmission):
        info.ask_alive(sa, sa.dpd.sequence, now)
    else:
        _peer_is_gone(sa, now)


def _send_again(sa: IsakmpSa, exchange: Exchange, now: float) -> bool:
    """Send a message again, or give up; False when the SA has ended."""
    if not _may_send_again(sa, exchange, now):
        gave_up, exchange.gave_up = exchange.gave_up, None
        heard = sa.standing and exchange is not sa.exchange and sa.last_heard > sa.created_at and _alive(sa, now)
        exchange.finish(now)
        if gave_up is not None:
            gave_up(now)
        if heard:
            return True
        _peer_is_gone(sa, now)
        return False
    sa.report("ike.retransmit", "A message was sent again")
    sa.core.exchanges.add(exchange.number, Count.RETRANSMISSIONS_OUT)
    if exchange is not sa.exchange and not sa.heard_encrypted and sa.initiator:
        sending.transmit(sa, sa.exchange.sent, now)  # our last of phase 1, to which there is no answer, may be lost
    sending.transmit(sa, exchange.sent, now)
    return True


def _may_send_again(sa: IsakmpSa, exchange: Exchange, now: float) -> bool:
    first = exchange is sa.exchange and exchange.step == 1
    if first and sa.tunnel is not None:
        return exchange.again(now, sa.core.turns.first_tries(sa.tunnel.config.id))
    return exchange.again(now, sa.core.hub.retransmission)


def _alive(sa: IsakmpSa, now: float) -> bool:
    """Return whether the peer was heard while we waited: then it is there, and only this exchange came to nothing."""
    return sa.last_heard > now - gives_up_after_s(sa.core.hub.retransmission)


def _peer_is_gone(sa: IsakmpSa, now: float) -> None:
    tries = sa.core.hub.retransmission.tries
    tunnel = sa.tunnel
    if sa.standing:
        code, message = "ike.dpd-failed", f"The peer stopped answering: {tries} messages without an answer"
    else:
        code, message = "ike.peer-unresponsive", f"The peer does not answer, {place.phase1(sa).sentence}"
        if sa.hint is not None:
            message += f"; an unprotected notify said {sa.hint.received}"
    if sa.standing and tunnel is not None and all(other is sa for other in tunnel.established()):
        tunnel.lost(now)
    sa.fail(PeerError(0, code, message, field="remote.address"), now)


def _expired(sa: IsakmpSa, now: float) -> None:
    sa.expire_at = None
    if sa.standing and sa.tunnel is not None:
        sa.tunnel.delete_sa(sa, now)
    elif sa.state is SaState.CLOSED:
        sa.core.unregister(sa)
    else:
        text = f"the peer did not go on in time, {place.phase1(sa).sentence}"
        if sa.cause is None and sa.meant is not None:
            sa.meant.hint(reason("ike.sa-failed", f"A negotiation of the peer ended: {text}"))
        steps.failed(sa, text)
        sa.close(now)
