"""IKE_AUTH's policies between two engines: childless IKE SAs (RFC 6023), a second SA of one peer (RFC 7296 section
2.4), partial identities, and what is refused: EAP, a second authentication, configuration payloads.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from agents.contract.config import (
    AuthKind,
    Childless,
    ConnectionType,
    Identity,
    IdentityType,
    IkePolicy,
    PostquantumKey,
    RemoteAuthentication,
    TrafficSelector,
    UniquePolicy,
)
from agents.contract.secret import Secret
from agents.contract.status import TunnelState
from agents.ike.outputs import Path
from agents.ike.v2.sa import IkeSa
from agents.ike.v2.tasks.auth import Authenticate
from agents.ike.wire.header import Header, classify
from agents.ike.wire.message import Message, parse_clear, seal_message
from agents.ike.wire.payloads import Auth, Cert, CertReq, IdI, IdR, Notify, Opaque, Payload
from agents.ike.wire.registry import NotifyType, PayloadType
from tests.harness.documents import FAST_IKE, Side, child, endpoint, key, pair, tunnel
from tests.harness.pki import anchor, root
from tests.harness.world import Host, World, matched, up

Pair = tuple[World, Host, Host, Side, Side]
BOTH = (ConnectionType.BOTH, ConnectionType.BOTH)


def policy(**changes: object) -> IkePolicy:
    return IkePolicy(proposals=(FAST_IKE,), **changes)  # type: ignore[arg-type]


def meet(left_policy: IkePolicy, right_policy: IkePolicy, **changes: object) -> Pair:
    world = World()
    left, right = pair(**changes)  # type: ignore[arg-type]
    left.change(ike=left_policy)
    right.change(ike=right_policy)
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    lyon.configure(right.document())
    paris.configure(left.document())
    return world, paris, lyon, left, right


def exchanges(world: World) -> list[tuple[str, int]]:
    return [(each.sender, each.octets[18]) for each in world.log]


def reported(host: Host, code: str) -> tuple[str | None, str | None, str | None]:
    """What this end's operator is told with its first report of this code."""
    found = [report for report in host.reports if report.code == code]
    assert found, host.codes()
    return found[0].received, found[0].configured, found[0].field


