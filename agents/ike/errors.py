"""Whose fault it is, in the type.

``IkeError``
  ``WireError``   the octets are not a message; dropped, or answered with ``notify`` where RFC 7296 asks for it
  ``PeerError``   a well-formed message asks for what cannot be; answered with ``notify``
  ``LocalError``  the caller asked for something impossible

Anything else that is raised while a message is handled is a bug. ``code`` is an event code of
:data:`agents.contract.events.KINDS`; texts never hold key octets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self


class IkeError(Exception):
    """Base of what the protocol core raises."""


class WireError(IkeError):
    """A datagram, payload or chain that cannot be read; ``data`` goes into the notify, when there is one.

    ``received`` and ``expected`` are the values that do not go together, ``payload`` and ``exchange`` where they stood.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        notify: int | None = None,
        data: bytes = b"",
        received: object = None,
        expected: object = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.notify = notify
        self.data = data
        self.received = None if received is None else str(received)
        self.expected = None if expected is None else str(expected)
        self.payload: str | None = None
        self.exchange: str | None = None


class PeerError(IkeError):
    """A refusal: the notify type for the peer, and for people what was received and what is configured.

    ``fatal`` ends the IKE SA that carried the message (RFC 7296 section 2.21.3).
    """

    def __init__(
        self,
        notify: int,
        code: str,
        message: str,
        *,
        data: bytes = b"",
        received: str | None = None,
        configured: str | None = None,
        field: str | None = None,
        fatal: bool = False,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.notify = notify
        self.code = code
        self.message = message
        self.data = data
        self.received = received
        self.configured = configured
        self.field = field
        self.fatal = fatal
        self.attributes = dict(attributes or {})

    @property
    def child(self) -> str | None:
        """The name of the configured child that it is about, None where that is not known or it is about none."""
        return self.attributes.get("child")

    def about(self, child: str) -> Self:
        """Say which child it is about, unless it says so itself; returns itself, to be raised."""
        self.attributes.setdefault("child", child)
        return self


class LocalError(IkeError):
    """The shell or an operator asked for what this engine cannot do: an unknown tunnel, an answer nobody waits for."""
