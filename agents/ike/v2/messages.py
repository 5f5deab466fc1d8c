"""Messages of one IKE SA in and out: windows, protection, fragments, repetitions (RFC 7296 section 2.1, RFC 7383).

Functions over an :class:`agents.ike.v2.sa.IkeSa`. What a message means is its exchange's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.ike.errors import PeerError, WireError
from agents.ike.outputs import Path, Transmit
from agents.ike.paths import NAT_PORT
from agents.ike.tally import Count
from agents.ike.v2 import reauth
from agents.ike.v2.protection import Sent
from agents.ike.v2.states import REQUESTS, SaState
from agents.ike.v2.tasks import mobike
from agents.ike.v2.window import RENEW_MESSAGE_ID, WINDOW, Arrival, Arrived
from agents.ike.wire.fragments import is_fragment, read_place
from agents.ike.wire.header import Header
from agents.ike.wire.message import Inner, Message, encode, int_auth_octets, read_inner, serialize_clear
from agents.ike.wire.payloads import Auth, Notify, Payload
from agents.ike.wire.registry import Exchange, Flag, NotifyType, exchange_name

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa
    from agents.ike.v2.tasks.base import Task

DEFAULT_PACKET_OCTETS = 1_280
_LEAST_PACKET_OCTETS = {4: 576, 6: 1_280}
_IP_UDP_OCTETS = {4: 28, 6: 48}
_MARKER_OCTETS = 4


# --- out


def header_for(sa: IkeSa, exchange: int, message_id: int, response: bool) -> Header:
    """Return the header of a message of ours."""
    flags = (Flag.INITIATOR if sa.initiator else 0) | (Flag.RESPONSE if response else 0)
    return Header(
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        next_payload=0,
        exchange=exchange,
        flags=int(flags),
        message_id=message_id,
    )


def send_request(sa: IkeSa, task: Task, payloads: tuple[Payload, ...], now: float) -> None:
    """Send a request of ours and wait for its answer."""
    if task.exchange == Exchange.IKE_AUTH:
        payloads = (*payloads, *mobike.offer(sa, payloads))
    header = header_for(sa, task.exchange, sa.requests.next_id, response=False)
    if task.exchange == Exchange.IKE_SA_INIT:
        datagram = serialize_clear(Message(header=header, payloads=payloads))
        sa.init_request = datagram
        sent = Sent(header=header, datagrams=(datagram,))
    else:
        sent = _pack(sa, header, payloads)
    sa.requests.sent(task.exchange, sent, now, sa.core.hub.retransmission)
    sa.core.exchanges.add(task.exchange, Count.REQUESTS_OUT)
    transmit(sa, sent, sa.path)
    sa.last_sent = now
    if sa.requests.next_id == RENEW_MESSAGE_ID:
        sa.rekey_at = now
    sa.core.hub.touch(sa)


def respond(sa: IkeSa, payloads: tuple[Payload, ...], now: float) -> None:
    """Answer the request in progress."""
    if sa.responses.exchange == Exchange.IKE_AUTH:
        payloads = (*payloads, *mobike.accept(sa, payloads), *reauth.announce(sa, payloads))
    header = header_for(sa, sa.responses.exchange, sa.responses.expected, response=True)
    sent = _pack(sa, header, payloads)
    sa.responses.finish(sent)
    sa.core.exchanges.add(header.exchange, Count.RESPONSES_OUT)
    transmit(sa, sent, sa.reply_path)
    sa.last_sent = now
    if sa.responses.expected == RENEW_MESSAGE_ID:
        sa.rekey_at = now
    sa.core.hub.touch(sa)


def transmit(sa: IkeSa, sent: Sent, path: Path) -> None:
    """Send a message, or send it again, in datagrams that the path takes now."""
    for datagram in _fitting(sa, sent, path):
        sa.core.hub.emit(Transmit(path=path, datagram=datagram))


def path_narrowed(sa: IkeSa, packet_octets: int) -> None:
    """The path takes IP packets of this many octets at most: send what is outstanding again in smaller pieces.

    Never below what every host takes (RFC 7383 section 2.5.2). An answer of ours is cut anew when the peer asks again.
    """
    if packet_octets >= sa.path_octets:
        return
    before = packet_limit(sa, sa.path)
    sa.path_octets = packet_octets
    outstanding = sa.requests.outstanding
    if outstanding is None or packet_limit(sa, sa.path) == before:
        return
    if _fitting(sa, outstanding.sent, sa.path) is not outstanding.sent.datagrams:
        transmit(sa, outstanding.sent, sa.path)


def packet_limit(sa: IkeSa, path: Path) -> int:
    """Return how long an IP packet of this SA may be on this path."""
    tunnels = sa.core.candidates(path.local_address, path.remote_address) if sa.tunnel is None else (sa.tunnel,)
    configured = min((tunnel.config.ike.fragment_octets for tunnel in tunnels), default=DEFAULT_PACKET_OCTETS)
    return max(_LEAST_PACKET_OCTETS[_version(path)], min(configured, sa.path_octets))


def _version(path: Path) -> int:
    return 6 if ":" in path.remote_address else 4


def _datagram_limit(packet_octets: int, path: Path) -> int:
    marker = _MARKER_OCTETS if path.local_port == NAT_PORT else 0
    return packet_octets - _IP_UDP_OCTETS[_version(path)] - marker


def _pack(sa: IkeSa, header: Header, payloads: tuple[Payload, ...]) -> Sent:
    """Protect a message, in fragments where the peer takes them and it would be too long otherwise."""
    if header.exchange == Exchange.IKE_AUTH and any(isinstance(each, Auth) for each in payloads):
        payloads = (*payloads, Notify(type=NotifyType.SET_WINDOW_SIZE, data=WINDOW.to_bytes(4, "big")))
    inner = encode(payloads)
    if header.exchange == Exchange.IKE_INTERMEDIATE:
        sa.intermediate.sent = int_auth_octets(header, inner)
    whole = sa.protection.whole_octets(inner)
    path = sa.reply_path if header.response else sa.path
    if not sa.fragmentation or whole <= _datagram_limit(_LEAST_PACKET_OCTETS[_version(path)], path):
        return Sent(header=header, datagrams=(sa.protection.seal_inner(header, inner, sa.core.hub.entropy),))
    limit = _datagram_limit(packet_limit(sa, path), path)
    if whole <= limit:
        datagrams: tuple[bytes, ...] = (sa.protection.seal_inner(header, inner, sa.core.hub.entropy),)
    else:
        datagrams = sa.protection.seal_fragments(header, inner, limit, sa.core.hub.entropy)
    return Sent(header=header, datagrams=datagrams, inner=inner, protection=sa.protection)


def _fitting(sa: IkeSa, sent: Sent, path: Path) -> tuple[bytes, ...]:
    """Return the message's datagrams, cut anew where the path has become too narrow for them."""
    if sent.inner is None or sent.protection is None:
        return sent.datagrams
    limit = _datagram_limit(packet_limit(sa, path), path)
    if all(len(datagram) <= limit for datagram in sent.datagrams):
        return sent.datagrams
    return sent.protection.seal_fragments(sent.header, sent.inner, limit, sa.core.hub.entropy)


