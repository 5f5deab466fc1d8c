"""Who takes a message of an ISAKMP SA, and what must hold before anything of it is believed.

Every message after phase 1 carries a hash over its message ID and what follows it (RFC 2409 sections 5.5 and 5.7).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from agents.ike.errors import PeerError, WireError
from agents.ike.outputs import Path
from agents.ike.tally import Count
from agents.ike.v1 import keymat, place, used_ids
from agents.ike.v1.exchange import Exchange, digest
from agents.ike.v1.sending import Request, check_hash, repeat
from agents.ike.v1.states import EXPECTED, SaState
from agents.ike.v1.tasks import aggressive, info, main, quick
from agents.ike.wire.header import Header, classify
from agents.ike.wire.isakmp import fragments, rules
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.registry import Exchange as ExchangeType
from agents.ike.wire.isakmp.registry import Flag, NotifyType, exchange_name

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa

MOST_FINISHED = 64
"""Quick Modes of one SA that are over and still answer repetitions."""

_PHASE_1: Mapping[tuple[int, int], Callable[[IsakmpSa, Message, float], None]] = MappingProxyType(
    {
        (ExchangeType.MAIN, 2): main.take_answer,
        (ExchangeType.MAIN, 3): main.respond_keys,
        (ExchangeType.MAIN, 4): main.take_keys,
        (ExchangeType.MAIN, 5): main.respond_identity,
        (ExchangeType.MAIN, 6): main.take_identity,
        (ExchangeType.AGGRESSIVE, 2): aggressive.take_answer,
        (ExchangeType.AGGRESSIVE, 3): aggressive.take_proof,
    }
)
"""The second messages and those after them; the first of a responder is the door's."""


def receive(sa: IsakmpSa, datagram: bytes, header: Header, path: Path, now: float) -> None:
    """Handle a message that bears this SA's cookies. Raises WireError, PeerError or IntegrityError for the funnel."""
    if fragments.is_fragment(header):
        whole = _reassembled(sa, datagram, header, now)
        if whole is None:
            return
        datagram, header = whole
    if header.exchange in (ExchangeType.MAIN, ExchangeType.AGGRESSIVE):
        _receive_phase_1(sa, datagram, header, path, now)
    elif header.exchange == ExchangeType.QUICK:
        _receive_quick(sa, datagram, header, path, now)
    else:
        _receive_informational(sa, datagram, header, path, now)


def _reassembled(sa: IsakmpSa, datagram: bytes, header: Header, now: float) -> tuple[bytes, Header] | None:
    """Return the datagram that this fragment completes, if it is one for this SA."""
    if not sa.takes_fragments:
        raise WireError("drop.fragment", "fragments were not announced by this end")
    sa.core.hub.touch(sa)
    whole = sa.reassembly.add(fragments.read(datagram, header), now)
    if whole is None:
        return None
    inner = classify(whole)
    if (inner.spi_i, inner.spi_r, inner.major) != (header.spi_i, header.spi_r, 1) or inner.exchange != header.exchange:
        raise WireError("drop.fragment", "the fragments hold a message of another SA or exchange")
    rules.check_header(inner)
    return whole, inner


def _receive_phase_1(sa: IsakmpSa, datagram: bytes, header: Header, path: Path, now: float) -> None:
    exchange = sa.exchange
    if exchange.is_repetition(datagram):
        if not sa.waiting:
            repeat(sa, exchange, now)
        return
    if exchange.refused == digest(datagram):
        raise WireError("drop.duplicate", "a message that was refused already")
    expected, step = EXPECTED.get(sa.state, (None, 0))
    if expected is None or sa.waiting:
        raise WireError("drop.state", f"a message of phase 1 while the ISAKMP SA is {sa.state}")
    if header.exchange != expected:
        raise _other_mode(sa, header)
    if path.remote_address != sa.path.remote_address or path.local_address != sa.path.local_address:
        raise WireError("drop.state", f"a message of phase 1 from {path.remote_address}")
    sa.request = Request(octets=len(datagram), header=header, path=path)
    before = (exchange.iv, exchange.taken, exchange.due, exchange.step, sa.path, sa.cookie_peer)
    try:
        message = _read_phase_1(sa, datagram, header, step)
        rules.check(header.exchange, message.payloads, step)
        sa.core.exchanges.add(header.exchange, Count.RESPONSES_IN if step % 2 == 0 else Count.REQUESTS_IN)
        sa.path = path
        exchange.taken, exchange.due, exchange.step = digest(datagram), None, step
        _PHASE_1[(expected, step)](sa, message, now)
    except (WireError, PeerError) as error:
        exchange.refused = digest(datagram)
        if isinstance(error, PeerError):
            error.attributes = place.phase1(sa, step).attributes | error.attributes
        if isinstance(error, WireError) or not error.fatal:  # as if it had not come: another may be the peer's
            exchange.iv, exchange.taken, exchange.due, exchange.step, sa.path, sa.cookie_peer = before
        raise


