"""Runs a coroutine in a network namespace: a thread of its own that has entered it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from deploy.lab.netns import Namespace

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def run_inside(namespace: Namespace, work: Callable[[], Awaitable[T]]) -> T:
    """Return what ``work()`` returns, run in ``namespace``; its exceptions come out here."""
    results: list[T] = []
    failures: list[BaseException] = []

    async def main() -> T:
        return await work()

    def thread() -> None:
        descriptor = os.open(namespace.path, os.O_RDONLY)
        try:
            if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            results.append(asyncio.run(main()))
        except BaseException as error:
            failures.append(error)
        finally:
            os.close(descriptor)

    running = threading.Thread(target=thread)
    running.start()
    running.join()
    if failures:
        raise failures[0]
    return results[0]
