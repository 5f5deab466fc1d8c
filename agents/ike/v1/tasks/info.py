"""Informational exchanges (RFC 2408 section 4.8, RFC 2409 section 5.7): notifies, deletes, liveness (RFC 3706).

What is protected has been verified when it comes here. What is in clear is never acted on: it only tells people why a
negotiation may be failing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agents.contract.events import KINDS
from agents.contract.status import Reason
from agents.ike.errors import PeerError
from agents.ike.tally import Count
from agents.ike.v1 import sending, terms
from agents.ike.v1.exchange import Exchange
from agents.ike.v1.quick_proposals import KILOBYTE
from agents.ike.wire.isakmp import attributes
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import Delete, Notify, Payload, SecurityAssociation
from agents.ike.wire.isakmp.registry import (
    FIRST_STATUS_NOTIFY,
    LifeType,
    NotifyType,
    Phase2Attribute,
    Protocol,
    notify_name,
)
from agents.ike.wire.isakmp.registry import Exchange as ExchangeType

if TYPE_CHECKING:
    from agents.contract.config import Child
    from agents.ike.v1.child import ChildSa
    from agents.ike.v1.quick_proposals import QuickChoice
    from agents.ike.v1.sa import IsakmpSa

COOKIES_OCTETS = 16
_LIFE = (Phase2Attribute.LIFE_TYPE, Phase2Attribute.LIFE_DURATION)
_LEAST_S = 10
"""A shorter lifetime than this a peer cannot ask for; it would do nothing but rekey."""

_HINTS = {
    NotifyType.NO_PROPOSAL_CHOSEN: ("ikev1.proposal-refused-by-peer", "The peer accepts none of our proposals"),
    NotifyType.ATTRIBUTES_NOT_SUPPORTED: ("ikev1.proposal-refused-by-peer", "The peer accepts none of our proposals"),
    NotifyType.INVALID_ID_INFORMATION: ("ikev1.identity-refused-by-peer", "The peer refuses our identity"),
    NotifyType.AUTHENTICATION_FAILED: ("ike.peer-refused-auth", "The peer refused our authentication"),
    NotifyType.INVALID_HASH_INFORMATION: ("ike.peer-refused-auth", "The peer refused our authentication"),
    NotifyType.INVALID_SIGNATURE: ("ike.peer-refused-auth", "The peer refused our authentication"),
    NotifyType.PAYLOAD_MALFORMED: ("ikev1.psk-mismatch", "The peer cannot read us: possibly mismatching keys"),
    NotifyType.UNEQUAL_PAYLOAD_LENGTHS: ("ikev1.psk-mismatch", "The peer cannot read us: possibly mismatching keys"),
    NotifyType.UNSUPPORTED_EXCHANGE_TYPE: (
        "ikev1.exchange-mode-mismatch",
        "The peer does not negotiate in this mode",
    ),
    NotifyType.INVALID_EXCHANGE_TYPE: ("ikev1.exchange-mode-mismatch", "The peer does not negotiate in this mode"),
}
"""What error notifies of a peer mean for the operator: event code and sentence."""

_CHILD_HINTS = {
    NotifyType.NO_PROPOSAL_CHOSEN: ("child.peer-refused-proposal", "The peer accepts none of our IPsec proposals"),
    NotifyType.ATTRIBUTES_NOT_SUPPORTED: (
        "child.peer-refused-proposal",
        "The peer accepts none of our IPsec proposals",
    ),
    NotifyType.INVALID_ID_INFORMATION: ("child.peer-refused-ts", "The peer refuses our traffic selectors"),
}


# --- sending


def send(sa: IsakmpSa, payloads: Sequence[Payload], now: float, *, again: bool = False) -> None:
    """Send a protected Informational, which nothing answers; ``again`` says that it must arrive."""
    exchange = Exchange(message_id=sa.new_message_id(), number=ExchangeType.INFORMATIONAL)
    exchange.iv = sa.iv_of(exchange.message_id)
    sending.send_hashed(sa, exchange, sending.hash_of(sa, exchange.message_id, payloads), payloads, now, asks=False)
    if again:
        sa.unanswered.add(exchange.sent, now)


def send_delete(sa: IsakmpSa, now: float, children: Sequence[ChildSa] = (), *, itself: bool = False) -> None:
    """Tell the peer what is no more: children by the SPIs that we receive on, the ISAKMP SA by its cookies."""
    if not sa.standing:
        return
    by_protocol: dict[Protocol, list[bytes]] = {}
    for child in children:
        for protocol, spi in child.inbound_spis:
            by_protocol.setdefault(protocol, []).append(spi.to_bytes(4, "big"))
    for protocol, spis in by_protocol.items():
        send(sa, (Delete(protocol=protocol, spis=tuple(spis)),), now, again=True)
    if itself:
        send(sa, (Delete(protocol=Protocol.ISAKMP, spis=(sa.cookie_i + sa.cookie_r,)),), now, again=True)


def refuse(sa: IsakmpSa, error: PeerError, now: float, about: SecurityAssociation | None = None) -> None:
    """Tell the peer why a Quick Mode came to nothing, by the first SPI of its SA payload: it may have begun several."""
    if sa.standing and error.notify:
        named = next((each for each in about.proposals if each.spi), None) if about is not None else None
        protocol, spi = (Protocol.ESP, b"") if named is None else (named.protocol, named.spi)
        send(sa, (Notify(type=error.notify, protocol=protocol, spi=spi),), now)


def ask_alive(sa: IsakmpSa, sequence: int, now: float) -> None:
    """Ask whether the peer is there (RFC 3706 section 5.4)."""
    _send_alive(sa, NotifyType.R_U_THERE, sequence, now)


def _send_alive(sa: IsakmpSa, kind: NotifyType, sequence: int, now: float) -> None:
    cookies = sa.cookie_i + sa.cookie_r
    notify = Notify(type=kind, protocol=Protocol.ISAKMP, spi=cookies, data=sequence.to_bytes(4, "big"))
    send(sa, (notify,), now)


# --- receiving


def take(sa: IsakmpSa, message: Message, now: float) -> None:
    """Act on a protected Informational, whose hash is right."""
    for notify in message.find_all(Notify) if sa.standing else ():
        _take_notify(sa, notify, now)
    for delete in message.find_all(Delete):
        if sa.tunnel is not None:
            _take_delete(sa, delete, now)


def _take_notify(sa: IsakmpSa, notify: Notify, now: float) -> None:
    if notify.type in (NotifyType.R_U_THERE, NotifyType.R_U_THERE_ACK):
        _take_alive(sa, notify, now)
    elif notify.type == NotifyType.INITIAL_CONTACT:
        if sa.tunnel is not None:
            sa.tunnel.initial_contact(sa, now)
    elif notify.type == NotifyType.RESPONDER_LIFETIME:
        child = None if sa.tunnel is None else sa.tunnel.children.by_spi_out(notify.protocol, notify.spi)
        if child is not None:
            _shorten(sa, child, notify)
    elif notify.type < FIRST_STATUS_NOTIFY:
        _take_error(sa, notify, now)


def _take_alive(sa: IsakmpSa, notify: Notify, now: float) -> None:
    """Answer a question, or note an answer; either must bear our cookies and a sequence number (section 5.5)."""
    if notify.spi not in (sa.cookie_i + sa.cookie_r, b"") or len(notify.data) != 4:
        return
    sequence = int.from_bytes(notify.data, "big")
    if notify.type == NotifyType.R_U_THERE_ACK:
        sa.dpd.answered(sequence)
    elif sa.dpd.is_fresh(sequence):
        _send_alive(sa, NotifyType.R_U_THERE_ACK, sequence, now)


def _take_error(sa: IsakmpSa, notify: Notify, now: float) -> None:
    """The peer refuses something: the Quick Mode of ours that has this SPI, or the only one there is."""
    kind = NotifyType(notify.type) if notify.type in NotifyType.__members__.values() else None
    asked = [] if sa.tunnel is None else sa.tunnel.children.asking(sa)
    meant = [quick for quick in asked if quick.is_about(notify.spi)] or asked
    named = notify_name(notify.type)
    if len(meant) != 1:
        sa.report("ike.peer-notify", f"The peer reported {named}", received=named)
        return
    default = ("child.peer-refused-proposal", f"The peer refused the IPsec SA: {named}")
    code, sentence = _CHILD_HINTS.get(kind, default) if kind is not None else default
    error = PeerError(notify.type, code, f"{sentence} ({named})", received=named, attributes={"phase": "2"})
    sa.report_error(error)
    meant[0].refused(error, now)


def _take_delete(sa: IsakmpSa, delete: Delete, now: float) -> None:
    assert sa.tunnel is not None
    if delete.protocol == Protocol.ISAKMP:
        for cookies in delete.spis:
            named = sa.tunnel.sa_by_cookies(cookies)
            if named is not None:
                named.report(
                    "ikev1.delete-received", f"The peer deleted IKE SA {cookies[:8].hex()}_{cookies[8:].hex()}"
                )
                named.report("ike.sa-deleted", "The IKE SA was deleted by the peer")
                named.close(now, linger=True)
        return
    for spi in delete.spis:
        child = sa.tunnel.children.by_spi_out(delete.protocol, spi)
        protocol = Protocol(delete.protocol).name if delete.protocol in (Protocol.AH, Protocol.ESP) else "other"
        sa.report("ikev1.delete-received", f"The peer deleted the {protocol} SA with SPI {spi.hex()}")
        if child is not None:
            sa.tunnel.children.remove(child, now, by_peer=True)
        else:
            sa.note_deleted(delete.protocol, int.from_bytes(spi, "big"), now)


def unprotected(sa: IsakmpSa, message: Message, now: float) -> None:
    """Note an Informational in clear. Anybody can send one: it changes nothing but what people are told."""
    sa.core.exchanges.add(ExchangeType.INFORMATIONAL, Count.REQUESTS_IN)
    for notify in message.find_all(Notify)[:4]:
        kind = NotifyType(notify.type) if notify.type in NotifyType.__members__.values() else None
        hint = None if kind is None or not sa.initiated else _HINTS.get(kind)
        named = notify_name(notify.type)
        if hint is None:
            sa.report("ikev1.unprotected-notify", f"The peer, or somebody else, says {named}", received=named)
            continue
        code, sentence = hint
        sa.report(code, f"Received an unprotected message of notify type {named}: {sentence.lower()}", received=named)
        if sa.tunnel is not None:
            sa.tunnel.hint(
                Reason(
                    code=code,
                    message=f"{sentence} (notify {named}, unprotected)",
                    received=named,
                    field=KINDS[code].field or None,
                )
            )


# --- RESPONDER-LIFETIME


def shorter_lifetimes(choice: QuickChoice) -> bytes:
    """Return the attributes that tell a lifetime of ours that is shorter than the peer's; empty where none is."""
    found: list[attributes.Attribute] = []
    said = choice.peer_lifetimes
    if choice.lifetime_s < (said.seconds or terms.DEFAULT_LIFETIME_S):
        found += terms.lifetime(_LIFE, LifeType.SECONDS, choice.lifetime_s)
    if choice.lifetime_kilobytes and (said.kilobytes is None or choice.lifetime_kilobytes < said.kilobytes):
        found += terms.lifetime(_LIFE, LifeType.KILOBYTES, choice.lifetime_kilobytes)
    return attributes.serialize(found)


