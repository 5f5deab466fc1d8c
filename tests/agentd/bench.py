"""An agent that runs without its API, on a machine in memory or in a namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from agents.agentd.daemon import Agent
from agents.agentd.database import Database
from agents.agentd.host import Host
from agents.agentd.identity import GatewayIdentity
from agents.runtime.paths import Paths
from tests.agentd.fakes import GATEWAY_ID, FakeHost

H = TypeVar("H", bound=Host)


@dataclass
class Bench(Generic[H]):
    """The agent with its files below one directory."""

    paths: Paths
    host: H
    agent: Agent
    database: Database
    running: asyncio.Task[None] | None = None

    @classmethod
    def make(cls, directory: Path, host: H) -> Bench[H]:
        paths = Paths(state=directory / "state", run=directory / "run")
        paths.prepare()
        gateway = GatewayIdentity(gateway_id=GATEWAY_ID, gateway_name="paris", agent_port=0, directory=directory)
        database = Database(paths.journal)
        return cls(paths, host, Agent(gateway, paths, host, database), database)

    async def start(self) -> None:
        self.running = asyncio.create_task(self.agent.run())

    async def stop(self) -> None:
        if self.running is not None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
        self.database.close()

    def codes(self) -> list[str]:
        return [event.code for event in self.agent.events(0, 1_000).events]


def routed(bench: Bench[FakeHost]) -> set[str]:
    """The networks with a route of ours."""
    return {route.network for route in bench.host.view.routes if route.protocol == 86}


async def eventually(condition: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait until ``condition()`` holds."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
