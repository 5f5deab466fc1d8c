"""What is kept of revocation data: answers until they are out of date, and the CRLs an operator put on the gateway."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from cryptography import x509

from agents.iked.credentials import crl
from agents.iked.credentials.crl import StatusError

_V = TypeVar("_V")
_log = logging.getLogger(__name__)
_LONGEST_KEPT_S = 86_400.0
_MOST_FILES = 64
_MOST_FILE_OCTETS = 8 * 1_048_576


class Kept(Generic[_V]):
    """Values by key, each until a moment of its own (Unix seconds, at most a day ahead), the oldest going first.

    ``most`` bounds the sum of the weights given to :meth:`put`.
    """

    def __init__(self, clock: Callable[[], float], most: int) -> None:
        self._clock = clock
        self._most = most
        self._weight = 0
        self._entries: OrderedDict[object, tuple[_V, float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: object) -> _V | None:
        """Return what is kept and still current."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[1] <= self._clock():
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: object, value: _V, until: float, weight: int = 1) -> None:
        """Keep a value; one that is out of date already or weighs more than all may is not kept."""
        self._drop(key)
        now = self._clock()
        if until <= now or weight > self._most:
            return
        self._entries[key] = (value, min(until, now + _LONGEST_KEPT_S), weight)
        self._weight += weight
        while self._weight > self._most:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: object) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._weight -= entry[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    stamp: tuple[int, ...]
    list: x509.CertificateRevocationList | None


class LocalLists:
    """The folder of an operator's CRLs, ``*.crl`` in DER or PEM; read again when a file changes. For any thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, _File] = {}
        self._lock = threading.Lock()

    def all(self) -> list[x509.CertificateRevocationList]:
        """Return every list that can be read, in the order of the file names; what cannot be read is left out."""
        with self._lock:
            try:
                names = sorted(each.name for each in self._directory.iterdir() if each.suffix == ".crl")[:_MOST_FILES]
            except OSError:
                names = []
            self._files = {name: self._file(name) for name in names}
            return [each.list for each in self._files.values() if each.list is not None]

    def _file(self, name: str) -> _File:
        nothing = _File(stamp=(), list=None)
        try:
            descriptor = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return nothing
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            stamp = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            known = self._files.get(name)
            if known is not None and known.stamp == stamp:
                return known
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_FILE_OCTETS:
                return nothing
            try:
                return _File(stamp=stamp, list=crl.read(file.read(_MOST_FILE_OCTETS)))
            except StatusError as error:
                _log.warning("%s is not used: %s", self._directory / name, error)
                return _File(stamp=stamp, list=None)
