"""MOBIKE (RFC 4555) between two engines: agreeing, moving, probing, proving, refusing."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from agents.contract.config import Endpoint, Identity, IdentityType, IkePolicy, Retransmission
from agents.dataplane.base import Direction, UdpEncapsulation
from agents.ike.outputs import MoveChild, Path, Transmit
from agents.ike.v2.sa import IkeSa
from agents.ike.v2.tasks import mobike
from agents.ike.wire.payloads import Notify
from agents.ike.wire.registry import Exchange, NotifyType
from tests.harness.documents import FAST_IKE, Side, key, pair
from tests.harness.nat import NatBox
from tests.harness.world import Host, Network, World, matched, up

HOME, ROAD, THERE, BACK_DOOR = "192.0.2.1", "198.51.100.1", "192.0.2.2", "203.0.113.2"
PARIS = Identity(type=IdentityType.FQDN, value="paris.example")
LYON = Identity(type=IdentityType.FQDN, value="lyon.example")
QUIET = IkePolicy(proposals=(FAST_IKE,), dpd_interval_s=0)
WATCHFUL = replace(QUIET, dpd_interval_s=10)

Cast = tuple[World, Host, Host]


def sides(ike: IkePolicy = QUIET, known: tuple[str, ...] = (ROAD,), more: tuple[str, ...] = (BACK_DOOR,)) -> list[Side]:
    """Return documents: paris has HOME and ROAD, lyon THERE and ``more``; ``known`` is what lyon takes beside HOME."""
    left, right = pair(ike=ike)
    left.change(
        local=Endpoint(address=HOME, identity=PARIS, more_addresses=(ROAD,)),
        remote=Endpoint(address=THERE, identity=LYON),
    )
    right.change(
        local=Endpoint(address=THERE, identity=LYON, more_addresses=more),
        remote=Endpoint(address=HOME, identity=PARIS, more_addresses=known),
    )
    left.keys = [key(b"a shared secret of both", remote_identity=LYON)]
    right.keys = [key(b"a shared secret of both", remote_identity=PARIS)]
    return [left, right]


def meet(both: list[Side], world: World | None = None, at: tuple[str, ...] = (HOME, ROAD)) -> Cast:
    world = world or World()
    paris, lyon = world.host("paris", *at), world.host("lyon", THERE, BACK_DOOR)
    paris.do(paris.engine.addresses_changed, frozenset(at))
    lyon.do(lyon.engine.addresses_changed, frozenset({THERE, BACK_DOOR}))
    lyon.configure(both[1].document())
    paris.configure(both[0].document())
    assert world.run(60, up(paris, lyon)), (paris.status(), lyon.status())
    world.run(0.5)
    return world, paris, lyon


def sa_of(host: Host) -> IkeSa:
    """The one IKE SA of the host's one tunnel."""
    (tunnel,) = host.engine.v2.tunnels.values()
    (sa,) = tunnel.established()
    return sa


def outer(host: Host) -> set[tuple[str, str]]:
    """The outer addresses of outbound SAs."""
    return {(each.source, each.destination) for each in host.data_plane.sas.values() if each.direction is Direction.OUT}


def trip(world: World, since: int) -> list[tuple[str, str, str, int]]:
    """Who sent what kind of exchange from where to where, since then."""
    return [
        (each.sender, each.path.local_address, each.path.remote_address, each.octets[18]) for each in world.log[since:]
    ]


def block(world: World, *addresses: str) -> None:
    """Lose everything from or to these addresses."""

    def rewrite(transmit: Transmit) -> Transmit | None:
        ends = {transmit.path.local_address, transmit.path.remote_address}
        return None if ends & set(addresses) else transmit

    world.network.rewrite = rewrite


