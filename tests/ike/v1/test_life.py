"""What happens to an IKEv1 tunnel in its life: verbs, new documents, a data plane that fails, hosts that begin anew."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.config import (
    ConnectionType,
    Endpoint,
    ExchangeMode,
    Identity,
    IdentityType,
)
from agents.contract.status import TunnelState
from agents.ike.errors import LocalError
from agents.ike.outputs import InstallChild
from tests.harness.documents import endpoint, key, mirrored
from tests.harness.v1 import (
    BOTH,
    FAST_ESP,
    MODES,
    ONE,
    PARIS,
    VOICE,
    Scene,
    child,
    cookies,
    left_behind,
    machine,
    policy,
    runtime,
    sa_of,
)
from tests.harness.world import World, matched, up

MAIN, AGGRESSIVE = MODES
modes = pytest.mark.parametrize("mode", MODES)


class TestVerbs:
    @modes
    @pytest.mark.parametrize("whose", [0, 1])
    def test_terminate_and_initiate(self, mode: ExchangeMode, whose: int) -> None:
        scene = Scene(mode, types=BOTH).come_up(rest_s=15)
        one, other = scene.hosts[whose], scene.hosts[1 - whose]
        one.do(one.engine.terminate, one.status().id)
        scene.world.run(200)
        assert one.state is TunnelState.DOWN
        assert other.state is not TunnelState.UP
        for host in scene.hosts:
            assert host.data_plane.sas == {}
            assert host.data_plane.policies == []
            assert left_behind(host) is None
            assert not cookies(host)
        one.do(one.engine.initiate, one.status().id)
        assert scene.world.run(70, up(*scene.hosts))
        scene.world.run(40)
        scene.check()

    @pytest.mark.parametrize("whose", [0, 1])
    def test_clear_ipsec_keeps_phase_1(self, whose: int) -> None:
        scene = Scene(types=BOTH).come_up(rest_s=15)
        before, sas = cookies(scene.paris), set(scene.paris.data_plane.sas)
        host = scene.hosts[whose]
        host.do(host.engine.clear_ipsec, host.status().id)
        assert host.state is not TunnelState.UP
        scene.world.run(40)
        scene.check()
        assert cookies(scene.paris) == before
        assert not sas & set(scene.paris.data_plane.sas)

    @modes
    @pytest.mark.parametrize("whose", [0, 1])
    def test_clear_ike_begins_anew(self, mode: ExchangeMode, whose: int) -> None:
        scene = Scene(mode, types=BOTH).come_up(rest_s=15)
        before = cookies(scene.paris)
        host = scene.hosts[whose]
        host.do(host.engine.clear_ike, host.status().id)
        scene.world.run(60)
        scene.check()
        assert not before & cookies(scene.paris)

    @pytest.mark.parametrize("whose", [0, 1])
    def test_rekey_child(self, whose: int) -> None:
        scene = Scene(types=BOTH, children=(child(pfs_groups=("group-19",)),)).come_up(rest_s=15)
        host = scene.hosts[whose]
        was = set(scene.paris.data_plane.sas)
        host.do(host.engine.rekey_child, host.status().id)
        scene.world.run(1)
        assert len(scene.paris.data_plane.sas) == 4, "the old SAs stay a moment for packets under way"
        scene.world.run(10)
        scene.check()
        assert not was & set(scene.paris.data_plane.sas)
        assert scene.paris.codes()["child.rekeyed"] == scene.lyon.codes()["child.rekeyed"] == 1

    @modes
    @pytest.mark.parametrize("whose", [0, 1])
    def test_rekey_ike(self, mode: ExchangeMode, whose: int) -> None:
        scene = Scene(mode, types=BOTH).come_up(rest_s=15)
        before, sas = cookies(scene.paris), dict(scene.paris.data_plane.sas)
        host = scene.hosts[whose]
        host.do(host.engine.rekey_ike, host.status().id)
        scene.world.run(20)
        scene.check()
        assert not before & cookies(scene.paris)
        assert scene.paris.data_plane.sas == sas
        assert sa_of(host).initiator

    def test_an_end_that_waits_for_the_peer_renews_nothing(self) -> None:
        """A new phase 1 is a negotiation of its own, which an end that may only answer cannot begin."""
        scene = Scene().come_up()
        since = len(scene.world.log)
        for verb in (scene.lyon.engine.rekey_ike, scene.lyon.engine.initiate):
            with pytest.raises(LocalError, match="may not start"):
                scene.lyon.do(verb, scene.lyon.status().id)
        scene.world.drain()
        assert scene.exchanges(since) == []
        scene.check()

    def test_nothing_to_renew(self) -> None:
        scene = Scene()
        scene.left.change(enabled=False)
        scene.start()
        for verb in (scene.paris.engine.rekey_ike, scene.paris.engine.rekey_child):
            with pytest.raises(LocalError):
                scene.paris.do(verb, scene.paris.status().id)


class TestNewDocuments:
    def test_disabled_and_enabled(self) -> None:
        scene = Scene().come_up()
        scene.left.change(enabled=False)
        scene.paris.configure(scene.left.document())
        scene.world.run(1)
        assert scene.lyon.data_plane.sas == {}
        scene.left.change(enabled=True)
        scene.paris.configure(scene.left.document())
        scene.world.run(10)
        scene.check()

    def test_removed(self) -> None:
        scene = Scene().come_up()
        scene.left.tunnels.clear()
        scene.paris.configure(scene.left.document())
        scene.world.run(60)
        assert scene.paris.engine.v1 is None, "the machine goes with its last tunnel and SA"
        assert scene.lyon.data_plane.sas == {}
        assert left_behind(scene.lyon) is None

    def test_a_child_more_and_a_child_less(self) -> None:
        scene = Scene().come_up()
        scene.left.change(children=(*scene.left.tunnels[0].children, VOICE))
        scene.right.change(children=(*scene.right.tunnels[0].children, mirrored(VOICE)))
        sas = set(scene.paris.data_plane.sas)
        scene.lyon.configure(scene.right.document())
        scene.paris.configure(scene.left.document())
        scene.world.run(20)
        scene.check()
        assert sas < set(scene.paris.data_plane.sas)
        for side, host in ((scene.left, scene.paris), (scene.right, scene.lyon)):
            side.change(children=side.tunnels[0].children[:1])
            host.configure(side.document())
        scene.world.run(60)
        scene.check()
        assert sas == set(scene.paris.data_plane.sas)

    def test_other_suites_rekey_the_child(self) -> None:
        scene = Scene().come_up()
        esp = replace(FAST_ESP, encryption="aes-256-gcm-16")
        for side, host in ((scene.right, scene.lyon), (scene.left, scene.paris)):
            side.change(children=(replace(side.tunnels[0].children[0], proposals=(esp, FAST_ESP)),))
            host.configure(side.document())
        scene.world.run(40)
        scene.check()
        assert scene.paris.status().children[0].sas[0].encryption == "aes-256-gcm-16"
        assert scene.paris.codes()["child.established"] == 1

    def test_a_rekey_that_the_peer_refuses_is_asked_for_again(self) -> None:
        """One end was edited before the other: the child stays, and is rekeyed once both agree."""
        scene = Scene().come_up()
        esp = replace(FAST_ESP, encryption="aes-256-gcm-16")
        scene.left.change(children=(replace(scene.left.tunnels[0].children[0], proposals=(esp,)),))
        scene.paris.configure(scene.left.document())
        scene.world.run(10)
        assert scene.paris.state is TunnelState.UP
        assert matched(*scene.hosts)
        scene.right.change(children=(replace(scene.right.tunnels[0].children[0], proposals=(esp,)),))
        scene.lyon.configure(scene.right.document())
        scene.world.run(90)
        scene.check()
        assert scene.paris.status().children[0].sas[0].encryption == "aes-256-gcm-16"

    def test_other_selectors_make_the_child_anew(self) -> None:
        scene = Scene().come_up()
        moved = child(local=("10.5.0.0/16",))
        for side, host, made in ((scene.right, scene.lyon, mirrored(moved)), (scene.left, scene.paris, moved)):
            side.change(children=(made,))
            host.configure(side.document())
        scene.world.run(60)
        scene.check()
        assert scene.paris.status().children[0].sas[0].local_ts == ("10.5.0.0/16",)

    @modes
    def test_another_key_begins_anew(self, mode: ExchangeMode) -> None:
        scene = Scene(mode).come_up()
        before = cookies(scene.paris)
        for side, host in ((scene.right, scene.lyon), (scene.left, scene.paris)):
            side.keys = [key(b"the key of next year")]
            host.configure(side.document())
        scene.world.run(60)
        scene.check()
        assert not before & cookies(scene.paris)

    def test_another_mode_begins_with_the_next_negotiation(self) -> None:
        scene = Scene(MAIN).come_up()
        for side, host in ((scene.right, scene.lyon), (scene.left, scene.paris)):
            side.change(ike=policy(AGGRESSIVE))
            host.configure(side.document())
        scene.world.run(5)
        scene.paris.do(scene.paris.engine.clear_ike, scene.paris.status().id)
        scene.world.run(20)
        scene.check()
        assert scene.paris.status().ike_sas[0].exchange_mode == "aggressive"

    def test_shorter_lifetimes_count_at_once(self) -> None:
        scene = Scene().come_up()
        scene.world.run(100)
        scene.left.change(
            children=(replace(scene.left.tunnels[0].children[0], lifetime_s=200),), ike=policy(lifetime_s=300)
        )
        scene.paris.configure(scene.left.document())
        (made,) = runtime(scene.paris).children
        assert made.expire_at == made.installed_at + 200
        scene.world.run(250)
        scene.check()
        assert scene.paris.codes()["child.rekeyed"] >= 1
        assert scene.paris.codes()["ike.reauthentication"] >= 1


class TestDataPlane:
    @pytest.mark.parametrize("whose", [0, 1])
    def test_that_refuses(self, whose: int) -> None:
        scene = Scene()
        host = scene.hosts[whose]
        host.data_plane.refuse = "no such algorithm"
        scene.start()
        scene.world.run(20)
        for each in scene.hosts:
            assert each.state is not TunnelState.UP
            assert each.data_plane.sas == {}
            assert left_behind(each) is None
        reason = host.status().reason
        assert reason is not None
        assert reason.code == "child.install-failed"
        assert host.codes()["child.install-failed"] < 10
        host.data_plane.refuse = None
        assert scene.world.run(90, up(*scene.hosts))
        scene.world.run(30)
        scene.check()

    @pytest.mark.parametrize("whose", [0, 1])
    def test_that_refuses_a_rekey(self, whose: int) -> None:
        scene = Scene().come_up()
        host = scene.hosts[whose]
        host.data_plane.refuse = "busy"
        scene.paris.do(scene.paris.engine.rekey_child, scene.paris.status().id)
        scene.world.run(5)
        assert scene.paris.state is TunnelState.UP
        assert matched(*scene.hosts)
        host.data_plane.refuse = None
        scene.world.run(90)
        scene.check()
        assert scene.paris.codes()["child.rekeyed"] == 1

    @pytest.mark.parametrize("whose", [0, 1])
    def test_that_is_slow(self, whose: int) -> None:
        """The answer to an installation comes when nobody waits for it any more."""
        scene = Scene(types=BOTH)
        host = scene.hosts[whose]
        host.data_plane.mute = True
        scene.start()
        scene.world.run(5)
        late = [each.install_id for each in host.data_plane.history if isinstance(each, InstallChild)]
        assert late
        host.do(host.engine.clear_ike, host.status().id)
        host.data_plane.mute = False
        for install_id in late:
            host.do(host.engine.child_installed, install_id)
        scene.world.run(120)
        scene.check()

    @pytest.mark.parametrize("whose", [0, 1])
    def test_that_was_lost(self, whose: int) -> None:
        scene = Scene(types=BOTH, children=(child(), VOICE)).come_up(rest_s=15)
        host = scene.hosts[whose]
        was = set(host.data_plane.sas)
        host.data_plane.sas.clear()
        host.data_plane.policies.clear()
        host.do(host.engine.dataplane_lost)
        scene.world.run(60)
        scene.check()
        assert not was & set(scene.paris.data_plane.sas)

    def test_traffic_wants_a_tunnel(self) -> None:
        scene = Scene()
        scene.start()
        scene.lyon.engine.v1 = None  # it answers nothing
        scene.world.run(100)
        attempts = scene.paris.codes()["ike.initiate"]
        scene.world.run(0.01)
        scene.paris.do(scene.paris.engine.traffic_wanted, scene.paris.status().id)
        assert scene.paris.codes()["ike.initiate"] >= attempts


class TestBeginningAnew:
    @modes
    @pytest.mark.parametrize("whose", [0, 1])
    @pytest.mark.parametrize("types", [BOTH, ONE], ids=["both", "one"])
    def test_killed_and_started(
        self, mode: ExchangeMode, whose: int, types: tuple[ConnectionType, ConnectionType]
    ) -> None:
        scene = Scene(mode, ike=policy(mode, dpd_interval_s=10), types=types).come_up(rest_s=15)
        was, host, other = set(scene.paris.data_plane.sas), scene.hosts[whose], scene.hosts[1 - whose]
        scene.world.restart(host)
        assert host.document is not None
        host.configure(host.document)
        scene.world.run(120)
        scene.check()
        assert not was & set(other.data_plane.sas)

    @modes
    def test_initial_contact_clears_what_was(self, mode: ExchangeMode) -> None:
        """An initiator that begins anew says so: the other end need not wait until it misses it."""
        scene = Scene(mode, ike=policy(mode, dpd_interval_s=0)).come_up()
        scene.world.restart(scene.paris)
        scene.paris.configure(scene.left.document())
        scene.world.run(2)
        assert scene.lyon.codes()["ike.initial-contact"] == 1
        scene.check()
        assert len(machine(scene.lyon).sas) == 1

    @modes
    def test_a_responder_that_began_anew_says_so(self, mode: ExchangeMode) -> None:
        """The initiator renews phase 1 before it misses the peer: its children are there no more."""
        scene = Scene(mode, ike=policy(mode, dpd_interval_s=0)).come_up()
        was = set(scene.paris.data_plane.sas)
        scene.world.restart(scene.lyon)
        scene.lyon.configure(scene.right.document())
        scene.paris.do(scene.paris.engine.rekey_ike, scene.paris.status().id)
        scene.world.run(30)
        assert scene.paris.codes()["ike.initial-contact"] == 1
        scene.check()
        assert not was & set(scene.paris.data_plane.sas)

    @modes
    def test_nobody_says_so_when_phase_1_is_renewed(self, mode: ExchangeMode) -> None:
        scene = Scene(mode).come_up()
        scene.paris.do(scene.paris.engine.rekey_ike, scene.paris.status().id)
        scene.world.run(30)
        scene.check()
        assert not scene.paris.codes()["ike.initial-contact"] + scene.lyon.codes()["ike.initial-contact"]


class TestAddresses:
    def test_one_that_goes_while_negotiating(self) -> None:
        scene = Scene(world=World(3))
        scene.lyon.configure(scene.right.document())
        scene.world.network.loss = 1.0
        scene.paris.configure(scene.left.document())
        scene.world.run(1)
        scene.paris.change_addresses()
        scene.world.network.loss = 0.0
        scene.world.run(5)
        assert scene.paris.codes()["ike.address-lost"] >= 1
        scene.paris.change_addresses(PARIS)
        assert scene.world.run(90, up(*scene.hosts))
        scene.world.run(30)
        scene.check()

    def test_another_in_the_document(self) -> None:
        scene = Scene()
        scene.paris.addresses = (PARIS, "192.0.2.11")
        scene.come_up()
        name = Identity(type=IdentityType.IPV4, value=PARIS)
        scene.left.change(local=Endpoint(address="192.0.2.11", identity=name))
        scene.right.change(remote=Endpoint(address="192.0.2.11", identity=name))
        scene.left.keys = scene.right.keys = [key(b"a shared secret of both")]
        scene.lyon.configure(scene.right.document())
        scene.paris.configure(scene.left.document())
        scene.world.run(60)
        scene.check()
        assert scene.lyon.status().ike_sas[0].remote == "192.0.2.11:500"

    def test_a_stranger_is_told_no(self) -> None:
        scene = Scene()
        scene.right.change(remote=endpoint("192.0.2.77"))
        scene.start()
        scene.world.run(2)
        assert scene.lyon.codes()["ike.no-tunnel"] >= 1
        assert len(scene.world.log[1].octets) <= len(scene.world.log[0].octets)
        assert not machine(scene.lyon).sas
