"""Ladders of IKEv1: each test lets two engines talk over a faultless network and looks at what came of it.

::

    Main Mode (2)                   Aggressive Mode (4)             Quick Mode (32)
    SA                  -->         SA, KE, Ni, IDii      -->       HDR*, HASH(1), SA, Ni, IDs   -->
            <--  SA                       <--  SA, KE, Nr, IDir, H          <--  HDR*, HASH(2), SA, Nr, IDs
    KE, Ni              -->         HDR*, HASH_I          -->       HDR*, HASH(3)                -->
            <--  KE, Nr
    HDR*, IDii, HASH_I  -->
            <--  HDR*, IDir, HASH_R
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.config import (
    ConnectionType,
    Endpoint,
    ExchangeMode,
    Identity,
    IdentityType,
    Mode,
    TrafficSelector,
)
from agents.contract.status import TunnelState
from agents.dataplane.base import REQID_BASE, SaProtocol
from agents.ike.outputs import InstallChild, RemoveChild, SwitchOutbound
from tests.harness.documents import key
from tests.harness.v1 import (
    BOTH,
    FAST_ESP,
    FAST_IKE,
    LYON,
    MODES,
    ONE,
    PARIS,
    VOICE,
    Scene,
    child,
    cookies,
    left_behind,
    policy,
    runtime,
    sa_of,
)
from tests.harness.world import Host, matched

MAIN, AGGRESSIVE = MODES
MESSAGES = {
    MAIN: [("paris", 2), ("lyon", 2)] * 3,
    AGGRESSIVE: [("paris", 4), ("lyon", 4), ("paris", 4)],
}
QUICK = [("paris", 32), ("lyon", 32), ("paris", 32)]
modes = pytest.mark.parametrize("mode", MODES)


def removed(host: Host) -> int:
    return sum(isinstance(each, RemoveChild) for each in host.data_plane.history)


class TestEstablish:
    @modes
    def test_the_messages(self, mode: ExchangeMode) -> None:
        scene = Scene(mode).come_up(rest_s=15)
        assert scene.exchanges()[:6] == [*MESSAGES[mode], *QUICK][:6]
        for host in scene.hosts:
            assert not {code for code in host.codes() if code.startswith(("drop.", "wire."))}
        (status,) = scene.lyon.status().ike_sas
        assert (status.version, status.exchange_mode, status.remote_identity) == ("v1", str(mode), f"ipv4 {PARIS}")
        assert (status.local_auth, status.remote_auth) == ("psk", "psk")

    @modes
    def test_ipv6_outside_and_inside(self, mode: ExchangeMode) -> None:
        scene = Scene(
            mode,
            paris="2001:db8::1",
            lyon="2001:db8::2",
            children=(child(local=("fd00:1::/64",), remote=("fd00:2::/64",)),),
        ).come_up()
        assert scene.paris.status().ike_sas[0].local == "[2001:db8::1]:500"

    @modes
    def test_ipv4_inside_ipv6(self, mode: ExchangeMode) -> None:
        Scene(mode, paris="2001:db8::1", lyon="2001:db8::2").come_up()

    def test_a_responder_waits_as_idle(self) -> None:
        scene = Scene()
        scene.lyon.configure(scene.right.document())
        scene.world.run(120)
        assert scene.lyon.state is TunnelState.IDLE
        assert scene.world.log == []

    @modes
    def test_the_responder_sends_from_the_third_message_on(self, mode: ExchangeMode) -> None:
        scene = Scene(mode).come_up()
        kinds = [type(each) for each in scene.lyon.data_plane.history]
        assert kinds == [InstallChild, SwitchOutbound]
        assert [type(each) for each in scene.paris.data_plane.history] == [InstallChild]

    @modes
    def test_identities_of_every_exact_kind(self, mode: ExchangeMode) -> None:
        names = (
            Identity(type=IdentityType.FQDN, value="paris.example"),
            Identity(type=IdentityType.EMAIL, value="gw@paris.example"),
            Identity(type=IdentityType.KEY_ID, value="0a0b0c"),
            Identity(type=IdentityType.DN, value="C=FR, CN=paris"),
        )
        for name in names:
            scene = Scene(mode)
            scene.left.change(local=Endpoint(address=PARIS, identity=name))
            scene.right.change(remote=Endpoint(address=PARIS, identity=name))
            scene.come_up()

    @modes
    @pytest.mark.parametrize("kind", ["*.example", "any"])
    def test_partial_identities_of_the_peer(self, mode: ExchangeMode, kind: str) -> None:
        scene = Scene(mode)
        own = Identity(type=IdentityType.FQDN, value="paris.example")
        partial = (
            Identity(type=IdentityType.ANY, value="*")
            if kind == "any"
            else Identity(type=IdentityType.FQDN, value=kind)
        )
        scene.left.change(local=Endpoint(address=PARIS, identity=own))
        scene.right.change(remote=Endpoint(address=PARIS, identity=partial))
        scene.come_up()
        assert scene.lyon.status().ike_sas[0].remote_identity == "fqdn paris.example"

    def test_a_key_of_the_identity_shown_in_aggressive_mode(self) -> None:
        scene = Scene(AGGRESSIVE)
        own = Identity(type=IdentityType.FQDN, value="paris.example")
        scene.left.change(local=Endpoint(address=PARIS, identity=own))
        partial = Identity(type=IdentityType.FQDN, value="*.example")
        scene.right.change(remote=Endpoint(address=PARIS, identity=partial))
        scene.right.keys = [key(b"another secret"), key(b"a shared secret of both", remote_identity=own)]
        scene.come_up()

    @modes
    def test_a_second_suite_is_chosen(self, mode: ExchangeMode) -> None:
        scene = Scene(mode)
        other = replace(FAST_IKE, encryption="aes-256-cbc")
        scene.left.change(ike=policy(mode, other, FAST_IKE))
        scene.come_up()
        assert scene.paris.status().ike_sas[0].encryption == "aes-128-cbc"

    @modes
    def test_both_begin_at_once(self, mode: ExchangeMode) -> None:
        scene = Scene(mode, types=BOTH, children=(child(), VOICE)).come_up(rest_s=60)
        assert len(scene.paris.data_plane.sas) == len(scene.paris.data_plane.policies) == 4


class TestChildren:
    @modes
    def test_each_has_a_quick_mode_of_its_own(self, mode: ExchangeMode) -> None:
        scene = Scene(mode, children=(child(), VOICE)).come_up()
        assert scene.exchanges()[len(MESSAGES[mode]) :].count(("paris", 32)) == 4
        assert {spec.reqid for spec in scene.paris.data_plane.sas.values()} == {REQID_BASE + 1, REQID_BASE + 2}

    def test_each_pair_of_selectors_has_a_quick_mode_of_its_own(self) -> None:
        scene = Scene(children=(child(local=("10.1.0.0/24", "10.1.7.0/24"), remote=("10.2.0.0/24", "10.2.7.0/24")),))
        scene.come_up()
        (status,) = scene.paris.status().children
        assert len(status.sas) == 4
        assert {(each.local_ts, each.remote_ts) for each in status.sas} == {
            ((ours,), (theirs,)) for ours in ("10.1.0.0/24", "10.1.7.0/24") for theirs in ("10.2.0.0/24", "10.2.7.0/24")
        }
        assert len({spec.reqid for spec in scene.paris.data_plane.sas.values()}) == 4
        assert len(scene.paris.data_plane.policies) == 8

    def test_protocol_and_port(self) -> None:
        web = TrafficSelector(network="10.2.0.0/16", protocol=6, start_port=443, end_port=443)
        tcp = TrafficSelector(network="10.1.0.0/16", protocol=6)
        scene = Scene(children=(replace(child(), local_ts=(tcp,), remote_ts=(web,)),)).come_up()
        assert scene.paris.status().children[0].sas[0].remote_ts == ("10.2.0.0/16[6/443-443]",)

    def test_a_narrower_request_is_taken(self) -> None:
        scene = Scene()
        scene.left.change(children=(child(local=("10.1.7.0/24",)),))
        scene.come_up()
        (status,) = scene.lyon.status().children
        assert status.up
        assert status.sas[0].remote_ts == ("10.1.7.0/24",)

    def test_two_narrower_requests_stand_beside_each_other(self) -> None:
        scene = Scene()
        scene.left.change(children=(child(local=("10.1.7.0/24", "10.1.9.0/24")),))
        scene.come_up()
        assert len({spec.reqid for spec in scene.lyon.data_plane.sas.values()}) == 2
        scene.paris.do(scene.paris.engine.rekey_child, scene.paris.status().id)
        scene.world.run(30)
        scene.check()
        assert len(scene.lyon.data_plane.sas) == 4

    def test_a_wider_request_is_refused_and_phase_1_stays(self) -> None:
        scene = Scene()
        scene.left.change(children=(child(local=("10.0.0.0/8",)),))
        scene.start()
        scene.world.run(3)
        assert scene.paris.state is not TunnelState.UP
        assert cookies(scene.paris) == cookies(scene.lyon) != set()
        reason = scene.paris.status().reason
        assert reason is not None
        assert reason.code == "child.peer-refused-ts"

    def test_one_that_the_peer_lacks_leaves_the_other(self) -> None:
        scene = Scene(children=(child(), VOICE))
        scene.right.change(children=scene.right.tunnels[0].children[:1])
        scene.start()
        scene.world.run(60)
        assert scene.paris.state is TunnelState.PARTLY_UP
        assert scene.lyon.state is TunnelState.UP
        assert matched(*scene.hosts)
        assert scene.paris.codes()["child.requested"] < 12

    def test_a_refusal_names_which_of_several_it_is_about(self) -> None:
        """Both Quick Modes are under way when voice is refused: main is not taken for it."""
        scene = Scene(children=(child(), VOICE))
        scene.right.change(children=scene.right.tunnels[0].children[:1])
        scene.start()
        scene.world.run(1)
        assert scene.paris.status().children[0].up
        (refusal,) = [each for each in scene.paris.reports if each.code == "child.failed"]
        assert refusal.attributes["child"] == "voice"

    @pytest.mark.parametrize("whose", ["left", "right"])
    def test_only_one_has_pfs(self, whose: str) -> None:
        scene = Scene()
        getattr(scene, whose).change(children=(replace(getattr(scene, whose).tunnels[0].children[0],
                                                        pfs_groups=("group-19",)),))  # fmt: skip
        scene.start()
        scene.world.run(3)
        assert scene.lyon.codes()["ikev1.pfs-mismatch"] >= 1
        assert not matched(*scene.hosts) or not scene.paris.data_plane.sas
        assert left_behind(scene.paris) is None

    def test_several_suites_in_one_offer(self) -> None:
        scene = Scene()
        ah = replace(FAST_ESP, ah_integrity="hmac-sha1-96")
        scene.left.change(children=(child(proposals=(ah, FAST_ESP), ipcomp=True),))
        scene.come_up()
        spec = next(iter(scene.paris.data_plane.sas.values()))
        assert (spec.id.protocol, spec.ah, spec.compression_cpi) == (SaProtocol.ESP, None, None)
        assert len(scene.paris.engine.hub.esp_spis) == 1
        assert not scene.paris.engine.hub.cpis

    def test_transport_mode_of_one_end_is_refused(self) -> None:
        hosts = child(local=(f"{PARIS}/32",), remote=(f"{LYON}/32",))
        scene = Scene(children=(hosts,))
        scene.left.change(children=(replace(hosts, mode=Mode.TRANSPORT),))
        scene.start()
        scene.world.run(3)
        assert scene.paris.state is not TunnelState.UP
        assert left_behind(scene.lyon) is None


class TestLifetimes:
    @modes
    def test_the_shorter_lifetime_of_phase_1_counts_at_both_ends(self, mode: ExchangeMode) -> None:
        scene = Scene(mode)
        scene.left.change(ike=policy(mode, lifetime_s=3_600))
        scene.come_up()
        ours, theirs = (sa_of(host) for host in scene.hosts)
        assert ours.lifetime_s == theirs.lifetime_s == 3_600

    @pytest.mark.parametrize("shorter", ["paris", "lyon"])
    def test_the_shorter_lifetime_of_a_child_counts_at_both_ends(self, shorter: str) -> None:
        """The responder says that its lifetime is shorter (RESPONDER-LIFETIME), the initiator by its offer."""
        scene = Scene()
        side = scene.left if shorter == "paris" else scene.right
        side.change(children=(replace(side.tunnels[0].children[0], lifetime_s=600, lifetime_bytes=2**20),))
        scene.come_up()
        for host in scene.hosts:
            (made,) = runtime(host).children
            assert made.expire_at - made.installed_at == 600
            assert {spec.limits.hard_bytes for spec in host.data_plane.sas.values()} == {2**20}

    def test_a_child_is_rekeyed_in_time(self) -> None:
        scene = Scene(children=(child(lifetime_s=60),), types=BOTH).come_up(rest_s=15)
        states = set()
        for _ in range(60):
            scene.world.run(10)
            states |= {host.state for host in scene.hosts}
        assert states == {TunnelState.UP}
        assert scene.paris.codes()["child.rekeyed"] >= 8
        assert scene.paris.codes()["child.established"] <= 2
        scene.world.run(30, lambda: matched(*scene.hosts))
        assert matched(*scene.hosts)

    def test_by_octets(self) -> None:
        scene = Scene(children=(child(lifetime_bytes=2**20),)).come_up()
        spec = next(spec for spec in scene.paris.data_plane.sas.values() if spec.direction == "in")
        assert 0.8 * 2**20 <= spec.limits.soft_bytes < spec.limits.hard_bytes == 2**20
        scene.paris.do(scene.paris.engine.sa_expired, spec.tunnel_id, spec.spi, False)
        scene.world.run(40)
        assert scene.paris.codes()["child.rekeyed"] == 1
        scene.check()
        (spec,) = [spec for spec in scene.paris.data_plane.sas.values() if spec.direction == "in"]
        scene.paris.do(scene.paris.engine.sa_expired, spec.tunnel_id, spec.spi, True)
        scene.world.run(40)
        assert spec.id not in scene.paris.data_plane.sas
        scene.check()

    @modes
    @pytest.mark.parametrize("types", [BOTH, ONE], ids=["both", "one"])
    def test_a_new_phase_1_begins_before_the_old_one_ends(
        self, mode: ExchangeMode, types: tuple[ConnectionType, ConnectionType]
    ) -> None:
        scene = Scene(mode, ike=policy(mode, lifetime_s=100), types=types).come_up(rest_s=15)
        before, sas = removed(scene.paris), dict(scene.paris.data_plane.sas)
        for _ in range(100):
            scene.world.run(10)
            assert scene.paris.state is scene.lyon.state is TunnelState.UP
            assert cookies(scene.paris) & cookies(scene.lyon)
        assert 8 <= scene.paris.codes()["ike.sa-established"] < 20
        assert removed(scene.paris) == before
        assert scene.paris.data_plane.sas == sas, "the child outlives the ISAKMP SA it was made on"

    def test_a_refused_renewal_is_tried_again(self) -> None:
        scene = Scene(ike=policy(lifetime_s=10_000)).come_up()
        (before,) = cookies(scene.paris)
        scene.right.keys, good = [key(b"another secret")], scene.right.keys
        lyon = scene.lyon
        lyon.document = scene.right.document()  # the shell has another key by now, the engine no other document
        scene.world.run(9_000)
        assert scene.paris.codes()["ike.reauthentication"] >= 2
        scene.right.keys = good
        lyon.document = scene.right.document()
        scene.world.run(400)
        assert before not in cookies(scene.paris)
        scene.world.run(30)
        scene.check()
        assert not scene.paris.codes()["child.deleted"]