class TestAgreement:
    def test_both_say_so_and_tell_their_addresses(self) -> None:
        world, paris, lyon = meet(sides())
        assert paris.status().ike_sas[0].mobike
        assert lyon.status().ike_sas[0].mobike
        assert sa_of(paris).mobility.peer_addresses == (BACK_DOOR,)
        assert sa_of(lyon).mobility.peer_addresses == (ROAD,)
        assert [each.path.remote_port for each in world.log] == [500, 500, 4500, 4500]  # section 3.3

    @pytest.mark.parametrize("whose", [0, 1])
    def test_not_when_one_does_not_want_it(self, whose: int) -> None:
        both = sides()
        both[whose].change(ike=replace(QUIET, mobike=False))
        _, paris, lyon = meet(both)
        assert not paris.status().ike_sas[0].mobike
        assert not lyon.status().ike_sas[0].mobike
        paris.change_addresses(ROAD)
        assert outer(paris) == {(HOME, THERE)}
        assert paris.codes()["ike.address-lost"] == 1

    def test_a_rekeyed_sa_still_has_it(self) -> None:
        world, paris, lyon = meet(sides())
        paris.do(paris.engine.rekey_ike, paris.status().id)
        world.run(2)
        assert paris.codes()["ike.sa-rekeyed"] == 1
        paris.change_addresses(ROAD)
        world.run(2)
        assert outer(lyon) == {(THERE, ROAD)}
        assert matched(paris, lyon)


