"""The trace of the whole agent: switched on and off in every process, shown as one.

There is one at a time and the newest is kept, by the processes themselves: an agent that was started anew still finds
it. Each trace has an id, so that one that is asked for twice is begun once.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agents.agentd.errors import AgentError
from agents.agentd.iked_link import IkedLink
from agents.agentd.journal import Journal
from agents.contract.codec import to_plain
from agents.contract.status import ProcessTrace, TraceStatus
from agents.contract.traces import TraceRequest
from agents.runtime import tracing
from agents.runtime.rpc import Client, RpcError, RpcUnavailable

_TIMEOUT_S = 5.0
_STATUS_TIMEOUT_S = 2.0


class UnknownTraceError(AgentError):
    """The gateway has no such trace, or a newer one took its place."""


class TraceRunningError(AgentError):
    """Another trace runs."""


class Traces:
    """Asks all three processes; one that is away is named, and has nothing to tell."""

    def __init__(self, link: IkedLink, espd_socket: Path, journal: Journal) -> None:
        self._link = link
        self._espd_socket = espd_socket
        self._journal = journal
        self._switching = asyncio.Lock()

    async def answer(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer as :func:`agents.runtime.tracing.answer`, with the records of all in the order of time.

        ``processes`` has how each process stands; records name their process. ``on`` needs no ``id``, takes the place
        of any other trace and raises RpcError.
        """
        action = params.get("action", "show")
        if action == "on":
            params = {"id": str(uuid.uuid4()), **params}
            tracing.check(params)
        processes: dict[str, Any] = {}
        records: list[dict[str, Any]] = []
        for process, ask in self._processes(_TIMEOUT_S):
            try:
                told = await ask(params)
            except RpcUnavailable as error:
                processes[process] = {"on": [], "ended_because": f"away: {error}"}
                continue
            records += [{"process": process, **record} for record in told["records"]]
            processes[process] = {name: value for name, value in told.items() if name != "records"}
        if action in ("on", "off"):
            what = ", ".join(map(str, params["categories"])) if action == "on" else "everything"
            self._journal.append("agent.trace", f"Trace of {what} switched {action}")
        return {"processes": processes, "records": sorted(records, key=lambda record: record["time"])}

    async def start(self, request: TraceRequest) -> TraceStatus:
        """Begin a trace unless it has begun already; raises TraceRunningError rather than end another."""
        async with self._switching:
            held = await self.status()
            if held is not None and held.id == request.id:
                return held
            if held is not None and held.running:
                raise TraceRunningError("A trace is running on this gateway already: stop it first.")
            answer = await self.answer({"action": "on", **to_plain(request)})
        return _status_of(answer["processes"], request.id)

    async def stop(self, trace_id: str) -> TraceStatus:
        """End a trace; one that has ended stays as it is. Raises UnknownTraceError."""
        async with self._switching:
            held = await self._held(trace_id)
            if not held.running:
                return held
            answer = await self.answer({"action": "off"})
        return _status_of(answer["processes"], trace_id)

    async def text(self, trace_id: str) -> str:
        """Return a trace for people and write down that it was read; raises UnknownTraceError."""
        held = await self._held(trace_id)
        answer = await self.answer({"action": "show"})
        self._journal.append("agent.trace", f"Trace of {', '.join(held.categories)} read by the console")
        return "".join(f"{line}\n" for line in (*_head(held), *tracing.lines(answer, _moment)))

    async def status(self) -> TraceStatus | None:
        """Return how the newest trace stands; None where none was begun since the processes started."""
        names, asks = zip(*self._processes(_STATUS_TIMEOUT_S), strict=True)
        answers = await asyncio.gather(*(_state(ask) for ask in asks))
        processes = dict(zip(names, answers, strict=True))
        begun = [each["begun"] for each in answers if each.get("begun")]
        return _status_of(processes, max(begun, key=lambda each: each["at"])["id"]) if begun else None

    async def _held(self, trace_id: str) -> TraceStatus:
        held = await self.status()
        if held is None or held.id != trace_id:
            raise UnknownTraceError("The gateway does not have this trace any more.")
        return held

    def _processes(self, timeout_s: float) -> Iterator[tuple[str, _Ask]]:
        async def own(params: Mapping[str, Any]) -> dict[str, Any]:
            return tracing.answer(params)

        async def iked(params: Mapping[str, Any]) -> dict[str, Any]:
            return await self._link.trace(params, timeout_s)

        async def espd(params: Mapping[str, Any]) -> dict[str, Any]:
            async with await Client.connect(self._espd_socket) as client:
                answer: dict[str, Any] = await client.call("trace", dict(params), timeout_s=timeout_s)
                return answer

        yield from (("agentd", own), ("iked", iked), ("espd", espd))


_Ask = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]


async def _state(ask: _Ask) -> dict[str, Any]:
    """Ask one process how its trace stands; whatever it fails at, the others are told."""
    try:
        return await ask({"action": "state"})
    except (RpcError, RpcUnavailable) as error:
        return {"on": [], "ended_because": f"away: {error}"}


def _status_of(processes: Mapping[str, Mapping[str, Any]], trace_id: str) -> TraceStatus:
    """Return the trace of this id, which at least one process has begun."""
    begun = next(each["begun"] for each in processes.values() if (each.get("begun") or {}).get("id") == trace_id)
    return TraceStatus(
        id=trace_id,
        categories=tuple(begun["categories"]),
        started_at=begun["at"],
        ends_at=begun["at"] + begun["seconds"],
        octets=begun["octets"],
        version=begun["version"],
        processes=tuple(_process(name, each, trace_id) for name, each in processes.items()),
    )


def _process(name: str, told: Mapping[str, Any], trace_id: str) -> ProcessTrace:
    begun = told.get("begun")
    if "begun" in told and (begun is None or begun["id"] != trace_id):
        return ProcessTrace(process=name, running=False, ended_because="it was not there, or started anew since")
    return ProcessTrace(
        process=name,
        running=bool(told["on"]),
        records=told.get("count", 0),
        ended_because=told["ended_because"],
    )


def _head(held: TraceStatus) -> Iterator[str]:
    packets = f", packets of IPv{held.version} only" if held.version else ""
    yield f"# Trace of {', '.join(held.categories)}{packets}, begun {_moment(held.started_at)} UTC"
    yield "# Times are UTC. Neither keys nor payloads are in a trace."


def _moment(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(unix_s))
