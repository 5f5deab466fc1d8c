"""``iked`` as shipped, with userspace ESP, that notes a fingerprint of every key it installs.

A key of an SA must never be installed a second time: its sequence numbers, and with GCM its IVs, would begin anew.
Fingerprints are keyed with octets of this process that nobody else has, so they tell nothing of a key but whether it
was there before. Keys of manual tunnels are the document's and not looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
from pathlib import Path
from typing import TextIO

from agents.dataplane.base import SaSpec
from agents.dataplane.fake import FakeDriver
from agents.iked.daemon import serve, settle_memory
from agents.iked.planes import Planes
from agents.iked.userspace_driver import UserspaceDriver
from agents.runtime import logs
from agents.runtime.paths import Paths

_BLIND = os.urandom(32)


class Recording(UserspaceDriver):
    """Writes a line for each SA with a key to ``file``: direction, SPI, fingerprint."""

    def __init__(self, socket_path: Path, file: TextIO) -> None:
        super().__init__(socket_path)
        self._file = file

    async def add_sa(self, spec: SaSpec) -> None:
        """Note the key, then install the SA."""
        if spec.encryption_key is not None and spec.limits.hard_s:
            fingerprint = hashlib.blake2b(spec.encryption_key.reveal(), key=_BLIND, digest_size=16).hexdigest()
            self._file.write(f"{spec.direction} {spec.spi:08x} {fingerprint}\n")
            self._file.flush()
        await super().add_sa(spec)


def installed_twice(file: Path) -> list[str]:
    """Return the lines whose key was installed before."""
    seen: set[str] = set()
    again = []
    for line in file.read_text().splitlines():
        fingerprint = line.rpartition(" ")[2]
        if fingerprint in seen:
            again.append(line)
        seen.add(fingerprint)
    return again


def main() -> None:
    """Be ``iked`` until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--run", "--state", "--keys"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    logs.set_up("iked", "error")
    settle_memory()
    paths = Paths(state=options.state, run=options.run)
    with options.keys.open("w") as file:
        asyncio.run(serve(paths, Planes(FakeDriver, lambda: Recording(paths.espd_socket, file))))


if __name__ == "__main__":
    main()