class TestOpenerMoves:
    def test_an_address_goes(self) -> None:
        """::

        paris (HOME is gone, ROAD is there)            lyon
        N(UPDATE_SA_ADDRESSES), N(NATD), N(COOKIE2) -->
                                                    <--    N(NATD), N(COOKIE2)
                                                    <--    N(COOKIE2)
        N(COOKIE2)                                  -->    ESP moves here
        """
        world, paris, lyon = meet(sides())
        since = len(world.log)
        paris.change_addresses(ROAD)
        assert outer(paris) == {(ROAD, THERE)}  # at once: HOME does not send any more
        assert outer(lyon) == {(THERE, HOME)}
        world.run(1)
        assert trip(world, since) == [
            ("paris", ROAD, THERE, Exchange.INFORMATIONAL),
            ("lyon", THERE, ROAD, Exchange.INFORMATIONAL),
            ("lyon", THERE, ROAD, Exchange.INFORMATIONAL),
            ("paris", ROAD, THERE, Exchange.INFORMATIONAL),
        ]
        assert outer(lyon) == {(THERE, ROAD)}
        assert matched(paris, lyon)
        for host, old, new in ((paris, HOME, ROAD), (lyon, THERE, THERE)):
            moved = next(each for each in host.reports if each.code == "ike.mobike-moved")
            assert (moved.attributes["old_local"], moved.attributes["local"]) == (old, new)
        assert paris.status().ike_sas[0].local == f"{ROAD}:4500"
        assert lyon.status().ike_sas[0].remote == f"{ROAD}:4500"
        assert sa_of(lyon).mobility.peer_addresses == ()

    def test_esp_follows_only_when_the_peer_has_answered_from_there(self) -> None:
        world, paris, lyon = meet(sides())
        sent = 0

        def lose_the_proof(transmit: Transmit) -> Transmit | None:
            nonlocal sent
            sent += transmit.path.local_address == ROAD
            return None if transmit.path.local_address == ROAD and sent > 1 else transmit

        world.network.rewrite = lose_the_proof
        paris.change_addresses(ROAD)
        world.run(1)
        assert lyon.status().ike_sas[0].remote == f"{ROAD}:4500"
        assert outer(lyon) == {(THERE, HOME)}
        assert lyon.codes()["ike.mobike-moved"] == 0
        world.network.rewrite = None
        world.run(10)
        assert outer(lyon) == {(THERE, ROAD)}

    def test_back_again(self) -> None:
        world, paris, lyon = meet(sides())
        for gone_to in (ROAD, HOME, ROAD):
            paris.change_addresses(gone_to)
            world.run(2)
            assert outer(lyon) == {(THERE, gone_to)}
        assert matched(paris, lyon)
        assert len(paris.data_plane.policies) == len(lyon.data_plane.policies) == 2

    def test_a_child_rekeyed_after_the_move_keeps_its_policies(self) -> None:
        world, paris, lyon = meet(sides())
        paris.change_addresses(ROAD)
        world.run(2)
        lyon.do(lyon.engine.rekey_child, lyon.status().id)
        world.run(20)
        assert matched(paris, lyon)
        assert outer(lyon) == {(THERE, ROAD)}
        assert len(paris.data_plane.policies) == len(lyon.data_plane.policies) == 2

    def test_no_address_is_left_for_a_while(self) -> None:
        world, paris, lyon = meet(sides())
        paris.change_addresses()
        world.run(20)
        assert up(paris, lyon)()
        paris.change_addresses(HOME)
        assert [paris.codes()[f"ike.address-{what}"] for what in ("lost", "back")] == [1, 1]
        lyon.do(lyon.engine.rekey_child, lyon.status().id)
        world.run(2)
        assert matched(paris, lyon)

    def test_a_request_under_way_goes_on_from_the_new_address(self) -> None:
        """Window of one (3.5): the rekey is sent again from ROAD, then the update goes out."""
        world, paris, lyon = meet(sides())
        block(world, HOME)
        paris.do(paris.engine.rekey_child, paris.status().id)
        world.run(0.1)
        since = len(world.log)
        paris.change_addresses(ROAD)
        world.run(2)
        kinds = [(source, kind) for sender, source, _, kind in trip(world, since) if sender == "paris"]
        assert kinds[:2] == [(ROAD, Exchange.CREATE_CHILD_SA), (ROAD, Exchange.INFORMATIONAL)]
        world.run(15)
        assert paris.codes()["child.rekeyed"] == 1
        assert outer(lyon) == {(THERE, ROAD)}
        assert matched(paris, lyon)

    def test_two_changes_in_a_row(self) -> None:
        """The answer to the first update comes after the second change: it is not about the path any more."""
        world, paris, lyon = meet(sides())
        paris.change_addresses(ROAD)
        world.run(0.012)  # the answer is on its way to ROAD
        paris.change_addresses(HOME)
        world.run(10)
        assert outer(paris) == {(HOME, THERE)}
        assert outer(lyon) == {(THERE, HOME)}
        assert matched(paris, lyon)

    def test_further_addresses_are_told_when_they_change(self) -> None:
        world, paris, lyon = meet(sides())
        paris.change_addresses(HOME)
        world.run(1)
        assert sa_of(lyon).mobility.peer_addresses == ()
        assert lyon.codes()["ike.mobike-moved"] == 0
        paris.change_addresses(HOME, ROAD)
        world.run(1)
        assert sa_of(lyon).mobility.peer_addresses == (ROAD,)
        assert lyon.codes()["ike.address-announced"] == 2


class TestProbing:
    """No address goes, but the path does not carry any more: the opener looks for one that does (3.12)."""

    def test_from_another_address(self) -> None:
        world, paris, lyon = meet(sides(WATCHFUL))
        block(world, HOME)
        began = world.now
        assert world.run(60, lambda: outer(lyon) == {(THERE, ROAD)})
        assert world.now - began < 25
        assert paris.codes()["ike.address-probed"] == 1
        assert paris.codes()["ike.dpd-failed"] == lyon.codes()["ike.dpd-failed"] == 0
        world.run(5)
        assert matched(paris, lyon)

    def test_to_an_address_the_peer_told(self) -> None:
        world, paris, lyon = meet(sides(WATCHFUL))
        block(world, THERE)
        assert world.run(60, lambda: outer(paris) == {(HOME, BACK_DOOR)})
        world.run(5)
        assert outer(lyon) == {(BACK_DOOR, HOME)}
        assert matched(paris, lyon)

    def test_a_probe_alone_moves_nothing(self) -> None:
        """A message on another path tests it: only UPDATE_SA_ADDRESSES changes anything (3.8)."""
        world, paris, lyon = meet(sides(WATCHFUL))
        before = sa_of(lyon).path

        def no_answers_home(transmit: Transmit) -> Transmit | None:
            return None if transmit.path.local_address in (THERE, BACK_DOOR) else transmit

        world.network.rewrite = no_answers_home
        world.run(30)
        assert paris.codes()["ike.address-probed"] == 1
        assert sa_of(lyon).path == before
        assert outer(lyon) == {(THERE, HOME)}

    def test_no_path_at_all_ends_as_dpd_says(self) -> None:
        world, paris, _ = meet(sides(WATCHFUL))
        block(world, THERE, BACK_DOOR)
        assert world.run(300, lambda: paris.codes()["ike.dpd-failed"] > 0)


