"""IKE_AUTH by signatures and certificates (RFC 7296 sections 2.15, 3.6 to 3.8, RFC 7427) between two engines.

Keys, certificates, signatures and chains are real; the ladders show what of each message the test is about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from agents.contract.config import (
    AuthKind,
    Endpoint,
    Identity,
    IdentityType,
    LocalAuthentication,
    RemoteAuthentication,
)
from agents.contract.status import TunnelState
from agents.ike.outputs import Sign, Transmit, Validate, Verdict
from agents.ike.v2 import proof
from agents.ike.v2.proof import MOST_CERTIFICATES
from agents.ike.wire.header import classify
from agents.ike.wire.message import Message, parse_clear, serialize_clear
from agents.ike.wire.payloads import Auth, Cert, CertReq, Notify
from agents.ike.wire.registry import NotifyType
from tests import pki
from tests.harness.documents import Side, endpoint, pair
from tests.harness.pki import anchor, certificate, leaf, root
from tests.harness.world import Host, Network, World, matched, up
from tests.pki import Leaf

Pair = tuple[World, Host, Host, Side, Side]
CERTIFICATE = RemoteAuthentication(kind=AuthKind.CERTIFICATE)


def fqdn(value: str) -> Identity:
    return Identity(type=IdentityType.FQDN, value=value)


def prove_by(side: Side, host: Host, own: Leaf, *signatures: str) -> None:
    """Let this end prove itself by a certificate."""
    side.certificates = [certificate("own", own)]
    host.shell.keys["own"] = own.key
    auth = LocalAuthentication(kind=AuthKind.CERTIFICATE, certificate="own", signatures=signatures)
    side.change(local_auth=auth)


def meet(
    paris_key: str = "ecdsa-p256",
    lyon_key: str = "ecdsa-p256",
    change: Callable[[Side, Side], None] | None = None,
    rewrite: Callable[[Transmit], Transmit | None] | None = None,
) -> Pair:
    """Two hosts with certificates of one root for paris.example.org and lyon.example.org; paris begins."""
    world = World(network=Network(rewrite=rewrite))
    left, right = pair()
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    left.change(local=endpoint("192.0.2.1", fqdn("paris.example.org")), remote_auth=CERTIFICATE)
    left.change(remote=endpoint("192.0.2.2", fqdn("lyon.example.org")))
    right.change(local=endpoint("192.0.2.2", fqdn("lyon.example.org")), remote_auth=CERTIFICATE)
    right.change(remote=endpoint("192.0.2.1", fqdn("paris.example.org")))
    prove_by(left, paris, leaf("paris", paris_key))
    prove_by(right, lyon, leaf("lyon", lyon_key))
    left.anchors = right.anchors = [anchor("root", root())]
    left.keys = right.keys = []
    if change is not None:
        change(left, right)
    lyon.configure(right.document())
    paris.configure(left.document())
    return world, paris, lyon, left, right


def established(*arguments: object, **changes: object) -> Pair:
    all_ = meet(*arguments, **changes)  # type: ignore[arg-type]
    world, paris, lyon, *_ = all_
    assert world.run(20, up(paris, lyon)), (paris.status(), lyon.status())
    assert matched(paris, lyon)
    return all_


def refused(pair_: Pair, host: Host, code: str) -> str:
    """Let the negotiation fail, and return what this end's operator is told: received, configured, field."""
    world, paris, lyon, left, _ = pair_
    world.run(8)
    found = [report for report in host.reports if report.code == code]
    assert found, (paris.codes(), lyon.codes())
    assert host.status().reason is not None
    left.change(enabled=False)
    paris.configure(left.document())
    world.run(5)
    for each in (paris, lyon):
        assert each.data_plane.sas == {}
        assert each.engine.hub.esp_spis == set()
        assert each.engine.hub.questions.pending() == 0
        assert each.codes()["child.established"] == 0 or each is not host
    return f"{found[0].received} | {found[0].configured} | {found[0].field}"


