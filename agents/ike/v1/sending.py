"""Sending messages of an ISAKMP SA: hashes, encryption, fragments, repetitions (RFC 2409 section 5, appendix B)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents.ike.errors import WireError
from agents.ike.outputs import Path, Transmit
from agents.ike.paths import NAT_PORT
from agents.ike.tally import Count
from agents.ike.v1 import keymat
from agents.ike.v1.exchange import Exchange
from agents.ike.wire.header import Header, classify
from agents.ike.wire.isakmp import fragments
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import Hash, Payload
from agents.ike.wire.isakmp.registry import exchange_name

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A message that came: what a notify in clear about it goes by."""

    octets: int
    header: Header
    path: Path


_UDP_OCTETS = {4: 28, 6: 48}
_LEAST_PACKET_OCTETS = {4: 576, 6: 1_280}
"""What every host takes (RFC 791, RFC 8200): whoever says less does not make us cut smaller."""
_MARKER_OCTETS = 4


def send(
    sa: IsakmpSa, exchange: Exchange, payloads: Sequence[Payload], now: float, *, asks: bool, encrypted: bool = False
) -> None:
    """Send the next message of an exchange; ``asks`` says that it goes out again until an answer comes."""
    datagram = _datagram(sa, exchange, payloads, encrypted)
    exchange.went(_cut(sa, datagram), now, sa.core.hub.retransmission, asks)
    sa.core.exchanges.add(exchange.number, Count.REQUESTS_OUT if exchange.step % 2 else Count.RESPONSES_OUT)
    transmit(sa, exchange.sent, now)
    sa.core.hub.touch(sa)


def send_hashed(sa: IsakmpSa, exchange: Exchange, made: bytes, rest: Sequence[Payload], now: float, asks: bool) -> None:
    """Send a message after phase 1: its hash, then the payloads."""
    send(sa, exchange, (Hash(data=made), *rest), now, asks=asks, encrypted=True)


def _datagram(sa: IsakmpSa, exchange: Exchange, payloads: Sequence[Payload], encrypted: bool) -> bytes:
    header = Header(
        spi_i=sa.cookie_i,
        spi_r=sa.cookie_r,
        next_payload=0,
        exchange=exchange.number,
        flags=0,
        message_id=exchange.message_id,
        version=0x10,
    )
    if not encrypted:
        return wire.serialize_clear(header, payloads)
    first, chain = wire.encode(payloads)
    ciphertext = sa.cipher.seal(exchange.iv, chain)
    exchange.iv = sa.cipher.next_iv(ciphertext)
    return wire.serialize_encrypted(header, first, ciphertext)


def _cut(sa: IsakmpSa, datagram: bytes) -> tuple[bytes, ...]:
    """Cut a message that does not go into one packet, where the peer takes fragments."""
    if not sa.fragmenting or sa.tunnel is None:
        return (datagram,)
    marker = _MARKER_OCTETS if sa.path.local_port == NAT_PORT else 0
    version = 6 if ":" in sa.path.local_address else 4
    packet_octets = max(_LEAST_PACKET_OCTETS[version], min(sa.tunnel.config.ike.fragment_octets, sa.path_octets))
    most = packet_octets - _UDP_OCTETS[version] - marker
    if len(datagram) <= most:
        return (datagram,)
    sa.core.fragment_id = sa.core.fragment_id % 65_535 + 1
    return fragments.cut(datagram, classify(datagram), sa.core.fragment_id, most)


def transmit(sa: IsakmpSa, datagrams: tuple[bytes, ...], now: float) -> None:
    """Put datagrams on the SA's path."""
    sa.last_sent = now
    for datagram in datagrams:
        sa.core.hub.emit(Transmit(path=sa.path, datagram=datagram))


def hash_of(sa: IsakmpSa, message_id: int, rest: Sequence[Payload]) -> bytes:
    """Return HASH(1): what protects the first message of an exchange after phase 1."""
    return keymat.informational_hash(sa.suite.prf, sa.keys.skeyid_a, message_id, wire.encode(rest)[1])


def repeat(sa: IsakmpSa, exchange: Exchange, now: float) -> None:
    """The peer sent its message again: so is our answer, a bounded number of times.

    What whoever began the exchange sends again by itself needs no such help: else each end would answer repetitions by
    repetitions.
    """
    sa.core.exchanges.add(exchange.number, Count.RETRANSMISSIONS_IN)
    began_it = exchange.step % 2 == 1
    if not (began_it and exchange.due is not None) and exchange.may_repeat():
        sa.core.exchanges.add(exchange.number, Count.RETRANSMISSIONS_OUT)
        transmit(sa, exchange.sent, now)


def check_hash(message: Message, wanted: bytes) -> None:
    """Compare the hash of a message. Raises WireError."""
    shown = message.payloads[0] if message.payloads else None
    if not isinstance(shown, Hash) or not hmac.compare_digest(shown.data, wanted):
        raise WireError("drop.integrity", f"the hash of a message of {exchange_name(message.header.exchange)} is wrong")
