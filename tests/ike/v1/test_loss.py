"""IKEv1 over a network that loses or repeats one message: every one of each exchange, and the ending is the same.

Whoever waits for a message sends its own again; whoever gets one again answers it again, from memory. For the last
messages of Aggressive Mode and Quick Mode, and for Deletes, nobody waits: :mod:`agents.ike.v1.unanswered`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agents.contract.config import ExchangeMode
from agents.ike.outputs import Transmit
from agents.ike.v1.exchange import MOST_REPEATS
from tests.harness.v1 import BOTH, MODES, ONE, Scene, child, cookies, left_behind, machine, policy, runtime
from tests.harness.world import Host, matched, up

MAIN, AGGRESSIVE = MODES
_QUICK, _INFORMATIONAL = 32, 5
modes = pytest.mark.parametrize("mode", MODES)


def losing(*numbers: int) -> Callable[[Transmit], Transmit | None]:
    """Lose the datagrams of these numbers, counted from 1 in the order in which they are first sent."""
    seen: dict[bytes, int] = {}
    lost: set[bytes] = set()

    def rewrite(transmit: Transmit) -> Transmit | None:
        number = seen.setdefault(transmit.datagram, len(seen) + 1)
        if number in numbers and transmit.datagram not in lost:
            lost.add(transmit.datagram)
            return None
        return transmit

    return rewrite


def without(exchange: int, times: int = 1_000) -> Callable[[Transmit], Transmit | None]:
    """Lose so many datagrams of an exchange type."""
    left = [times]

    def rewrite(transmit: Transmit) -> Transmit | None:
        if transmit.datagram[18] == exchange and left[0]:
            left[0] -= 1
            return None
        return transmit

    return rewrite


def ended_well(scene: Scene) -> None:
    scene.world.run(60)
    scene.check()
    for host in scene.hosts:
        assert len(host.data_plane.sas) == len(host.data_plane.policies) == 2
        assert len(machine(host).sas) == 1


class TestEachMessage:
    @pytest.mark.parametrize("number", range(1, 10))
    def test_of_main_and_quick_mode_lost(self, number: int) -> None:
        scene = Scene(MAIN)
        scene.world.network.rewrite = losing(number)
        scene.start()
        assert scene.world.run(20, up(*scene.hosts))
        ended_well(scene)
        assert scene.paris.codes()["child.established"] == scene.lyon.codes()["child.established"] == 1
        assert scene.paris.codes()["ike.sa-established"] == 1

    @pytest.mark.parametrize("number", range(1, 7))
    def test_of_aggressive_and_quick_mode_lost(self, number: int) -> None:
        scene = Scene(AGGRESSIVE)
        scene.world.network.rewrite = losing(number)
        scene.start()
        assert scene.world.run(20, up(*scene.hosts))
        ended_well(scene)
        assert scene.paris.codes()["child.established"] == scene.lyon.codes()["child.established"] == 1
        assert scene.paris.codes()["ike.sa-established"] == 1

    @pytest.mark.parametrize("first", range(1, 7))
    @pytest.mark.parametrize("second", range(2, 10))
    @modes
    def test_two_lost(self, mode: ExchangeMode, first: int, second: int) -> None:
        scene = Scene(mode)
        scene.world.network.rewrite = losing(first, first + second)
        scene.start()
        assert scene.world.run(40, up(*scene.hosts))
        ended_well(scene)

    @modes
    def test_all_come_twice(self, mode: ExchangeMode) -> None:
        scene = Scene(mode)
        scene.world.network.duplicates = 1.0
        scene.start()
        scene.world.run(5)
        assert len(scene.world.log) < 30, "a repeated last message is not answered, or both would go on"
        ended_well(scene)

    @modes
    def test_all_come_late(self, mode: ExchangeMode) -> None:
        """Slower than the first repetition: every message comes once more, and is told apart."""
        scene = Scene(mode)
        scene.world.network.delay_s = (1.5, 1.6)
        scene.start()
        assert scene.world.run(60, up(*scene.hosts))
        ended_well(scene)

    @modes
    def test_of_a_rekey_lost(self, mode: ExchangeMode) -> None:
        for number in (1, 2, 3):
            scene = Scene(mode).come_up()
            scene.world.network.rewrite = losing(number)
            scene.paris.do(scene.paris.engine.rekey_child, scene.paris.status().id)
            ended_well(scene)
            assert scene.paris.codes()["child.rekeyed"] == scene.lyon.codes()["child.rekeyed"] == 1

    @modes
    def test_of_a_renewal_lost(self, mode: ExchangeMode) -> None:
        for number in range(1, 8):
            scene = Scene(mode).come_up()
            before = cookies(scene.paris)
            scene.world.network.rewrite = losing(number)
            scene.paris.do(scene.paris.engine.rekey_ike, scene.paris.status().id)
            ended_well(scene)
            assert not before & cookies(scene.paris)


class TestRepetitions:
    def test_an_answer_is_repeated_so_often_and_no_more(self) -> None:
        scene = Scene(MAIN)
        scene.lyon.configure(scene.right.document())
        scene.world.network.rewrite = lambda each: each if each.path.local_address == "192.0.2.1" else None
        scene.paris.configure(scene.left.document())
        scene.world.run(1)
        first = scene.world.log[0]
        for _ in range(50):
            scene.world.deliver(Transmit(path=first.path, datagram=first.octets), 0.01)
        scene.world.run(1)
        assert len([each for each in scene.world.log if each.sender == "lyon"]) <= MOST_REPEATS + 1

    def test_the_last_message_of_quick_mode_is_not_answered(self) -> None:
        scene = Scene(MAIN).come_up()
        last, since = scene.world.log[8], len(scene.world.log)
        for _ in range(20):
            scene.world.deliver(Transmit(path=last.path, datagram=last.octets), 0.01)
        scene.world.run(0.1)
        assert len(scene.world.log) == since

    def test_an_informational_counts_once(self) -> None:
        scene = Scene(MAIN, types=BOTH).come_up(rest_s=15)
        since = len(scene.world.log)
        scene.paris.do(scene.paris.engine.clear_ipsec, scene.paris.status().id)
        scene.world.run(30)
        scene.check()
        (delete, *_) = [each for each in scene.world.log[since:] if each.octets[18] == _INFORMATIONAL]
        for _ in range(5):
            scene.world.deliver(Transmit(path=delete.path, datagram=delete.octets), 0.01)
        scene.world.run(1)
        scene.check()
        assert scene.lyon.codes()["ikev1.delete-received"] == 1


class TestLastMessageOfAggressiveMode:
    def test_lost_again_and_again(self) -> None:
        """The initiator stands and the responder does not: Quick Mode brings the third message along each time."""
        scene = Scene(AGGRESSIVE)
        scene.world.network.rewrite = losing(3, 4, 5)
        scene.start()
        assert scene.world.run(20, up(*scene.hosts))
        ended_well(scene)

    def test_lost_where_nothing_is_asked_for(self) -> None:
        """A renewal: no Quick Mode follows, and the responder would let its half of the SA go after 30 seconds."""
        scene = Scene(AGGRESSIVE, ike=policy(AGGRESSIVE, dpd_interval_s=0)).come_up()
        scene.world.network.rewrite = losing(3)
        scene.paris.do(scene.paris.engine.rekey_ike, scene.paris.status().id)
        scene.world.run(4)
        assert len(cookies(scene.paris)) == len(cookies(scene.lyon)) == 2
        ended_well(scene)

    def test_is_sent_again_only_until_the_peer_is_heard(self) -> None:
        scene = Scene(AGGRESSIVE).come_up(rest_s=25)
        third = scene.world.log[2].octets
        assert [each.octets for each in scene.world.log].count(third) == 1


class TestLastMessageOfQuickMode:
    def test_lost_until_the_responder_gives_up(self) -> None:
        """The initiator has the SAs, the responder not: it says that it has given up, and they are made anew."""
        scene = Scene(MAIN).start()
        scene.world.run(0.075)
        assert [each.octets[18] for each in scene.world.log][-2:] == [_QUICK, _QUICK]
        network = scene.world.network
        network.rewrite = lambda each: None if each.datagram[18] == _QUICK else each
        scene.world.run(100, lambda: not scene.lyon.data_plane.sas)
        assert scene.lyon.codes()["child.established"] == 0
        network.rewrite = None
        scene.world.run(30)
        ended_well(scene)


class TestDeletes:
    @pytest.mark.parametrize("times", [1, 2, 3])
    @pytest.mark.parametrize("whose", [0, 1])
    def test_of_a_child_lost(self, whose: int, times: int) -> None:
        scene = Scene(MAIN, types=ONE, ike=policy(MAIN, dpd_interval_s=0)).come_up()
        scene.world.network.rewrite = without(_INFORMATIONAL, times)
        host, other = scene.hosts[whose], scene.hosts[1 - whose]
        was = set(host.data_plane.sas)
        host.do(host.engine.clear_ipsec, host.status().id)
        scene.world.run(60)
        assert not was & set(other.data_plane.sas)
        ended_well(scene)

    @pytest.mark.parametrize("times", [1, 2, 4, 5, 6])
    @pytest.mark.parametrize("whose", [0, 1])
    @modes
    def test_of_a_tunnel_lost(self, mode: ExchangeMode, whose: int, times: int) -> None:
        scene = Scene(mode, types=BOTH, ike=policy(mode, dpd_interval_s=0)).come_up(rest_s=15)
        scene.world.network.rewrite = without(_INFORMATIONAL, times)
        host = scene.hosts[whose]
        host.do(host.engine.terminate, host.status().id)
        scene.world.run(60)
        for each in scene.hosts:
            assert each.data_plane.sas == {}
            assert not cookies(each)
            assert left_behind(each) is None

    def test_go_out_four_times(self) -> None:
        scene = Scene(MAIN).come_up()
        since = len(scene.world.log)
        scene.paris.do(scene.paris.engine.terminate, scene.paris.status().id)
        scene.world.run(120)
        sent = [each for each in scene.world.log[since:] if each.sender == "paris"]
        assert [round(each.at - sent[0].at) for each in sent] == [0, 0, 1, 1, 5, 5, 21, 21]
        assert len({each.octets for each in sent}) == 2
        assert machine(scene.paris).sas == machine(scene.lyon).sas == {}

    @modes
    def test_all_lost(self, mode: ExchangeMode) -> None:
        """The peer misses us in time: its check of liveness gets no answer."""
        scene = Scene(mode, types=BOTH, ike=policy(mode, dpd_interval_s=10)).come_up(rest_s=15)
        scene.world.network.rewrite = without(_INFORMATIONAL)
        scene.paris.do(scene.paris.engine.terminate, scene.paris.status().id)
        scene.world.run(120)
        assert scene.lyon.data_plane.sas == {}
        assert not cookies(scene.lyon)

    @modes
    def test_of_the_children_lost_and_of_phase_1_not(self, mode: ExchangeMode) -> None:
        """The peer has children and nobody to ask: they count as lost when no ESP came for as long as asking takes."""
        scene = Scene(mode, ike=policy(mode, dpd_interval_s=10)).come_up()
        told: list[bytes] = []

        def children_only(each: Transmit) -> Transmit | None:
            if each.datagram[18] == _INFORMATIONAL:
                told.append(each.datagram)
            return None if told[:1] == [each.datagram] else each

        scene.world.network.rewrite = children_only
        scene.paris.do(scene.paris.engine.terminate, scene.paris.status().id)
        scene.world.run(10)
        assert not cookies(scene.lyon)
        assert len(scene.lyon.data_plane.sas) == 2
        for _ in range(20):
            scene.lyon.do(scene.lyon.engine.traffic_seen, scene.lyon.status().id)
            scene.world.run(10)
        assert len(scene.lyon.data_plane.sas) == 2, "ESP comes: the peer is there"
        scene.world.run(200)
        assert scene.lyon.data_plane.sas == {}
        assert scene.lyon.codes()["ike.dpd-restart"] == 1

    def test_that_overtakes_the_answer_it_is_about(self) -> None:
        """::

        HDR*, HASH(1), SA ...      -->
                                   <--  HDR*, HASH(2), SA ...     slow
                                   <--  HDR*, HASH(1), D          the responder's operator clears at once
        """
        scene = Scene(MAIN)
        late: list[Transmit] = []

        def slow(each: Transmit) -> float:
            is_answer = each.datagram[18] == _QUICK and each.path.local_address == "192.0.2.2"
            if is_answer:
                late.append(each)
            return 0.5 if is_answer else 0.0

        scene.world.network.lag_s = slow
        scene.start()
        assert scene.world.run(5, lambda: bool(late))
        scene.lyon.do(scene.lyon.engine.clear_ipsec, scene.lyon.status().id)
        scene.world.run(0.6)
        assert scene.paris.data_plane.sas == scene.lyon.data_plane.sas == {}
        ended_well(scene)


class TestSilence:
    @modes
    def test_a_negotiation_with_nobody_backs_off(self, mode: ExchangeMode) -> None:
        scene = Scene(mode)
        scene.paris.configure(scene.left.document())
        scene.world.run(600)
        assert 3 <= scene.paris.codes()["ike.initiate"] <= 12
        assert scene.paris.status().reason is not None
        assert len(machine(scene.paris).sas) <= 1

    @modes
    def test_a_responder_lets_go_of_what_is_not_continued(self, mode: ExchangeMode) -> None:
        scene = Scene(mode)
        scene.world.network.rewrite = losing(*range(3, 40))
        scene.start()
        scene.world.run(3)
        scene.left.change(enabled=False)
        scene.paris.configure(scene.left.document())
        scene.world.run(60)
        assert machine(scene.lyon).sas == {}
        assert not machine(scene.lyon).door.half_open
        assert machine(scene.lyon).door.requests == {}

    def test_an_unanswered_quick_mode_of_a_peer_that_is_there(self) -> None:
        """Only Quick Mode gets lost: phase 1 stays, and the child comes once it gets through."""
        scene = Scene(MAIN, ike=policy(MAIN, dpd_interval_s=5)).come_up()
        before = cookies(scene.paris)
        scene.world.network.rewrite = without(_QUICK)
        scene.paris.do(scene.paris.engine.clear_ipsec, scene.paris.status().id)
        scene.world.run(100)
        scene.world.network.rewrite = None
        scene.world.run(60)
        scene.check()
        assert cookies(scene.paris) == before

    def test_a_rekey_without_answer_is_tried_again(self) -> None:
        scene = Scene(MAIN, ike=policy(MAIN, dpd_interval_s=5), children=(child(lifetime_s=3_000),)).come_up()
        scene.world.network.rewrite = without(_QUICK)
        scene.paris.do(scene.paris.engine.rekey_child, scene.paris.status().id)
        scene.world.run(100)
        (made,) = runtime(scene.paris).children
        assert made.rekey_at is not None or runtime(scene.paris).children.quick
        scene.world.network.rewrite = None
        scene.world.run(60)
        scene.check()
        assert scene.paris.codes()["child.rekeyed"] == 1


def test_a_phase_1_that_fails_leaves_no_state_at_either_end() -> None:
    def settled(host: Host) -> bool:
        return machine(host).sas == {} and left_behind(host) is None

    for mode in MODES:
        for last in range(1, 6):
            scene = Scene(mode)
            scene.world.network.rewrite = losing(*range(last, 200))
            scene.start()
            scene.world.run(1)
            scene.left.change(enabled=False)
            scene.paris.configure(scene.left.document())
            scene.world.run(100)
            assert all(settled(host) for host in scene.hosts)
            assert matched(*scene.hosts)
