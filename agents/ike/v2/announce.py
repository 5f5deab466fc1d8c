"""What the ends tell each other in IKE_SA_INIT about the authentication to come.

::

    N(SIGNATURE_HASH_ALGORITHMS), N(USE_PPK) -->
                                             <--  CERTREQ, N(SIGNATURE_HASH_ALGORITHMS), N(USE_PPK),
                                                  N(CHILDLESS_IKEV2_SUPPORTED)

RFC 7427 section 4, RFC 8784 section 3, RFC 6023 section 3, RFC 7296 section 3.7.

A responder does not know yet which tunnel is meant: it announces what any that could be meant may want.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agents.contract import algorithms
from agents.contract.config import AuthKind, Childless, RemoteAuthentication, Tunnel
from agents.ike.crypto.signature import HASH_NUMBERS
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import CertReq, Notify, Payload
from agents.ike.wire.registry import AuthMethod, CertEncoding, NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa

_MOST_AUTHORITIES_IN_CLEAR = 8
"""A first answer names no more CAs than this: it must not be much larger than its question."""

_MOST_AUTHORITIES = 256


def accepted_signatures(policy: RemoteAuthentication) -> tuple[str, ...]:
    """Return the slugs of the signatures a peer may use: those configured, or all that are not weak."""
    return policy.signatures or tuple(slug for slug, row in algorithms.SIGNATURE.items() if not row.weakness)


def request(sa: IkeSa) -> tuple[Payload, ...]:
    """Return what the initiator adds to its first message."""
    assert sa.tunnel is not None
    config = sa.tunnel.config
    return (*_hashes((config,)), *_use_ppk((config,)))


def note_answer(sa: IkeSa, message: Message) -> None:
    """Keep what the responder announced."""
    assert sa.tunnel is not None
    _note_hashes(sa, message)
    sa.auth.authorities = authorities(message)
    sa.auth.childless = message.notify(NotifyType.CHILDLESS_IKEV2_SUPPORTED) is not None
    sa.auth.ppk_known = sa.tunnel.config.ppk is not None and message.notify(NotifyType.USE_PPK) is not None


def answer(sa: IkeSa, message: Message) -> tuple[Payload, ...]:
    """Keep what the initiator announced and return what the responder adds to its first message."""
    tunnels = [each.config for each in sa.core.candidates(sa.path.local_address, sa.path.remote_address)]
    _note_hashes(sa, message)
    use_ppk = _use_ppk(tunnels) if message.notify(NotifyType.USE_PPK) is not None else ()
    sa.auth.ppk_known = bool(use_ppk)
    childless = any(each.ike.childless is not Childless.NEVER for each in tunnels)
    return (
        *certificate_requests(sa, tunnels, _MOST_AUTHORITIES_IN_CLEAR),
        *(_hashes(tunnels) if sa.auth.peer_hashes is not None else ()),
        *use_ppk,
        *((Notify(type=NotifyType.CHILDLESS_IKEV2_SUPPORTED),) if childless else ()),
    )


def certificate_requests(sa: IkeSa, tunnels: Iterable[Tunnel], most: int = _MOST_AUTHORITIES) -> tuple[CertReq, ...]:
    """Return the CERTREQ that asks for certificates under the CAs of these tunnels; with too many it names none."""
    policies = [each.remote_auth for each in tunnels if each.remote_auth.kind is AuthKind.CERTIFICATE]
    if not policies:
        return ()
    found = dict.fromkeys(each for policy in policies for each in sa.core.hub.credentials.anchor_hashes(policy))
    data = b"".join(found) if len(found) <= most else b""
    return (CertReq(encoding=CertEncoding.X509_SIGNATURE, data=data),)


def authorities(message: Message) -> frozenset[bytes]:
    """Return the CAs that the peer's CERTREQs name."""
    return frozenset(
        each
        for payload in message.payloads
        if isinstance(payload, CertReq) and payload.encoding == CertEncoding.X509_SIGNATURE
        for each in payload.authorities[:_MOST_AUTHORITIES]
    )


def _hashes(tunnels: Iterable[Tunnel]) -> tuple[Notify, ...]:
    """Return SIGNATURE_HASH_ALGORITHMS: the hashes of the signatures we take, where certificates are used at all."""
    numbers = {
        HASH_NUMBERS[row.hash]
        for tunnel in tunnels
        if AuthKind.CERTIFICATE in (tunnel.local_auth.kind, tunnel.remote_auth.kind)
        for slug in accepted_signatures(tunnel.remote_auth)
        if (row := algorithms.SIGNATURE[slug]).method == AuthMethod.DIGITAL_SIGNATURE
    }
    data = b"".join(number.to_bytes(2, "big") for number in sorted(numbers))
    return (Notify(type=NotifyType.SIGNATURE_HASH_ALGORITHMS, data=data),) if data else ()


def _note_hashes(sa: IkeSa, message: Message) -> None:
    notify = message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS)
    if notify is not None:
        data = notify.data
        sa.auth.peer_hashes = frozenset(
            int.from_bytes(data[at : at + 2], "big") for at in range(0, min(len(data) - 1, 128), 2)
        )


def _use_ppk(tunnels: Iterable[Tunnel]) -> tuple[Notify, ...]:
    return (Notify(type=NotifyType.USE_PPK),) if any(each.ppk is not None for each in tunnels) else ()
