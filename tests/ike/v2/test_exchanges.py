"""Ladders: each test lets two engines talk over a faultless network and looks at messages, states and data planes."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from agents.contract.config import (
    ConnectionType,
    Endpoint,
    Identity,
    IdentityType,
    IkePolicy,
    IkeProposal,
    IpsecProposal,
    TrafficSelector,
)
from agents.contract.status import TunnelState
from agents.dataplane.base import REQID_BASE, UdpEncapsulation
from agents.ike.errors import LocalError, PeerError
from agents.ike.limits import HalfOpenLimits
from agents.ike.outputs import InstallChild, Path, RemoveChild, SwitchOutbound, Transmit
from agents.ike.v2 import negotiation
from tests.harness.documents import FAST_ESP, FAST_IKE, Side, child, endpoint, key, pair, selectors, tunnel
from tests.harness.world import Host, Network, World, matched, up

Pair = tuple[World, Host, Host, Side, Side]


def meet(world: World | None = None, limits: HalfOpenLimits | None = None, **changes: object) -> Pair:
    world = world or World()
    left, right = pair(**changes)  # type: ignore[arg-type]
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2", limits=limits)
    lyon.configure(right.document())
    paris.configure(left.document())
    return world, paris, lyon, left, right


def established(**changes: object) -> Pair:
    all_ = meet(**changes)  # type: ignore[arg-type]
    world, paris, lyon, *_ = all_
    assert world.run(30, up(paris, lyon)), (paris.status(), lyon.status())
    world.run(0.5 if changes.get("types") is None else 15)  # when both begin at once, one set goes
    assert matched(paris, lyon)
    return all_


def exchanges(world: World) -> list[tuple[str, int]]:
    """Who sent which exchange type, in order."""
    return [(each.sender, each.octets[18]) for each in world.log]


BOTH = (ConnectionType.BOTH, ConnectionType.BOTH)


class TestEstablish:
    def test_four_messages(self) -> None:
        world, paris, lyon, *_ = established()
        assert exchanges(world) == [("paris", 34), ("lyon", 34), ("paris", 35), ("lyon", 35)]
        assert not {code for code in paris.codes() | lyon.codes() if code.startswith("drop.")}
        assert paris.status().ike_sas[0].state == "established"

    @pytest.mark.parametrize(
        "suite",
        [
            IkeProposal(
                encryption="aes-256-cbc", integrity="hmac-sha2-512-256", prf="prf-hmac-sha2-512", group="group-14"
            ),
            IkeProposal(encryption="aes-128-cbc", integrity="hmac-sha1-96", prf="prf-hmac-sha1", group="group-19"),
            IkeProposal(encryption="aes-256-gcm-16", prf="prf-hmac-sha2-384", group="group-20"),
            IkeProposal(encryption="chacha20-poly1305", prf="prf-hmac-sha2-256", group="group-21"),
        ],
        ids=lambda suite: suite.encryption,
    )
    def test_suites(self, suite: IkeProposal) -> None:
        _, paris, _, *_ = established(ike=IkePolicy(proposals=(suite,)))
        assert paris.status().ike_sas[0].group == suite.group

    def test_esp_cbc_has_integrity_keys(self) -> None:
        esp = IpsecProposal(encryption="aes-256-cbc", integrity="hmac-sha2-256-128")
        _, paris, _lyon, *_ = established(children=(child(proposals=(esp,)),))
        spec = next(iter(paris.data_plane.sas.values()))
        assert spec.integrity_key is not None
        assert len(spec.integrity_key) == 32

    def test_ipv6_outside_and_inside(self) -> None:
        world = World()
        left, right = pair(
            paris="2001:db8::1", lyon="2001:db8::2", children=(child(local=("fd00:1::/64",), remote=("fd00:2::/64",)),)
        )
        paris, lyon = world.host("paris", "2001:db8::1"), world.host("lyon", "2001:db8::2")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(10, up(paris, lyon))
        assert matched(paris, lyon)
        assert paris.status().ike_sas[0].local == "[2001:db8::1]:4500"

    def test_all_children_of_a_tunnel(self) -> None:
        children = (child(), child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",)))
        world, paris, _lyon, *_ = established(children=children)
        assert exchanges(world)[4:] == [("paris", 36), ("lyon", 36)]
        reqids = {spec.reqid for spec in paris.data_plane.sas.values()}
        assert reqids == {REQID_BASE + 1, REQID_BASE + 2}

    def test_a_responder_waits_as_idle(self) -> None:
        world = World()
        _, right = pair()
        lyon = world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        world.run(120)
        assert lyon.state is TunnelState.IDLE
        assert world.log == []

    def test_policies_mirror(self) -> None:
        _, paris, lyon, *_ = established()
        assert {(each.direction, each.selector.source) for each in paris.data_plane.policies} == {
            ("out", "10.1.0.0/16"),
            ("in", "10.2.0.0/16"),
        }
        assert {(each.direction, each.selector.source) for each in lyon.data_plane.policies} == {
            ("out", "10.2.0.0/16"),
            ("in", "10.1.0.0/16"),
        }


class TestPskByPair:
    def test_two_tunnels_to_one_address_with_two_keys(self) -> None:
        """10.1.1.1 and 10.1.1.2 on one machine, both to 10.1.1.101, each pair with a PSK of its own."""
        world = World()
        near, far = world.host("near", "10.1.1.1", "10.1.1.2"), world.host("far", "10.1.1.101")
        one, two, hub = endpoint("10.1.1.1"), endpoint("10.1.1.2"), endpoint("10.1.1.101")
        nets = [child(local=(f"172.16.{n}.0/24",), remote=(f"172.17.{n}.0/24",)) for n in (1, 2)]
        both = ConnectionType.BOTH
        near_side = Side(
            name="near",
            tunnels=[
                tunnel(one, hub, name="first", children=(nets[0],), connection_type=both),
                tunnel(two, hub, name="second", children=(nets[1],), connection_type=both),
            ],
            keys=[key(b"key of the first", "10.1.1.1", "10.1.1.101"), key(b"second", "10.1.1.2", "10.1.1.101")],
        )
        back = [replace(each, local_ts=each.remote_ts, remote_ts=each.local_ts) for each in nets]
        waits = ConnectionType.RESPONDER_ONLY
        far_side = Side(
            name="far",
            tunnels=[
                tunnel(hub, one, name="to-first", children=(back[0],), connection_type=waits),
                tunnel(hub, two, name="to-second", children=(back[1],), connection_type=waits),
            ],
            keys=[key(b"second", "10.1.1.101", "10.1.1.2"), key(b"key of the first", "10.1.1.101", "10.1.1.1")],
        )
        far.configure(far_side.document())
        near.configure(near_side.document())
        assert world.run(10, up(near, far))
        assert matched(near, far)
        assert near.codes()["ike.sa-established"] == far.codes()["ike.sa-established"] == 2

    def test_two_tunnels_between_the_same_addresses_by_identity(self) -> None:
        world = World()
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lefts, rights, left_keys, right_keys = [], [], [], []
        for name, secret in (("red", b"red secret"), ("blue", b"blue secret")):
            ours = Identity(type=IdentityType.FQDN, value=f"{name}.paris.example")
            theirs = Identity(type=IdentityType.EMAIL, value=f"{name}@lyon.example")
            number = 1 if name == "red" else 2
            net = child(local=(f"172.16.{number}.0/24",), remote=(f"172.17.{number}.0/24",))
            a, b = Endpoint(address="192.0.2.1", identity=ours), Endpoint(address="192.0.2.2", identity=theirs)
            mirror = replace(net, local_ts=net.remote_ts, remote_ts=net.local_ts)
            lefts.append(tunnel(a, b, name=name, children=(net,), connection_type=ConnectionType.INITIATOR_ONLY))
            rights.append(tunnel(b, a, name=name, children=(mirror,), connection_type=ConnectionType.RESPONDER_ONLY))
            left_keys.append(key(secret, local_identity=ours, remote_identity=theirs))
            right_keys.append(key(secret, local_identity=theirs, remote_identity=ours))
        lyon.configure(Side(name="lyon", tunnels=rights, keys=right_keys).document())
        paris.configure(Side(name="paris", tunnels=lefts, keys=left_keys).document())
        assert world.run(10, up(paris, lyon))
        assert matched(paris, lyon)


class TestRefusals:
    """Each refusal names its code, both values and the document's field on the end that knows."""

    def reason(self, host: Host) -> tuple[str, str | None, str | None, str | None]:
        reason = host.status().reason
        assert reason is not None, host.status()
        return reason.code, reason.received, reason.configured, reason.field

    def meet_differing(self, change: str, value: object, of_child: bool = False) -> Pair:
        world = World()
        left, right = pair()
        if of_child:
            right.change(children=(replace(right.tunnels[0].children[0], **{change: value}),))  # type: ignore[arg-type]
        elif change == "keys":
            right.keys = value  # type: ignore[assignment]
        else:
            right.change(**{change: value})  # type: ignore[arg-type]
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(0.5)
        return world, paris, lyon, left, right

    def test_wrong_psk(self) -> None:
        wrong = [key(b"another secret", "192.0.2.2", "192.0.2.1")]
        _, paris, lyon, *_ = self.meet_differing("keys", wrong)
        assert self.reason(lyon)[0] == "ike.psk-mismatch"
        assert self.reason(paris)[0] == "ike.peer-refused-auth"
        assert paris.data_plane.sas == lyon.data_plane.sas == {}
        assert "another secret" not in repr(lyon.reports) + repr(lyon.status())

    def test_no_psk(self) -> None:
        _, paris, lyon, *_ = self.meet_differing("keys", [])
        assert self.reason(lyon)[0] == "ike.psk-missing"
        assert self.reason(paris)[0] == "ike.peer-refused-auth"

    def test_no_psk_here(self) -> None:
        world = World()
        left, right = pair()
        left.keys = []
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(0.5)
        assert self.reason(paris)[0] == "ike.psk-missing"

    def test_identity_mismatch(self) -> None:
        other = Endpoint(address="192.0.2.1", identity=Identity(type=IdentityType.FQDN, value="paris.example"))
        _, paris, lyon, *_ = self.meet_differing("remote", other)
        assert self.reason(lyon) == (
            "ike.identity-mismatch",
            "ipv4 192.0.2.1",
            "fqdn paris.example",
            "remote.identity",
        )
        assert self.reason(paris)[0] == "ike.peer-refused-auth"

    def test_a_peer_refused_by_its_initiator_is_not_asked_again_at_once(self) -> None:
        """RFC 7296 section 2.21.2: the peer is told, and what it has is deleted; the next attempt waits."""
        world = World()
        left, right = pair()
        someone = Identity(type=IdentityType.FQDN, value="*.example")
        left.change(remote=Endpoint(address="192.0.2.2", identity=someone))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(10)
        assert self.reason(paris)[0] == "ike.identity-mismatch"
        assert 2 <= paris.codes()["ike.initiate"] <= 6
        assert not lyon.status().ike_sas

    def test_no_ike_proposal(self) -> None:
        ike = IkePolicy(proposals=(replace(FAST_IKE, encryption="aes-256-gcm-16"),))
        _, paris, lyon, *_ = self.meet_differing("ike", ike)
        code, received, configured, field = self.reason(lyon)
        assert code == "ike.no-proposal"
        assert received == "aes-128-gcm-16 prf-hmac-sha2-256 group-31"
        assert configured == "aes-256-gcm-16 prf-hmac-sha2-256 group-31"
        assert field == "ike.proposals"
        (report,) = [each for each in lyon.reports if each.code == "ike.no-proposal"]
        assert report.tunnel_id == lyon.status().id
        assert self.reason(paris)[0] == "ike.peer-refused-proposal"

    def test_no_esp_proposal_leaves_the_ike_sa(self) -> None:
        esp = (IpsecProposal(encryption="aes-256-gcm-16"),)
        _, paris, lyon, *_ = self.meet_differing("proposals", esp, of_child=True)
        assert self.reason(lyon)[:3] == ("child.encryption-mismatch", "chacha20-poly1305 no-esn", "aes-256-gcm-16")
        assert self.reason(paris)[0] == "child.peer-refused-proposal"
        assert paris.status().ike_sas[0].state == "established"

    def test_traffic_selectors_unacceptable(self) -> None:
        _, paris, lyon, *_ = self.meet_differing("remote_ts", selectors("172.16.0.0/12"), of_child=True)
        assert self.reason(lyon) == (
            "child.ts-unacceptable",
            "10.2.0.0/16 = 10.1.0.0/16",
            "10.2.0.0/16 = 172.16.0.0/12",
            "children.local_ts",
        )
        assert self.reason(paris)[0] == "child.peer-refused-ts"

    def test_a_stranger_gets_a_short_answer_and_no_state(self) -> None:
        world = World()
        left, right = pair()
        right.change(remote=endpoint("192.0.2.77"))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(0.5)
        assert lyon.codes()["ike.no-tunnel"] == 1
        assert len(world.log[1].octets) < len(world.log[0].octets)
        assert self.reason(paris)[0] == "ike.peer-refused-proposal"

    def test_it_comes_up_once_mended(self) -> None:
        wrong = [key(b"another secret", "192.0.2.2", "192.0.2.1")]
        world, paris, lyon, _left, right = self.meet_differing("keys", wrong)
        right.keys = [key(b"a shared secret of both", "192.0.2.2", "192.0.2.1")]
        lyon.configure(right.document())
        assert world.run(60, up(paris, lyon))
        assert paris.status().reason is None

    def test_nothing_is_left_of_failures(self) -> None:
        wrong = [key(b"another secret", "192.0.2.2", "192.0.2.1")]
        world, paris, lyon, left, _right = self.meet_differing("keys", wrong)
        left.change(enabled=False)
        world.run(5)
        paris.configure(left.document())
        world.run(120)
        for host in (paris, lyon):
            assert host.engine.v2.sas == {}
            assert host.engine.hub.esp_spis == set()
            assert not host.engine.v2.door.half_open
            assert host.engine.v2.door.requests == {}
            assert host.engine.hub.questions.pending() == 0
        assert paris.state is TunnelState.DISABLED


