"""IKEv1 with signatures and certificates (RFC 2409 section 5.1, RFC 4945), and messages cut into fragments.

Keys, certificates, signatures and chains are real. A chain does not go into one packet, so most of these negotiations
are fragmented as Cisco does it: whole messages, cut after they were encrypted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from agents.contract.config import Endpoint, ExchangeMode, Identity, IdentityType, RemoteAuthentication
from agents.contract.status import TunnelState
from agents.ike.outputs import Path, Sign, Transmit, Validate
from agents.ike.wire.header import classify
from agents.ike.wire.isakmp import fragments
from tests import pki
from tests.harness.documents import Side
from tests.harness.pki import anchor, certificate, certify, root
from tests.harness.v1 import BOTH, LYON, MODES, PARIS, Scene, cookies, left_behind, machine, policy, sa_of
from tests.harness.world import Host, up

MAIN, AGGRESSIVE = MODES
modes = pytest.mark.parametrize("mode", MODES)
KEYS = ("rsa-2048", "rsa-3072", "ecdsa-p256", "ecdsa-p384", "ecdsa-p521")
SLUGS = {"rsa-2048": "ikev1-rsa", "rsa-3072": "ikev1-rsa", **{key: f"ikev1-{key}" for key in KEYS[2:]}}


def meet(mode: ExchangeMode, keys: tuple[str, str] = ("ecdsa-p256", "ecdsa-p256"), **changes: object) -> Scene:
    """Two ends with certificates of one root; paris begins."""
    scene = Scene(mode, **changes)  # type: ignore[arg-type]
    certify(scene.left, scene.paris, keys[0])
    certify(scene.right, scene.lyon, keys[1])
    scene.left.keys = scene.right.keys = []
    return scene


def names(scene: Scene, paris: str = "paris.example.org", lyon: str = "lyon.example.org") -> None:
    """Let the identities be names that must stand in the certificates."""
    here, there = (Identity(type=IdentityType.FQDN, value=value) for value in (paris, lyon))
    for side, own, other in ((scene.left, (PARIS, here), (LYON, there)), (scene.right, (LYON, there), (PARIS, here))):
        side.change(
            local=Endpoint(address=own[0], identity=own[1]),
            remote=Endpoint(address=other[0], identity=other[1]),
            remote_auth=replace(side.tunnels[0].remote_auth, validate_identity=True),
        )


def long_chain(side: Side, host: Host, depth: int = 4) -> None:
    """Give this end a leaf under so many CAs, which it all sends along."""
    authority = root()
    for level in range(depth):
        subject = f"Level {level}"
        authority = authority.intermediate(subject, private_key=pki.key("ecdsa-p256", subject))
    own = authority.leaf(side.name, private_key=pki.key("rsa-2048", side.name))
    side.certificates = [certificate("own", own)]
    host.shell.keys["own"] = own.key


def pieces(scene: Scene, sender: str) -> list[bytes]:
    return [
        each.octets
        for each in scene.world.log
        if each.sender == sender and fragments.is_fragment(classify(each.octets))
    ]


def refused(scene: Scene, host: Host, code: str) -> None:
    """Let the negotiation fail, and see that this end's operator is told why and nothing is left."""
    scene.start()
    scene.world.run(8)
    assert code in host.codes(), (scene.paris.codes(), scene.lyon.codes())
    assert host.status().reason is not None
    scene.left.change(enabled=False)
    scene.paris.configure(scene.left.document())
    scene.world.run(60)
    for each in scene.hosts:
        assert each.data_plane.sas == {}
        assert left_behind(each) is None
        assert machine(each).sas == {}