class TestResponderMoves:
    def test_its_address_goes_and_the_opener_decides(self) -> None:
        """::

        paris                                          lyon (THERE is gone)
                                             <--       N(NO_ADDITIONAL_ADDRESSES), from BACK_DOOR
        answer                               -->
        N(UPDATE_SA_ADDRESSES), ...          -->
        """
        world, paris, lyon = meet(sides())
        lyon.change_addresses(BACK_DOOR)
        world.run(5)
        assert outer(paris) == {(HOME, BACK_DOOR)}
        assert outer(lyon) == {(BACK_DOOR, HOME)}
        assert matched(paris, lyon)

    def test_it_does_not_move_the_sa_by_an_update_of_its_own(self) -> None:
        world, paris, lyon = meet(sides())
        before = sa_of(paris).path
        sa_of(lyon).enqueue(mobike.UpdateAddresses(), world.now)
        world.drain()
        world.run(1)
        assert sa_of(paris).path == before
        assert paris.codes()["ike.mobike-moved"] == 0


class TestRefusals:
    def test_an_address_the_tunnel_does_not_have(self) -> None:
        """Lyon knows nothing of ROAD: the operator reads which address to add, and the old path stays."""
        world, paris, lyon = meet(sides(known=()))
        paris.change_addresses(ROAD)
        world.run(1)
        refused = next(each for each in lyon.reports if each.code == "ike.address-refused")
        assert (refused.received, refused.configured, refused.field) == (ROAD, HOME, "remote.more_addresses")
        assert outer(lyon) == {(THERE, HOME)}
        theirs = next(each for each in paris.reports if each.code == "ike.address-peer-refused")
        assert theirs.received == "UNACCEPTABLE_ADDRESSES"
        assert theirs.field == "local.more_addresses"

    def test_a_cookie_that_does_not_come_back_ends_the_sa(self) -> None:
        world, paris, lyon = meet(sides())
        paris.change_addresses(ROAD)
        task = sa_of(paris).current
        assert isinstance(task, mobike.UpdateAddresses)
        task._cookie = b"another cookie.."
        world.run(1)
        assert paris.codes()["ike.address-unverified"] == 1
        assert world.run(60, up(paris, lyon))

    def test_a_nat_where_the_peer_allows_none(self) -> None:
        """NO_NATS_ALLOWED names addresses and ports; a NAT has changed them (3.9)."""
        world, paris, lyon = meet(sides())
        before = sa_of(lyon).path
        said = Notify(type=NotifyType.NO_NATS_ALLOWED, data=bytes([10, 0, 0, 5, 192, 0, 2, 2]) + b"\x11\x94\x11\x94")

        class Strict(mobike.UpdateAddresses):
            def start(self, sa: IkeSa, now: float) -> object:  # type: ignore[override]
                payloads = super().start(sa, now)
                assert payloads is not None
                return (*payloads, said)

        sa_of(paris).enqueue(Strict(), world.now)
        world.drain()
        world.run(0.011)
        assert lyon.codes()["ike.nat-refused"] == 1
        assert sa_of(lyon).path == before
        world.run(0.5)
        theirs = next(each for each in paris.reports if each.code == "ike.address-peer-refused")
        assert theirs.received == "UNEXPECTED_NAT_DETECTED"

    def test_a_nat_that_was_not_allowed_and_is_not_there(self) -> None:
        path = Path(local_address=THERE, local_port=4500, remote_address=HOME, remote_port=4500)
        data = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + b"\x11\x94\x11\x94"
        world, paris, lyon = meet(sides())
        assert sa_of(lyon).path == path

        class Strict(mobike.AnnounceAddresses):
            def start(self, sa: IkeSa, now: float) -> object:  # type: ignore[override]
                return (Notify(type=NotifyType.NO_NATS_ALLOWED, data=data),)

        sa_of(paris).enqueue(Strict(), world.now)
        world.drain()
        world.run(0.5)
        assert lyon.codes()["ike.nat-refused"] == 0

    def test_addresses_that_are_none(self) -> None:
        """Wrong lengths, multicast, loopback: nothing of it is kept, and no more than eight."""
        world, paris, lyon = meet(sides())

        class Odd(mobike.AnnounceAddresses):
            def start(self, sa: IkeSa, now: float) -> object:  # type: ignore[override]
                odd = (b"", b"\x00" * 4, b"\xe0\x00\x00\x01", b"\x7f\x00\x00\x01", b"\xc0\x00\x02")
                good = [bytes([198, 51, 100, each]) for each in range(20)]
                return tuple(Notify(type=NotifyType.ADDITIONAL_IP4_ADDRESS, data=each) for each in (*odd, *good))

        sa_of(paris).enqueue(Odd(), world.now)
        world.drain()
        world.run(0.5)
        assert sa_of(lyon).mobility.peer_addresses == tuple(f"198.51.100.{each}" for each in range(8))


