from __future__ import annotations

from agents.contract.codec import from_plain
from agents.contract.events import Event, Severity
from agents.ike.outputs import Report
from agents.iked.events import EventRing


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def report(number: int = 0, code: str = "ike.initiate", tunnel_id: str | None = "t") -> Report:
    return Report(code=code, message=f"number {number}", tunnel_id=tunnel_id)


def test_events_are_numbered_and_read_after_a_number() -> None:
    ring = EventRing(Clock())
    for number in range(5):
        ring.add(report(number))
    page = ring.page(3, ring.boot_id)
    assert [event["sequence"] for event in page["events"]] == [4, 5]
    assert (page["oldest"], page["last"]) == (1, 5)
    first = from_plain(Event, ring.page(0, ring.boot_id)["events"][0])
    assert first.severity is Severity.INFO
    assert first.message == "number 0"
    assert first.time == 1_000.0


def test_another_boot_id_reads_from_the_beginning() -> None:
    ring = EventRing(Clock())
    ring.add(report())
    assert len(ring.page(7, "another run")["events"]) == 1
    assert ring.page(7, None)["boot_id"] == ring.boot_id != EventRing(Clock()).boot_id


def test_a_page_has_a_limit_and_the_ring_an_end() -> None:
    ring = EventRing(Clock(), capacity=10, burst=1_000)
    for number in range(25):
        ring.add(report(number))
    page = ring.page(0, ring.boot_id, limit=4)
    assert [event["sequence"] for event in page["events"]] == [16, 17, 18, 19]
    assert (page["oldest"], page["last"]) == (16, 25)


def test_an_empty_ring_says_that_nothing_is_missing() -> None:
    page = EventRing(Clock()).page(0, None)
    assert (page["events"], page["oldest"], page["last"]) == ([], 1, 0)


def test_a_flood_of_one_kind_is_thinned_out_and_counted_without_hiding_the_others() -> None:
    clock = Clock()
    ring = EventRing(clock, burst=3, per_second=1.0)
    for number in range(10):
        ring.add(report(number, "drop.malformed", None))
    ring.add(report(0, "ike.sa-established"))
    assert ring.page(0, None)["last"] == 4
    clock.now += 2.0
    ring.add(report(11, "drop.malformed", None))
    assert ring.page(4, ring.boot_id)["events"][0]["attributes"] == {"suppressed": "7"}


def test_a_report_without_text_gets_the_kinds_and_its_field() -> None:
    ring = EventRing(Clock())
    ring.add(Report(code="ike.no-proposal", message="", received="a", configured="b"))
    event = ring.page(0, None)["events"][0]
    assert event["message"] == "No IKE proposal matches"
    assert event["field"] == "ike.proposals"
    assert (event["received"], event["configured"]) == ("a", "b")


def test_an_endless_message_is_cut() -> None:
    ring = EventRing(Clock())
    ring.add(Report(code="ike.peer-notify", message="x" * 10_000))
    assert len(ring.page(0, None)["events"][0]["message"]) == 2_000
