"""What only a kernel carries, with IKEv1: transport mode, AH, IPComp, plain ESP, ciphers kernel-libipsec lacks."""

from __future__ import annotations

import dataclasses

from agents.contract import algorithms, ikev1
from agents.contract.config import IkeVersion, IpsecProposal, SequenceNumbers
from tests.interop import kernel, words
from tests.interop.cells import ESP_GCM, Cell
from tests.interop.cells_ikev1 import AGGRESSIVE, SETTINGS, esp, ike
from tests.interop.lab import OURS_6, THEIRS_6
from tests.interop.rig import OURS, THEIRS

AXIS = "IKEv1: kernel ESP, AH and IPComp on both sides"
ALGORITHMS_AXIS = "IKEv1: algorithms of ESP and AH"


def cells() -> list[Cell]:
    """Return every cell; the quick ones are those of ``make test``."""
    transport, six = kernel.hosts(OURS, THEIRS), kernel.hosts(OURS_6, THEIRS_6)
    found = [
        kernel.cell("tunnel mode", shown=("proto esp", "mode tunnel"), quick=True),
        kernel.cell("tunnel mode in UDP", shown=("encap type espinudp",), tunnel={"force_udp_encapsulation": True}),
        kernel.cell("transport mode", net=transport, shown=("mode transport",), quick=True),
        kernel.cell(
            "transport mode in UDP", net=transport, shown=("mode transport", "encap type espinudp"),
            tunnel={"force_udp_encapsulation": True},
        ),
        kernel.cell("transport mode over IPv6", net=six, outer=6, shown=("mode transport",)),
        kernel.cell(
            "extended sequence numbers, AES-GCM", child={"sequence_numbers": SequenceNumbers.EXTENDED},
            theirs="aes128gcm16-esn", shown=("esn\n",),
        ),
        kernel.ah_cell("AH, tunnel mode", "hmac-sha2-256-128", shown=("proto ah", "mode tunnel"), quick=True),
        kernel.ah_cell("AH, transport mode", "hmac-sha1-96", net=transport, shown=("proto ah", "mode transport")),
        kernel.cell("IPComp, tunnel mode", child={"ipcomp": True}, peer={"ipcomp": "yes"}, shown=kernel.COMPRESSED),
        kernel.cell(
            "IPComp, transport mode", net=transport, child={"ipcomp": True}, peer={"ipcomp": "yes"},
            shown=kernel.COMPRESSED,
        ),
        kernel.cell("IPComp offered to a peer that does not want it", child={"ipcomp": True}),
        dataclasses.replace(kernel.cell("tunnel mode, Aggressive Mode", shown=("mode tunnel",)), mode=AGGRESSIVE),
    ]  # fmt: skip
    return [_ikev1(each, AXIS) for each in (*found, *_algorithms())]


def _algorithms() -> list[Cell]:
    found = []
    for slug in ikev1.ESP:
        label = f"ESP: {algorithms.ENCRYPTION[slug].label}"
        each = kernel.cell(label, esp=esp(slug), needs=_needs(slug))
        found.append(dataclasses.replace(each, axis=ALGORITHMS_AXIS, script=()))
    for slug in ikev1.AH:
        each = kernel.ah_cell(f"AH: {algorithms.INTEGRITY[slug].label}", slug, needs=(words.INTEGRITY[slug].name,))
        found.append(dataclasses.replace(each, axis=ALGORITHMS_AXIS, script=()))
    return found


def _needs(slug: str) -> tuple[str, ...]:
    """Return what the peer must list; AES-GMAC is the kernel's alone and in no list of its own."""
    return () if slug.endswith("-gmac") else (words.ENCRYPTION[slug].name,)


def _ikev1(cell: Cell, axis: str) -> Cell:
    """Return a cell of IKEv2's matrix as one of IKEv1's: phase 1 in CBC mode."""
    axis = cell.axis if cell.axis == ALGORITHMS_AXIS else axis
    (proposal,) = cell.esp
    plain = proposal == ESP_GCM and cell.their_esp is None
    esps: tuple[IpsecProposal, ...] = (esp("aes-128-gcm-16"),) if plain else cell.esp
    return dataclasses.replace(
        cell, axis=axis, version=IkeVersion.V1, ike=(ike(),), esp=esps, settings=SETTINGS, limit_s=120.0
    )
