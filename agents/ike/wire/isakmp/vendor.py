"""Vendor IDs (RFC 2408 section 3.16): what a peer can do beyond the RFCs, and what it is.

Most are the MD5 of a name, so names stand here and the octets are computed. Some carry a version behind it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a vendor ID is good for."""

    NAT_T_RFC = "nat-t-rfc"
    NAT_T_DRAFT = "nat-t-draft"
    DPD = "dpd"
    FRAGMENTATION = "fragmentation"
    EXTENSION = "extension"
    """Something the peer can do and we do not speak."""
    OTHER = "other"
    """Who made the peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """Who or what a vendor ID stands for."""

    name: str
    kind: Kind = Kind.OTHER


def _md5(name: str) -> bytes:
    return hashlib.md5(name.encode(), usedforsecurity=False).digest()


NAT_T_RFC = _md5("RFC 3947")
NAT_T_DRAFT_03 = _md5("draft-ietf-ipsec-nat-t-ike-03")
NAT_T_DRAFT_02 = _md5("draft-ietf-ipsec-nat-t-ike-02")
NAT_T_DRAFT_02_N = _md5("draft-ietf-ipsec-nat-t-ike-02\n")
"""As most send it: the newline was in the file that was hashed."""
DPD = bytes.fromhex("afcad71368a1f1c96b8696fc77570100")
"""RFC 3706 section 5.1: 14 octets of a hash, and version 1.0."""
FRAGMENTATION = _md5("FRAGMENTATION") + bytes.fromhex("c0000000")
"""With what Microsoft adds: fragments in Main Mode (the first bit) and in Aggressive Mode (the second)."""

NAT_T = (NAT_T_RFC, NAT_T_DRAFT_03, NAT_T_DRAFT_02_N, NAT_T_DRAFT_02)
"""What a gateway that traverses NATs sends, best first."""

_DRAFT = "draft-ietf-ipsec-nat-t-ike"

# Of the drafts, 00 and 01 stay on port 500, and 04 to 08 number their payloads in yet another way: no peer needs those
# that has the RFC, 03 or 02.
_SPOKEN_DRAFTS = (f"{_DRAFT}-02", f"{_DRAFT}-02\n", f"{_DRAFT}-03")
_NAMES = (
    *(_DRAFT if number is None else f"{_DRAFT}-{number:02}" for number in (None, 0, 1, 4, 5, 6, 7, 8, 9)),
    "draft-stenberg-ipsec-nat-traversal-01",
    "draft-stenberg-ipsec-nat-traversal-02",
    "draft-huttunen-ipsec-esp-in-udp-00.txt",
    "ESPThruNAT",
    "Testing NAT-T RFC",
    "RFC XXXX",
    "MS-MamieExists",
    "MS-Negotiation Discovery Capable",
    "IKE CGA version 1",
    "NLBS_PRESENT",
    "GSSAPI",
    "A GSS-API Authentication Method for IKE",
    "A GSS-API Authentication Method for IKE\n",
)
_MAKERS = ("KAME/racoon", "strongSwan")
"""Names whose MD5 is the whole vendor ID. A strongSwan that says its version does so too, in a name for each."""

_STRONGSWAN = tuple(
    f"{series}.{patch}"
    for series, patches in {
        "4.0": 8,
        "4.1": 12,
        "4.2": 10,
        "4.3": 8,
        "4.4": 2,
        "4.5": 4,
        "4.6": 5,
        "5.0": 5,
        "5.1": 4,
        "5.2": 3,
        "5.3": 6,
    }.items()
    for patch in range(patches)
)
_QUICKSEC = ("0.9.0", "1.1.0", "1.1.1", "1.1.2", "1.1.3", "2.1.0")

_WHOLE: dict[bytes, Vendor] = {
    NAT_T_RFC: Vendor(name="RFC 3947 NAT-T", kind=Kind.NAT_T_RFC),
    **{_md5(name): Vendor(name=name.strip(), kind=Kind.NAT_T_DRAFT) for name in _SPOKEN_DRAFTS},
    **{_md5(f"strongSwan {version}"): Vendor(name=f"strongSwan {version}") for version in _STRONGSWAN},
    **{
        _md5(f"SSH Communications Security QuickSec {version}"): Vendor(name=f"SSH QuickSec {version}")
        for version in _QUICKSEC
    },
    **{_md5(name): Vendor(name=name.strip(), kind=Kind.EXTENSION) for name in _NAMES},
    **{_md5(name): Vendor(name=name) for name in _MAKERS},
    _md5("Vid-Initial-Contact"): Vendor(name="Microsoft Initial-Contact", kind=Kind.EXTENSION),
    _md5("ALTIGA NETWORKS"): Vendor(name="VPN-3000-client"),
}

_WINDOWS = _md5("MS NT5 ISAKMPOAKLEY")
_SONICWALL = bytes.fromhex("5b362bc820f6")

_STARTS: tuple[tuple[bytes, Vendor], ...] = (
    (DPD, Vendor(name="Dead Peer Detection v1.0", kind=Kind.DPD)),
    (DPD[:14], Vendor(name="Dead Peer Detection", kind=Kind.EXTENSION)),  # of a version unknown
    (_md5("FRAGMENTATION"), Vendor(name="IKE Fragmentation", kind=Kind.FRAGMENTATION)),
    (_md5("draft-ietf-ipsra-isakmp-xauth-06.txt")[:8], Vendor(name="XAUTH", kind=Kind.EXTENSION)),
    (_md5("CISCO-UNITY")[:14] + b"\x01\x00", Vendor(name="Cisco Unity")),
    (_md5("ALTIGA GATEWAY")[:13], Vendor(name="Cisco VPN Concentrator")),
    (_WINDOWS + bytes.fromhex("00000002"), Vendor(name="Windows-2000")),
    (_WINDOWS + bytes.fromhex("00000003"), Vendor(name="Windows-XP-SP1")),
    (_WINDOWS + bytes.fromhex("00000004"), Vendor(name="Windows-2003-or-XP-SP2")),
    (_WINDOWS + bytes.fromhex("00000005"), Vendor(name="Windows-Vista")),
    (_WINDOWS + bytes.fromhex("00000006"), Vendor(name="Windows-2008")),
    (_WINDOWS + bytes.fromhex("00000007"), Vendor(name="Windows-7")),
    (_WINDOWS + bytes.fromhex("00000008"), Vendor(name="Windows-2008-R2")),
    (_WINDOWS + bytes.fromhex("00000009"), Vendor(name="Windows-8")),
    (_WINDOWS, Vendor(name="Windows")),
    (bytes.fromhex("f4ed19e0c114eb516faaac0ee37daf2807b4381f"), Vendor(name="Firewall-1")),
    (bytes.fromhex("47bbe7c993f1fc13b4e6d0db565c68e5"), Vendor(name="SafeNet SoftRemote")),
    (bytes.fromhex("1d6e178f6c2c0be284985465450fe9d4"), Vendor(name="FortiGate")),
    (bytes.fromhex("b858d1addd08c1e8adafea150608aa4497aa6cc8"), Vendor(name="ZyXEL ZyWALL Router")),
    (bytes.fromhex("f758f22668750f03b08df6ebe1d0"), Vendor(name="ZyXEL ZyWALL USG 100")),
    (bytes.fromhex("625027749d5ab97f5616c1602765cf480a3b7d0b"), Vendor(name="ZyXEL ZyWALL")),
    (_SONICWALL, Vendor(name="SonicWall")),
    (bytes.fromhex("dbfb81eb5760b0788562067da102d755"), Vendor(name="Netgear")),
    (b"HeartBeat_Notify", Vendor(name="HeartBeat_Notify", kind=Kind.EXTENSION)),
    (b"HeartBeat Notify", Vendor(name="HeartBeat Notify", kind=Kind.EXTENSION)),
    (b"BNES\x00\x00\x00", Vendor(name="Nortel Contivity")),
    (b"TIMESTEP", Vendor(name="Timestep")),
    (b"Raptor PowerVpn Server", Vendor(name="Symantec-Raptor")),
    (b"Mac OSX 10.x", Vendor(name="MacOS 10.x")),
    (b"OpenPGP", Vendor(name="OpenPGP")),
    (b"OE-Libreswan-", Vendor(name="Libreswan")),
)

# FreeS/WAN's heirs send letters in place of octets: which of them is in the first, which version in the rest.
_HEIR_OCTETS = 12
_HEIRS = (
    (b"OEN", Vendor(name="Libreswan")),
    (b"OSW", Vendor(name="Openswan")),
    (b"OE", Vendor(name="FreeS/WAN or Openswan")),
)


def recognise(data: bytes) -> Vendor | None:
    """Return what a vendor ID stands for, or None."""
    whole = _WHOLE.get(data)
    if whole is not None:
        return whole
    for start, vendor in _STARTS:
        if data.startswith(start):
            return vendor
    if len(data) == _HEIR_OCTETS:
        for start, vendor in _HEIRS:
            if data.startswith(start):
                return vendor
    return None
