"""Tunnels of version ``v2-else-v1``, and tunnels whose version changes: two machines behind one door.

IKEv2 has the first turn; what comes to nothing gives the turn to the other version (:mod:`agents.ike.fallback`). Both
versions' children have one reqid and the same policies, so neither may take out what the other needs.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from agents.contract.config import ConnectionType, DpdAction, ExchangeMode, IkeVersion, Retransmission
from agents.contract.status import TunnelState
from agents.ike.errors import LocalError
from agents.ike.outputs import Transmit
from tests.harness.documents import Side
from tests.harness.v1 import BOTH, FAST_IKE, MODES, ONE, VOICE, Scene, child, cookies, left_behind, policy
from tests.harness.world import Host, Network, World, matched, up

V1, V2, EITHER = IkeVersion.V1, IkeVersion.V2, IkeVersion.V2_ELSE_V1
MAIN, AGGRESSIVE = MODES
modes = pytest.mark.parametrize("mode", MODES)
roles = pytest.mark.parametrize(
    "types",
    [ONE, BOTH, (ConnectionType.RESPONDER_ONLY, ConnectionType.INITIATOR_ONLY)],
    ids=["first", "both", "second"],
)


def meet(
    ours: IkeVersion,
    theirs: IkeVersion,
    mode: ExchangeMode = MAIN,
    types: tuple[ConnectionType, ConnectionType] = ONE,
    world: World | None = None,
) -> Scene:
    """Return two ends of these versions; ours is paris."""
    scene = Scene(mode, world=world, types=types, ike=policy(mode, dpd_interval_s=10), children=(child(), VOICE))
    scene.left.change(version=ours)
    scene.right.change(version=theirs)
    for side in (scene.left, scene.right):
        side.retransmission = Retransmission(initial_ms=500, factor=1.6, tries=5)
    return scene


def version_of(host: Host) -> str:
    """Return the version that status shows for the tunnel."""
    return " ".join(sorted({sa.version for sa in host.status().ike_sas}))


def settled(scene: Scene, version: str) -> None:
    """Both ends are up by this version, alike, with nothing of the other left over."""
    assert up(*scene.hosts)(), (scene.paris.status(), scene.lyon.status())
    assert matched(*scene.hosts)
    assert cookies(scene.paris) == cookies(scene.lyon)
    assert len(cookies(scene.paris)) == 1
    for host in scene.hosts:
        assert version_of(host) == version
        assert left_behind(host) is None
        assert len(host.data_plane.sas) == len(host.data_plane.policies) == 4
        others = host.engine.v2.sas if version == "v1" else (host.engine.v1.sas if host.engine.v1 else {})
        assert not others


def comes_up(scene: Scene, version: str, seconds: float = 120, rest_s: float = 60) -> None:
    assert scene.world.run(seconds, up(*scene.hosts)), (scene.paris.status(), scene.lyon.status())
    scene.world.run(rest_s)
    settled(scene, version)


class TestPeersOfOneVersion:
    @roles
    @modes
    def test_a_peer_of_version_1(self, mode: ExchangeMode, types: tuple[ConnectionType, ConnectionType]) -> None:
        scene = meet(EITHER, V1, mode, types).start()
        comes_up(scene, "v1")
        if types is ONE:
            assert scene.paris.codes()["ike.version-fallback"] == 1

    @roles
    def test_a_peer_of_version_2(self, types: tuple[ConnectionType, ConnectionType]) -> None:
        scene = meet(EITHER, V2, types=types).start()
        comes_up(scene, "v2")
        assert scene.paris.codes()["ike.version-fallback"] == 0

    @roles
    @modes
    def test_a_peer_of_both(self, mode: ExchangeMode, types: tuple[ConnectionType, ConnectionType]) -> None:
        comes_up(meet(EITHER, EITHER, mode, types).start(), "v2")

    @pytest.mark.parametrize("ours", [V1, V2])
    def test_versions_that_do_not_meet(self, ours: IkeVersion) -> None:
        scene = meet(ours, V2 if ours is V1 else V1, types=BOTH).start()
        scene.world.run(200)
        for host in scene.hosts:
            assert host.state is not TunnelState.UP
            assert left_behind(host) is None
            assert not cookies(host)

    @modes
    def test_a_peer_that_is_silent_at_first(self, mode: ExchangeMode) -> None:
        """The turns go round and round; whatever the peer speaks when it comes is found."""
        for theirs in (V1, V2, EITHER):
            scene = meet(EITHER, theirs, mode)
            scene.paris.configure(scene.left.document())
            scene.world.run(300)
            assert scene.paris.state in (TunnelState.DOWN, TunnelState.NEGOTIATING)
            assert scene.paris.status().reason is not None
            scene.lyon.configure(scene.right.document())
            assert scene.world.run(300, up(*scene.hosts))
            scene.world.run(60)
            settled(scene, version_of(scene.paris))
            assert theirs is EITHER or version_of(scene.paris) == str(theirs)

    def test_a_peer_that_drops_version_2_is_given_up_sooner(self) -> None:
        scene = meet(EITHER, V1)
        scene.world.network.rewrite = lambda each: None if each.datagram[17] == 0x20 else each
        scene.start()
        assert scene.world.run(8, up(*scene.hosts))
        assert scene.paris.codes()["ike.retransmit"] == 2

    def test_a_peer_that_refuses_either_version_is_asked_less_and_less(self) -> None:
        scene = meet(EITHER, EITHER)
        only_v2 = replace(FAST_IKE, encryption="aes-128-gcm-16", integrity=None)
        scene.right.change(ike=policy(MAIN, replace(FAST_IKE, group="group-20"), only_v2))
        scene.start()
        scene.world.run(60)
        assert scene.paris.state is not TunnelState.UP
        assert scene.paris.codes()["ike.version-fallback"] >= 2
        assert scene.paris.codes()["ike.initiate"] < 40


class TestLife:
    @modes
    @pytest.mark.parametrize("whose", [0, 1])
    def test_what_stands_stays(self, mode: ExchangeMode, whose: int) -> None:
        """By version 1 with a peer that has nothing else: rekeyed, renewed, cleared, restarted, down and up."""
        scene = meet(EITHER, V1, mode, BOTH).start()
        comes_up(scene, "v1")
        host = scene.hosts[whose]
        for verb in (host.engine.rekey_child, host.engine.rekey_ike, host.engine.clear_ipsec, host.engine.clear_ike):
            host.do(verb, host.status().id)
            comes_up(scene, "v1", 200, 90)
        host.do(host.engine.terminate, host.status().id)
        scene.world.run(100)
        assert host.data_plane.sas == {}
        host.do(host.engine.initiate, host.status().id)
        comes_up(scene, "v1", 200, 90)
        scene.world.restart(host)
        assert host.document is not None
        host.configure(host.document)
        scene.world.run(60)
        comes_up(scene, "v1", 200, 90)

    @pytest.mark.parametrize("action", list(DpdAction))
    @pytest.mark.parametrize("theirs", [V1, V2])
    def test_a_peer_that_is_lost(self, theirs: IkeVersion, action: DpdAction) -> None:
        scene = meet(EITHER, theirs)
        scene.left.change(ike=policy(MAIN, dpd_interval_s=10, dpd_action=action))
        scene.start()
        comes_up(scene, str(theirs), rest_s=5)

        def silent(_: Transmit) -> Transmit | None:
            return None

        scene.world.network.rewrite = silent
        scene.world.run(150)
        assert scene.paris.data_plane.sas == {}
        assert len(scene.paris.data_plane.policies) == (4 if action is DpdAction.HOLD else 0)
        attempts = scene.paris.codes()["ike.initiate"]
        scene.world.run(100)
        assert (scene.paris.codes()["ike.initiate"] > attempts) == (action is DpdAction.RESTART)
        scene.world.network.rewrite = None
        if action is DpdAction.HOLD:
            scene.paris.do(scene.paris.engine.traffic_wanted, scene.paris.status().id)
        elif action is DpdAction.CLEAR:
            scene.paris.do(scene.paris.engine.initiate, scene.paris.status().id)
        comes_up(scene, str(theirs), 300, 90)

    @modes
    def test_data_plane_lost(self, mode: ExchangeMode) -> None:
        for theirs in (V1, V2):
            scene = meet(EITHER, theirs, mode, BOTH).start()
            comes_up(scene, str(theirs))
            for host in scene.hosts:
                host.data_plane.sas.clear()
                host.data_plane.policies.clear()
                host.do(host.engine.dataplane_lost)
                comes_up(scene, str(theirs), 60, 60)


class TestAnotherVersionInTheDocument:
    @modes
    @roles
    def test_of_the_peer(self, mode: ExchangeMode, types: tuple[ConnectionType, ConnectionType]) -> None:
        """We take either; the peer goes from one version to the other and back."""
        scene = meet(EITHER, V1, mode, types).start()
        comes_up(scene, "v1")
        for version in (V2, V1, V2):
            scene.right.change(version=version)
            scene.lyon.configure(scene.right.document())
            scene.world.run(5)
            comes_up(scene, str(version), 300, 90)

    @modes
    @roles
    def test_of_both(self, mode: ExchangeMode, types: tuple[ConnectionType, ConnectionType]) -> None:
        scene = meet(V1, V1, mode, types).start()
        comes_up(scene, "v1")
        for version in (V2, V1, EITHER, V1, EITHER):
            for side, host in ((scene.left, scene.paris), (scene.right, scene.lyon)):
                side.change(version=version)
                host.configure(side.document())
                scene.world.run(0.5)
            scene.world.run(5)
            assert scene.world.run(300, up(*scene.hosts))
            scene.world.run(90)
            settled(scene, version_of(scene.paris) if version is EITHER else str(version))

    def test_flapping(self) -> None:
        """The peer's document changes faster than anything can settle; what it has in the end counts."""
        for seed in range(10):
            choose = random.Random(seed)
            scene = meet(EITHER, V1, types=BOTH, world=World(seed)).start()
            for _ in range(20):
                scene.right.change(version=choose.choice((V1, V2)))
                scene.lyon.configure(scene.right.document())
                scene.world.run(choose.uniform(0.0, 8.0))
            comes_up(scene, str(scene.right.tunnels[0].version), 300, 120)


