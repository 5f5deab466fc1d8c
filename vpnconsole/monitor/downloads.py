"""Files of a gateway passed on to a browser piece by piece and kept nowhere here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from django.http import StreamingHttpResponse

from vpnconsole.gateways.models import Gateway
from vpnconsole.rollout.client import AgentClient

Fetched = AbstractContextManager[tuple[int | None, Iterator[bytes]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """An open answer; ``chunks`` are the octets of the file. :meth:`close` must be called."""

    name: str
    media_type: str
    length: int | None
    chunks: Iterator[bytes]
    _stack: ExitStack

    def close(self) -> None:
        """Let go of the connection."""
        self._stack.close()


def open_download(
    gateway: Gateway,
    name: str,
    media_type: str,
    fetch: Callable[[AgentClient], Fetched],
    write_down: Callable[[], object],
) -> Download:
    """Begin to read a file by ``fetch`` and write it down before it is passed on; raises AgentError and SealError."""
    with ExitStack() as stack:
        agent = stack.enter_context(AgentClient(gateway))
        length, chunks = stack.enter_context(fetch(agent))
        write_down()
        return Download(name=name, media_type=media_type, length=length, chunks=chunks, _stack=stack.pop_all())


def passed_on(opened: Download) -> StreamingHttpResponse:
    """Return the answer that gives a browser the file as it comes."""
    response = StreamingHttpResponse(_pieces(opened), content_type=opened.media_type)
    response["Content-Disposition"] = f'attachment; filename="{opened.name}"'
    response["X-Content-Type-Options"] = "nosniff"
    if opened.length is not None:
        response["Content-Length"] = str(opened.length)
    return response


async def _pieces(opened: Download) -> AsyncIterator[bytes]:
    """Yield the file; the connection to the agent is a blocking one, so a thread waits for each piece."""
    try:
        while piece := await asyncio.to_thread(next, opened.chunks, b""):
            yield piece
    finally:
        await asyncio.to_thread(opened.close)
