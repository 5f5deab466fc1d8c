"""The local RPC: answers, errors, notifications, and what happens to frames that are none."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from agents.runtime import rpc
from agents.runtime.rpc import Client, Connection, RpcError, RpcUnavailable, Server


async def echo(params: dict[str, Any], _connection: Connection) -> Any:
    return params


async def refuse(_params: dict[str, Any], _connection: Connection) -> Any:
    raise RpcError("dataplane", "no room", {"errno": 12})


async def explode(params: dict[str, Any], _connection: Connection) -> Any:
    raise KeyError(params["secret"])


HANDLERS: dict[str, rpc.Handler] = {"echo": echo, "refuse": refuse, "explode": explode}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.sock"


async def test_a_call_returns_the_result(path: Path) -> None:
    async with Server(path, HANDLERS), await Client.connect(path) as client:
        assert await client.call("echo", {"text": "Zürich", "n": [1, None]}) == {"text": "Zürich", "n": [1, None]}


async def test_calls_of_one_connection_run_side_by_side(path: Path) -> None:
    first_may_end = asyncio.Event()

    async def slow(_params: dict[str, Any], _connection: Connection) -> str:
        await first_may_end.wait()
        return "slow"

    async with Server(path, {"slow": slow, "echo": echo}), await Client.connect(path) as client:
        waiting = asyncio.create_task(client.call("slow"))
        assert await client.call("echo", {"a": 1}) == {"a": 1}
        assert not waiting.done()
        first_may_end.set()
        assert await waiting == "slow"


async def test_an_error_keeps_code_message_and_data(path: Path) -> None:
    async with Server(path, HANDLERS), await Client.connect(path) as client:
        with pytest.raises(RpcError) as caught:
            await client.call("refuse")
        assert (caught.value.code, caught.value.message, caught.value.data) == ("dataplane", "no room", {"errno": 12})


async def test_a_bug_in_a_handler_is_internal_and_its_parameters_stay_out_of_the_answer(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Server(path, HANDLERS), await Client.connect(path) as client:
        with pytest.raises(RpcError) as caught:
            await client.call("explode", {"other": "hunter2"})
        assert caught.value.code == "internal"
        assert await client.call("echo") == {}
    assert "hunter2" not in caplog.text
    assert any(record.levelno == logging.ERROR for record in caplog.records)


async def test_an_unknown_method_is_an_error_and_the_connection_goes_on(path: Path) -> None:
    async with Server(path, HANDLERS), await Client.connect(path) as client:
        with pytest.raises(RpcError, match="unknown-method"):
            await client.call("nonsense")
        assert await client.call("echo") == {}


async def test_notifications_reach_every_connection_in_order(path: Path) -> None:
    async with Server(path, HANDLERS) as server, await Client.connect(path) as one, await Client.connect(path) as two:
        await one.call("echo")
        await two.call("echo")
        for number in range(3):
            await server.notify("changed", {"n": number})
        for client in (one, two):
            got = []
            async for method, params in client.notifications():
                got.append((method, params["n"]))
                if len(got) == 3:
                    break
            assert got == [("changed", 0), ("changed", 1), ("changed", 2)]


async def test_a_notification_from_the_client_reaches_its_handler(path: Path) -> None:
    got: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def take(params: dict[str, Any], _connection: Connection) -> None:
        got.set_result(params)

    async with Server(path, {"take": take}), await Client.connect(path) as client:
        client.send("take", {"a": 1})
        assert await asyncio.wait_for(got, 20) == {"a": 1}


async def test_the_end_of_the_server_ends_waiting_calls(path: Path) -> None:
    started = asyncio.Event()

    async def hang(_params: dict[str, Any], _connection: Connection) -> None:
        started.set()
        await asyncio.Event().wait()

    async with Server(path, {"hang": hang}):
        client = await Client.connect(path)
        waiting = asyncio.create_task(client.call("hang"))
        await started.wait()
    with pytest.raises(RpcUnavailable):
        await waiting
    await asyncio.wait_for(client.closed.wait(), 60)
    with pytest.raises(RpcUnavailable):
        await client.call("echo")
    assert [item async for item in client.notifications()] == []


async def test_no_server_is_unavailable(path: Path) -> None:
    with pytest.raises(RpcUnavailable):
        await Client.connect(path)


async def test_an_answer_that_takes_too_long_is_unavailable(path: Path) -> None:
    async def hang(_params: dict[str, Any], _connection: Connection) -> None:
        await asyncio.Event().wait()

    async with Server(path, {"hang": hang, "echo": echo}), await Client.connect(path) as client:
        with pytest.raises(RpcUnavailable, match="no answer"):
            await client.call("hang", timeout_s=0.05)
        assert await client.call("echo") == {}


MALFORMED = {
    "too long": struct.pack(">I", rpc.MAX_FRAME_OCTETS + 1),
    "empty": struct.pack(">I", 0),
    "not JSON": struct.pack(">I", 3) + b"{{{",
    "not an object": struct.pack(">I", 2) + b"[]",
    "no method": struct.pack(">I", 8) + b'{"id":1}',
    "id of a wrong type": struct.pack(">I", 23) + b'{"id":"a","method":"e"}',
    "params of a wrong type": struct.pack(">I", 23) + b'{"method":"e","params":',
}


@pytest.mark.parametrize("octets", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_frame_closes_the_connection_with_a_log_line(
    path: Path, octets: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with Server(path, HANDLERS) as server:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(octets)
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()
        assert server.connections == ()
        async with await Client.connect(path) as client:
            assert await client.call("echo") == {}
    assert "closed" in caplog.text


async def test_a_frame_cut_short_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Server(path, HANDLERS):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(struct.pack(">I", 100) + b"{")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()
    assert "inside a frame" in caplog.text


async def test_the_socket_is_for_its_owner_only_and_goes_with_the_server(path: Path) -> None:
    async with Server(path, HANDLERS):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_stale_socket_is_replaced_and_a_live_one_is_not(path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    async with Server(path, HANDLERS):
        with pytest.raises(OSError, match="another process"):
            async with Server(path, HANDLERS):
                pass
        async with await Client.connect(path) as client:
            assert await client.call("echo") == {}


async def test_another_user_is_turned_away(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rpc, "peer_credentials", lambda _socket: (4711, os.geteuid() + 12345, 0))
    async with Server(path, HANDLERS):
        client = await Client.connect(path)
        with pytest.raises(RpcUnavailable):
            await client.call("echo")
    assert "4711" in caplog.text


async def test_a_large_frame_passes_and_one_over_the_limit_is_not_sent(path: Path) -> None:
    async with Server(path, HANDLERS), await Client.connect(path) as client:
        text = "x" * (8 * 1024 * 1024)
        assert (await client.call("echo", {"text": text}))["text"] == text
        with pytest.raises(ValueError, match="over the limit"):
            await client.call("echo", {"text": text + text})
        assert await client.call("echo") == {}


async def test_connect_and_disconnect_are_told(path: Path) -> None:
    seen: list[str] = []
    gone = asyncio.Event()

    def left(_connection: Connection) -> None:
        seen.append("gone")
        gone.set()

    async with Server(path, HANDLERS, on_connect=lambda _c: seen.append("here"), on_disconnect=left):
        client = await Client.connect(path)
        await client.call("echo")
        await client.close()
        await asyncio.wait_for(gone.wait(), 60)
    assert seen == ["here", "gone"]


async def test_a_connection_that_reads_nothing_is_closed_instead_of_growing(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rpc, "MAX_UNSENT_OCTETS", 100_000)
    async with Server(path, HANDLERS) as server, await Client.connect(path) as reading:
        await reading.call("echo")
        deaf = socket.socket(socket.AF_UNIX)
        deaf.connect(str(path))
        while len(server.connections) < 2:
            await asyncio.sleep(0)
        for _ in range(1_000):
            await server.notify("changed", {"text": "x" * 1_000})
            if len(server.connections) < 2:
                break
            await asyncio.sleep(0)
        assert len(server.connections) == 1
        assert await reading.call("echo") == {}
        deaf.close()
    assert "does not read" in caplog.text


def test_frames_on_the_wire_are_what_the_document_says() -> None:
    octets = rpc._encode({"id": 7, "method": "status", "params": {}})
    assert struct.unpack(">I", octets[:4])[0] == len(octets) - 4
    assert json.loads(octets[4:]) == {"id": 7, "method": "status", "params": {}}


async def test_a_client_closed_before_it_ever_read_ends_its_notifications(path: Path) -> None:
    async with Server(path, HANDLERS):
        client = await Client.connect(path)
        await client.close()
        async with asyncio.timeout(60):
            assert [item async for item in client.notifications()] == []
        assert client.closed.is_set()
