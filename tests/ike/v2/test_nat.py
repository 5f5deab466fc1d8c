"""NATs between two engines (RFC 7296 section 2.23, RFC 3948): before either end or both; mappings that end or move."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from agents.contract.config import Endpoint, Identity, IdentityType, IkePolicy, Mode, TrafficSelector
from agents.dataplane.base import REQID_BASE, Direction, Features, OriginalAddresses, UdpEncapsulation
from agents.ike.outputs import Transmit
from agents.ike.v2 import path
from tests.harness.documents import FAST_IKE, Side, child, key, mirrored, pair
from tests.harness.nat import NatBox, chained
from tests.harness.world import Host, World, up

PARIS, LYON, NICE = (
    Identity(type=IdentityType.FQDN, value="paris.example"),
    Identity(type=IdentityType.FQDN, value="lyon.example"),
    Identity(type=IdentityType.FQDN, value="nice.example"),
)
QUIET = IkePolicy(proposals=(FAST_IKE,), dpd_interval_s=0, mobike=False)
INSIDE, OUTSIDE, FAR = "10.0.0.5", "198.51.100.9", "192.0.2.2"

Cast = tuple[World, Host, Host]


def sides(paris: tuple[str, str], lyon: tuple[str, str], ike: IkePolicy) -> tuple[Side, Side]:
    """Return documents of two ends; each is (own address, address the other knows it by)."""
    left, right = pair(ike=ike)
    left.change(local=Endpoint(address=paris[0], identity=PARIS), remote=Endpoint(address=lyon[1], identity=LYON))
    right.change(local=Endpoint(address=lyon[0], identity=LYON), remote=Endpoint(address=paris[1], identity=PARIS))
    left.keys = [key(b"a shared secret of both", remote_identity=LYON)]
    right.keys = [key(b"a shared secret of both", remote_identity=PARIS)]
    return left, right


def standing(world: World, paris: tuple[str, str], lyon: tuple[str, str], ike: IkePolicy) -> Cast:
    left, right = sides(paris, lyon, ike)
    here, there = world.host("paris", paris[0]), world.host("lyon", lyon[0])
    there.configure(right.document())
    here.configure(left.document())
    assert world.run(5, up(here, there)), (here.status(), there.status())
    return world, here, there


def behind(ike: IkePolicy = QUIET, timeout_s: float = float("inf")) -> tuple[World, Host, Host, NatBox]:
    """Paris behind a NAT."""
    world = World()
    box = NatBox(world=world, inside=frozenset({INSIDE}), outside=OUTSIDE, timeout_s=timeout_s)
    world.network.rewrite = box
    return (*standing(world, (INSIDE, OUTSIDE), (FAR, FAR), ike), box)


def ports_out(host: Host) -> UdpEncapsulation | None:
    spec = host.data_plane.outbound(REQID_BASE + 1)
    assert spec is not None
    return spec.encapsulation


class TestKeepalive:
    """::

    paris                    NAT (30 s)                     lyon
    (established, nothing to say)
    0xff, every 20 s    -->  mapping lives
                             mapping lives           <--    CREATE_CHILD_SA
    """

    def test_keeps_a_mapping_that_the_peer_needs(self) -> None:
        world, paris, lyon, box = behind(timeout_s=30)
        world.run(300)
        assert [each.sender for each in world.keepalives] == ["paris"] * 15
        assert {each.path.local_port for each in world.keepalives} == {4500}
        lyon.do(lyon.engine.rekey_child, lyon.status().id)
        world.run(3)
        assert box.lost == 0
        assert paris.codes()["child.rekeyed"] == lyon.codes()["child.rekeyed"] == 1

    def test_without_it_the_peer_talks_to_a_closed_door(self) -> None:
        world, paris, lyon, box = behind(replace(QUIET, keepalive_s=0), timeout_s=30)
        world.run(300)
        lyon.do(lyon.engine.rekey_child, lyon.status().id)
        world.run(3)
        assert world.keepalives == []
        assert box.lost > 0
        assert paris.codes()["child.rekeyed"] == 0

    def test_a_message_takes_its_place(self) -> None:
        world, *_ = behind(replace(QUIET, dpd_interval_s=10))
        world.run(300)
        assert world.keepalives == []

    def test_esp_that_was_sent_takes_its_place(self) -> None:
        world, paris, *_ = behind()
        for _ in range(30):
            world.run(10)
            paris.do(paris.engine.traffic_sent, paris.status().id)
        assert world.keepalives == []

    def test_only_the_end_behind_the_nat_sends_them(self) -> None:
        world = World()
        box = NatBox(
            world=world, inside=frozenset({FAR}), outside=OUTSIDE, forwards={500: (FAR, 500), 4500: (FAR, 4500)}
        )
        world.network.rewrite = box
        standing(world, (INSIDE, INSIDE), (FAR, OUTSIDE), QUIET)
        world.run(100)
        assert {each.sender for each in world.keepalives} == {"lyon"}

    def test_asking_for_encapsulation_is_not_being_behind_a_nat(self) -> None:
        world = World()
        left, right = pair(ike=QUIET, force_udp_encapsulation=True)
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        assert ports_out(paris) == ports_out(lyon) == UdpEncapsulation(source_port=4500, destination_port=4500)
        assert not paris.status().ike_sas[0].nat_local
        world.run(100)
        assert world.keepalives == []


class TestWhere:
    def test_before_the_responder(self) -> None:
        """Ports 500 and 4500 of the outside address lead to lyon; both ends use 4500 from IKE_AUTH on."""
        world = World()
        box = NatBox(
            world=world, inside=frozenset({FAR}), outside=OUTSIDE, forwards={500: (FAR, 500), 4500: (FAR, 4500)}
        )
        world.network.rewrite = box
        _, paris, lyon = standing(world, (INSIDE, INSIDE), (FAR, OUTSIDE), QUIET)
        assert [each.path.remote_port for each in world.log if each.sender == "paris"] == [500, 4500]
        ours, theirs = paris.status().ike_sas[0], lyon.status().ike_sas[0]
        assert (ours.nat_local, ours.nat_remote, theirs.nat_local, theirs.nat_remote) == (False, True, True, False)
        assert ports_out(paris) == ports_out(lyon) == UdpEncapsulation(source_port=4500, destination_port=4500)

    @pytest.mark.parametrize("mobike", [False, True])
    def test_before_both(self, mobike: bool) -> None:
        world = World()
        door = "203.0.113.7"
        world.network.rewrite = chained(
            NatBox(world=world, inside=frozenset({INSIDE}), outside=OUTSIDE),
            NatBox(world=world, inside=frozenset({FAR}), outside=door, forwards={500: (FAR, 500), 4500: (FAR, 4500)}),
        )
        _, paris, lyon = standing(world, (INSIDE, OUTSIDE), (FAR, door), replace(QUIET, mobike=mobike))
        for host in (paris, lyon):
            status = host.status().ike_sas[0]
            assert (status.nat_local, status.nat_remote, status.mobike) == (True, True, mobike)
        assert ports_out(paris) == UdpEncapsulation(source_port=4500, destination_port=4500)
        assert ports_out(lyon) == UdpEncapsulation(source_port=4500, destination_port=20_002)
        lyon.do(lyon.engine.rekey_child, lyon.status().id)
        world.run(2)
        assert paris.codes()["child.rekeyed"] == 1

    @pytest.mark.parametrize("nat", [False, True])
    def test_a_peer_that_begins_on_4500(self, nat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """RFC 7296 section 2.23 lets an initiator use 4500 from the first message on; ESP in UDP only with a NAT."""
        monkeypatch.setattr(path, "IKE_PORT", 4500)
        world = World()
        if nat:
            world.network.rewrite = NatBox(world=world, inside=frozenset({INSIDE}), outside=OUTSIDE)
        _, paris, lyon = standing(world, (INSIDE, OUTSIDE if nat else INSIDE), (FAR, FAR), QUIET)
        assert {each.path.remote_port for each in world.log if each.sender == "paris"} == {4500}
        assert (ports_out(paris) is not None) == (ports_out(lyon) is not None) == nat
        assert lyon.status().ike_sas[0].remote == (f"{OUTSIDE}:20001" if nat else f"{INSIDE}:4500")


class TestMapping:
    """Without MOBIKE the end in the open follows what is authentic and fresh."""

    def test_another_port_is_followed_by_ike_and_esp(self) -> None:
        """::

        paris            NAT                       lyon
                         (forgets its mappings)
        INFORMATIONAL -> another port       -->
                                            <--    answer, ESP there from now on
        """
        world, paris, lyon, box = behind(replace(QUIET, dpd_interval_s=30))
        assert lyon.status().ike_sas[0].remote == f"{OUTSIDE}:20002"
        box.rebind()
        world.run(40)
        assert lyon.status().ike_sas[0].remote == f"{OUTSIDE}:20003"
        assert ports_out(lyon) == UdpEncapsulation(source_port=4500, destination_port=20_003)
        moved = next(each for each in lyon.reports if each.code == "ike.nat-moved")
        assert (moved.received, moved.configured) == (f"{OUTSIDE}:20003", f"{OUTSIDE}:20002")
        assert paris.codes()["ike.nat-moved"] == 0

    def test_another_address_is_followed_and_survives_a_rekey(self) -> None:
        world, paris, lyon, box = behind(replace(QUIET, dpd_interval_s=30))
        box.rebind("198.51.100.77")
        world.run(40)
        assert lyon.status().ike_sas[0].remote == "198.51.100.77:20003"
        assert {each.source for each in lyon.data_plane.policies if each.direction == "in"} == {"198.51.100.77"}
        lyon.do(lyon.engine.rekey_child, lyon.status().id)
        world.run(20)
        assert len(lyon.data_plane.sas) == len(paris.data_plane.sas) == 2
        assert len(lyon.data_plane.policies) == len(paris.data_plane.policies) == 2
        assert matched_but_for_the_nat(paris, lyon)

    def test_a_repeated_message_moves_nothing(self) -> None:
        world, _, lyon, _ = behind()
        request = next(each for each in reversed(world.log) if each.sender == "paris")
        seen = lyon.status().ike_sas[0].remote
        thief = replace(
            request.path,
            local_address=FAR,
            local_port=4500,
            remote_address="203.0.113.66",
            remote_port=4500,
        )
        lyon.do(lyon.engine.receive, request.octets, thief)
        assert lyon.codes()["drop.duplicate"] == 1
        assert lyon.status().ike_sas[0].remote == seen

    def test_an_end_behind_a_nat_follows_nobody(self) -> None:
        """An attacker on the way sends lyon's fresh request on from an address of its own: paris stays (2.23)."""
        world, paris, lyon, box = behind()

        def detour(transmit: Transmit) -> Transmit | None:
            through = box(transmit)
            if through is not None and through.path.local_address == FAR:
                return replace(through, path=replace(through.path, local_address="203.0.113.66"))
            return through

        world.network.rewrite = detour
        lyon.do(lyon.engine.rekey_child, lyon.status().id)
        world.run(1)
        assert paris.status().ike_sas[0].remote == f"{FAR}:4500"
        assert paris.codes()["ike.nat-moved"] == 0

    @pytest.mark.parametrize("mobike", [False, True])
    def test_esp_from_another_port(self, mobike: bool) -> None:
        """With MOBIKE only ESP follows ESP (RFC 4555 section 3.8)."""
        _, _, lyon, _ = behind(replace(QUIET, mobike=mobike))
        before = lyon.status().ike_sas[0].remote
        spi_in = int(lyon.status().children[0].sas[0].spi_in, 16)
        lyon.do(lyon.engine.peer_moved, lyon.status().id, spi_in, OUTSIDE, 31_000)
        assert ports_out(lyon) == UdpEncapsulation(source_port=4500, destination_port=31_000)
        assert lyon.status().ike_sas[0].remote == (before if mobike else f"{OUTSIDE}:31000")