class TestTheMachineOfVersion1:
    def test_is_there_only_for_a_tunnel_that_may_speak_it(self) -> None:
        scene = meet(V2, V2).start()
        comes_up(scene, "v2")
        assert scene.paris.engine.v1 is scene.lyon.engine.v1 is None
        assert {each.exchange for each in scene.paris.engine.exchange_counters()}.isdisjoint(
            {"main-mode", "quick-mode"}
        )

    def test_comes_and_goes_with_the_document(self) -> None:
        scene = meet(V2, V2).start()
        comes_up(scene, "v2")
        _both(scene, EITHER)
        assert scene.paris.engine.v1 is not None
        _both(scene, V2)
        scene.world.run(60)
        comes_up(scene, "v2", 200)
        assert scene.paris.engine.v1 is scene.lyon.engine.v1 is None

    def test_goes_when_its_last_sa_has_said_farewell(self) -> None:
        scene = meet(V1, V1).start()
        comes_up(scene, "v1")
        _both(scene, V2)
        assert scene.paris.engine.v1 is not None, "its Deletes go out once more"
        scene.world.run(60)
        assert scene.paris.engine.v1 is scene.lyon.engine.v1 is None
        comes_up(scene, "v2", 100)

    def test_a_peer_of_version_1_is_told_where_there_is_none(self) -> None:
        scene = meet(V1, V2).start()
        scene.world.run(5)
        assert scene.lyon.engine.v1 is None
        assert scene.lyon.codes()["drop.ikev1"] >= 1


