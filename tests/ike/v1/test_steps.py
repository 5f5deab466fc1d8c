"""Each step of a negotiation is an event, once, in order, at both ends: as FEATURES A23 numbers them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.config import ConnectionType, ExchangeMode, Retransmission
from agents.contract.events import STEPS
from agents.contract.status import TunnelState
from agents.ike.outputs import Transmit
from agents.ike.wire.isakmp.registry import Exchange, Flag
from tests.harness.documents import child, key, mirrored
from tests.harness.v1 import FAST_IKE as IKE
from tests.harness.v1 import LYON, PARIS, policy
from tests.harness.world import Host, Network, World, up

from .ends import CHILD, ESP, meet, sides, standing, start, the

IN_PLACE = ["child.established", "child.installed", "child.policies-installed"]
INITIATOR = ["ike.initiate", "ike.sa-requested", "ike.sa-established", "child.requested", *IN_PLACE]
RESPONDER = ["ike.sa-established", *IN_PLACE]
VOICE = child("voice", local=("10.3.0.0/16",), remote=("10.4.0.0/16",), proposals=(ESP,))


def steps(host: Host) -> list[str]:
    return [report.code for report in host.reports if report.code in STEPS]


def numbers(host: Host) -> list[int]:
    return [STEPS[code] for code in steps(host)]


def of_child(host: Host, name: str) -> list[str]:
    return [each.code for each in host.reports if each.attributes.get("child") == name and each.code in STEPS]


@pytest.mark.parametrize("mode", ExchangeMode)
class TestSuccess:
    def test_seven_steps_in_order_and_the_responder_begins_at_the_third(self, mode: ExchangeMode) -> None:
        ends = standing(sides(mode))
        assert steps(ends.paris) == INITIATOR
        assert steps(ends.lyon) == RESPONDER
        assert numbers(ends.paris) == [1, 2, 3, 4, 5, 6, 7]
        assert numbers(ends.lyon) == [3, 5, 6, 7]
        assert ends.lyon.codes()["ike.peer-initiates"] == 1  # which is no step: nobody there asked for anything

    def test_the_other_end_begins(self, mode: ExchangeMode) -> None:
        types = (ConnectionType.RESPONDER_ONLY, ConnectionType.INITIATOR_ONLY)
        ends = standing(sides(mode, types=types))
        assert steps(ends.lyon) == INITIATOR
        assert steps(ends.paris) == RESPONDER

    def test_several_children(self, mode: ExchangeMode) -> None:
        ends = standing(sides(mode, children=(CHILD, VOICE)))
        for name in ("main", "voice"):
            assert of_child(ends.paris, name) == ["child.requested", *IN_PLACE]
            assert of_child(ends.lyon, name) == IN_PLACE
        assert steps(ends.paris)[:3] == INITIATOR[:3]
        assert steps(ends.lyon)[0] == "ike.sa-established"
        assert sorted(numbers(ends.paris)) == [1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7]
        assert sorted(numbers(ends.lyon)) == [3, 5, 5, 6, 6, 7, 7]

    def test_a_rekey_tells_the_steps_of_phase_2_again(self, mode: ExchangeMode) -> None:
        ends = standing(sides(mode))
        since = (len(steps(ends.paris)), len(steps(ends.lyon)))
        ends.paris.do(ends.paris.engine.rekey_child, ends.paris.status().id)
        ends.world.run(0.4)
        assert steps(ends.paris)[since[0] :] == ["child.requested", *IN_PLACE[1:]]
        assert steps(ends.lyon)[since[1] :] == IN_PLACE[1:]
        assert ends.paris.codes()["child.rekeyed"] == ends.lyon.codes()["child.rekeyed"] == 1

    def test_a_new_phase_1_tells_those_of_phase_1_again(self, mode: ExchangeMode) -> None:
        ends = standing(sides(mode))
        since = (len(steps(ends.paris)), len(steps(ends.lyon)))
        ends.paris.do(ends.paris.engine.rekey_ike, ends.paris.status().id)
        ends.world.run(0.4)
        assert steps(ends.paris)[since[0] :] == INITIATOR[:3]
        assert steps(ends.lyon)[since[1] :] == RESPONDER[:1]

    def test_what_each_step_carries(self, mode: ExchangeMode) -> None:
        ends = standing(sides(mode))
        last = {ExchangeMode.MAIN: "6", ExchangeMode.AGGRESSIVE: "3"}[mode]
        for host, role in ((ends.paris, "initiator"), (ends.lyon, "responder")):
            for report in [each for each in host.reports if each.code in STEPS]:
                assert report.tunnel_id == host.status().id
                assert report.attributes.items() >= {"role": role, "version": "v1", "mode": str(mode)}.items()
            established = the(host, "ike.sa-established").attributes
            assert (established["phase"], established["message"]) == ("1", last)
            assert established["exchange"] == f"{mode}-mode"
            assert all(the(host, code).attributes["phase"] == "2" for code in IN_PLACE)
        assert the(ends.paris, "ike.initiate").attributes["phase"] == "1"
        assert the(ends.paris, "child.requested").attributes["exchange"] == "quick-mode"
        ours, theirs = (the(host, "child.established").attributes for host in (ends.paris, ends.lyon))
        assert (ours["spi_in"], ours["spi_out"]) == (theirs["spi_out"], theirs["spi_in"])
        assert ours["ike_sa"] == theirs["ike_sa"]


@pytest.mark.parametrize("mode", ExchangeMode)
class TestFailure:
    """A negotiation fails because a proposal is not accepted, or no answer comes in time; the step says which."""

    def test_no_ike_proposal(self, mode: ExchangeMode) -> None:
        left, right = sides(mode)
        left.retransmission = Retransmission(initial_ms=100, factor=1.0, tries=2)
        right.change(ike=policy(mode, replace(IKE, encryption="aes-256-cbc")))
        ends = start((left, right))
        ends.world.run(0.8)
        assert steps(ends.paris) == ["ike.initiate", "ike.sa-requested", "ike.sa-failed"]
        assert steps(ends.lyon) == ["ike.sa-failed"]
        assert failure(ends.paris) == "ikev1.proposal-refused-by-peer"
        assert failure(ends.lyon) == "ikev1.encryption-mismatch"
        assert "Mismatching encryption algorithm" in the(ends.lyon, "ike.sa-failed").message

    def test_timeout(self, mode: ExchangeMode) -> None:
        ends = start(sides(mode), Network(loss=1.0))
        ends.world.run(0.2)
        assert steps(ends.paris) == ["ike.initiate", "ike.sa-requested"]  # it may take time: the state says so
        assert ends.paris.state is TunnelState.NEGOTIATING
        assert ends.world.run(60, lambda: "ike.sa-failed" in ends.paris.codes())
        assert steps(ends.paris)[:3] == ["ike.initiate", "ike.sa-requested", "ike.sa-failed"]
        assert failure(ends.paris) == "ike.peer-unresponsive"
        assert the(ends.paris, "ike.sa-failed").message.endswith(
            f"The peer does not answer, in IKE phase 1, message 1 ({mode}-mode)"
        )
        assert steps(ends.lyon) == []

    def test_a_peer_that_begins_and_never_proves_itself(self, mode: ExchangeMode) -> None:
        last = {ExchangeMode.MAIN: 4, ExchangeMode.AGGRESSIVE: 2}[mode]
        encrypted = Flag.ENCRYPTED
        network = Network(rewrite=lambda sent: None if sent.datagram[19] & encrypted else sent)
        ends = start(sides(mode), network)
        assert ends.world.run(40, lambda: "ike.sa-failed" in ends.lyon.codes())
        assert steps(ends.lyon) == ["ike.sa-failed"]
        assert the(ends.lyon, "ike.sa-failed").message.endswith(
            f"the peer did not go on in time, in IKE phase 1, message {last} ({mode}-mode)"
        )
        assert not set(IN_PLACE) & set(steps(ends.paris))

    def test_wrong_key(self, mode: ExchangeMode) -> None:
        left, right = sides(mode)
        left.retransmission = Retransmission(initial_ms=100, factor=1.0, tries=2)
        right.keys = [key(b"another key than the one of Paris", LYON, PARIS)]
        ends = start((left, right))
        assert ends.world.run(35, lambda: all("ike.sa-failed" in host.codes() for host in (ends.paris, ends.lyon)))
        assert steps(ends.paris)[:3] == ["ike.initiate", "ike.sa-requested", "ike.sa-failed"]
        assert steps(ends.lyon)[0] == "ike.sa-failed"
        first = next(each for each in ends.paris.reports if each.code == "ike.sa-failed")
        assert first.attributes["cause"] == "ikev1.psk-mismatch"

    def test_no_ipsec_proposal(self, mode: ExchangeMode) -> None:
        left, right = sides(mode)
        right.change(children=(replace(mirrored(CHILD), proposals=(replace(ESP, encryption="aes-256-cbc"),)),))
        ends = meet((left, right))
        assert steps(ends.paris) == [*INITIATOR[:4], "child.failed"]
        assert steps(ends.lyon) == ["ike.sa-established", "child.failed"]
        assert the(ends.paris, "child.failed").attributes["cause"] == "child.peer-refused-proposal"
        assert the(ends.lyon, "child.failed").attributes["cause"] == "ikev1.child-encryption-mismatch"
        assert the(ends.paris, "child.failed").attributes["child"] == the(ends.lyon, "child.failed").attributes["child"]

    def test_traffic_selectors_that_do_not_meet(self, mode: ExchangeMode) -> None:
        left, right = sides(mode)
        right.change(children=(child(local=("10.8.0.0/16",), remote=("10.9.0.0/16",), proposals=(ESP,)),))
        ends = meet((left, right))
        assert steps(ends.paris)[-1] == steps(ends.lyon)[-1] == "child.failed"
        assert the(ends.paris, "child.failed").attributes["cause"] == "child.peer-refused-ts"
        assert the(ends.lyon, "child.failed").attributes["cause"] == "ikev1.selectors-mismatch"

    def test_one_child_of_two(self, mode: ExchangeMode) -> None:
        """The peer's refusal names the SPI, so each end fails the same child though both were asked for at once."""
        left, right = sides(mode, children=(CHILD, VOICE))
        wrong = replace(mirrored(VOICE), proposals=(replace(ESP, encryption="aes-256-cbc"),))
        right.change(children=(mirrored(CHILD), wrong))
        ends = meet((left, right))
        assert of_child(ends.paris, "main") == ["child.requested", *IN_PLACE]
        assert of_child(ends.paris, "voice") == ["child.requested", "child.failed"]
        assert of_child(ends.lyon, "main") == IN_PLACE
        assert of_child(ends.lyon, "voice") == ["child.failed"]
        assert ends.paris.state is ends.lyon.state is TunnelState.PARTLY_UP

    def test_no_answer_in_phase_2(self, mode: ExchangeMode) -> None:
        left, right = sides(mode)
        left.retransmission = Retransmission(initial_ms=100, factor=1.0, tries=3)
        network = Network(rewrite=lambda sent: None if sent.datagram[18] == Exchange.QUICK else sent)
        ends = start((left, right), network)
        assert ends.world.run(5, lambda: "child.failed" in ends.paris.codes())
        assert steps(ends.paris)[:5] == [*INITIATOR[:4], "child.failed"]
        failed = the(ends.paris, "child.failed")
        assert failed.attributes["cause"] == "ike.peer-unresponsive"
        assert failed.attributes["child"] == "main"

    def test_no_third_message_of_phase_2(self, mode: ExchangeMode) -> None:
        """The responder has its inbound SA in place, and takes it out again."""
        network = Network(rewrite=lambda sent: None if _third(sent) else sent)
        left, right = sides(mode)
        right.retransmission = Retransmission(initial_ms=100, factor=1.0, tries=3)
        ends = start((left, right), network)
        assert ends.world.run(5, lambda: "child.failed" in ends.lyon.codes())
        assert steps(ends.lyon) == ["ike.sa-established", "child.failed"]
        failed = the(ends.lyon, "child.failed")
        assert failed.message.endswith("The peer does not answer, in IKE phase 2, message 2 (quick-mode), child main")
        assert not ends.lyon.data_plane.sas

    def test_the_data_plane_refuses(self, mode: ExchangeMode) -> None:
        world = World()
        left, right = sides(mode)
        paris, lyon = world.host("paris", PARIS), world.host("lyon", LYON)
        paris.data_plane.refuse = "no room"
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(0.4)
        assert steps(paris)[-1] == "child.failed"
        assert the(paris, "child.failed").attributes["cause"] == "child.install-failed"
        assert not up(paris, lyon)()


def _third(sent: Transmit) -> bool:
    """Return whether it is the third message of a Quick Mode, which holds but a hash."""
    return sent.datagram[18] == Exchange.QUICK and len(sent.datagram) < 100


def failure(host: Host) -> str:
    return the(host, "ike.sa-failed").attributes["cause"]


def test_every_step_has_its_number() -> None:
    assert {STEPS[code] for code in INITIATOR} == set(range(1, 8))
    assert sorted(STEPS[code] for code in RESPONDER)[0] == 3
