"""The userspace data plane as ``iked`` sees it: the driver protocol spoken to ``espd`` over its socket.

When the connection ends, :meth:`UserspaceDriver.notices` yields ``Lost`` and ends; :meth:`UserspaceDriver.open`
connects anew. ``espd`` also owns UDP 4500: :meth:`bind`, :meth:`send_ike`, :meth:`keep_alive` and ``on_ike`` carry IKE
over it; ``on_too_big`` hears of IKE messages too big for their path.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from agents.contract.codec import from_plain, to_plain
from agents.contract.errors import DocumentError
from agents.contract.status import NamedCount, QueueStatus
from agents.dataplane.base import (
    DataplaneError,
    Features,
    Lost,
    Notice,
    PolicySpec,
    SaId,
    SaSpec,
    SaState,
    TunnelLink,
    UdpEncapsulation,
)
from agents.dataplane.plain import IkeDatagram, PathLimit, features_from_plain, notice_from_plain
from agents.runtime.rpc import Client, RpcError, RpcUnavailable

_log = logging.getLogger(__name__)


class UserspaceDriver:
    """A :class:`~agents.dataplane.base.Driver` whose data plane is the process behind ``socket_path``."""

    def __init__(self, socket_path: Path | str) -> None:
        self._socket_path = socket_path
        self._client: Client | None = None
        self._reader: asyncio.Task[None] | None = None
        self._notices: asyncio.Queue[Notice | None] = asyncio.Queue()
        self.on_ike: Callable[[IkeDatagram], None] | None = None
        self.on_too_big: Callable[[PathLimit], None] | None = None

    async def features(self) -> Features:
        """Ask ``espd``; not available, with the reason, when it does not answer."""
        try:
            if self._client is not None:
                return features_from_plain((await self._client.call("features"))["features"])
            async with await Client.connect(self._socket_path) as client:
                return features_from_plain((await client.call("features"))["features"])
        except (RpcUnavailable, RpcError, DocumentError) as error:
            return Features(driver="userspace", available=False, reason=f"espd does not answer: {error}")

    async def open(self) -> None:
        """Connect and start a session; the SAs of an earlier one are dropped by ``espd``."""
        await self._disconnect()
        try:
            self._client = await Client.connect(self._socket_path)
        except RpcUnavailable as error:
            raise DataplaneError("open", "espd", errno.ECONNREFUSED, str(error)) from None
        self._notices = asyncio.Queue()
        self._reader = asyncio.create_task(self._read(self._client, self._notices))
        await self._call("open", "espd")

    async def close(self) -> None:
        """End the session, which removes what it installed, and the connection."""
        if self._client is not None and not self._client.closed.is_set():
            try:
                await self._call("close", "espd")
            except DataplaneError as error:
                _log.info("espd was not told to close: %s", error.reason)
        await self._disconnect()
        self._notices.put_nowait(None)

    async def open_link(self, link: TunnelLink) -> None:
        """Make the tunnel's TUN exist."""
        await self._call("open_link", link.name, link=to_plain(link))

    async def close_link(self, tunnel_id: str) -> None:
        """Remove the tunnel's TUN."""
        await self._call("close_link", tunnel_id, tunnel_id=tunnel_id)

    async def add_sa(self, spec: SaSpec) -> None:
        """Install one SA."""
        await self._call("add_sa", _target(spec.id), spec=to_plain(spec))

    async def remove_sa(self, sa: SaId) -> None:
        """Remove one SA."""
        await self._call("remove_sa", _target(sa), sa=to_plain(sa))

    async def add_policy(self, spec: PolicySpec) -> None:
        """Install or replace one policy."""
        await self._call("add_policy", spec.selector.destination, spec=to_plain(spec))

    async def remove_policy(self, spec: PolicySpec) -> None:
        """Remove one policy."""
        await self._call("remove_policy", spec.selector.destination, spec=to_plain(spec))

    async def update_mapping(
        self, sa: SaId, source: str, destination: str, encapsulation: UdpEncapsulation | None
    ) -> None:
        """Move an SA to other outer addresses or ports."""
        await self._call(
            "update_mapping",
            _target(sa),
            sa=to_plain(sa),
            source=source,
            destination=destination,
            encapsulation=None if encapsulation is None else to_plain(encapsulation),
        )

    async def list_sas(self) -> tuple[SaState, ...]:
        """Return the SAs ``espd`` holds."""
        return _rows(SaState, await self._call("list_sas", "espd"), "sas")

    async def list_policies(self) -> tuple[PolicySpec, ...]:
        """Return the policies ``espd`` holds."""
        return _rows(PolicySpec, await self._call("list_policies", "espd"), "policies")

    async def queues(self) -> Mapping[str, tuple[QueueStatus, ...]]:
        """Return the queues of the links that have several."""
        answer = await self._call("queues", "espd")
        by_tunnel = answer.get("queues") if isinstance(answer, dict) else None
        if not isinstance(by_tunnel, dict):
            raise DataplaneError("queues", "espd", errno.EPROTO, "the answer has no queues")
        return {tunnel_id: _rows(QueueStatus, by_tunnel, tunnel_id) for tunnel_id in by_tunnel}

    async def counts(self) -> tuple[NamedCount, ...]:
        """Return what ``espd`` counts by itself."""
        return _rows(NamedCount, await self._call("counts", "espd"), "counts")

    async def notices(self) -> AsyncIterator[Notice]:
        """Yield what ``espd`` says, and ``Lost`` as the last word when it goes away by itself."""
        queue = self._notices
        while (notice := await queue.get()) is not None:
            yield notice

    async def bind(self, addresses: Iterable[str]) -> None:
        """Let ``espd`` hold UDP 4500 on exactly these local addresses."""
        await self._call("bind", "UDP 4500", addresses=sorted(addresses))

    def send_ike(self, datagram: IkeDatagram) -> None:
        """Send an IKE message from UDP 4500; one that cannot be sent now is lost like any datagram."""
        if self._client is None or self._client.closed.is_set():
            return
        self._client.send("send_ike", datagram.to_plain())

    def keep_alive(self, local_address: str, remote_address: str, remote_port: int) -> None:
        """Send a NAT keepalive from UDP 4500; one that cannot be sent now is lost like any datagram."""
        if self._client is None or self._client.closed.is_set():
            return
        where = {"local_address": local_address, "remote_address": remote_address, "remote_port": remote_port}
        self._client.send("keep_alive", where)

    async def _call(self, method: str, target: str, **params: Any) -> Any:
        client = self._client
        if client is None:
            raise DataplaneError(method, target, errno.ENOTCONN, "espd is not connected")
        try:
            return await client.call(method, params)
        except RpcUnavailable as error:
            raise DataplaneError(method, target, errno.ENOTCONN, str(error)) from None
        except RpcError as error:
            data = error.data
            raise DataplaneError(
                str(data.get("operation", method)),
                str(data.get("target", target)),
                int(data.get("errno", 0)),
                str(data.get("reason", error.message)),
            ) from None

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
        if client is not None:
            await client.close()

    async def _read(self, client: Client, notices: asyncio.Queue[Notice | None]) -> None:
        async for method, params in client.notifications():
            try:
                if method == "ike":
                    datagram = IkeDatagram.from_plain(params)
                    if self.on_ike is not None:
                        self.on_ike(datagram)
                elif method == "too_big":
                    limit = from_plain(PathLimit, params, "too_big")
                    if self.on_too_big is not None:
                        self.on_too_big(limit)
                elif method == "notice":
                    notices.put_nowait(notice_from_plain(params))
            except DocumentError as error:
                _log.error("espd said something that cannot be read (%s): %s", method, error)
        notices.put_nowait(Lost(reason="the connection to espd ended"))
        notices.put_nowait(None)


def _rows(kind: type[Any], answer: Any, key: str) -> tuple[Any, ...]:
    try:
        return tuple(from_plain(kind, plain) for plain in answer[key])
    except (DocumentError, KeyError, TypeError) as error:
        raise DataplaneError(f"list_{key}", "espd", errno.EPROTO, f"the answer cannot be read: {error}") from None


def _target(sa: SaId) -> str:
    return f"esp {sa.spi:08x} to {sa.destination}"