def _read_phase_1(sa: IsakmpSa, datagram: bytes, header: Header, step: int) -> Message:
    """Read a message of phase 1, in clear or encrypted as its place asks for."""
    encrypted = bool(header.flags & Flag.ENCRYPTED)
    must, may = step >= 5, step >= 5 or (header.exchange == ExchangeType.AGGRESSIVE and step == 3)
    if (encrypted and not may) or (must and not encrypted):
        wanted = "encrypted" if must else "in clear"
        raise WireError("drop.state", f"message {step} of {exchange_name(header.exchange)} is not {wanted}")
    if not encrypted:
        return wire.parse_clear(datagram, header)
    ciphertext = wire.encrypted_body(datagram, header)
    try:
        message = wire.read_plain(header, sa.cipher.open(sa.exchange.iv, ciphertext))
        rules.check(header.exchange, message.payloads, step)
    except WireError as error:
        raise _unreadable(sa, error, step) from None
    sa.exchange.iv = sa.cipher.next_iv(ciphertext)
    return message


def _unreadable(sa: IsakmpSa, error: WireError, step: int) -> WireError | PeerError:
    """What decrypts to nothing was most likely encrypted with another key, made of another pre-shared key."""
    if sa.phase1.psk is None:
        return error
    return PeerError(
        NotifyType.UNEQUAL_PAYLOAD_LENGTHS,
        "ikev1.psk-mismatch",
        f"Possibly mismatching pre-shared keys detected {place.phase1(sa, step).sentence}: {error.detail}",
        received=error.received,
        configured=error.expected,
        field="preshared_keys",
    )


def _other_mode(sa: IsakmpSa, header: Header) -> WireError:
    return WireError(
        "ikev1.exchange-mode-mismatch",
        f"Mismatching exchange type ({exchange_name(header.exchange)}) received, the negotiation is in "
        f"({exchange_name(sa.exchange.number)})",
        received=exchange_name(header.exchange),
        expected=exchange_name(sa.exchange.number),
    )


def _receive_quick(sa: IsakmpSa, datagram: bytes, header: Header, path: Path, now: float) -> None:
    known = sa.exchanges.get(header.message_id)
    if known is not None and known.is_repetition(datagram):
        repeat(sa, known, now)
        return
    if sa.state is not SaState.ESTABLISHED:
        raise WireError("drop.state", f"Quick Mode while the ISAKMP SA is {sa.state}")
    if known is None and header.message_id in sa.used_ids:
        raise WireError("drop.duplicate", "a message of a Quick Mode that is over")
    if known is None:
        _check_ids_left(sa)
    exchange = known or Exchange(
        message_id=header.message_id, number=ExchangeType.QUICK, iv=sa.iv_of(header.message_id)
    )
    if known is not None and known.take is None:
        raise WireError("drop.state", "nothing more is expected of this Quick Mode")
    ciphertext = wire.encrypted_body(datagram, header)
    message = wire.read_plain(header, sa.cipher.open(exchange.iv, ciphertext))
    rules.check(ExchangeType.QUICK, message.payloads, exchange.step + 1)
    if known is None:
        _check_hash(sa, message)
    before = (exchange.iv, exchange.step, exchange.taken, exchange.due)
    exchange.iv, exchange.step = sa.cipher.next_iv(ciphertext), exchange.step + 1
    exchange.taken, exchange.due = digest(datagram), None
    try:
        if known is None:
            sa.use_id(header.message_id)
            _make_room(sa)
            sa.exchanges[header.message_id] = exchange
            sa.heard(path, now)
            quick.respond(sa, exchange, message, now)
        else:
            assert exchange.take is not None
            exchange.take(message, now)
            sa.heard(path, now)
    except WireError:
        exchange.iv, exchange.step, exchange.taken, exchange.due = before
        raise
    finally:
        sa.core.exchanges.add(ExchangeType.QUICK, Count.REQUESTS_IN if exchange.step % 2 else Count.RESPONSES_IN)
    sa.carried(len(datagram), now)


