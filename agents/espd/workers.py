"""Several processes for one data plane: the first serves ``espd.sock``, and the others do what it tells them.

Each worker has a queue of every TUN but those with priorities, sockets on the same ports, and every SA and policy.
Calls that change something go to all, one after the other, before the caller has an answer; what they count is added.
A worker that dies takes all with it: an SA's order is lost, and whoever watches ``espd`` starts it again.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from agents.espd.shared import Table
from agents.espd.steering import Mail, Share
from agents.runtime.rpc import Client, RpcError, RpcUnavailable

MOST = 16
START_S = 15.0
_PR_SET_PDEATHSIG = 1
_log = logging.getLogger(__name__)


def shares(workers: int) -> list[Share]:
    """Return the parts of so many workers."""
    table, mail = Table(workers), Mail(workers)
    return [Share(worker, workers, table, mail) for worker in range(workers)]


def socket_of(run: Path, worker: int) -> Path:
    """Return where a worker but the first is told what to do."""
    return run / f"espd-{worker}.sock"


def fork(parts: list[Share], run: Path, serve: Callable[[Path, Share], Coroutine[Any, Any, None]]) -> list[ForkProcess]:
    """Start every worker but the first. No event loop may run yet."""
    context = get_context("fork")
    processes = []
    for part in parts[1:]:
        process = context.Process(target=_work, args=(part, run, serve, os.getpid()), daemon=True)
        process.start()
        processes.append(process)
    return processes


def _work(part: Share, run: Path, serve: Callable[[Path, Share], Coroutine[Any, Any, None]], parent: int) -> None:
    # Whoever stops the first stops all: a terminal's interrupt is for that one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() == parent:
        asyncio.run(serve(socket_of(run, part.worker), part))


class Pool:
    """The other workers, as the first sees them. Calls to all hold ``order``; ``failed`` is whether one has ended."""

    def __init__(self, run: Path, processes: list[ForkProcess]) -> None:
        self._run = run
        self._processes = processes
        self._clients: list[Client] = []
        self.order = asyncio.Lock()
        self.failed = False

    @property
    def workers(self) -> int:
        """How many there are with the first."""
        return len(self._processes) + 1

    async def reach(self) -> None:
        """Wait until all serve; raises OSError."""
        deadline = time.monotonic() + START_S
        for number, process in enumerate(self._processes, 1):
            self._clients.append(await _reach(socket_of(self._run, number), process, deadline))

    async def listen(self, notify: Callable[[str, dict[str, Any]], None], stop: asyncio.Event) -> None:
        """Hand on what workers have to say; ``stop`` is set when one has ended."""
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(self._clients, 1):
                group.create_task(self._listen(number, client, notify, stop))

    async def _listen(
        self, number: int, client: Client, notify: Callable[[str, dict[str, Any]], None], stop: asyncio.Event
    ) -> None:
        async for method, params in client.notifications():
            notify(method, params)
        if not stop.is_set():
            _log.error("worker %d has ended, and so does espd", number)
            self.failed = True
            stop.set()

    async def tell(self, method: str, params: dict[str, Any]) -> list[Any]:
        """Call a method of all others in their order and return the answers; raises RpcError where one refuses."""
        answers = []
        for client in self._clients:
            try:
                answers.append(await client.call(method, params))
            except RpcUnavailable as error:
                raise RpcError("internal", f"a worker does not answer: {error}") from None
        return answers

    async def close(self) -> None:
        """End the workers."""
        for client in self._clients:
            await client.close()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            await asyncio.to_thread(process.join)


async def _reach(path: Path, process: ForkProcess, deadline: float) -> Client:
    while True:
        try:
            return await Client.connect(path)
        except RpcUnavailable:
            if not process.is_alive() or time.monotonic() > deadline:
                raise OSError(f"the worker behind {path.name} has not started") from None
            # A process of its own: there is no event to wait for but its socket's appearance.
            await asyncio.sleep(0.02)


def merged_sas(mine: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ``list_sas`` of all workers as one: the first's SAs with everybody's counters."""
    rows = {_key(row): row for row in mine["sas"]}
    for answer in others:
        for row in answer["sas"]:
            into = rows.get(_key(row))
            if into is not None:
                for part in ("counters", "rejected"):
                    into[part] = {name: value + row[part][name] for name, value in into[part].items()}
                into["last_used"] = max(filter(None, (into["last_used"], row["last_used"])), default=None)
    return mine


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row["id"].values())


def merged_counts(mine: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ``counts`` of all workers as one."""
    totals: Counter[str] = Counter()
    for answer in (mine, *others):
        totals.update({row["name"]: row["count"] for row in answer["counts"]})
    return {"counts": [{"name": name, "count": count} for name, count in sorted(totals.items())]}


def merged_health(mine: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ``health`` of all workers as one."""
    counters = Counter(mine["counters"])
    for answer in others:
        counters.update(answer["counters"])
    return mine | {"counters": dict(sorted(counters.items()))}


def merged_trace(mine: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the traces of all workers as one, in the order of time; it ends with the first worker's."""
    answers = (mine, *others)
    records = [record for answer in answers for record in answer["records"]]
    merged = mine | {"records": sorted(records, key=lambda record: record["time"])}
    merged["count"] = sum(answer["count"] for answer in answers)
    if mine["begun"] is not None:
        merged["begun"] = mine["begun"] | {"octets": mine["begun"]["octets"] * len(answers)}
    return merged


def divided(method: str, params: dict[str, Any], workers: int) -> dict[str, Any]:
    """Return what each worker is told of a call: of the room of a trace its part, since one process answers."""
    octets = params.get("octets")
    if method == "trace" and isinstance(octets, int) and octets >= workers:
        return params | {"octets": octets // workers}
    return params


MERGED: dict[str, Callable[[dict[str, Any], list[dict[str, Any]]], dict[str, Any]]] = {
    "list_sas": merged_sas,
    "counts": merged_counts,
    "health": merged_health,
    "trace": merged_trace,
}
"""Calls that ask all workers, and how the answers become one."""
TOLD = frozenset(
    {
        "open",
        "close",
        "bind",
        "open_link",
        "close_link",
        "add_sa",
        "remove_sa",
        "add_policy",
        "remove_policy",
        "update_mapping",
        "log_level",
    }
)
"""Calls that change something, which all workers hear of."""