class TestNarrowing:
    def test_the_smaller_network_wins(self) -> None:
        world = World()
        left, right = pair()
        ours = right.tunnels[0].children[0]
        right.change(children=(replace(ours, local_ts=selectors("10.2.7.0/24", "10.2.9.0/24")),))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        assert paris.status().children[0].sas[0].remote_ts == ("10.2.7.0/24", "10.2.9.0/24")
        assert paris.codes()["child.narrowed"] == lyon.codes()["child.narrowed"] == 1
        assert matched(paris, lyon)

    def test_protocol_and_ports(self) -> None:
        world = World()
        left, right = pair()
        web = TrafficSelector(network="10.2.0.0/16", protocol=6, start_port=443, end_port=443)
        right.change(children=(replace(right.tunnels[0].children[0], local_ts=(web,)),))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        policy = next(each for each in paris.data_plane.policies if each.direction == "out")
        assert (policy.selector.protocol, policy.selector.destination_ports) == (6, (443, 443))


class TestBeginAgain:
    def test_cookie(self) -> None:
        #  SA, KE, Ni           -->
        #                       <--  N(COOKIE)
        #  N(COOKIE), SA, KE..  -->
        world, paris, lyon, *_ = established(limits=HalfOpenLimits(cookie_threshold=0))
        assert paris.codes()["ike.cookie-required"] == lyon.codes()["ike.cookie-demanded"] == 1
        assert len(world.log[1].octets) <= len(world.log[0].octets)

    def test_a_wrong_cookie_makes_no_state(self) -> None:
        world = World()

        def spoil(transmit: Transmit) -> Transmit:
            octets = bytearray(transmit.datagram)
            if transmit.path.local_address == "192.0.2.1" and octets[16] == 41:
                octets[60] ^= 1
            return replace(transmit, datagram=bytes(octets))

        world.network = Network(rewrite=spoil)
        world, _paris, lyon, *_ = meet(world, limits=HalfOpenLimits(cookie_threshold=0))
        world.run(20)
        assert lyon.codes()["drop.cookie"] > 0
        assert lyon.engine.v2.sas == {}

    def test_another_group(self) -> None:
        world = World()
        groups = [replace(FAST_IKE, group=name) for name in ("group-19", "group-31")]
        left, right = pair(ike=IkePolicy(proposals=tuple(groups)))
        right.change(ike=IkePolicy(proposals=(groups[1],)))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        assert paris.codes()["ike.group-changed"] == 1
        assert paris.status().ike_sas[0].group == "group-31"
        assert matched(paris, lyon)

    def test_a_group_that_is_not_configured_is_not_taken(self) -> None:
        world = World()

        def other_group(transmit: Transmit) -> Transmit:
            octets = transmit.datagram
            if transmit.path.local_address == "192.0.2.2":
                octets = bytes.fromhex(
                    octets[:8].hex() + "00" * 8 + "29202220" + "00000000" + "00000026" + "0000000a000000110002"
                )
            return replace(transmit, datagram=octets)

        world.network = Network(rewrite=other_group)
        world, paris, *_ = meet(world)
        world.run(0.5)
        reason = paris.status().reason
        assert reason is not None
        assert (reason.code, reason.configured) == ("ike.no-proposal", "group-31")


