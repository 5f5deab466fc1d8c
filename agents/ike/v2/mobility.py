"""What an IKE SA knows of MOBIKE (RFC 4555): one value that the SAs of a chain of rekeys share."""

from __future__ import annotations

from dataclasses import dataclass, field

from agents.ike.outputs import Path


@dataclass(slots=True, kw_only=True)
class Mobility:
    """Whether both ends speak MOBIKE, and what has been told of addresses.

    ``peer_addresses`` are the further ones the peer told, ``announced`` what it was told by us. ``nat_seen`` is the
    hash by which the peer last said where it sees us, after the SPIs in it. ``lost_address`` is the one in use that
    this host has no more; an end that is not the opener makes a detour then, until the opener moves the SA: ``detour``
    is the path it left.
    ``refused`` are pairs of addresses that the peer did not take. ``probed`` says that the last update went out on
    other paths too.
    """

    offered: bool = False
    enabled: bool = False
    peer_addresses: tuple[str, ...] = ()
    announced: tuple[str, ...] = ()
    nat_seen: tuple[bytes, bytes] | None = None
    lost_address: str | None = None
    detour: Path | None = None
    probed: bool = False
    refused: set[tuple[str, str]] = field(default_factory=set)
