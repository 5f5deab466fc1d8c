"""Every crossing of IKEv1, by name, with the ladder above each.

IKEv1 has no rules for them (RFC 2409 says nothing), so those of this daemon are on trial: :mod:`agents.ike.v1.tunnel`
for ISAKMP SAs, :mod:`agents.ike.v1.children` for IPsec SAs. Each test lets both ends act at one instant, or nearly, and
loses nothing or some of the first messages of either end, and looks: in the end there is one ISAKMP SA and one pair of
SAs per child, equal at both ends, and nothing is left over.

In the ladders H1 is paris, which opened the ISAKMP SA that stands, H2 is lyon.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from agents.contract.config import ExchangeMode
from agents.ike.errors import LocalError
from agents.ike.outputs import Transmit
from tests.harness.v1 import BOTH, LYON, MODES, PARIS, VOICE, Scene, child, cookies, left_behind, machine, policy
from tests.harness.world import Host, Network, World, up

MAIN, AGGRESSIVE = MODES
Act = Callable[[Host], None]
modes = pytest.mark.parametrize("mode", MODES)


@dataclass(frozen=True)
class Loss:
    """The messages of these numbers, as each end counts the distinct ones it sends, are lost once."""

    of: tuple[tuple[str, int], ...] = ()

    def rewrite(self) -> Callable[[Transmit], Transmit | None]:
        numbers: dict[bytes, tuple[str, int]] = {}
        left = set(self.of)

        def drop(transmit: Transmit) -> Transmit | None:
            end = transmit.path.local_address
            sent = sum(each == end for each, _ in numbers.values())
            what = numbers.setdefault(transmit.datagram, (end, sent + 1))
            if what in left:
                left.remove(what)
                return None
            return transmit

        return drop


_ALL = [(end, number) for end in (PARIS, LYON) for number in (1, 2, 3)]
LOSSES = [Loss(of) for count in range(3) for of in itertools.combinations(_ALL, count)]


def _name(loss: Loss) -> str:
    return "+".join(f"{'H1' if end == PARIS else 'H2'}-{number}" for end, number in loss.of) or "nothing"


lost = pytest.mark.parametrize("loss", LOSSES, ids=[f"lost-{_name(each)}" for each in LOSSES])
apart = pytest.mark.parametrize("apart_s", [0.0, 0.005, 0.015, 0.025, 0.035, 0.055], ids=lambda s: f"{s * 1e3:.0f}ms")


def rekey_child(host: Host) -> None:
    host.engine.rekey_child(host.status().id, host.world.now)


def rekey_ike(host: Host) -> None:
    host.engine.rekey_ike(host.status().id, host.world.now)


def clear_ipsec(host: Host) -> None:
    host.engine.clear_ipsec(host.status().id, host.world.now)


def clear_ike(host: Host) -> None:
    host.engine.clear_ike(host.status().id, host.world.now)


def initiate(host: Host) -> None:
    host.engine.initiate(host.status().id, host.world.now)


def terminate(host: Host) -> None:
    host.engine.terminate(host.status().id, host.world.now)


def standing(mode: ExchangeMode, seed: object = 0) -> Scene:
    """Two ends with both children up, either of which may begin anything."""
    scene = Scene(mode, world=World(seed), types=BOTH, ike=policy(mode, dpd_interval_s=0), children=(child(), VOICE))
    scene.lyon.configure(scene.right.document())
    act(scene.lyon, terminate)  # so that paris opens
    scene.paris.configure(scene.left.document())
    scene.world.run(0.01)
    scene.lyon.do(scene.lyon.engine.initiate, scene.lyon.status().id)
    assert scene.world.run(60, up(*scene.hosts))
    scene.world.run(60)
    settled(scene)
    return scene


def act(host: Host, what: Act) -> None:
    """Let a host do something, where it has what that takes by now."""
    with contextlib.suppress(LocalError):
        what(host)
    host.world.drain()


def collide(scene: Scene, ours: Act, theirs: Act, loss: Loss | None = None, apart_s: float = 0.0) -> None:
    """H1 acts, and H2 a little later; then run to the end and look."""
    scene.world.network.rewrite = (loss or Loss()).rewrite()
    act(scene.paris, ours)
    scene.world.run(apart_s)
    act(scene.lyon, theirs)
    scene.world.run(150)
    settled(scene)


def settled(scene: Scene) -> None:
    """One of everything on both sides."""
    scene.check()
    for host in scene.hosts:
        assert len(host.data_plane.sas) == len(host.data_plane.policies) == 4, host.data_plane.sas
        assert host.data_plane.held == {}
        assert [str(sa.state) for sa in machine(host).sas.values()] == ["established"]


class TestPhase1:
    """::

    H1  HDR, SA ...          -->  <--          HDR, SA ...  H2
    H1  HDR, SA (to H2's)    -->  <--  (to H1's) SA, HDR    H2
    ...
    both stand: the one with the larger cookies stays, the end that began the other deletes it
    """

    @modes
    @lost
    def test_both_initiate_at_once(self, mode: ExchangeMode, loss: Loss) -> None:
        scene = Scene(mode, types=BOTH, ike=policy(mode, dpd_interval_s=0), children=(child(), VOICE))
        scene.world.network.rewrite = loss.rewrite()
        scene.start()
        scene.world.run(150)
        settled(scene)

    @modes
    @apart
    def test_one_initiates_while_the_other_has(self, mode: ExchangeMode, apart_s: float) -> None:
        scene = Scene(mode, types=BOTH, ike=policy(mode, dpd_interval_s=0), children=(child(), VOICE))
        for side in (scene.left, scene.right):
            side.change(enabled=False)
        scene.start()
        for side, host in ((scene.left, scene.paris), (scene.right, scene.lyon)):
            side.change(enabled=True)
            host.configure(side.document())
            scene.world.run(apart_s)
        scene.world.run(150)
        settled(scene)

    @modes
    @lost
    def test_both_renew_at_once(self, mode: ExchangeMode, loss: Loss) -> None:
        scene = standing(mode)
        before = cookies(scene.paris)
        collide(scene, rekey_ike, rekey_ike, loss)
        assert not before & cookies(scene.paris)

    @modes
    @apart
    def test_both_renew_almost_at_once(self, mode: ExchangeMode, apart_s: float) -> None:
        scene = standing(mode)
        before = cookies(scene.paris)
        collide(scene, rekey_ike, rekey_ike, apart_s=apart_s)
        assert not before & cookies(scene.paris)

    @modes
    def test_children_are_made_anew_on_the_one_that_stays(self, mode: ExchangeMode) -> None:
        scene = standing(mode)
        sas = set(scene.paris.data_plane.sas)
        collide(scene, rekey_ike, rekey_ike)
        assert not sas & set(scene.paris.data_plane.sas)

    @modes
    @lost
    def test_both_clear_at_once(self, mode: ExchangeMode, loss: Loss) -> None:
        collide(standing(mode), clear_ike, clear_ike, loss)

    @modes
    @apart
    def test_one_clears_while_the_other_renews(self, mode: ExchangeMode, apart_s: float) -> None:
        collide(standing(mode), clear_ike, rekey_ike, apart_s=apart_s)
        collide(standing(mode), rekey_ike, clear_ike, apart_s=apart_s)


class TestQuickMode:
    """::

    H1  HDR*, HASH(1), SA, Ni1   -->  <--   HDR*, HASH(1), SA, Ni2  H2
    H1  HDR*, HASH(2), SA, Nr1   -->  <--   HDR*, HASH(2), SA, Nr2  H2
    H1  HDR*, HASH(3)            -->  <--            HDR*, HASH(3)  H2
    ten seconds later the pair with the lowest of the four nonces goes, by the end that asked for it
    """

    @modes
    @lost
    def test_both_ask_for_what_is_missing(self, mode: ExchangeMode, loss: Loss) -> None:
        collide(standing(mode), clear_ipsec, clear_ipsec, loss)

    @modes
    @lost
    def test_both_rekey_at_once(self, mode: ExchangeMode, loss: Loss) -> None:
        scene = standing(mode)
        was = set(scene.paris.data_plane.sas)
        collide(scene, rekey_child, rekey_child, loss)
        assert not was & set(scene.paris.data_plane.sas)

    @modes
    @apart
    def test_both_rekey_almost_at_once(self, mode: ExchangeMode, apart_s: float) -> None:
        """What one end sees as crossing, the other may see as one after the other."""
        for seed in range(4):
            collide(standing(mode, seed), rekey_child, rekey_child, apart_s=apart_s)

    @modes
    @lost
    def test_one_deletes_while_the_other_rekeys(self, mode: ExchangeMode, loss: Loss) -> None:
        collide(standing(mode), rekey_child, clear_ipsec, loss)
        collide(standing(mode), clear_ipsec, rekey_child, loss)

    @modes
    @apart
    def test_one_deletes_soon_after_the_other_began_to_rekey(self, mode: ExchangeMode, apart_s: float) -> None:
        collide(standing(mode), rekey_child, clear_ipsec, apart_s=apart_s)
        collide(standing(mode), clear_ipsec, rekey_child, apart_s=apart_s)

    def test_rekeys_interrupt_for_no_longer_than_a_delete_takes(self) -> None:
        """Each end has an SA to send on that the other receives, until one of two goes: the Delete is not answered, so
        the other end may send on that one for as long as the Delete is under way."""
        for seed in range(6):
            scene = standing(MAIN, seed)
            act(scene.paris, rekey_child)
            act(scene.lyon, rekey_child)
            end, broken_at = scene.world.now + 60, set()
            while (due := scene.world.next_event()) is not None and due <= end:
                scene.world.step()
                if not (_carries(scene.paris, scene.lyon) and _carries(scene.lyon, scene.paris)):
                    broken_at.add(scene.world.now)
            assert len(broken_at) <= 1
            settled(scene)


class TestBothPhases:
    """::

    H1  HDR, SA ... (a new phase 1)     -->
                                        <--   HDR*, HASH(1), SA, Ni (on the old one)  H2
    """

    @modes
    @lost
    def test_a_renewal_crosses_a_rekey(self, mode: ExchangeMode, loss: Loss) -> None:
        collide(standing(mode), rekey_ike, rekey_child, loss)
        collide(standing(mode), rekey_child, rekey_ike, loss)

    @modes
    @apart
    def test_a_renewal_crosses_a_rekey_almost(self, mode: ExchangeMode, apart_s: float) -> None:
        collide(standing(mode), rekey_ike, rekey_child, apart_s=apart_s)
        collide(standing(mode), rekey_child, rekey_ike, apart_s=apart_s)

    @modes
    @pytest.mark.parametrize("when_s", [4.98, 4.99, 5.0, 5.01, 5.02, 5.03, 5.04])
    def test_the_old_phase_1_goes_while_a_quick_mode_is_under_way(self, mode: ExchangeMode, when_s: float) -> None:
        """H1 deletes the SA it has replaced just when H2 rekeys a child on it, or on the new one."""
        for asker in (0, 1):
            scene = standing(mode)
            act(scene.paris, rekey_ike)
            scene.world.run(when_s)
            act(scene.hosts[asker], rekey_child)
            scene.world.run(150)
            settled(scene)

    @modes
    @lost
    def test_one_goes_down_while_the_other_renews(self, mode: ExchangeMode, loss: Loss) -> None:
        for other in (rekey_ike, rekey_child, clear_ike, clear_ipsec):
            scene = standing(mode)
            scene.world.network.rewrite = loss.rewrite()
            act(scene.paris, terminate)
            act(scene.lyon, other)
            scene.world.run(150)
            for host in scene.hosts:
                assert host.data_plane.sas == {}
                assert host.data_plane.policies == []
                assert not cookies(host)
                assert left_behind(host) is None

    @modes
    def test_both_go_down_and_come_up(self, mode: ExchangeMode) -> None:
        scene = standing(mode)
        for host in scene.hosts:
            act(host, terminate)
        scene.world.run(60)
        assert machine(scene.paris).sas == machine(scene.lyon).sas == {}
        for host in scene.hosts:
            act(host, initiate)
        scene.world.run(150)
        settled(scene)


@pytest.mark.parametrize("seed", range(20))
@modes
def test_everything_at_once_on_a_bad_network(mode: ExchangeMode, seed: int) -> None:
    scene = standing(mode, seed)
    scene.world.network = Network(loss=0.2, duplicates=0.2, delay_s=(0.005, 1.0))
    for ours, theirs in itertools.permutations((rekey_ike, rekey_child, clear_ipsec), 2):
        act(scene.paris, ours)
        act(scene.lyon, theirs)
        scene.world.run(3)
    scene.world.network = Network()
    scene.world.run(200)
    settled(scene)


def _carries(sender: Host, receiver: Host) -> bool:
    for reqid in {spec.reqid for spec in sender.data_plane.sas.values()}:
        newest = sender.data_plane.outbound(reqid)
        if newest is None:
            return False
        there = receiver.data_plane.sas.get(newest.id)
        if there is None or there.direction != "in" or there.encryption_key != newest.encryption_key:
            return False
    return True