def clear(datagram: bytes) -> Message:
    return parse_clear(datagram, classify(datagram))


class TestEveryKey:
    """::

    SAi, KEi, Ni, N(SIGNATURE_HASH_ALGORITHMS)     -->
                                                   <--  SAr, KEr, Nr, CERTREQ, N(SIGNATURE_HASH_ALGORITHMS)
    SK {IDi, CERT, CERTREQ, IDr, AUTH, ...}        -->
                                                   <--  SK {IDr, CERT, AUTH, ...}
    """

    @pytest.mark.parametrize(
        ("paris_key", "lyon_key", "by_paris", "by_lyon"),
        [
            ("ecdsa-p256", "ecdsa-p384", "ecdsa-sha2-256", "ecdsa-sha2-384"),
            ("ecdsa-p521", "ed25519", "ecdsa-sha2-512", "ed25519"),
            ("ed448", "rsa-2048", "ed448", "rsa-pss-sha2-256"),
            ("rsa-2048", "ecdsa-bp256", "rsa-pss-sha2-256", "ecdsa-sha2-256"),
        ],
    )
    def test_two_kinds_of_key(self, paris_key: str, lyon_key: str, by_paris: str, by_lyon: str) -> None:
        _, paris, lyon, *_ = established(paris_key, lyon_key)
        at_paris, at_lyon = paris.status().ike_sas[0], lyon.status().ike_sas[0]
        assert (at_paris.local_auth, at_paris.remote_auth) == (by_paris, by_lyon)
        assert (at_lyon.local_auth, at_lyon.remote_auth) == (by_lyon, by_paris)
        assert at_paris.remote_identity == "fqdn lyon.example.org"

    @pytest.mark.parametrize(
        ("key", "slug"),
        [
            ("rsa-2048", "rsa-pss-sha2-512"),
            ("rsa-2048", "rsa-sha2-256"),
            ("rsa-2048", "rsa-sha2-384"),
            ("rsa-2048", "method-1"),
            ("ecdsa-p256", "ecdsa-sha2-512"),
            ("ecdsa-p256", "method-9"),
            ("ecdsa-p384", "method-10"),
            ("ecdsa-p521", "method-11"),
        ],
    )
    @pytest.mark.parametrize("initiator", [True, False])
    def test_a_way_to_sign_chosen_by_name(self, key: str, slug: str, initiator: bool) -> None:
        def change(left: Side, right: Side) -> None:
            one, other = (left, right) if initiator else (right, left)
            one.change(local_auth=replace(one.tunnels[0].local_auth, signatures=(slug,)))
            other.change(remote_auth=replace(CERTIFICATE, signatures=(slug, "ecdsa-sha2-256")))

        keys = (key, "ecdsa-p256") if initiator else ("ecdsa-p256", key)
        _, paris, lyon, *_ = established(*keys, change=change)
        signer = paris if initiator else lyon
        assert signer.status().ike_sas[0].local_auth == slug
        assert signer.shell.log[0 if initiator else -1].signature == slug  # type: ignore[union-attr]

    def test_certificate_one_way_and_pre_shared_key_the_other(self) -> None:
        for certified_initiator in (True, False):

            def change(left: Side, right: Side, initiator: bool = certified_initiator) -> None:
                one, other = (right, left) if initiator else (left, right)
                one.change(local_auth=LocalAuthentication())
                other.change(remote_auth=RemoteAuthentication())
                fresh = pair(secret=b"one key for the pair")
                left.keys, right.keys = fresh[0].keys, fresh[1].keys

            _, paris, lyon, *_ = established(change=change)
            certified, other = (paris, lyon) if certified_initiator else (lyon, paris)
            assert certified.status().ike_sas[0].local_auth == "ecdsa-sha2-256"
            assert certified.status().ike_sas[0].remote_auth == "psk"
            assert [type(each) for each in certified.shell.log] == [Sign]
            assert [type(each) for each in other.shell.log] == [Validate]

    def test_announcements_stand_in_the_first_messages(self) -> None:
        world, _, lyon, *_ = established()
        request, answer = clear(world.log[0].octets), clear(world.log[1].octets)
        for message in (request, answer):
            hashes = message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS)
            assert hashes is not None
            assert hashes.data == b"\0\2\0\3\0\4\0\5"
        wanted = answer.find(CertReq)
        assert wanted is not None
        assert wanted.encoding == 4
        assert len(wanted.authorities) == 1
        assert request.find(CertReq) is None
        assert lyon.engine.hub.credentials.anchor_hashes(CERTIFICATE) == wanted.authorities

    def test_pre_shared_keys_alone_announce_nothing_of_it(self) -> None:
        world = World()
        left, right = pair()
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        for each in world.log[:2]:
            message = clear(each.octets)
            assert message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS) is None
            assert message.find(CertReq) is None

    def test_a_rekeyed_ike_sa_remembers_who_the_peer_is(self) -> None:
        world, paris, lyon, *_ = established()
        paris.do(paris.engine.rekey_ike, paris.status().id)
        world.run(1)
        assert paris.codes()["ike.sa-rekeyed"] == 1
        for host in (paris, lyon):
            (sa,) = host.status().ike_sas
            assert (sa.local_auth, sa.remote_auth) == ("ecdsa-sha2-256", "ecdsa-sha2-256")


