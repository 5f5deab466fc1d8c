"""NAT detection and encapsulation of IKEv1 (RFC 3947 and the drafts 02 and 03).

::

    message 1, 2      VID(RFC 3947), VID(draft) ...
    message 3, 4      NAT-D(remote), NAT-D(local) ...     Aggressive Mode: messages 2 and 3
    Quick Mode 1, 2   NAT-OA(initiator), NAT-OA(responder)      in transport mode, each as the sender sees it

The hash is the one of the IKE suite. The drafts have other payload numbers and other encapsulation modes.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass

from agents.contract.config import Mode
from agents.ike.outputs import Entropy, Path
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import NatDetection as NatPayload
from agents.ike.wire.isakmp.payloads import NatOriginalAddress
from agents.ike.wire.isakmp.registry import EncapsulationMode, IdType


@dataclass(frozen=True, slots=True, kw_only=True)
class Nat:
    """Which end is behind a NAT; ``pretended`` means that we asked for UDP by a hash that matches nothing."""

    local: bool = False
    remote: bool = False
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


def address_hash(hash_name: str, cookie_i: bytes, cookie_r: bytes, address: str, port: int) -> bytes:
    """Return HASH(CKY-I | CKY-R | IP | Port) (RFC 3947 section 3.2)."""
    data = cookie_i + cookie_r + ipaddress.ip_address(address).packed + port.to_bytes(2, "big")
    return hashlib.new(hash_name, data, usedforsecurity=False).digest()


def payloads(
    hash_name: str, cookie_i: bytes, cookie_r: bytes, path: Path, *, draft: bool, pretend: bool, entropy: Entropy
) -> tuple[NatPayload, NatPayload]:
    """Return both hashes, the remote end's first; ``pretend`` sends one for us that matches nothing."""
    remote = address_hash(hash_name, cookie_i, cookie_r, path.remote_address, path.remote_port)
    local = address_hash(hash_name, cookie_i, cookie_r, path.local_address, path.local_port)
    if pretend:
        local = entropy.octets(len(local))
    return NatPayload(data=remote, draft=draft), NatPayload(data=local, draft=draft)


def detect(message: Message, hash_name: str, cookie_i: bytes, cookie_r: bytes, path: Path, pretend: bool) -> Nat | None:
    """Compare the hashes received with where the message came from; None when the peer sent none."""
    found = message.find_all(NatPayload)
    if len(found) < 2:
        return None
    own = address_hash(hash_name, cookie_i, cookie_r, path.local_address, path.local_port)
    seen = address_hash(hash_name, cookie_i, cookie_r, path.remote_address, path.remote_port)
    return Nat(local=found[0].data != own, remote=all(each.data != seen for each in found[1:]), pretended=pretend)


def encapsulation_mode(mode: Mode, in_udp: bool, draft: bool) -> EncapsulationMode:
    """Return the number of a mode (RFC 2407 section 4.5, RFC 3947 section 5.1)."""
    if not in_udp:
        return EncapsulationMode.TUNNEL if mode is Mode.TUNNEL else EncapsulationMode.TRANSPORT
    if mode is Mode.TUNNEL:
        return EncapsulationMode.UDP_TUNNEL_DRAFT if draft else EncapsulationMode.UDP_TUNNEL
    return EncapsulationMode.UDP_TRANSPORT_DRAFT if draft else EncapsulationMode.UDP_TRANSPORT


def original_addresses(path: Path, *, initiator: bool, draft: bool) -> tuple[NatOriginalAddress, NatOriginalAddress]:
    """Return both ends' addresses as we see them, the initiator's of this Quick Mode first (RFC 3947 section 5.2)."""
    ends = (path.local_address, path.remote_address) if initiator else (path.remote_address, path.local_address)
    first, second = (ipaddress.ip_address(each) for each in ends)
    return _original(first, draft), _original(second, draft)


def _original(address: ipaddress.IPv4Address | ipaddress.IPv6Address, draft: bool) -> NatOriginalAddress:
    id_type = IdType.IPV4_ADDR if address.version == 4 else IdType.IPV6_ADDR
    return NatOriginalAddress(id_type=id_type, data=address.packed, draft=draft)


def read_original(message: Message, *, initiator: bool) -> tuple[str, str] | None:
    """Return our address and the peer's as the peer sees them; None where it does not say both.

    ``initiator`` says whether the Quick Mode is ours.
    """
    found = [str(ipaddress.ip_address(each.data)) for each in message.find_all(NatOriginalAddress)]
    if len(found) != 2:
        return None
    return (found[0], found[1]) if initiator else (found[1], found[0])
