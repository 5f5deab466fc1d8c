"""The two netlink sockets of the kernel driver: requests with answers, and what the kernel says by itself.

:class:`Requests` wraps pyroute2's asyncio socket and turns every refusal into :class:`DataplaneError` with the kernel's
extended sentence. :class:`Listener` is a plain non-blocking socket read by pyroute2's marshal: an overflow of its
buffer must reach us as such, because a lost notice means that we have to look at the table again.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

from pyroute2.netlink import NETLINK_XFRM, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NLMSG_ERROR
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.nlsocket import AsyncNetlinkSocket

from agents.dataplane.base import DataplaneError
from agents.dataplane.kernel.messages import EmptyMessage, MarshalXfrm, XfrmMessage

REQUEST = NLM_F_REQUEST
ACK = NLM_F_REQUEST | NLM_F_ACK
CREATE = ACK | NLM_F_CREATE | NLM_F_EXCL
_DUMP = NLM_F_REQUEST | NLM_F_DUMP

_RECEIVE_BUFFER_OCTETS = 4 * 1024 * 1024
_DATAGRAM_OCTETS = 64 * 1024


class _Socket(AsyncNetlinkSocket):  # type: ignore[misc]  # pyroute2 has no types
    marshal_class = MarshalXfrm


class Requests:
    """Ask the kernel and hear its answer; made inside the running event loop."""

    def __init__(self) -> None:
        try:
            self._socket = _Socket(family=NETLINK_XFRM, ext_ack=True)
        except OSError as error:
            raise DataplaneError("open", "netlink XFRM", error.errno or 0, _sentence(error)) from None

    async def bind(self) -> None:
        """Connect to the kernel."""
        try:
            await self._socket.bind()
        except OSError as error:
            raise DataplaneError("open", "netlink XFRM", error.errno or 0, _sentence(error)) from None
        except KeyError:  # pyroute2's way to say that bind() was refused
            raise DataplaneError("open", "netlink XFRM", errno.EADDRINUSE, "no free netlink address") from None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def send(self, operation: str, target: str, body: XfrmMessage, kind: int, flags: int = ACK) -> list[Any]:
        """Send one request and return the messages of its answer; raises :class:`DataplaneError`."""
        try:
            answer = await self._socket.nlm_request(body, kind, msg_flags=flags)
            return [message async for message in answer if message["header"]["type"] != NLMSG_ERROR]
        except NetlinkError as error:
            raise DataplaneError(operation, target, error.code, str(error.args[1])) from None
        except OSError as error:
            raise DataplaneError(operation, target, error.errno or 0, _sentence(error)) from None

    async def dump(self, operation: str, kind: int) -> list[Any]:
        """Return a whole table."""
        return await self.send(operation, "all", EmptyMessage(), kind, _DUMP)


class OverflowedError(Exception):
    """The kernel had more to say than the listener's buffer holds."""


class Listener:
    """Hear multicast groups of a netlink family; ``groups`` is the bit mask of a netlink address."""

    def __init__(self, groups: int, family: int = NETLINK_XFRM, marshal: Marshal | None = None) -> None:
        self._marshal = MarshalXfrm() if marshal is None else marshal
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        except OSError as error:
            raise DataplaneError("open", "netlink", error.errno or 0, _sentence(error)) from None
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_OCTETS)
        try:
            self._socket.bind((0, groups))
        except OSError as error:
            self._socket.close()
            raise DataplaneError("open", "netlink notices", error.errno or 0, _sentence(error)) from None

    def close(self) -> None:
        """Close the socket; end the reading task first."""
        self._socket.close()

    async def messages(self) -> AsyncIterator[Any]:
        """Yield messages for ever; raises :class:`OverflowedError`, after which reading may go on."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                datagram = await loop.sock_recv(self._socket, _DATAGRAM_OCTETS)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    raise OverflowedError from None
                raise
            for message in self._marshal.parse(datagram):
                yield message


def _sentence(error: OSError) -> str:
    return error.strerror or os.strerror(error.errno or errno.EIO)