class TestChains:
    def test_intermediates_travel_with_the_leaf(self) -> None:
        issuing = root().intermediate("Middle").intermediate("Issuing")
        own = issuing.leaf("paris", dns=("paris.example.org",))

        def change(left: Side, right: Side) -> None:
            left.certificates = [certificate("own", own)]

        world, paris, lyon, *_ = pair_ = meet(change=change)
        paris.shell.keys["own"] = own.key
        world.run(0)  # the first request is on its way; keys are asked for later
        assert world.run(20, up(paris, lyon)), pair_
        (asked,) = [each for each in lyon.shell.log if isinstance(each, Validate)]
        assert asked.chain == own.chain
        assert len(asked.chain) == 3

    def test_without_its_intermediate_a_leaf_is_not_trusted(self) -> None:
        own = root().intermediate("Issuing").leaf("paris", dns=("paris.example.org",))

        def change(left: Side, right: Side) -> None:
            left.certificates = [certificate("own", replace(own, intermediates=()))]

        pair_ = meet(change=change)
        pair_[1].shell.keys["own"] = own.key
        said = refused(pair_, pair_[2], "ike.certificate-untrusted")
        assert said == ("CN=Issuing,O=VPN Console tests | CN=Root,O=VPN Console tests | remote_auth.trust_anchors")

    @pytest.mark.parametrize("initiator", [True, False])
    def test_a_certificate_of_another_ca(self, initiator: bool) -> None:
        """The end that judges refuses; an initiator deletes what the responder believes to stand (2.21.2)."""

        def change(left: Side, right: Side) -> None:
            (left if initiator else right).anchors = [anchor("root", root("Somebody Else"))]

        pair_ = meet(change=change)
        judge, other = (pair_[1], pair_[2]) if initiator else (pair_[2], pair_[1])
        said = refused(pair_, judge, "ike.certificate-untrusted")
        assert said.startswith("CN=Root,O=VPN Console tests | CN=Somebody Else,")
        assert other.codes()["ike.peer-refused-auth"] >= 1
        assert judge.engine.hub.questions.pending() == 0

    def test_the_refused_initiator_learns_what_its_proof_was(self) -> None:
        def change(left: Side, right: Side) -> None:
            right.anchors = [anchor("root", root("Somebody Else"))]

        pair_ = meet(change=change)
        said = refused(pair_, pair_[1], "ike.peer-refused-auth")
        assert said == (
            "AUTHENTICATION_FAILED | fqdn paris.example.org by ecdsa-sha2-256; none of the CAs that the peer asks for "
            "is above that certificate | local_auth.certificate"
        )

    def test_a_certificate_that_has_expired(self) -> None:
        own = root().leaf("paris", dns=("paris.example.org",), valid=(pki.now() - 2 * pki.DAY, pki.now() - pki.DAY))

        def change(left: Side, right: Side) -> None:
            left.certificates = [certificate("own", own)]

        pair_ = meet(change=change)
        pair_[1].shell.keys["own"] = own.key
        assert refused(pair_, pair_[2], "ike.certificate-expired").startswith("CN=paris,")

    @pytest.mark.parametrize("validate", [True, False])
    def test_an_identity_that_is_not_in_the_certificate(self, validate: bool) -> None:
        other = fqdn("elsewhere.example.org")

        def change(left: Side, right: Side) -> None:
            left.change(local=endpoint("192.0.2.1", other))
            right.change(
                remote=endpoint("192.0.2.1", other), remote_auth=replace(CERTIFICATE, validate_identity=validate)
            )

        if not validate:
            established(change=change)
            return
        pair_ = meet(change=change)
        assert refused(pair_, pair_[2], "ike.certificate-identity").endswith("remote_auth.validate_identity")

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            (IdentityType.EMAIL, "gw@paris.example.org"),
            (IdentityType.DN, "CN=paris,O=VPN Console tests"),
            (IdentityType.DN, "CN=PARIS, O=vpn  console TESTS"),
        ],
    )
    def test_other_kinds_of_identity(self, kind: IdentityType, value: str) -> None:
        shown = Identity(type=kind, value=value)

        def change(left: Side, right: Side) -> None:
            left.change(local=endpoint("192.0.2.1", shown))
            right.change(remote=endpoint("192.0.2.1", shown))

        _, _, lyon, *_ = established(change=change)
        if kind is IdentityType.DN:  # as the certificate has it, whatever the document's spelling
            assert lyon.status().ike_sas[0].remote_identity == "dn CN=paris,O=VPN Console tests"
            (asked,) = [each for each in lyon.shell.log if isinstance(each, Validate)]
            assert asked.id_data == leaf("paris").certificate.subject.public_bytes()

    @pytest.mark.parametrize("missing", ["key", "certificate"])
    def test_our_own_key_or_certificate_is_not_there(self, missing: str) -> None:
        """An initiator that cannot sign sends no IKE_AUTH; a responder that cannot says AUTHENTICATION_FAILED."""

        def change(left: Side, right: Side) -> None:
            if missing == "certificate":
                for side in (left, right):
                    side.certificates = [replace(side.certificates[0], chain=("MAA=",))]

        pair_ = world, paris, lyon, *_ = meet(change=change)
        paris.shell.keys.clear()
        assert refused(pair_, paris, "ike.certificate-own") == "None | own | local_auth.certificate"
        assert {each.octets[18] for each in world.log} == {34}
        pair_ = world, paris, lyon, *_ = meet(change=lambda left, right: None)
        lyon.shell.keys.clear()
        assert refused(pair_, lyon, "ike.certificate-own") == "None | own | local_auth.certificate"
        assert paris.codes()["ike.peer-refused-auth"] >= 1