_VERBS = ("rekey_child", "rekey_ike", "clear_ipsec", "clear_ike", "restart", "version", "terminate", "initiate")


@pytest.mark.parametrize("seed", range(60))
def test_on_a_bad_network(seed: int) -> None:
    """Seeds as :mod:`tests.harness.seeds` has them, with either version at each end and documents that change it."""
    choose = random.Random(repr(("versions", seed)))
    mode = choose.choice(MODES)
    world = World(("versions", seed), Network(loss=0.2, duplicates=0.2, delay_s=(0.005, 1.0)))
    scene = meet(EITHER, choose.choice((V1, V2, EITHER)), mode, choose.choice((ONE, BOTH)), world).start()
    world.run(choose.uniform(1.0, 20.0))
    for _ in range(choose.randint(0, 5)):
        _act(scene, choose.choice((0, 1)), choose.choice(_VERBS), choose)
        world.run(choose.uniform(0.0, 8.0))
    for number in (0, 1):
        _act(scene, number, "initiate", choose)
    world.network = Network()
    world.run(400)
    assert version_of(scene.paris) in ("v1", "v2")
    settled(scene, version_of(scene.paris))
    version = scene.right.tunnels[0].version
    assert version is EITHER or version_of(scene.paris) == str(version)


def _act(scene: Scene, number: int, verb: str, choose: random.Random) -> None:
    host, side = scene.hosts[number], (scene.left, scene.right)[number]
    assert host.document is not None
    if verb == "restart":
        scene.world.restart(host)
        host.configure(host.document)
    elif verb == "version":
        scene.right.change(version=choose.choice((V1, V2, EITHER)))
        scene.lyon.configure(scene.right.document())
    else:
        try:
            host.do(getattr(host.engine, verb), side.tunnels[0].id)
        except LocalError:
            host.world.drain()  # the verb does not fit the state or the role


def _both(scene: Scene, version: IkeVersion) -> None:
    sides: tuple[Side, Side] = (scene.left, scene.right)
    for side, host in zip(sides, scene.hosts, strict=True):
        side.change(version=version)
        host.configure(side.document())


@pytest.mark.parametrize(("ours", "theirs"), [(V1, V2), (V2, V1)])
def test_who_speaks_only_the_other_version_is_told_apart_from_a_stranger(ours: IkeVersion, theirs: IkeVersion) -> None:
    scene = meet(ours, theirs)
    if theirs is V2:  # IKEv1 is spoken at the other end, by another tunnel
        scene.right.tunnels.append(
            replace(
                scene.right.tunnels[0],
                id="00000000-0000-4000-8000-000000000001",
                name="another",
                remote=replace(scene.right.tunnels[0].remote, address="192.0.2.77"),
                version=V1,
            )
        )
    scene.start()
    scene.world.run(20)
    told = next(each for each in scene.lyon.reports if each.code == "ike.version-unsupported")
    assert (told.received, told.configured, told.field) == (f"IKE{ours}", f"IKE{theirs}", "version")
    assert scene.lyon.codes()["ike.no-tunnel"] == 0
