"""Post-quantum pre-shared keys (RFC 8784): mixing one into the keys, and whether the ends agree on it.

::

    SK {IDi, ..., AUTH, N(PPK_IDENTITY: id) [, N(NO_PPK_AUTH)]} -->
                                                                <--  SK {IDr, ..., AUTH, N(PPK_IDENTITY)}   it is used
                                                                <--  SK {IDr, ..., AUTH}                    it is not

NO_PPK_AUTH is the proof by the keys without the post-quantum one: an initiator that requires it sends none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agents.contract.config import Tunnel
from agents.contract.secret import Secret
from agents.ike import identity
from agents.ike.crypto.prf import prf_plus
from agents.ike.crypto.suite import IkeSuite
from agents.ike.errors import PeerError
from agents.ike.v2.keymat import IkeKeys
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Notify
from agents.ike.wire.registry import NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa

_FIXED = 2
"""PPK_ID_FIXED of RFC 8784 section 5.1: the rest is the id itself."""


def mix(suite: IkeSuite, keys: IkeKeys, ppk: Secret) -> IkeKeys:
    """Return the keys with the post-quantum key in SK_d, SK_pi and SK_pr (section 3)."""
    octets, secret = suite.prf.output_octets, ppk.reveal()
    return replace(
        keys,
        sk_d=prf_plus(suite.prf, secret, keys.sk_d, octets),
        sk_pi=prf_plus(suite.prf, secret, keys.sk_pi, octets),
        sk_pr=prf_plus(suite.prf, secret, keys.sk_pr, octets),
    )


def offered(sa: IkeSa, config: Tunnel) -> IkeKeys | None:
    """Return the initiator's mixed keys, None to go on without.

    Raises PeerError when it is required and the responder knows nothing of it.
    """
    secret = sa.core.hub.credentials.ppk(config.ppk)
    if config.ppk is None or secret is None:
        return None
    if sa.auth.ppk_known:
        return mix(sa.suite, sa.keys, secret)
    if config.ppk_required:
        raise _required("The peer does not support post-quantum keys", config, received="no USE_PPK")
    report_unused(sa, config, "no USE_PPK")
    return None


def identity_notify(ppk_id: str) -> Notify:
    """Return the initiator's PPK_IDENTITY."""
    return Notify(type=NotifyType.PPK_IDENTITY, data=bytes((_FIXED,)) + ppk_id.encode("ascii"))


def chosen(sa: IkeSa, config: Tunnel, message: Message) -> IkeKeys | None:
    """Return the responder's mixed keys for this request, None to go on without. Raises PeerError.

    Where None is returned and the request names a key, the peer's proof is its NO_PPK_AUTH (:func:`plain_proof`).
    """
    notify = message.notify(NotifyType.PPK_IDENTITY) if sa.auth.ppk_known else None
    secret = sa.core.hub.credentials.ppk(config.ppk)
    if notify is None:
        if config.ppk_required:
            raise _required("The peer does not use a post-quantum key", config, received="no PPK_IDENTITY")
        if config.ppk is not None:
            report_unused(sa, config, "no PPK_IDENTITY")
        return None
    if secret is not None and config.ppk is not None and notify.data == identity_notify(config.ppk).data:
        return mix(sa.suite, sa.keys, secret)
    shown = identity.printable(notify.data[1:])
    if config.ppk_required or plain_proof(message) is None:
        raise PeerError(
            NotifyType.AUTHENTICATION_FAILED,
            "ike.ppk-mismatch",
            "The peer uses another post-quantum key",
            received=shown,
            configured=config.ppk or "none",
            field="ppk",
            fatal=True,
        )
    report_unused(sa, config, shown)
    return None


def plain_proof(message: Message) -> bytes | None:
    """Return the initiator's proof without the post-quantum key, if it sent one."""
    notify = message.notify(NotifyType.NO_PPK_AUTH)
    return None if notify is None else notify.data


def used(config: Tunnel, message: Message) -> bool:
    """Return whether the responder has used the post-quantum key. Raises PeerError when it had to and has not."""
    if message.notify(NotifyType.PPK_IDENTITY) is not None:
        return True
    if config.ppk_required:
        raise _required("The peer answers without the post-quantum key", config, received="no PPK_IDENTITY")
    return False


def report_unused(sa: IkeSa, config: Tunnel, received: str) -> None:
    """Tell that a configured key, or one the peer named, is not used."""
    sa.report(
        "ike.ppk-unused",
        "The IKE SA is negotiated without a post-quantum key",
        received=received,
        configured=config.ppk or "none",
        field="ppk",
    )


def _required(message: str, config: Tunnel, received: str) -> PeerError:
    return PeerError(
        NotifyType.AUTHENTICATION_FAILED,
        "ike.ppk-required",
        message,
        received=received,
        configured=f"{config.ppk}, required",
        field="ppk_required",
        fatal=True,
    )
