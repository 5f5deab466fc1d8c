"""What both roles of Quick Mode need: SPIs, circumstances, the agreement that comes of it (RFC 2409 section 5.5)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agents.contract.config import Child, Mode
from agents.dataplane.base import OriginalAddresses
from agents.ike import selectors as ranges
from agents.ike.crypto.dh import InvalidPublicValue
from agents.ike.errors import PeerError
from agents.ike.v1 import natd, place, selectors
from agents.ike.v1.child import Agreement, Pair, host_of
from agents.ike.v1.quick_proposals import Circumstances, QuickChoice
from agents.ike.v1.tasks import info
from agents.ike.wire.isakmp.message import Message
from agents.ike.wire.isakmp.payloads import (
    KeyExchangeData,
    NatOriginalAddress,
    Notify,
)
from agents.ike.wire.isakmp.registry import EncapsulationMode, NotifyType, Protocol

if TYPE_CHECKING:
    from agents.ike.v1.sa import IsakmpSa

_UDP = {
    Mode.TUNNEL: (EncapsulationMode.UDP_TUNNEL, EncapsulationMode.UDP_TUNNEL_DRAFT),
    Mode.TRANSPORT: (EncapsulationMode.UDP_TRANSPORT, EncapsulationMode.UDP_TRANSPORT_DRAFT),
}
_PLAIN = {Mode.TUNNEL: EncapsulationMode.TUNNEL, Mode.TRANSPORT: EncapsulationMode.TRANSPORT}


class Spis:
    """SPIs that we receive on, one for each protocol, and the CPI; given back unless a child takes them."""

    def __init__(self, sa: IsakmpSa, *, ah: bool, esp: bool, compressed: bool) -> None:
        hub = sa.core.hub
        self._hub = hub
        self.esp = hub.new_esp_spi() if esp else None
        self.ah = hub.new_esp_spi() if ah else None
        self.cpi = hub.new_cpi() if compressed else None

    def octets(self) -> dict[Protocol, bytes]:
        """Return them as proposals carry them."""
        found = {Protocol.ESP: self.esp, Protocol.AH: self.ah}
        spis = {protocol: spi.to_bytes(4, "big") for protocol, spi in found.items() if spi is not None}
        return spis if self.cpi is None else {**spis, Protocol.IPCOMP: self.cpi.to_bytes(2, "big")}

    def keep_for(self, choice: QuickChoice) -> None:
        """Give back what the suite chosen does not have."""
        if choice.proposal.encryption is None:
            self._give_back("esp")
        if choice.proposal.ah_integrity is None:
            self._give_back("ah")
        if choice.peer_cpi is None:
            self._give_back("cpi")

    def give_back(self) -> None:
        """Nothing came of it."""
        for name in ("esp", "ah", "cpi"):
            self._give_back(name)

    def _give_back(self, name: str) -> None:
        number = getattr(self, name)
        setattr(self, name, None)
        if number is not None and name == "cpi":
            self._hub.free_cpi(number)
        elif number is not None:
            self._hub.free_esp_spi(number)


def circumstances(sa: IsakmpSa, child: Child, ke: KeyExchangeData | None) -> Circumstances:
    """Return what a child is negotiated under."""
    features = sa.core.hub.features
    modes = _UDP[child.mode] if sa.nat.encapsulates else (_PLAIN[child.mode],)
    return Circumstances(
        encapsulations=frozenset(int(each) for each in modes),
        ke_octets=None if ke is None else len(ke.data),
        compression=features is None or features.compression,
        extended=features is None or features.extended_sequence_numbers,
    )


def original_addresses(sa: IsakmpSa, mode: Mode, *, initiator: bool) -> tuple[NatOriginalAddress, ...]:
    """Return the NAT-OA payloads of a message of ours: both ends where transport mode goes in UDP, else none."""
    if mode is Mode.TUNNEL or not sa.nat.encapsulates:
        return ()
    return natd.original_addresses(sa.path, initiator=initiator, draft=bool(sa.peer.nat_draft))


def check_ends(sa: IsakmpSa, config: Child, pair: Pair) -> None:
    """Raise PeerError for transport mode between other addresses than the SA's: a NAT has moved the peer since."""
    here = (sa.path.local_address, sa.path.remote_address)
    if config.mode is Mode.TUNNEL or (ranges.only_host(pair[:1]), ranges.only_host(pair[1:])) == here:
        return
    raise PeerError(
        NotifyType.INVALID_ID_INFORMATION,
        "child.ts-unacceptable",
        f"Child {config.name} is for transport mode, and the peer has another address than it is configured with",
        received=f"{here[0]} = {here[1]}",
        configured=selectors.describe_pair(pair),
        field="remote.address",
    )


def as_seen(sa: IsakmpSa, config: Child, pair: Pair) -> Pair:
    """Return a peer's selectors for this child as they read here: through a NAT the two hosts have other addresses."""
    if config.mode is Mode.TUNNEL:
        return pair
    local, remote = pair
    if sa.nat.local:
        (local,) = ranges.of_host((local,), sa.path.local_address)
    if sa.nat.remote:
        (remote,) = ranges.of_host((remote,), sa.path.remote_address)
    return local, remote


