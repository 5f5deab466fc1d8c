"""Who this gateway is: its key, its certificate and the fleet CA, as enrolment left them.

The directory is replaced as a whole, so that there is never a key beside the certificate of another.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from agents.agentd.errors import NotEnrolledError
from agents.runtime.paths import make_private, sync_directory, write_private

_NEEDED = ("gateway.json", "key.pem", "certificate.pem", "fleet-ca.pem")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayIdentity:
    """The stored identity; the key stays in its file."""

    gateway_id: str
    gateway_name: str
    agent_port: int
    directory: Path

    @property
    def key(self) -> Path:
        """The private key, PEM, 0600."""
        return self.directory / "key.pem"

    @property
    def certificate(self) -> Path:
        """The certificate the fleet CA issued."""
        return self.directory / "certificate.pem"

    @property
    def fleet_ca(self) -> Path:
        """The CA that the console's client certificate must chain to."""
        return self.directory / "fleet-ca.pem"


def load(directory: Path) -> GatewayIdentity:
    """Read the stored identity; raises :class:`NotEnrolledError`."""
    _finish_interrupted(directory)
    for name in _NEEDED:
        if not (directory / name).is_file():
            raise NotEnrolledError("this gateway is not enrolled: run vpn-agent enrol with a token from the console")
    try:
        values = json.loads((directory / "gateway.json").read_bytes())
        return GatewayIdentity(
            gateway_id=str(values["gateway_id"]),
            gateway_name=str(values["gateway_name"]),
            agent_port=int(values["agent_port"]),
            directory=directory,
        )
    except (ValueError, KeyError, TypeError):
        raise NotEnrolledError("the stored identity is damaged: enrol this gateway again") from None


def store(
    directory: Path,
    *,
    gateway_id: str,
    gateway_name: str,
    agent_port: int,
    key_pem: bytes,
    certificate_pem: str,
    fleet_ca_pem: str,
) -> GatewayIdentity:
    """Put a new identity in the place of the old one."""
    incoming = directory.with_name(directory.name + ".new")
    shutil.rmtree(incoming, ignore_errors=True)
    make_private(incoming)
    names = {"gateway_id": gateway_id, "gateway_name": gateway_name, "agent_port": agent_port}
    write_private(incoming / "key.pem", key_pem)
    write_private(incoming / "certificate.pem", certificate_pem.encode())
    write_private(incoming / "fleet-ca.pem", fleet_ca_pem.encode())
    write_private(incoming / "gateway.json", json.dumps(names).encode())
    outgoing = directory.with_name(directory.name + ".old")
    shutil.rmtree(outgoing, ignore_errors=True)
    if directory.exists():
        directory.rename(outgoing)
    incoming.rename(directory)
    sync_directory(directory.parent)
    shutil.rmtree(outgoing, ignore_errors=True)
    return load(directory)


def _finish_interrupted(directory: Path) -> None:
    """Take the complete new directory when a replacement was cut off between its two renames."""
    incoming = directory.with_name(directory.name + ".new")
    if not directory.exists() and all((incoming / name).is_file() for name in _NEEDED):
        incoming.rename(directory)
