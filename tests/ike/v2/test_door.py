"""What strangers get to hear (RFC 7296 sections 1.5, 2.5, 2.6, 2.21): little, and never more than they sent.

::

    stranger                                we
    SA, KE, Ni                  -->
                                <--         N(COOKIE)                 under pressure, or when the answer would be longer
    N(COOKIE), SA, KE, Ni       -->
                                <--         N(INVALID_KE_PAYLOAD)     the cookie stays good (2.6.1)
    N(COOKIE), SA, KE', Ni      -->
                                <--         SA, KE', Nr               of any length: the address is proven
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from agents.contract.config import IkePolicy
from agents.ike import proposals
from agents.ike.limits import HalfOpenLimits
from agents.ike.outputs import Path
from agents.ike.wire.header import Header, classify
from agents.ike.wire.message import Message, parse_clear, serialize_clear
from agents.ike.wire.payloads import KeyExchangeData, Nonce, Notify, Opaque, Payload
from agents.ike.wire.registry import NotifyType
from tests.harness.documents import FAST_IKE, pair
from tests.harness.entropy import SeededEntropy
from tests.harness.world import Host, World, up
from tests.ike.v2.test_robustness import forge, give, standing

PATH = Path(local_address="192.0.2.2", local_port=500, remote_address="192.0.2.1", remote_port=500)
POINT = bytes([9, *bytes(31)])
DEMANDING = HalfOpenLimits(cookie_threshold=0)


def responder(limits: HalfOpenLimits | None = None) -> tuple[World, Host]:
    """A responder that waits for a peer nobody plays."""
    world = World()
    _, right = pair()
    lyon = world.host("lyon", "192.0.2.2", limits=limits)
    lyon.configure(right.document())
    return world, lyon


def first(*more: Payload, suite: str = "aes-128-gcm-16", group: int = 31, spi: bytes = b"stranger") -> bytes:
    """As short a first request as there is."""
    offer = proposals.offer_ike((replace(FAST_IKE, encryption=suite),))
    header = Header(spi_i=spi, spi_r=bytes(8), next_payload=0, exchange=34, flags=8, message_id=0)
    payloads = (*more, offer, KeyExchangeData(group=group, data=POINT), Nonce(data=bytes(16)))
    return serialize_clear(Message(header=header, payloads=payloads))


def answers(world: World, lyon: Host, octets: bytes, path: Path = PATH) -> list[bytes]:
    since = len(world.log)
    give(lyon, octets, path)
    return [each.octets for each in world.log[since:]]


def notify_of(octets: bytes) -> int:
    found = parse_clear(octets, classify(octets)).payloads[0]
    assert isinstance(found, Notify)
    return found.type


ELSEWHERE = replace(PATH, remote_address="203.0.113.9")

# what, the request, where from, under pressure, the notify that answers it
PATHS: tuple[tuple[str, Callable[[], bytes], Path, HalfOpenLimits | None, int | None], ...] = (
    ("no tunnel", first, ELSEWHERE, None, NotifyType.NO_PROPOSAL_CHOSEN),
    ("no proposal", lambda: first(suite="aes-256-gcm-16"), PATH, None, NotifyType.NO_PROPOSAL_CHOSEN),
    ("another group", lambda: first(group=19), PATH, None, NotifyType.INVALID_KE_PAYLOAD),
    ("a value that is no point", lambda: first().replace(POINT, bytes(32)), PATH, None, NotifyType.INVALID_SYNTAX),
    ("a value too short", lambda: bad_length(), PATH, None, NotifyType.INVALID_SYNTAX),
    ("the answer would be longer", first, PATH, None, NotifyType.COOKIE),
    ("under pressure", first, PATH, DEMANDING, NotifyType.COOKIE),
    ("a cookie of somebody else", lambda: first(Notify(type=16_390, data=bytes(33))), PATH, DEMANDING, 16_390),
    ("unknown and critical", lambda: critical(), PATH, None, NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD),
    ("another version", lambda: with_version(first(), 0x30), PATH, None, NotifyType.INVALID_MAJOR_VERSION),
    ("IKEv1", lambda: with_version(first(), 0x10), PATH, None, None),
    ("cut", lambda: first()[:60], PATH, None, None),
    ("nothing inside", lambda: first()[:28], PATH, None, None),
)


def bad_length() -> bytes:
    header = Header(spi_i=b"stranger", spi_r=bytes(8), next_payload=0, exchange=34, flags=8, message_id=0)
    payloads = (proposals.offer_ike((FAST_IKE,)), KeyExchangeData(group=31, data=b"12345"), Nonce(data=bytes(16)))
    return serialize_clear(Message(header=header, payloads=payloads))


def critical() -> bytes:
    octets = bytearray(first(Opaque(type=222, data=b"")))
    octets[29] = 0x80
    return bytes(octets)


def with_version(octets: bytes, version: int) -> bytes:
    return octets[:17] + bytes((version,)) + octets[18:]


class TestNoAmplification:
    @pytest.mark.parametrize(("what", "build", "path", "limits", "notify"), PATHS, ids=[each[0] for each in PATHS])
    def test_before_a_cookie(
        self,
        what: str,
        build: Callable[[], bytes],
        path: Path,
        limits: HalfOpenLimits | None,
        notify: int | None,
    ) -> None:
        world, lyon = responder(limits)
        request = build()
        found = answers(world, lyon, request, path)
        assert [notify_of(each) for each in found] == ([] if notify is None else [notify]), what
        assert sum(len(each) for each in found) <= len(request)
        assert not lyon.engine.v2.sas
        assert not lyon.engine.v2.door.half_open

    def test_any_length_of_question(self) -> None:
        """Whatever is put into a request, there is at most one answer, and it is not longer."""
        entropy = SeededEntropy(7)
        for padding in range(0, 120, 3):
            world, lyon = responder()
            request = first(Notify(type=16_400, data=entropy.octets(padding)))
            found = answers(world, lyon, request)
            assert len(found) == 1
            assert len(found[0]) <= len(request)

    def test_a_returned_cookie_gets_the_whole_answer(self) -> None:
        world, lyon = responder()
        (demand,) = answers(world, lyon, first())
        cookie = parse_clear(demand, classify(demand)).notify(NotifyType.COOKIE)
        assert cookie is not None
        request = first(Notify(type=NotifyType.COOKIE, data=cookie.data))
        (answer,) = answers(world, lyon, request)
        assert classify(answer).spi_r != bytes(8)
        assert len(lyon.engine.v2.sas) == 1

    def test_a_cookie_is_good_from_its_own_address_only(self) -> None:
        world, lyon = responder(DEMANDING)
        (demand,) = answers(world, lyon, first())
        cookie = parse_clear(demand, classify(demand)).notify(NotifyType.COOKIE)
        assert cookie is not None
        request = first(Notify(type=NotifyType.COOKIE, data=cookie.data))
        (again,) = answers(world, lyon, request, replace(PATH, remote_port=501))
        assert notify_of(again) == NotifyType.COOKIE
        assert lyon.codes()["drop.cookie"] == 1

    def test_our_own_requests_leave_room_for_the_answer(self) -> None:
        world, _, lyon = standing()
        assert lyon.codes()["ike.cookie-demanded"] == 0
        request, answer = (each.octets for each in world.log[:2])
        assert len(answer) <= len(request)


class TestCookiesAndGroups:
    def test_the_cookie_stays_good_with_another_group(self) -> None:
        """RFC 7296 section 2.6.1: three requests, not four."""
        world = World()
        left, right = pair()
        both = (replace(FAST_IKE, group="group-19"), FAST_IKE)
        left.change(ike=IkePolicy(proposals=both))
        right.change(ike=IkePolicy(proposals=both[::-1]))
        paris = world.host("paris", "192.0.2.1")
        lyon = world.host("lyon", "192.0.2.2", limits=DEMANDING)
        lyon.configure(right.document())
        paris.configure(left.document())
        assert world.run(5, up(paris, lyon))
        requests = [each.octets for each in world.log if each.sender == "paris" and each.octets[18] == 34]
        cookies = [parse_clear(each, classify(each)).notify(NotifyType.COOKIE) for each in requests]
        assert [each is not None for each in cookies] == [False, True, True]
        assert cookies[1] == cookies[2]
        assert (lyon.codes()["ike.cookie-demanded"], lyon.codes()["drop.cookie"]) == (1, 0)


class TestUnknown:
    """Messages for IKE SAs that do not exist (RFC 7296 sections 1.5 and 2.21.4)."""

    def lost(self) -> tuple[World, Host, Host, bytes]:
        """lyon has forgotten everything; paris still asks."""
        world, paris, lyon = standing()
        request = forge(paris, ())
        world.restart(lyon)
        return world, paris, lyon, request

    def test_a_request_is_told_so_in_clear(self) -> None:
        world, _, lyon, request = self.lost()
        asked = classify(request)
        (answer,) = answers(world, lyon, request)
        header = classify(answer)
        assert (header.spi_i, header.spi_r, header.exchange, header.message_id) == (
            asked.spi_i,
            asked.spi_r,
            asked.exchange,
            asked.message_id,
        )
        assert (header.response, header.from_initiator) == (True, False)
        assert answer[28 + 6 : 28 + 8] == int(NotifyType.INVALID_IKE_SPI).to_bytes(2, "big")
        assert len(answer) <= len(request)

    def test_an_answer_is_never_answered(self) -> None:
        world, _, lyon, request = self.lost()
        assert answers(world, lyon, request[:19] + b"\x28" + request[20:]) == []
        assert lyon.codes()["drop.unknown-spi"] == 1

    def test_answers_are_few(self) -> None:
        world, _, lyon, request = self.lost()
        assert sum(len(answers(world, lyon, request)) for _ in range(500)) <= 10
        world.run(10)
        assert len(answers(world, lyon, request)) == 1

    def test_what_a_stranger_says_changes_nothing(self) -> None:
        world, paris, lyon, request = self.lost()
        (answer,) = answers(world, lyon, request)
        (sa,) = paris.engine.v2.sas.values()
        paris.do(paris.engine.receive, answer, sa.path)
        assert sa in paris.engine.v2.sas.values()
        assert sa.standing

    def test_another_major_version(self) -> None:
        world, lyon = responder()
        (answer,) = answers(world, lyon, with_version(first(), 0x30))
        header = classify(answer)
        assert (header.version >> 4, header.spi_i, header.response) == (2, b"stranger", True)
        assert answer[-1] == 2
        assert answers(world, lyon, with_version(first()[:19] + b"\x20" + first()[20:], 0x30)) == []


class TestHalfOpen:
    def test_one_address_cannot_take_all_places(self) -> None:
        world, lyon = responder(HalfOpenLimits(cookie_threshold=50, cookie_per_address=50, per_address=5, total=50))
        padding = Notify(type=16_400, data=bytes(200))
        for number in range(20):
            answers(world, lyon, first(padding, spi=b"%08d" % number))
        assert lyon.engine.v2.door.half_open == {"192.0.2.1": 5}
        assert lyon.codes()["drop.half-open-limit"] == 15
        world.run(60)
        assert not lyon.engine.v2.door.half_open
        assert not lyon.engine.v2.sas


class TestInvalidSpi:
    """The peer has no SA for our packets (RFC 7296 section 1.5), said with its keys: the child is made anew."""

    def told(self, seconds: float, spi: int | None = None) -> tuple[int, int, bool]:
        world, paris, lyon = standing()
        world.run(seconds)
        (sa,) = lyon.engine.v2.sas.values()
        before = sa.children[0].spi_out
        data = (before if spi is None else spi).to_bytes(4, "big")
        give(lyon, forge(paris, (Notify(type=NotifyType.INVALID_SPI, data=data),)))
        (theirs,) = paris.engine.v2.sas.values()
        theirs.requests.next_id += 1  # for what was forged
        world.run(30)
        return before, sa.children[0].spi_out, up(paris, lyon)()

    def test_a_settled_child_is_made_anew(self) -> None:
        before, after, fine = self.told(20)
        assert fine
        assert before != after

    def test_a_child_just_made_stays(self) -> None:
        before, after, fine = self.told(1)
        assert fine
        assert before == after

    def test_another_spi_means_nothing(self) -> None:
        before, after, fine = self.told(20, spi=0x12345678)
        assert fine
        assert before == after
