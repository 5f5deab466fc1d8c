"""Vendor IDs: those we send, and those that a scanner's list of what was seen in the world has."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from agents.ike.wire.isakmp import vendor
from agents.ike.wire.isakmp.vendor import Kind, recognise
from tests.vectors import FOLDER, needs_vectors


@pytest.mark.parametrize(
    ("data", "kind", "octets"),
    [
        (vendor.NAT_T_RFC, Kind.NAT_T_RFC, "4a131c81070358455c5728f20e95452f"),
        (vendor.NAT_T_DRAFT_03, Kind.NAT_T_DRAFT, "7d9419a65310ca6f2c179d9215529d56"),
        (vendor.NAT_T_DRAFT_02, Kind.NAT_T_DRAFT, "cd60464335df21f87cfdb2fc68b6a448"),
        (vendor.NAT_T_DRAFT_02_N, Kind.NAT_T_DRAFT, "90cb80913ebb696e086381b5ec427b1f"),
        (vendor.DPD, Kind.DPD, "afcad71368a1f1c96b8696fc77570100"),
        (vendor.FRAGMENTATION, Kind.FRAGMENTATION, "4048b7d56ebce88525e7de7f00d6c2d3c0000000"),
    ],
)
def test_what_we_send_is_what_the_documents_say(data: bytes, kind: Kind, octets: str) -> None:
    assert data.hex() == octets
    found = recognise(data)
    assert found is not None
    assert found.kind is kind


@pytest.mark.parametrize(
    ("octets", "kind"),
    [
        ("4048b7d56ebce88525e7de7f00d6c2d3", Kind.FRAGMENTATION),
        ("4048b7d56ebce88525e7de7f00d6c2d380000000", Kind.FRAGMENTATION),
        ("afcad71368a1f1c96b8696fc77570200", Kind.EXTENSION),
        ("4485152d18b6bbcd0be8a8469579ddcc", Kind.EXTENSION),
        ("09002689dfd6b712", Kind.EXTENSION),
        ("12f5f28c457168a9702d9fe274cc0100", Kind.OTHER),
    ],
    ids=["bare", "one mode", "another version", "a draft of port 500", "XAUTH", "Unity"],
)
def test_kind_is_what_can_be_used(octets: str, kind: Kind) -> None:
    found = recognise(bytes.fromhex(octets))
    assert found is not None
    assert found.kind is kind


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"OE-Libreswan-4.10", "Libreswan"),
        (b"OEN0123456789"[:12], "Libreswan"),
        (b"OSW0123456789"[:12], "Openswan"),
        (b"OE01234567890"[:12], "FreeS/WAN or Openswan"),
    ],
)
def test_heirs_of_free_swan(data: bytes, name: str) -> None:
    found = recognise(data)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"OE", vendor.NAT_T_RFC[:15], vendor.NAT_T_RFC + b"\0", bytes.fromhex("c0ffee" * 6)]
)
def test_nobody(data: bytes) -> None:
    assert recognise(data) is None


_ALIASES = {
    "MS NT5 ISAKMPOAKLEY": "Windows",
    "MacOS 10.x-2": "draft-ietf-ipsec-nat-t-ike",
    "strongSwan 4.3.6": "strongSwan",
    "Windows-2012": "Windows",
}
"""Of one vendor ID that the list has twice, or of one that we do not tell apart."""
_SWAN = re.compile(r"(Linux )?(FreeS/WAN|Openswan|Libreswan)")


def _patterns() -> Iterator[tuple[str, bytes]]:
    """Yield the name of a pattern, and the shortest octets that it fits."""
    for line in (FOLDER / "ike-scan/ike-vendor-ids").read_text().splitlines():
        name, _, pattern = line.partition("\t")
        if not pattern or name.startswith("#"):
            continue
        digits = re.sub(r"\[\[:xdigit:\]\]\{(\d+)\}", lambda found: "1" * int(found[1]), pattern.strip())
        yield name, bytes.fromhex(digits.strip("^$").replace(".", "1"))


@needs_vectors
def test_the_list_of_a_scanner_has_the_same_names() -> None:
    seen: set[str] = set()
    for theirs, octets in _patterns():
        found = recognise(octets)
        if _SWAN.match(theirs):
            assert found is not None, theirs
            assert found.name in ("Libreswan", "Openswan", "FreeS/WAN or Openswan"), theirs
        elif found is not None:
            ours = _ALIASES.get(theirs, theirs.removesuffix("\\n"))
            assert ours.startswith(found.name), theirs
            assert ours == found.name or theirs[len(found.name) :][:1] in " -(_", theirs
        if found is not None:
            seen.add(found.name)
    assert len(seen) > 100
    assert {"RFC 3947 NAT-T", "Dead Peer Detection v1.0", "IKE Fragmentation", "XAUTH", "Cisco Unity"} <= seen


@needs_vectors
def test_what_a_name_stands_for_is_in_the_list_of_a_scanner() -> None:
    """Every hash computed of a name is one that was seen, but for versions the list is too old for."""
    theirs = [octets for _, octets in _patterns()]
    after = re.compile(r"strongSwan (4\.3\.6|5\.1\.[23]|5\.[23]\.\d)$")  # it has that of 4.3.6 without the version
    for octets, ours in vendor._WHOLE.items():
        assert octets in theirs or after.match(ours.name), ours.name
    for start, ours in vendor._STARTS:
        known = any(each.startswith(start) or start.startswith(each) for each in theirs)
        assert known or ours.name == "Libreswan", ours.name