class TestNat:
    def nat(self, transmit: Transmit) -> Transmit:
        """A NAT in front of paris: 198.51.100.9, other ports."""
        path = transmit.path
        if path.local_address == "10.0.0.5":
            outside = replace(path, local_address="198.51.100.9", local_port=path.local_port + 20_000)
        elif path.remote_address == "198.51.100.9":
            outside = replace(path, remote_address="10.0.0.5", remote_port=path.remote_port - 20_000)
        else:
            return transmit
        return replace(transmit, path=outside)

    def behind_nat(self, **changes: object) -> Pair:
        world = World(network=Network(rewrite=self.nat))
        identity = Identity(type=IdentityType.FQDN, value="paris.example")
        left, right = pair(paris="10.0.0.5", **changes)  # type: ignore[arg-type]
        left.change(local=Endpoint(address="10.0.0.5", identity=identity))
        right.change(remote=Endpoint(address="198.51.100.9", identity=identity))
        right.keys = [key(b"a shared secret of both", "192.0.2.2", "198.51.100.9")]
        paris, lyon = world.host("paris", "10.0.0.5"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon)), (paris.status(), lyon.status())
        return world, paris, lyon, left, right

    def test_found_and_moved_to_4500(self) -> None:
        world, paris, lyon, *_ = self.behind_nat()
        assert [(each.path.local_port, each.path.remote_port) for each in world.log if each.sender == "paris"] == [
            (500, 500),
            (4500, 4500),
        ]
        ours, theirs = paris.status().ike_sas[0], lyon.status().ike_sas[0]
        assert (ours.nat_local, ours.nat_remote) == (True, False)
        assert (theirs.nat_local, theirs.nat_remote) == (False, True)
        assert theirs.remote == "198.51.100.9:24500"
        out = lyon.data_plane.outbound(REQID_BASE + 1)
        assert out is not None
        assert out.encapsulation == UdpEncapsulation(source_port=4500, destination_port=24500)

    def test_the_peer_moves(self) -> None:
        world, _paris, lyon, *_ = self.behind_nat(ike=IkePolicy(proposals=(FAST_IKE,), mobike=False))
        spi_in = int(lyon.status().children[0].sas[0].spi_in, 16)
        tunnel_id = lyon.status().id
        lyon.do(lyon.engine.peer_moved, tunnel_id, spi_in, "198.51.100.9", 31_000)
        out = lyon.data_plane.outbound(REQID_BASE + 1)
        assert out is not None
        assert out.encapsulation == UdpEncapsulation(source_port=4500, destination_port=31_000)
        assert lyon.status().ike_sas[0].remote == "198.51.100.9:31000"
        assert world.run(1)

    def test_without_nat_the_peer_does_not_move(self) -> None:
        _, _paris, lyon, *_ = established()
        spi_in = int(lyon.status().children[0].sas[0].spi_in, 16)
        lyon.do(lyon.engine.peer_moved, lyon.status().id, spi_in, "203.0.113.66", 4500)
        assert lyon.status().ike_sas[0].remote == "192.0.2.1:4500"

    @pytest.mark.parametrize("whose", ["paris", "lyon"])
    def test_one_end_that_needs_encapsulation_gets_it_at_both(self, whose: str) -> None:
        world = World()
        left, right = pair()
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        (paris if whose == "paris" else lyon).engine.hub.require_udp_encapsulation = True
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        expected = UdpEncapsulation(source_port=4500, destination_port=4500)
        for host in (paris, lyon):
            assert {spec.encapsulation for spec in host.data_plane.sas.values()} == {expected}

    def test_forced_by_the_tunnel(self) -> None:
        _, paris, lyon, *_ = established(force_udp_encapsulation=True)
        assert all(spec.encapsulation for spec in (*paris.data_plane.sas.values(), *lyon.data_plane.sas.values()))