class TestNat:
    """NATs that come and go as the opener moves (3.5), and mappings that change (3.8)."""

    def cast(self, ike: IkePolicy = QUIET) -> tuple[World, Host, Host, NatBox]:
        """ROAD is behind a NAT whose outside address lyon knows nothing of; HOME is in the open."""
        world = World()
        box = NatBox(world=world, inside=frozenset({ROAD}), outside="203.0.113.99")
        world.network.rewrite = box
        return (*meet(sides(ike, known=()), world), box)

    def test_appears_and_vanishes(self) -> None:
        world, paris, lyon, _ = self.cast()
        assert {each.encapsulation for each in lyon.data_plane.sas.values()} == {None}
        paris.change_addresses(ROAD)
        world.run(2)
        ours, theirs = paris.status().ike_sas[0], lyon.status().ike_sas[0]
        assert (ours.nat_local, theirs.nat_remote, theirs.remote) == (True, True, "203.0.113.99:20001")
        assert {each.encapsulation for each in lyon.data_plane.sas.values()} == {
            UdpEncapsulation(source_port=4500, destination_port=20_001),
            UdpEncapsulation(source_port=20_001, destination_port=4500),
        }
        assert {each.encapsulation for each in paris.data_plane.sas.values()} == {
            UdpEncapsulation(source_port=4500, destination_port=4500)
        }
        paris.change_addresses(HOME)
        world.run(2)
        assert not paris.status().ike_sas[0].nat_local
        assert {each.encapsulation for each in lyon.data_plane.sas.values()} == {None}
        assert {each.encapsulation for each in paris.data_plane.sas.values()} == {None}
        assert paris.codes()["ike.nat-changed"] == lyon.codes()["ike.nat-changed"] == 2
        assert matched(paris, lyon)

    def test_a_new_mapping_is_found_by_a_liveness_check(self) -> None:
        world, paris, lyon, box = self.cast(WATCHFUL)
        paris.change_addresses(ROAD)
        world.run(30)
        assert lyon.status().ike_sas[0].remote == "203.0.113.99:20001"
        box.rebind()
        world.run(30)
        assert lyon.status().ike_sas[0].remote == "203.0.113.99:20002"
        assert paris.codes()["ike.nat-moved"] == 1
        assert {each.destination for each in lyon.data_plane.sas.values()} == {THERE, "203.0.113.99"}
        moves = [each for each in lyon.data_plane.history if isinstance(each, MoveChild)]
        assert len(moves) == 4  # to ROAD, and to its new mapping: two SAs each; no other


