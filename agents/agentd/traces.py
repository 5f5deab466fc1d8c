"""The trace of the whole agent: switched on and off in every process, shown as one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.agentd.iked_link import IkedLink
from agents.agentd.journal import Journal
from agents.runtime import tracing
from agents.runtime.rpc import Client, RpcUnavailable

_TIMEOUT_S = 5.0


class Traces:
    """Asks all three processes; one that is away is named, and has nothing to tell."""

    def __init__(self, link: IkedLink, espd_socket: Path, journal: Journal) -> None:
        self._link = link
        self._espd_socket = espd_socket
        self._journal = journal

    async def answer(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Answer as :func:`agents.runtime.tracing.answer`, with the records of all in the order of time.

        ``processes`` has each process's ``on`` and ``ended_because``; records name their process. Raises RpcError.
        """
        action = params.get("action", "show")
        if action == "on":
            tracing.check(params)
        processes: dict[str, Any] = {}
        records: list[dict[str, Any]] = []
        for process, ask in (("agentd", _own), ("iked", self._link.trace), ("espd", self._espd)):
            try:
                told = await ask(params)
            except RpcUnavailable as error:
                processes[process] = {"on": [], "ended_because": f"away: {error}"}
                continue
            processes[process] = {"on": told["on"], "ended_because": told["ended_because"]}
            records += [{"process": process, **record} for record in told["records"]]
        if action in ("on", "off"):
            what = ", ".join(map(str, params["categories"])) if action == "on" else "everything"
            self._journal.append("agent.trace", f"Trace of {what} switched {action}")
        return {"processes": processes, "records": sorted(records, key=lambda record: record["time"])}

    async def _espd(self, params: Mapping[str, Any]) -> dict[str, Any]:
        async with await Client.connect(self._espd_socket) as client:
            answer: dict[str, Any] = await client.call("trace", dict(params), timeout_s=_TIMEOUT_S)
            return answer


async def _own(params: Mapping[str, Any]) -> dict[str, Any]:
    return tracing.answer(params)