class TestRekeyChild:
    @pytest.mark.parametrize("whose", ["paris", "lyon"])
    def test_by_either_end(self, whose: str) -> None:
        #  SK {N(REKEY_SA), SA, Ni, TSi, TSr} -->
        #                                     <-- SK {SA, Nr, TSi, TSr}
        #  SK {D}                             -->
        #                                     <-- SK {D}
        world, paris, lyon, *_ = established()
        before = set(paris.data_plane.sas)
        starter, other = (paris, lyon) if whose == "paris" else (lyon, paris)
        starter.do(starter.engine.rekey_child, starter.status().id)
        world.run(2)
        assert matched(paris, lyon)
        assert len(paris.data_plane.sas) == 2
        assert not before & set(paris.data_plane.sas)
        assert paris.codes()["child.rekeyed"] == lyon.codes()["child.rekeyed"] == 1
        assert paris.state is lyon.state is TunnelState.UP
        assert [type(each) for each in other.data_plane.history[1:]] == [InstallChild, SwitchOutbound, RemoveChild]
        removal = other.data_plane.history[-1]
        assert isinstance(removal, RemoveChild)
        assert removal.policies == ()
        assert len(paris.data_plane.policies) == 2

    def test_by_time_and_traffic_goes_on(self) -> None:
        world, paris, lyon, *_ = established(children=(child(lifetime_s=100),))
        states = set()
        for _ in range(40):
            world.run(10)
            states |= {paris.state, lyon.state}
        assert states == {TunnelState.UP}
        assert paris.codes()["child.rekeyed"] >= 4
        assert matched(paris, lyon)
        assert not {code for code in paris.codes() if code.startswith(("drop.", "ike.bug"))}

    def test_by_octets(self) -> None:
        world, paris, lyon, *_ = established(children=(child(lifetime_bytes=1_000_000),))
        spec = next(spec for spec in paris.data_plane.sas.values() if spec.direction == "in")
        assert 800_000 <= spec.limits.soft_bytes < spec.limits.hard_bytes == 1_000_000
        paris.do(paris.engine.sa_expired, spec.tunnel_id, spec.spi, False)
        world.run(2)
        assert paris.codes()["child.rekeyed"] == 1
        assert matched(paris, lyon)

    def test_hard_limit_makes_a_new_child(self) -> None:
        world, paris, lyon, *_ = established()
        spec = next(spec for spec in paris.data_plane.sas.values() if spec.direction == "in")
        paris.do(paris.engine.sa_expired, spec.tunnel_id, spec.spi, True)
        assert world.run(10, lambda: up(paris, lyon)() and spec.id not in paris.data_plane.sas)
        assert matched(paris, lyon)

    def test_pfs(self) -> None:
        world, paris, lyon, *_ = established(children=(child(pfs_groups=("group-31", "group-19")),))
        paris.do(paris.engine.rekey_child, paris.status().id)
        world.run(2)
        assert paris.status().children[0].sas[0].group == "group-31"
        assert matched(paris, lyon)

    def test_pfs_with_another_first_group(self) -> None:
        world, paris, lyon, _left, right = established(children=(child(pfs_groups=("group-19", "group-31")),))
        right.change(children=(replace(right.tunnels[0].children[0], pfs_groups=("group-31",)),))
        lyon.configure(right.document())
        world.run(3)
        paris.do(paris.engine.rekey_child, paris.status().id)
        world.run(3)
        assert paris.codes()["ike.group-changed"] == 1
        assert paris.status().children[0].sas[0].group == "group-31"
        assert matched(paris, lyon)

    def test_pfs_mismatch_is_named_and_the_old_sa_stays(self) -> None:
        world, paris, lyon, left, _right = established()
        left.change(children=(replace(left.tunnels[0].children[0], pfs_groups=("group-31",)),))
        paris.configure(left.document())
        world.run(2)
        assert lyon.codes()["child.pfs-mismatch"] == 1
        assert paris.state is TunnelState.UP
        assert matched(paris, lyon)

    def test_both_at_once(self) -> None:
        for seed in range(20):
            world, paris, lyon, *_ = established(world=World(seed))
            paris.do(paris.engine.rekey_child, paris.status().id)
            lyon.do(lyon.engine.rekey_child, lyon.status().id)
            world.run(5)
            assert matched(paris, lyon), seed
            assert len(paris.data_plane.sas) == 2, seed
            assert paris.state is lyon.state is TunnelState.UP
            assert paris.codes()["ike.simultaneous"] == 1