# --- in


def receive_request(sa: IkeSa, datagram: bytes, header: Header, path: Path, now: float) -> None:
    """Handle a request of the peer. Raises WireError, IntegrityError or PeerError for the funnel."""
    arrival = sa.responses.classify(header.message_id, datagram)
    if arrival is Arrival.REPEATED:
        _answer_again(sa, header.message_id, path)
    if arrival is Arrival.RECUT and sa.fragmentation and is_fragment(header):
        if sa.protection.open_fragment(datagram, header).place.number == 1:
            _answer_again(sa, header.message_id, path)
        raise WireError("drop.duplicate", "a further fragment of a request that was already answered")
    if arrival is Arrival.IN_PROGRESS:
        raise WireError("drop.duplicate", "a request that is being worked on")
    if arrival is not Arrival.FRESH:
        raise WireError("drop.message-id", f"message ID {header.message_id} where {sa.responses.expected} is expected")
    if not sa.keyed or header.exchange not in REQUESTS[sa.state]:
        raise WireError("drop.state", f"exchange {header.exchange} in state {sa.state}")
    opened = _open(sa, datagram, header, now)
    if opened is None:
        return
    first_header, inner, first = opened
    content: Message | WireError
    try:
        content = read_inner(first_header, inner)
    except WireError as error:  # the content was authentic: it is answered in its turn
        error.exchange = exchange_name(header.exchange)
        content = error
    arrived = Arrived(
        message_id=header.message_id, exchange=header.exchange, datagram=first, path=path, content=content
    )
    if sa.responses.is_next(header.message_id):
        _work_on(sa, arrived, now)
    else:
        sa.responses.hold(arrived)


