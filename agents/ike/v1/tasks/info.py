"""Informational exchanges (RFC 2408 section 4.8, RFC 2409 section 5.7): notifies, deletes, liveness (RFC 3706).

What is protected has been verified when it comes here. What is in clear is never acted on: it only tells people why a
negotiation may be failing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agents.contract import ikev1
from agents.ike import identity
from agents.ike.errors import PeerError
from agents.ike.tally import Count
from agents.ike.v1 import names, place, proposals, quick_proposals, selectors, sending, terms
from agents.ike.v1.exchange import Exchange
from agents.ike.v1.place import Place
from agents.ike.v1.reasons import reason
from agents.ike.wire.isakmp import attributes
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import Delete, Notify, Payload, SecurityAssociation
from agents.ike.wire.isakmp.registry import (
    FIRST_STATUS_NOTIFY,
    LifeType,
    NotifyType,
    Phase2Attribute,
    Protocol,
    exchange_name,
    notify_name,
)
from agents.ike.wire.isakmp.registry import Exchange as ExchangeType

if TYPE_CHECKING:
    from agents.ike.v1.child import ChildSa
    from agents.ike.v1.quick_proposals import QuickChoice
    from agents.ike.v1.sa import IsakmpSa
    from agents.ike.v1.tunnel import TunnelRuntime

COOKIES_OCTETS = 16
_SPI_OCTETS = 4
_LIFE = (Phase2Attribute.LIFE_TYPE, Phase2Attribute.LIFE_DURATION)

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

_REFUSED = ("ike.peer-refused-auth", "The peer refused our authentication")
_NO_HINT = ("ikev1.unprotected-notify", "it is not acted on")
_MOST_IN_CLEAR = 8
"""Sorts of notifies in clear that are reported for one SA."""

_LEAST_LIFETIME_S = 10

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
        sa.unanswered.add(lambda then: send(sa, payloads, then), now)


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


def refuse(sa: IsakmpSa, error: PeerError, refused: SecurityAssociation, now: float) -> None:
    """Tell the peer why a Quick Mode came to nothing; its SPI says which, since the message ID is another."""
    if sa.standing and error.notify:
        first = refused.proposals[0]
        send(sa, (Notify(type=error.notify, protocol=first.protocol, spi=first.spi),), now)


def withdraw(sa: IsakmpSa, error: PeerError, now: float) -> None:
    """Tell a responder that stands already that we refuse what its last message proves."""
    sa.end_phase_1()
    cookies = sa.cookie_i + sa.cookie_r
    if error.notify:
        send(sa, (Notify(type=error.notify, protocol=Protocol.ISAKMP, spi=cookies),), now)
    send(sa, (Delete(protocol=Protocol.ISAKMP, spis=(cookies,)),), now, again=True)


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


def take_early(message: Message) -> None:
    """Act on what came under the keys of a phase 1 under way. Raises PeerError for an error: it is over."""
    for notify in message.find_all(Notify):
        if notify.type >= FIRST_STATUS_NOTIFY:
            continue
        kind = NotifyType(notify.type) if notify.type in NotifyType.__members__.values() else None
        named = notify_name(notify.type)
        default = ("ike.peer-notify", "The peer reported an error")
        code, sentence = default if kind is None else _HINTS.get(kind, default)
        raise PeerError(0, code, f"{sentence} ({named})", received=named, fatal=True)


def _take_notify(sa: IsakmpSa, notify: Notify, now: float) -> None:
    if notify.type in (NotifyType.R_U_THERE, NotifyType.R_U_THERE_ACK):
        _take_alive(sa, notify, now)
    elif notify.type == NotifyType.INITIAL_CONTACT:
        if sa.tunnel is not None:
            sa.tunnel.initial_contact(sa, now)
    elif notify.type == NotifyType.RESPONDER_LIFETIME:
        child = None if sa.tunnel is None else sa.tunnel.children.by_spi_out(notify.protocol, notify.spi)
        if child is not None:
            take_lifetime(sa, child, notify)
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
    """The peer refuses something: the Quick Mode of ours whose SPI it names, or where it names none the oldest."""
    asked = [] if sa.tunnel is None else sa.tunnel.children.asking(sa)
    named = notify_name(notify.type)
    quick = next((each for each in asked if notify.spi in each.spis), None)
    names_one = len(notify.spi) == _SPI_OCTETS and any(notify.spi)  # strongSwan says 0 for what it has not chosen
    if quick is None and asked and not names_one:
        quick = asked[0]
    if notify.protocol == Protocol.ISAKMP and notify.spi == sa.cookie_i + sa.cookie_r and sa.tunnel is not None:
        _take_refusal(sa, sa.tunnel, notify.type)
        return
    if quick is None:
        sa.report("ike.peer-notify", f"The peer reported {named}", received=named, attributes={"phase": "2"})
        return
    default = ("child.peer-refused-proposal", "The peer refuses the IPsec SA")
    code, sentence = next((found for kind, found in _CHILD_HINTS.items() if kind == notify.type), default)
    where = place.quick(1, quick.config.name)
    offered = quick_proposals.describe_quick(quick.config)
    error = PeerError(
        notify.type,
        code,
        f"Received notify {named}: {sentence}, {where.sentence}",
        received=named,
        configured=selectors.describe_pair(quick.pair) if code == "child.peer-refused-ts" else offered,
        attributes=where.attributes,
    )
    sa.report_error(error)
    quick.refused(error, now)


def _take_refusal(sa: IsakmpSa, tunnel: TunnelRuntime, kind: int) -> None:
    """The initiator refuses what our last message of Main Mode proves; its Delete follows."""
    named = notify_name(kind)
    code, sentence = next((found for each, found in _HINTS.items() if each == kind), _REFUSED)
    error = PeerError(kind, code, f"Received notify {named}: {sentence}", received=named, attributes={"phase": "1"})
    sa.report_error(error)
    tunnel.note_error(error)


def _take_delete(sa: IsakmpSa, delete: Delete, now: float) -> None:
    assert sa.tunnel is not None
    if delete.protocol == Protocol.ISAKMP:
        for cookies in delete.spis:
            named = sa.tunnel.sa_by_cookies(cookies)
            if named is not None:
                text = (
                    f"Received a delete payload of protocol ISAKMP with cookies {cookies[:8].hex()}_{cookies[8:].hex()}"
                )
                named.report("ikev1.delete-received", text, attributes={"protocol": "ISAKMP"})
                named.report("ike.sa-deleted", "The IKE SA was deleted by the peer")
                named.close(now, linger=True)
        return
    for spi in delete.spis:
        child = sa.tunnel.children.by_spi_out(delete.protocol, spi)
        fresh = sa.note_deleted(delete.protocol, int.from_bytes(spi, "big"), now)
        if child is None and not fresh:
            continue
        protocol = names.protocol(delete.protocol)
        sa.report(
            "ikev1.delete-received",
            f"Received a delete payload of protocol {protocol} with SPI {spi.hex()}"
            + ("" if child is not None else ", which is not there"),
            attributes={
                "phase": "2",
                "protocol": protocol,
                "spi": spi.hex(),
                **({} if child is None else {"child": child.name}),
            },
        )
        if child is not None:
            sa.tunnel.children.remove(child, now, by_peer=True)


def unprotected(sa: IsakmpSa, message: Message, now: float) -> None:
    """Note an Informational in clear. Anybody can send one: it changes nothing but what people are told, and that once.

    While a negotiation of ours is under way it is kept as what may be wrong, should nothing better be known.
    """
    sa.core.exchanges.add(ExchangeType.INFORMATIONAL, Count.REQUESTS_IN)
    for notify in message.find_all(Notify):
        if notify.type in sa.heard_in_clear or len(sa.heard_in_clear) >= _MOST_IN_CLEAR:
            continue
        sa.heard_in_clear.add(notify.type)
        named, about_ours = notify_name(notify.type), sa.initiated and notify.type < FIRST_STATUS_NOTIFY
        code, sentence = (_hint_of(sa, notify.type) if about_ours else None) or _NO_HINT
        configured = _ours(sa, code)
        where = place.phase1(sa).sentence if sa.progressing else "after phase 1"
        text = f"Received an unprotected message of notify type {named}, {where}: {sentence}"
        sa.report(code, text, received=named, configured=configured)
        if about_ours:
            sa.hint = sa.hint or reason(code, text, named, configured)
            if sa.tunnel is not None:
                sa.tunnel.hint(sa.hint)


def _hint_of(sa: IsakmpSa, type_: int) -> tuple[str, str] | None:
    """Return what a notify means; that a peer cannot read us is about keys only where a key was used."""
    found = next((found for kind, found in _HINTS.items() if kind == type_), None)
    by_psk = sa.keyed and sa.suite.method == ikev1.PSK_METHOD
    return None if found is not None and found[0] == "ikev1.psk-mismatch" and not by_psk else found


def _ours(sa: IsakmpSa, code: str) -> str | None:
    """Return what we sent of that which a peer refuses: it does not say what it would take."""
    if code == "ikev1.proposal-refused-by-peer" and sa.phase1.offered is not None:
        return proposals.describe_phase1_offer(sa.phase1.offered)
    if code == "ikev1.exchange-mode-mismatch":
        return exchange_name(sa.exchange.number)
    if code == "ikev1.identity-refused-by-peer" and sa.tunnel is not None:
        return identity.describe_own(sa.tunnel.config.local.identity)
    return None


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


def take_lifetime(sa: IsakmpSa, child: ChildSa, notify: Notify) -> None:
    """Take a shorter lifetime of the responder over for SAs that stand.

    What they may carry is the data plane's from their installation on: there the peer keeps to its limit itself.
    """
    agreement = child.agreement
    seconds, _kilobytes = responder_lifetimes(
        sa, child.name, notify, agreement.lifetime_s, agreement.lifetime_kilobytes, message=None
    )
    if seconds < agreement.lifetime_s:
        child.shorten(seconds, sa.core.hub.entropy.uniform())


def responder_lifetimes(
    sa: IsakmpSa, name: str, notify: Notify, seconds: int, kilobytes: int, message: int | None = 2
) -> tuple[int, int]:
    """Report the lifetimes of a responder, and return them where they are shorter than ours, else ours.

    ``message`` is that of Quick Mode they came in. What cannot be read says nothing.
    """
    found = terms.read_lifetimes(_LIFE, notify.data)
    if found is None:
        return seconds, kilobytes
    where = Place(phase=2, message=message, exchange="quick-mode" if message else "informational-v1", child=name)
    of_protocol = f"notify RESPONDER_LIFETIME of {names.protocol(notify.protocol)}"
    for said, ours, unit in ((found.seconds, seconds, "seconds"), (found.kilobytes, kilobytes, "kilobytes")):
        if said is not None:
            stays = "; ours is shorter and stays" if ours and ours < said else ""
            sa.report(
                f"ikev1.lifetime-{unit}",
                f"Received {of_protocol} with {said} {unit}, configured ({ours or 'none'}), {where.sentence}{stays}",
                received=str(said),
                configured=str(ours or "none"),
                attributes=where.attributes,
            )
    both = found.shortest(terms.Lifetimes(seconds=seconds, kilobytes=kilobytes or None))
    return max(_LEAST_LIFETIME_S, both.seconds or seconds), both.kilobytes or 0