class TestRekeyIke:
    @pytest.mark.parametrize("whose", ["paris", "lyon"])
    def test_by_either_end(self, whose: str) -> None:
        world, paris, lyon, *_ = established()
        sas = dict(paris.data_plane.sas)
        before = paris.status().ike_sas[0]
        starter = paris if whose == "paris" else lyon
        starter.do(starter.engine.rekey_ike, starter.status().id)
        world.run(2)
        (now,) = paris.status().ike_sas
        (theirs,) = lyon.status().ike_sas
        assert (now.spi_i, now.spi_r) != (before.spi_i, before.spi_r)
        assert (now.spi_i, now.spi_r) == (theirs.spi_i, theirs.spi_r)
        assert now.initiator == (whose == "paris")
        assert paris.data_plane.sas == sas
        paris.do(paris.engine.rekey_child, paris.status().id)
        lyon.do(lyon.engine.rekey_ike, lyon.status().id)
        world.run(10)
        assert matched(paris, lyon)
        assert paris.state is lyon.state is TunnelState.UP

    def test_both_at_once(self) -> None:
        for seed in range(20):
            world, paris, lyon, *_ = established(world=World(seed))
            paris.do(paris.engine.rekey_ike, paris.status().id)
            lyon.do(lyon.engine.rekey_ike, lyon.status().id)
            world.run(200)
            (ours,), (theirs,) = paris.status().ike_sas, lyon.status().ike_sas
            assert (ours.spi_i, ours.spi_r) == (theirs.spi_i, theirs.spi_r)
            assert matched(paris, lyon)
            assert len(paris.engine.v2.sas) == len(lyon.engine.v2.sas) == 1
            lyon.do(lyon.engine.rekey_child, lyon.status().id)
            world.run(5)
            assert matched(paris, lyon)

    def test_by_time(self) -> None:
        world, paris, lyon, *_ = established(ike=IkePolicy(proposals=(FAST_IKE,), lifetime_s=100))
        world.run(1_000)
        assert paris.codes()["ike.sa-rekeyed"] >= 9
        assert paris.codes()["ike.sa-established"] == 1
        assert matched(paris, lyon)

    def test_crossing_with_a_child_rekey_waits(self) -> None:
        world, paris, lyon, *_ = established()
        paris.do(paris.engine.rekey_ike, paris.status().id)
        lyon.do(lyon.engine.rekey_child, lyon.status().id)
        world.run(30)
        assert paris.codes()["ike.sa-rekeyed"] == 1
        assert lyon.codes()["child.rekeyed"] == 1
        assert matched(paris, lyon)


