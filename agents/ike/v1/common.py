"""What Main Mode and Aggressive Mode do alike: agreeing on a suite, key exchange, NAT detection, the end of phase 1."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from agents.contract import ikev1
from agents.contract.config import ExchangeMode, Tunnel
from agents.contract.secret import Secret
from agents.ike import identity
from agents.ike.crypto import dh
from agents.ike.crypto.dh import InvalidPublicValue, KeyPair
from agents.ike.errors import PeerError, WireError
from agents.ike.paths import IKE_PORT, NAT_PORT
from agents.ike.v1 import natd, place, proof
from agents.ike.v1.phase1 import NONCE_OCTETS
from agents.ike.v1.proposals import Phase1Choice
from agents.ike.v1.strength import weak_for_aggressive
from agents.ike.wire.header import HEADER_OCTETS
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import (
    Identification,
    KeyExchangeData,
    Nonce,
    Notify,
    Payload,
    VendorId,
)
from agents.ike.wire.isakmp.registry import NotifyType, Protocol

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa

_AnyPayload = TypeVar("_AnyPayload", bound=Payload)


def need(message: Message, kind: type[_AnyPayload]) -> _AnyPayload:
    """Return the payload of this kind, which the payload rules ask for. Raises WireError."""
    found = message.find(kind)
    if found is None:
        raise WireError("drop.payload-rules", f"{kind.__name__} is missing", notify=NotifyType.PAYLOAD_MALFORMED)
    return found


def own_method(sa: IsakmpSa, config: Tunnel) -> int:
    """Return the number of our authentication method. Raises PeerError when our certificate cannot be used."""
    method = proof.method_of(config, sa.core.hub.credentials)
    if method is None:
        raise PeerError(
            0,
            "ike.certificate-own",
            "This gateway's certificate cannot be used with IKEv1: it takes RSA and ECDSA keys",
            configured=config.local_auth.certificate,
            field="local_auth.certificate",
            fatal=True,
        )
    return method


def agree(sa: IsakmpSa, choice: Phase1Choice) -> None:
    """Take the suite and the lifetime that both ends have."""
    sa.take_suite(choice.suite)
    sa.lifetime_s = choice.lifetime_s
    sa.lifetime_kilobytes = choice.lifetime_kilobytes


def fitting(first: Sequence[Payload], vendor_ids: Sequence[VendorId], most_octets: int) -> tuple[Payload, ...]:
    """Return the payloads with as many of the vendor IDs as there is room for."""
    payloads = (*first, *vendor_ids)
    while len(payloads) > len(first) and HEADER_OCTETS + len(wire.encode(payloads)[1]) > most_octets:
        payloads = payloads[:-1]
    return payloads


# --- key exchange


def own_keys(sa: IsakmpSa) -> tuple[Payload, ...]:
    """Draw our private value and nonce as initiator and return their payloads."""
    pair = KeyPair.generate(sa.suite.group, sa.core.hub.entropy)
    sa.phase1.key_pair, sa.phase1.public_i = pair, pair.public
    sa.phase1.nonce_i = sa.core.hub.entropy.octets(NONCE_OCTETS)
    return KeyExchangeData(data=pair.public), Nonce(data=sa.phase1.nonce_i)


def take_public(sa: IsakmpSa, message: Message) -> None:
    """Take the responder's public value and nonce. Raises PeerError."""
    public, nonce = need(message, KeyExchangeData).data, need(message, Nonce).data
    assert sa.phase1.key_pair is not None
    try:
        shared = sa.phase1.key_pair.shared(public)
    except InvalidPublicValue as error:
        raise _invalid_public(sa, error) from None
    sa.phase1.public_r, sa.phase1.nonce_r, sa.phase1.shared = public, nonce, shared


def respond_dh(sa: IsakmpSa, public: bytes) -> tuple[bytes, bytes]:
    """Return our public value as responder and the shared secret. Raises PeerError."""
    try:
        return dh.respond(sa.suite.group, public, sa.core.hub.entropy)
    except InvalidPublicValue as error:
        raise _invalid_public(sa, error) from None


def _invalid_public(sa: IsakmpSa, error: InvalidPublicValue) -> PeerError:
    """Return the refusal of a public value; in a first message it ends what has hardly begun."""
    return PeerError(
        NotifyType.INVALID_KEY_INFORMATION,
        "ike.invalid-ke",
        f"The peer's public value cannot be used: {error}, {place.phase1(sa).sentence}",
        configured=sa.suite.group.slug,
        fatal=sa.exchange.step == 1,
    )


