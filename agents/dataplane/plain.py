"""The driver protocol's values in plain form, as they travel on ``espd.sock`` (``docs/architecture.md``).

Parameters carry the names of the driver methods' own parameters: ``add_sa {"spec": ...}``, ``open_link {"link": ...}``,
``remove_sa {"sa": ...}``, ``update_mapping {"sa", "source", "destination", "encapsulation"}``. Results are
``list_sas -> {"sas": [...]}``, ``list_policies -> {"policies": [...]}``, ``queues -> {"queues": {tunnel id: [...]}}``,
``counts -> {"counts": [...]}``, ``features -> {"features": ...}`` and ``{}`` for the rest. The notification ``notice``
is ``{"kind": "expired", ...}``, ``ike`` is that of :class:`IkeDatagram`.

Ordinary values go through :mod:`agents.contract.codec`; here is only what its strict forms do not cover.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agents.contract.codec import from_plain, to_plain
from agents.contract.config import Mode
from agents.contract.errors import DocumentError
from agents.dataplane.base import Acquired, Expired, Features, Lost, Mapped, Notice, Rejected, Repaired, SaProtocol

_NOTICES: Mapping[str, type[Notice]] = {
    "expired": Expired,
    "acquired": Acquired,
    "mapped": Mapped,
    "rejected": Rejected,
    "repaired": Repaired,
    "lost": Lost,
}
_KINDS = {kind: name for name, kind in _NOTICES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class IkeDatagram:
    """An IKE message without non-ESP marker, as it came on (``ike``) or goes out of (``send_ike``) UDP 4500."""

    local_address: str
    remote_address: str
    remote_port: int
    datagram: bytes

    def to_plain(self) -> dict[str, Any]:
        """Return the parameters of ``ike`` and ``send_ike``; the datagram is Base64."""
        return {
            "local_address": self.local_address,
            "remote_address": self.remote_address,
            "remote_port": self.remote_port,
            "datagram": base64.b64encode(self.datagram).decode("ascii"),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> IkeDatagram:
        """Read :meth:`to_plain`; raises :class:`~agents.contract.errors.DocumentError`."""
        text = {name: plain.get(name) for name in ("local_address", "remote_address", "datagram")}
        for name, value in text.items():
            if not isinstance(value, str):
                raise DocumentError(name, "must be text")
        port = plain.get("remote_port")
        if not isinstance(port, int) or not 0 < port < 65536:
            raise DocumentError("remote_port", "must be a port")
        try:
            datagram = base64.b64decode(str(text["datagram"]), validate=True)
        except (binascii.Error, ValueError):
            raise DocumentError("datagram", "is not Base64") from None
        return cls(
            local_address=str(text["local_address"]),
            remote_address=str(text["remote_address"]),
            remote_port=port,
            datagram=datagram,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PathLimit:
    """The path of UDP 4500 between two addresses takes IP packets of this many octets at most (``too_big``)."""

    local_address: str
    remote_address: str
    remote_port: int
    packet_octets: int


def notice_to_plain(notice: Notice) -> dict[str, Any]:
    """Return a driver notice as the parameters of ``notice``."""
    return {"kind": _KINDS[type(notice)], **to_plain(notice)}


def notice_from_plain(plain: Mapping[str, Any]) -> Notice:
    """Read :func:`notice_to_plain`; raises :class:`~agents.contract.errors.DocumentError`."""
    kind = _NOTICES.get(str(plain.get("kind")))
    if kind is None:
        raise DocumentError("kind", "is not a kind of notice")
    notice: Notice = from_plain(kind, {name: value for name, value in plain.items() if name != "kind"})
    return notice


def features_to_plain(features: Features) -> dict[str, Any]:
    """Return ``Features`` with its sets as sorted lists."""
    return {
        "driver": features.driver,
        "available": features.available,
        "reason": features.reason,
        "encryptions": sorted(features.encryptions),
        "integrities": sorted(features.integrities),
        "modes": sorted(features.modes),
        "protocols": sorted(features.protocols),
        "extended_sequence_numbers": features.extended_sequence_numbers,
        "compression": features.compression,
        "plain_esp": features.plain_esp,
        "owns_port_4500": features.owns_port_4500,
    }


def features_from_plain(plain: Mapping[str, Any]) -> Features:
    """Read :func:`features_to_plain`; raises :class:`~agents.contract.errors.DocumentError` for a wrong shape."""
    try:
        return Features(
            driver=str(plain["driver"]),
            available=bool(plain["available"]),
            reason=str(plain["reason"]),
            encryptions=frozenset(map(str, plain["encryptions"])),
            integrities=frozenset(map(str, plain["integrities"])),
            modes=frozenset(map(Mode, plain["modes"])),
            protocols=frozenset(map(SaProtocol, plain["protocols"])),
            extended_sequence_numbers=bool(plain["extended_sequence_numbers"]),
            compression=bool(plain["compression"]),
            plain_esp=bool(plain["plain_esp"]),
            owns_port_4500=bool(plain["owns_port_4500"]),
        )
    except (KeyError, TypeError, ValueError):
        raise DocumentError("features", "is not complete") from None
