"""MOBIKE (RFC 4555): agreeing on it, telling addresses, moving the SA, proving that the peer is where it says.

::

    initiator                                         responder
    SK {IDi, ..., N(MOBIKE_SUPPORTED),
        N(ADDITIONAL_*)*}                   -->                                   3.1, 3.4
                                            <--       SK {IDr, ..., N(MOBIKE_SUPPORTED), N(ADDITIONAL_*)*}

    SK {N(UPDATE_SA_ADDRESSES), N(NATD) x2,
        N(COOKIE2), N(ADDITIONAL_*)*}       -->                                   3.5, from the new address
                                            <--       SK {N(NATD) x2, N(COOKIE2)}
                                            <--       SK {N(COOKIE2)}             3.7, before ESP goes there
    SK {N(COOKIE2)}                         -->

NO_NATS_ALLOWED (3.9) is obeyed and never sent: this gateway takes NATs as they come.
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import TYPE_CHECKING

from agents.ike.errors import PeerError
from agents.ike.outputs import Path
from agents.ike.paths import addresses_of
from agents.ike.v2 import natd, path
from agents.ike.v2.states import SaState
from agents.ike.v2.tasks.base import Task
from agents.ike.v2.tasks.delete import Liveness
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Auth, Delete, Notify, Payload
from agents.ike.wire.registry import Exchange, NotifyType, notify_name

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa

COOKIE2_OCTETS = 16
MOST_ADDRESSES = 8
"""So many further addresses of a peer are kept."""
_ADDRESS_OCTETS = {NotifyType.ADDITIONAL_IP4_ADDRESS: 4, NotifyType.ADDITIONAL_IP6_ADDRESS: 16}
_CONCERNS = frozenset(
    {
        *_ADDRESS_OCTETS,
        NotifyType.NO_ADDITIONAL_ADDRESSES,
        NotifyType.UPDATE_SA_ADDRESSES,
        NotifyType.COOKIE2,
        NotifyType.NO_NATS_ALLOWED,
        NotifyType.NAT_DETECTION_SOURCE_IP,
    }
)


# --- agreeing, within IKE_AUTH


def offer(sa: IkeSa, payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
    """Return what goes into an IKE_AUTH request beside these payloads: MOBIKE beside our proof."""
    assert sa.tunnel is not None
    wanted = path.may_move(sa.tunnel.config) and _carries(payloads, Auth)
    return _supported(sa) if wanted else ()


def accept(sa: IkeSa, payloads: tuple[Payload, ...]) -> tuple[Payload, ...]:
    """Return what goes into an IKE_AUTH answer beside these payloads: MOBIKE with the proof, if the peer offered it."""
    if sa.tunnel is None or not sa.mobility.offered or not path.may_move(sa.tunnel.config):
        return ()
    if not _carries(payloads, Auth):
        return ()
    sa.mobility.enabled = True
    return _supported(sa)


def take_offer(sa: IkeSa, message: Message) -> PeerError | None:
    """Note what an IKE_AUTH request says of MOBIKE; return the refusal of a NAT the peer does not want (3.9)."""
    if message.notify(NotifyType.MOBIKE_SUPPORTED) is not None:
        sa.mobility.offered = True
        _take_addresses(sa, message)
    return _unwanted_nat(message, sa.reply_path)


def take_answer(sa: IkeSa, message: Message) -> None:
    """Note what an IKE_AUTH answer says of MOBIKE."""
    if sa.tunnel is not None and path.may_move(sa.tunnel.config) and message.notify(NotifyType.MOBIKE_SUPPORTED):
        sa.mobility.enabled = True
        _take_addresses(sa, message)


def _carries(payloads: tuple[Payload, ...], kind: type[object]) -> bool:
    return any(isinstance(each, kind) for each in payloads)


def _supported(sa: IkeSa) -> tuple[Payload, ...]:
    return (Notify(type=NotifyType.MOBIKE_SUPPORTED), *_addresses(sa))


# --- telling addresses


class _Lasting(Task):
    """A request about addresses: if the SA ends by a rekey before the answer, its successor asks again."""

    exchange = Exchange.INFORMATIONAL

    def abandoned(self, sa: IkeSa, now: float) -> None:
        """Go on at the successor, if there is one."""
        latest = sa.latest()
        if latest is not sa and latest.state is SaState.ESTABLISHED:
            latest.enqueue(self, now, first=True)


class AnnounceAddresses(_Lasting):
    """Tells the peer which further addresses we have now (3.6)."""

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        return _addresses(sa)

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Nothing to do: the peer knows."""


