"""Server-sent events: the browser hears that something moved and fetches the fragment again.

One event per batch of hints: ``event: changed``, whose data is ``{"kinds": {"tunnel": ["<id>", ...], ...}}``; and for
each kind in it an event of the kind's name whose data is the list of ids, so that an element can wait for its own kind.
A comment every 15 s keeps proxies from closing the stream. Without a broker that has channels the answer is 503 and the
browser polls instead.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator

import redis.asyncio
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.views.decorators.http import require_GET
from redis import RedisError

from vpnconsole.lib.channel import CHANNEL, server_url

logger = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
#: Hints that come within this time are told together: a poll round of many gateways is one fetch.
GATHER_S = 0.3
STREAMS_PER_USER = 8
RETRY_MS = 3000

_open: Counter[object] = Counter()


@require_GET
async def live(request: HttpRequest) -> HttpResponseBase:
    """Stream hints to a logged-in user; 429 above 8 streams at once in this process."""
    user = await request.auser()
    if not user.is_authenticated:
        return HttpResponse("log in first\n", status=401, content_type="text/plain")
    url = server_url()
    if url is None:
        return HttpResponse("no live updates with this broker\n", status=503, content_type="text/plain")
    if _open[user.pk] >= STREAMS_PER_USER:
        return HttpResponse("too many live streams\n", status=429, content_type="text/plain")
    client = redis.asyncio.Redis.from_url(url, socket_connect_timeout=2)
    try:
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        await pubsub.subscribe(CHANNEL)
    except RedisError:
        await client.aclose()
        return HttpResponse("the broker does not answer\n", status=503, content_type="text/plain")
    response = StreamingHttpResponse(_stream(user.pk, client, pubsub), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    return response


async def _stream(
    user_id: object, client: redis.asyncio.Redis, pubsub: redis.asyncio.client.PubSub
) -> AsyncIterator[bytes]:
    _open[user_id] += 1
    try:
        yield f"retry: {RETRY_MS}\n: hello\n\n".encode()
        while True:
            kinds = await _gather(pubsub)
            if not kinds:
                yield b": still here\n\n"
                continue
            plain = {kind: sorted(ids) for kind, ids in sorted(kinds.items())}
            yield _event("changed", {"kinds": plain})
            for kind, ids in plain.items():
                yield _event(kind, ids)
    except RedisError as error:
        # The broker went away: end the stream, the browser comes again after its retry time.
        logger.info("! live error=%s", type(error).__name__)
    finally:
        _open[user_id] -= 1
        await pubsub.aclose()  # type: ignore[no-untyped-call]
        await client.aclose()


async def _gather(pubsub: redis.asyncio.client.PubSub) -> dict[str, set[str]]:
    """Wait for a hint, then for what comes close behind it; empty after a heartbeat's time without any."""
    kinds: dict[str, set[str]] = {}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + HEARTBEAT_S
    while (left := deadline - loop.time()) > 0:
        message = await pubsub.get_message(timeout=left)
        if message is None:
            continue
        hint = json.loads(message["data"])
        if not kinds:
            deadline = loop.time() + GATHER_S
        kinds.setdefault(hint["kind"], set()).add(hint["id"])
    return kinds


def _event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
