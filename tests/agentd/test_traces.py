"""Traces of all processes as one: begun once, never in another's place, told honestly when a process is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from agents.agentd.traces import TraceRunningError, UnknownTraceError
from agents.contract.errors import FieldError
from agents.contract.status import TraceStatus
from agents.contract.traces import MOST_OCTETS, MOST_SECONDS, Category, TraceRequest
from agents.runtime import tracing
from agents.runtime.rpc import Connection, Server
from agents.runtime.tracing import TRACE, Tracer
from tests.agentd.bench import Bench, eventually
from tests.agentd.fakes import FakeHost, FakeIked

pytestmark = pytest.mark.usefixtures("trace_as_before")


def request(**changes: Any) -> TraceRequest:
    values: dict[str, Any] = {"id": str(uuid4()), "categories": (Category.ERROR, Category.TUNNEL)}
    return TraceRequest(**values | changes)


@dataclass
class Traced:
    """An agent and the tracers of the processes it asks."""

    bench: Bench[FakeHost]
    iked: FakeIked
    espd: Tracer

    async def start(self, wanted: TraceRequest) -> TraceStatus:
        return await self.bench.agent.traces.start(wanted)

    async def status(self) -> TraceStatus:
        held = await self.bench.agent.traces.status()
        assert held is not None
        return held

    def told(self) -> list[str]:
        events = self.bench.agent.events(0, 1_000).events
        return [event.message for event in events if event.code == "agent.trace"]


@asynccontextmanager
async def agent(directory: Path) -> AsyncIterator[Traced]:
    bench, espd = Bench.make(directory, FakeHost()), Tracer()

    async def trace(params: dict[str, Any], _connection: Connection) -> Any:
        return tracing.answer(params, espd)

    await bench.start()
    async with FakeIked(bench.paths.iked_socket) as iked, Server(bench.paths.espd_socket, {"trace": trace}):
        await eventually(lambda: bench.agent.link.view is not None)
        yield Traced(bench, iked, espd)
    await bench.stop()


@pytest.fixture
async def traced(tmp_path: Path) -> AsyncIterator[Traced]:
    async with agent(tmp_path) as made:
        yield made


async def test_a_trace_is_of_every_process_and_is_begun_once(traced: Traced) -> None:
    assert (await traced.bench.agent.status()).trace is None
    wanted = request(seconds=90, octets=5_000, version=6)
    for _ in range(2):
        begun = await traced.start(wanted)
        assert (begun.id, begun.categories, begun.octets, begun.version) == (wanted.id, ("error", "tunnel"), 5_000, 6)
        assert begun.ends_at - begun.started_at == 90
        assert [(each.process, each.running) for each in begun.processes] == [
            ("agentd", True),
            ("iked", True),
            ("espd", True),
        ]
    assert traced.told() == ["Trace of error, tunnel switched on"]
    traced.espd.record(Category.ERROR, "seen by espd")
    told = (await traced.bench.agent.status()).trace
    assert told is not None
    assert [each.records for each in told.processes if each.process == "espd"] == [1]


async def test_another_trace_is_not_ended_and_not_confused(traced: Traced) -> None:
    first = await traced.start(request(categories=(Category.CRYPTO,)))
    with pytest.raises(TraceRunningError, match="stop it first"):
        await traced.start(request())
    for ask in (traced.bench.agent.traces.stop, traced.bench.agent.traces.text):
        with pytest.raises(UnknownTraceError):
            await ask(str(uuid4()))
    assert await traced.status() == first
    ended = await traced.bench.agent.traces.stop(first.id)
    assert not ended.running
    assert [each.ended_because for each in ended.processes] == ["switched off"] * 3
    assert await traced.bench.agent.traces.stop(first.id) == ended
    second = await traced.start(request())
    assert (second.running, second.records) == (True, 0)
    with pytest.raises(UnknownTraceError):
        await traced.bench.agent.traces.text(first.id)


async def test_the_text_has_the_records_of_all_in_order_and_reading_it_is_told(traced: Traced) -> None:
    begun = await traced.start(request(categories=(Category.TUNNEL,)))
    traced.iked.tracer.wall, traced.espd.wall = lambda: 7_200.5, lambda: 3_600.25
    traced.iked.tracer.record(Category.TUNNEL, "later")
    traced.espd.record(Category.TUNNEL, "earlier")
    traced.espd.stop("its octets are full")
    text = (await traced.bench.agent.traces.text(begun.id)).splitlines()
    assert text[0].startswith("# Trace of tunnel, begun ")
    assert text[2] == "1970-01-01 01:00:00.250000  espd    tunnel                   earlier"
    assert text[3] == "1970-01-01 02:00:00.500000  iked    tunnel                   later"
    assert text[-3:] == ["-- agentd: tracing tunnel", "-- iked: tracing tunnel", "-- espd: its octets are full"]
    assert traced.told()[-1] == "Trace of tunnel read by the console"


async def test_a_process_that_is_away_or_came_later_is_named(tmp_path: Path) -> None:
    async with agent(tmp_path / "one") as traced:
        begun = await traced.start(request())
        traced.iked.tracer = Tracer()
        told = {each.process: each for each in (await traced.status()).processes}
        assert told["iked"].ended_because == "it was not there, or started anew since"
        assert (told["iked"].running, told["espd"].running) == (False, True)
    told = {each.process: each for each in (await traced.status()).processes}
    assert told["espd"].ended_because.startswith("away: ")
    assert (await traced.status()).id == begun.id


async def test_an_agent_that_started_anew_finds_the_trace_of_the_others(traced: Traced) -> None:
    begun = await traced.start(request())
    TRACE.start(request(seconds=1))
    TRACE._asked, TRACE.categories = None, frozenset()
    held = await traced.status()
    assert (held.id, held.running) == (begun.id, True)
    assert [each.running for each in held.processes] == [False, True, True]


async def test_a_trace_of_the_command_line_has_an_id_too_and_takes_the_others_place(traced: Traced) -> None:
    first = await traced.start(request())
    on = {"action": "on", "categories": ["crypto"], "seconds": 5, "octets": 100, "version": None}
    await traced.bench.agent.traces.answer(on)
    held = await traced.status()
    assert held.id != first.id
    assert (held.categories, held.running) == (("crypto",), True)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": "x"}, "id"),
        ({"categories": ()}, "categories"),
        ({"categories": (Category.ERROR, Category.ERROR)}, "categories"),
        ({"seconds": MOST_SECONDS + 1}, "seconds"),
        ({"octets": MOST_OCTETS + 1}, "octets"),
        ({"version": 5}, "version"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(FieldError) as caught:
        request(**changes)
    assert caught.value.field == field
