"""INFORMATIONAL: deletes and liveness checks, and answering them (RFC 7296 sections 1.4, 2.4, 2.25)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.ike.errors import PeerError
from agents.ike.v2.child import ChildSa
from agents.ike.v2.states import ChildState, SaState
from agents.ike.v2.tasks.base import Task
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Delete, Notify, Payload
from agents.ike.wire.registry import Exchange, NotifyType, Protocol, notify_name

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa


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
            child.rekey_at = None

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        self._children = tuple(child for child in self._children if child.state is ChildState.DELETING)
        if not self._children:
            return None
        spis = tuple(child.spi_in.to_bytes(4, "big") for child in self._children)
        return (Delete(protocol=Protocol.ESP, spis=spis),)

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        """Take the answer."""
        for child in self._children:
            sa.remove_child(child, now)


class DeleteUnaccepted(Task):
    """Deletes a child that the peer made and whose terms we do not accept: the peer must not send on it."""

    exchange = Exchange.INFORMATIONAL

    def __init__(self, spi_in: int) -> None:
        self._spi_in = spi_in

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """Return the request."""
        return (Delete(protocol=Protocol.ESP, spis=(self._spi_in.to_bytes(4, "big"),)),)

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


def concerns_children(message: Message) -> bool:
    """Return whether an INFORMATIONAL request deletes children."""
    return any(type(payload) is Delete and payload.protocol == Protocol.ESP for payload in message.payloads)


def respond(sa: IkeSa, message: Message, now: float) -> None:
    """Answer an INFORMATIONAL request."""
    deletes = [payload for payload in message.payloads if type(payload) is Delete]
    error = message.error()
    if error is not None:
        sa.report("ike.peer-notify", f"The peer reports {notify_name(error.type)}", received=notify_name(error.type))
    fatal = error is not None and error.type == NotifyType.AUTHENTICATION_FAILED
    if fatal or any(delete.protocol == Protocol.IKE for delete in deletes):
        sa.respond((), now)
        _deleted_by_peer(sa, now, refused=fatal)
        return
    answer: list[bytes] = []
    for delete in deletes:
        if delete.protocol == Protocol.ESP:
            answer += [spi for spi in (_delete_child(sa, spi, now) for spi in delete.spis) if spi is not None]
    sa.respond((Delete(protocol=Protocol.ESP, spis=tuple(answer)),) if answer else (), now)


def _delete_child(sa: IkeSa, spi: bytes, now: float) -> bytes | None:
    """Remove the child the peer receives on ``spi``; return our SPI unless we are deleting it too (section 1.4.1)."""
    child = sa.child_by_spi_out(int.from_bytes(spi, "big"))
    if child is None:
        if sa.busy_with_children():
            sa.deleted_early.add(int.from_bytes(spi, "big"))  # perhaps of a child whose answer is still on its way
        return None
    simultaneous = child.state is ChildState.DELETING
    sa.remove_child(child, now, by_peer=True)
    return None if simultaneous else child.spi_in.to_bytes(4, "big")


def _deleted_by_peer(sa: IkeSa, now: float, refused: bool) -> None:
    if sa.state is SaState.ESTABLISHED:
        sa.report("ike.sa-deleted", "The peer deleted the IKE SA")
    if refused and sa.tunnel is not None:
        refusal = PeerError(0, "ike.peer-refused-auth", "The peer refused our authentication")
        sa.report_error(refusal)
        sa.tunnel.note_error(refusal)
    sa.close(now, linger=True)
