"""IKE_FOLLOWUP_KE (RFC 9370 section 2.2.4): the additional key exchanges of an IKE rekey.

::

    initiator                                          responder
    SK {SA(.. ADDKE1 ..), Ni, KEi}              -->
                                                <--    SK {SA, Nr, KEr, N(ADDITIONAL_KEY_EXCHANGE)(link)}
    SK {KEi(1), N(ADDITIONAL_KEY_EXCHANGE)(link)} -->
                                                <--    SK {KEr(1)}      or with a new link, while more are to come

Here is what both ends keep between the exchanges, and the responder's part. The new IKE SA comes up after the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agents.contract.algorithms import KeyExchange
from agents.ike.crypto.suite import IkeSuite
from agents.ike.errors import PeerError
from agents.ike.v2 import key_exchange as ke
from agents.ike.v2.keymat import rekey_ike_keys
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import KeyExchangeData, Notify, Payload
from agents.ike.wire.registry import NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa

KEEP_S = 30.0
"""How long a responder waits for the next of a rekey's exchanges."""

_LINK_OCTETS = 8


@dataclass(slots=True)
class Unfinished:
    """A rekey of the IKE SA that is agreed on but for its further key exchanges; ``until`` is the responder's."""

    new: IkeSa
    suite: IkeSuite
    shared: bytes
    further: tuple[bytes, ...] = ()
    link: bytes = b""
    until: float = 0.0

    def __repr__(self) -> str:
        return f"Unfinished({self.new!r}, {len(self.further)} of {len(self.suite.additional)})"

    @property
    def next_group(self) -> KeyExchange | None:
        """The key exchange to come, or None when all are done."""
        done = len(self.further)
        return self.suite.additional[done] if done < len(self.suite.additional) else None

    def take_keys(self, old: IkeSa) -> None:
        """Give the new SA its keys (RFC 9370 section 2.2.4)."""
        new = self.new
        keys = rekey_ike_keys(
            old.suite.prf,
            old.keys.sk_d,
            self.suite,
            new.nonce_i,
            new.nonce_r,
            self.shared,
            new.spi_i,
            new.spi_r,
            self.further,
        )
        new.take_keys(self.suite, keys)


def keep(sa: IkeSa, unfinished: Unfinished, now: float) -> Payload:
    """Keep a rekey until its next exchange; return the notify that links the two."""
    unfinished.link = sa.core.hub.entropy.octets(_LINK_OCTETS)
    unfinished.until = now + KEEP_S
    sa.unfinished = unfinished
    return link_to(unfinished)


def link_to(unfinished: Unfinished) -> Notify:
    """Return the notify that names this rekey."""
    return Notify(type=NotifyType.ADDITIONAL_KEY_EXCHANGE, data=unfinished.link)


def respond(sa: IkeSa, message: Message) -> tuple[Unfinished, KeyExchangeData]:
    """Do the peer's next key exchange; return the rekey, no longer kept, and our payload. Raises PeerError."""
    unfinished, sa.unfinished = sa.unfinished, None
    notify, shown = message.notify(NotifyType.ADDITIONAL_KEY_EXCHANGE), message.find(KeyExchangeData)
    group = None if unfinished is None else unfinished.next_group
    if unfinished is None or group is None or notify is None or notify.data != unfinished.link:
        raise PeerError(NotifyType.STATE_NOT_FOUND, "drop.state", "The peer goes on with a rekey that is not known")
    if shown is None or shown.group != group.number:
        raise PeerError(
            NotifyType.INVALID_SYNTAX,
            "ike.invalid-ke",
            "The peer's additional key exchange is not the one agreed on",
            received="none" if shown is None else str(shown.group),
            configured=group.slug,
            field="ike.proposals",
        )
    ours, shared = ke.answer(group, shown.data, sa.core.hub.entropy)
    unfinished.further += (shared,)
    return unfinished, ours
