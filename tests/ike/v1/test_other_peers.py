"""What other implementations do that ours does not: each was met in the lab with strongSwan or Libreswan."""

from __future__ import annotations

import pytest

from agents.contract.config import ExchangeMode, IkeProposal
from agents.ike.outputs import Transmit
from agents.ike.paths import NAT_PORT
from agents.ike.v1 import keymat
from agents.ike.v1.sa import IsakmpSa
from agents.ike.v1.states import SaState
from agents.ike.v1.tasks import info
from agents.ike.wire.header import Header, classify
from agents.ike.wire.isakmp import message as wire
from agents.ike.wire.isakmp.payloads import Hash, Notify
from agents.ike.wire.isakmp.registry import Exchange, NotifyType, Protocol
from tests.harness.v1 import ONE, Scene, machine, policy, runtime, sa_of
from tests.harness.world import Network, World
from tests.ike.v1.ends import the

GROUP_16 = IkeProposal(
    encryption="aes-128-cbc", integrity="hmac-sha2-256-128", prf="prf-hmac-sha2-256", group="group-16"
)
_MESSAGE_ID = 0x1234_5678


def refusal(sa: IsakmpSa, kind: NotifyType = NotifyType.AUTHENTICATION_FAILED, *, damaged: bool = False) -> bytes:
    """Return an Informational under the keys of a phase 1 under way, as its other end would send it."""
    notify = Notify(type=kind, protocol=Protocol.ISAKMP, spi=sa.cookie_i + sa.cookie_r)
    made = keymat.informational_hash(sa.suite.prf, sa.keys.skeyid_a, _MESSAGE_ID, wire.encode((notify,))[1])
    first, chain = wire.encode((Hash(data=bytes(len(made)) if damaged else made), notify))
    iv = keymat.exchange_iv(sa.suite.hash, sa.exchange.iv, _MESSAGE_ID, sa.suite.encryption.block_octets)
    header = Header(
        spi_i=sa.cookie_i, spi_r=sa.cookie_r, next_payload=0, exchange=Exchange.INFORMATIONAL, flags=0,
        message_id=_MESSAGE_ID, version=0x10,
    )  # fmt: skip
    return wire.serialize_encrypted(header, first, sa.cipher.seal(iv, chain))


def waiting_for_the_sixth() -> tuple[Scene, IsakmpSa]:
    """Return a scene in which Paris has said who it is and hears nothing of it."""

    def no_sixth(sent: Transmit) -> Transmit | None:
        encrypted = bool(classify(sent.datagram).flags)
        return None if encrypted and sent.path.local_address == scene.lyon.addresses[0] else sent

    scene = Scene(world=World(0, Network(rewrite=no_sixth)))
    scene.start()
    scene.world.run(0.3)
    (sa,) = machine(scene.paris).sas.values()
    assert sa.state is SaState.ID_SENT
    return scene, sa


def test_a_refusal_under_the_keys_of_phase_1_ends_it() -> None:
    """strongSwan protects what it says of a failed authentication."""
    scene, sa = waiting_for_the_sixth()
    scene.paris.do(lambda now: scene.paris.engine.receive(refusal(sa), sa.path, now))
    assert scene.paris.codes()["ike.peer-refused-auth"] == 1
    assert not sa.progressing
    reason = scene.paris.status().reason
    assert reason is not None
    assert reason.code == "ike.peer-refused-auth"


def test_a_status_under_the_keys_of_phase_1_ends_nothing() -> None:
    scene, sa = waiting_for_the_sixth()
    datagram = refusal(sa, NotifyType.INITIAL_CONTACT)
    scene.paris.do(lambda now: scene.paris.engine.receive(datagram, sa.path, now))
    assert sa.state is SaState.ID_SENT


def test_what_cannot_be_read_under_the_keys_of_phase_1_only_tells_why() -> None:
    """Somebody with another pre-shared key sends such a thing, or anybody who saw the cookies."""
    scene, sa = waiting_for_the_sixth()
    for datagram in (refusal(sa, damaged=True), refusal(sa)[:-16] + bytes(16)):
        scene.paris.do(lambda now, sent=datagram: scene.paris.engine.receive(sent, sa.path, now))
    told = the(scene.paris, "ikev1.psk-mismatch")  # once, however often the peer says so
    assert told.message.endswith("cannot be read, in IKE phase 1 (informational-v1)")
    assert told.attributes["phase"] == "1"
    assert scene.paris.codes()["drop.duplicate"] == 1
    assert scene.paris.codes()["ike.peer-refused-auth"] == 0
    assert sa.state is SaState.ID_SENT


def test_the_first_answer_of_aggressive_mode_may_come_in_fragments() -> None:
    """The vendor ID that announces fragments is in the very message that is cut."""
    scene = Scene(ike=policy(ExchangeMode.AGGRESSIVE, GROUP_16, fragment_octets=576)).come_up()
    first = [each.octets for each in scene.world.log if each.sender == "lyon"][:2]
    assert [classify(each).next_payload for each in first] == [132, 132]


def test_an_end_that_only_answers_rekeys_children_all_the_same() -> None:
    scene = Scene(types=ONE).come_up()
    before = {child.spi_in for child in runtime(scene.lyon).children}
    tunnel_id = scene.right.tunnels[0].id
    scene.lyon.do(scene.lyon.engine.rekey_child, tunnel_id)
    scene.world.run(10)
    scene.check()
    assert not before & {child.spi_in for child in runtime(scene.lyon).children}


def test_a_new_phase_1_begins_where_a_nat_left_the_old_one() -> None:
    """RFC 3947 section 4: from port 4500 to the port that the peer is at now."""
    scene = Scene(force_udp_encapsulation=True).come_up()
    begin, path = len(scene.world.log), sa_of(scene.paris).path
    assert path.local_port == NAT_PORT
    scene.paris.do(scene.paris.engine.rekey_ike, scene.left.tunnels[0].id)
    scene.world.run(1)
    first = scene.world.log[begin]
    assert classify(first.octets).spi_r == bytes(8)
    assert first.path == path
    scene.world.run(20)
    scene.check()


@pytest.mark.parametrize("spi", [b"", bytes(4)])
def test_a_refusal_that_names_no_spi_is_of_the_quick_mode_under_way(spi: bytes) -> None:
    """strongSwan has a field for it and leaves it 0 when it has chosen nothing."""

    def no_quick_mode(sent: Transmit) -> Transmit | None:
        answer = sent.path.local_address == scene.lyon.addresses[0]
        return None if answer and classify(sent.datagram).exchange == Exchange.QUICK else sent

    scene = Scene(world=World(0, Network(rewrite=no_quick_mode)))
    scene.start()
    scene.world.run(0.3)
    notify = Notify(type=NotifyType.NO_PROPOSAL_CHOSEN, protocol=Protocol.ESP, spi=spi)
    scene.lyon.do(lambda now: info.send(sa_of(scene.lyon), (notify,), now))
    scene.world.run(0.2)
    assert scene.paris.codes()["child.peer-refused-proposal"] == 1
