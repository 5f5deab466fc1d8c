"""Reauthentication in both orders, and how long an authentication lasts (RFC 7296 section 2.8.3, RFC 4478)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.config import ConnectionType, IkePolicy, Reauthentication
from agents.contract.status import TunnelState
from agents.ike.outputs import InstallChild, RemoveChild
from agents.ike.v2 import reauth
from agents.ike.v2.tasks.rekey import RekeyIke
from agents.ike.wire.payloads import Auth, Notify
from agents.ike.wire.registry import AuthMethod, NotifyType
from tests.harness.documents import FAST_IKE, Side, child, key, pair
from tests.harness.world import Host, World, matched, up

CHILDREN = (child(), child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",)))
BOTH = (ConnectionType.BOTH, ConnectionType.BOTH)
WAITS = (ConnectionType.INITIATOR_ONLY, ConnectionType.RESPONDER_ONLY)


def meet(
    paris_s: int = 0, lyon_s: int = 0, types: tuple[ConnectionType, ConnectionType] = WAITS, **policy: object
) -> tuple[World, Host, Host, Side, Side]:
    world = World()
    left, right = pair(children=CHILDREN, types=types)
    base = IkePolicy(proposals=(FAST_IKE,), **policy)  # type: ignore[arg-type]
    left.change(ike=replace(base, reauth_s=paris_s))
    right.change(ike=replace(base, reauth_s=lyon_s))
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    lyon.configure(right.document())
    paris.configure(left.document())
    assert world.run(15, up(paris, lyon))
    return world, paris, lyon, left, right


def one_set(world: World, paris: Host, lyon: Host) -> None:
    """Exactly one IKE SA and one pair per child on both sides, equal."""
    (ours,), (theirs,) = paris.status().ike_sas, lyon.status().ike_sas
    assert (ours.spi_i, ours.spi_r) == (theirs.spi_i, theirs.spi_r)
    assert matched(paris, lyon)
    for host in (paris, lyon):
        assert [str(sa.state) for sa in host.engine.v2.sas.values() if sa.state != "closed"] == ["established"]
        assert len(host.data_plane.sas) == len(host.data_plane.policies) == 2 * len(CHILDREN)
        assert host.codes()["ike.bug"] == 0


def watch_states(world: World, seconds: int, *hosts: Host) -> set[TunnelState]:
    found = set()
    end = world.now + seconds
    while world.now < end:
        world.run(min(0.25, end - world.now))
        found |= {host.state for host in hosts}
    return found


def test_make_before_break() -> None:
    """The new IKE SA has every child before the old one is deleted: no instant without SAs, no lost selector.

    ::

        HDR, SAi1, KEi, Ni                  -->            beside the old IKE SA, no N(INITIAL_CONTACT)
                                            <--            HDR, SAr1, KEr, Nr
        HDR, SK {IDi, AUTH, SA, TSi, TSr}   -->            child main
                                            <--            HDR, SK {IDr, AUTH, SA, TSi, TSr}
        HDR, SK {SA, Ni, TSi, TSr}          -->            child voice
                                            <--            HDR, SK {SA, Nr, TSi, TSr}
        HDR(old), SK {D}                    -->
                                            <--            HDR(old), SK {}
    """
    world, paris, lyon, *_ = meet(paris_s=100)
    first = paris.status().ike_sas[0]
    assert first.reauth_at is not None
    assert 80 <= first.reauth_at - first.established_at <= 88
    world.run(first.reauth_at - world.now - 1)
    mark = len(paris.data_plane.history), len(lyon.data_plane.history)
    assert watch_states(world, 5, paris, lyon) == {TunnelState.UP}
    assert paris.codes()["ike.reauthentication"] == 1
    one_set(world, paris, lyon)
    assert paris.status().ike_sas[0].spi_i != first.spi_i
    for host, begin in zip((paris, lyon), mark, strict=True):
        steps = [type(each) for each in host.data_plane.history[begin:]]
        assert steps == [InstallChild, InstallChild, RemoveChild, RemoveChild]
    world.run(1_000)
    assert paris.codes()["ike.sa-established"] >= 11
    one_set(world, paris, lyon)


def test_break_before_make() -> None:
    """D first, then IKE_SA_INIT: the old set is gone before the new one comes."""
    world, paris, lyon, *_ = meet(paris_s=100, reauthentication=Reauthentication.BREAK_BEFORE_MAKE)
    mark = len(paris.data_plane.history)
    world.run(95)
    steps = [type(each) for each in paris.data_plane.history[mark:]]
    assert steps == [RemoveChild, RemoveChild, InstallChild, InstallChild]
    assert up(paris, lyon)()
    one_set(world, paris, lyon)


def test_a_rekey_does_not_renew_the_authentication() -> None:
    world, paris, lyon, *_ = meet(paris_s=200, lifetime_s=50)
    assert paris.status().ike_sas[0].reauth_at is not None
    world.run(140)
    assert paris.codes()["ike.sa-rekeyed"] >= 2
    assert paris.codes()["ike.reauthentication"] == 0
    world.run(60)
    assert paris.codes()["ike.reauthentication"] == 1
    world.run(10)
    assert up(paris, lyon)()


def test_the_responder_says_how_long_and_the_initiator_comes_back_in_time() -> None:
    """RFC 4478: AUTH_LIFETIME goes with the responder's AUTH; the initiator has no lifetime of its own."""
    world, paris, lyon, *_ = meet(lyon_s=100)
    (sa,) = paris.engine.v2.sas.values()
    assert sa.authentication.lifetime_s == 100
    assert watch_states(world, 95, paris, lyon) == {TunnelState.UP}
    assert paris.codes()["ike.reauthentication"] == 1
    assert lyon.codes()["ike.reauthentication"] == lyon.codes()["ike.authentication-lapsed"] == 0
    one_set(world, paris, lyon)


