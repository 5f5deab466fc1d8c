"""NAT detection (RFC 7296 section 2.23): the two hashes, and what differing hashes mean."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
from dataclasses import dataclass

from agents.ike.outputs import Entropy, Path
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Notify
from agents.ike.wire.registry import NotifyType


@dataclass(frozen=True, slots=True, kw_only=True)
class NatDetection:
    """Which end is behind a NAT, as far as the hashes tell; ``supported`` is False when the peer sent none.

    ``pretended`` means that this end asked for UDP encapsulation by a hash that matches nothing.
    """

    supported: bool
    local: bool
    remote: bool
    pretended: bool = False

    @property
    def encapsulates(self) -> bool:
        """Whether ESP travels in UDP."""
        return self.local or self.remote or self.pretended

    @property
    def ends(self) -> str:
        """Say for people which end is behind a NAT."""
        ends = [name for name, behind in (("this end", self.local), ("the peer", self.remote)) if behind]
        if not ends:
            return "this end asks for UDP encapsulation" if self.pretended else "no NAT"
        return f"{' and '.join(ends)} behind a NAT or asking for it"


def address_hash(spi_i: bytes, spi_r: bytes, address: str, port: int) -> bytes:
    """Return SHA-1 of SPIs, address and port. SHA-1 is what the RFC asks; nothing secret depends on it."""
    return hashlib.sha1(spi_i + spi_r + _packed(address) + port.to_bytes(2, "big"), usedforsecurity=False).digest()


@functools.lru_cache(maxsize=4096)
def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def notifies(spi_i: bytes, spi_r: bytes, path: Path, pretend: bool, entropy: Entropy) -> tuple[Notify, Notify]:
    """Return both notifies as the sender on this path sees itself and the other.

    ``pretend`` sends a source hash that matches nothing, so that the peer believes a NAT is in front of us and both
    ends use UDP encapsulation.
    """
    source = entropy.octets(20) if pretend else address_hash(spi_i, spi_r, path.local_address, path.local_port)
    destination = address_hash(spi_i, spi_r, path.remote_address, path.remote_port)
    return (
        Notify(type=NotifyType.NAT_DETECTION_SOURCE_IP, data=source),
        Notify(type=NotifyType.NAT_DETECTION_DESTINATION_IP, data=destination),
    )


def detect(message: Message, spi_i: bytes, spi_r: bytes, path: Path, pretend: bool = False) -> NatDetection:
    """Compare the hashes of a received message with where it came from; SPIs are those in that message's header.

    ``pretend`` says that our own hash asks for encapsulation, which counts only with a peer that knows the hashes.
    """
    sources = message.notifies(NotifyType.NAT_DETECTION_SOURCE_IP)
    destination = message.notify(NotifyType.NAT_DETECTION_DESTINATION_IP)
    if not sources or destination is None:
        return NatDetection(supported=False, local=False, remote=False)
    seen = address_hash(spi_i, spi_r, path.remote_address, path.remote_port)
    own = address_hash(spi_i, spi_r, path.local_address, path.local_port)
    return NatDetection(
        supported=True,
        local=destination.data != own,
        remote=all(each.data != seen for each in sources),
        pretended=pretend,
    )
