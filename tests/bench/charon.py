"""strongSwan's charon on one core as the responder of :mod:`tests.bench.handshakes`, in the present namespace.

Its ESP is kernel-libipsec, in its own process and without policies and routes, as near to our data plane in memory as
it has; DoS protection is off, since all initiators come at once. Everything else is Debian's default.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.lab.netns import Namespace
from deploy.lab.strongswan import StrongSwan

_CONNECTION = """\
connections {{
  bench {{
    version = 2
    local_addrs = {address}
    mobike = no
    proposals = aes128gcm16-prfsha256-curve25519, aes128gcm16-prfsha256-modp2048
    local {{
      auth = psk
      id = {address}
    }}
    remote {{
      auth = psk
    }}
    children {{
      net {{
        local_ts = 10.1.0.0/24
        remote_ts = 10.0.0.0/8
        esp_proposals = aes128gcm16
        policies = no
      }}
    }}
  }}
}}
secrets {{
  ike-bench {{
    secret = "{secret}"
  }}
}}
"""


class _Here(Namespace):
    """The namespace this process is in, its commands kept on one core."""

    __slots__ = ()
    cpu = "0"

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the argument list that runs ``arguments``."""
        return ["taskset", "-c", self.cpu, *arguments]


def missing() -> str | None:
    """Return why charon cannot be measured, None when it can."""
    return None if Path("/usr/sbin/charon-systemd").exists() else "strongSwan is not installed"


@contextlib.contextmanager
def responder(address: str, secret: bytes, cpu: int) -> Iterator[int]:
    """Run charon on ``cpu``; yields its pid."""
    _Here.cpu = str(cpu)
    settings = {"dos_protection": "no", "install_routes": "no"}
    configuration = _CONNECTION.format(address=address, secret=secret.decode("ascii"))
    with tempfile.TemporaryDirectory(prefix="vpn-bench-") as name:
        daemon = StrongSwan(_Here("", "here"), Path(name), configuration, log_level=0, settings=settings)
        with daemon:
            assert daemon.pid is not None, "it said it was ready"
            yield daemon.pid