class TestEveryKey:
    @modes
    @pytest.mark.parametrize("key", KEYS)
    def test_signs_and_is_believed(self, mode: ExchangeMode, key: str) -> None:
        scene = meet(mode, (key, key)).come_up()
        for host in scene.hosts:
            (status,) = host.status().ike_sas
            assert (status.local_auth, status.remote_auth) == (SLUGS[key], SLUGS[key])
            (sign,) = [each for each in host.shell.log if isinstance(each, Sign)]
            assert sign.signature == SLUGS[key]
            assert len([each for each in host.shell.log if isinstance(each, Validate)]) == 1

    @modes
    def test_two_sizes_of_one_kind(self, mode: ExchangeMode) -> None:
        meet(mode, ("rsa-2048", "rsa-3072")).come_up()

    @modes
    @pytest.mark.parametrize("keys", [("rsa-2048", "ecdsa-p256"), ("ecdsa-p256", "ecdsa-p384")], ids="-".join)
    def test_two_kinds_do_not_go_together(self, mode: ExchangeMode, keys: tuple[str, str]) -> None:
        """One method is negotiated for both ends (RFC 2409 section 5): RSA here and ECDSA there has no number."""
        scene = meet(mode, keys)
        refused(scene, scene.lyon, "ikev1.auth-method-mismatch")

    @modes
    def test_ed25519_has_no_number(self, mode: ExchangeMode) -> None:
        scene = meet(mode, ("ed25519", "ecdsa-p256"))
        scene.start()
        scene.world.run(5)
        reason = scene.paris.status().reason
        assert reason is not None
        assert reason.code == "ike.certificate-own"
        assert scene.world.log == []

    @modes
    def test_through_renewals_by_either_end(self, mode: ExchangeMode) -> None:
        scene = meet(mode, types=BOTH).come_up(rest_s=20)
        for host in (scene.lyon, scene.paris, scene.lyon):
            before = cookies(host)
            host.do(host.engine.rekey_ike, host.status().id)
            scene.world.run(40)
            scene.check()
            assert not before & cookies(host)


class TestIdentities:
    @modes
    def test_in_the_certificate(self, mode: ExchangeMode) -> None:
        scene = meet(mode)
        names(scene)
        scene.come_up()
        assert scene.lyon.status().ike_sas[0].remote_identity == "fqdn paris.example.org"

    @modes
    def test_not_in_the_certificate(self, mode: ExchangeMode) -> None:
        scene = meet(mode)
        names(scene, paris="madrid.example.org")
        refused(scene, scene.lyon, "ikev1.identity-not-in-certificate")

    @modes
    def test_any_name_of_a_trusted_certificate(self, mode: ExchangeMode) -> None:
        scene = meet(mode)
        names(scene)
        someone = Identity(type=IdentityType.FQDN, value="*.example.org")
        scene.right.change(remote=Endpoint(address=PARIS, identity=someone))
        scene.come_up()

    @modes
    def test_the_subject_as_identity(self, mode: ExchangeMode) -> None:
        scene = meet(mode)
        names(scene)
        subject = Identity(type=IdentityType.DN, value="CN=paris,O=VPN Console tests")
        scene.left.change(local=Endpoint(address=PARIS, identity=subject))
        scene.right.change(remote=Endpoint(address=PARIS, identity=subject))
        scene.come_up()

    @modes
    def test_another_name_than_the_tunnel_has(self, mode: ExchangeMode) -> None:
        scene = meet(mode)
        names(scene)
        other = Identity(type=IdentityType.FQDN, value="madrid.example.org")
        scene.right.change(remote=Endpoint(address=PARIS, identity=other))
        code = "ikev1.certificate-identity-mismatch"
        refused(scene, scene.lyon, code)


