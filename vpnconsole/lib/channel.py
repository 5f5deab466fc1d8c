"""Live updates: a small message on the broker's publish/subscribe channel says that something moved.

A message is a hint and carries a kind and an id only: whoever hears it reads the database. Losing one costs a few
seconds until the next, so publishing never fails the work that caused it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

import redis
from django.conf import settings

logger = logging.getLogger(__name__)

CHANNEL = "vpnconsole.changed"


def server_url() -> str | None:
    """Return the URL of the server behind the broker in redis-py's words; None when the broker has no channels."""
    url = str(settings.CELERY_BROKER_URL)
    parts = urlsplit(url)
    if parts.scheme == "redis+socket":
        return f"unix://{parts.path}"
    return url if parts.scheme in ("redis", "rediss", "unix") else None


def publish(kind: str, ids: Iterable[object]) -> None:
    """Say that the rows of ``kind`` (``tunnel``, ``gateway``, ``delivery``, ``event``) with these ids changed."""
    url = server_url()
    messages = [json.dumps({"kind": kind, "id": str(each)}) for each in ids]
    if url is None or not messages:
        return
    try:
        with _client(url).pipeline(transaction=False) as pipeline:
            for message in messages:
                pipeline.publish(CHANNEL, message)
            pipeline.execute()
    except redis.RedisError as error:
        logger.debug("! channel error=%s", error)


@lru_cache(maxsize=1)
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