def announce_addresses(sa: IkeSa, now: float) -> None:
    """Tell the peer our further addresses, if they are not those it knows."""
    told = any(isinstance(task, AnnounceAddresses | UpdateAddresses) for task in sa.queue)
    if sa.mobility.enabled and not told and sa.mobility.announced != path.additional_addresses(sa):
        sa.enqueue(AnnounceAddresses(), now)


def _addresses(sa: IkeSa) -> tuple[Notify, ...]:
    sa.mobility.announced = path.additional_addresses(sa)
    further = [ipaddress.ip_address(each) for each in sa.mobility.announced]
    if not further:
        return (Notify(type=NotifyType.NO_ADDITIONAL_ADDRESSES),)
    return tuple(
        Notify(
            type=NotifyType.ADDITIONAL_IP4_ADDRESS if each.version == 4 else NotifyType.ADDITIONAL_IP6_ADDRESS,
            data=each.packed,
        )
        for each in further
    )


def _take_addresses(sa: IkeSa, message: Message) -> bool:
    """Replace what we know of the peer's further addresses; False when the message says nothing of them."""
    found = []
    for kind, octets in _ADDRESS_OCTETS.items():
        for notify in message.notifies(kind):
            address = ipaddress.ip_address(notify.data) if len(notify.data) == octets else None
            if address is not None and not (address.is_unspecified or address.is_multicast or address.is_loopback):
                found.append(str(address))
    if not found and message.notify(NotifyType.NO_ADDITIONAL_ADDRESSES) is None:
        return False
    before, sa.mobility.peer_addresses = sa.mobility.peer_addresses, tuple(dict.fromkeys(found))[:MOST_ADDRESSES]
    if sa.mobility.peer_addresses != before and sa.state is SaState.ESTABLISHED:
        told = ", ".join(sa.mobility.peer_addresses) or "none"
        sa.report("ike.address-announced", f"The peer's further addresses: {told}", received=told)
    return True


# --- moving: the opener


