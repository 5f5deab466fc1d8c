"""A network namespace for one coroutine, without touching that of the test run."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

_CLONE_NEWNET = 0x40000000

Body = Callable[[], Awaitable[Any]]


def _in_new_namespace(body: Body) -> None:
    """Run ``body`` in a thread with a network namespace of its own, which ends with the thread."""
    failures: list[BaseException] = []

    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            failures.append(OSError(ctypes.get_errno(), "unshare"))
            return

        async def bounded() -> None:
            await asyncio.wait_for(body(), 60)

        try:
            asyncio.run(bounded())
        except BaseException as error:  # handed to the test's own thread
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@pytest.fixture
def in_namespace() -> Callable[[Body], None]:
    return _in_new_namespace
