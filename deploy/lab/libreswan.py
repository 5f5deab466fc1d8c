"""Debian's Libreswan as a peer: one ``pluto`` in a namespace, out of a folder that its packages were unpacked into.

Its package conflicts with strongSwan's, so ``deploy/setup/libreswan.sh`` unpacks it instead of installing it. Nothing
of ``/etc/ipsec.conf`` or ``/var/lib/ipsec`` is read. ESP is the kernel's, so this takes a kernel with ESP.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from deploy.lab.netns import LabError, Namespace, end_process

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "libreswan"
_PROGRAMS = FOLDER / "usr/libexec/ipsec"
_LIBRARIES = FOLDER / "usr/lib/x86_64-linux-gnu"
PASSWORD = "in transit"
"""Of the PKCS #12 files that bring private keys into a daemon's database."""

_SETUP = "config setup\n  ikev1-policy=accept\n"
_IN_PLACE = 'mount -t tmpfs none /usr/libexec && ln -s "$0" /usr/libexec/ipsec && exec "$@"'
"""``pluto`` insists on its helpers' installed path: it gets that in a mount namespace of its own."""


def missing() -> str | None:
    """Return why it cannot be used here, or None."""
    wanted = (_PROGRAMS / "pluto", _PROGRAMS / "whack", _PROGRAMS / "addconn", FOLDER / "usr/bin/certutil")
    if all(path.exists() for path in wanted):
        return None
    return f"Libreswan is not unpacked in {FOLDER}: sh deploy/setup/libreswan.sh"


def version() -> str:
    """Return the version of the unpacked ``pluto``."""
    done = subprocess.run(
        [_PROGRAMS / "pluto", "--version"], capture_output=True, text=True, check=False, env=_environment()
    )
    return done.stdout.split()[1]


class Libreswan:
    """One daemon. ``directory`` holds its configuration, keys, log (``pluto.log``) and control socket, made 0700."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.namespace = namespace
        self.directory = directory
        self.log = directory / "pluto.log"
        self._socket = directory / "pluto.ctl"
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def start(
        self,
        secrets: str,
        timeout_s: float = 20.0,
        *,
        identities: Sequence[bytes] = (),
        authorities: Mapping[str, bytes] | None = None,
    ) -> None:
        """Start the daemon with these contents of ``ipsec.secrets`` and let it listen. Raises LabError.

        ``identities`` are PKCS #12 files with the password :data:`PASSWORD`, ``authorities`` trusted CAs by nickname in
        DER. Both IKE versions are spoken.
        """
        reason = missing()
        if reason is not None:
            raise LabError(reason)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("nss", "ipsec.d"):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        self._write("ipsec.secrets", secrets)
        self._write("ipsec.conf", _SETUP)
        self._fill_database(identities, authorities or {})
        self._output = (self.directory / "pluto.out").open("ab")
        self._process = self.namespace.start(
            "unshare", "--mount", "sh", "-c", _IN_PLACE, str(_PROGRAMS), str(_PROGRAMS / "pluto"),
            "--nofork", "--no-dnssec", "--uniqueids",
            "--config", str(self.directory / "ipsec.conf"), "--ipsecdir", str(self.directory / "ipsec.d"),
            "--nssdir", str(self.directory / "nss"), "--secretsfile", str(self.directory / "ipsec.secrets"),
            "--rundir", str(self.directory), "--logfile", str(self.log),
            log=self._output, environment=_environment(),
        )  # fmt: skip
        ends = time.monotonic() + timeout_s
        while not self._socket.exists():
            if self._process.poll() is not None or time.monotonic() > ends:
                raise LabError(f"Libreswan in {self.namespace.name} did not start; see {self.log}")
            time.sleep(0.05)  # a Unix socket's appearance is no event without inotify
        self.whack("--listen")

    def stop(self, timeout_s: float = 2.0) -> None:
        """End the daemon, which is given a moment to delete its SAs. Harmless when it does not run."""
        if self._process is not None:
            end_process(self._process, timeout_s)
            self._process = None
        if self._output is not None:
            self._output.close()
            self._output = None

    def add(self, name: str, connection: str) -> None:
        """Load one connection: the lines of its ``conn`` section. Raises LabError."""
        indented = "".join(f"  {line}\n" for line in connection.splitlines())
        self._write("ipsec.conf", f"{_SETUP}\nconn {name}\n{indented}")
        where = ("--config", str(self.directory / "ipsec.conf"), "--ctlsocket", str(self._socket))
        self._run(_PROGRAMS / "addconn", *where, name)

    def whack(self, *arguments: str) -> str:
        """Tell the daemon something and return its words. Raises LabError with them where it did not succeed."""
        return self._run(_PROGRAMS / "whack", "--ctlsocket", str(self._socket), *arguments)

    def _fill_database(self, identities: Sequence[bytes], authorities: Mapping[str, bytes]) -> None:
        database = ("-d", f"sql:{self.directory / 'nss'}")
        certutil, pk12util = FOLDER / "usr/bin/certutil", FOLDER / "usr/bin/pk12util"
        self._run(certutil, "-N", *database, "--empty-password")
        for name, certificate in authorities.items():
            path = self._write(f"{name}.der", certificate)
            self._run(certutil, "-A", *database, "-n", name, "-t", "CT,,", "-i", str(path))
        for number, identity in enumerate(identities):
            path = self._write(f"identity-{number}.p12", identity)
            self._run(pk12util, "-i", str(path), *database, "-W", PASSWORD, "-K", "")

    def _run(self, program: Path, *arguments: str) -> str:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, check=False, env=_environment(), timeout=30
        )
        if done.returncode != 0:
            raise LabError(f"{program.name} {' '.join(arguments)}: {done.stdout}{done.stderr}".strip())
        return done.stdout

    def _write(self, name: str, content: str | bytes) -> Path:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LD_LIBRARY_PATH": str(_LIBRARIES)}
