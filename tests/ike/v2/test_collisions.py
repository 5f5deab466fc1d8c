"""Every collision of RFC 7296 sections 2.8, 2.8.1, 2.8.2, 2.25.1 and 2.25.2, by name, with the ladder above each.

Each test lets both ends act at one instant, also with a first request or a first answer lost on either side, and looks
after every event: while the RFC promises it, either end can send on an SA that the other receives on. In the end there
is exactly one IKE SA and one pair of SAs per child, equal at both ends.

In the ladders H1 is paris, which opened the IKE SA, H2 is lyon; both requests cross.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from agents.contract.config import ConnectionType, IkePolicy, IkeProposal
from agents.ike.outputs import Transmit
from agents.ike.v2.sa import IkeSa
from agents.ike.v2.tasks.create import CreateChild
from agents.ike.v2.tasks.delete import DeleteChildren
from agents.ike.wire.registry import Exchange
from tests.harness.documents import FAST_IKE, child, pair
from tests.harness.world import Host, Network, World, matched, up

VOICE = child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",))
Act = Callable[[Host], None]

_PARIS = "192.0.2.1"


@dataclass
class Loss:
    """The first request, or the first answer, of an end is lost."""

    of: tuple[tuple[str, bool], ...] = ()

    def rewrite(self) -> Callable[[Transmit], Transmit | None]:
        left = set(self.of)

        def drop(transmit: Transmit) -> Transmit | None:
            what = (transmit.path.local_address, bool(transmit.datagram[19] & 0x20))
            if what in left:
                left.remove(what)
                return None
            return transmit

        return drop


_ALL = [(address, response) for address in (_PARIS, "192.0.2.2") for response in (False, True)]
LOSSES = [Loss(of) for count in range(4) for of in itertools.combinations(_ALL, count)]


def _name(loss: Loss) -> str:
    words = [f"{'H1' if at == _PARIS else 'H2'}-{'answer' if response else 'request'}" for at, response in loss.of]
    return "+".join(words) or "nothing"


lost = pytest.mark.parametrize("loss", LOSSES, ids=[f"lost-{_name(each)}" for each in LOSSES])


def sa_of(host: Host) -> IkeSa:
    """The IKE SA that stands."""
    (sa,) = [each for each in host.engine.v2.sas.values() if each.state == "established"]
    return sa


def rekey_child(host: Host) -> None:
    sa = sa_of(host)
    for each in tuple(sa.children):
        if each.name == "main":
            sa.rekey_child(each, host.world.now)


def rekey_voice(host: Host) -> None:
    sa = sa_of(host)
    (voice,) = [each for each in sa.children if each.name == "voice"]
    sa.rekey_child(voice, host.world.now)


def delete_child(host: Host) -> None:
    sa = sa_of(host)
    sa.enqueue(DeleteChildren(tuple(each for each in sa.children if each.name == "main")), host.world.now)


def create_child(host: Host) -> None:
    sa_of(host).enqueue(CreateChild("voice"), host.world.now)


def rekey_ike(host: Host) -> None:
    host.engine.rekey_ike(host.status().id, host.world.now)


def delete_ike(host: Host) -> None:
    host.engine.clear_ike(host.status().id, host.world.now)


def carries(sender: Host, receiver: Host) -> bool:
    """Whether what the sender sends now for main can be received."""
    outbound = [spec for spec in sender.data_plane.sas.values() if spec.direction == "out"]
    reqids = {spec.reqid for spec in outbound if spec.reqid == min(each.reqid for each in outbound)}
    if not reqids:
        return False
    newest = sender.data_plane.outbound(reqids.pop())
    assert newest is not None
    there = receiver.data_plane.sas.get(newest.id)
    return there is not None and there.direction == "in" and there.encryption_key == newest.encryption_key


class Scene:
    """Two ends with main up, and voice still missing."""

    def __init__(self, seed: object = 0, suite: IkeProposal = FAST_IKE) -> None:
        self.world = World(seed)
        left, right = pair(
            types=(ConnectionType.BOTH, ConnectionType.RESPONDER_ONLY),
            ike=IkePolicy(proposals=(suite,), dpd_interval_s=0),
            children=(child(), VOICE),
        )
        self.paris, self.lyon = self.world.host("paris", _PARIS), self.world.host("lyon", "192.0.2.2")
        self.lyon.configure(right.document())
        self.paris.configure(left.document())
        assert self.world.run(10, up(self.paris, self.lyon))
        for host in (self.paris, self.lyon):
            (tunnel,) = host.engine.v2.tunnels.values()
            tunnel.postpone_child("voice", self.world.now + 1.0)
        sa = sa_of(self.lyon)
        sa.enqueue(DeleteChildren(tuple(each for each in sa.children if each.name == "voice")), self.world.now)
        self.world.drain()
        self.world.run(0.5)
        assert len(self.paris.data_plane.sas) == len(self.lyon.data_plane.sas) == 2
        self.log = len(self.world.log)

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.paris, self.lyon

    def act(self, host: Host, what: Act) -> None:
        what(host)
        host.do(host.engine.hub.settle)

    def run(self, seconds: float, promised: bool = True) -> None:
        """Go on event by event; ``promised`` traffic must pass at every instant."""
        end = self.world.now + seconds
        while (due := self.world.next_event()) is not None and due <= end:
            self.world.step()
            if promised:
                assert carries(self.paris, self.lyon), self.world.now
                assert carries(self.lyon, self.paris), self.world.now
        self.world.now = end

    def collide(self, ours: Act, theirs: Act, loss: Loss, promised: bool = True) -> None:
        """Both act at this instant; then run to the end and look."""
        self.world.network.rewrite = loss.rewrite()
        self.act(self.paris, ours)
        self.act(self.lyon, theirs)
        self.run(20, promised)
        self.settled()

    def settled(self) -> None:
        """One set of everything on both sides, and nothing left over."""
        self.run(140, promised=False)
        for host in self.hosts:
            assert host.codes()["ike.bug"] == 0
            left = [str(sa) for sa in host.engine.v2.sas.values() if sa.state != "established"]
            assert not left
            assert not host.engine.hub.installs
            spis = {each.spi_in for sa in host.engine.v2.sas.values() for each in sa.children}
            assert host.engine.hub.esp_spis == spis
            assert len(host.data_plane.sas) == len(host.data_plane.policies) == 4, host.data_plane.sas
            assert host.data_plane.held == {}
        assert up(*self.hosts)()
        assert matched(*self.hosts)
        ours, theirs = sa_of(self.paris), sa_of(self.lyon)
        assert (ours.spi_i, ours.spi_r) == (theirs.spi_i, theirs.spi_r)
        assert carries(self.paris, self.lyon)
        assert carries(self.lyon, self.paris)

    def exchanges(self) -> list[tuple[str, int, bool]]:
        """Who sent what since the scene was set: sender, exchange type, whether an answer."""
        return [(each.sender, each.octets[18], bool(each.octets[19] & 0x20)) for each in self.world.log[self.log :]]


class TestChildRekeys:
    """Sections 2.8 and 2.8.1."""

    @lost
    def test_rekey_child_with_rekey_child(self, loss: Loss) -> None:
        """Both rekey one child: the pair with the lowest of four nonces goes, deleted by its initiator.

        ::

            H1 req1: N(REKEY_SA,SPI1), SA(..,SPIn1), Ni1  -->
                              <--  H2 req1: N(REKEY_SA,SPI2), SA(..,SPIn2), Ni2
            H1 resp2: SA, Nr1                             -->
                              <--  H2 resp1: SA, Nr2
            H1 req (winner): D(SPI1, the old child)       -->
                              <--  H2 req (loser): D(SPIn2, what it made itself)
        """
        for seed in range(3):
            Scene(seed).collide(rekey_child, rekey_child, loss)

    def test_either_end_may_win(self) -> None:
        winners = set()
        for seed in range(12):
            scene = Scene(seed)
            scene.collide(rekey_child, rekey_child, Loss())
            (main,) = [each for each in sa_of(scene.paris).children if each.name == "main"]
            winners.add(main.agreement.initiator)
            assert scene.paris.codes()["ike.simultaneous"] == scene.lyon.codes()["ike.simultaneous"] == 1
            assert scene.paris.codes()["child.rekeyed"] == 2
        assert winners == {True, False}

    @pytest.mark.parametrize("late", ["paris", "lyon"])
    @pytest.mark.parametrize("lag_s", [0.03, 0.05, 0.3, 2.0])
    def test_one_end_learns_of_it_only_afterwards(self, late: str, lag_s: float) -> None:
        """The request of one end arrives when the other has finished and deleted the old child (2.8.1, second ladder).

        ::

            H1 req1: N(REKEY_SA,SPI1), SA, Ni1  -->
                        <--  H2 req1: N(REKEY_SA,SPI2), SA, Ni2       ... on its way for long
                        <--  H2 resp1: SA, Nr2
            H1 req2: D(SPI1)                    -->
                        <--  H2 resp2: D(SPI2)
            H1 resp to H2 req1: N(CHILD_SA_NOT_FOUND) -->
        """
        for seed in range(3):
            scene = Scene(seed)
            sender = _PARIS if late == "paris" else "192.0.2.2"
            first = [True]

            def lag(transmit: Transmit, sender: str = sender, first: list[bool] = first) -> float:
                if transmit.path.local_address == sender and not transmit.datagram[19] & 0x20 and first:
                    first.clear()
                    return lag_s
                return 0.0

            scene.world.network = Network(lag_s=lag)
            scene.collide(rekey_child, rekey_child, Loss())

    @pytest.mark.parametrize("answer_lag_s", [0.03, 0.3, 1.5])
    @pytest.mark.parametrize("whose", [_PARIS, "192.0.2.2"])
    def test_the_winners_delete_overtakes_an_answer(self, whose: str, answer_lag_s: float) -> None:
        """An answer is late: the other end has finished, and its Delete comes before that answer."""
        for seed in range(3):
            scene = Scene(seed)

            def lag(transmit: Transmit) -> float:
                late = transmit.path.local_address == whose and transmit.datagram[19] & 0x20
                return answer_lag_s if late and transmit.datagram[18] == Exchange.CREATE_CHILD_SA else 0.0

            scene.world.network = Network(lag_s=lag)
            scene.collide(rekey_child, rekey_child, Loss())

    def test_a_request_sent_again_after_the_loser_was_deleted(self) -> None:
        """H1's answer is lost; H2 sends its rekey again when its new pair is gone: the kept answer comes, no new pair.

        ::

            H1 req1: N(REKEY_SA), SA, Ni1      -->
                        <--  H2 req1: N(REKEY_SA), SA, Ni2
            H1 resp to H2 req1                 -->  lost
                        <--  H2 resp to H1 req1
            H1 req2: D(old)                    -->
                        <--  H2 req1 again
            H1 resp to H2 req1, the same octets -->
        """
        for seed in range(8):
            scene = Scene(seed)
            scene.collide(rekey_child, rekey_child, Loss(of=((_PARIS, True),)))
            answers = [each.octets for each in scene.world.log[scene.log :] if each.sender == "paris"]
            creates = {each for each in answers if each[18] == Exchange.CREATE_CHILD_SA and each[19] & 0x20}
            assert len(creates) == 1  # sent twice, and the same both times
            assert scene.paris.codes()["child.rekeyed"] <= 2


class TestChildren:
    """Section 2.25.1."""

    @lost
    def test_rekey_child_with_delete_child(self, loss: Loss) -> None:
        """H1 rekeys what H2 deletes: H2 answers TEMPORARY_FAILURE, H1 answers the Delete as usual.

        ::

            H1 req1: N(REKEY_SA), SA, Ni  -->
                              <--  H2 req1: D(SPI2)
            H1 resp: D(SPI1)              -->
                              <--  H2 resp: N(TEMPORARY_FAILURE)
        """
        scene = Scene()
        scene.collide(rekey_child, delete_child, loss, promised=False)
        assert scene.lyon.codes()["child.rekeyed"] == 0 or loss.of

    @lost
    def test_delete_child_with_rekey_child(self, loss: Loss) -> None:
        """The same with the ends swapped."""
        Scene().collide(delete_child, rekey_child, loss, promised=False)

    @lost
    def test_delete_child_with_delete_child(self, loss: Loss) -> None:
        """Both delete one child: each answer leaves out what its sender is deleting too (section 1.4.1).

        ::

            H1 req1: D(SPI1)  -->
                              <--  H2 req1: D(SPI2)
            H1 resp: ()       -->
                              <--  H2 resp: ()
        """
        scene = Scene()
        scene.collide(delete_child, delete_child, loss, promised=False)
        if not loss.of:
            first = [each.octets for each in scene.world.log[scene.log : scene.log + 4] if each.octets[19] & 0x20]
            assert len(first) == 2
            assert {len(each) for each in first} == {len(first[0])}

    @lost
    def test_create_child_with_create_child(self, loss: Loss) -> None:
        """Both ask for one new child: the opener's request is answered, the other gets TEMPORARY_FAILURE.

        ::

            H1 req1: SA, Ni1, TSi, TSr  -->
                              <--  H2 req1: SA, Ni2, TSi, TSr
            H1 resp: N(TEMPORARY_FAILURE) -->
                              <--  H2 resp: SA, Nr, TSi, TSr
        """
        Scene().collide(create_child, create_child, loss)

    def test_a_late_request_for_a_child_that_is_being_rekeyed(self) -> None:
        """H2's request comes again when H1's child stands and is being rekeyed: both stay; one end deletes its own.

        ::

            H1 req1: SA, Ni1, TSi, TSr  -->
                              <--  H2 req1: SA, Ni2, TSi, TSr      lost, and sent again
                              <--  H2 resp: SA, Nr, TSi, TSr
            H1 req2: N(REKEY_SA), ...   -->
            H1 resp: SA, Nr, TSi, TSr   -->                        to H2 req1
        """
        winners = set()
        for seed in range(8):  # either nonce may be the lower one
            scene = Scene(seed)
            scene.world.network.rewrite = Loss((("192.0.2.2", False),)).rewrite()
            scene.act(scene.paris, create_child)
            scene.act(scene.lyon, create_child)
            scene.run(1.005)
            scene.act(scene.paris, rekey_voice)
            scene.run(5)
            assert [len(host.data_plane.sas) for host in scene.hosts] == [6, 6]
            scene.settled()
            deleted = [any("ours is deleted" in each.message for each in host.reports) for host in scene.hosts]
            assert deleted.count(True) == 1
            winners.add(deleted.index(True))
        assert winners == {0, 1}

    @lost
    def test_create_child_with_rekey_child(self, loss: Loss) -> None:
        """Different children do not disturb each other."""
        Scene().collide(create_child, rekey_child, loss)

    @lost
    def test_create_child_with_delete_child(self, loss: Loss) -> None:
        Scene().collide(create_child, delete_child, loss, promised=False)

    def test_rekey_of_a_child_that_is_gone(self) -> None:
        """H2 has lost the child without H1 knowing: CHILD_SA_NOT_FOUND, H1 drops its own and asks for a new one."""
        scene = Scene()
        sa = sa_of(scene.lyon)
        (main,) = sa.children
        sa.remove_child(main, scene.world.now)
        scene.act(scene.paris, rekey_child)
        scene.run(30, promised=False)
        scene.settled()


class TestIkeRekeys:
    """Sections 2.8.2 and 2.25.2."""

    @lost
    def test_rekey_ike_with_rekey_ike(self, loss: Loss) -> None:
        """Both rekey the IKE SA: the new one with the lowest of four nonces goes, deleted by its initiator.

        ::

            H1 req1: SA(..,SPIa1), Ni1, KEi  -->
                              <--  H2 req1: SA(..,SPIb1), Ni2, KEi
            H1 resp1: SA(..,SPIa2), Nr1, KEr -->
                              <--  H2 resp1: SA(..,SPIb2), Nr2, KEr
            H1 (winner): D() on the old SA   -->
                              <--  H2 (loser): D() on the SA it made
        """
        for seed in range(3):
            Scene(seed).collide(rekey_ike, rekey_ike, loss)

    def test_either_end_may_win(self) -> None:
        winners = set()
        for seed in range(12):
            scene = Scene(seed)
            scene.collide(rekey_ike, rekey_ike, Loss())
            winners.add(sa_of(scene.paris).initiator)
        assert winners == {True, False}

    @pytest.mark.parametrize("late", [_PARIS, "192.0.2.2"])
    @pytest.mark.parametrize("lag_s", [0.03, 0.05, 0.3, 2.0])
    def test_one_end_learns_of_it_only_afterwards(self, late: str, lag_s: float) -> None:
        """H2's request arrives when H1 has finished its own and is deleting the old SA: TEMPORARY_FAILURE (2.8.2)."""
        for seed in range(3):
            scene = Scene(seed)
            first = [True]

            def lag(transmit: Transmit, first: list[bool] = first) -> float:
                if transmit.path.local_address == late and not transmit.datagram[19] & 0x20 and first:
                    first.clear()
                    return lag_s
                return 0.0

            scene.world.network = Network(lag_s=lag)
            scene.collide(rekey_ike, rekey_ike, Loss())

    @pytest.mark.parametrize("late", [_PARIS, "192.0.2.2"])
    @pytest.mark.parametrize("lag_s", [0.03, 0.3])
    def test_a_delete_overtakes_the_answer(self, late: str, lag_s: float) -> None:
        """The winner's Delete arrives before its answer: the loser forgets its rekey (2.25.2), the winner as well."""
        for seed in range(3):
            scene = Scene(seed)
            first = [True]

            def lag(transmit: Transmit, first: list[bool] = first) -> float:
                if transmit.path.local_address == late and transmit.datagram[19] & 0x20 and first:
                    first.clear()
                    return lag_s
                return 0.0

            scene.world.network = Network(lag_s=lag)
            scene.collide(rekey_ike, rekey_ike, Loss())

    def test_a_request_sent_again_after_the_loser_was_deleted(self) -> None:
        """H1's answer is lost; when H2 sends its rekey again, H1 has the new SA deleted or superseded already."""
        for seed in range(8):
            for whose in (_PARIS, "192.0.2.2"):
                Scene(seed).collide(rekey_ike, rekey_ike, Loss(of=((whose, True),)))

    @lost
    def test_rekey_ike_with_delete_ike(self, loss: Loss) -> None:
        """H1 rekeys what H2 deletes: H2 answers TEMPORARY_FAILURE, H1 answers the Delete and forgets its rekey.

        ::

            H1 req1: SA, Ni, KEi  -->
                              <--  H2 req1: D()
            H1 resp: ()           -->
                              <--  H2 resp: N(TEMPORARY_FAILURE)
        """
        Scene().collide(rekey_ike, delete_ike, loss, promised=False)

    @lost
    def test_delete_ike_with_rekey_ike(self, loss: Loss) -> None:
        """The same with the ends swapped."""
        Scene().collide(delete_ike, rekey_ike, loss, promised=False)

    @lost
    def test_delete_ike_with_delete_ike(self, loss: Loss) -> None:
        """Both delete the IKE SA: each answers as usual and forgets its own request."""
        Scene().collide(delete_ike, delete_ike, loss, promised=False)

    @lost
    def test_rekey_ike_with_create_child(self, loss: Loss) -> None:
        """Neither can be done beside the other: both answers are TEMPORARY_FAILURE, both try again (2.25.2).

        ::

            H1 req1: SA, Ni, KEi            -->
                              <--  H2 req1: SA, Ni, TSi, TSr
            H1 resp: N(TEMPORARY_FAILURE)   -->
                              <--  H2 resp: N(TEMPORARY_FAILURE)
        """
        Scene().collide(rekey_ike, create_child, loss)

    @lost
    def test_create_child_with_rekey_ike(self, loss: Loss) -> None:
        Scene().collide(create_child, rekey_ike, loss)

    @lost
    def test_rekey_ike_while_the_peer_rekeys_a_child(self, loss: Loss) -> None:
        Scene().collide(rekey_ike, rekey_child, loss)

    @lost
    def test_rekey_child_while_the_peer_rekeys_the_ike_sa(self, loss: Loss) -> None:
        Scene().collide(rekey_child, rekey_ike, loss)

    @lost
    def test_rekey_ike_with_delete_child(self, loss: Loss) -> None:
        """The Delete is answered as usual; the rekey gets TEMPORARY_FAILURE."""
        Scene().collide(rekey_ike, delete_child, loss, promised=False)

    @lost
    def test_delete_child_with_rekey_ike(self, loss: Loss) -> None:
        Scene().collide(delete_child, rekey_ike, loss, promised=False)

    @lost
    def test_delete_ike_with_rekey_child(self, loss: Loss) -> None:
        """The IKE SA goes with the child and its successor, whichever message comes first."""
        Scene().collide(delete_ike, rekey_child, loss, promised=False)

    @lost
    def test_delete_ike_with_create_child(self, loss: Loss) -> None:
        Scene().collide(delete_ike, create_child, loss, promised=False)

    @lost
    def test_rekey_child_with_delete_ike(self, loss: Loss) -> None:
        Scene().collide(rekey_child, delete_ike, loss, promised=False)

    @pytest.mark.parametrize("theirs", [rekey_ike, rekey_child, create_child, delete_ike, delete_child])
    @pytest.mark.parametrize("loss", LOSSES[:5], ids=_name)
    def test_with_additional_key_exchanges(self, theirs: Act, loss: Loss) -> None:
        """A rekey of the IKE SA with IKE_FOLLOWUP_KE (RFC 9370 section 2.2.4) collides as one without."""
        scene = Scene(suite=replace(FAST_IKE, additional_key_exchanges=("group-32",)))
        scene.collide(rekey_ike, theirs, loss, promised=theirs not in (delete_ike, delete_child))

    @pytest.mark.parametrize("whose", [_PARIS, "192.0.2.2"])
    def test_a_child_asked_for_on_the_old_ike_sa_after_its_rekey(self, whose: str) -> None:
        """H1 has the new IKE SA and deletes the old one; H2, whose answer was lost, still works on the old one."""
        scene = Scene()
        starter = scene.paris if whose == _PARIS else scene.lyon
        other = scene.lyon if whose == _PARIS else scene.paris
        scene.world.network.rewrite = Loss(of=((whose, False),)).rewrite()
        scene.act(starter, rekey_ike)
        scene.act(other, create_child)
        scene.run(20)
        scene.settled()
