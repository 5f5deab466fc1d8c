"""The kernel's own counters of what XFRM did with packets: ``/proc/net/xfrm_stat``."""

from __future__ import annotations

import errno
import os

from agents.contract.status import NamedCount
from agents.dataplane.base import DataplaneError

_PATH = "/proc/thread-self/net/xfrm_stat"
"""Of the calling thread's network namespace, which need not be the process's."""
_MOST_OCTETS = 16 * 1024


class Statistics:
    """The counters of the network namespace this is made in; a kernel without them has none to tell.

    They are since the namespace began and of all its XFRM, that of others too: the kernel does not tell them apart.
    """

    def __init__(self) -> None:
        try:
            self._file: int | None = os.open(_PATH, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # built without CONFIG_XFRM_STATISTICS
            self._file = None

    def read(self) -> tuple[NamedCount, ...]:
        """Return every counter under the kernel's name; raises :class:`DataplaneError`."""
        if self._file is None:
            return ()
        try:
            text = os.pread(self._file, _MOST_OCTETS, 0).decode("ascii")
        except OSError as error:
            raise DataplaneError("counts", _PATH, error.errno or errno.EIO, error.strerror or str(error)) from None
        pairs = (line.split() for line in text.splitlines())
        return tuple(NamedCount(name=name, count=int(count)) for name, count in pairs)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