class TestTrust:
    @modes
    @pytest.mark.parametrize("whose", [0, 1])
    def test_of_somebody_else(self, mode: ExchangeMode, whose: int) -> None:
        scene = meet(mode)
        (scene.left, scene.right)[whose].anchors = [anchor("root", root("Somebody Else"))]
        refused(scene, scene.hosts[whose], "ike.certificate-untrusted")

    @modes
    def test_a_signature_by_another_key(self, mode: ExchangeMode) -> None:
        scene = meet(mode)
        scene.paris.shell.keys["own"] = pki.key("ecdsa-p256", "another")
        refused(scene, scene.lyon, "ike.signature-mismatch")

    @modes
    @pytest.mark.parametrize("whose", [0, 1])
    def test_a_key_that_is_not_there(self, mode: ExchangeMode, whose: int) -> None:
        scene = meet(mode)
        scene.hosts[whose].shell.keys.clear()
        refused(scene, scene.hosts[whose], "ike.certificate-own")

    @modes
    def test_a_psk_against_a_certificate(self, mode: ExchangeMode) -> None:
        scene = meet(mode)
        scene.left.change(local_auth=type(scene.left.tunnels[0].local_auth)(), remote_auth=RemoteAuthentication())
        refused(scene, scene.lyon, "ikev1.auth-method-mismatch")

    @modes
    @pytest.mark.parametrize("whose", [0, 1])
    def test_a_shell_that_takes_its_time(self, mode: ExchangeMode, whose: int) -> None:
        """What comes meanwhile is a repetition, or has to come again."""
        scene = meet(mode)
        scene.hosts[whose].shell.delay_s = (2.0, 6.0)
        scene.start()
        assert scene.world.run(60, up(*scene.hosts))
        scene.world.run(30)
        scene.check()

    @modes
    def test_a_shell_that_never_answers(self, mode: ExchangeMode) -> None:
        scene = meet(mode)
        scene.lyon.shell.answers = False
        scene.start()
        scene.world.run(20)
        scene.left.change(enabled=False)
        scene.paris.configure(scene.left.document())
        scene.world.run(120)
        assert machine(scene.lyon).sas == {}
        assert left_behind(scene.lyon) is None
        scene.lyon.answer_shell()
        assert scene.lyon.state is not TunnelState.UP


def test_an_initiator_that_refuses_the_last_message_of_main_mode_says_so_under_protection() -> None:
    """::

    HDR*, IDii, CERT, SIG_I      -->
                                 <--   HDR*, IDir, CERT, SIG_R            lyon stands
    HDR*, HASH(1), N(INVALID-CERTIFICATE)     -->
    HDR*, HASH(1), D(ISAKMP SA)               -->                         lyon does not
    """
    scene = meet(MAIN, ike=policy(MAIN, dpd_interval_s=0))
    scene.left.anchors = [anchor("root", root("Somebody Else"))]
    scene.start()
    scene.world.run(0.065)
    assert cookies(scene.lyon)
    scene.world.run(0.1)
    assert not cookies(scene.lyon)
    reason = scene.lyon.status().reason
    assert reason is not None
    assert reason.code == "ike.peer-refused-auth"


