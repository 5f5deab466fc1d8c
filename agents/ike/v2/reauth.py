"""Reauthentication (RFC 7296 section 2.8.3) and how long an authentication lasts (RFC 4478).

Only the end that opened the IKE SA can reauthenticate, by a new IKE SA: before the old one is deleted, whose children
it takes over one by one (make before break), or after. The other end says AUTH_LIFETIME; it opens a new IKE SA itself,
where it may, when the peer has not come back shortly before the end. A lapsed authentication ends the IKE SA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.contract.config import Reauthentication
from agents.ike.timers import rekey_after_s
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Auth, Notify, Payload
from agents.ike.wire.registry import NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa

AGAIN_S = 10.0
"""When to look again after an attempt: longer than an exchange takes, short beside any lifetime."""


class Authentication:
    """When the peer was authenticated, how long it says that lasts, and when that is to be renewed; moves by rekeys."""

    __slots__ = ("at", "ends_at", "lifetime_s", "renew_at")

    def __init__(self) -> None:
        self.at: float | None = None
        self.lifetime_s = 0
        self.renew_at: float | None = None
        self.ends_at: float | None = None


def retime(sa: IkeSa) -> None:
    """Set when this SA is to be reauthenticated, and when it ends without that, by the present configuration."""
    authentication = sa.authentication
    if sa.tunnel is None or authentication.at is None:
        return
    lifetimes = [sa.tunnel.config.ike.reauth_s, authentication.lifetime_s if sa.opener else 0]
    lifetime_s = min((each for each in lifetimes if each), default=0)
    if not lifetime_s:
        authentication.renew_at = authentication.ends_at = None
        return
    authentication.renew_at = authentication.at + rekey_after_s(lifetime_s, sa.opener, sa.core.hub.entropy.uniform())
    authentication.ends_at = authentication.at + lifetime_s


def begin(sa: IkeSa, now: float) -> None:
    """The SA is established: by an authentication, or by the rekey of one that was."""
    if sa.authentication.at is None:
        sa.authentication.at = now
        retime(sa)


def announce(sa: IkeSa, payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
    """Return what goes with our proof as responder: how long we take the peer's for good (RFC 4478 section 3)."""
    if sa.tunnel is None or sa.opener or not any(type(each) is Auth for each in payloads):
        return ()
    reauth_s = sa.tunnel.config.ike.reauth_s
    return (Notify(type=NotifyType.AUTH_LIFETIME, data=reauth_s.to_bytes(4, "big")),) if reauth_s else ()


def take(sa: IkeSa, message: Message) -> None:
    """Note the lifetime that the peer's answer to our proof, or a request of its own, tells."""
    notify = message.notify(NotifyType.AUTH_LIFETIME)
    if notify is None or len(notify.data) != 4 or not sa.opener:
        return
    sa.authentication.lifetime_s = int.from_bytes(notify.data, "big")
    retime(sa)
    sa.core.hub.touch(sa)


def expected(sa: IkeSa, now: float) -> bool:
    """Return whether half the time that this SA's authentication lasts is over: a new one may come."""
    at, ends_at = sa.authentication.at, sa.authentication.ends_at
    return at is not None and ends_at is not None and now >= (at + ends_at) / 2


def due_at(sa: IkeSa) -> float | None:
    """Return when :func:`handle_timer` has something to do."""
    times = (sa.authentication.renew_at, sa.authentication.ends_at)
    return None if sa.delete_at is not None else min((each for each in times if each is not None), default=None)


def handle_timer(sa: IkeSa, now: float) -> bool:
    """Reauthenticate, or end the SA, where that is due; True where the SA is on its way out."""
    authentication, tunnel = sa.authentication, sa.tunnel
    due = due_at(sa)
    if due is None or now < due or tunnel is None:
        return False
    if authentication.ends_at is not None and now >= authentication.ends_at:
        sa.report("ike.authentication-lapsed", "The authentication of the IKE SA was not renewed in time")
        sa.start_delete(now)
        return True
    if not tunnel.may_initiate:
        authentication.renew_at = None
        return False
    authentication.renew_at = now + AGAIN_S
    if tunnel.negotiating():
        return False
    sa.report("ike.reauthentication", "The IKE SA is authenticated anew")
    if tunnel.config.ike.reauthentication is Reauthentication.MAKE_BEFORE_BREAK:
        tunnel.initiate(now)
        return False
    sa.start_delete(now)
    tunnel.start(now)
    return True
