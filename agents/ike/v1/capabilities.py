"""What vendor IDs say: NAT traversal and by which draft, liveness checks, fragments, who the peer is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from agents.ike.wire.isakmp import vendor
from agents.ike.wire.isakmp.payloads import VendorId
from agents.ike.wire.isakmp.vendor import Kind


@dataclass(slots=True, kw_only=True)
class Capabilities:
    """What the peer has told so far; ``nat_draft`` is None where it traverses no NATs."""

    nat_draft: bool | None = None
    dpd: bool = False
    fragmentation: bool = False
    names: list[str] = field(default_factory=list)

    def note(self, vendor_ids: Iterable[VendorId]) -> None:
        """Take the vendor IDs of a message; RFC 3947 is preferred to its drafts."""
        for payload in vendor_ids:
            known = vendor.recognise(payload.data)
            if known is None:
                continue
            if known.kind is Kind.NAT_T_RFC:
                self.nat_draft = False
            elif known.kind is Kind.NAT_T_DRAFT and self.nat_draft is None:
                self.nat_draft = True
            elif known.kind is Kind.DPD:
                self.dpd = True
            elif known.kind is Kind.FRAGMENTATION:
                self.fragmentation = True
            elif known.kind is Kind.OTHER and known.name not in self.names and len(self.names) < 8:
                self.names.append(known.name)


def offered(fragmentation: bool) -> tuple[VendorId, ...]:
    """Return the vendor IDs an initiator sends."""
    last = (vendor.FRAGMENTATION,) if fragmentation else ()
    return tuple(VendorId(data=each) for each in (*vendor.NAT_T, vendor.DPD, *last))


def answered(peer: Capabilities, fragmentation: bool) -> tuple[VendorId, ...]:
    """Return the vendor IDs a responder sends, the most useful first: only what the peer can use as well."""
    found = []
    if peer.nat_draft is not None:
        found.append(vendor.NAT_T_DRAFT_02_N if peer.nat_draft else vendor.NAT_T_RFC)
    if peer.dpd:
        found.append(vendor.DPD)
    if peer.fragmentation and fragmentation:
        found.append(vendor.FRAGMENTATION)
    return tuple(VendorId(data=each) for each in found)
