"""What two ends agree on for a child, and what they refuse: protocols, ESN, mode, compression, selectors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.carriage import Attachment, Carriage
from agents.contract.config import (
    Child,
    ConnectionType,
    Endpoint,
    Identity,
    IdentityType,
    IpsecProposal,
    Mode,
    SequenceNumbers,
    TrafficSelector,
)
from agents.contract.status import TunnelState
from agents.dataplane.base import Direction, Features, SaProtocol, SaSpec
from agents.ike import proposals, selectors
from agents.ike.v2 import request, slots
from agents.ike.v2.sa import IkeSa
from agents.ike.v2.tasks import first
from agents.ike.v2.tasks.base import Task
from agents.ike.wire.message import Message
from agents.ike.wire.payloads import Nonce, Notify, Payload, SecurityAssociation, SelectorRange, TsI, TsR
from agents.ike.wire.registry import Exchange, NotifyType, Protocol, TransformType
from tests.harness.documents import FAST_ESP, Side, child, endpoint, key, mirrored, pair, tunnel
from tests.harness.nat import NatBox
from tests.harness.world import Host, World, matched, up

AH = IpsecProposal(ah_integrity="hmac-sha2-256-128")
BUNDLE = IpsecProposal(encryption="aes-128-cbc", integrity="hmac-sha1-96", ah_integrity="hmac-sha2-512-256")
TRANSPORT = child(local=("192.0.2.1/32",), remote=("192.0.2.2/32",), mode=Mode.TRANSPORT)

Meeting = tuple[World, Host, Host]


def meet(ours: Child | tuple[Child, ...], theirs: Child | tuple[Child, ...] | None = None) -> Meeting:
    """Let both ends talk for some seconds; ``theirs`` as lyon sees them, by default the mirror of ours."""
    world = World()
    left, right = pair(children=ours if isinstance(ours, tuple) else (ours,))
    if theirs is not None:
        right.change(children=theirs if isinstance(theirs, tuple) else (theirs,))
    paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
    lyon.configure(right.document())
    paris.configure(left.document())
    world.run(5)
    return world, paris, lyon


def outbound(host: Host) -> SaSpec:
    (spec,) = [each for each in host.data_plane.sas.values() if each.direction is Direction.OUT]
    return spec


def stands(meeting: Meeting) -> None:
    """Up, equal, and still so after a rekey by either end and a removal."""
    world, paris, lyon = meeting
    assert up(paris, lyon)(), (paris.status(), lyon.status())
    assert matched(paris, lyon)
    for host in (paris, lyon):
        before = set(host.data_plane.sas)
        host.do(host.engine.rekey_child, host.status().id)
        world.run(5)
        assert not before & set(host.data_plane.sas)
        assert matched(paris, lyon)
        assert len(paris.data_plane.sas) == 2 * len(paris.status().children)
    paris.do(paris.engine.terminate, paris.status().id)
    world.run(5)
    for host in (paris, lyon):
        assert host.data_plane.sas == {}
        assert host.data_plane.policies == []
        assert host.engine.hub.esp_spis == host.engine.hub.cpis == set()
        assert host.engine.hub.protected._owners == {}


class Request(Task):
    """A request of any payloads; keeps the answer."""

    exchange = Exchange.CREATE_CHILD_SA

    def __init__(self, payloads: tuple[Payload, ...]) -> None:
        self._payloads = payloads
        self.answer: Message | None = None

    def start(self, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        return self._payloads

    def answered(self, sa: IkeSa, message: Message, now: float) -> None:
        self.answer = message


def ask(world: World, host: Host, payloads: tuple[Payload, ...]) -> Message:
    """Let this host send a CREATE_CHILD_SA of these payloads on its IKE SA; return the answer."""
    (sa,) = host.engine.v2.sas.values()
    task = Request(payloads)
    sa.enqueue(task, world.now)
    world.drain()
    world.run(1)
    assert task.answer is not None
    return task.answer


def request_for(
    config: Child, spi: int = 0x01020304, local: tuple[SelectorRange, ...] = (), remote: tuple[SelectorRange, ...] = ()
) -> tuple[Payload, ...]:
    return (
        proposals.offer_ipsec(config, spi.to_bytes(4, "big"), pfs=True),
        Nonce(data=bytes(32)),
        TsI(selectors=local or selectors.to_ranges(config.local_ts)),
        TsR(selectors=remote or selectors.to_ranges(config.remote_ts)),
    )


class TestProtocols:
    def test_ah(self) -> None:
        meeting = meet(child(proposals=(AH,)))
        spec = outbound(meeting[1])
        assert (spec.encryption, spec.encryption_key) == (None, None)
        assert spec.ah is not None
        assert spec.ah.spi == spec.spi
        assert spec.id.protocol is SaProtocol.AH
        assert {each.protocols for each in meeting[1].data_plane.policies} == {(SaProtocol.AH,)}
        assert meeting[1].status().children[0].sas[0].ah_integrity == "hmac-sha2-256-128"
        stands(meeting)

    def test_esp_inside_ah(self) -> None:
        """Two proposals of one number (RFC 4306 section 3.3.1); each end deletes both SAs of the pair together."""
        meeting = meet(child(proposals=(BUNDLE,)))
        spec = outbound(meeting[1])
        assert spec.ah is not None
        assert spec.ah.integrity == "hmac-sha2-512-256"
        assert (spec.encryption, spec.integrity, spec.id.protocol) == ("aes-128-cbc", "hmac-sha1-96", SaProtocol.ESP)
        assert spec.ah.key not in (spec.integrity_key, spec.encryption_key)
        protocols = (SaProtocol.ESP, SaProtocol.AH)
        assert {each.protocols for each in meeting[2].data_plane.policies} == {protocols}
        stands(meeting)

    @pytest.mark.parametrize(("ours", "theirs"), [(BUNDLE, FAST_ESP), (FAST_ESP, BUNDLE), (AH, BUNDLE), (BUNDLE, AH)])
    def test_a_bundle_is_taken_only_where_it_is_configured(self, ours: IpsecProposal, theirs: IpsecProposal) -> None:
        alone = replace(BUNDLE, ah_integrity=None) if theirs is FAST_ESP else theirs
        _, _paris, lyon = meet(child(proposals=(ours,)), mirrored(child(proposals=(alone,))))
        assert lyon.codes()["child.protocols-mismatch"]
        assert lyon.data_plane.sas == {}

    def test_the_first_that_both_have(self) -> None:
        _, paris, _ = meet(child(proposals=(BUNDLE, AH, FAST_ESP)), mirrored(child(proposals=(FAST_ESP, AH))))
        assert outbound(paris).encryption == "chacha20-poly1305"

    @pytest.mark.parametrize("whose", ["paris", "lyon"])
    def test_what_the_data_plane_cannot_is_left_out(self, whose: str) -> None:
        world = World()
        cbc = IpsecProposal(encryption="camellia-128-cbc", integrity="hmac-sha1-96")
        left, right = pair(children=(child(proposals=(AH, cbc, FAST_ESP)),))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        (paris if whose == "paris" else lyon).engine.hub.features = Features(
            driver="userspace", available=True, reason="", encryptions=frozenset({"chacha20-poly1305"})
        )
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        assert outbound(paris).encryption == "chacha20-poly1305"

    def test_a_fixed_key_has_no_length_and_one_with_it_is_not_taken(self) -> None:
        """RFC 7296 section 3.3.5."""
        offer = proposals.offer_ipsec(child(), b"\1\2\3\4", pfs=False)
        (cipher,) = offer.proposals[0].of_type(TransformType.ENCR)
        assert cipher.key_length is None
        longer = replace(
            offer.proposals[0],
            transforms=(replace(cipher, key_length=256), *offer.proposals[0].transforms[1:]),
        )
        assert proposals.choose_ipsec(child(), SecurityAssociation(proposals=(longer,)), pfs=False) is None


class TestSequenceNumbers:
    @pytest.mark.parametrize(
        ("ours", "theirs", "agreed"),
        [
            ("normal", "normal", False),
            ("normal", "prefer-extended", False),
            ("prefer-extended", "normal", False),
            ("prefer-extended", "prefer-extended", True),
            ("prefer-extended", "extended", True),
            ("extended", "extended", True),
            ("extended", "normal", None),
            ("normal", "extended", None),
        ],
    )
    def test_agreeing(self, ours: str, theirs: str, agreed: bool | None) -> None:
        meeting = meet(
            child(sequence_numbers=SequenceNumbers(ours)), mirrored(child(sequence_numbers=SequenceNumbers(theirs)))
        )
        _, paris, lyon = meeting
        if agreed is None:
            (report,) = [each for each in lyon.reports if each.code == "child.esn-mismatch"][:1]
            assert report.field == "children.sequence_numbers"
            return
        assert outbound(paris).extended_sequence_numbers is agreed
        assert paris.status().children[0].sas[0].esn is agreed
        stands(meeting)

    @pytest.mark.parametrize(("extended", "configured", "most"), [
        (False, 0, 2**32 - 1), (False, 2**40, 2**32 - 1), (False, 1_000, 1_000), (True, 0, 0), (True, 2**40, 2**40),
    ])  # fmt: skip
    def test_short_ones_do_not_begin_again(self, extended: bool, configured: int, most: int) -> None:
        """RFC 4303 section 3.3.3: a new SA is there before 2^32 packets were sent."""
        numbers = SequenceNumbers.EXTENDED if extended else SequenceNumbers.NORMAL
        _, paris, _ = meet(child(sequence_numbers=numbers, lifetime_packets=configured))
        limits = outbound(paris).limits
        assert limits.hard_packets == most
        assert limits.soft_packets < most or not most

    def test_only_preferred_is_left_out_where_the_data_plane_cannot(self) -> None:
        world = World()
        left, right = pair(children=(child(sequence_numbers=SequenceNumbers.PREFER_EXTENDED, ipcomp=True),))
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        paris.engine.hub.features = Features(driver="kernel", available=True, reason="")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        assert not outbound(paris).extended_sequence_numbers
        assert outbound(paris).compression_cpi is None


class TestMode:
    def test_transport(self) -> None:
        meeting = meet(TRANSPORT)
        assert outbound(meeting[1]).mode is Mode.TRANSPORT
        assert {each.mode for each in meeting[2].data_plane.policies} == {Mode.TRANSPORT}
        assert meeting[1].status().children[0].sas[0].mode == "transport"
        stands(meeting)

    def test_transport_is_host_to_host_whatever_networks_are_configured(self) -> None:
        meeting = meet(child(local=("0.0.0.0/0",), remote=("192.0.2.0/24",), mode=Mode.TRANSPORT))
        sa = meeting[1].status().children[0].sas[0]
        assert (sa.local_ts, sa.remote_ts) == (("192.0.2.1/32",), ("192.0.2.2/32",))
        stands(meeting)

    def test_networks_without_the_hosts_are_refused(self) -> None:
        _, paris, lyon = meet(child(mode=Mode.TRANSPORT))
        assert lyon.codes()["child.ts-unacceptable"]
        assert paris.data_plane.sas == lyon.data_plane.sas == {}

    def test_a_responder_for_tunnel_mode_answers_so_and_the_initiator_deletes(self) -> None:
        """RFC 7296 section 1.3.1."""
        _, paris, lyon = meet(TRANSPORT, mirrored(replace(TRANSPORT, mode=Mode.TUNNEL)))
        (report,) = [each for each in lyon.reports if each.code == "child.mode-mismatch"][:1]
        assert (report.received, report.configured, report.field) == ("transport", "tunnel", "children.mode")
        reason = paris.status().reason
        assert reason is not None
        assert (reason.code, reason.field) == ("child.mode-mismatch", "children.mode")
        assert (reason.received, reason.configured) == ("tunnel", "transport")
        assert paris.data_plane.sas == lyon.data_plane.sas == {}
        assert paris.codes()["ike.sa-established"] == 1

    def test_a_responder_for_transport_mode_refuses_tunnel_mode(self) -> None:
        _, paris, lyon = meet(replace(TRANSPORT, mode=Mode.TUNNEL), mirrored(TRANSPORT))
        reason = lyon.status().reason
        assert reason is not None
        assert (reason.code, reason.field) == ("child.mode-mismatch", "children.mode")
        assert paris.codes()["child.peer-refused-proposal"]

    def test_of_two_children_the_one_of_the_mode_asked_for(self) -> None:
        both = (replace(TRANSPORT, mode=Mode.TUNNEL, name="wide"), TRANSPORT)
        _, paris, _ = meet(TRANSPORT, tuple(mirrored(each) for each in both))
        assert outbound(paris).mode is Mode.TRANSPORT


class TestCompression:
    def test_both_ends(self) -> None:
        meeting = meet(child(ipcomp=True))
        _, paris, lyon = meeting
        ours, theirs = outbound(paris), outbound(lyon)
        for spec in (ours, theirs):
            assert spec.compression_cpi is not None
            assert 256 <= spec.compression_cpi <= 61_439
        assert all(each.compressed for each in paris.data_plane.policies)
        assert paris.status().children[0].sas[0].ipcomp
        stands(meeting)

    @pytest.mark.parametrize(("ours", "theirs"), [(True, False), (False, True)])
    def test_a_peer_that_does_not_is_taken(self, ours: bool, theirs: bool) -> None:
        meeting = meet(child(ipcomp=ours), mirrored(child(ipcomp=theirs)))
        assert outbound(meeting[1]).compression_cpi is None
        assert meeting[1].engine.hub.cpis == meeting[2].engine.hub.cpis == set()
        stands(meeting)

    @pytest.mark.parametrize(
        "data", [b"\x01\x00\x01", b"\x01\x00\x03", b"\x00\xff\x02", b"\xf0\x00\x02", b"\x01\x00", b""]
    )
    def test_other_transforms_and_cpis_are_passed_over(self, data: bytes) -> None:
        world, paris, lyon = meet((child(), child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",), ipcomp=True)))
        config = child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",))
        notify = Notify(type=NotifyType.IPCOMP_SUPPORTED, data=data)
        answer = ask(world, paris, (notify, *request_for(config)))
        assert answer.find(SecurityAssociation) is not None
        assert answer.notify(NotifyType.IPCOMP_SUPPORTED) is None
        assert lyon.codes()["ike.bug"] == 0

    def test_an_answer_with_what_was_not_offered_is_taken_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        payloads = request.answer
        extra = Notify(type=NotifyType.IPCOMP_SUPPORTED, data=b"\x01\x00\x02")
        monkeypatch.setattr(first, "child_payloads", lambda *arguments: (extra, *payloads(*arguments)))
        _, paris, lyon = meet(child())
        reason = next(each for each in paris.reports if each.code == "child.no-proposal")
        assert reason.field == "children.ipcomp"
        assert not any(each.compression_cpi for each in lyon.data_plane.sas.values())


class TestSelectors:
    def ranges(self, network: str, protocol: int = 0, ports: tuple[int, int] = (0, 65535)) -> SelectorRange:
        base = selectors.to_range(TrafficSelector(network=network))
        return replace(base, protocol=protocol, start_port=ports[0], end_port=ports[1])

    def test_the_packet_that_asked_for_it_goes_first(self) -> None:
        """RFC 7296 section 2.9: the first selector is the packet's own; nothing is narrowed by it."""
        voice = child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",))
        world, paris, lyon = meet(child(), (mirrored(child()), mirrored(voice)))
        answer = ask(
            world,
            paris,
            request_for(
                voice,
                local=(self.ranges("10.9.0.7/32", 17, (5060, 5060)), self.ranges("10.9.0.0/24")),
                remote=(self.ranges("10.8.0.9/32", 17, (5060, 5060)), self.ranges("10.8.0.0/24")),
            ),
        )
        ts_i = answer.find(TsI)
        assert ts_i is not None
        assert ts_i.selectors == (self.ranges("10.9.0.0/24"),)
        assert lyon.codes()["child.narrowed"] == 0

    def test_icmp_by_type_and_code(self) -> None:
        """Type in the upper octet of the port fields, code in the lower (section 3.13.1)."""
        echo = TrafficSelector(network="10.1.0.0/16", protocol=1, start_port=0x0800, end_port=0x08FF)
        ours = replace(child(), local_ts=(echo,))
        meeting = meet(ours, mirrored(child()))
        assert meeting[1].status().children[0].sas[0].local_ts == ("10.1.0.0/16[1/type 8 code 0-8 code 255]",)
        stands(meeting)

    def test_opaque_ports_are_passed_over(self) -> None:
        voice = child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",))
        world, paris, _lyon = meet(child(), (mirrored(child()), mirrored(voice)))
        opaque = self.ranges("10.9.0.0/24", 17, selectors.OPAQUE)
        answer = ask(world, paris, request_for(voice, local=(opaque,)))
        assert answer.notify(NotifyType.TS_UNACCEPTABLE) is not None
        answer = ask(world, paris, request_for(voice, local=(opaque, self.ranges("10.9.0.0/24", 6))))
        ts_i = answer.find(TsI)
        assert ts_i is not None
        assert ts_i.selectors == (self.ranges("10.9.0.0/24", 6),)

    def test_more_is_possible_in_another_child(self) -> None:
        voice = child("voice", ("10.9.0.0/24",), ("10.2.0.0/16",))
        world, paris, _lyon = meet(child(), (mirrored(child()), mirrored(voice)))
        both = (self.ranges("10.9.0.0/24"), self.ranges("10.1.0.0/16"))
        answer = ask(world, paris, request_for(voice, local=both))
        assert answer.notify(NotifyType.ADDITIONAL_TS_POSSIBLE) is not None
        answer = ask(world, paris, request_for(voice, local=(self.ranges("10.9.0.0/24"),)))
        assert answer.notify(NotifyType.ADDITIONAL_TS_POSSIBLE) is None

    def test_the_rest_is_asked_for_when_more_is_possible(self) -> None:
        """Lyon has as two children what paris has as one."""
        wide = child(local=("10.1.0.0/16", "10.9.0.0/24"))
        _, paris, lyon = meet(wide, (mirrored(child()), mirrored(child("voice", ("10.9.0.0/24",), ("10.2.0.0/16",)))))
        found = {each.local_ts for each in paris.status().children[0].sas}
        assert found == {("10.1.0.0/16",), ("10.9.0.0/24",)}
        assert up(paris, lyon)()
        assert matched(paris, lyon)
        assert len({each.reqid for each in paris.data_plane.sas.values()}) == 2

    def test_one_child_per_pair_where_the_peer_wants_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """SINGLE_PAIR_REQUIRED: the peer takes one pair of selectors per SA."""
        from agents.ike.errors import PeerError
        from agents.ike.v2 import negotiation

        accept = negotiation.accept_request

        def single(children: object, message: Message, *arguments: object, **more: object) -> object:
            ts_i = message.find(TsI)
            if ts_i is not None and len(ts_i.selectors) > 1:
                raise PeerError(NotifyType.SINGLE_PAIR_REQUIRED, "child.ts-unacceptable", "one pair")
            return accept(children, message, *arguments, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(negotiation, "accept_request", single)
        wide = child(local=("10.1.0.0/16", "10.9.0.0/24"), remote=("10.2.0.0/16",))
        world, paris, lyon = meet(wide)
        assert up(paris, lyon)()
        assert matched(paris, lyon)
        assert len(paris.data_plane.sas) == 4
        paris.do(paris.engine.rekey_child, paris.status().id)
        world.run(10)
        assert matched(paris, lyon)
        assert len(paris.data_plane.sas) == 4
        assert len(paris.data_plane.policies) == 4

    def test_a_peer_may_not_narrow_one_child_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(slots, "MOST_SLOTS", 4)
        world, paris, lyon = meet(child("voice", ("10.9.0.0/24",), ("10.2.0.0/16",)), mirrored(child()))
        for number in range(6):
            local = (self.ranges(f"10.1.{number}.0/24"),)
            answer = ask(world, paris, request_for(child(), spi=0x1000 + number, local=local))
            refused = answer.notify(NotifyType.NO_ADDITIONAL_SAS) is not None
            assert refused == (number >= 4), number
        assert lyon.codes()["child.too-many"] == 2
        outward = [each for each in lyon.data_plane.sas.values() if each.direction is Direction.OUT]
        assert len({each.reqid for each in outward}) == len(outward) == 4

    def test_two_peers_of_one_partial_identity_may_not_take_each_others_traffic(self) -> None:
        """Both are let in by *.example; the second one's child would draw the traffic of the first one's."""
        world = World()
        here, there = "192.0.2.9", "198.51.100.9"
        hub = world.host("hub", here)
        any_of = Endpoint(address=there, identity=Identity(type=IdentityType.FQDN, value="*.example"))
        waits = ConnectionType.RESPONDER_ONLY
        ours = child(local=("10.0.0.0/8",), remote=("172.16.0.0/16",))
        one = tunnel(endpoint(here), any_of, name="branches", children=(ours,), connection_type=waits)
        hub.configure(Side(name="hub", tunnels=[one], keys=[key(b"secret")]).document())
        inside = {"paris": "10.9.9.1", "lyon": "10.9.9.2"}
        world.network.rewrite = NatBox(world=world, inside=frozenset(inside.values()), outside=there)
        for name, address in inside.items():
            host = world.host(name, address)
            end = Endpoint(address=address, identity=Identity(type=IdentityType.FQDN, value=f"{name}.example"))
            theirs = tunnel(
                end, endpoint(here), children=(mirrored(ours),), connection_type=ConnectionType.INITIATOR_ONLY
            )
            host.configure(Side(name=name, tunnels=[theirs], keys=[key(b"secret")]).document())
            world.run(5)
        assert hub.codes()["ike.sa-established"] == 2
        assert hub.codes()["child.selectors-taken"] >= 1
        assert len(hub.data_plane.sas) == 2

    def test_two_tunnels_may_not_protect_the_same_traffic(self) -> None:
        """The second one would take the traffic of the first away, or lose its own."""
        hub = self._hub_of_two(Attachment.SHARED)
        states = [status.state for status in hub.engine.snapshot(hub.world.now)]
        assert states.count(TunnelState.UP) == 1
        assert len(hub.data_plane.sas) == 2
        taken = next(each for each in hub.reports if each.code == "child.selectors-taken")
        assert taken.configured in ("tunnel to-paris", "tunnel to-lyon")

    def test_two_tunnels_with_interfaces_of_their_own_may(self) -> None:
        """There routes choose between them: one stands in for the other (seed 003 section 13)."""
        hub = self._hub_of_two(Attachment.INTERFACE)
        assert [status.state for status in hub.engine.snapshot(hub.world.now)] == [TunnelState.UP] * 2
        assert len(hub.data_plane.sas) == 4

    @staticmethod
    def _hub_of_two(attachment: Attachment) -> Host:
        """Return a gateway with the same traffic in two tunnels, to two peers that have been there for a while."""
        world = World()
        hub = world.host("hub", "192.0.2.9")
        spokes = [world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")]
        same = child(local=("10.0.0.0/8",), remote=("172.16.0.0/16",))
        names = {"192.0.2.1": "to-paris", "192.0.2.2": "to-lyon"}
        hub.configure(
            Side(
                name="hub",
                tunnels=[
                    tunnel(
                        endpoint("192.0.2.9"),
                        endpoint(address),
                        name=name,
                        children=(same,),
                        carriage=Carriage(attachment=attachment),
                    )
                    for address, name in names.items()
                ],
                keys=[key(b"secret")],
            ).document()
        )
        for host in spokes:
            (address,) = host.addresses
            ours = tunnel(endpoint(address), endpoint("192.0.2.9"), name=names[address], children=(mirrored(same),))
            host.configure(Side(name=host.name, tunnels=[ours], keys=[key(b"secret")]).document())
            world.run(20)
        return hub


@pytest.mark.parametrize("number", [NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED, NotifyType.NON_FIRST_FRAGMENTS_ALSO])
def test_what_is_told_for_the_packets_only_is_passed_over(number: int) -> None:
    voice = child("voice", ("10.9.0.0/24",), ("10.8.0.0/24",))
    world, paris, _lyon = meet(child(), (mirrored(child()), mirrored(voice)))
    answer = ask(world, paris, (Notify(type=number), *request_for(voice)))
    assert answer.find(SecurityAssociation) is not None
    assert answer.notify(number) is None


def test_no_additional_sas_leaves_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "MOST_SAS", 0)
    _, paris, lyon = meet(child())
    assert lyon.codes()["child.too-many"]
    assert paris.codes()["ike.sa-established"] == 1
    assert [str(each.state) for each in paris.engine.v2.sas.values()] == ["established"]


def test_a_rekey_of_the_other_protocol_finds_no_child() -> None:
    """REKEY_SA names protocol and SPI; CHILD_SA_NOT_FOUND names both again (section 2.25)."""
    world, paris, lyon = meet(child())
    spi = outbound(lyon).spi.to_bytes(4, "big")
    notify = Notify(type=NotifyType.REKEY_SA, protocol=Protocol.AH, spi=spi)
    answer = ask(world, paris, (notify, *request_for(child())))
    refusal = answer.error()
    assert refusal is not None
    assert refusal.type == NotifyType.CHILD_SA_NOT_FOUND
    assert matched(paris, lyon)
