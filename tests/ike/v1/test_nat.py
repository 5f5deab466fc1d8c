"""NATs between two IKEv1 engines (RFC 3947, 3948 and the drafts): before either end or both; mappings that move."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Any

import pytest

from agents.contract.config import (
    ConnectionType,
    Endpoint,
    ExchangeMode,
    Identity,
    IdentityType,
    Mode,
)
from agents.dataplane.base import Direction, OriginalAddresses, UdpEncapsulation
from agents.ike.v1 import capabilities, natd, quickmode
from agents.ike.wire.isakmp import vendor
from agents.ike.wire.isakmp.payloads import NatOriginalAddress, VendorId
from tests.harness.documents import key
from tests.harness.nat import NatBox, chained
from tests.harness.pki import certify
from tests.harness.v1 import LYON, MODES, PARIS, Scene, child, left_behind, policy, sa_of
from tests.harness.world import Host, up

MAIN, AGGRESSIVE = MODES
modes = pytest.mark.parametrize("mode", MODES)
OUTSIDE, FAR_OUTSIDE = "198.51.100.9", "203.0.113.7"
_PARIS, _LYON = (Identity(type=IdentityType.FQDN, value=f"{name}.example") for name in ("paris", "lyon"))


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which ends are behind a NAT."""

    paris: bool = False
    lyon: bool = False


def between(
    mode: ExchangeMode,
    place: Place,
    timeout_s: float = float("inf"),
    inside: frozenset[str] = frozenset({PARIS}),
    **changes: object,
) -> Scene:
    """Two ends known by names, with NATs before either or both; lyon's has its ports forwarded."""
    scene = Scene(mode, **{"ike": policy(mode, dpd_interval_s=0), **changes})  # type: ignore[arg-type]
    seen_paris = OUTSIDE if place.paris else PARIS
    seen_lyon = FAR_OUTSIDE if place.lyon else LYON
    here, there = Endpoint(address=PARIS, identity=_PARIS), Endpoint(address=LYON, identity=_LYON)
    scene.left.change(local=here, remote=Endpoint(address=seen_lyon, identity=_LYON))
    scene.right.change(local=there, remote=Endpoint(address=seen_paris, identity=_PARIS))
    scene.left.keys = scene.right.keys = [key(b"a shared secret of both")]
    boxes = []
    if place.paris:
        boxes.append(NatBox(world=scene.world, inside=inside, outside=OUTSIDE, timeout_s=timeout_s))
    if place.lyon:
        forwards = {port: (LYON, port) for port in (500, 4500)}
        boxes.append(NatBox(world=scene.world, inside=frozenset({LYON}), outside=FAR_OUTSIDE, forwards=forwards))
    scene.world.network.rewrite = chained(*boxes)
    return scene


def standing(mode: ExchangeMode, place: Place, timeout_s: float = float("inf"), **changes: Any) -> Scene:
    scene = between(mode, place, timeout_s, **changes).start()
    assert scene.world.run(10, up(*scene.hosts)), (scene.paris.reports, scene.lyon.reports)
    scene.world.run(0.5)
    scene.check(addresses=False)
    return scene


def box_of(scene: Scene) -> NatBox:
    """Put the one box itself into the network, to reach it."""
    box = NatBox(world=scene.world, inside=frozenset({PARIS}), outside=OUTSIDE)
    scene.world.network.rewrite = box
    return box


places = pytest.mark.parametrize(
    "place", [Place(paris=True), Place(lyon=True), Place(paris=True, lyon=True)], ids=["near", "far", "both"]
)


