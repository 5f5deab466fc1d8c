"""A real broker on a private socket for one test."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vpnconsole.lib import broker


@contextmanager
def running_broker(directory: Path) -> Iterator[Path]:
    """Start the server the console would start; yields its socket."""
    socket_path = directory / "broker.sock"
    process = subprocess.Popen(broker.server_command(socket_path, directory), stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not broker.answers(socket_path):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield socket_path
    finally:
        process.terminate()
        process.wait(10)