def original_of(
    sa: IsakmpSa, config: Child, message: Message, received: Pair | None, *, initiator: bool
) -> OriginalAddresses | None:
    """Return what the peer sees instead of the outer addresses where a NAT changes those of transport mode.

    It says so (RFC 3947 section 5.2), or its selectors do.
    """
    if config.mode is Mode.TUNNEL or not sa.nat.encapsulates:
        return None
    outer = (sa.path.local_address, sa.path.remote_address)
    seen = natd.read_original(message, initiator=initiator)
    if seen is None and received is not None:
        seen = ranges.only_host(received[:1]) or outer[0], ranges.only_host(received[1:]) or outer[1]
    return None if seen in (None, outer) else OriginalAddresses(source=seen[1], destination=seen[0])


def feasible(sa: IsakmpSa, child: Child) -> Child:
    """Return the child with those of its proposals that the data plane can do; with all of them where it can none."""
    features = sa.core.hub.features
    if features is None:
        return child
    fit = tuple(each for each in child.proposals if features.can(each.encryption, each.integrity, each.ah_integrity))
    return child if len(fit) in (0, len(child.proposals)) else replace(child, proposals=fit)


def agreement_of(
    config: Child,
    choice: QuickChoice,
    spis: Spis,
    pair: Pair,
    slot: int,
    *,
    initiator: bool,
    began_at: float,
    nonces: tuple[bytes, bytes],
    shared: bytes | None,
    original: OriginalAddresses | None,
) -> Agreement:
    """Return what was agreed on; ``nonces`` are the initiator's and the responder's. ``spis`` now belong to it."""
    spi_in = spis.ah if spis.esp is None else spis.esp
    assert spi_in is not None
    peer_ah = choice.peer_ah_spi
    return Agreement(
        config=config,
        proposal=choice.proposal,
        group=None if choice.group is None else choice.group.slug,
        local=pair[0],
        remote=pair[1],
        spi_in=spi_in,
        spi_out=int.from_bytes(choice.peer_spi, "big"),
        ah_spi_in=spis.ah if spis.esp is not None else None,
        ah_spi_out=None if peer_ah is None else int.from_bytes(peer_ah, "big"),
        cpi_in=spis.cpi,
        cpi_out=choice.peer_cpi,
        initiator=initiator,
        began_at=began_at,
        nonce_i=nonces[0],
        nonce_r=nonces[1],
        shared=shared,
        esn=choice.esn,
        mode=config.mode,
        lifetime_s=choice.lifetime_s,
        lifetime_kilobytes=choice.lifetime_kilobytes,
        slot=slot,
        original=original,
    )


def lifetime_notify(choice: QuickChoice, spis: Spis) -> Notify | None:
    """Return RESPONDER-LIFETIME where ours is shorter than what was offered (RFC 2407 section 4.6.3.1)."""
    data = info.shorter_lifetimes(choice)
    if not data:
        return None
    protocol, spi = (Protocol.ESP, spis.esp) if spis.esp is not None else (Protocol.AH, spis.ah)
    assert spi is not None
    return Notify(type=NotifyType.RESPONDER_LIFETIME, protocol=protocol, spi=spi.to_bytes(4, "big"), data=data)


def check_free(sa: IsakmpSa, config: Child, slot: int, pair: Pair, original: OriginalAddresses | None = None) -> None:
    """Raise PeerError when a child of another tunnel, or of another host behind a NAT, protects this traffic."""
    assert sa.tunnel is not None
    hub, tunnel_id = sa.core.hub, sa.tunnel.config.id
    if config.mode is Mode.TRANSPORT:
        hub.check_host(host_of(sa), config.name, sa.path.remote_address, original)
    owner = hub.protected_by_other(
        ranges.policies(
            tunnel_id=tunnel_id,
            reqid=hub.reqid(tunnel_id, config.name, sa.tunnel.slot(slot)),
            local_address=sa.path.local_address,
            remote_address=sa.path.remote_address,
            local_ts=pair[:1],
            remote_ts=pair[1:],
        ),
        sa.tunnel.slot(slot),
    )
    if owner is not None:
        raise PeerError(
            NotifyType.NO_PROPOSAL_CHOSEN,
            "child.selectors-taken",
            f"{owner} protects the traffic of child {config.name} already",
            received=selectors.describe_pair(pair),
            configured=owner,
            field="children.remote_ts",
            attributes={"child": config.name},
        )


def silence(message: int, name: str) -> PeerError:
    """Return why a Quick Mode whose message got no answer came to nothing."""
    where = place.quick(message, name)
    text = f"The peer does not answer, {where.sentence}"
    return PeerError(0, "ike.peer-unresponsive", text, attributes=where.attributes)


def invalid_public(error: InvalidPublicValue) -> PeerError:
    """Return the refusal of a public value of PFS."""
    return PeerError(
        NotifyType.INVALID_KEY_INFORMATION, "ike.invalid-ke", f"The peer's public value cannot be used: {error}"
    )