class TestDetection:
    @modes
    @places
    def test_where_it_is(self, mode: ExchangeMode, place: Place) -> None:
        scene = standing(mode, place)
        ours, theirs = (host.status().ike_sas[0] for host in scene.hosts)
        assert (ours.nat_local, ours.nat_remote) == (place.paris, place.lyon)
        assert (theirs.nat_local, theirs.nat_remote) == (place.lyon, place.paris)
        assert ours.local.endswith(":4500")
        for host in scene.hosts:
            assert all(spec.encapsulation is not None for spec in host.data_plane.sas.values())

    @modes
    def test_none(self, mode: ExchangeMode) -> None:
        scene = standing(mode, Place())
        assert {each.path.local_port for each in scene.world.log} == {500}
        assert all(spec.encapsulation is None for spec in scene.paris.data_plane.sas.values())

    @modes
    def test_the_initiator_moves_with_its_first_encrypted_message(self, mode: ExchangeMode) -> None:
        scene = standing(mode, Place(paris=True))
        ports = [each.path.local_port for each in scene.world.log]
        moved = 4 if mode is MAIN else 2
        assert set(ports[:moved]) == {500}
        assert set(ports[moved:]) == {4500}

    @modes
    def test_asked_for_without_one(self, mode: ExchangeMode) -> None:
        for asking in (0, 1):
            scene = between(mode, Place())
            (scene.left, scene.right)[asking].change(force_udp_encapsulation=True)
            scene.come_up()
            assert all(spec.encapsulation is not None for spec in scene.paris.data_plane.sas.values())
            scene.world.run(100)
            assert scene.world.keepalives == []

    @modes
    def test_a_data_plane_that_needs_udp(self, mode: ExchangeMode) -> None:
        scene = between(mode, Place())
        scene.lyon.engine.set_data_plane(None, require_udp_encapsulation=True)
        scene.come_up()
        assert all(spec.encapsulation is not None for spec in scene.lyon.data_plane.sas.values())

    @modes
    @pytest.mark.parametrize(
        "draft", [vendor.NAT_T_DRAFT_02, vendor.NAT_T_DRAFT_02_N, vendor.NAT_T_DRAFT_03], ids=["02", "02n", "03"]
    )
    @pytest.mark.parametrize("place", [Place(paris=True), Place()], ids=["nat", "none"])
    def test_drafts(self, mode: ExchangeMode, draft: bytes, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        """A peer that knows nothing but a draft: other payload numbers, other encapsulation modes."""
        only = (VendorId(data=draft), VendorId(data=vendor.DPD))
        monkeypatch.setattr(capabilities, "offered", lambda fragmentation: only)
        scene = standing(mode, place)
        assert sa_of(scene.paris).peer.nat_draft is sa_of(scene.lyon).peer.nat_draft is True
        assert scene.paris.status().ike_sas[0].nat_local is place.paris
        encapsulated = [spec.encapsulation is not None for spec in scene.lyon.data_plane.sas.values()]
        assert encapsulated == [place.paris] * 2

    @modes
    def test_a_peer_that_says_nothing_of_itself(self, mode: ExchangeMode, monkeypatch: pytest.MonkeyPatch) -> None:
        """No vendor IDs: no NAT detection, no liveness checks, and it works all the same."""
        monkeypatch.setattr(capabilities, "offered", lambda fragmentation: ())
        scene = standing(mode, Place(), ike=policy(mode, dpd_interval_s=10))
        scene.world.run(100)
        scene.check()
        for host in scene.hosts:
            assert sa_of(host).peer.nat_draft is None
            assert host.codes()["ikev1.dpd-unsupported"] == 1
            assert host.codes()["ike.dpd-failed"] == 0


def hosts_between(
    mode: ExchangeMode, place: Place, *, forced: bool, inside: frozenset[str] = frozenset({PARIS}), **changes: Any
) -> Scene:
    """Both ends for transport mode, each with the address it knows the other by; ``inside`` is behind paris's NAT."""
    scene = between(mode, place, inside=inside, **changes)
    seen_paris, seen_lyon = OUTSIDE if place.paris else PARIS, FAR_OUTSIDE if place.lyon else LYON
    ours = child(local=(f"{PARIS}/32",), remote=(f"{seen_lyon}/32",), mode=Mode.TRANSPORT)
    theirs = child(local=(f"{LYON}/32",), remote=(f"{seen_paris}/32",), mode=Mode.TRANSPORT)
    scene.left.change(force_udp_encapsulation=forced, children=(ours,))
    scene.right.change(children=(theirs,))
    return scene.start()


class TestTransportMode:
    """RFC 3947 section 5: encapsulation mode 4 and NAT-OA."""

    @modes
    @pytest.mark.parametrize("draft", [False, True], ids=["rfc", "draft"])
    def test_in_udp_between_the_addresses_that_both_have(
        self, mode: ExchangeMode, draft: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if draft:
            only = (VendorId(data=vendor.NAT_T_DRAFT_03), VendorId(data=vendor.DPD))
            monkeypatch.setattr(capabilities, "offered", lambda fragmentation: only)
        sent: list[tuple[NatOriginalAddress, ...]] = []
        made = quickmode.original_addresses

        def kept(*args: Any, **named: Any) -> tuple[NatOriginalAddress, ...]:
            sent.append(made(*args, **named))
            return sent[-1]

        monkeypatch.setattr(quickmode, "original_addresses", kept)
        scene = hosts_between(mode, Place(), forced=True)
        assert scene.world.run(10, up(*scene.hosts)), (scene.paris.reports, scene.lyon.reports)
        scene.paris.do(scene.paris.engine.rekey_child, scene.paris.status().id)
        scene.world.run(40)
        scene.check()
        for host in scene.hosts:
            specs = host.data_plane.sas.values()
            assert {each.mode for each in specs} == {Mode.TRANSPORT}
            assert {each.encapsulation for each in specs} == {UdpEncapsulation(source_port=4500, destination_port=4500)}
        addresses = tuple(bytes(map(int, each.split("."))) for each in (PARIS, LYON))
        assert [tuple(each.data for each in both) for both in sent] == [addresses] * 4
        assert {each.draft for both in sent for each in both} == {draft}

    @modes
    def test_tunnel_mode_has_no_original_addresses(self, mode: ExchangeMode, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(natd, "original_addresses", None)  # calling it would end the negotiation
        standing(mode, Place(paris=True))

    @modes
    @places
    @pytest.mark.parametrize("said", [True, False], ids=["NAT-OA", "selectors"])
    def test_through_a_nat(self, mode: ExchangeMode, place: Place, said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each end has the addresses that it sees, and keeps those that the peer sees, rekeyed by either."""
        if not said:
            monkeypatch.setattr(quickmode, "original_addresses", lambda *args, **named: ())
        scene = hosts_between(mode, place, forced=False)
        seen_paris, seen_lyon = OUTSIDE if place.paris else PARIS, FAR_OUTSIDE if place.lyon else LYON
        assert scene.world.run(10, up(*scene.hosts)), (scene.paris.reports, scene.lyon.reports)
        for host in (None, scene.paris, scene.lyon):
            if host is not None:
                host.do(host.engine.rekey_child, host.status().id)
            scene.world.run(60)
            scene.check(addresses=False)
            for end, outer, original in (
                (scene.paris, (seen_lyon, PARIS), (LYON, seen_paris)),
                (scene.lyon, (seen_paris, LYON), (PARIS, seen_lyon)),
            ):
                (inbound,) = [each for each in end.data_plane.sas.values() if each.direction is Direction.IN]
                assert (inbound.mode, inbound.source, inbound.destination) == (Mode.TRANSPORT, *outer)
                kept = inbound.original
                if said or (host is None and end is scene.lyon):
                    assert kept == OriginalAddresses(source=original[0], destination=original[1])
        assert scene.paris.codes()["child.rekeyed"] == scene.lyon.codes()["child.rekeyed"] == 2

    @modes
    def test_ends_where_the_peer_has_another_address(self, mode: ExchangeMode) -> None:
        """Another port is followed; another address is not the one that the child protects."""
        scene = hosts_between(mode, Place(paris=True), forced=False, ike=policy(mode, dpd_interval_s=10))
        scene.right.change(connection_type=ConnectionType.BOTH)
        scene.start()
        box = box_of(scene)
        assert scene.world.run(10, up(*scene.hosts)), (scene.paris.reports, scene.lyon.reports)
        scene.world.run(1)
        held, port = set(scene.lyon.data_plane.sas), _udp(scene.lyon)[1]
        box.rebind()
        scene.world.run(25)
        assert set(scene.lyon.data_plane.sas) == held
        assert _udp(scene.lyon) == (OUTSIDE, box.next_port)
        assert port != box.next_port
        box.rebind("198.51.100.10")
        scene.world.run(25)
        assert not held & set(scene.lyon.data_plane.sas)
        for spec in scene.lyon.data_plane.sas.values():
            assert "198.51.100.10" not in (spec.source, spec.destination)
        assert scene.lyon.codes()["child.deleted"] >= 1
        assert scene.lyon.codes()["child.ts-unacceptable"] >= 1, "it does not ask for one that would go nowhere"

    @modes
    def test_not_with_a_second_host_behind_one_nat(self, mode: ExchangeMode) -> None:
        nice, name = "192.0.2.9", Identity(type=IdentityType.FQDN, value="nice.example")
        scene = hosts_between(mode, Place(paris=True), forced=False, inside=frozenset({PARIS, nice}))
        assert scene.world.run(10, up(*scene.hosts)), (scene.paris.reports, scene.lyon.reports)
        held = set(scene.lyon.data_plane.sas)
        (known,) = scene.right.tunnels
        remote = Endpoint(address=OUTSIDE, identity=name)
        scene.right.tunnels.append(replace(known, id=str(uuid.UUID(int=7)), name="nice", remote=remote))
        scene.lyon.configure(scene.right.document())
        second = scene.world.host("nice", nice)
        (ours,) = scene.left.tunnels
        hosts = child(local=(f"{nice}/32",), remote=(f"{LYON}/32",), mode=Mode.TRANSPORT)
        document = scene.left.document()
        more = replace(ours, local=Endpoint(address=nice, identity=name), children=(hosts,))
        second.configure(replace(document, gateway_name="nice", tunnels=(more,)))
        scene.world.run(10)
        (report,) = [each for each in scene.lyon.reports if each.code == "child.transport-nat"][:1]
        assert (report.received, report.field) == (f"{OUTSIDE}, which is {nice} there", "children.mode")
        assert second.data_plane.sas == {}
        assert left_behind(second) is None
        assert set(scene.lyon.data_plane.sas) == held


class TestLife:
    @modes
    @places
    def test_rekeys_and_renewals(self, mode: ExchangeMode, place: Place) -> None:
        scene = standing(mode, place)
        for verb in (scene.paris.engine.rekey_child, scene.paris.engine.rekey_ike, scene.paris.engine.rekey_child):
            scene.paris.do(verb, scene.paris.status().id)
            scene.world.run(40)
            scene.check(addresses=False)
        assert scene.paris.codes()["child.rekeyed"] == 2

    @modes
    def test_keepalives_keep_a_mapping_that_the_peer_needs(self, mode: ExchangeMode) -> None:
        scene = standing(mode, Place(paris=True), timeout_s=30)
        scene.world.run(300)
        assert {each.sender for each in scene.world.keepalives} == {"paris"}
        assert 13 <= len(scene.world.keepalives) <= 15
        scene.lyon.do(scene.lyon.engine.clear_ipsec, scene.lyon.status().id)
        scene.world.run(2)
        assert scene.paris.codes()["ikev1.delete-received"] == 1

    @modes
    def test_esp_that_was_sent_takes_their_place(self, mode: ExchangeMode) -> None:
        scene = standing(mode, Place(paris=True))
        for _ in range(30):
            scene.world.run(10)
            scene.paris.do(scene.paris.engine.traffic_sent, scene.paris.status().id)
        assert scene.world.keepalives == []

    @modes
    @pytest.mark.parametrize("outside", [OUTSIDE, "198.51.100.77"], ids=["port", "address"])
    def test_another_mapping_is_followed(self, mode: ExchangeMode, outside: str) -> None:
        scene = between(mode, Place(paris=True), ike=policy(mode, dpd_interval_s=10))
        box = box_of(scene)
        scene.start()
        assert scene.world.run(10, up(*scene.hosts))
        scene.world.run(1)
        before = _udp(scene.lyon)
        sas = set(scene.paris.data_plane.sas)
        box.rebind(outside)
        scene.world.run(25)
        assert scene.lyon.codes()["ike.nat-moved"] == 1
        assert _udp(scene.lyon) != before
        assert _udp(scene.lyon)[0] == outside
        scene.world.run(60)
        scene.check(addresses=False)
        assert set(scene.paris.data_plane.sas) == sas, "moved, not made anew"

    def test_esp_from_another_mapping_is_followed(self) -> None:
        scene = standing(MAIN, Place(paris=True))
        spec = next(spec for spec in scene.lyon.data_plane.sas.values() if spec.direction == "in")
        scene.lyon.do(scene.lyon.engine.peer_moved, spec.tunnel_id, spec.spi, OUTSIDE, 40_000)
        assert _udp(scene.lyon) == (OUTSIDE, 40_000)
        assert scene.lyon.status().ike_sas[0].remote == f"{OUTSIDE}:40000"

    @modes
    def test_without_a_nat_nobody_is_followed(self, mode: ExchangeMode) -> None:
        scene = standing(mode, Place())
        spec = next(spec for spec in scene.lyon.data_plane.sas.values() if spec.direction == "in")
        scene.lyon.do(scene.lyon.engine.peer_moved, spec.tunnel_id, spec.spi, "198.51.100.99", 666)
        assert scene.lyon.status().ike_sas[0].remote == f"{PARIS}:500"

    @modes
    def test_the_peer_of_an_initiator_is_not_followed(self, mode: ExchangeMode) -> None:
        """Behind a NAT we cannot know where the peer's packets come from otherwise: it has to be found where it was."""
        scene = standing(mode, Place(paris=True, lyon=True))
        spec = next(spec for spec in scene.paris.data_plane.sas.values() if spec.direction == "in")
        scene.paris.do(scene.paris.engine.peer_moved, spec.tunnel_id, spec.spi, "198.51.100.99", 666)
        assert scene.paris.status().ike_sas[0].remote == f"{FAR_OUTSIDE}:4500"

    @modes
    def test_a_new_phase_1_after_the_mapping_has_gone(self, mode: ExchangeMode) -> None:
        scene = between(mode, Place(paris=True), ike=policy(mode, dpd_interval_s=10))
        box = box_of(scene)
        scene.start()
        assert scene.world.run(10, up(*scene.hosts))
        box.rebind()
        scene.paris.do(scene.paris.engine.clear_ike, scene.paris.status().id)
        scene.world.run(60)
        scene.check(addresses=False)


@modes
@places
def test_certificates_behind_a_nat(mode: ExchangeMode, place: Place) -> None:
    scene = between(mode, place)
    certify(scene.left, scene.paris)
    certify(scene.right, scene.lyon)
    scene.start()
    assert scene.world.run(20, up(*scene.hosts)), scene.lyon.reports
    scene.world.run(1)
    scene.check(addresses=False)


def _udp(host: Host) -> tuple[str, int]:
    """Return where this host's ESP goes."""
    (spec,) = [spec for spec in host.data_plane.sas.values() if spec.direction == "out"]
    assert spec.encapsulation is not None
    return spec.destination, spec.encapsulation.destination_port
