"""Windows of message IDs (RFC 7296 sections 2.1 to 2.3): the peer may have four requests under way, each answered once.

::

    peer                                     we
    SK {} ID 3  --(lost)
    SK {} ID 4  -->                          kept: its turn is after 3
    SK {} ID 3  -->                          both are worked on, in their order
                <--  SK {} ID 3
                <--  SK {} ID 4
    SK {} ID 3  -->                          again
                <--  SK {} ID 3              the same octets
"""

from __future__ import annotations

from agents.contract.config import Retransmission
from agents.ike.v2 import window as windows
from agents.ike.v2.protection import Sent
from agents.ike.v2.window import LAST_MESSAGE_ID, RENEW_MESSAGE_ID, WINDOW, Arrival, RequestWindow, ResponseWindow
from agents.ike.wire.header import Header, classify
from agents.ike.wire.message import open_message
from agents.ike.wire.payloads import Notify
from agents.ike.wire.registry import NotifyType
from tests.harness.world import Host, World, matched, up
from tests.ike.v2.test_robustness import forge, give, standing


def sent(octets: bytes) -> Sent:
    header = Header(spi_i=b"initiate", spi_r=b"responds", next_payload=0, exchange=37, flags=8, message_id=0)
    return Sent(header=header, datagrams=(octets,))


class TestRequests:
    def test_one_at_a_time(self) -> None:
        window, data = RequestWindow(), Retransmission(initial_ms=1_000, factor=2, tries=2)
        window.sent(37, sent(b"request"), 0.0, data)
        assert window.accepts(0, 37)
        assert not window.accepts(0, 36)
        assert not window.accepts(1, 37)
        again = window.again(1.0, data)
        assert again is not None
        assert again.sent.datagrams == (b"request",)
        assert window.again(3.0, data) is None
        window.answered()
        assert not window.accepts(0, 37)
        assert (window.next_id, window.last_exchange) == (1, 37)


class TestResponses:
    def test_a_window_of_one(self) -> None:
        window = ResponseWindow()
        assert window.classify(0, b"one") is Arrival.FRESH
        assert window.classify(1, b"two") is Arrival.OUTSIDE
        window.begin(37, b"one")
        assert window.classify(0, b"one") is Arrival.IN_PROGRESS
        assert window.classify(0, b"other") is Arrival.OUTSIDE
        window.finish(sent(b"answer"))
        assert window.classify(0, b"one") is Arrival.REPEATED
        assert window.classify(0, b"forged") is Arrival.RECUT
        assert window.classify(1, b"two") is Arrival.FRESH

    def test_the_cache_is_bounded(self) -> None:
        window = ResponseWindow()
        window.size = WINDOW
        for number in range(20):
            window.begin(37, bytes((number,)))
            window.finish(sent(bytes((number,))))
        kept = [number for number in range(20) if window.answer_to(number) is not None]
        assert kept == [16, 17, 18, 19]
        assert window.classify(15, b"\x0f") is Arrival.OUTSIDE
        assert window.classify(20 + WINDOW, b"x") is Arrival.OUTSIDE

    def test_the_last_message_id_is_never_taken(self) -> None:
        window = ResponseWindow()
        window.expected = LAST_MESSAGE_ID
        assert window.classify(LAST_MESSAGE_ID, b"x") is Arrival.OUTSIDE


def answers(world: World, paris: Host, since: int) -> list[int]:
    """The message IDs of lyon's answers, in order; every one can be opened by paris."""
    (sa,) = paris.engine.v2.sas.values()
    found = []
    for each in world.log[since:]:
        header = classify(each.octets)
        if each.sender == "lyon" and header.response:
            open_message(each.octets, header, sa.protection.cipher_in)
            found.append(header.message_id)
    return found


class TestSeveralUnderWay:
    def test_requests_out_of_order_are_answered_in_order_each_once(self) -> None:
        world, paris, lyon = standing()
        first = paris.engine.v2.sas[next(iter(paris.engine.v2.sas))].requests.next_id
        requests = [forge(paris, (Notify(type=16_400 + ahead),), ahead=ahead) for ahead in range(WINDOW)]
        since = len(world.log)
        for request in (requests[2], requests[1], requests[2]):
            give(lyon, request)
        assert answers(world, paris, since) == []
        give(lyon, requests[0])
        world.step()
        assert answers(world, paris, since) == [first, first + 1, first + 2]
        give(lyon, requests[3])
        for request in requests:
            give(lyon, request)
        assert answers(world, paris, since) == [*range(first, first + 4), *range(first, first + 4)]
        assert lyon.codes()["ike.bug"] == 0

    def test_a_request_beyond_the_window_is_dropped(self) -> None:
        world, paris, lyon = standing()
        since = len(world.log)
        give(lyon, forge(paris, (), ahead=WINDOW))
        assert answers(world, paris, since) == []
        assert lyon.codes()["drop.message-id"] == 1

    def test_both_ends_announce_their_window_with_the_proof_of_identity(self) -> None:
        world, _, lyon = standing()
        (sa,) = lyon.engine.v2.sas.values()
        request = next(each for each in world.log if each.octets[18] == 35 and each.sender == "paris")
        answer = next(each for each in world.log if each.octets[18] == 35 and each.sender == "lyon")
        for octets, cipher in ((request.octets, sa.protection.cipher_in), (answer.octets, sa.protection.cipher_out)):
            notify = open_message(octets, classify(octets), cipher).notify(NotifyType.SET_WINDOW_SIZE)
            assert notify is not None
            assert notify.data == WINDOW.to_bytes(4, "big")


class TestEndOfTheNumbers:
    def test_the_ike_sa_is_rekeyed_before_message_ids_run_out(self) -> None:
        world, paris, lyon = standing()
        (ours,), (theirs,) = paris.engine.v2.sas.values(), lyon.engine.v2.sas.values()
        ours.requests.next_id = theirs.responses.expected = RENEW_MESSAGE_ID - 1
        paris.do(paris.engine.rekey_child, paris.status().id)
        world.run(30)
        assert matched(paris, lyon)
        assert up(paris, lyon)()
        assert paris.codes()["ike.sa-rekeyed"] == 1
        assert ours not in paris.engine.v2.sas.values()

    def test_no_request_goes_out_with_the_last_number(self) -> None:
        world, paris, _ = standing()
        (sa,) = paris.engine.v2.sas.values()
        sa.requests.next_id = LAST_MESSAGE_ID
        sent_before = len(world.log)
        paris.do(paris.engine.rekey_child, paris.status().id)
        assert sa not in paris.engine.v2.sas.values()
        assert paris.codes()["ike.sa-failed"] == 1
        ids = [classify(each.octets).message_id for each in world.log[sent_before:] if each.sender == "paris"]
        assert windows.LAST_MESSAGE_ID not in ids