def with_lifetimes_of(choice: QuickChoice, notify: Notify | None) -> QuickChoice:
    """Return the choice with what a responder's RESPONDER-LIFETIME makes shorter (RFC 2407 section 4.6.3.1)."""
    found = None if notify is None else terms.read_lifetimes(_LIFE, notify.data)
    if found is None:
        return choice
    seconds = choice.lifetime_s if found.seconds is None else max(_LEAST_S, found.seconds)
    kilobytes = [each for each in (choice.lifetime_kilobytes, found.kilobytes) if each]
    return replace(choice, lifetime_s=min(choice.lifetime_s, seconds), lifetime_kilobytes=min(kilobytes, default=0))


def report_lifetimes(sa: IsakmpSa, child: ChildSa, notify: Notify | None, config: Child) -> None:
    """Tell people what a responder's RESPONDER-LIFETIME says."""
    found = None if notify is None else terms.read_lifetimes(_LIFE, notify.data)
    if found is None:
        return
    if found.seconds is not None:
        sa.report(
            "ikev1.lifetime-seconds",
            f"Responder lifetime of {found.seconds} seconds for child {child.name}",
            received=str(found.seconds),
            configured=str(config.lifetime_s),
        )
    if found.kilobytes is not None:
        sa.report(
            "ikev1.lifetime-kilobytes",
            f"Responder lifetime of {found.kilobytes} kilobytes for child {child.name}",
            received=str(found.kilobytes),
            configured=str(-(-config.lifetime_bytes // KILOBYTE)),
        )


def _shorten(sa: IsakmpSa, child: ChildSa, notify: Notify) -> None:
    """Take a lifetime over that is told when the SAs are in place: in seconds, which are ours to count."""
    report_lifetimes(sa, child, notify, child.agreement.config)
    found = terms.read_lifetimes(_LIFE, notify.data)
    if found is not None and found.seconds is not None:
        child.shorten(max(_LEAST_S, found.seconds), sa.core.hub.entropy.uniform())