class TestChildless:
    """::

    SAi, KEi, Ni            -->
                            <--  SAr, KEr, Nr, N(CHILDLESS_IKEV2_SUPPORTED)
    SK {IDi, IDr, AUTH}     -->
                            <--  SK {IDr, AUTH}
    SK {SA, Ni, TSi, TSr}   -->                                                CREATE_CHILD_SA
                            <--  SK {SA, Nr, TSi, TSr}
    """

    @pytest.mark.parametrize(
        ("left", "right", "childless"),
        [
            (Childless.PREFER, Childless.ALLOW, True),
            (Childless.FORCE, Childless.ALLOW, True),
            (Childless.FORCE, Childless.FORCE, True),
            (Childless.PREFER, Childless.NEVER, False),
            (Childless.ALLOW, Childless.ALLOW, False),
            (Childless.ALLOW, Childless.PREFER, False),
            (Childless.NEVER, Childless.ALLOW, False),
        ],
    )
    def test_the_tunnel_comes_up_either_way(self, left: Childless, right: Childless, childless: bool) -> None:
        world, paris, lyon, *_ = meet(policy(childless=left), policy(childless=right))
        assert world.run(8, up(paris, lyon))
        assert matched(paris, lyon)
        assert paris.status().ike_sas[0].mobike, "agreed on with the proof, child or not"
        auth = [("paris", 34), ("lyon", 34), ("paris", 35), ("lyon", 35)]
        assert exchanges(world) == [*auth, *([("paris", 36), ("lyon", 36)] if childless else [])]

    def test_the_responder_announces_it(self) -> None:
        for childless, announced in ((Childless.ALLOW, True), (Childless.NEVER, False)):
            world, *_ = meet(policy(), policy(childless=childless))
            world.run(1)
            answer = parse_clear(world.log[1].octets, classify(world.log[1].octets))
            assert (answer.notify(NotifyType.CHILDLESS_IKEV2_SUPPORTED) is not None) is announced

    def test_forced_on_a_peer_that_cannot(self) -> None:
        world, paris, lyon, *_ = meet(policy(childless=Childless.FORCE), policy(childless=Childless.NEVER))
        world.run(3)
        assert reported(paris, "ike.childless-unsupported") == (
            "no CHILDLESS_IKEV2_SUPPORTED",
            "force",
            "ike.childless",
        )
        assert set(exchanges(world)) <= {("paris", 34), ("lyon", 34)}
        world.run(60)
        assert not lyon.status().ike_sas, "what is half open goes"

    def test_a_child_at_once_where_none_is_wanted(self) -> None:
        world, paris, lyon, *_ = meet(policy(), policy(childless=Childless.FORCE))
        world.run(3)
        assert reported(lyon, "ike.childless-refused") == ("SA, TSi and TSr", "force", "ike.childless")
        assert paris.codes()["ike.peer-notify"] >= 1
        assert paris.state is not TunnelState.UP
        assert paris.data_plane.sas == lyon.data_plane.sas == {}

    def test_no_child_where_one_is_wanted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A peer that goes without one although we have not announced it."""
        plain = Authenticate.start

        def start(self: Authenticate, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
            sa.auth.childless = True
            return plain(self, sa, now)

        monkeypatch.setattr(Authenticate, "start", start)
        world, _paris, lyon, *_ = meet(policy(childless=Childless.PREFER), policy(childless=Childless.NEVER))
        world.run(3)
        assert reported(lyon, "ike.childless-refused") == ("no SA payload", "never", "ike.childless")

    def test_a_refused_child_leaves_the_ike_sa(self) -> None:
        world, paris, lyon, left, _ = meet(policy(childless=Childless.PREFER), policy())
        left.change(children=(child(local=("10.77.0.0/16",)),))
        paris.configure(left.document())
        world.run(3)
        assert paris.codes()["child.peer-refused-ts"] >= 1
        assert [sa.state for sa in paris.status().ike_sas] == ["established"]
        assert [sa.state for sa in lyon.status().ike_sas] == ["established"]


class TestUnique:
    """paris opens a second IKE SA beside the one that stands, saying INITIAL_CONTACT or not."""

    @staticmethod
    def second(unique: UniquePolicy, *, contact: bool = False, mine: UniquePolicy | None = None) -> Pair:
        world, paris, lyon, left, right = meet(
            policy(unique=mine or unique, dpd_interval_s=0), policy(unique=unique, dpd_interval_s=0)
        )
        assert world.run(8, up(paris, lyon))
        if contact:
            world.restart(paris)
            paris.configure(left.document())
        else:
            paris.engine.v2.tunnels[paris.status().id].initiate(world.now)
            paris.engine.handle_timer(world.now)
            world.drain()
        world.run(2)
        return world, paris, lyon, left, right

    @staticmethod
    def standing(host: Host) -> int:
        return sum(sa.state == "established" for sa in host.status().ike_sas)

    def test_replace_lets_the_newer_win(self) -> None:
        world, paris, lyon, *_ = self.second(UniquePolicy.REPLACE)
        world.run(60)
        assert (self.standing(paris), self.standing(lyon)) == (1, 1)
        assert lyon.codes()["ike.sa-established"] == 2
        assert matched(paris, lyon)

    def test_keep_refuses_the_newcomer(self) -> None:
        """::

        SK {IDi, AUTH, ...}  -->
                             <--  SK {N(AUTHENTICATION_FAILED)}
        """
        world, paris, lyon, *_ = self.second(UniquePolicy.KEEP)
        assert reported(lyon, "ike.unique-kept") == ("ipv4 192.0.2.1", "keep", "ike.unique")
        assert paris.codes()["ike.peer-refused-auth"] == 1
        world.run(30)
        assert (self.standing(paris), self.standing(lyon)) == (1, 1)
        assert matched(paris, lyon)
        assert up(paris, lyon)()

    def test_keep_believes_initial_contact(self) -> None:
        world, paris, lyon, *_ = self.second(UniquePolicy.KEEP, contact=True)
        assert world.run(20, up(paris, lyon))
        assert lyon.codes()["ike.unique-kept"] == 0
        assert lyon.codes()["ike.initial-contact"] == 1
        assert (self.standing(paris), self.standing(lyon)) == (1, 1)
        assert matched(paris, lyon)

    def test_keep_lets_a_reauthentication_pass(self) -> None:
        world = World()
        left, right = pair(ike=policy(unique=UniquePolicy.KEEP, reauth_s=40, dpd_interval_s=0))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(8, up(paris, lyon))
        world.run(200)
        assert lyon.codes()["ike.unique-kept"] == 0
        assert paris.codes()["ike.reauthentication"] >= 3
        world.run(15)
        assert up(paris, lyon)()
        assert matched(paris, lyon)

    @pytest.mark.parametrize("contact", [False, True])
    def test_never_lets_both_stand(self, contact: bool) -> None:
        mine = UniquePolicy.REPLACE if contact else None
        world, paris, lyon, *_ = self.second(UniquePolicy.NEVER, contact=contact, mine=mine)
        world.run(60)
        assert up(paris, lyon)()
        if contact:  # paris knows nothing of the first any more, and lyon does not believe that
            assert (self.standing(paris), self.standing(lyon)) == (1, 2)
            assert lyon.codes()["ike.initial-contact"] == 0
        else:  # of its own two paris itself gives the first one up
            assert self.standing(paris) == self.standing(lyon) == 1

    @pytest.mark.parametrize("unique", list(UniquePolicy))
    def test_simultaneous_initiation_ends_with_one(self, unique: UniquePolicy) -> None:
        both = policy(unique=unique)
        world, paris, lyon, *_ = meet(both, both, types=BOTH)
        world.run(60)
        assert up(paris, lyon)()
        assert (self.standing(paris), self.standing(lyon)) == (1, 1)
        assert matched(paris, lyon)
        assert lyon.codes()["ike.unique-kept"] + paris.codes()["ike.unique-kept"] == 0


def named(kind: IdentityType, value: str) -> Identity:
    return Identity(type=kind, value=value)


class TestPartialIdentities:
    """lyon has three tunnels for one address: an exact identity, a partial one and any."""

    @staticmethod
    def meet(shown: Identity, *expected: Identity, secrets: tuple[bytes, ...] = ()) -> tuple[World, Host, Host]:
        world = World()
        near, far = endpoint("192.0.2.1", shown), endpoint("192.0.2.2")
        left = tunnel(near, far, connection_type=ConnectionType.INITIATOR_ONLY)
        rights = [
            tunnel(
                far,
                endpoint("192.0.2.1", each),
                name=f"for-{number}",
                children=(child(local=("10.2.0.0/16",), remote=("10.1.0.0/16",)),),
                connection_type=ConnectionType.RESPONDER_ONLY,
            )
            for number, each in enumerate(expected)
        ]
        rows = [key(secrets[n] if secrets else b"the key", remote_identity=each) for n, each in enumerate(expected)]
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(Side(name="lyon", tunnels=rights, keys=rows).document())
        paris.configure(Side(name="paris", tunnels=[left], keys=[key(b"the key")]).document())
        return world, paris, lyon

    EXACT = named(IdentityType.FQDN, "gw.example.org")
    PARTIAL = named(IdentityType.FQDN, "*.example.org")
    ANY = named(IdentityType.ANY, "*")

    @pytest.mark.parametrize(
        ("shown", "chosen"),
        [("gw.example.org", 2), ("GW.Example.Org", 2), ("other.example.org", 1), ("gw.example.net", 0)],
    )
    def test_exact_then_partial_then_any(self, shown: str, chosen: int) -> None:
        world, paris, lyon = self.meet(named(IdentityType.FQDN, shown), self.ANY, self.PARTIAL, self.EXACT)
        assert world.run(5, up(paris))
        ups = [status.state is TunnelState.UP for status in lyon.engine.snapshot(world.now)]
        assert ups == [number == chosen for number in range(3)]
        sa = lyon.engine.snapshot(world.now)[chosen].ike_sas[0]
        assert sa.remote_identity == f"fqdn {shown}"

    @pytest.mark.parametrize(
        ("kind", "shown", "expected"),
        [
            (IdentityType.EMAIL, "ann@example.org", "*@example.org"),
            (IdentityType.DN, "CN=gw 7,OU=branches,O=Example", "CN=*,OU=Branches,O=example"),
            (IdentityType.DN, "CN=gw,C=FR", "CN=gw,C=*"),
        ],
    )
    def test_other_kinds(self, kind: IdentityType, shown: str, expected: str) -> None:
        world, paris, lyon = self.meet(named(kind, shown), named(kind, expected))
        assert world.run(5, up(paris, lyon))
        assert matched(paris, lyon)

    def test_what_does_not_fit_is_named(self) -> None:
        world, _, lyon = self.meet(named(IdentityType.FQDN, "gw.example.net"), self.PARTIAL)
        world.run(3)
        assert reported(lyon, "ike.identity-mismatch") == (
            "fqdn gw.example.net",
            "fqdn *.example.org",
            "remote.identity",
        )

    def test_the_key_of_the_identity_shown_wins_over_that_of_the_partial_one(self) -> None:
        world = World()
        shown = named(IdentityType.FQDN, "gw.example.org")
        left = tunnel(
            endpoint("192.0.2.1", shown), endpoint("192.0.2.2"), connection_type=ConnectionType.INITIATOR_ONLY
        )
        right = tunnel(
            endpoint("192.0.2.2"),
            endpoint("192.0.2.1", self.PARTIAL),
            children=(child(local=("10.2.0.0/16",), remote=("10.1.0.0/16",)),),
            connection_type=ConnectionType.RESPONDER_ONLY,
        )
        rows = [key(b"of all", remote_identity=self.PARTIAL), key(b"of this one", remote_identity=shown)]
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(Side(name="lyon", tunnels=[right], keys=rows).document())
        paris.configure(Side(name="paris", tunnels=[left], keys=[key(b"of this one")]).document())
        assert world.run(5, up(paris, lyon))
        assert matched(paris, lyon)

    def test_an_initiator_expects_part_of_a_name_and_asks_for_none(self) -> None:
        """No IDr goes out; what comes back must fit."""
        world = World()
        left, right = pair()
        left.change(remote=endpoint("192.0.2.2", self.PARTIAL))
        right.change(local=endpoint("192.0.2.2", self.EXACT))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        assert paris.status().ike_sas[0].remote_identity == "fqdn gw.example.org"
        right.change(local=endpoint("192.0.2.2", named(IdentityType.FQDN, "gw.example.net")))
        lyon.configure(right.document())
        world.run(20)
        assert reported(paris, "ike.identity-mismatch") == (
            "fqdn gw.example.net",
            "fqdn *.example.org",
            "remote.identity",
        )
        assert not up(paris)()

    def test_idr_of_another_gateway(self) -> None:
        world = World()
        left, right = pair()
        left.change(remote=endpoint("192.0.2.2", self.EXACT))
        right.change(local=endpoint("192.0.2.2", named(IdentityType.FQDN, "another.example.org")))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(3)
        assert reported(lyon, "ike.identity-mismatch") == (
            "fqdn gw.example.org",
            "fqdn another.example.org",
            "local.identity",
        )
        assert paris.codes()["ike.peer-refused-auth"] >= 1

    def test_two_peers_of_one_partial_identity_stand_beside_each_other(self) -> None:
        """Both behind the address 192.0.2.1, with networks of their own in one wide selector."""
        world = World()
        far = endpoint("192.0.2.2")
        wide = child(local=("10.2.0.0/16",), remote=("10.0.0.0/8",))
        right = tunnel(
            far,
            endpoint("192.0.2.1", self.PARTIAL),
            children=(wide,),
            connection_type=ConnectionType.RESPONDER_ONLY,
        )
        lyon = world.host("lyon", "192.0.2.2")
        lyon.configure(Side(name="lyon", tunnels=[right], keys=[key(b"the key")]).document())
        hosts = []
        for number in (1, 2):
            near = endpoint("192.0.2.1", named(IdentityType.FQDN, f"gw{number}.example.org"))
            own = child(local=(f"10.{number}1.0.0/16",), remote=("10.2.0.0/16",))
            left = tunnel(near, far, children=(own,), connection_type=ConnectionType.INITIATOR_ONLY)
            host = world.host(f"gw{number}", "192.0.2.1")
            host.configure(Side(name=f"gw{number}", tunnels=[left], keys=[key(b"the key")]).document())
            hosts.append(host)
            assert world.run(5, up(host)), host.codes()
        world.run(60)
        assert all(up(host)() for host in hosts)
        shown = {sa.remote_identity for sa in lyon.status().ike_sas}
        assert shown == {"fqdn gw1.example.org", "fqdn gw2.example.org"}


class TestRefused:
    """Messages of a peer that wants what this end does not do; the ladder is in each test."""

    @staticmethod
    def crafted(*payloads: Payload, drop: tuple[type, ...] = ()) -> tuple[World, Host, Host]:
        """paris's real IKE_AUTH request with payloads added and some left out."""
        plain = Authenticate.start

        def start(self: Authenticate, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
            made = plain(self, sa, now)
            assert made is not None
            return (*(each for each in made if type(each) not in drop), *payloads)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Authenticate, "start", start)
            world, paris, lyon, *_ = meet(policy(), policy())
            world.run(3)
        return world, paris, lyon

    def test_eap(self) -> None:
        """::

        SK {IDi, IDr, SA, TSi, TSr}  -->                              no AUTH: EAP is wanted (section 2.16)
                                     <--  SK {N(AUTHENTICATION_FAILED)}
        """
        _, paris, lyon = self.crafted(drop=(Auth,))
        assert reported(lyon, "ike.eap-refused") == ("EAP", "a pre-shared key", "remote_auth.kind")
        (said, *_) = [report.message for report in lyon.reports if report.code == "ike.eap-refused"]
        assert "EAP: not offered by this tunnel" in said
        assert paris.codes()["ike.peer-refused-auth"] >= 1
        assert lyon.data_plane.sas == {}

    def test_an_answer_that_wants_eap(self) -> None:
        """The responder answers SK {IDr, EAP}: the initiator gives up and says what to change."""
        world = World()
        left, right = pair()
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.psk_answers = False
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(0.5)
        (sa,) = lyon.engine.v2.sas.values()
        header = Header(spi_i=sa.spi_i, spi_r=sa.spi_r, next_payload=0, exchange=35, flags=0x20, message_id=1)
        shown = IdR(id_type=1, data=bytes((192, 0, 2, 2)))
        message = Message(header=header, payloads=(shown, Opaque(type=PayloadType.EAP, data=b"\1\1\0\5\1")))
        path = Path(local_address="192.0.2.1", local_port=4500, remote_address="192.0.2.2", remote_port=4500)
        paris.do(paris.engine.receive, seal_message(message, sa.protection.cipher_out, b"\xff" * 8), path)
        assert reported(paris, "ike.eap-refused") == ("EAP", "a pre-shared key", "remote_auth.kind")

    def test_another_authentication_to_follow(self) -> None:
        _, paris, lyon = self.crafted(
            Notify(type=NotifyType.MULTIPLE_AUTH_SUPPORTED), Notify(type=NotifyType.ANOTHER_AUTH_FOLLOWS)
        )
        assert reported(lyon, "ike.multiple-auth-refused") == (
            "ANOTHER_AUTH_FOLLOWS",
            "one authentication",
            "remote_auth.kind",
        )
        assert paris.codes()["ike.peer-refused-auth"] >= 1

    def test_multiple_authentication_is_only_offered(self) -> None:
        _, paris, lyon = self.crafted(Notify(type=NotifyType.MULTIPLE_AUTH_SUPPORTED))
        assert up(paris, lyon)()

    def test_a_configuration_request_is_ignored(self) -> None:
        """::

        SK {..., CP(CFG_REQUEST: INTERNAL_IP4_ADDRESS), SA, TSi, TSr}  -->
                                                                       <--  SK {IDr, AUTH, SA, TSi, TSr}
        """
        request = Opaque(type=PayloadType.CP, data=b"\1\0\0\0\0\1\0\0")
        _, paris, lyon = self.crafted(request)
        assert up(paris, lyon)()
        assert matched(paris, lyon)
        assert reported(lyon, "ike.configuration-ignored")[0] == "CP(CFG_REQUEST)"

    def test_a_peer_that_needs_an_address(self) -> None:
        """The networks do not meet because the peer waits for an address of ours: N(INTERNAL_ADDRESS_FAILURE)."""
        request = Opaque(type=PayloadType.CP, data=b"\1\0\0\0\0\1\0\0")
        plain = Authenticate.start

        def start(self: Authenticate, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
            made = plain(self, sa, now)
            assert made is not None
            return (*made, request)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Authenticate, "start", start)
            world = World()
            left, right = pair()
            other = (TrafficSelector(network="10.99.0.0/16"),)
            left.change(children=(replace(left.tunnels[0].children[0], local_ts=other),))
            paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
            lyon.configure(right.document())
            paris.configure(left.document())
            world.run(3)
        assert lyon.codes()["child.configuration-refused"] >= 1
        assert paris.codes()["child.configuration-required"] >= 1
        assert [sa.state for sa in paris.status().ike_sas] == ["established"]

    def test_certificates_that_nobody_asked_for_do_no_harm(self) -> None:
        _, paris, lyon = self.crafted(Cert(encoding=4, data=b"junk"), CertReq(encoding=4, data=b"odd"))
        assert up(paris, lyon)()
        assert lyon.shell.log == []


