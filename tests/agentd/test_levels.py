"""Log levels asked of and changed in each process, through ``agentd``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agents.agentd.daemon import Agent, handlers
from agents.runtime import log_levels
from agents.runtime.log_levels import level_of
from agents.runtime.rpc import Client, Connection, RpcError, Server
from tests.agentd.bench import Bench, eventually
from tests.agentd.fakes import FakeHost, FakeIked

pytestmark = pytest.mark.usefixtures("log_levels_as_before")


@dataclass
class Socket:
    """``agentd.sock`` of an agent without its API."""

    agent: Agent
    bench: Bench[FakeHost]
    client: Client

    async def log_level(self, **params: str) -> dict[str, str]:
        levels: dict[str, str] = (await self.client.call("log_level", params))["levels"]
        return levels

    @property
    def connected(self) -> bool:
        return self.agent.link.view is not None


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[Socket]:
    bench = Bench.make(tmp_path, FakeHost())
    await bench.start()
    path = bench.paths.agentd_socket
    async with Server(path, handlers(bench.agent)), await Client.connect(path) as client:
        yield Socket(bench.agent, bench, client)
    await bench.stop()


async def test_each_process_is_asked_and_told(socket: Socket) -> None:
    asked: list[dict[str, Any]] = []

    async def espd(params: dict[str, Any], _connection: Connection) -> Any:
        asked.append(params)
        return {"levels": {"espd": params.get("level", "information")}}

    paths = socket.bench.paths
    async with FakeIked(paths.iked_socket) as iked, Server(paths.espd_socket, {"log_level": espd}):
        await eventually(lambda: socket.connected)
        found = await socket.log_level()
        assert found == {"agentd": level_of("agentd"), "iked": "information", "iked.v2": "information"} | {
            "espd": "information"
        }
        assert (await socket.log_level(component="iked.v2", level="debug"))["iked.v2"] == "debug"
        assert iked.levels == {"iked": "information", "iked.v2": "debug"}
        assert (await socket.log_level(component="espd", level="errors"))["espd"] == "errors"
        assert asked == [{}, {}, {"component": "espd", "level": "errors"}]
        assert (await socket.log_level(component="agentd", level="none"))["agentd"] == level_of("agentd") == "none"


async def test_of_a_process_that_is_away_nothing_is_known(socket: Socket) -> None:
    assert list(await socket.log_level()) == ["agentd"]
    for component in ("iked", "iked.v1", "espd"):
        with pytest.raises(RpcError) as caught:
            await socket.log_level(component=component, level="debug")
        assert caught.value.code == "away"


async def test_what_is_no_component_is_refused(socket: Socket) -> None:
    with pytest.raises(RpcError) as caught:
        await socket.log_level(component="iked.v3", level="debug")
    assert (caught.value.code, caught.value.data) == ("invalid", {"path": "component"})
    with pytest.raises(RpcError) as caught:
        await socket.log_level(component="agentd", level="loud")
    assert caught.value.data == {"path": "level"}
    assert log_levels.level_of("agentd") != "loud"
