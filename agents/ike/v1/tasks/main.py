"""Main Mode (RFC 2409 sections 5.1 and 5.4): both roles.

::

    1  HDR, SA, VID ...                                -->
    2                                                  <--  HDR, SA, VID ...
    3  HDR, KE, Ni, [CERTREQ], [NAT-D, NAT-D]          -->
    4                                                  <--  HDR, KE, Nr, [CERTREQ], [NAT-D, NAT-D]
    5  HDR*, IDii, [CERT,] HASH_I or SIG_I, [N]        -->
    6                                                  <--  HDR*, IDir, [CERT,] HASH_R or SIG_R, [N]

With a pre-shared key the fifth message is encrypted with a key made of it, so the identities come too late to choose
the key: the two addresses do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agents.contract import ikev1
from agents.contract.secret import Secret
from agents.ike.v1 import capabilities, common, peer_identity, phase1, proof, proposals, sending, steps
from agents.ike.v1.proposals import Phase1Choice
from agents.ike.v1.states import SaState
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import (
    CertReq,
    Identification,
    KeyExchangeData,
    Nonce,
    Payload,
    SecurityAssociation,
    VendorId,
)

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa
    from agents.ike.v1.tunnel import TunnelRuntime


# --- initiator


def initiate(sa: IsakmpSa, now: float) -> None:
    """Send the first message. Raises PeerError when this end has nothing to prove itself by."""
    assert sa.tunnel is not None
    config = sa.tunnel.config
    offer = proposals.offer_phase1(config.ike, common.own_method(sa, config))
    sa.phase1.offered, sa.phase1.sa_body = offer, offer.serialize()
    steps.requested(sa)
    sending.send(sa, sa.exchange, (offer, *capabilities.offered(config.ike.fragmentation)), now, asks=True)


def take_answer(sa: IsakmpSa, message: Message, now: float) -> None:
    """Take the second message, send the third. Raises PeerError."""
    assert sa.tunnel is not None
    assert sa.phase1.offered is not None
    config = sa.tunnel.config
    answer = common.need(message, SecurityAssociation)
    method = common.own_method(sa, config)
    choice = proposals.read_answer_phase1(config.ike, method, sa.phase1.offered, answer)
    sa.peer.note(message.find_all(VendorId))
    sa.cookie_peer = message.header.spi_r
    common.agree(sa, choice)
    sa.state = SaState.KE_SENT
    sending.send(sa, sa.exchange, _keys(sa, common.own_keys(sa), _requests(sa, (sa.tunnel,))), now, asks=True)


def take_keys(sa: IsakmpSa, message: Message, now: float) -> None:
    """Take the fourth message, send the fifth. Raises PeerError."""
    assert sa.tunnel is not None
    common.take_public(sa, message)
    common.detect_nat(sa, message)
    common.float_port(sa)

    def with_psk(psk: Secret | None, at: float) -> None:
        sa.phase1.psk = psk
        phase1.derive(sa)
        identification = proof.own_identity(config, sa.core.hub.credentials)
        sa.phase1.id_own = identification.serialize()

        def proven(payloads: tuple[Payload, ...], then: float) -> None:
            sa.state = SaState.ID_SENT
            extra = common.initial_contact(sa)
            sending.send(sa, sa.exchange, (identification, *payloads, *extra), then, asks=True, encrypted=True)

        proof.prove(sa, proven, at)

    config = sa.tunnel.config
    common.find_psk(sa, config, with_psk, now)


def take_identity(sa: IsakmpSa, message: Message, now: float) -> None:
    """Take the sixth message: the SA stands. Raises PeerError."""
    assert sa.tunnel is not None
    config, shown = sa.tunnel.config, common.need(message, Identification)
    sa.phase1.id_peer = message.body_of(Identification) or b""

    def proven(at: float) -> None:
        peer_identity.check(sa, config, shown, 6)
        common.finish(sa, message, shown, at)

    if sa.suite.method == ikev1.PSK_METHOD:
        proof.check_hash(sa, message, 6)
        proven(now)
    else:
        peer_identity.check(sa, config, shown, 6)
        proof.check_signature(sa, message, shown, proven, now)


# --- responder


def answer(
    sa: IsakmpSa,
    message: Message,
    choice: Phase1Choice,
    candidates: tuple[TunnelRuntime, ...],
    most_octets: int,
    now: float,
) -> None:
    """Answer the first message, by no more octets than it had: vendor IDs are left out that would make it longer."""
    sa.peer.note(message.find_all(VendorId))
    sa.cookie_peer = message.header.spi_i
    sa.phase1.sa_body = message.body_of(SecurityAssociation) or b""
    sa.phase1.candidates, sa.phase1.stops = candidates, tuple(each.stops for each in candidates)
    common.agree(sa, choice)
    fragmentation = any(each.config.ike.fragmentation for each in candidates)
    vendor_ids = capabilities.answered(sa.peer, fragmentation)
    payloads = common.fitting((choice.answer,), vendor_ids, most_octets)
    sending.send(sa, sa.exchange, payloads, now, asks=False)


def respond_keys(sa: IsakmpSa, message: Message, now: float) -> None:
    """Answer the third message. Raises PeerError.

    It bears our cookie, so its sender gets what is sent to its address: only now is anything computed for it.
    """
    candidates = common.candidates(sa)
    config = candidates[0].config
    public = common.need(message, KeyExchangeData).data
    nonce = common.need(message, Nonce).data
    sa.phase1.certificate_wanted = message.find(CertReq) is not None
    common.detect_nat(sa, message)
    own, shared = common.respond_dh(sa, public)
    sa.phase1.public_i, sa.phase1.nonce_i = public, nonce
    sa.phase1.public_r, sa.phase1.nonce_r = own, sa.core.hub.entropy.octets(phase1.NONCE_OCTETS)
    sa.phase1.shared = shared

    def with_psk(psk: Secret | None, at: float) -> None:
        sa.phase1.psk = psk
        phase1.derive(sa)
        sa.state = SaState.KE_ANSWERED
        keys = (KeyExchangeData(data=own), Nonce(data=sa.phase1.nonce_r))
        sending.send(sa, sa.exchange, _keys(sa, keys, _requests(sa, candidates)), at, asks=False)

    common.find_psk(sa, config, with_psk, now)


def respond_identity(sa: IsakmpSa, message: Message, now: float) -> None:
    """Answer the fifth message: the SA stands. Raises PeerError."""
    shown = common.need(message, Identification)
    sa.phase1.id_peer = message.body_of(Identification) or b""
    by_psk = sa.suite.method == ikev1.PSK_METHOD
    if by_psk:
        proof.check_hash(sa, message, 5)
    tunnel = peer_identity.select(sa, common.candidates(sa), shown, 5)
    sa.adopt(tunnel)

    def proven(at: float) -> None:
        identification = proof.own_identity(tunnel.config, sa.core.hub.credentials)
        sa.phase1.id_own = identification.serialize()

        def made(payloads: tuple[Payload, ...], then: float) -> None:
            extra = common.answer_contact(sa, message)
            sending.send(sa, sa.exchange, (identification, *payloads, *extra), then, asks=False, encrypted=True)
            common.finish(sa, message, shown, then)

        proof.prove(sa, made, at)

    if by_psk:
        proven(now)
    else:
        proof.check_signature(sa, message, shown, proven, now)


# --- both


def _keys(sa: IsakmpSa, keys: Sequence[Payload], requests: Sequence[Payload]) -> tuple[Payload, ...]:
    return (*keys, *requests, *common.nat_payloads(sa))


def _requests(sa: IsakmpSa, tunnels: Sequence[TunnelRuntime]) -> tuple[CertReq, ...]:
    if sa.suite.method == ikev1.PSK_METHOD:
        return ()
    return proof.certificate_requests([each.config for each in tunnels], sa.core.hub.credentials)