def matched_but_for_the_nat(left: Host, right: Host) -> bool:
    """Compare SPIs and keys only: the outer addresses of the two ends differ by the NAT."""

    def keys(host: Host, flip: bool) -> set[tuple[object, ...]]:
        other: dict[str, str] = {"in": "out", "out": "in"}
        return {
            (
                spec.spi,
                other[spec.direction] if flip else str(spec.direction),
                spec.encryption_key and spec.encryption_key.reveal(),
            )
            for spec in host.data_plane.sas.values()
        }

    return keys(left, flip=False) == keys(right, flip=True)


class TestTransportMode:
    """In UDP, between the very addresses that both ends have or through a NAT."""

    HOSTS = child(local=(f"{INSIDE}/32",), remote=(f"{FAR}/32",), mode=Mode.TRANSPORT)

    def _meet(self, forced: str) -> tuple[World, Host, Host]:
        world = World()
        left, right = sides((INSIDE, INSIDE), (FAR, FAR), QUIET)
        left.change(children=(self.HOSTS,), force_udp_encapsulation=forced == "paris")
        right.change(children=(mirrored(self.HOSTS),), force_udp_encapsulation=forced == "lyon")
        paris, lyon = world.host("paris", INSIDE), world.host("lyon", FAR)
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon)), (paris.reports, lyon.reports)
        world.run(0.5)
        return world, paris, lyon

    @pytest.mark.parametrize("forced", ["paris", "lyon"])
    def test_whoever_asks_for_udp(self, forced: str) -> None:
        world, paris, lyon = self._meet(forced)
        for verb in (paris.engine.rekey_child, lyon.engine.rekey_child):
            host = paris if verb == paris.engine.rekey_child else lyon
            host.do(verb, host.status().id)
            world.run(3)
            for end in (paris, lyon):
                assert {each.mode for each in end.data_plane.sas.values()} == {Mode.TRANSPORT}
                assert {each.mode for each in end.data_plane.policies} == {Mode.TRANSPORT}
                assert ports_out(end) == UdpEncapsulation(source_port=4500, destination_port=4500)
        assert paris.codes()["child.rekeyed"] == lyon.codes()["child.rekeyed"] == 2

    @pytest.mark.parametrize("before", ["paris", "lyon", "both"])
    def test_through_a_nat(self, before: str) -> None:
        """RFC 7296 section 2.23.1: each end has the addresses that it sees, and keeps those that the peer sees."""
        world = World()
        boxes, door = [], "203.0.113.7"
        seen_paris, seen_lyon = INSIDE, FAR
        if before != "lyon":
            boxes.append(NatBox(world=world, inside=frozenset({INSIDE}), outside=OUTSIDE))
            seen_paris = OUTSIDE
        if before != "paris":
            forwards = {port: (FAR, port) for port in (500, 4500)}
            boxes.append(NatBox(world=world, inside=frozenset({FAR}), outside=door, forwards=forwards))
            seen_lyon = door
        world.network.rewrite = chained(*boxes)
        left, right = sides((INSIDE, seen_paris), (FAR, seen_lyon), QUIET)
        left.change(children=(child(local=(f"{INSIDE}/32",), remote=(f"{seen_lyon}/32",), mode=Mode.TRANSPORT),))
        right.change(children=(child(local=(f"{FAR}/32",), remote=(f"{seen_paris}/32",), mode=Mode.TRANSPORT),))
        paris, lyon = world.host("paris", INSIDE), world.host("lyon", FAR)
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon)), (paris.reports, lyon.reports)
        for rekeyed in (None, paris, lyon):
            if rekeyed is not None:
                rekeyed.do(rekeyed.engine.rekey_child, rekeyed.status().id)
            world.run(3)
            for end, outer, original in (
                (paris, (seen_lyon, INSIDE), (FAR, seen_paris)),
                (lyon, (seen_paris, FAR), (INSIDE, seen_lyon)),
            ):
                (inbound,) = [each for each in end.data_plane.sas.values() if each.direction is Direction.IN]
                assert (inbound.mode, inbound.source, inbound.destination) == (Mode.TRANSPORT, *outer)
                assert inbound.original == OriginalAddresses(source=original[0], destination=original[1])
                between = {f"{outer[0]}/32", f"{outer[1]}/32"}
                for policy in end.data_plane.policies:
                    assert {policy.selector.source, policy.selector.destination} == between
        assert paris.codes()["child.rekeyed"] == lyon.codes()["child.rekeyed"] == 2

    @pytest.mark.parametrize("protocol", [0, 6])
    @pytest.mark.parametrize("driver", ["kernel", "userspace"])
    def test_not_with_a_second_host_behind_one_nat(self, driver: str, protocol: int) -> None:
        """Its packets would have the first one's addresses, whichever of them its selectors are for."""
        world = World()
        world.network.rewrite = NatBox(world=world, inside=frozenset({INSIDE, "10.0.0.6"}), outside=OUTSIDE)
        there = child(local=(f"{FAR}/32",), remote=(f"{OUTSIDE}/32",), mode=Mode.TRANSPORT)
        left, right = sides((INSIDE, OUTSIDE), (FAR, FAR), QUIET)
        left.change(children=(self.HOSTS,))
        right.change(children=(there,))
        more, theirs = sides(("10.0.0.6", OUTSIDE), (FAR, FAR), QUIET)
        nice = Endpoint(address="10.0.0.6", identity=NICE)
        typed = tuple(TrafficSelector(network=each.network, protocol=protocol) for each in self.HOSTS.remote_ts)
        own = (TrafficSelector(network="10.0.0.6/32", protocol=protocol),)
        more.change(local=nice, children=(replace(self.HOSTS, local_ts=own, remote_ts=typed),))
        theirs.change(id=str(uuid.UUID(int=7)), name="nice", remote=replace(nice, address=OUTSIDE), children=(there,))
        right.tunnels += theirs.tunnels
        right.keys = left.keys = more.keys = [key(b"a shared secret of all")]
        first, second, lyon = world.host("paris", INSIDE), world.host("nice", "10.0.0.6"), world.host("lyon", FAR)
        lyon.engine.hub.features = Features(driver=driver, available=True, reason="")
        lyon.configure(right.document())
        first.configure(left.document())
        assert world.run(5, up(first)), (first.reports, lyon.reports)
        second.configure(more.document())
        world.run(5)
        (report,) = [each for each in lyon.reports if each.code == "child.transport-nat"][:1]
        assert (report.received, report.field) == (f"{OUTSIDE}, which is 10.0.0.6 there", "children.mode")
        assert "tunnel paris-lyon" in report.message
        assert second.data_plane.sas == {}
        assert len(lyon.data_plane.sas) == 2
        first.configure(replace(left.document(), tunnels=()))
        assert world.run(120, up(second)), "it may when the first one is gone"

    def test_ends_where_the_peer_has_another_address(self) -> None:
        """Another port is followed; another address is not the one that the child protects."""
        world, paris, lyon = self._meet("paris")
        old = set(lyon.data_plane.sas)
        where: dict[str, Any] = {"local_port": 20_001}

        def through(transmit: Transmit) -> Transmit | None:
            if transmit.path.local_address == INSIDE:
                return replace(transmit, path=replace(transmit.path, **where))
            return replace(transmit, path=replace(transmit.path, remote_address=INSIDE, remote_port=4500))

        world.network.rewrite = through
        paris.do(paris.engine.rekey_ike, paris.status().id)
        world.run(3)
        assert set(lyon.data_plane.sas) == old
        assert ports_out(lyon) == UdpEncapsulation(source_port=4500, destination_port=20_001)
        where["local_address"] = OUTSIDE
        paris.do(paris.engine.rekey_ike, paris.status().id)
        world.run(3)
        assert not old & set(lyon.data_plane.sas)
        assert all(OUTSIDE not in (each.source, each.destination) for each in lyon.data_plane.sas.values())
        assert paris.codes()["child.deleted"] == 1
        assert lyon.codes()["child.ts-unacceptable"] >= 1, "asked for again, it would be between other addresses"
