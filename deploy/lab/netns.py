"""Network namespaces and the links between them, by ``ip`` and ``nsenter``.

A :class:`Namespace` is named ``<prefix>-<role>``, or just ``<role>`` with an empty prefix. Tests mark what is theirs by
the prefix, and :func:`sweep` removes what an earlier run with that prefix left, processes included, and nothing else;
the demo keeps a record of the namespaces it made (:attr:`Namespace.identity`).
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

NETNS_DIRECTORY = Path("/run/netns")
WITH_PARENT = ("setpriv", "--pdeathsig", "TERM", "--")
"""Put before a command: it gets SIGTERM when the thread that started it ends, also by ``kill -9``."""


class LabError(Exception):
    """The lab could not be built; the text is one sentence for the person at the terminal."""


def end_process(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Ask a process to end, and end it when it has not within ``timeout_s``."""
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(*arguments: str, check: bool = True, input_text: str | None = None) -> str:
    """Run a command to its end and return what it printed; raises :class:`LabError` with its own words."""
    done = subprocess.run(arguments, capture_output=True, text=True, input=input_text, check=False)
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(arguments)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Namespace:
    """One network namespace; ``role`` is its name for people, ``name`` that of ``ip netns``."""

    prefix: str
    role: str
    links: list[str] = field(default_factory=list, compare=False)

    @property
    def name(self) -> str:
        """The name under ``/run/netns``."""
        return f"{self.prefix}-{self.role}" if self.prefix else self.role

    @property
    def path(self) -> Path:
        """The file that ``setns`` takes."""
        return NETNS_DIRECTORY / self.name

    @property
    def identity(self) -> str | None:
        """Device and inode of the namespace now under this name, None where there is none."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return f"{status.st_dev}:{status.st_ino}"

    def create(self) -> None:
        """Make the namespace with its loopback up."""
        # Not `ip netns add`: it goes back to the namespace it came from, which an unprivileged user may not enter.
        NETNS_DIRECTORY.mkdir(parents=True, exist_ok=True)
        self.path.touch(exist_ok=False)
        run("unshare", f"--net={self.path}", "--", "true")
        self.ip("link", "set", "lo", "up")

    def remove(self) -> None:
        """End the processes inside and remove the namespace; it need not exist."""
        if not self.path.exists():
            return
        for pid in self.pids():
            _kill(pid, signal.SIGKILL)
        run("ip", "netns", "delete", self.name, check=False)

    def pids(self) -> list[int]:
        """Return the processes whose network namespace this is."""
        try:
            ours = self.path.stat()
        except FileNotFoundError:
            return []
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and entry.name != str(os.getpid()):
                try:
                    theirs = (entry / "ns/net").stat()
                except OSError:
                    continue
                if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino):
                    found.append(int(entry.name))
        return found

    def ip(self, *arguments: str, check: bool = True) -> str:
        """Run ``ip`` on this namespace."""
        return run("ip", "-n", self.name, *arguments, check=check)

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the argument list that runs ``arguments`` inside."""
        return ["nsenter", f"--net={self.path}", "--", *arguments]

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run a command inside to its end and return what it printed."""
        return run(*self.command(arguments), check=check)

    def start(
        self,
        *arguments: str,
        log: IO[Any] | None = None,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command inside in its own session, its output to ``log``; it ends with the thread that starts it."""
        return subprocess.Popen(
            [*WITH_PARENT, *self.command(arguments)],
            stdin=subprocess.DEVNULL,
            stdout=log or subprocess.DEVNULL,
            stderr=subprocess.STDOUT if log else subprocess.DEVNULL,
            env=dict(environment) if environment is not None else None,
            cwd=cwd,
            start_new_session=True,
        )

    def sysctl(self, name: str, value: str | int) -> None:
        """Set one ``net.*`` value inside."""
        path = "/proc/sys/" + name.replace(".", "/")
        self.run("sh", "-c", 'printf %s "$1" > "$2"', "sh", str(value), path)

    def forward(self) -> None:
        """Let the namespace route between its links, without reverse path filtering or redirects."""
        self.sysctl("net.ipv4.ip_forward", 1)
        self.sysctl("net.ipv6.conf.all.forwarding", 1)
        self.sysctl("net.ipv4.conf.all.rp_filter", 0)
        self.sysctl("net.ipv4.conf.default.rp_filter", 0)
        self.sysctl("net.ipv4.conf.all.send_redirects", 0)


def connect(
    left: Namespace, left_link: str, left_addresses: Sequence[str],
    right: Namespace, right_link: str, right_addresses: Sequence[str],
) -> None:  # fmt: skip
    """Join two namespaces by a veth pair with these addresses (``192.0.2.1/24``), both ends up."""
    left.ip("link", "add", left_link, "type", "veth", "peer", "name", right_link, "netns", right.name)
    for namespace, link, addresses in ((left, left_link, left_addresses), (right, right_link, right_addresses)):
        for address in addresses:
            no_dad = ("nodad",) if ":" in address else ()
            namespace.ip("address", "add", address, "dev", link, *no_dad)
        namespace.ip("link", "set", link, "up")
        namespace.links.append(link)


def sweep(prefix: str) -> list[str]:
    """Remove every namespace named ``prefix-...`` with its processes; returns the names that were there."""
    if not NETNS_DIRECTORY.is_dir():
        return []
    left = sorted(path.name for path in NETNS_DIRECTORY.iterdir() if path.name.startswith(f"{prefix}-"))
    for name in left:
        Namespace(prefix, name.removeprefix(f"{prefix}-")).remove()
    return left


def _kill(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