def answer_held(sa: IkeSa, now: float) -> None:
    """Work on a request that came before its turn and has it now."""
    arrived = sa.responses.take_ready()
    if arrived.exchange not in REQUESTS[sa.state]:
        return
    try:
        _work_on(sa, arrived, now)
    except (WireError, PeerError) as error:
        sa.react(error, now)


def _answer_again(sa: IkeSa, message_id: int, path: Path) -> None:
    sent = sa.responses.answer_to(message_id)
    assert sent is not None
    sa.core.exchanges.add(sent.header.exchange, Count.RETRANSMISSIONS_IN)
    sa.core.exchanges.add(sent.header.exchange, Count.RETRANSMISSIONS_OUT)
    transmit(sa, sent, path)
    raise WireError("drop.duplicate", "a request that was already answered: the answer was sent again")


def _work_on(sa: IkeSa, arrived: Arrived, now: float) -> None:
    sa.responses.begin(arrived.exchange, arrived.datagram)
    sa.core.exchanges.add(arrived.exchange, Count.REQUESTS_IN)
    sa.reply_path = arrived.path
    sa.heard(arrived.path, now)
    sa.core.hub.touch(sa)
    if isinstance(arrived.content, WireError):
        raise arrived.content
    sa.dispatch(arrived.content, now)
    sa.start_next(now)


def receive_response(sa: IkeSa, datagram: bytes, header: Header, path: Path, now: float) -> None:
    """Handle an answer of the peer. Raises WireError, IntegrityError or PeerError for the funnel."""
    if not sa.requests.accepts(header.message_id, header.exchange):
        raise WireError("drop.duplicate", "an answer nobody waits for")
    if not sa.keyed:
        raise WireError("drop.state", "a protected answer before there are keys")
    opened = _open(sa, datagram, header, now)
    if opened is None:
        return
    sa.core.exchanges.add(header.exchange, Count.RESPONSES_IN)
    try:
        message = read_inner(opened[0], opened[1])
    except WireError as error:
        error.notify = None  # an answer is not answered
        raise
    sa.heard(path, now, answer=True)
    sa.finish_request(message, now)


def _open(sa: IkeSa, datagram: bytes, header: Header, now: float) -> tuple[Header, Inner, bytes] | None:
    """Return header, content and first datagram of a message, or None when fragments of it are still missing."""
    if not (is_fragment(header) and sa.fragmentation):
        return header, sa.protection.open(datagram, header), datagram
    sa.reassembly.expects(header, read_place(datagram, header))
    fragment = sa.protection.open_fragment(datagram, header)
    proven = sa.state is not SaState.INIT_RECEIVED
    whole = sa.reassembly.add(header, fragment, datagram, now, proven)
    sa.core.hub.touch(sa)
    return None if whole is None else (whole.header, whole.inner, whole.datagram)
