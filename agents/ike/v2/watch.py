"""The timers of an IKE SA: sending again, giving up, rekeying, expiring, asking whether the peer is there.

Times are in the SA and its children; here is what they mean (RFC 7296 sections 2.1, 2.4, 2.8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.ike.errors import PeerError
from agents.ike.tally import Count
from agents.ike.timers import LINGER_S
from agents.ike.v2 import messages, path, reauth, steps
from agents.ike.v2.child import ChildSa
from agents.ike.v2.states import ChildState, SaState
from agents.ike.v2.tasks import mobike
from agents.ike.v2.tasks.delete import DeleteChildren
from agents.ike.v2.tasks.rekey import RekeyIke
from agents.ike.wire.registry import NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa


def deadline(sa: IkeSa) -> float | None:
    """Return when something is due next."""
    times = [sa.expire_at, sa.rekey_at, sa.delete_at, sa.reassembly.until, path.keepalive_at(sa)]
    if sa.responses.ready:
        times.append(sa.last_heard)
    outstanding = sa.requests.outstanding
    if outstanding is not None:
        times.append(outstanding.due)
    if sa.state is SaState.ESTABLISHED:
        times.append(reauth.due_at(sa))
        if outstanding is None and not sa.queue and sa.tunnel is not None:
            interval_s = sa.tunnel.config.ike.dpd_interval_s
            if interval_s:
                times.append(sa.last_heard + interval_s)
        if sa.unfinished is not None:
            times.append(sa.unfinished.until)
        for child in sa.children:
            times += (child.rekey_at, child.expire_at, child.switch_at)
    return min((time for time in times if time is not None), default=None)


def handle_timer(sa: IkeSa, now: float) -> None:
    """Do what is due: send again, give up, rekey, expire, ask whether the peer is there."""
    if sa.expire_at is not None and now >= sa.expire_at:
        _expired(sa, now)
        return
    sa.reassembly.forget(now)
    while sa.responses.ready:
        messages.answer_held(sa, now)
    outstanding = sa.requests.outstanding
    if outstanding is not None and now >= outstanding.due and not _send_again(sa, now):
        return
    if sa.state is not SaState.ESTABLISHED:
        return
    path.keep_alive(sa, now)
    if sa.delete_at is not None and now >= sa.delete_at:
        sa.delete_at = None
        sa.start_delete(now)
        return
    if sa.unfinished is not None and now >= sa.unfinished.until:
        sa.unfinished = None
    if reauth.handle_timer(sa, now):
        return
    for child in tuple(sa.children):
        _child_timer(sa, child, now)
    if sa.rekey_at is not None and now >= sa.rekey_at:
        sa.rekey_at = None
        sa.enqueue(RekeyIke(), now)
    _check_liveness(sa, now)


def _child_timer(sa: IkeSa, child: ChildSa, now: float) -> None:
    if child.switch_at is not None and now >= child.switch_at:
        sa.switch_outbound(child)
    if now >= child.expire_at and child.state is not ChildState.DELETING:
        sa.enqueue(DeleteChildren((child,)), now)
        child.expire_at = now + LINGER_S * 6
    elif now >= child.expire_at:
        sa.remove_child(child, now)
    elif child.rekey_at is not None and now >= child.rekey_at:
        sa.rekey_child(child, now)


def _check_liveness(sa: IkeSa, now: float) -> None:
    if sa.requests.outstanding is not None or sa.queue or sa.tunnel is None:
        return
    interval_s = sa.tunnel.config.ike.dpd_interval_s
    if interval_s and now >= sa.last_heard + interval_s:
        sa.enqueue(mobike.liveness(sa), now)


def _send_again(sa: IkeSa, now: float) -> bool:
    retransmission = sa.core.hub.retransmission
    if sa.state is SaState.INIT_SENT and sa.tunnel is not None:
        retransmission = sa.core.turns.first_tries(sa.tunnel.config.id)
    request = sa.requests.again(now, retransmission)
    if request is None:
        _peer_is_gone(sa, now)
        return False
    sa.report("ike.retransmit", "A request was sent again")
    sa.core.exchanges.add(request.exchange, Count.RETRANSMISSIONS_OUT)
    messages.transmit(sa, request.sent, sa.path)
    sa.last_sent = now
    for other in path.to_probe(sa):
        messages.transmit(sa, request.sent, other)
    return True


def _peer_is_gone(sa: IkeSa, now: float) -> None:
    if sa.state in (SaState.DELETING, SaState.REKEYED):
        sa.close(now)
        return
    tries = sa.core.hub.retransmission.tries
    if sa.state is SaState.ESTABLISHED:
        code, message = "ike.dpd-failed", f"The peer stopped answering: {tries} requests without an answer"
    else:
        code, message = "ike.peer-unresponsive", f"The peer does not answer: {tries} requests without an answer"
    tunnel = sa.tunnel if sa.state is SaState.ESTABLISHED else None
    if tunnel is not None and all(other is sa for other in tunnel.established()):
        tunnel.loss.peer_lost(tunnel, sa.children)
    sa.fail(PeerError(0, code, message, field="remote.address"), now)


def _expired(sa: IkeSa, now: float) -> None:
    sa.expire_at = None
    if sa.state is SaState.ESTABLISHED:
        sa.report("ike.sa-deleted", "The IKE SA reached the end of its lifetime")
        sa.start_delete(now)
    elif sa.state is SaState.CLOSED:
        sa.core.unregister(sa)
    elif sa.state is SaState.AUTHENTICATING:
        steps.failed(sa, "signing or checking a certificate took too long")
        sa.start_delete(now, NotifyType.AUTHENTICATION_FAILED)
    else:
        if sa.state is SaState.INIT_RECEIVED:
            steps.failed(sa, "the peer did not authenticate in time")
        sa.close(now)