class TestBeginning:
    def test_from_the_address_that_is_there(self) -> None:
        _, paris, lyon = meet(sides(), at=(ROAD,))
        assert outer(paris) == {(ROAD, THERE)}
        assert matched(paris, lyon)

    def test_an_address_that_goes_while_negotiating(self) -> None:
        world = World()
        left, right = sides()
        paris, lyon = world.host("paris", HOME, ROAD), world.host("lyon", THERE)
        paris.do(paris.engine.addresses_changed, frozenset({HOME, ROAD}))
        paris.configure(left.document())
        world.run(0.1)
        lyon.configure(right.document())
        paris.change_addresses(ROAD)
        began = world.now
        assert world.run(10, up(paris, lyon))
        assert world.now - began < 1
        assert outer(paris) == {(ROAD, THERE)}

    def test_each_attempt_takes_the_next_pair(self) -> None:
        world = World()
        both = sides()
        both[0].retransmission = Retransmission(tries=2)
        block(world, HOME)
        _, paris, _ = meet(both, world)
        assert outer(paris) == {(ROAD, THERE)}


class TestDocument:
    def test_further_addresses_alone_keep_the_sa(self) -> None:
        both = sides()
        world, paris, lyon = meet(both)
        spis = {each.spi_i for each in paris.status().ike_sas}
        both[0].change(local=replace(both[0].tunnels[0].local, more_addresses=(ROAD, "198.51.100.2")))
        both[1].change(remote=replace(both[1].tunnels[0].remote, more_addresses=(ROAD, "198.51.100.2")))
        paris.change_addresses(HOME, ROAD, "198.51.100.2")
        lyon.configure(both[1].document())
        paris.configure(both[0].document())
        world.run(1)
        assert {each.spi_i for each in paris.status().ike_sas} == spis
        assert sa_of(lyon).mobility.peer_addresses == (ROAD, "198.51.100.2")
        paris.change_addresses("198.51.100.2")
        world.run(2)
        assert outer(lyon) == {(THERE, "198.51.100.2")}

    def test_an_address_taken_out_of_the_document_is_left(self) -> None:
        both = sides()
        world, paris, lyon = meet(both)
        paris.change_addresses(ROAD)
        world.run(2)
        paris.change_addresses(HOME, ROAD)
        both[0].change(local=replace(both[0].tunnels[0].local, more_addresses=()))
        paris.configure(both[0].document())
        world.run(2)
        assert outer(paris) == {(HOME, THERE)}
        assert outer(lyon) == {(THERE, HOME)}


@pytest.mark.parametrize("seed", range(25))
def test_wanders_through_loss(seed: int) -> None:
    """Addresses come and go while a tenth of the datagrams is lost and rekeys go on: one matched set remains."""
    ike = replace(WATCHFUL, lifetime_s=60)
    world = World(seed, Network(loss=0.1, duplicates=0.05, delay_s=(0.005, 0.08)))
    world, paris, lyon = meet(sides(ike), world)
    rng = random.Random(seed)
    for _ in range(15):
        world.run(rng.uniform(0.05, 12))
        paris.change_addresses(*rng.choice([(HOME,), (ROAD,), (HOME, ROAD)]))
        if rng.random() < 0.3:
            lyon.change_addresses(*rng.choice([(THERE,), (THERE, BACK_DOOR), (BACK_DOOR,)]))
    paris.change_addresses(HOME, ROAD)
    lyon.change_addresses(THERE, BACK_DOOR)
    world.network.loss = 0.0
    world.run(120)
    assert world.run(60, lambda: up(paris, lyon)() and matched(paris, lyon)), (paris.status(), lyon.status())
    assert not [each for host in (paris, lyon) for each in host.reports if each.code == "ike.bug"]