class TestDelete:
    @pytest.mark.parametrize("whose", ["paris", "lyon"])
    def test_terminate_holds_the_tunnel_down(self, whose: str) -> None:
        world, paris, lyon, *_ = established(types=BOTH)
        starter, other = (paris, lyon) if whose == "paris" else (lyon, paris)
        starter.do(starter.engine.terminate, starter.status().id)
        world.run(60)
        assert starter.state is TunnelState.DOWN
        assert paris.data_plane.sas == lyon.data_plane.sas == {}
        assert paris.data_plane.policies == lyon.data_plane.policies == []
        assert other.state in (TunnelState.DOWN, TunnelState.NEGOTIATING)
        starter.do(starter.engine.initiate, starter.status().id)
        assert world.run(10, up(paris, lyon))
        assert matched(paris, lyon)

    @pytest.mark.parametrize("whose", ["paris", "lyon"])
    def test_clear_ike_comes_back(self, whose: str) -> None:
        world, paris, lyon, *_ = established(types=BOTH)
        starter = paris if whose == "paris" else lyon
        old = set(paris.data_plane.sas)
        starter.do(starter.engine.clear_ike, starter.status().id)
        world.run(30)
        assert up(paris, lyon)()
        assert matched(paris, lyon)
        assert not old & set(paris.data_plane.sas)
        assert len(paris.status().ike_sas) == 1

    @pytest.mark.parametrize("whose", ["paris", "lyon"])
    def test_clear_ipsec_keeps_the_ike_sa(self, whose: str) -> None:
        world, paris, lyon, *_ = established(types=BOTH)
        ike = paris.status().ike_sas
        old = set(paris.data_plane.sas)
        starter = paris if whose == "paris" else lyon
        starter.do(starter.engine.clear_ipsec, starter.status().id)
        world.run(10)
        assert up(paris, lyon)()
        assert matched(paris, lyon)
        assert not old & set(paris.data_plane.sas)
        assert paris.status().ike_sas[0].spi_i == ike[0].spi_i

    def test_both_delete_the_child_at_once(self) -> None:
        world, paris, lyon, *_ = established(types=BOTH)
        paris.do(paris.engine.clear_ipsec, paris.status().id)
        lyon.do(lyon.engine.clear_ipsec, lyon.status().id)
        world.run(10)
        assert up(paris, lyon)()
        assert matched(paris, lyon)

    def test_both_delete_the_ike_sa_at_once(self) -> None:
        world, paris, lyon, *_ = established(types=BOTH)
        paris.do(paris.engine.terminate, paris.status().id)
        lyon.do(lyon.engine.terminate, lyon.status().id)
        world.run(120)
        assert paris.engine.v2.sas == lyon.engine.v2.sas == {}
        assert paris.data_plane.sas == lyon.data_plane.sas == {}

    def test_verbs_on_an_unknown_tunnel(self) -> None:
        _, paris, *_ = established()
        with pytest.raises(LocalError):
            paris.engine.rekey_ike("00000000-0000-0000-0000-000000000000", 0.0)


