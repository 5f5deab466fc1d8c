"""Against Debian's strongSwan: each side starts, rekeys and deletes; pings both ways after each step.

strongSwan's ESP is its kernel-libipsec, ours the userspace data plane; both run in network namespaces.
"""

from __future__ import annotations

import signal

import pytest

from agents.contract.config import ConnectionType
from deploy.lab.netns import LabError
from tests.interop.peer import SUITES, Pair, child_spi, ike_spi
from tests.interop.rig import is_up

pytestmark = [pytest.mark.lab, pytest.mark.needs("strongswan"), pytest.mark.timeout(180)]


@pytest.mark.parametrize("initiator", [True, False], ids=["initiator", "responder"])
@pytest.mark.parametrize("pair", list(SUITES), indirect=True)
async def test_a_whole_life(pair: Pair, initiator: bool) -> None:
    """Up, rekeys by each side, deletes by each side; traffic after each."""
    ours, suite = pair.ours, pair.suite
    await pair.configure(ConnectionType.INITIATOR_ONLY if initiator else ConnectionType.RESPONDER_ONLY)
    if not initiator:
        await pair.swanctl("--initiate", "--child", "net")
    status = await pair.up_and_carrying()
    assert status.ike_sas[0].initiator is initiator
    assert status.ike_sas[0].encryption == suite.ike.encryption
    assert status.children[0].sas[0].encryption == suite.esp.encryption
    assert status.children[0].sas[0].udp_encapsulation

    await ours.act("rekey-child", pair.tunnel_id)
    status = await pair.rekeyed(status, child_spi)
    await pair.swanctl("--rekey", "--child", "net")
    status = await pair.rekeyed(status, child_spi)
    assert status.children[0].sas[0].group == (suite.pfs[0] if suite.pfs else None)
    await ours.act("rekey-ike", pair.tunnel_id)
    status = await pair.rekeyed(status, ike_spi)
    await pair.swanctl("--rekey", "--ike", "ours")
    status = await pair.rekeyed(status, ike_spi)
    packets = status.counters.packets_in
    assert packets == 4 * 6  # six echo packets a step, through four pairs of SAs; the last step came after the status

    await pair.swanctl("--terminate", "--ike", "ours")
    await pair.theirs_gone()
    if not initiator:
        await ours.until(lambda now: not now.ike_sas, "closed by the peer")
        await pair.swanctl("--initiate", "--child", "net")
    status = await pair.rekeyed(status, ike_spi)
    assert status.counters.packets_in > packets

    # A terminated tunnel stays down until it is initiated again; a cleared one takes the peer's next attempt.
    await ours.act("terminate" if initiator else "clear-ike", pair.tunnel_id)
    await pair.theirs_gone()
    await ours.until(lambda now: not now.ike_sas, "closed by us")
    if initiator:
        await ours.act("initiate", pair.tunnel_id)
    else:
        await pair.swanctl("--initiate", "--child", "net")
    await pair.rekeyed(status, ike_spi)


async def test_a_killed_iked_comes_back_and_the_peer_keeps_one_sa(pair: Pair) -> None:
    await pair.configure(ConnectionType.INITIATOR_ONLY)
    before = await pair.up_and_carrying()
    await pair.ours.disconnect()
    pair.ours.stop("iked", signal.SIGKILL)
    pair.ours.start("iked")
    await pair.ours.connect()
    await pair.configure(ConnectionType.INITIATOR_ONLY)
    after = await pair.up_and_carrying()
    assert ike_spi(after) != ike_spi(before)
    # INITIAL_CONTACT makes strongSwan drop the SA of the killed process; it looks for dead peers no other way.
    await pair.until_theirs(lambda sas: len(sas) == 1, "one SA")


async def test_a_killed_espd_comes_back_with_fresh_keys_and_nobody_asked(pair: Pair) -> None:
    await pair.configure(ConnectionType.INITIATOR_ONLY)
    before = await pair.up_and_carrying()
    pair.ours.stop("espd", signal.SIGKILL)
    pair.ours.start("espd")
    after = await pair.ours.until(lambda now: is_up(now) and child_spi(now) != child_spi(before), "up again")
    assert after.counters.packets_in >= before.counters.packets_in
    pair.ours.route()  # the new TUN; agentd's part
    await pair.up_and_carrying()
    events = await pair.ours.events()
    assert any(event.startswith("agent.component-lost") for event in events)
    assert any(event.startswith("agent.component-back") for event in events)


async def test_a_polite_end_leaves_nothing_at_the_peer_or_here(pair: Pair) -> None:
    await pair.configure(ConnectionType.INITIATOR_ONLY)
    await pair.up_and_carrying()
    await pair.ours.disconnect()
    pair.ours.stop("iked")
    await pair.theirs_gone()
    assert "vpn" not in pair.ours.namespace.ip("-o", "link")


async def test_another_key_is_told_on_our_side(pair: Pair) -> None:
    await pair.configure(ConnectionType.INITIATOR_ONLY, secret=b"not theirs")
    status = await pair.ours.until(lambda now: now.reason is not None, "a reason")
    assert status.reason is not None
    assert status.reason.code == "ike.peer-refused-auth"
    assert status.reason.field == "preshared_keys"


async def test_a_peer_with_another_key_is_refused_and_named(pair: Pair) -> None:
    await pair.configure(ConnectionType.RESPONDER_ONLY, secret=b"not theirs")
    with pytest.raises(LabError):
        await pair.swanctl("--initiate", "--child", "net")
    assert any(event.startswith("ike.psk-mismatch") for event in await pair.ours.events())