class UpdateAddresses(_Lasting):
    """Moves the SA at the peer to the path this request takes (3.5)."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._cookie = b""

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        self._path = sa.path
        sa.mobility.probed = False
        self._cookie = sa.core.hub.entropy.octets(COOKIE2_OCTETS)
        hashes = (
            natd.notifies(sa.spi_i, sa.spi_r, sa.path, _pretends(sa), sa.core.hub.entropy) if sa.nat.supported else ()
        )
        return (
            Notify(type=NotifyType.UPDATE_SA_ADDRESSES),
            *hashes,
            Notify(type=NotifyType.COOKIE2, data=self._cookie),
            *_addresses(sa),
        )

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Take the answer, unless we have moved on meanwhile."""
        sa = sa.latest()
        if sa.path != self._path:
            return
        refusal = message.notify(NotifyType.UNACCEPTABLE_ADDRESSES) or message.notify(
            NotifyType.UNEXPECTED_NAT_DETECTED
        )
        if refusal is not None:
            self._refused(sa, refusal, now)
            return
        _check_cookie(sa, message, self._cookie)
        if sa.mobility.probed:  # the peer took the copy that came first: perhaps that of another path
            announce_move(sa, now)
            return
        header = message.header
        take_nat(sa, natd.detect(message, header.spi_i, header.spi_r, sa.path, _pretends(sa)))
        _note_seen(sa, message)

    def failed(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """The answer proves nothing: whoever is there is not the peer alone."""
        sa.latest().fail(error, now)

    def _refused(self, sa: IkeSa, notify: Notify, now: float) -> None:
        """Try another path that the peer may like better; without one, begin again (3.5)."""
        assert sa.tunnel is not None
        name = notify_name(notify.type)
        error = PeerError(
            0,
            "ike.address-peer-refused",
            f"The peer refuses to move to {path.describe(sa.path)}: {name}",
            received=name,
            configured=", ".join(addresses_of(sa.tunnel.config.local)),
        )
        sa.mobility.refused.add(path.pair(sa.path))
        others = [each for each in path.alternatives(sa) if path.pair(each) not in sa.mobility.refused]
        if not others:
            sa.fail(error, now)
            return
        sa.report_error(error)
        move(sa, others[0], now)


def move(sa: IkeSa, to: Path, now: float) -> None:
    """The opener takes another path: IKE and ESP move, and the peer is told."""
    old = sa.path
    path.take(sa, to, now)
    sa.use_for_esp(None)
    path.move_children(sa)
    path.report_move(sa, old, to)
    announce_move(sa, now)


def announce_move(sa: IkeSa, now: float) -> None:
    """Tell the peer that the SA has another path; an earlier such request that is still queued is enough."""
    if not any(isinstance(task, UpdateAddresses) for task in sa.queue):
        sa.enqueue(UpdateAddresses(), now, first=True)


def take_nat(sa: IkeSa, found: natd.NatDetection) -> None:
    """Take over what the hashes of another path say: ESP goes into UDP or out of it."""
    before, sa.nat = sa.nat, found
    if before.encapsulates != found.encapsulates:
        words = "in use" if found.encapsulates else "over"
        sa.report("ike.nat-changed", f"UDP encapsulation is {words}: {found.ends}")
    path.move_children(sa)


class NatLiveness(Liveness):
    """A liveness check of an opener behind a NAT: where does the peer see us (3.8)?"""

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        return natd.notifies(sa.spi_i, sa.spi_r, sa.path, _pretends(sa), sa.core.hub.entropy)

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Tell the peer of our NAT's new mapping, if it sees us elsewhere than before."""
        before = sa.mobility.nat_seen
        _note_seen(sa, message)
        seen = sa.mobility.nat_seen
        if seen is None or seen == before:
            return
        if before is not None and before[0] == seen[0]:  # else it is the first one of this SA, which proves nothing
            sa.report("ike.nat-moved", "The peer sees this end at another address or port than before")
        announce_move(sa, now)


def liveness(sa: IkeSa) -> Liveness:
    """Return the liveness check that suits this SA."""
    return NatLiveness() if sa.mobility.enabled and sa.opener and sa.nat.local else Liveness()


def _note_seen(sa: IkeSa, message: Message) -> None:
    """Keep the hash by which the peer says where it sees us; a rekey changes it too, which costs an update (3.8)."""
    seen = message.notify(NotifyType.NAT_DETECTION_DESTINATION_IP)
    if seen is not None:
        sa.mobility.nat_seen = (sa.spi_i + sa.spi_r, seen.data)


# --- moving: the other end


class CheckReturnRoutability(_Lasting):
    """Asks whether the peer is where it moved to; only then ESP follows (3.7)."""

    def __init__(self, old: Path) -> None:
        self._old = old
        self._path: Path | None = None
        self._cookie = b""

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        self._path = sa.path
        self._cookie = sa.core.hub.entropy.octets(COOKIE2_OCTETS)
        return (Notify(type=NotifyType.COOKIE2, data=self._cookie),)

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Move ESP, unless the peer has moved on meanwhile."""
        sa = sa.latest()
        if sa.path != self._path:
            return
        _check_cookie(sa, message, self._cookie)
        sa.use_for_esp(None)
        path.move_children(sa)
        path.report_move(sa, self._old, sa.path)

    def failed(self, sa: IkeSa, error: PeerError, now: float) -> None:
        """Whoever answers there is not the peer: the SA cannot go on."""
        sa.latest().fail(error, now)


def concerns(message: Message) -> bool:
    """Return whether an INFORMATIONAL request is for :func:`respond`."""
    notifies = [each.type for each in message.payloads if isinstance(each, Notify)]
    return not _CONCERNS.isdisjoint(notifies) and not any(isinstance(each, Delete) for each in message.payloads)


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Answer an INFORMATIONAL request about addresses."""
    came = sa.reply_path
    cookie = message.notify(NotifyType.COOKIE2)
    echo = () if cookie is None else (Notify(type=NotifyType.COOKIE2, data=cookie.data[:64]),)
    update = message.notify(NotifyType.UPDATE_SA_ADDRESSES) is not None and sa.mobility.enabled and not sa.opener
    found = natd.detect(message, sa.spi_i, sa.spi_r, came, _pretends(sa))
    refusal = _unwanted_nat(message, came) or (_unacceptable(sa, came, found) if update else None)
    if refusal is not None:
        sa.report_error(refusal)
        sa.respond((Notify(type=refusal.notify), *echo), now)
        return
    told = sa.mobility.enabled and _take_addresses(sa, message)
    hashes = natd.notifies(sa.spi_i, sa.spi_r, came, _pretends(sa), sa.core.hub.entropy) if found.supported else ()
    sa.respond((*hashes, *echo), now)
    if update:
        _follow(sa.latest(), came, found, now)
    elif told and sa.opener and came != sa.path:
        _peer_lost_address(sa, came, now)


def _follow(sa: IkeSa, came: Path, found: natd.NatDetection, now: float) -> None:
    """The opener is elsewhere: IKE goes there at once, ESP when the peer has answered from there."""
    old = sa.esp_path
    sa.mobility.detour = None
    if came == sa.path == old and found == sa.nat:
        return
    path.take(sa, came, now)
    sa.use_for_esp(old)
    before, sa.nat = sa.nat, found
    if before.encapsulates != found.encapsulates:
        words = "in use" if found.encapsulates else "over"
        sa.report("ike.nat-changed", f"UDP encapsulation is {words}: {found.ends}")
    sa.enqueue(CheckReturnRoutability(old), now, first=True)


def _peer_lost_address(sa: IkeSa, came: Path, now: float) -> None:
    """The peer speaks from an address other than the one in use and does not list that: it is gone (3.6)."""
    known = sa.mobility.peer_addresses
    if sa.state is SaState.ESTABLISHED and sa.path.remote_address not in known:
        move(sa, came, now)


def _unacceptable(sa: IkeSa, came: Path, found: natd.NatDetection) -> PeerError | None:
    """Return the refusal of an address that the tunnel does not have; a NAT's is not the peer's to choose."""
    assert sa.tunnel is not None
    configured = addresses_of(sa.tunnel.config.remote)
    if came.remote_address in configured or (found.supported and found.remote):
        return None
    return PeerError(
        NotifyType.UNACCEPTABLE_ADDRESSES,
        "ike.address-refused",
        f"The peer wants to move to {came.remote_address}, which is not one of its addresses",
        received=came.remote_address,
        configured=", ".join(configured),
    )


def _unwanted_nat(message: Message, came: Path) -> PeerError | None:
    """Return the refusal where the peer asked for addresses and ports that a NAT has changed (3.9)."""
    notify = message.notify(NotifyType.NO_NATS_ALLOWED)
    if notify is None:
        return None
    seen = (
        ipaddress.ip_address(came.remote_address).packed
        + ipaddress.ip_address(came.local_address).packed
        + came.remote_port.to_bytes(2, "big")
        + came.local_port.to_bytes(2, "big")
    )
    if hmac.compare_digest(seen, notify.data):
        return None
    return PeerError(
        NotifyType.UNEXPECTED_NAT_DETECTED,
        "ike.nat-refused",
        "The peer allows no NAT on the path, and there is one",
        received=path.describe(came),
    )


def _check_cookie(sa: IkeSa, message: Message, cookie: bytes) -> None:
    back = message.notify(NotifyType.COOKIE2)
    if back is None or not hmac.compare_digest(back.data, cookie):
        raise PeerError(
            NotifyType.INVALID_SYNTAX,
            "ike.address-unverified",
            f"The answer from {sa.path.remote_address} does not prove that the peer is there",
        )


def _pretends(sa: IkeSa) -> bool:
    """Return whether our hashes ask for UDP encapsulation whatever the path."""
    forced = sa.tunnel is not None and sa.tunnel.config.force_udp_encapsulation
    return sa.core.hub.require_udp_encapsulation or forced
