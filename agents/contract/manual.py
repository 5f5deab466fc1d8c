"""Tunnels with manual keys (RFC 4301 section 4.5.1): nothing is negotiated, rekeyed or asked after.

Each child has its SAs written down, one for each direction. The first selector of an access list is the only one that
counts with manual keys (seed 003 section 8.4), so a child has exactly one on each side.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from agents.contract import algorithms, carriage, check
from agents.contract.carriage import Carriage
from agents.contract.errors import FieldError
from agents.contract.secret import Secret
from agents.contract.traffic import Mode, TrafficSelector, unicast

MOST_CHILDREN = 8
_SPIS = (256, 2**32 - 1)
"""1 to 255 are reserved (RFC 4303 section 2.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualSa:
    """One direction: ESP where ``esp_spi`` is set, AH where ``ah_spi`` is set, ESP inside AH with both.

    Keys have exactly the octets their algorithm takes; an encryption key ends with the salt where the cipher has one.
    """

    esp_spi: int | None = None
    encryption: str | None = None
    encryption_key: Secret | None = None
    integrity: str | None = None
    integrity_key: Secret | None = None
    ah_spi: int | None = None
    ah_integrity: str | None = None
    ah_key: Secret | None = None

    def __post_init__(self) -> None:
        if self.esp_spi is None and self.ah_spi is None:
            raise FieldError("esp_spi", "is required where there is no AH")
        self._check_esp()
        self._check_ah()

    @property
    def protocols(self) -> tuple[str, ...]:
        """``esp``, ``ah`` or both, the inner one first."""
        esp = () if self.esp_spi is None else ("esp",)
        return esp if self.ah_spi is None else (*esp, "ah")

    def _check_esp(self) -> None:
        if self.esp_spi is None:
            for name in ("encryption", "encryption_key", "integrity", "integrity_key"):
                if getattr(self, name) is not None:
                    raise FieldError(name, "must be absent without an ESP SPI")
            return
        check.bounded("esp_spi", self.esp_spi, *_SPIS)
        if self.encryption is None:
            raise FieldError("encryption", "is required with an ESP SPI; null hides nothing")
        check.suite(self.encryption, self.integrity)
        cipher = algorithms.ENCRYPTION[self.encryption]
        if cipher.salt_octets:  # every cipher with a salt counts in its IV
            raise FieldError(
                "encryption",
                f"{self.encryption} must not be used with manual keys: its counter would begin anew with the same key "
                "(RFC 3686 section 2.1, RFC 4106 section 2)",
            )
        _key("encryption_key", self.encryption_key, cipher.keymat_octets, self.encryption)
        octets = 0 if self.integrity is None else algorithms.INTEGRITY[self.integrity].key_octets
        _key("integrity_key", self.integrity_key, octets, self.integrity or self.encryption)

    def _check_ah(self) -> None:
        if self.ah_spi is None:
            for name in ("ah_integrity", "ah_key"):
                if getattr(self, name) is not None:
                    raise FieldError(name, "must be absent without an AH SPI")
            return
        check.bounded("ah_spi", self.ah_spi, *_SPIS)
        if self.ah_integrity is None:
            raise FieldError("ah_integrity", "is required with an AH SPI")
        check.known("ah_integrity", self.ah_integrity, algorithms.INTEGRITY)
        _key("ah_key", self.ah_key, algorithms.INTEGRITY[self.ah_integrity].key_octets, self.ah_integrity)


def _key(field: str, key: Secret | None, octets: int, algorithm: str) -> None:
    if octets == 0:
        if key is not None:
            raise FieldError(field, f"must be absent: {algorithm} takes none")
    elif key is None:
        raise FieldError(field, f"is required: {octets} octets for {algorithm}")
    elif len(key) != octets:
        raise FieldError(field, f"must be {octets} octets for {algorithm}, not {len(key)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualChild:
    """The SAs for one pair of selectors. ``ipcomp`` compresses with the CPI that DEFLATE has (RFC 3173 section 3.3).

    Without a negotiation nothing renews the sequence numbers, so ``replay_window`` is 0 unless both ends are known to
    begin anew together (RFC 4303 section 3.3.3).
    """

    name: str
    local_ts: TrafficSelector
    remote_ts: TrafficSelector
    inbound: ManualSa
    outbound: ManualSa
    mode: Mode = Mode.TUNNEL
    replay_window: int = 0
    ipcomp: bool = False

    def __post_init__(self) -> None:
        check.slug("name", self.name)
        check.bounded("replay_window", self.replay_window, 0, 4096)
        if self.inbound.protocols != self.outbound.protocols:
            raise FieldError("outbound", "must have the same protocols as inbound")
        if self.local_ts.version != self.remote_ts.version:
            raise FieldError("remote_ts", "must be of the same IP version as local_ts")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualTunnel:
    """A tunnel whose SAs stand as long as the document has them; addresses are the outer ones."""

    id: str
    name: str
    local_address: str
    remote_address: str
    children: tuple[ManualChild, ...]
    enabled: bool = True
    mtu: int | None = None
    carriage: Carriage = carriage.DEFAULT

    def __post_init__(self) -> None:
        check.uuid("id", self.id)
        check.slug("name", self.name)
        unicast("local_address", self.local_address)
        unicast("remote_address", self.remote_address)
        if self.local_address == self.remote_address:
            raise FieldError("remote_address", "must be another address than local_address")
        if ipaddress.ip_address(self.local_address).version != ipaddress.ip_address(self.remote_address).version:
            raise FieldError("remote_address", "must be of the same IP version as local_address")
        check.count("children", self.children, MOST_CHILDREN)
        check.unique("children", [child.name for child in self.children])
        if self.mtu is not None:
            check.bounded("mtu", self.mtu, 256, 65_535)

    @property
    def local_addresses(self) -> tuple[str, ...]:
        """The one outer address of this end."""
        return (self.local_address,)

    def inbound_spis(self) -> list[tuple[str, int]]:
        """Return protocol and SPI of every inbound SA."""
        found: list[tuple[str, int]] = []
        for child in self.children:
            for protocol, spi in (("esp", child.inbound.esp_spi), ("ah", child.inbound.ah_spi)):
                if spi is not None:
                    found.append((protocol, spi))
        return found
