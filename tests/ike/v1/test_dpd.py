"""A peer that stops answering (RFC 3706): when it is asked, and what happens then (``dpd_action``)."""

from __future__ import annotations

import pytest

from agents.contract.config import ConnectionType, DpdAction, ExchangeMode
from agents.contract.status import TunnelState
from agents.ike.outputs import RemoveChild, Transmit
from tests.harness.v1 import BOTH, MODES, VOICE, Scene, child, cookies, left_behind, policy, runtime, sa_of
from tests.harness.world import Host, up

MAIN, AGGRESSIVE = MODES
_INFORMATIONAL = 5
modes = pytest.mark.parametrize("mode", MODES)
actions = pytest.mark.parametrize("action", list(DpdAction))


def standing(mode: ExchangeMode = MAIN, action: DpdAction = DpdAction.RESTART, **changes: object) -> Scene:
    scene = Scene(mode, ike=policy(mode, dpd_interval_s=10, dpd_action=action), **changes)  # type: ignore[arg-type]
    return scene.come_up(rest_s=15 if "types" in changes else 0.5)


def silence(scene: Scene) -> None:
    def rewrite(_: Transmit) -> Transmit | None:
        return None

    scene.world.network.rewrite = rewrite


def lost(mode: ExchangeMode, action: DpdAction, **changes: object) -> Scene:
    """Let lyon vanish until paris has noticed."""
    scene = standing(mode, action, **changes)
    silence(scene)
    assert scene.world.run(200, lambda: scene.paris.codes()["ike.dpd-failed"] == 1)
    return scene


def attempts(host: Host) -> int:
    return host.codes()["ike.initiate"]


class TestAsking:
    def test_only_when_nothing_was_heard(self) -> None:
        """::

        paris                                        lyon
        HDR*, HASH(1), N(R-U-THERE, 7)       -->             10 s after anything came
                                             <--     HDR*, HASH(1), N(R-U-THERE-ACK, 7)
        """
        scene = standing()
        scene.world.run(1)
        since = len(scene.world.log)
        scene.world.run(11)
        told = scene.exchanges(since)
        assert len(told) == 2
        assert {exchange for _, exchange in told} == {_INFORMATIONAL}

    @pytest.mark.parametrize("heard", ["esp", "ike"])
    def test_traffic_spares_it(self, heard: str) -> None:
        scene = standing()
        before = [sa_of(host).dpd.sequence for host in scene.hosts]
        for _ in range(6):
            scene.world.run(6)
            if heard == "esp":
                for host in scene.hosts:
                    host.do(host.engine.traffic_seen, host.status().id)
            else:
                scene.paris.do(scene.paris.engine.rekey_child, scene.paris.status().id)
        assert [sa_of(host).dpd.sequence for host in scene.hosts] == before

    @modes
    def test_a_lost_question_and_a_lost_answer(self, mode: ExchangeMode) -> None:
        scene = standing(mode)
        left = [3]

        def rewrite(each: Transmit) -> Transmit | None:
            if each.datagram[18] == _INFORMATIONAL and left[0]:
                left[0] -= 1
                return None
            return each

        scene.world.network.rewrite = rewrite
        before = cookies(scene.paris)
        scene.world.run(60)
        scene.check()
        assert cookies(scene.paris) == before

    @modes
    def test_off(self, mode: ExchangeMode) -> None:
        scene = Scene(mode, ike=policy(mode, dpd_interval_s=0)).come_up(rest_s=5)
        since = len(scene.world.log)
        silence(scene)
        scene.world.run(1_000)
        assert scene.exchanges(since) == []
        assert scene.paris.state is TunnelState.UP

    @modes
    def test_one_end_only(self, mode: ExchangeMode) -> None:
        scene = Scene(mode)
        scene.left.change(ike=policy(mode, dpd_interval_s=10))
        scene.right.change(ike=policy(mode, dpd_interval_s=0))
        scene.come_up()
        scene.world.run(300)
        scene.check()
        silence(scene)
        scene.world.run(200)
        assert scene.paris.codes()["ike.dpd-failed"] == 1
        assert scene.lyon.codes()["ike.dpd-failed"] == 0


