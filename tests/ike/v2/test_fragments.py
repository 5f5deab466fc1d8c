"""Fragmentation (RFC 7383): messages too long for a packet go out in pieces, and pieces come together again.

::

    initiator                                           responder
    SA, KE, Ni, N(IKEV2_FRAGMENTATION_SUPPORTED)  -->
                                                  <--   SA, KE, Nr, N(IKEV2_FRAGMENTATION_SUPPORTED)
    SKF(1 of 3) {...}, SKF(2 of 3), SKF(3 of 3)   -->   together: SK {IDi, IDr, AUTH, SA, TSi, TSr}
                                                  <--   SKF(1 of 3) {...}, SKF(2 of 3), SKF(3 of 3)
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from agents.contract.config import Child, IkePolicy, IkeProposal
from agents.ike.crypto.errors import IntegrityError
from agents.ike.errors import WireError
from agents.ike.outputs import Path, Transmit
from agents.ike.v2.reassembly import KEEP_S, MOST_MESSAGES, MOST_OCTETS, Reassembly
from agents.ike.wire.fragments import MOST_FRAGMENTS, Fragment, Place, open_fragment, read_place
from agents.ike.wire.header import Header, classify
from agents.ike.wire.message import Inner, encode
from agents.ike.wire.payloads import Notify
from tests.harness.documents import FAST_IKE, child, pair
from tests.harness.entropy import SeededEntropy
from tests.harness.world import Host, Network, World, matched, up

SMALL = IkePolicy(proposals=(FAST_IKE,), fragment_octets=576)
CBC = IkeProposal(encryption="aes-256-cbc", integrity="hmac-sha2-256-128", prf="prf-hmac-sha2-256", group="group-31")


def many_networks(count: int = 60) -> tuple[Child, ...]:
    """A child whose selectors alone are longer than a packet of 576 octets."""
    return (
        child(
            local=[f"10.1.{number}.0/24" for number in range(0, 2 * count, 2)],
            remote=("10.2.0.0/16",),
        ),
    )


def meet(ike: IkePolicy = SMALL, network: Network | None = None, **changes: object) -> tuple[World, Host, Host]:
    world = World(network=network)
    left, right = pair(ike=ike, **{"children": many_networks(), **changes})  # type: ignore[arg-type]
    paris, lyon = (
        world.host("paris", right.tunnels[0].remote.address),
        world.host("lyon", left.tunnels[0].remote.address),
    )
    lyon.configure(right.document())
    paris.configure(left.document())
    return world, paris, lyon


def fragments(world: World, sender: str, exchange: int = 35) -> list[bytes]:
    return [
        each.octets
        for each in world.log
        if each.sender == sender and each.octets[16] == 53 and each.octets[18] == exchange
    ]


class TestBothWays:
    @pytest.mark.parametrize("suite", [FAST_IKE, CBC], ids=["aead", "cbc"])
    def test_ike_auth_in_pieces(self, suite: IkeProposal) -> None:
        world, paris, lyon = meet(replace(SMALL, proposals=(suite,)))
        assert world.run(5, up(paris, lyon))
        assert matched(paris, lyon)
        for sender in ("paris", "lyon"):
            pieces = fragments(world, sender)
            assert len(pieces) >= 2
            assert [read_place(each, classify(each)).number for each in pieces] == list(range(1, len(pieces) + 1))
        assert all(len(each.octets) + 28 <= 576 for each in world.log if each.octets[18] != 34)
        assert all(host.codes()["drop.fragment"] == 0 for host in (paris, lyon))

    def test_a_packet_over_ipv6_is_1280_octets_at_least(self) -> None:
        world, paris, lyon = meet(paris="2001:db8::1", lyon="2001:db8::2", children=many_networks(110))
        assert world.run(5, up(paris, lyon))
        longest = max(len(each) for each in fragments(world, "paris"))
        assert 1_100 < longest + 48 <= 1_280

    def test_the_marker_of_port_4500_counts(self) -> None:
        world, paris, lyon = meet(force_udp_encapsulation=True)
        assert world.run(5, up(paris, lyon))
        longest = max(len(each) for each in fragments(world, "paris"))
        assert 560 <= longest + 28 + 4 <= 576

    def test_off_at_either_end_means_whole_messages(self) -> None:
        for off in (0, 1):
            world = World()
            sides = pair(ike=SMALL, children=many_networks())
            tunnel = sides[off].tunnels[0]
            sides[off].change(ike=replace(tunnel.ike, fragmentation=False))
            paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
            lyon.configure(sides[1].document())
            paris.configure(sides[0].document())
            assert world.run(5, up(paris, lyon))
            assert fragments(world, "paris") == fragments(world, "lyon") == []

    def test_after_an_ike_rekey_messages_are_still_cut(self) -> None:
        world, paris, lyon = meet()
        assert world.run(5, up(paris, lyon))
        paris.do(paris.engine.rekey_ike, paris.status().id)
        world.run(5)
        world.log.clear()
        paris.do(paris.engine.rekey_child, paris.status().id)
        world.run(5)
        assert fragments(world, "paris", 36)
        assert up(paris, lyon)()

    @pytest.mark.parametrize("seed", range(4))
    def test_loss_repetition_and_disorder(self, seed: int) -> None:
        world = World(seed, Network(loss=0.25, duplicates=0.3, delay_s=(0.001, 0.4)))
        left, right = pair(ike=SMALL, children=many_networks())
        paris, lyon = world.host("paris", "192.0.2.1"), world.host("lyon", "192.0.2.2")
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(300, lambda: up(paris, lyon)() and matched(paris, lyon))
        assert paris.codes()["ike.bug"] == lyon.codes()["ike.bug"] == 0


class TestRepetition:
    def test_number_one_again_gets_the_whole_answer_again_others_nothing(self) -> None:
        """RFC 7383 section 2.6.1: only a repetition of fragment number 1 is answered."""
        world, paris, lyon = meet()
        assert world.run(5, up(paris, lyon))
        pieces, answer = fragments(world, "paris"), fragments(world, "lyon")
        path = Path(local_address="192.0.2.2", local_port=500, remote_address="192.0.2.1", remote_port=500)
        since = len(world.log)
        lyon.do(lyon.engine.receive, pieces[1], path)
        assert len(world.log) == since
        lyon.do(lyon.engine.receive, pieces[0], path)
        assert [each.octets for each in world.log[since:]] == answer

    def test_a_message_cut_anew_after_its_answer_gets_the_answer_again(self) -> None:
        """The first answer is lost and the path becomes narrower: the request comes again in other pieces."""
        lost: list[Transmit] = []

        def lose(transmit: Transmit) -> Transmit | None:
            if transmit.datagram[18] == 35 and transmit.path.local_address == "192.0.2.2" and len(lost) < 3:
                lost.append(transmit)
                return None
            return transmit

        world, paris, lyon = meet(replace(SMALL, fragment_octets=900), Network(rewrite=lose))
        assert world.run(2, lambda: bool(lost))
        path = next(iter(paris.engine.v2.sas.values())).path
        before = len(fragments(world, "paris"))
        paris.do(paris.engine.datagram_too_big, path, 576)
        again = fragments(world, "paris")[before:]
        assert len(again) >= 2
        assert all(len(each) + 28 <= 576 for each in again)
        assert world.run(30, up(paris, lyon))
        assert matched(paris, lyon)


class TestPathMtu:
    def test_a_narrower_path_cuts_what_is_outstanding_smaller(self) -> None:
        """RFC 7383 section 2.5.2: every packet above 700 octets is lost and reported to the sender."""

        def narrow(transmit: Transmit) -> Transmit | None:
            return transmit if len(transmit.datagram) + 28 <= 700 else None

        world, paris, lyon = meet(replace(SMALL, fragment_octets=1_400), Network(rewrite=narrow))
        assert not world.run(0.3, up(paris, lyon))
        for host in (paris, lyon):
            sa = next(iter(host.engine.v2.sas.values()))
            host.do(host.engine.datagram_too_big, sa.path, 700)
        assert world.run(2, up(paris, lyon))
        whole = [each for each in world.log if each.sender == "paris" and each.octets[16] == 46]
        assert len(whole[0].octets) + 28 > 700
        assert max(len(each) for each in fragments(world, "paris")) + 28 + 4 == 700  # IP, UDP, marker

    def test_the_answer_is_cut_anew_when_asked_for_again(self) -> None:
        def narrow(transmit: Transmit) -> Transmit | None:
            outbound = transmit.path.local_address == "192.0.2.1"
            return transmit if outbound or len(transmit.datagram) + 28 <= 700 else None

        world, paris, lyon = meet(replace(SMALL, fragment_octets=1_400), Network(rewrite=narrow))
        assert not world.run(0.3, up(paris, lyon))
        sa = next(iter(lyon.engine.v2.sas.values()))
        lyon.do(lyon.engine.datagram_too_big, sa.path, 700)
        assert world.run(10, up(paris, lyon))

    def test_never_below_what_every_host_takes(self) -> None:
        world, paris, lyon = meet(replace(SMALL, fragment_octets=1_400))
        assert world.run(5, up(paris, lyon))
        sa = next(iter(paris.engine.v2.sas.values()))
        paris.do(paris.engine.datagram_too_big, sa.path, 100)
        world.log.clear()
        paris.do(paris.engine.rekey_child, paris.status().id)
        world.run(5)
        assert max(len(each) for each in fragments(world, "paris", 36)) + 28 > 500
        assert up(paris, lyon)()


def header(message_id: int = 1, exchange: int = 35) -> Header:
    return Header(
        spi_i=b"initiate", spi_r=b"responds", next_payload=53, exchange=exchange, flags=8, message_id=message_id
    )


def piece(number: int, total: int, content: bytes = b"content") -> Fragment:
    return Fragment(
        place=Place(number=number, total=total), first=41 if number == 1 else 0, reserved=0, content=content
    )


class TestReassembly:
    """RFC 7383 section 2.6."""

    def add(self, pending: Reassembly, fragment: Fragment, message_id: int = 1, now: float = 0.0) -> Inner | None:
        whole = pending.add(header(message_id), fragment, b"octets %d" % fragment.place.number, now, True)
        if whole is not None:
            assert whole.datagram == b"octets 1"
        return None if whole is None else whole.inner

    def test_in_any_order(self) -> None:
        pending = Reassembly()
        assert self.add(pending, piece(3, 3, b"c")) is None
        assert self.add(pending, piece(1, 3, b"a")) is None
        assert self.add(pending, piece(2, 3, b"b")) == Inner(first=41, reserved=0, chain=b"abc")
        assert pending.until is None

    def test_a_duplicate_is_refused_before_it_is_opened(self) -> None:
        pending = Reassembly()
        self.add(pending, piece(1, 2))
        with pytest.raises(WireError) as caught:
            pending.expects(header(), Place(number=1, total=2))
        assert caught.value.code == "drop.duplicate"

    def test_a_larger_total_begins_again_a_smaller_one_is_late(self) -> None:
        pending = Reassembly()
        self.add(pending, piece(1, 2, b"old"))
        assert self.add(pending, piece(2, 3, b"y")) is None
        with pytest.raises(WireError):
            self.add(pending, piece(2, 2, b"old"))
        assert self.add(pending, piece(1, 3, b"x")) is None
        inner = self.add(pending, piece(3, 3, b"z"))
        assert inner is not None
        assert inner.chain == b"xyz"

    def test_octets_are_bounded_over_all_messages(self) -> None:
        pending = Reassembly()
        for number in (1, 2):
            self.add(pending, piece(number, 3, bytes(MOST_OCTETS // 3)), 1)
        self.add(pending, piece(1, 2, bytes(MOST_OCTETS // 3)), 2)
        with pytest.raises(WireError) as caught:
            self.add(pending, piece(3, 3, bytes(9)), 1)
        assert caught.value.code == "drop.fragment"

    def test_messages_are_bounded(self) -> None:
        pending = Reassembly()
        for message_id in range(MOST_MESSAGES):
            self.add(pending, piece(1, 2), message_id)
        with pytest.raises(WireError):
            self.add(pending, piece(1, 2), MOST_MESSAGES)

    def test_time_is_bounded(self) -> None:
        pending = Reassembly()
        self.add(pending, piece(1, 2), now=5.0)
        assert pending.until == 5.0 + KEEP_S
        pending.forget(5.0 + KEEP_S)
        assert pending.until is None

    def test_a_fragment_of_another_exchange_is_not_mixed_in(self) -> None:
        pending = Reassembly()
        self.add(pending, piece(1, 2, b"old"))
        assert pending.add(header(exchange=37), piece(2, 2), b"", 0.0, True) is None
        assert pending.add(header(exchange=37), piece(1, 2, b"new "), b"", 0.0, True) is not None


class TestCodec:
    def sealed(self) -> tuple[list[bytes], object]:
        world, paris, lyon = meet()
        assert world.run(5, up(paris, lyon))
        sa = next(iter(lyon.engine.v2.sas.values()))
        return fragments(world, "paris"), sa.protection.cipher_in

    def test_the_numbers_are_authentic(self) -> None:
        pieces, cipher = self.sealed()
        for place in (32, 33, 34, 35, 28, 29, 20):
            octets = bytearray(pieces[0])
            octets[place] ^= 1
            with pytest.raises((IntegrityError, WireError)):
                open_fragment(bytes(octets), classify(bytes(octets)), cipher)  # type: ignore[arg-type]

    @pytest.mark.parametrize(("number", "total"), [(0, 2), (3, 2), (1, 0), (1, MOST_FRAGMENTS + 1)])
    def test_numbers_that_cannot_be(self, number: int, total: int) -> None:
        pieces, _ = self.sealed()
        octets = pieces[0][:32] + number.to_bytes(2, "big") + total.to_bytes(2, "big") + pieces[0][36:]
        with pytest.raises(WireError):
            read_place(octets, classify(octets))

    def test_cut_to_the_octet(self) -> None:
        """A fragment is as long as it may be and no longer, whatever the cipher's padding."""
        for suite in (FAST_IKE, CBC):
            world, paris, lyon = meet(replace(SMALL, proposals=(suite,)))
            assert world.run(5, up(paris, lyon))
            protection = next(iter(paris.engine.v2.sas.values())).protection
            inner = encode((Notify(type=16_400, data=bytes(3_000)),))
            for limit in range(500, 520):
                longest = max(map(len, protection.seal_fragments(header(), inner, limit, SeededEntropy(1))))
                assert limit - 16 < longest <= limit
