"""``python -m tests.bench.responder DIR CPU``: an ``iked`` on one core whose data plane is kept in memory."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from agents.dataplane.fake import FakeDriver
from agents.iked.daemon import serve, settle_memory
from agents.iked.planes import Planes
from agents.runtime import logs
from agents.runtime.paths import Paths


def main() -> None:
    """Serve until SIGTERM."""
    directory, cpu = Path(sys.argv[1]), int(sys.argv[2])
    os.sched_setaffinity(0, {cpu})
    logs.set_up("iked", "warning")
    settle_memory()
    planes = Planes(FakeDriver, lambda: FakeDriver(name="userspace"))
    asyncio.run(serve(Paths(state=directory / "state", run=directory / "run"), planes))


if __name__ == "__main__":
    main()