def find_psk(
    sa: IsakmpSa,
    config: Tunnel,
    then: Callable[[Secret | None, float], None],
    now: float,
    shown: Identification | None = None,
) -> None:
    """Ask for the pre-shared key where one is used, and go on; ``shown`` is the peer's identity where it is known.

    Raises PeerError, now or in the answer, when there is none.
    """
    if sa.suite.method != ikev1.PSK_METHOD:
        then(None, now)
        return

    def found(psk: Secret | None, at: float) -> None:
        if psk is None:
            raise PeerError(
                NotifyType.AUTHENTICATION_FAILED,
                "ike.psk-missing",
                f"No pre-shared key for {sa.path.local_address} and {sa.path.remote_address}",
                field="preshared_keys",
                fatal=True,
            )
        if sa.mode is ExchangeMode.AGGRESSIVE and (weakness := weak_for_aggressive(psk)) is not None:
            sa.report("ikev1.weak-aggressive-psk", f"{weakness}: in Aggressive Mode it can be guessed offline")
        then(psk, at)

    partial = shown is not None and not config.remote.identity.exact
    sa.core.hub.questions.find_psk(
        sa, config, proof.awaited(sa, found), identity.from_shown(shown) if partial and shown is not None else None
    )


# --- NAT


def pretends(sa: IsakmpSa) -> bool:
    """Return whether this end asks for UDP encapsulation without a NAT."""
    if sa.core.hub.require_udp_encapsulation:
        return True
    tunnels = sa.phase1.candidates if sa.tunnel is None else (sa.tunnel,)
    return any(each.config.force_udp_encapsulation for each in tunnels)


def nat_payloads(sa: IsakmpSa) -> tuple[Payload, ...]:
    """Return NAT-D for both ends, to a peer that knows it."""
    if sa.peer.nat_draft is None:
        return ()
    return natd.payloads(
        sa.suite.hash,
        sa.cookie_i,
        sa.cookie_r,
        sa.path,
        draft=sa.peer.nat_draft,
        pretend=pretends(sa),
        entropy=sa.core.hub.entropy,
    )


def detect_nat(sa: IsakmpSa, message: Message) -> None:
    """See by the peer's hashes whether there is a NAT. Raises PeerError where UDP is needed and the peer has none."""
    found = natd.detect(message, sa.suite.hash, sa.cookie_i, sa.cookie_r, sa.path, pretends(sa))
    if found is not None:
        sa.nat = found
        if found.encapsulates:
            sa.report("ike.nat-detected", f"{found.ends[:1].upper()}{found.ends[1:]}")


def float_port(sa: IsakmpSa) -> None:
    """As initiator, go on from and to port 4500 when there is a NAT (RFC 3947 section 4)."""
    if not sa.nat.encapsulates or sa.path.local_port == NAT_PORT:
        return
    remote = NAT_PORT if sa.path.remote_port == IKE_PORT else sa.path.remote_port
    sa.path = dataclasses.replace(sa.path, local_port=NAT_PORT, remote_port=remote)
    sa.report("ike.redirected-port", "Moved to UDP port 4500")


# --- the end of phase 1


def initial_contact(sa: IsakmpSa) -> tuple[Notify, ...]:
    """Return INITIAL-CONTACT where this end has no other SA with the peer (RFC 2407 section 4.6.3.3)."""
    if sa.tunnel is None or not sa.tunnel.starts_anew(sa):
        return ()
    return (Notify(type=NotifyType.INITIAL_CONTACT, protocol=Protocol.ISAKMP, spi=sa.cookie_i + sa.cookie_r),)


def answer_contact(sa: IsakmpSa, message: Message) -> tuple[Notify, ...]:
    """Return a responder's INITIAL-CONTACT: to an initiator that has something where we have nothing, as we began anew.

    One that has nothing either says so itself.
    """
    return () if message.notify(NotifyType.INITIAL_CONTACT) is not None else initial_contact(sa)


def finish(sa: IsakmpSa, message: Message, shown: Identification, now: float) -> None:
    """The peer is who it says: the SA stands, and what it said about older ones counts."""
    assert sa.tunnel is not None
    sa.phase1.shown = (shown.id_type, shown.data)
    sa.establish(now)
    if message.notify(NotifyType.INITIAL_CONTACT) is not None:
        sa.tunnel.initial_contact(sa, now)