class TestHostile:
    """A peer that has the keys of IKE_SA_INIT, and sends what it likes in IKE_AUTH."""

    @pytest.mark.parametrize("seed", range(40))
    def test_nothing_of_a_proof_makes_an_input_raise(self, seed: int) -> None:
        """Identities, certificates, requests for them, proofs, PPK ids, hashes: cut, altered, repeated, made up."""
        chance = random.Random(f"hostile {seed}")
        plain = Authenticate.start
        made_up: tuple[Payload, ...] = (
            Cert(encoding=chance.choice([1, 4, 4, 12, 13]), data=chance.randbytes(chance.choice([0, 1, 30, 900]))),
            CertReq(encoding=chance.choice([4, 12]), data=chance.randbytes(chance.choice([0, 19, 20, 65]))),
            Auth(method=chance.choice([0, 1, 2, 3, 9, 10, 11, 13, 14]), data=chance.randbytes(chance.randrange(80))),
            Notify(type=NotifyType.PPK_IDENTITY, data=chance.randbytes(chance.randrange(4))),
            Notify(type=NotifyType.NO_PPK_AUTH, data=chance.randbytes(chance.randrange(40))),
            Notify(type=NotifyType.SIGNATURE_HASH_ALGORITHMS, data=chance.randbytes(chance.randrange(7))),
            Notify(type=NotifyType.INITIAL_CONTACT, data=b"x"),
            Opaque(type=PayloadType.CP, data=chance.randbytes(chance.randrange(9))),
            IdI(id_type=chance.choice([1, 2, 3, 5, 9, 9, 9, 10, 11, 77]), data=chance.randbytes(chance.randrange(40))),
            IdR(id_type=chance.choice([1, 2, 9]), data=chance.randbytes(chance.randrange(20))),
        )

        def start(self: Authenticate, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
            made = list(plain(self, sa, now) or ())
            for each in chance.sample(made_up, chance.randrange(1, 5)):
                same = [index for index, other in enumerate(made) if type(other) is type(each)]
                if same and chance.random() < 0.8:
                    made[same[0]] = each
                else:
                    made.append(each)
            return tuple(made)

        expected = chance.choice(
            [
                named(IdentityType.ANY, "*"),
                named(IdentityType.DN, "CN=*,O=Example"),
                named(IdentityType.FQDN, "*.example.org"),
                named(IdentityType.IPV4, "192.0.2.1"),
            ]
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Authenticate, "start", start)
            world = World(seed)
            left, right = pair()
            right.change(remote=endpoint("192.0.2.1", expected))
            right.keys = [key(b"a shared secret of both")]
            if chance.random() < 0.5:
                right.ppks = left.ppks = [PostquantumKey(id="one", secret=Secret(b"secret"))]
                right.change(ppk="one")
                left.change(ppk="one")
            if chance.random() < 0.5:
                right.anchors = [anchor("root", root())]
                right.change(remote_auth=RemoteAuthentication(kind=AuthKind.CERTIFICATE))
            paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
            lyon.configure(right.document())
            paris.configure(left.document())
            world.run(4)
            left.change(enabled=False)
            paris.configure(left.document())
            world.run(120)
        assert lyon.codes()["ike.bug"] == paris.codes()["ike.bug"] == 0
        for host in (paris, lyon):
            assert host.engine.v2.sas == {}
            assert host.engine.hub.esp_spis == set()
            assert host.engine.hub.questions.pending() == 0
            assert host.data_plane.sas == {}
            assert all(report.message.isprintable() and report.message.isascii() for report in host.reports)
            for report in host.reports:
                assert len(report.received or "") < 1_000
                assert (report.received or "").isascii()