class TestSignatures:
    def test_a_hash_the_peer_does_not_take(self) -> None:
        """lyon verifies SHA2-512 only; paris's Ed25519 key cannot sign so."""

        def change(left: Side, right: Side) -> None:
            right.change(remote_auth=replace(CERTIFICATE, signatures=("rsa-pss-sha2-512",)))

        pair_ = meet("ed25519", change=change)
        said = refused(pair_, pair_[1], "ike.signature-unsupported")
        assert said == "hashes sha512 | whatever is not weak | local_auth.signatures"

    def test_a_signature_the_tunnel_does_not_take(self) -> None:
        """The announcement names hashes only: PKCS#1 v1.5 with SHA2-256 where PSS with SHA2-256 is asked for."""

        def change(left: Side, right: Side) -> None:
            left.change(local_auth=replace(left.tunnels[0].local_auth, signatures=("rsa-sha2-256",)))
            right.change(remote_auth=replace(CERTIFICATE, signatures=("rsa-pss-sha2-256",)))

        pair_ = meet("rsa-2048", change=change)
        said = refused(pair_, pair_[2], "ike.signature-refused")
        assert said == "rsa-sha2-256 | rsa-pss-sha2-256 | remote_auth.signatures"
        assert not [each for each in pair_[2].shell.log if isinstance(each, Validate)]

    def test_sha1_counts_only_where_it_is_named(self) -> None:
        def change(left: Side, right: Side) -> None:
            left.change(local_auth=replace(left.tunnels[0].local_auth, signatures=("method-1",)))

        pair_ = meet("rsa-2048", change=change)
        assert refused(pair_, pair_[2], "ike.signature-refused").startswith("method-1 | ecdsa-sha2-256, ")

    def test_a_peer_without_rfc_7427_gets_the_older_method(self) -> None:
        """lyon takes method 9 only, so it announces no hashes, and paris must not use method 14."""

        def change(left: Side, right: Side) -> None:
            right.change(remote_auth=replace(CERTIFICATE, signatures=("method-9",)))

        world, paris, *_ = established(change=change)
        assert clear(world.log[1].octets).notify(NotifyType.SIGNATURE_HASH_ALGORITHMS) is None
        assert paris.status().ike_sas[0].local_auth == "method-9"

    @pytest.mark.parametrize("direction", ["request", "answer"])
    def test_stripping_the_announcement_breaks_the_signature(self, direction: str) -> None:
        """Somebody on the path takes N(SIGNATURE_HASH_ALGORITHMS) away; AUTH covers the first messages."""

        def strip(transmit: Transmit) -> Transmit:
            header = classify(transmit.datagram)
            if header.exchange != 34 or header.response != (direction == "answer"):
                return transmit
            message = parse_clear(transmit.datagram, header)
            kept = tuple(
                each
                for each in message.payloads
                if not (isinstance(each, Notify) and each.type == NotifyType.SIGNATURE_HASH_ALGORITHMS)
            )
            return replace(transmit, datagram=serialize_clear(replace(message, payloads=kept)))

        pair_ = meet(rewrite=strip)
        judge = pair_[2] if direction == "request" else pair_[1]
        # An altered request is what paris has not signed; an altered answer is what lyon has not.
        said = refused(pair_, judge, "ike.signature-mismatch")
        assert said.endswith("| remote_auth")

    def test_a_signature_by_another_key(self) -> None:
        pair_ = meet()
        pair_[1].shell.keys["own"] = pki.key("ecdsa-p256", "a thief")
        said = refused(pair_, pair_[2], "ike.signature-mismatch")
        assert said.startswith("ecdsa-sha2-256 | ")
        pair_ = meet()
        pair_[2].shell.keys["own"] = pki.key("ecdsa-p256", "a thief")
        refused(pair_, pair_[1], "ike.signature-mismatch")

    @pytest.mark.parametrize("place", [0, 20, -1])
    def test_an_altered_auth_payload(self, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
        plain = Auth.serialize

        def altered(self: Auth) -> bytes:
            body = bytearray(plain(self))
            index = place if place < 0 else 4 + place
            body[index] ^= 1
            return bytes(body)

        monkeypatch.setattr(Auth, "serialize", altered)
        world, paris, lyon, *_ = meet()
        world.run(5)
        codes = lyon.codes()
        assert codes["ike.signature-mismatch"] + codes["ike.signature-refused"] >= 1
        assert paris.codes()["ike.peer-refused-auth"] >= 1

    def test_one_end_wants_a_key_the_other_a_certificate(self) -> None:
        def change(left: Side, right: Side) -> None:
            left.change(local_auth=LocalAuthentication())
            fresh = pair()
            left.keys, right.keys = fresh[0].keys, fresh[1].keys

        pair_ = meet(change=change)
        said = refused(pair_, pair_[2], "ike.auth-method")
        assert said == "a pre-shared key | a certificate | remote_auth.kind"

        def the_reverse(left: Side, right: Side) -> None:
            right.change(remote_auth=RemoteAuthentication())
            fresh = pair()
            left.keys, right.keys = fresh[0].keys, fresh[1].keys

        pair_ = meet(change=the_reverse)
        said = refused(pair_, pair_[2], "ike.auth-method")
        assert said == "a signature | a pre-shared key | remote_auth.kind"


class TestCertificatePayloads:
    @pytest.mark.parametrize(
        ("sent", "code", "received"),
        [
            ((), "ike.certificate-missing", "no certificate"),
            (
                (Cert(encoding=12, data=b"\1" * 20 + b"http://192.0.2.9/c.der"),),
                "ike.certificate-missing",
                "certificate encodings 12, which are not taken",
            ),
            ((Cert(encoding=4, data=b"junk"),), "ike.certificate-invalid", None),
            (
                (Cert(encoding=4, data=b"x"),) * (MOST_CERTIFICATES + 1),
                "ike.certificate-invalid",
                "11 certificates of 11 octets",
            ),
            (
                (Cert(encoding=4, data=bytes(28_001)),),
                "ike.certificate-invalid",
                "1 certificates of 28001 octets",
            ),
        ],
        ids=["none", "hash and URL", "junk", "too many", "too large"],
    )
    def test_what_is_not_a_chain(
        self, sent: tuple[Cert, ...], code: str, received: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = proof._sign

        def other(sa, wanted, then, wrap):  # type: ignore[no-untyped-def]
            plain(sa, wanted, lambda own, at: then(replace(own, certificates=sent), at), wrap)

        monkeypatch.setattr(proof, "_sign", other)
        world, _paris, lyon, *_ = meet()
        world.run(5)
        found = [report for report in lyon.reports if report.code == code]
        assert found, lyon.codes()
        assert found[0].received == received
        judged = [each for each in lyon.shell.log if isinstance(each, Validate)]
        assert bool(judged) == (received is None), "only what could be a chain is looked at"


class TestAnswersThatTakeTime:
    """::

    SK {IDi, CERT, AUTH, ...}   -->  Validate asked
    the same again              -->  dropped: it is being worked on
                                     Validate answered, Sign asked, Sign answered
                                <--  SK {IDr, CERT, AUTH, ...}
    """

    def test_repeated_requests_start_nothing_twice(self) -> None:
        world, paris, lyon, *_ = meet()
        lyon.shell.answers = False
        world.run(6)
        assert [type(each) for each in lyon.shell.asked] == [Validate]
        assert lyon.codes()["drop.duplicate"] >= 2
        lyon.do(lambda now: lyon.answer_shell())
        world.run(2)
        assert [type(each) for each in lyon.shell.asked] == [Sign]
        lyon.do(lambda now: lyon.answer_shell())
        assert world.run(10, up(paris, lyon))
        assert matched(paris, lyon)
        assert [type(each) for each in lyon.shell.log] == [Validate, Sign]
        assert [type(each) for each in paris.shell.log] == [Sign, Validate]

    def test_the_initiator_waits_as_well(self) -> None:
        world, paris, lyon, *_ = meet()
        paris.shell.answers = False
        world.run(2)
        assert [type(each) for each in paris.shell.asked] == [Sign]
        paris.do(lambda now: paris.answer_shell())
        world.run(2)
        assert [type(each) for each in paris.shell.asked] == [Validate]
        assert paris.state is TunnelState.NEGOTIATING
        paris.do(lambda now: paris.answer_shell())
        assert world.run(10, up(paris, lyon))
        assert matched(paris, lyon)

    @pytest.mark.parametrize("host_index", [1, 2])
    @pytest.mark.parametrize("rounds", [0, 1])
    def test_answers_after_the_sa_has_gone(self, host_index: int, rounds: int) -> None:
        pair_ = meet()
        world, paris, lyon, *_ = pair_
        host = pair_[host_index]
        assert isinstance(host, Host)
        host.shell.answers = False
        world.run(1)
        for _ in range(rounds):
            host.do(lambda now: host.answer_shell())
            world.run(1)
        late = list(host.shell.asked)
        assert len(late) == 1
        host.do(host.engine.terminate, host.status().id)
        if host is lyon:
            paris.do(paris.engine.terminate, paris.status().id)
        world.run(60)
        before = len(world.log)
        host.do(lambda now: host.answer_shell())
        for each in late:  # and once more, with what it should not have
            if isinstance(each, Sign):
                host.do(host.engine.signed, each.request_id, b"x")
            else:
                host.do(host.engine.validated, each.request_id, Verdict(public_key=b"x"))
        assert len(world.log) == before
        assert host.codes()["ike.bug"] == 0
        assert host.engine.hub.questions.pending() == 0
        assert host.engine.hub.esp_spis == set()
        assert host.engine.v2.sas == {}

    @pytest.mark.parametrize("host_index", [1, 2])
    @pytest.mark.parametrize("rounds", [0, 1])
    def test_a_shell_that_never_answers(self, host_index: int, rounds: int) -> None:
        pair_ = meet()
        world, paris, lyon, left, _ = pair_
        host = pair_[host_index]
        assert isinstance(host, Host)
        host.shell.answers = False
        world.run(1)
        for _ in range(rounds):
            host.do(lambda now: host.answer_shell())
            world.run(1)
        left.change(enabled=False)
        world.run(100)
        left.change(enabled=False)
        paris.configure(left.document())
        world.run(120)
        for each in (paris, lyon):
            assert each.engine.v2.sas == {}
            assert each.engine.hub.esp_spis == set()
            assert each.engine.hub.questions.pending() == 0
            assert not each.engine.v2.door.half_open

    def test_the_peer_may_begin_before_the_initiator_has_judged_it(self) -> None:
        """lyon rekeys the child while paris still waits for the verdict: its request comes again later."""
        world, paris, lyon, *_ = meet()
        paris.shell.answers = False
        world.run(1)
        paris.do(lambda now: paris.answer_shell())
        world.run(1)
        assert lyon.state is TunnelState.UP
        lyon.do(lyon.engine.rekey_child, lyon.status().id)
        world.run(1)
        assert paris.codes()["drop.state"] >= 1
        paris.do(lambda now: paris.answer_shell())
        paris.shell.answers = True
        assert world.run(20, lambda: lyon.codes()["child.rekeyed"] == 1)
        world.run(5)
        assert matched(paris, lyon)


def test_through_loss() -> None:
    for seed in range(12):
        world = World(seed, Network(loss=0.2, duplicates=0.2, delay_s=(0.01, 0.4)))
        left, right = pair()
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        for side, host, name in ((left, paris, "paris"), (right, lyon, "lyon")):
            prove_by(side, host, leaf(name))
            side.anchors = [anchor("root", root())]
            ends = [
                Endpoint(address=f"192.0.2.{n}", identity=fqdn(f"{end}.example.org"))
                for n, end in ((1, "paris"), (2, "lyon"))
            ]
            mine, other = ends if name == "paris" else ends[::-1]
            side.change(local=mine, remote=other, remote_auth=CERTIFICATE)
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(120, up(paris, lyon)), seed
        world.run(30)
        assert matched(paris, lyon), seed
        assert paris.codes()["ike.bug"] + lyon.codes()["ike.bug"] == 0
