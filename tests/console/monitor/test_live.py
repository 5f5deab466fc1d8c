"""The event stream against a real broker on a private socket: hints come through, and who may listen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from django.http import StreamingHttpResponse
from django.test import AsyncClient, RequestFactory, override_settings

from tests.console.brokers import running_broker
from vpnconsole.accounts.models import User
from vpnconsole.lib import channel
from vpnconsole.monitor import live

pytestmark = pytest.mark.celery


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Path]:
    with running_broker(tmp_path) as socket_path, override_settings(CELERY_BROKER_URL=f"redis+socket://{socket_path}"):
        yield socket_path
    channel._client.cache_clear()


async def stream_for(user: User) -> AsyncIterator[bytes]:
    request = RequestFactory().get("/live/")

    async def auser() -> User:
        return user

    request.auser = auser
    response = await live.live(request)
    assert isinstance(response, StreamingHttpResponse), response.status_code
    assert response["Content-Type"] == "text/event-stream"
    return response.__aiter__()


async def take(stream: AsyncIterator[bytes]) -> bytes:
    return await asyncio.wait_for(anext(stream), 60)


async def close(stream: AsyncIterator[bytes]) -> None:
    await stream.aclose()  # type: ignore[attr-defined]


async def test_hints_come_together_as_one_event_and_one_per_kind(broker: Path) -> None:
    stream = await stream_for(User(pk=1, username="alice"))
    assert (await take(stream)).startswith(b"retry: ")
    await asyncio.to_thread(channel.publish, "tunnel", ["t-2", "t-1"])
    await asyncio.to_thread(channel.publish, "gateway", ["g-1"])
    changed = (await take(stream)).decode()
    assert changed.startswith("event: changed\n")
    assert json.loads(changed.split("data: ")[1]) == {"kinds": {"gateway": ["g-1"], "tunnel": ["t-1", "t-2"]}}
    assert (await take(stream)) == b'event: gateway\ndata: ["g-1"]\n\n'
    assert (await take(stream)) == b'event: tunnel\ndata: ["t-1", "t-2"]\n\n'
    await close(stream)


async def test_quiet_stream_says_that_it_is_alive(broker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.2)
    stream = await stream_for(User(pk=2, username="bob"))
    await take(stream)
    assert await take(stream) == b": still here\n\n"
    await close(stream)


async def test_streams_of_one_user_are_capped_and_given_back(broker: Path) -> None:
    user = User(pk=3, username="charlie")
    streams = [await stream_for(user) for _ in range(live.STREAMS_PER_USER)]
    for stream in streams:
        await take(stream)
    with pytest.raises(AssertionError, match="429"):
        await stream_for(user)
    await close(streams[0])
    # Django wraps the stream; the loop closes what is inside a turn later.
    async with asyncio.timeout(60):
        while live._open[user.pk] == live.STREAMS_PER_USER:
            await asyncio.sleep(0.01)
    again = await stream_for(user)
    for stream in [again, *streams[1:]]:
        await close(stream)


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
async def test_stranger_hears_nothing() -> None:
    response = await AsyncClient().get("/live/")
    assert response.status_code in (302, 401)


async def test_without_a_broker_the_browser_is_told_to_poll(tmp_path: Path) -> None:
    with (
        override_settings(CELERY_BROKER_URL=f"redis+socket://{tmp_path}/nothing.sock"),
        pytest.raises(AssertionError, match="503"),
    ):
        await stream_for(User(pk=4))
    with override_settings(CELERY_BROKER_URL="amqp://elsewhere"), pytest.raises(AssertionError, match="503"):
        await stream_for(User(pk=4))


def test_publishing_without_a_broker_fails_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level("DEBUG", "vpnconsole.lib.channel"),
        override_settings(CELERY_BROKER_URL=f"redis+socket://{tmp_path}/nothing.sock"),
    ):
        channel.publish("tunnel", ["t-1"])
    channel._client.cache_clear()
    assert "! channel error=" in caplog.text
