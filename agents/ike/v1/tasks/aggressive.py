"""Aggressive Mode (RFC 2409 sections 5.1 and 5.4): both roles.

::

    1  HDR, SA, KE, Ni, IDii, VID ...          -->
    2                                          <--  HDR, SA, KE, Nr, IDir, [CERT,] HASH_R or SIG_R, [NAT-D x 2], VID ...
    3  HDR*, [CERT,] HASH_I or SIG_I, [NAT-D, NAT-D], [N]   -->

The identities are in clear, so they choose tunnel and pre-shared key; and whoever asks gets a hash of that key, which
can be guessed offline. We encrypt the third message, and take one in clear, as the RFC leaves open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.contract import ikev1
from agents.contract.secret import Secret
from agents.ike.crypto.dh import KeyPair
from agents.ike.v1 import capabilities, common, peer_identity, phase1, proof, proposals, sending, steps
from agents.ike.v1.proposals import Phase1Choice
from agents.ike.v1.tasks import info
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import (
    Identification,
    KeyExchangeData,
    Nonce,
    Payload,
    SecurityAssociation,
    VendorId,
)

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa


# --- initiator


def initiate(sa: IsakmpSa, now: float) -> None:
    """Send the first message. Raises PeerError when this end has nothing to prove itself by."""
    assert sa.tunnel is not None
    config, hub = sa.tunnel.config, sa.core.hub
    offer = proposals.offer_phase1(config.ike, common.own_method(sa, config), only_first_group=True)
    identification = proof.own_identity(config, hub.credentials)
    pair = KeyPair.generate(proposals.first_group(config.ike), hub.entropy)
    gathered = sa.phase1
    gathered.offered, gathered.sa_body = offer, offer.serialize()
    gathered.key_pair, gathered.public_i = pair, pair.public
    gathered.nonce_i, gathered.id_own = hub.entropy.octets(phase1.NONCE_OCTETS), identification.serialize()
    requests = () if sa.tunnel.config.needs_psk else proof.certificate_requests((config,), hub.credentials)
    steps.requested(sa)
    payloads: tuple[Payload, ...] = (
        offer,
        KeyExchangeData(data=pair.public),
        Nonce(data=gathered.nonce_i),
        identification,
        *requests,
        *capabilities.offered(config.ike.fragmentation),
    )
    sending.send(sa, sa.exchange, payloads, now, asks=True)


def take_answer(sa: IsakmpSa, message: Message, now: float) -> None:
    """Take the second message, send the third: the SA stands. Raises PeerError."""
    assert sa.tunnel is not None
    assert sa.phase1.offered is not None
    config = sa.tunnel.config
    answer = common.need(message, SecurityAssociation)
    choice = proposals.read_answer_phase1(config.ike, common.own_method(sa, config), sa.phase1.offered, answer)
    shown = common.need(message, Identification)
    sa.peer.note(message.find_all(VendorId))
    sa.cookie_peer = message.header.spi_r
    common.agree(sa, choice)
    sa.phase1.id_peer = message.body_of(Identification) or b""
    common.take_public(sa, message)
    peer_identity.check(sa, config, shown, 2)

    def with_psk(psk: Secret | None, at: float) -> None:
        sa.phase1.psk = psk
        phase1.derive(sa)
        if psk is not None:
            proof.check_hash(sa, message, 2)
            _prove(sa, message, shown, at)
        else:
            proof.check_signature(sa, message, shown, lambda then: _prove(sa, message, shown, then), at)

    common.find_psk(sa, config, with_psk, now, shown)


def _prove(sa: IsakmpSa, message: Message, shown: Identification, now: float) -> None:
    common.detect_nat(sa, message)
    common.float_port(sa)

    def proven(payloads: tuple[Payload, ...], at: float) -> None:
        extra = (*common.nat_payloads(sa), *common.initial_contact(sa))
        sending.send(sa, sa.exchange, (*payloads, *extra), at, asks=False, encrypted=True)
        sa.last_again = lambda then: sending.transmit(sa, sa.exchange.sent, then)
        sa.unanswered.add(sa.last_again, at)
        common.finish(sa, message, shown, at)

    proof.prove(sa, proven, now)


# --- responder


def answer(sa: IsakmpSa, message: Message, choice: Phase1Choice, now: float) -> None:
    """Answer the first message with our proof; the SA has its tunnel already. Raises PeerError."""
    assert sa.tunnel is not None
    tunnel, gathered, hub = sa.tunnel, sa.phase1, sa.core.hub
    shown = common.need(message, Identification)
    sa.peer.note(message.find_all(VendorId))
    sa.cookie_peer = message.header.spi_i
    gathered.candidates = (tunnel,)
    gathered.sa_body = message.body_of(SecurityAssociation) or b""
    gathered.id_peer = message.body_of(Identification) or b""
    gathered.shown = (shown.id_type, shown.data)
    common.agree(sa, choice)
    identification = proof.own_identity(tunnel.config, hub.credentials)
    gathered.id_own = identification.serialize()

    def with_psk(psk: Secret | None, at: float) -> None:
        public = common.need(message, KeyExchangeData).data
        own, gathered.shared = common.respond_dh(sa, public)
        gathered.psk = psk
        gathered.public_i, gathered.nonce_i = public, common.need(message, Nonce).data
        gathered.public_r, gathered.nonce_r = own, hub.entropy.octets(phase1.NONCE_OCTETS)
        phase1.derive(sa)
        requests = () if psk is not None else proof.certificate_requests((tunnel.config,), hub.credentials)

        def proven(payloads: tuple[Payload, ...], then: float) -> None:
            keys = (KeyExchangeData(data=own), Nonce(data=gathered.nonce_r), identification)
            vendor_ids = capabilities.answered(sa.peer, tunnel.config.ike.fragmentation)
            extra = (*requests, *common.nat_payloads(sa), *vendor_ids)
            sending.send(sa, sa.exchange, (choice.answer, *keys, *payloads, *extra), then, asks=False)

        proof.prove(sa, proven, at)

    common.find_psk(sa, tunnel.config, with_psk, now, shown)


def take_proof(sa: IsakmpSa, message: Message, now: float) -> None:
    """Take the third message: the SA stands. Raises PeerError."""
    assert sa.phase1.shown is not None
    id_type, data = sa.phase1.shown
    shown = Identification(id_type=id_type, data=data)
    common.detect_nat(sa, message)
    if sa.suite.method == ikev1.PSK_METHOD:
        proof.check_hash(sa, message, 3)
        _proven(sa, message, shown, now)
    else:
        proof.check_signature(sa, message, shown, lambda then: _proven(sa, message, shown, then), now)


def _proven(sa: IsakmpSa, message: Message, shown: Identification, now: float) -> None:
    sa.core.admit(sa, shown)
    contact = common.answer_contact(sa, message)
    common.finish(sa, message, shown, now)
    if contact:
        info.send(sa, contact, now, again=True)
