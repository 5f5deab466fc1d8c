"""The process: builds the parts, serves the control socket, ends politely."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from typing import Any

from agents.iked import addresses
from agents.iked.control import Control
from agents.iked.keeper import Keeper
from agents.iked.planes import Planes
from agents.iked.runtime import Runtime
from agents.runtime import rpc, sd_notify
from agents.runtime.paths import Paths


def settle_memory() -> None:
    """Make the garbage collector look less often: what the modules made stays, and SAs live long."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


async def serve(paths: Paths, planes: Planes | None = None, *, stop: asyncio.Event | None = None) -> None:
    """Run until ``stop`` is set, or SIGTERM or SIGINT where none is given."""
    paths.prepare()
    if stop is None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks: set[asyncio.Task[None]] = set()

    def announce() -> None:
        task = asyncio.create_task(server.notify("changed", {}))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    runtime = Runtime(paths, announce)
    keeper = Keeper(runtime, planes or Planes.of_this_machine(str(paths.espd_socket)))
    control = Control(runtime, keeper)
    server = rpc.Server(paths.iked_socket, control.handlers())
    async with server:
        sd_notify.ready()
        loops = [
            asyncio.create_task(keeper.run()),
            asyncio.create_task(keeper.poll()),
            asyncio.create_task(addresses.watch(runtime.addresses_changed)),
        ]
        failure = runtime.effects.failure
        stopping = asyncio.create_task(stop.wait())
        ends: list[asyncio.Future[Any]] = [*loops, failure, stopping]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        sd_notify.stopping()
        await runtime.farewell()
        # What was counted up to the end is nowhere else: whoever keeps totals takes it now.
        await server.notify("last", await control.report())
        for task in (*loops, stopping):
            task.cancel()
        await keeper.close()
        failure.cancel()
        for ended in (*loops, failure):
            with contextlib.suppress(asyncio.CancelledError):
                await ended  # what ended by itself has a bug to tell