class TestLiveness:
    def test_quiet_tunnels_are_asked_and_traffic_spares_it(self) -> None:
        policy = IkePolicy(proposals=(FAST_IKE,), dpd_interval_s=10)
        world, paris, lyon, *_ = established(ike=policy)
        world.log.clear()
        for _ in range(10):
            for host in (paris, lyon):
                host.do(host.engine.traffic_seen, host.status().id)
            world.run(9)
        assert world.log == []
        world.run(30)
        assert {exchange for _, exchange in exchanges(world)} == {37}

    def test_a_dead_peer_is_noticed_and_returns(self) -> None:
        policy = IkePolicy(proposals=(FAST_IKE,), dpd_interval_s=10)
        world, paris, lyon, _left, right = established(ike=policy)
        world.network.loss = 1.0
        world.restart(lyon)
        world.run(80)
        assert paris.codes()["ike.dpd-failed"] == 1
        assert paris.data_plane.sas == {}
        reason = paris.status().reason
        assert reason is not None
        world.network.loss = 0.0
        lyon.configure(right.document())
        assert world.run(120, up(paris, lyon))
        assert matched(paris, lyon)

    def test_a_peer_that_was_killed_begins_anew_with_initial_contact(self) -> None:
        world, paris, lyon, left, _right = established(types=BOTH)
        world.run(5)
        world.restart(paris)
        paris.configure(left.document())
        assert world.run(5, lambda: matched(paris, lyon) and up(paris, lyon)())
        assert lyon.codes()["ike.initial-contact"] == 1
        assert len(lyon.status().ike_sas) == 1

    def test_an_unanswered_request_gives_its_spi_back(self) -> None:
        world = World(network=Network(rewrite=lambda t: None if t.datagram[18] == 35 else t))
        world, paris, *_ = meet(world)
        world.run(42)
        assert paris.engine.hub.esp_spis == set()

    def test_nobody_answers(self) -> None:
        world = World()
        left, _ = pair()
        paris = world.host("paris", "192.0.2.1")
        paris.configure(left.document())
        world.run(200)
        reason = paris.status().reason
        assert reason is not None
        assert reason.code == "ike.peer-unresponsive"
        times = [each.at for each in world.log[:6]]
        gaps = [round(later - earlier, 2) for earlier, later in itertools.pairwise(times)]
        assert gaps == [1.0, 1.8, 3.24, 5.83, 10.5]


