"""Where an agent keeps things: the state directory (survives a reboot) and the run directory (sockets)."""

from __future__ import annotations

import argparse
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

DEFAULT_STATE = Path("/var/lib/vpn-agent")
DEFAULT_RUN = Path("/run/vpn-agent")
STATE_VARIABLE = "VPN_AGENT_STATE"
RUN_VARIABLE = "VPN_AGENT_RUN"
_LONGEST_SOCKET_PATH = 107
"""``sun_path`` has room for 108 octets with the terminating zero."""


class PathError(Exception):
    """A directory cannot be used; the text is one sentence for the person who started the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """The two directories of one agent and the names inside them."""

    state: Path
    run: Path

    @property
    def agentd_socket(self) -> Path:
        """What the command lines use."""
        return self.run / "agentd.sock"

    @property
    def iked_socket(self) -> Path:
        """Where ``iked`` is configured and asked."""
        return self.run / "iked.sock"

    @property
    def espd_socket(self) -> Path:
        """The userspace data plane."""
        return self.run / "espd.sock"

    @property
    def identity(self) -> Path:
        """The directory of the gateway's key, certificate and fleet CA."""
        return self.state / "identity"

    @property
    def document(self) -> Path:
        """The accepted gateway document."""
        return self.state / "document.json"

    @property
    def kept_filter(self) -> Path:
        """The packet filter that was applied last, for the next start."""
        return self.state / "filter.json"

    @property
    def journal(self) -> Path:
        """The directory of the event journal."""
        return self.state / "journal"

    @property
    def captures(self) -> Path:
        """The directory of the packet captures, 0700."""
        return self.state / "captures"

    @property
    def keys(self) -> Path:
        """The directory of the private keys that tunnels sign with, 0700."""
        return self.state / "keys"

    @property
    def crls(self) -> Path:
        """The directory of the CRLs an operator has put here, for CAs that publish none this gateway can reach."""
        return self.state / "crls"

    def prepare(self) -> None:
        """Make both directories, 0700; raises :class:`PathError` when one is not ours alone or names get too long."""
        for directory in (self.state, self.run):
            make_private(directory)
        if len(os.fsencode(self.agentd_socket.resolve())) > _LONGEST_SOCKET_PATH:
            raise PathError(f"{self.run} is too long a path for a socket inside it: use a shorter run directory")


def make_private(directory: Path) -> None:
    """Create ``directory`` with mode 0700, or take one that belongs to this user and close it to others."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        if status.st_uid != os.geteuid():
            raise PathError(f"{directory} belongs to another user")
        if stat.S_IMODE(status.st_mode) != 0o700:
            directory.chmod(0o700)
    except OSError as error:
        raise PathError(f"{directory}: {os.strerror(error.errno or 0)}") from None


def write_private(path: Path, octets: bytes) -> None:
    """Replace ``path`` in one step with a 0600 file that is on the disk when this returns."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(octets)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    sync_directory(path.parent)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` for the length of the block; raises :class:`PathError` when another process does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PathError(f"an agent is running with {path.parent} already") from None
        yield
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Put a directory's entries on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--state`` and ``--run``; their defaults are the environment's or the system's directories."""
    state = os.environ.get(STATE_VARIABLE, str(DEFAULT_STATE))
    run = os.environ.get(RUN_VARIABLE, str(DEFAULT_RUN))
    parser.add_argument("--state", type=Path, default=Path(state), help=f"state directory (default: {state})")
    parser.add_argument("--run", type=Path, default=Path(run), help=f"run directory (default: {run})")


def from_arguments(arguments: argparse.Namespace) -> Paths:
    """Return the paths that :func:`add_arguments` read."""
    return Paths(state=arguments.state, run=arguments.run)
