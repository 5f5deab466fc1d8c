"""What each end says of its SAs, brought to one form so that the two can be compared octet for octet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from agents.contract.status import TunnelStatus
from deploy.lab.vici import Message
from tests.interop.words import ENCRYPTION, INTEGRITY, KEY_EXCHANGE, PSEUDO_RANDOM

View = frozenset[tuple[str, ...]]
"""One tuple per SA: its kind (with the IKE version), its SPIs, its algorithms in strongSwan's words."""


def ours(status: TunnelStatus) -> View:
    """Return what our daemon reports of one tunnel."""
    rows: list[tuple[str, ...]] = []
    for ike in status.ike_sas:
        encryption = ENCRYPTION[ike.encryption]
        rows.append(
            (
                f"IKE{ike.version}", ike.spi_i, ike.spi_r, encryption.name, str(encryption.bits),
                INTEGRITY[ike.integrity].name if ike.integrity else "", PSEUDO_RANDOM[ike.prf].name,
                KEY_EXCHANGE[ike.group].name,
            )
        )  # fmt: skip
    for child in status.children:
        for sa in child.sas:
            word = ENCRYPTION[sa.encryption] if sa.encryption else None
            integrity = sa.integrity or sa.ah_integrity
            rows.append(
                (
                    "ESP" if word else "AH", sa.spi_in, sa.spi_out, word.name if word else "",
                    str(word.bits if word else 0), INTEGRITY[integrity].name if integrity else "",
                    KEY_EXCHANGE[sa.group].name if sa.group else "", sa.mode, "esn" if sa.esn else "",
                    "ipcomp" if sa.ipcomp else "",
                )
            )  # fmt: skip
    return frozenset(rows)


def theirs(list_sas: Iterable[Message]) -> View:
    """Return the same of strongSwan's ``list-sas``, seen from our end; SAs that are being deleted are left out."""
    rows: list[tuple[str, ...]] = []
    for ike in _sections(list_sas):
        if ike["state"] in ("ESTABLISHED", "REKEYING"):
            rows.append(
                (
                    f"IKEv{ike['version']}", ike["initiator-spi"], ike["responder-spi"], ike["encr-alg"], _bits(ike),
                    ike.get("integ-alg", ""), ike["prf-alg"], ike["dh-group"],
                )
            )  # fmt: skip
        for child in ike.get("child-sas", {}).values():
            if child["state"] in ("INSTALLED", "REKEYING"):
                rows.append(
                    (
                        child["protocol"], f"{int(child['spi-out'], 16):08x}", f"{int(child['spi-in'], 16):08x}",
                        child.get("encr-alg", ""), _bits(child), child.get("integ-alg", ""),
                        child.get("dh-group", ""), child["mode"].lower(), "esn" if child.get("esn") == "1" else "",
                        "ipcomp" if "cpi-in" in child else "",
                    )
                )  # fmt: skip
    return frozenset(rows)


def their_children(list_sas: Iterable[Message]) -> frozenset[str]:
    """Return our inbound SPI of every child that strongSwan has, also of one that is being deleted."""
    children = (child for ike in _sections(list_sas) for child in ike.get("child-sas", {}).values())
    return frozenset(f"{int(child['spi-out'], 16):08x}" for child in children if "spi-out" in child)


def _sections(list_sas: Iterable[Message]) -> Iterator[dict[str, Any]]:
    for message in list_sas:
        yield from (section for section in message.values() if isinstance(section, dict))


def _bits(section: dict[str, Any]) -> str:
    """Return the key size where the algorithm has a choice of sizes."""
    sized = {word.name for word in ENCRYPTION.values() if word.bits}
    return section.get("encr-keysize", "0") if section.get("encr-alg") in sized else "0"
