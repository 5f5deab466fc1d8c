"""Debian's strongSwan as a peer: one ``charon-systemd`` in a namespace, with a configuration of its own.

Nothing of ``/etc/strongswan.conf`` or ``/etc/swanctl`` is read. ESP is strongSwan's kernel-libipsec: a process with a
TUN ``ipsec0``, tunnel mode, always in UDP, so no ESP in the kernel is needed; ``kernel_esp=True`` uses the kernel's.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from deploy.lab.netns import LabError, Namespace, end_process, run
from deploy.lab.vici import Vici

_DAEMON = "/usr/sbin/charon-systemd"
_PLUGINS = (
    "random nonce aes sha1 sha2 md5 hmac mgf1 kdf gcm ccm ctr cmac xcbc chapoly curve25519 openssl pem pkcs1 pkcs8 "
    "x509 pubkey constraints revocation curl {esp} kernel-netlink socket-default vici updown"
)

_CONFIGURATION = """\
charon-systemd {{
  load_modular = no
  load = {plugins}
  install_virtual_ip = no
  retransmit_timeout = 1.0
  retransmit_tries = 4
  half_open_timeout = 20
  {settings}
  plugins {{
    vici {{ socket = unix://{vici} }}
    kernel-libipsec {{ allow_peer_ts = no }}
  }}
  filelog {{
    log {{
      path = {log}
      time_format = %H:%M:%S
      flush_line = yes
      default = {level}
    }}
  }}
  syslog {{ daemon {{ default = -1 }} auth {{ default = -1 }} }}
  journal {{ default = -1 }}
}}
swanctl {{ load = random openssl pem pkcs1 x509 }}
"""


def version() -> str:
    """Return the version of the installed strongSwan: ``swanctl`` names it in its help, without asking a daemon."""
    found = re.search(r"strongSwan (\S+) swanctl", run("swanctl", "--help"))
    return found[1] if found is not None else "of unknown version"


class StrongSwan:
    """One daemon. ``directory`` holds its configuration, log (``charon.log``) and control socket, and is made 0700.

    ``settings`` are further values of strongswan.conf's ``charon`` section.
    """

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        swanctl_conf: str = "connections {}\n",
        *,
        kernel_esp: bool = False,
        log_level: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.namespace = namespace
        self.directory = directory
        self.log = directory / "charon.log"
        self.vici_path = directory / "vici"
        self._swanctl_conf = swanctl_conf
        self._kernel_esp = kernel_esp
        self._log_level = log_level
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: socket.socket | None = None
        self._output: IO[bytes] | None = None

    def __enter__(self) -> StrongSwan:
        self.start()
        self.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The daemon's process, None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Write the configuration and start the daemon; :meth:`wait_ready` then loads connections and secrets."""
        if not Path(_DAEMON).exists():
            raise LabError("strongSwan is not installed: apt-get install charon-systemd strongswan-swanctl")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.vici_path.unlink(missing_ok=True)
        self._write("strongswan.conf", self._strongswan_conf())
        self._write("swanctl.conf", self._swanctl_conf)
        notify_path = self.directory / "ready"
        notify_path.unlink(missing_ok=True)
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(str(notify_path))
        self._output = (self.directory / "charon.out").open("ab")
        environment = self._environment() | {"NOTIFY_SOCKET": str(notify_path)}
        self._process = self.namespace.start(_DAEMON, log=self._output, environment=environment)

    def wait_ready(self, timeout_s: float = 20.0) -> None:
        """Wait until the daemon says it is ready, then load its connections and secrets. Raises LabError."""
        assert self._ready is not None, "start() comes first"
        self._ready.settimeout(timeout_s)
        try:
            while b"READY=1" not in self._ready.recv(4096):
                pass
        except TimeoutError:
            raise LabError(f"strongSwan in {self.namespace.name} did not start; see {self.log}") from None
        self.swanctl("--load-all", "--file", str(self.directory / "swanctl.conf"), "--noprompt")

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the daemon; it deletes its SAs first. Harmless when it does not run."""
        if self._process is not None:
            end_process(self._process, timeout_s)
            self._process = None
        for closable in (self._ready, self._output):
            if closable is not None:
                closable.close()
        self._ready = self._output = None

    def swanctl(self, *arguments: str) -> str:
        """Run ``swanctl`` against this daemon and return what it printed. Raises LabError with its words."""
        uri = f"unix://{self.vici_path}"
        pairs = [f"{name}={value}" for name, value in self._environment().items()]
        return run("env", *pairs, "swanctl", *arguments, "--uri", uri)

    def reload(self, swanctl_conf: str) -> None:
        """Replace connections and secrets by another ``swanctl.conf``."""
        self._swanctl_conf = swanctl_conf
        self._write("swanctl.conf", swanctl_conf)
        self.swanctl("--load-all", "--clear", "--file", str(self.directory / "swanctl.conf"), "--noprompt")

    def vici(self) -> Vici:
        """Open a control connection."""
        return Vici(self.vici_path)

    def _strongswan_conf(self) -> str:
        return _CONFIGURATION.format(
            plugins=_PLUGINS.format(esp="" if self._kernel_esp else "kernel-libipsec"),
            vici=self.vici_path,
            log=self.log,
            level=self._log_level,
            settings="\n  ".join(f"{name} = {value}" for name, value in self._settings.items()),
        )

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "STRONGSWAN_CONF": str(self.directory / "strongswan.conf"),
            "SWANCTL_DIR": str(self.directory),
        }

    def _write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text)


class FastStrongSwan(StrongSwan):
    """The fastest ciphers of Debian's packages in front, as Debian's own order has them: for measuring against."""

    def _strongswan_conf(self) -> str:
        plugins = " ".join(
            name for name in ("aesni", "openssl") if Path(f"/usr/lib/ipsec/plugins/libstrongswan-{name}.so").exists()
        )
        return super()._strongswan_conf().replace("load = random nonce aes", f"load = {plugins} random nonce aes", 1)