def test_the_shorter_lifetime_counts() -> None:
    world, paris, *_ = meet(paris_s=1_000, lyon_s=50)
    assert (paris.status().ike_sas[0].reauth_at or 0.0) - world.now < 50


def test_an_initiator_that_does_not_come_back_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reauth, "take", lambda *_: None)
    world, paris, lyon, *_ = meet(lyon_s=100)
    world.run(102)
    assert lyon.codes()["ike.authentication-lapsed"] == 1
    assert world.run(20, up(paris, lyon))
    one_set(world, paris, lyon)


def test_a_responder_that_may_initiate_does_it_itself() -> None:
    world, paris, lyon, left, right = meet(types=BOTH)
    world.run(15)  # both began: one set stays
    opened = next(sa for sa in paris.engine.v2.sas.values() if sa.state == "established").opener
    waiting, side = (lyon, right) if opened else (paris, left)
    side.change(ike=replace(side.tunnels[0].ike, reauth_s=100))
    waiting.configure(side.document())
    assert watch_states(world, 90, paris, lyon) == {TunnelState.UP}
    assert waiting.codes()["ike.reauthentication"] == 1
    assert waiting.codes()["ike.authentication-lapsed"] == 0
    world.run(5)
    one_set(world, paris, lyon)


def test_a_peer_that_refuses_ends_the_tunnel_when_the_authentication_does() -> None:
    world, paris, lyon, _left, right = meet(paris_s=100)
    right.keys = [key(b"another secret", "192.0.2.2", "192.0.2.1")]
    lyon.document = right.document()  # a new key there, without the engine letting go of what stands
    world.run(90)
    assert paris.state is TunnelState.UP
    assert lyon.codes()["ike.psk-mismatch"] >= 1
    world.run(12)
    assert paris.codes()["ike.authentication-lapsed"] == 1
    assert paris.state is not TunnelState.UP


def test_a_changed_lifetime_counts_from_the_authentication() -> None:
    world, paris, _lyon, left, _ = meet()
    assert paris.status().ike_sas[0].reauth_at is None
    left.change(ike=replace(left.tunnels[0].ike, reauth_s=200))
    world.run(50)
    paris.configure(left.document())
    sa = paris.status().ike_sas[0]
    assert sa.reauth_at is not None
    assert 160 <= sa.reauth_at - sa.established_at <= 176


def test_both_ends_at_once() -> None:
    """Two new IKE SAs and the old one: the larger SPI pair stays, the others go."""
    for seed in range(10):
        world = World(seed)
        left, right = pair(children=CHILDREN, types=BOTH, ike=IkePolicy(proposals=(FAST_IKE,)))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        world.run(1)
        paris.configure(left.document())
        assert world.run(30, up(paris, lyon))
        for host in (paris, lyon):
            host.reauthenticate()
        assert watch_states(world, 5, paris, lyon) <= {TunnelState.UP, TunnelState.PARTLY_UP}
        world.run(100)
        assert up(paris, lyon)()
        one_set(world, paris, lyon)


@pytest.mark.parametrize("whose", ["paris", "lyon"])
@pytest.mark.parametrize("later_s", [0.0, 0.01, 0.02, 0.03, 0.05])
def test_the_old_one_is_rekeyed_meanwhile(whose: str, later_s: float) -> None:
    """Its successor is as superfluous as itself.

    ::

        HDR, SAi1, KEi, Ni                  -->            a new IKE SA
        HDR(old), SK {SA, Ni, KEi}          -->  or  <--   a rekey of the old one
    """
    world, paris, lyon, *_ = meet()
    (old,) = (paris if whose == "paris" else lyon).engine.v2.sas.values()
    paris.reauthenticate()
    world.run(later_s)
    starter = paris if whose == "paris" else lyon
    old.enqueue(RekeyIke(), world.now)
    starter.do(starter.engine.hub.settle)
    world.run(120)
    assert up(paris, lyon)()
    one_set(world, paris, lyon)


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\0\0\0\1\0"])
def test_a_malformed_lifetime_is_passed_over(data: bytes) -> None:
    _, paris, *_ = meet(paris_s=1_000)
    (sa,) = paris.engine.v2.sas.values()
    before = sa.authentication.renew_at
    message = type("M", (), {"notify": lambda self, _: Notify(type=NotifyType.AUTH_LIFETIME, data=data)})()
    reauth.take(sa, message)
    assert sa.authentication.renew_at == before


def test_it_is_said_only_with_a_proof_and_only_by_the_responder() -> None:
    _, paris, lyon, *_ = meet(paris_s=1_000, lyon_s=1_000)
    proof = (Auth(method=AuthMethod.SHARED_KEY_MIC, data=b"x"),)
    (ours,), (theirs,) = paris.engine.v2.sas.values(), lyon.engine.v2.sas.values()
    assert reauth.announce(ours, proof) == ()
    assert reauth.announce(theirs, ()) == ()
    (notify,) = reauth.announce(theirs, proof)
    assert notify == Notify(type=NotifyType.AUTH_LIFETIME, data=(1_000).to_bytes(4, "big"))