def _make_room(sa: IsakmpSa) -> None:
    """Forget the oldest Quick Mode that is over, when there are many."""
    finished = [each.message_id for each in sa.exchanges.values() if each.until is not None]
    if len(finished) >= MOST_FINISHED:
        del sa.exchanges[finished[0]]


def _receive_informational(sa: IsakmpSa, datagram: bytes, header: Header, path: Path, now: float) -> None:
    if not header.flags & Flag.ENCRYPTED:
        message = wire.parse_clear(datagram, header)
        info.unprotected(sa, message, now)
        return
    if sa.progressing and sa.keyed:
        _receive_early(sa, datagram, header)
        return
    if sa.established_at is None:
        raise WireError("drop.state", f"an encrypted Informational while the ISAKMP SA is {sa.state}")
    if header.message_id in sa.used_ids:
        sa.core.exchanges.add(ExchangeType.INFORMATIONAL, Count.RETRANSMISSIONS_IN)
        raise WireError("drop.duplicate", "an Informational that was processed already")
    _check_ids_left(sa)
    ciphertext = wire.encrypted_body(datagram, header)
    message = wire.read_plain(header, sa.cipher.open(sa.iv_of(header.message_id), ciphertext))
    rules.check(ExchangeType.INFORMATIONAL, message.payloads)
    _check_hash(sa, message)
    sa.use_id(header.message_id)
    sa.core.exchanges.add(ExchangeType.INFORMATIONAL, Count.REQUESTS_IN)
    sa.carried(len(datagram), now)
    if sa.standing:  # one that was deleted takes Deletes only: a late one may say which children go with it
        sa.heard(path, now)
    info.take(sa, message, now)


def _check_ids_left(sa: IsakmpSa) -> None:
    """Refuse what would be one exchange too many; the SA ends."""
    if len(sa.used_ids) >= used_ids.MOST:
        raise WireError("drop.state", "the message IDs of the ISAKMP SA are used up")


def _receive_early(sa: IsakmpSa, datagram: bytes, header: Header) -> None:
    """Take an Informational with the keys of a phase 1 under way: how some tell that they refuse us (strongSwan)."""
    ciphertext = wire.encrypted_body(datagram, header)
    iv = keymat.exchange_iv(sa.suite.hash, sa.exchange.iv, header.message_id, sa.suite.encryption.block_octets)
    try:
        message = wire.read_plain(header, sa.cipher.open(iv, ciphertext))
        rules.check(ExchangeType.INFORMATIONAL, message.payloads)
        _check_hash(sa, message)
    except WireError:
        if sa.phase1.psk is None:
            raise
        if sa.unreadable_told:  # a peer refuses each repetition of ours anew
            raise WireError("drop.duplicate", "another Informational that cannot be read") from None
        sa.unreadable_told = True
        text = "Possibly mismatching pre-shared keys: what the peer says of our authentication cannot be read"
        raise WireError("ikev1.psk-mismatch", text) from None
    sa.core.exchanges.add(ExchangeType.INFORMATIONAL, Count.REQUESTS_IN)
    info.take_early(message)


def _check_hash(sa: IsakmpSa, message: Message) -> None:
    """Refuse a first message after phase 1 whose hash is wrong; it is as if it had not come."""
    wanted = keymat.quick_hash_1(sa.suite.prf, sa.keys.skeyid_a, message.header.message_id, message.protected)
    check_hash(message, wanted)