class TestSimultaneous:
    def test_both_ends_initiate_and_one_set_stays(self) -> None:
        for seed in range(40):
            world = World(seed, Network(delay_s=(0.01, 0.4)))
            world, paris, lyon, *_ = meet(world, types=BOTH)
            world.run(60)
            assert up(paris, lyon)()
            (ours,), (theirs,) = paris.status().ike_sas, lyon.status().ike_sas
            assert (ours.spi_i, ours.spi_r) == (theirs.spi_i, theirs.spi_r), seed
            assert matched(paris, lyon), seed
            assert len(paris.data_plane.sas) == 2
            assert len(paris.data_plane.policies) == 2
            world.run(60)
            assert len(paris.engine.v2.sas) == len(lyon.engine.v2.sas) == 1


class TestDataPlane:
    @pytest.mark.parametrize("whose", ["paris", "lyon"])
    def test_a_refused_install_is_named_and_tried_again(self, whose: str) -> None:
        world = World()
        left, right = pair(types=BOTH)
        right.change(connection_type=ConnectionType.RESPONDER_ONLY)
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        broken = paris if whose == "paris" else lyon
        broken.data_plane.refuse = "Operation not supported"
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(3)
        reason = broken.status().reason
        assert reason is not None
        assert reason.code == "child.install-failed"
        assert "Operation not supported" in reason.message
        assert paris.data_plane.sas == lyon.data_plane.sas == {}
        broken.data_plane.refuse = None
        assert world.run(120, up(paris, lyon))
        assert matched(paris, lyon)

    def test_a_lost_data_plane_gets_fresh_keys(self) -> None:
        world, paris, lyon, *_ = established(types=BOTH)
        old = {spec.encryption_key for spec in lyon.data_plane.sas.values()}
        paris.data_plane.sas.clear()
        paris.data_plane.policies.clear()
        paris.do(paris.engine.dataplane_lost)
        world.run(10)
        assert up(paris, lyon)()
        assert matched(paris, lyon)
        assert not old & {spec.encryption_key for spec in lyon.data_plane.sas.values()}

    def test_lost_at_the_responder(self) -> None:
        world, paris, lyon, *_ = established()
        lyon.data_plane.sas.clear()
        lyon.do(lyon.engine.dataplane_lost)
        world.run(20)
        assert up(paris, lyon)()
        assert matched(paris, lyon)


class TestChildRefusedLater:
    def test_an_answer_that_is_not_accepted_is_taken_back_at_the_peer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        accept_answer = negotiation.accept_answer

        def refuse(*_: object, **__: object) -> None:
            raise PeerError(0, "child.no-proposal", "not what was offered")

        monkeypatch.setattr(negotiation, "accept_answer", refuse)
        world, paris, lyon, *_ = meet()
        for _ in range(3):  # in IKE_AUTH, then by CREATE_CHILD_SA
            assert world.run(60, lambda: bool(lyon.data_plane.sas))
            assert world.run(0.5, lambda: not lyon.data_plane.sas)
        assert paris.codes()["ike.sa-established"] == 1
        monkeypatch.setattr(negotiation, "accept_answer", accept_answer)
        assert world.run(90, up(paris, lyon))
        assert matched(paris, lyon)

    def test_second_child_of_another_esp(self) -> None:
        world = World()
        left, right = pair(children=(child(), child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",))))
        voice = replace(right.tunnels[0].children[1], proposals=(IpsecProposal(encryption="aes-256-gcm-16"),))
        right.change(children=(right.tunnels[0].children[0], voice))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        world.run(5)
        assert paris.state is lyon.state is TunnelState.PARTLY_UP
        right.change(children=(right.tunnels[0].children[0], replace(voice, proposals=(FAST_ESP,))))
        lyon.configure(right.document())
        assert world.run(60, up(paris, lyon))


def test_path_of_first_answer_from_elsewhere_is_not_believed() -> None:
    world, paris, lyon, *_ = meet()
    answer = world.log[0]
    assert answer.sender == "paris"
    elsewhere = Path(local_address="192.0.2.1", local_port=500, remote_address="203.0.113.5", remote_port=500)
    fake = bytearray(28)
    fake[:8], fake[16:24], fake[24:] = answer.octets[:8], bytes.fromhex("0020222000000000"), (28).to_bytes(4, "big")
    paris.do(lambda now: paris.engine.receive(bytes(fake), elsewhere, now))
    assert paris.codes()["drop.state"] == 1
    assert world.run(5, up(paris, lyon))
