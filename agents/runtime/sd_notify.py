"""The service manager's readiness protocol (sd_notify(3)); a no-op where nobody asks for it."""

from __future__ import annotations

import os
import socket


def ready(status: str = "") -> None:
    """Say that the process serves its sockets now."""
    notify("READY=1" + (f"\nSTATUS={status}" if status else ""))


def stopping() -> None:
    """Say that the process is ending on purpose."""
    notify("STOPPING=1")


def notify(state: str) -> None:
    """Send ``state`` to ``$NOTIFY_SOCKET`` if there is one; a manager that has gone is not an error."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        try:
            sending.sendto(state.encode(), address)
        except OSError:
            return  # readiness is a courtesy: the process works the same without
