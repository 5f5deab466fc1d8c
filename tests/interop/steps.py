"""The steps of scripts: each does one thing to a tunnel that is up and leaves it compared and pinged through again."""

from __future__ import annotations

import asyncio

from agents.contract.status import TunnelStatus
from deploy.lab.netns import LabError
from tests.interop import views
from tests.interop.cells import CONNECTION
from tests.interop.session import Session

IN_VAIN_S = 8.0
"""So long strongSwan tries what is to be refused: some peers say nothing."""


def child_spis(status: TunnelStatus) -> frozenset[str]:
    """Return what the rekey of a child changes."""
    return frozenset(sa.spi_in for child in status.children for sa in child.sas)


def ike_spis(status: TunnelStatus) -> frozenset[str]:
    """Return what a new IKE SA changes."""
    return frozenset(sa.spi_i + sa.spi_r for sa in status.ike_sas)


async def we_see_the_nat(session: Session) -> None:
    """The ends agree on who is behind a translator; all NAT cells begin with it."""
    (sa,) = (await session.status()).ike_sas
    (message,) = await session.list_sas()
    hidden = session.cell.lab.removeprefix("nat-")
    # kernel-libipsec always claims to be behind a translator itself, so each end is asked for its own side of ours.
    assert sa.nat_local is (hidden != "theirs"), "our end does not see the translator there is in front of it"
    assert ("nat-remote" in message[CONNECTION]) is sa.nat_local, "the peer sees another translator in front of us"


async def we_rekey_the_child(session: Session) -> None:
    before = await session.status()
    await session.act("rekey-child")
    await session.changed_from(before, child_spis, "child rekeyed by us")


async def they_rekey_the_child(session: Session) -> None:
    before = await session.status()
    await session.request("rekey", {"child": session.cell.nets[0].name})
    await session.changed_from(before, child_spis, "child rekeyed by the peer")


async def we_rekey_the_ike_sa(session: Session) -> None:
    before = await session.status()
    await session.act("rekey-ike")
    await session.changed_from(before, ike_spis, "IKE SA rekeyed by us")


async def they_rekey_the_ike_sa(session: Session) -> None:
    before = await session.status()
    await session.request("rekey", {"ike": CONNECTION})
    await session.changed_from(before, ike_spis, "IKE SA rekeyed by the peer")


async def both_rekey_the_child(session: Session) -> None:
    before = await session.status()
    await asyncio.gather(session.act("rekey-child"), session.request("rekey", {"child": session.cell.nets[0].name}))
    await session.changed_from(before, child_spis, "child rekeyed by both")


async def both_rekey_the_ike_sa(session: Session) -> None:
    before = await session.status()
    await asyncio.gather(session.act("rekey-ike"), session.request("rekey", {"ike": CONNECTION}))
    await session.changed_from(before, ike_spis, "IKE SA rekeyed by both")


async def they_reauthenticate(session: Session) -> None:
    before = await session.status()
    await session.request("rekey", {"ike": CONNECTION, "reauth": "yes"})
    await session.changed_from(before, ike_spis, "reauthenticated by the peer")


async def we_reauthenticate(session: Session) -> None:
    """Ours is due by ``reauth_s`` of the cell."""
    before = await session.status()
    await session.changed_from(before, ike_spis, "reauthenticated by us")


async def we_delete_the_ike_sa(session: Session) -> None:
    before = await session.status()
    await session.act("terminate" if session.initiator else "clear-ike")
    await session.until_theirs_gone()
    await session.until(lambda now: not now.ike_sas, "closed by us")
    if session.initiator:
        await session.act("initiate")
    else:
        await session.bring_up()
    await session.changed_from(before, ike_spis, "up again after our delete")


async def they_delete_the_ike_sa(session: Session) -> None:
    before = await session.status()
    await session.request("terminate", {"ike": CONNECTION, "timeout": "25000"})
    if not session.initiator:
        await session.until(lambda now: not now.ike_sas, "closed by the peer")
        await session.bring_up()
    await session.changed_from(before, ike_spis, "up again after the peer's delete")


async def we_delete_the_child(session: Session) -> None:
    before = await session.status()
    await session.act("clear-ipsec")
    if not session.initiator:
        await session.until(lambda now: not child_spis(now) & child_spis(before), "child closed by us")
        await session.until_theirs_without(child_spis(before))
        if not child_spis(await session.status()):
            await session.bring_up()
    await session.changed_from(before, child_spis, "child up again after our delete")


async def they_delete_the_child(session: Session) -> None:
    before = await session.status()
    await session.request("terminate", {"child": session.cell.nets[0].name, "timeout": "25000"})
    if not session.initiator:
        await session.until(lambda now: not child_spis(now) & child_spis(before), "child closed by the peer")
        if not child_spis(await session.status()):
            await session.bring_up()
    await session.changed_from(before, child_spis, "child up again after the peer's delete")


async def proofs_are_as_expected(session: Session) -> None:
    """Our status names the method that either end proved itself with."""
    (sa,) = (await session.status()).ike_sas
    assert session.cell.proof is not None
    expected = session.cell.proof.expected
    assert expected is None or (sa.local_auth, sa.remote_auth) == expected, f"{sa.local_auth}, {sa.remote_auth}"


async def messages_are_fragmented(session: Session) -> None:
    (sa,) = (await session.status()).ike_sas
    assert sa.fragmentation, "RFC 7383 was not agreed on"


async def we_refuse_the_peer(session: Session) -> None:
    """The peer's certificate is revoked: no SA, and an event that says why."""
    await _in_vain(session)
    await session.until_event("ike.certificate-revoked")
    assert not (await session.status()).children[0].sas, "a child with a revoked peer"


async def we_refuse_the_unknown(session: Session) -> None:
    """Nobody can say whether the peer's certificate is good, and we are told to insist."""
    await _in_vain(session)
    await session.until_event("ike.certificate-revocation-unknown")
    assert not (await session.status()).children[0].sas, "a child with a peer that could not be checked"


async def the_peer_refuses_us(session: Session) -> None:
    """Our certificate is revoked: strongSwan finds out and says AUTHENTICATION_FAILED."""
    await _in_vain(session)
    await session.until_event("ike.peer-refused-auth")
    assert not views.theirs(await session.list_sas()), "strongSwan took a revoked certificate"


async def _in_vain(session: Session) -> None:
    await session.prepare()
    try:
        await session.bring_up(IN_VAIN_S)
    except LabError:
        return
    assert session.initiator, "strongSwan says that it is up"


async def a_ppk_is_used(session: Session) -> None:
    (sa,) = (await session.status()).ike_sas
    assert sa.ppk, "the SA's keys do not depend on the PPK"


async def no_ppk_is_used(session: Session) -> None:
    (sa,) = (await session.status()).ike_sas
    assert not sa.ppk, "the peer has no PPK, so none can be in use"


async def the_child_came_on_its_own(session: Session) -> None:
    """A child of CREATE_CHILD_SA has a group of its own where PFS is configured; that of IKE_AUTH has none."""
    (sa,) = (await session.status()).children[0].sas
    assert sa.group == session.cell.pfs[0], "the child came with IKE_AUTH"


async def selectors_are_narrow(session: Session) -> None:
    """Both ends have the narrower of the two configured networks."""
    (sa,) = (await session.status()).children[0].sas
    assert (sa.local_ts, sa.remote_ts) == (("10.1.0.0/24",), ("10.2.0.0/24",))
    (message,) = await session.list_sas()
    (child,) = message[CONNECTION]["child-sas"].values()
    assert (child["local-ts"], child["remote-ts"]) == (["10.2.0.0/24"], ["10.1.0.0/24"])