class TestActions:
    @modes
    @actions
    def test_nothing_is_left(self, mode: ExchangeMode, action: DpdAction) -> None:
        scene = lost(mode, action, children=(child(), VOICE))
        assert scene.paris.data_plane.sas == {}
        assert left_behind(scene.paris) is None
        assert scene.paris.codes()[f"ike.dpd-{action}"] == 1
        policies = scene.paris.data_plane.policies
        assert len(policies) == (4 if action is DpdAction.HOLD else 0)

    @modes
    def test_restart(self, mode: ExchangeMode) -> None:
        scene = lost(mode, DpdAction.RESTART)
        assert attempts(scene.paris) == 2
        scene.world.network.rewrite = None
        assert scene.world.run(100, up(*scene.hosts))
        scene.world.run(60)
        scene.check()

    @modes
    def test_clear_waits_for_an_operator(self, mode: ExchangeMode) -> None:
        scene = lost(mode, DpdAction.CLEAR)
        scene.world.network.rewrite = None
        scene.world.run(300)
        assert attempts(scene.paris) == 1
        scene.paris.do(scene.paris.engine.traffic_wanted, scene.paris.status().id)
        assert attempts(scene.paris) == 1
        scene.paris.do(scene.paris.engine.initiate, scene.paris.status().id)
        scene.world.run(20)
        scene.check()

    @modes
    def test_clear_waits_for_the_peer(self, mode: ExchangeMode) -> None:
        scene = lost(mode, DpdAction.CLEAR, types=(ConnectionType.BOTH, ConnectionType.BOTH))
        scene.world.run(200)
        scene.world.network.rewrite = None
        scene.lyon.do(scene.lyon.engine.initiate, scene.lyon.status().id)
        scene.world.run(60)
        scene.check()

    @modes
    def test_hold_waits_for_traffic(self, mode: ExchangeMode) -> None:
        scene = lost(mode, DpdAction.HOLD)
        scene.world.network.rewrite = None
        scene.world.run(300)
        assert attempts(scene.paris) == 1
        policies = list(scene.paris.data_plane.policies)
        scene.paris.do(scene.paris.engine.traffic_wanted, scene.paris.status().id)
        scene.world.run(30)
        scene.check()
        assert scene.paris.data_plane.policies == policies
        takes = [each for each in scene.paris.data_plane.history if isinstance(each, RemoveChild) and each.policies]
        assert takes == [], "traffic finds a policy at every moment"

    @modes
    @actions
    def test_the_tunnel_is_removed_meanwhile(self, mode: ExchangeMode, action: DpdAction) -> None:
        scene = lost(mode, action)
        scene.left.tunnels.clear()
        scene.paris.configure(scene.left.document())
        scene.world.run(100)
        assert scene.paris.data_plane.policies == []
        assert scene.paris.engine.v1 is None

    @modes
    def test_both_lose_each_other(self, mode: ExchangeMode) -> None:
        scene = standing(mode, types=BOTH)
        silence(scene)
        scene.world.run(300)
        scene.world.network.rewrite = None
        scene.world.run(200)
        scene.check()

    @modes
    def test_a_peer_that_is_lost_while_a_new_phase_1_is_under_way(self, mode: ExchangeMode) -> None:
        scene = standing(mode)
        silence(scene)
        scene.paris.do(scene.paris.engine.rekey_ike, scene.paris.status().id)
        scene.world.run(300)
        assert scene.paris.data_plane.sas == {}
        scene.world.network.rewrite = None
        scene.world.run(120)
        scene.check()

    @modes
    def test_the_old_one_of_two_is_silent(self, mode: ExchangeMode) -> None:
        """What stands beside a younger ISAKMP SA may be forgotten by the peer: no child goes with it."""
        scene = standing(mode)
        sas = dict(scene.paris.data_plane.sas)
        scene.paris.do(scene.paris.engine.rekey_ike, scene.paris.status().id)
        scene.world.run(0.2)
        (older, _) = runtime(scene.lyon).established()
        older.close(scene.world.now)
        scene.world.run(100)
        scene.check()
        assert scene.paris.data_plane.sas == sas
