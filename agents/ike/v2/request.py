"""The child's part of IKE_AUTH and CREATE_CHILD_SA: what we ask for, what we answer, and what each reserves.

Payloads of RFC 7296 sections 1.2, 1.3.1, 2.22. What is acceptable is decided in :mod:`agents.ike.v2.negotiation`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.contract.config import Child, Mode
from agents.ike import proposals, selectors
from agents.ike.v2 import negotiation, slots
from agents.ike.v2.child import Agreement, ChildSa
from agents.ike.v2.negotiation import DEFLATE, Accepted, Ranges, Setting
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Notify, Payload, SecurityAssociation, TsI, TsR
from agents.ike.wire.registry import NotifyType

if TYPE_CHECKING:
    from agents.ike.v2.sa import IkeSa


def setting(sa: IkeSa) -> Setting:
    """Return where children of this IKE SA live."""
    return Setting(
        local_address=sa.path.local_address,
        remote_address=sa.path.remote_address,
        nat_local=sa.nat.local,
        nat_remote=sa.nat.remote,
        features=sa.core.hub.features,
    )


class ChildRequest:
    """A child we ask for: its terms, and the SPI and CPI that are taken until :meth:`release` or an agreement."""

    def __init__(self, sa: IkeSa, config: Child, *, pfs: bool, asked: tuple[Ranges, Ranges] | None = None) -> None:
        """``asked`` are selectors to ask for in the place of the child's own."""
        self.config = config
        self.spi_in = sa.core.hub.new_esp_spi()
        here = setting(sa)
        self.cpi_in = sa.core.hub.new_cpi() if config.ipcomp and here.compression else None
        self.asked = asked
        self._offered = asked or here.ranges(config)
        self._extended = here.extended
        self._feasible = here.feasible(config)
        self._pfs = pfs
        self._taken = True

    def notifies(self) -> tuple[Notify, ...]:
        """Return the notifies that go with the request."""
        return _notifies(self.config.mode, self.cpi_in)

    def offer(self) -> SecurityAssociation:
        """Return the SA payload."""
        return proposals.offer_ipsec(self._feasible, self.spi_in.to_bytes(4, "big"), self._pfs, self._extended)

    def selectors(self) -> tuple[TsI, TsR]:
        """Return the TS payloads; in transport mode only what the hosts send, if the child has anything of that."""
        local, remote = self._offered
        if not local or not remote:  # nothing can come of it, and the refusal says why
            local, remote = selectors.to_ranges(self.config.local_ts), selectors.to_ranges(self.config.remote_ts)
        return TsI(selectors=local), TsR(selectors=remote)

    def accept(self, sa: IkeSa, message: Message) -> Accepted:
        """Check the answer. Raises PeerError."""
        return negotiation.accept_answer(
            self.config,
            message,
            setting(sa),
            pfs=self._pfs,
            asked=self.asked,
            compression=self.cpi_in is not None,
        )

    def agree(
        self,
        sa: IkeSa,
        accepted: Accepted,
        nonces: tuple[bytes, bytes],
        shared: bytes | None = None,
        replaced: ChildSa | None = None,
    ) -> Agreement:
        """Return the agreement that an accepted answer makes; SPI and CPI are the child's from then on.

        ``nonces`` are the initiator's and the responder's. Raises PeerError where the child cannot be made here.
        """
        slot = slots.find(sa, accepted, replaced)
        slots.check_free(sa, accepted, slot)
        agreement = _agreement(
            accepted,
            initiator=True,
            spi_in=self.spi_in,
            cpi_in=None if accepted.peer_cpi is None else self.cpi_in,
            nonces=nonces,
            shared=shared,
            slot=slot,
        )
        self._taken = False
        if accepted.peer_cpi is None:
            sa.core.hub.free_cpi(self.cpi_in)
        return agreement

    def release(self, sa: IkeSa) -> None:
        """Give back what the request holds, if it has not become a child's."""
        if self._taken:
            self._taken = False
            sa.core.hub.free_esp_spi(self.spi_in)
            sa.core.hub.free_cpi(self.cpi_in)


def agree(
    sa: IkeSa,
    accepted: Accepted,
    nonces: tuple[bytes, bytes],
    shared: bytes | None = None,
    replaced: ChildSa | None = None,
) -> Agreement:
    """Return the agreement of an accepted request, as its responder. Raises PeerError, and then nothing is taken."""
    slot = slots.find(sa, accepted, replaced)
    slots.check_free(sa, accepted, slot)
    return _agreement(
        accepted,
        initiator=False,
        spi_in=sa.core.hub.new_esp_spi(),
        cpi_in=None if accepted.peer_cpi is None else sa.core.hub.new_cpi(),
        nonces=nonces,
        shared=shared,
        slot=slot,
    )


def answer(agreement: Agreement, accepted: Accepted, between: tuple[Payload, ...] = ()) -> tuple[Payload, ...]:
    """Return the payloads that answer a request; ``between`` go after the SA payload (nonce, key exchange)."""
    more = (Notify(type=NotifyType.ADDITIONAL_TS_POSSIBLE),) if accepted.more else ()
    return (
        *_notifies(agreement.mode, agreement.cpi_in),
        *more,
        proposals.answer_ipsec(accepted.choice, agreement.spi_in.to_bytes(4, "big")),
        *between,
        TsI(selectors=agreement.remote_ts),
        TsR(selectors=agreement.local_ts),
    )


def _notifies(mode: Mode, cpi: int | None) -> tuple[Notify, ...]:
    compression = () if cpi is None else (Notify(type=NotifyType.IPCOMP_SUPPORTED, data=_compression(cpi)),)
    transport = () if mode is Mode.TUNNEL else (Notify(type=NotifyType.USE_TRANSPORT_MODE),)
    return (*compression, *transport)


def _compression(cpi: int) -> bytes:
    return cpi.to_bytes(2, "big") + bytes((DEFLATE,))


def _agreement(
    accepted: Accepted,
    *,
    initiator: bool,
    spi_in: int,
    cpi_in: int | None,
    nonces: tuple[bytes, bytes],
    shared: bytes | None,
    slot: int,
) -> Agreement:
    choice = accepted.choice
    return Agreement(
        config=accepted.config,
        proposal=choice.proposal,
        group=None if choice.group is None else choice.group.slug,
        local_ts=accepted.local_ts,
        remote_ts=accepted.remote_ts,
        spi_in=spi_in,
        spi_out=int.from_bytes(choice.peer_spi, "big"),
        ah_spi_out=None if choice.peer_ah_spi is None else int.from_bytes(choice.peer_ah_spi, "big"),
        initiator=initiator,
        nonce_i=nonces[0],
        nonce_r=nonces[1],
        shared=shared,
        esn=choice.esn,
        mode=accepted.mode,
        cpi_in=cpi_in,
        cpi_out=accepted.peer_cpi,
        slot=slot,
        original=accepted.original,
    )