class TestFragments:
    """::

    Main Mode                                                    Aggressive Mode
    HDR, SA, VID(FRAGMENTATION)   -->                            HDR, SA, KE, Ni, IDii, VID(FRAGMENTATION)   -->
             <--  HDR, SA, VID(FRAGMENTATION)                             <--  FRAG(1), FRAG(2), FRAG(3, last)
    ...                                                          FRAG(1), FRAG(2), FRAG(3, last)             -->
    FRAG(1), FRAG(2), FRAG(3, last)  -->
             <--  FRAG(1), FRAG(2), FRAG(3, last)
    """

    @modes
    @pytest.mark.parametrize("octets", [576, 1_280])
    def test_long_chains_both_ways(self, mode: ExchangeMode, octets: int) -> None:
        scene = meet(mode, ike=policy(mode, fragment_octets=octets))
        long_chain(scene.left, scene.paris)
        long_chain(scene.right, scene.lyon)
        scene.come_up()
        for sender in ("paris", "lyon"):
            assert len(pieces(scene, sender)) >= 2
        assert max(len(each.octets) + 28 for each in scene.world.log) <= octets
        assert sa_of(scene.paris).fragmenting

    @modes
    @pytest.mark.parametrize("whose", [0, 1])
    def test_off_at_either_end_means_whole_messages(self, mode: ExchangeMode, whose: int) -> None:
        scene = meet(mode)
        (scene.left, scene.right)[whose].change(ike=policy(mode, fragmentation=False))
        long_chain(scene.left, scene.paris)
        long_chain(scene.right, scene.lyon)
        scene.come_up()
        assert not pieces(scene, "paris") + pieces(scene, "lyon")
        assert not sa_of(scene.lyon).fragmenting

    @modes
    @pytest.mark.parametrize("which", [0, 1, -1])
    def test_a_piece_lost(self, mode: ExchangeMode, which: int) -> None:
        for sender in (PARIS, LYON):
            scene = meet(mode)
            long_chain(scene.left, scene.paris)
            long_chain(scene.right, scene.lyon)
            scene.world.network.rewrite = _losing_piece(sender, which)
            scene.start()
            assert scene.world.run(30, up(*scene.hosts))
            scene.world.run(30)
            scene.check()

    @modes
    def test_pieces_in_any_order(self, mode: ExchangeMode) -> None:
        for seed in range(6):
            scene = meet(mode, ike=policy(mode, fragment_octets=576))
            long_chain(scene.left, scene.paris)
            long_chain(scene.right, scene.lyon)
            scene.world.network.delay_s = (0.01, 0.3 + 0.01 * seed)
            scene.world.network.duplicates = 0.3
            scene.start()
            assert scene.world.run(60, up(*scene.hosts))
            scene.world.run(30)
            scene.check()

    @modes
    def test_a_forged_piece_does_not_stop_it(self, mode: ExchangeMode) -> None:
        """Nothing of a piece is authentic: a message that comes of forged ones is dropped, and the next try counts."""
        scene = meet(mode)
        long_chain(scene.left, scene.paris)
        long_chain(scene.right, scene.lyon)
        forged: list[Transmit] = []

        def rewrite(each: Transmit) -> Transmit | None:
            header = classify(each.datagram)
            if fragments.is_fragment(header) and each.path.local_address == PARIS and len(forged) < 1:
                forged.append(each)
                return replace(each, datagram=each.datagram[:-8] + bytes(8))
            return each

        scene.world.network.rewrite = rewrite
        scene.start()
        scene.world.run(90)
        assert forged
        scene.check()

    @modes
    def test_a_path_that_takes_less(self, mode: ExchangeMode) -> None:
        scene = meet(mode)
        long_chain(scene.left, scene.paris)
        long_chain(scene.right, scene.lyon)
        scene.world.network.rewrite = lambda each: each if len(each.datagram) + 28 <= 900 else None
        scene.start()
        path = Path(local_address=PARIS, local_port=500, remote_address=LYON, remote_port=500)
        back = Path(local_address=LYON, local_port=500, remote_address=PARIS, remote_port=500)
        for _ in range(20):  # the kernel tells of it whenever a packet is too big
            scene.world.run(2)
            scene.paris.engine.datagram_too_big(path, 900, scene.world.now)
            scene.lyon.engine.datagram_too_big(back, 900, scene.world.now)
            scene.world.drain()
        assert all(sa.path_octets == 900 for sa in machine(scene.paris).sas.values())


def _losing_piece(sender: str, which: int) -> Callable[[Transmit], Transmit | None]:
    """Lose one fragment of an end's first fragmented message, once."""
    seen: list[bytes] = []
    left = [True]

    def rewrite(each: Transmit) -> Transmit | None:
        if each.path.local_address != sender or not fragments.is_fragment(classify(each.datagram)):
            return each
        seen.append(each.datagram)
        fragment = fragments.read(each.datagram, classify(each.datagram))
        hit = fragment.last if which < 0 else len(seen) == which + 1
        if hit and left[0]:
            left[0] = False
            return None
        return each

    return rewrite
