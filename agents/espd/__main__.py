"""``python -m agents.espd``: the userspace data plane. It keeps nothing on disk; ``--state`` is taken for symmetry."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import logging
import signal
import sys

from agents.espd.service import Service
from agents.runtime import logs, paths, sd_notify

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_OCTETS = 16 << 20
_log = logging.getLogger("agents.espd")


def _keep_memory() -> None:
    """Let the C library keep freed buffers: they are needed again with the next batch (mallopt(3))."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_OCTETS)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_OCTETS)


async def serve(where: paths.Paths) -> None:
    """Serve ``espd.sock`` until SIGTERM or SIGINT."""
    # Packets make no reference cycles: the collector need not look for them every few hundred buffers.
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    _keep_memory()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _log.info("serving %s", where.espd_socket.name)
    await Service(where.espd_socket).run(stop, sd_notify.ready)
    sd_notify.stopping()


def main() -> int:
    """Run until told to stop; the exit status says why it could not."""
    parser = argparse.ArgumentParser(prog="espd", description=__doc__)
    paths.add_arguments(parser)
    logs.add_arguments(parser)
    arguments = parser.parse_args()
    logs.set_up("espd", arguments.log_level, arguments.log_format)
    where = paths.from_arguments(arguments)
    try:
        paths.make_private(where.run)
        asyncio.run(serve(where))
    except paths.PathError as error:
        _log.error("%s", error)
        return 78
    except OSError as error:
        _log.error("espd cannot serve: %s", error.strerror or error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
