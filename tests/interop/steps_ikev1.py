"""Steps of IKEv1's cells: what was spoken, what the peer's log shows of it, and who refuses what."""

from __future__ import annotations

import asyncio
import re

from agents.contract.config import ConnectionType, ExchangeMode, IkeVersion
from deploy.lab.netns import LabError
from tests.interop import steps, views
from tests.interop.cells import CONNECTION, INITIATOR, Step
from tests.interop.rig import ping
from tests.interop.session import Session

_POLL_S = 0.1


async def we_rekey_phase_1(session: Session) -> None:
    """Where our end answers only it may not begin a phase 1, and says so; IKEv2 rekeys whoever began."""
    (tunnel,), (sa,) = session.document.tunnels, (await session.status()).ike_sas
    if tunnel.connection_type is not ConnectionType.RESPONDER_ONLY or sa.version == IkeVersion.V2:
        await steps.we_rekey_the_ike_sa(session)
        return
    answer = await session.ours.client.call("action", {"verb": "rekey-ike", "tunnel_id": session.tunnel_id})
    assert not answer["accepted"], answer


async def both_rekey_phase_2(session: Session) -> None:
    """Quick Modes cross and both come to something; strongSwan keeps what is superfluous until it is deleted by us."""
    before = steps.child_spis(await session.status())
    child = session.cell.nets[0].name
    await asyncio.gather(session.act("rekey-child"), session.request("rekey", {"child": child}))
    await session.until(
        lambda now: session.is_whole(now) and not before & steps.child_spis(now), "child rekeyed by both", 60
    )
    await session.carrying()


async def both_rekey_phase_1(session: Session) -> None:
    """Two phases 1 cross: one stays, with the children that both ends still have."""
    before = steps.ike_spis(await session.status())
    await asyncio.gather(session.act("rekey-ike"), session.request("rekey", {"ike": CONNECTION}))
    await session.until(
        lambda now: session.is_whole(now) and not before & steps.ike_spis(now), "IKE SA rekeyed by both", 60
    )
    await session.carrying()


def spoken(version: IkeVersion, mode: ExchangeMode | None = None) -> Step:
    """Return a step: our status and the peer's list name this version, and ours this mode of phase 1."""

    async def step(session: Session) -> None:
        (sa,) = (await session.status()).ike_sas
        assert (sa.version, sa.exchange_mode) == (version.value, mode), f"{sa.version}, {sa.exchange_mode}"
        kinds = {row[0] for row in views.theirs(await session.list_sas()) if row[0].startswith("IKE")}
        assert kinds == {f"IKE{version.value}"}, kinds

    return step


def the_peer_logs(*patterns: str, limit_s: float = 8.0) -> Step:
    """Return a step: each of these regular expressions is found in what strongSwan logged since the cell began."""

    async def step(session: Session) -> None:
        missing = list(patterns)
        try:
            async with asyncio.timeout(limit_s):
                while missing := [each for each in missing if not re.search(each, session.lab.their_log())]:
                    await asyncio.sleep(_POLL_S)  # a log has no events
        except TimeoutError:
            raise AssertionError(f"the peer did not log {missing}") from None

    return step


we_ask_and_the_peer_answers = the_peer_logs(
    r"parsed INFORMATIONAL_V1 request \d+ \[ HASH N\(DPD\) \]",
    r"generating INFORMATIONAL_V1 request \d+ \[ HASH N\(DPD_ACK\) \]",
)
"""R-U-THERE of ours, R-U-THERE-ACK of the peer's (RFC 3706 section 5.3)."""

the_peer_asks_and_we_answer = the_peer_logs(
    r"generating INFORMATIONAL_V1 request \d+ \[ HASH N\(DPD\) \]",
    r"parsed INFORMATIONAL_V1 request \d+ \[ HASH N\(DPD_ACK\) \]",
)


fragments_went_both_ways = the_peer_logs(
    r"received fragment #\d+, reassembled", r"generating \S+ (request|response) 0 \[ FRAG"
)
"""The vendor id's own fragments, each way; IKEv1 has no others."""


def refused(ours: str, theirs: str, *, as_initiator: str = "", as_responder: str = "") -> Step:
    """Return a step: nothing comes up, our event's code begins with ``ours`` and the peer's log matches ``theirs``.

    ``as_initiator`` and ``as_responder`` are the code where a role has another.
    """

    async def step(session: Session) -> None:
        await session.prepare()
        try:
            await session.bring_up(steps.IN_VAIN_S)
        except LabError:
            pass
        else:
            assert session.initiator, "strongSwan says that it is up"
        code = (as_initiator if session.role == INITIATOR else as_responder) or ours
        await session.until_event(code)
        if theirs:
            await the_peer_logs(theirs)(session)
        status = await session.status()
        assert not any(child.sas for child in status.children), "a child with a peer that should have been refused"

    return step


async def the_peers_next_mode_is_taken(session: Session) -> None:
    """What was refused leaves nothing behind: the same peer comes again in the right mode at once."""
    right = "yes" if session.cell.mode is ExchangeMode.AGGRESSIVE else "no"
    session.connection = {**session.connection, "aggressive": right}
    await session.load_theirs()
    await session.bring_up()
    await session.carrying()


async def the_phase_1_lifetime_ends(session: Session) -> None:
    """A new phase 1 comes before the old one's lifetime of the cell is over, and the tunnel carries on."""
    old = {sa.spi_i for sa in (await session.status()).ike_sas}
    await session.until(
        lambda now: session.is_whole(now) and not old & {sa.spi_i for sa in now.ike_sas}, "a new phase 1", 40
    )
    await session.carrying()


async def the_phase_2_lifetime_ends(session: Session) -> None:
    """New SAs come before the lifetime of the old ones, which the cell has made short, is over."""
    before = await session.status()
    await session.changed_from(
        before, lambda now: frozenset(sa.spi_in for child in now.children for sa in child.sas), "a new Quick Mode"
    )


async def the_peer_keeps_what_it_has_rekeyed(session: Session) -> None:
    """strongSwan's default: the old SAs stay at both ends until their time is over; what is sent takes the new ones."""
    before = steps.child_spis(await session.status())
    await session.request("rekey", {"child": session.cell.nets[0].name})
    await _old_and_new(session, before)


async def the_peer_rekeys_in_time(session: Session) -> None:
    """The lifetime that the cell gives the peer runs out; the old SAs stay beside the new ones for a while."""
    await _old_and_new(session, steps.child_spis(await session.status()))


async def _old_and_new(session: Session, before: frozenset[str]) -> None:
    status = await session.until(lambda now: len(steps.child_spis(now)) == 2, "old and new SAs", 30)
    assert steps.child_spis(status) > before
    ((here, there),) = session.cell.nets[0].ping_pairs()
    for space, source, target in ((session.lab.our_space, here, there), (session.lab.their_space, there, here)):
        await asyncio.to_thread(ping, space, source, target, 1)
    (new,) = (sa for sa in (await session.status()).children[0].sas if sa.spi_in not in before)
    assert new.counters.packets_out >= 2, "the old SAs are used"
