"""A peer that stops answering (RFC 7296 section 2.4): when it is asked, and what happens then (``dpd_action``)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.config import ConnectionType, DpdAction, IkePolicy
from agents.contract.status import TunnelState
from agents.ike.outputs import InstallChild, RemoveChild, Transmit
from tests.harness.documents import FAST_IKE, Side, child, pair
from tests.harness.world import Host, World, matched, up

Cast = tuple[World, Host, Host, list[Side]]


def meet(action: DpdAction, **changes: object) -> Cast:
    world = World()
    ike = IkePolicy(proposals=(FAST_IKE,), dpd_interval_s=10, dpd_action=action)
    both = list(pair(ike=ike, **changes))  # type: ignore[arg-type]
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    lyon.configure(both[1].document())
    paris.configure(both[0].document())
    assert world.run(10, up(paris, lyon))
    return world, paris, lyon, both


def silence(world: World) -> None:
    def rewrite(_: Transmit) -> Transmit | None:
        return None

    world.network.rewrite = rewrite


def lost(action: DpdAction, **changes: object) -> Cast:
    """Let lyon vanish until paris has noticed."""
    world, paris, lyon, both = meet(action, **changes)
    silence(world)
    assert world.run(200, lambda: paris.codes()["ike.dpd-failed"] == 1)
    return world, paris, lyon, both


def attempts(host: Host) -> int:
    return host.codes()["ike.initiate"]


class TestAsking:
    def test_only_when_nothing_was_heard(self) -> None:
        """::

        paris                        lyon
                            <--      INFORMATIONAL {}      10 s after it heard paris last
        {}                  -->
        """
        world, *_ = meet(DpdAction.RESTART)
        since = len(world.log)
        world.run(10.5)
        assert [(each.sender, each.octets[18]) for each in world.log[since:]] == [("lyon", 37), ("paris", 37)]

    @pytest.mark.parametrize("heard", ["esp", "ike"])
    def test_traffic_spares_it(self, heard: str) -> None:
        world, paris, lyon, _ = meet(DpdAction.RESTART)
        since = len(world.log)
        for _ in range(6):
            world.run(6)
            if heard == "esp":
                for host in (paris, lyon):
                    host.do(host.engine.traffic_seen, host.status().id)
            else:
                paris.do(paris.engine.rekey_child, paris.status().id)
                world.run(1)
        asked = [each for each in world.log[since:] if each.octets[18] == 37]
        assert len(asked) == (0 if heard == "esp" else 12)  # a Delete and its answer for each of six rekeys

    def test_off(self) -> None:
        off = replace(IkePolicy(proposals=(FAST_IKE,)), dpd_interval_s=0)
        quiet = World()
        left, right = pair(ike=off)
        paris, lyon = quiet.host("paris", "192.0.2.1"), quiet.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert quiet.run(10, up(paris, lyon))
        since = len(quiet.log)
        quiet.run(1_000)
        assert len(quiet.log) == since


class TestRestart:
    def test_begins_again_at_once(self) -> None:
        world, paris, lyon, _ = lost(DpdAction.RESTART)
        assert attempts(paris) == 2
        assert paris.codes()["ike.dpd-restart"] == 1
        assert paris.data_plane.sas == {}
        assert paris.data_plane.policies == []
        world.network.rewrite = None
        assert world.run(120, up(paris, lyon))
        world.run(60)
        assert matched(paris, lyon)

    def test_not_where_this_end_may_not_begin(self) -> None:
        world, _, lyon, _ = lost(DpdAction.RESTART)
        world.run(200)
        assert lyon.codes()["ike.dpd-failed"] == 1
        assert attempts(lyon) == 0


class TestClear:
    def test_nothing_is_left_and_nothing_begins(self) -> None:
        world, paris, *_ = lost(DpdAction.CLEAR)
        world.network.rewrite = None
        world.run(600)
        assert attempts(paris) == 1
        assert paris.codes()["ike.dpd-clear"] == 1
        assert (paris.data_plane.sas, paris.data_plane.policies) == ({}, [])
        assert paris.state is TunnelState.DOWN
        reason = paris.status().reason
        assert reason is not None
        assert reason.code == "ike.dpd-failed"
        paris.do(paris.engine.traffic_wanted, paris.status().id)
        assert attempts(paris) == 1

    def test_an_operator_begins_again(self) -> None:
        world, paris, lyon, _ = lost(DpdAction.CLEAR)
        world.network.rewrite = None
        world.run(100)
        paris.do(paris.engine.initiate, paris.status().id)
        assert world.run(10, up(paris, lyon))

    def test_the_peer_begins_again(self) -> None:
        both_may = (ConnectionType.BOTH, ConnectionType.BOTH)
        world, paris, lyon, _ = lost(DpdAction.CLEAR, types=both_may)
        world.run(100)
        world.network.rewrite = None
        lyon.do(lyon.engine.initiate, lyon.status().id)
        assert world.run(10, up(paris, lyon))
        silence(world)  # and from then on all is as before
        assert world.run(200, lambda: paris.codes()["ike.dpd-clear"] == 2)

    def test_an_edited_document_begins_again(self) -> None:
        world, paris, lyon, both = lost(DpdAction.CLEAR)
        world.network.rewrite = None
        both[0].change(ike=replace(both[0].tunnels[0].ike, dpd_action=DpdAction.RESTART))
        paris.configure(both[0].document())
        assert world.run(10, up(paris, lyon))


class TestHold:
    def test_policies_wait_and_traffic_begins_again(self) -> None:
        world, paris, lyon, _ = lost(DpdAction.HOLD)
        world.network.rewrite = None
        world.run(600)
        assert attempts(paris) == 1
        assert paris.data_plane.sas == {}
        assert {each.direction for each in paris.data_plane.policies} == {"in", "out"}
        paris.do(paris.engine.traffic_wanted, paris.status().id)
        assert attempts(paris) == 2
        assert world.run(10, up(paris, lyon))
        world.run(60)
        assert matched(paris, lyon)
        assert len(paris.data_plane.policies) == 2

    def test_an_attempt_that_fails_waits_for_traffic_again(self) -> None:
        world, paris, lyon, _ = lost(DpdAction.HOLD)
        paris.do(paris.engine.traffic_wanted, paris.status().id)
        assert world.run(200, lambda: paris.codes()["ike.peer-unresponsive"] == 1)
        world.run(600)
        assert attempts(paris) == 2
        world.network.rewrite = None
        paris.do(paris.engine.traffic_wanted, paris.status().id)
        assert world.run(10, up(paris, lyon))

    def test_traffic_in_a_hurry_begins_one_negotiation_only(self) -> None:
        _, paris, *_ = lost(DpdAction.HOLD)
        for _ in range(5):
            paris.do(paris.engine.traffic_wanted, paris.status().id)
        assert attempts(paris) == 2

    def test_policies_leave_with_the_tunnel(self) -> None:
        _, paris, _, both = lost(DpdAction.HOLD)
        both[0].tunnels = []
        paris.configure(both[0].document())
        assert paris.data_plane.policies == []

    def test_policies_leave_when_an_operator_takes_the_tunnel_down(self) -> None:
        _, paris, *_ = lost(DpdAction.HOLD)
        paris.do(paris.engine.terminate, paris.status().id)
        assert paris.data_plane.policies == []
        paris.do(paris.engine.traffic_wanted, paris.status().id)
        assert attempts(paris) == 1

    def test_other_selectors_take_the_place_of_those_that_waited(self) -> None:
        """Lyon is back with narrower networks: policies that no SA has go, the others stay with theirs."""
        world, paris, lyon, both = lost(DpdAction.HOLD)
        world.network.rewrite = None
        narrow = child(local=("10.2.7.0/24",), remote=("10.1.0.0/16",))
        both[1].change(children=(narrow,))
        lyon.configure(both[1].document())
        paris.do(paris.engine.traffic_wanted, paris.status().id)
        assert world.run(10, up(paris, lyon))
        inner = {(each.selector.source, each.selector.destination) for each in paris.data_plane.policies}
        assert inner == {("10.1.0.0/16", "10.2.7.0/24"), ("10.2.7.0/24", "10.1.0.0/16")}
        order = [type(each) for each in paris.data_plane.history]
        assert order[-2:] == [InstallChild, RemoveChild]  # never a moment without a policy

    def test_a_lost_data_plane_took_them(self) -> None:
        world, paris, lyon, _ = lost(DpdAction.HOLD)
        world.network.rewrite = None
        paris.data_plane.policies.clear()
        paris.do(paris.engine.dataplane_lost)
        assert world.run(120, up(paris, lyon))
