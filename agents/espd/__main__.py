"""``python -m agents.espd``: the userspace data plane. It keeps nothing on disk; ``--state`` is taken for symmetry."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import logging
import os
import signal
import sys
from pathlib import Path

from agents.espd.service import Service
from agents.espd.steering import Share
from agents.espd.workers import MOST, Pool, fork, shares
from agents.runtime import logs, paths, sd_notify

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_OCTETS = 16 << 20
WORKERS_VARIABLE = "VPN_AGENT_ESPD_WORKERS"
WORKER_LOST = 70
"""The exit status after a worker has ended by itself."""
_log = logging.getLogger("agents.espd")


def _keep_memory() -> None:
    """Let the C library keep freed buffers: they are needed again with the next batch (mallopt(3))."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_OCTETS)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_OCTETS)


async def serve(path: Path, share: Share | None, pool: Pool | None = None) -> None:
    """Serve a socket until SIGTERM or SIGINT."""
    # Packets make no reference cycles: the collector need not look for them every few hundred buffers.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    _keep_memory()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    first = share is None or not share.worker
    for number in (signal.SIGTERM, signal.SIGINT) if first else (signal.SIGTERM,):
        loop.add_signal_handler(number, stop.set)
    _log.info("serving %s", path.name)
    await Service(path, share, pool).run(stop, sd_notify.ready if first else lambda: None)
    if first:
        sd_notify.stopping()


def _serve(where: paths.Paths, workers: int) -> bool:
    """Serve with so many workers; returns whether all ended because they were told to."""
    if workers == 1:
        asyncio.run(serve(where.espd_socket, None))
        return True
    parts = shares(workers)
    pool = Pool(where.run, fork(parts, where.run, serve))
    asyncio.run(serve(where.espd_socket, parts[0], pool))
    return not pool.failed


def workers_of(text: str) -> int:
    """Return a number of workers, of ``cores`` as many as there are processors; raises ValueError."""
    number = len(os.sched_getaffinity(0)) if text == "cores" else int(text)
    if number < 1:
        raise ValueError(text)
    return min(number, MOST)


def main() -> int:
    """Run until told to stop; the exit status says why it could not."""
    parser = argparse.ArgumentParser(prog="espd", description=__doc__)
    paths.add_arguments(parser)
    logs.add_arguments(parser)
    parser.add_argument(
        "--workers",
        type=workers_of,
        default=os.environ.get(WORKERS_VARIABLE, "1"),
        metavar="NUMBER",
        help=f"processes, up to {MOST}, or 'cores' (default: {WORKERS_VARIABLE}, else 1)",
    )
    arguments = parser.parse_args()
    logs.set_up("espd", arguments.log_level, arguments.log_format)
    where = paths.from_arguments(arguments)
    try:
        paths.make_private(where.run)
        if not _serve(where, arguments.workers):
            return WORKER_LOST
    except paths.PathError as error:
        _log.error("%s", error)
        return 78
    except OSError as error:
        _log.error("espd cannot serve: %s", error.strerror or error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
