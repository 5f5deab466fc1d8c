"""INFORMATIONAL: deletes and liveness checks, and answering them (RFC 7296 sections 1.4, 2.4, 2.25)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from agents.ike.errors import PeerError
from agents.ike.v2 import reauth
from agents.ike.v2.child import ChildSa
from agents.ike.v2.states import ChildState, SaState
from agents.ike.v2.tasks.base import Task
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Delete, Notify, Payload, SecurityAssociation
from agents.ike.wire.registry import Exchange, NotifyType, Protocol, notify_name

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa

_CHILD_PROTOCOLS = (Protocol.ESP, Protocol.AH)
_SETTLED_S = 10.0
"""Age from which a child is certainly known to both ends."""


class Liveness(Task):
    """An empty request: is the peer there?"""

    exchange = Exchange.INFORMATIONAL

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        return ()

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Nothing to do: that an answer came is the answer."""


class DeleteChildren(Task):
    """Deletes children; their SAs leave the data plane when the peer has answered."""

    exchange = Exchange.INFORMATIONAL

    def __init__(self, children: tuple[ChildSa, ...]) -> None:
        self._children = children
        for child in children:
            child.state = ChildState.DELETING
            child.rekey_at = child.switch_at = None

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        self._children = tuple(child for child in self._children if child.state is ChildState.DELETING)
        if not self._children:
            return None
        return _deletes(self._children)

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Take the answer."""
        for child in self._children:
            sa.remove_child(child, now)


class DeleteUnaccepted(Task):
    """Deletes a child that the peer made and whose terms we do not accept: the peer must not send on it."""

    exchange = Exchange.INFORMATIONAL

    def __init__(self, answer: Message, spi_in: int) -> None:
        offer = answer.find(SecurityAssociation)
        protocols = {each.protocol for each in offer.proposals} if offer is not None else set()
        self._protocols = [each for each in _CHILD_PROTOCOLS if each in protocols] or [Protocol.ESP]
        self._spi = spi_in.to_bytes(4, "big")

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        return tuple(Delete(protocol=protocol, spis=(self._spi,)) for protocol in self._protocols)

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Nothing to do: there is nothing of it here."""


class DeleteIke(Task):
    """Deletes the IKE SA and with it every child; ``notify`` tells the peer why, where there is a type for it."""

    exchange = Exchange.INFORMATIONAL

    def __init__(self, notify: int | None = None) -> None:
        self._notify = notify

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        sa.remove_all_children(now)
        reason = () if self._notify is None else (Notify(type=self._notify),)
        return (*reason, Delete(protocol=Protocol.IKE))

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Take the answer."""
        sa.close(now)


def _deletes(children: Iterable[ChildSa]) -> tuple[Delete, ...]:
    """Return the Delete payloads of these children: SAs around each other go together (RFC 4306 section 1.4)."""
    spis: dict[Protocol, list[bytes]] = {}
    for child in children:
        for protocol in child.agreement.protocols:
            spis.setdefault(protocol, []).append(child.spi_in.to_bytes(4, "big"))
    return tuple(
        Delete(protocol=protocol, spis=tuple(spis[protocol])) for protocol in _CHILD_PROTOCOLS if protocol in spis
    )


def concerns_children(message: Message) -> bool:
    """Return whether an INFORMATIONAL request deletes children."""
    return any(type(payload) is Delete and payload.protocol in _CHILD_PROTOCOLS for payload in message.payloads)


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Answer an INFORMATIONAL request."""
    deletes = [payload for payload in message.payloads if type(payload) is Delete]
    reauth.take(sa, message)
    error = message.error()
    if error is not None:
        sa.report("ike.peer-notify", f"The peer reports {notify_name(error.type)}", received=notify_name(error.type))
    fatal = error is not None and error.type == NotifyType.AUTHENTICATION_FAILED
    if fatal or any(delete.protocol == Protocol.IKE for delete in deletes):
        sa.respond((), now)
        _deleted_by_peer(sa, now, refused=fatal)
        return
    lost = [each.data for each in message.notifies(NotifyType.INVALID_SPI) if len(each.data) == 4]
    for spi in lost:
        _unknown_to_peer(sa, int.from_bytes(spi, "big"), now)
    gone: list[ChildSa] = []
    for delete in deletes:
        if delete.protocol in _CHILD_PROTOCOLS:
            for spi in delete.spis:
                gone += _delete_child(sa, delete.protocol, int.from_bytes(spi, "big"), now)
    sa.respond(_deletes(gone), now)


def _delete_child(sa: IkeSa, protocol: int, spi: int, now: float) -> list[ChildSa]:
    """Remove the child the peer receives on ``spi``; return it unless we are deleting it too (section 1.4.1)."""
    child = sa.child_by_spi_out(protocol, spi)
    if child is None:
        if sa.busy_with_children():
            sa.deleted_early.add((protocol, spi))  # perhaps of a child whose answer is still on its way
        return []
    simultaneous = child.state is ChildState.DELETING
    sa.remove_child(child, now, by_peer=True)
    return [] if simultaneous else [child]


def _unknown_to_peer(sa: IkeSa, spi: int, now: float) -> None:
    """The peer has no SA for packets that we send (INVALID_SPI, section 1.5): delete the child, to have it made anew.

    Of a child just made that is no news: our packets may overtake the message that makes it.
    """
    for child in tuple(sa.children):
        if child.spi_out == spi and child.state is ChildState.INSTALLED and now >= child.installed_at + _SETTLED_S:
            sa.enqueue(DeleteChildren((child,)), now)


def _deleted_by_peer(sa: IkeSa, now: float, refused: bool) -> None:
    if sa.state is SaState.ESTABLISHED:
        sa.report("ike.sa-deleted", "The peer deleted the IKE SA")
    if refused and sa.tunnel is not None:
        refusal = PeerError(0, "ike.peer-refused-auth", "The peer refused our authentication")
        sa.report_error(refusal)
        sa.tunnel.note_error(refusal)
    sa.close(now, linger=True)
