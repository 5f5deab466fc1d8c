"""The less straight ways to a tunnel with strongSwan: another group, narrower networks, both acting at once."""

from __future__ import annotations

import asyncio

import pytest

from agents.contract.config import ConnectionType, IkeProposal
from tests.interop.peer import SUITES, Pair, child_spi, ike_spi, swanctl_conf
from tests.interop.rig import is_up

pytestmark = [pytest.mark.lab, pytest.mark.needs("strongswan"), pytest.mark.timeout(300)]

INITIATOR, RESPONDER, BOTH = ConnectionType.INITIATOR_ONLY, ConnectionType.RESPONDER_ONLY, ConnectionType.BOTH
CURVE25519_FIRST = IkeProposal(
    encryption="aes-256-cbc", integrity="hmac-sha2-256-128", prf="prf-hmac-sha2-256", group="group-31"
)


@pytest.mark.parametrize("pair", ["aes-cbc, group 14"], indirect=True)
async def test_the_peer_asks_us_for_another_group(pair: Pair) -> None:
    """We guess group 31, strongSwan has 14 only: INVALID_KE_PAYLOAD, RFC 7296 section 1.2."""
    await pair.configure(INITIATOR, also=(CURVE25519_FIRST,))
    status = await pair.up_and_carrying()
    assert status.ike_sas[0].group == "group-14"
    assert any(event.startswith("ike.group-changed") for event in await pair.ours.events())


@pytest.mark.parametrize("pair", ["aes-cbc, group 14"], indirect=True)
async def test_we_ask_the_peer_for_another_group(pair: Pair) -> None:
    conf = swanctl_conf(pair.suite).replace(
        "proposals = aes256-sha256-prfsha256-", "proposals = aes256-sha256-prfsha256-x25519-"
    )
    pair.theirs.reload(conf)
    await pair.configure(RESPONDER)
    await pair.swanctl("--initiate", "--child", "net")
    assert (await pair.up_and_carrying()).ike_sas[0].group == "group-14"


@pytest.mark.parametrize("initiator", [True, False])
async def test_a_wider_network_is_narrowed_to_ours(pair: Pair, initiator: bool) -> None:
    pair.theirs.reload(swanctl_conf(pair.suite, remote_ts="10.1.0.0/16"))
    await pair.configure(INITIATOR if initiator else RESPONDER)
    if not initiator:
        await pair.swanctl("--initiate", "--child", "net")
    status = await pair.up_and_carrying()
    assert status.children[0].sas[0].local_ts == ("10.1.0.0/24",)
    assert status.children[0].sas[0].remote_ts == ("10.2.0.0/24",)


async def test_networks_that_do_not_meet_are_named(pair: Pair) -> None:
    pair.theirs.reload(swanctl_conf(pair.suite, remote_ts="10.77.0.0/16"))
    await pair.configure(INITIATOR)
    status = await pair.ours.until(lambda now: now.reason is not None, "a reason")
    assert status.reason is not None
    assert status.reason.code == "child.peer-refused-ts"
    assert status.reason.field == "children.local_ts"


@pytest.mark.parametrize("pair", ["aes-gcm, group 31"], indirect=True)
async def test_ciphers_that_do_not_meet_are_named(pair: Pair) -> None:
    pair.theirs.reload(swanctl_conf(SUITES["aes-cbc, group 14"]))
    await pair.configure(INITIATOR)
    status = await pair.ours.until(lambda now: now.reason is not None, "a reason")
    assert status.reason is not None
    assert status.reason.code == "ike.peer-refused-proposal"


async def test_both_rekey_at_once_and_one_pair_of_sas_stays(pair: Pair) -> None:
    await pair.configure(INITIATOR)
    status = await pair.up_and_carrying()
    for _ in range(3):
        await asyncio.gather(pair.ours.act("rekey-child", pair.tunnel_id), pair.swanctl("--rekey", "--child", "net"))
        status = await pair.rekeyed(status, child_spi)
    for _ in range(3):
        await asyncio.gather(pair.ours.act("rekey-ike", pair.tunnel_id), pair.swanctl("--rekey", "--ike", "ours"))
        status = await pair.rekeyed(status, ike_spi)


async def test_both_start_at_once_and_one_tunnel_is_kept(pair: Pair) -> None:
    pair.theirs.reload(swanctl_conf(pair.suite, start=True))
    await pair.configure(BOTH)
    await pair.up_and_carrying()
    await pair.ours.until(is_up, "one IKE SA and one child")


async def test_a_child_alone_is_deleted_by_either_side_and_asked_for_again(pair: Pair) -> None:
    await pair.configure(INITIATOR)
    status = await pair.up_and_carrying()
    before = ike_spi(status)
    await pair.swanctl("--terminate", "--child", "net")
    status = await pair.rekeyed(status, child_spi)
    await pair.ours.act("clear-ipsec", pair.tunnel_id)
    status = await pair.rekeyed(status, child_spi)
    assert ike_spi(status) == before


async def test_the_peer_authenticates_anew(pair: Pair) -> None:
    """strongSwan's reauthentication: it deletes the IKE SA and makes another."""
    await pair.configure(RESPONDER)
    await pair.swanctl("--initiate", "--child", "net")
    status = await pair.up_and_carrying()
    await pair.swanctl("--rekey", "--ike", "ours", "--reauth")
    await pair.rekeyed(status, ike_spi)
