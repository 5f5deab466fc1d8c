"""The trace: what it takes, when it ends, what it never holds."""

from __future__ import annotations

from typing import Any

import pytest

from agents.contract.events import KINDS, Severity
from agents.contract.traces import MOST_OCTETS, MOST_SECONDS, Category
from agents.runtime.rpc import RpcError
from agents.runtime.tracing import Tracer, answer, category_of, lines

ID = "6c7b1c1e-0d0f-4f0e-9c55-2f6f7c2b8a10"


def on(**changes: Any) -> dict[str, Any]:
    asked = {"id": ID, "categories": ["tunnel"], "seconds": 60, "octets": 10_000, "version": None}
    return {"action": "on", **asked, **changes}


def texts(tracer: Tracer) -> list[str]:
    return [record["text"] for record in tracer.plain()["records"]]


def test_only_what_is_asked_for_is_recorded() -> None:
    tracer = Tracer(wall=lambda: 5.0)
    tracer.record(Category.TUNNEL, "before")
    answer(on(), tracer)
    tracer.record(Category.TUNNEL, "an SA")
    tracer.record(Category.CRYPTO, "a suite")
    assert tracer.plain() == {
        "on": ["tunnel"],
        "ended_because": "",
        "begun": {"id": ID, "categories": ["tunnel"], "seconds": 60, "octets": 10_000, "version": None, "at": 5.0},
        "count": 1,
        "records": [{"time": 5.0, "category": "tunnel", "text": "an SA", "version": None}],
    }


def test_one_ip_version_can_be_chosen_and_what_has_none_stays() -> None:
    tracer = Tracer()
    answer(on(version=6), tracer)
    for text, address in (("four", "192.0.2.1"), ("six", "2001:db8::1"), ("neither", None)):
        tracer.record(Category.TUNNEL, text, address)
    assert texts(tracer) == ["six", "neither"]


def test_a_trace_ends_when_its_time_is_over() -> None:
    now = 100.0
    tracer = Tracer(clock=lambda: now)
    answer(on(seconds=30), tracer)
    now = 129.9
    tracer.record(Category.TUNNEL, "in time")
    now = 130.0
    assert not tracer.wants(Category.TUNNEL)
    tracer.record(Category.TUNNEL, "late")
    assert (texts(tracer), tracer.plain()["ended_because"], tracer.plain()["on"]) == (["in time"], "30 s are over", [])


def test_a_trace_that_nobody_writes_to_is_over_in_time_too() -> None:
    now = 0.0
    tracer = Tracer(clock=lambda: now)
    answer(on(seconds=1), tracer)
    now = 1.0
    assert answer({}, tracer)["ended_because"] == "1 s are over"


def test_a_trace_ends_when_it_is_full() -> None:
    tracer = Tracer()
    answer(on(octets=300), tracer)
    for number in range(10):
        tracer.record(Category.TUNNEL, f"{number}" * 20)
    assert len(texts(tracer)) == 3
    assert tracer.plain()["ended_because"] == "its octets are full"


def test_switching_off_keeps_what_was_recorded_until_the_next_one() -> None:
    tracer = Tracer()
    answer(on(), tracer)
    tracer.record(Category.TUNNEL, "kept")
    assert answer({"action": "off"}, tracer)["ended_because"] == "switched off"
    assert texts(tracer) == ["kept"]
    answer(on(categories=["crypto", "error"]), tracer)
    assert (texts(tracer), tracer.plain()["on"]) == ([], ["crypto", "error"])


def test_the_state_alone_has_counts_and_no_records() -> None:
    tracer = Tracer(wall=lambda: 5.0)
    assert tracer.plain(whole=False)["begun"] is None
    answer(on(version=4), tracer)
    tracer.record(Category.TUNNEL, "an SA")
    told = answer({"action": "state"}, tracer)
    assert (told["on"], told["count"], told["records"], told["begun"]["version"]) == (["tunnel"], 1, [], 4)


def test_a_trace_is_told_line_by_line() -> None:
    record = {"process": "iked", "time": 1_000.25, "category": "tunnel", "text": "an SA"}
    processes = {"iked": {"on": ["error", "tunnel"]}, "espd": {"on": [], "ended_because": "away"}}
    told = list(lines({"records": [record], "processes": processes}, lambda unix_s: f"at {unix_s:.0f}"))
    assert told[0] == "at 1000.250000  iked    tunnel                   an SA"
    assert told[1:] == ["-- iked: tracing error, tunnel", "-- espd: away"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"categories": []}, "categories"),
        ({"categories": ["everything"]}, "categories[0]"),
        ({"categories": ["tunnel", "tunnel"]}, "categories"),
        ({"categories": 7}, "categories"),
        ({"seconds": 0}, "seconds"),
        ({"seconds": MOST_SECONDS + 1}, "seconds"),
        ({"octets": MOST_OCTETS + 1}, "octets"),
        ({"octets": True}, "octets"),
        ({"version": 5}, "version"),
        ({"id": "mine"}, "id"),
        ({"action": "explode"}, "action"),
    ],
)
def test_a_wrong_parameter_is_named_and_nothing_begins(changes: dict[str, Any], path: str) -> None:
    tracer = Tracer()
    with pytest.raises(RpcError) as caught:
        answer(on(**changes), tracer)
    assert (caught.value.code, caught.value.data["path"]) == ("invalid", path)
    assert tracer.categories == frozenset()


def test_there_are_the_nine_categories_of_aix_and_the_costly_ones_are_known() -> None:
    assert len(Category) == 9
    assert {each for each in Category if each.costly} == {
        Category.FILTER_INFORMATION,
        Category.TUNNEL_INFORMATION,
        Category.CAPSULATION_INFORMATION,
        Category.CRYPTO_INFORMATION,
    }


@pytest.mark.parametrize(
    ("code", "category"),
    [
        ("esp.policy", Category.FILTER),
        ("esp.integrity", Category.CRYPTO),
        ("esp.late", Category.CAPSULATION),
        ("child.ts-unacceptable", Category.ERROR),
        ("child.established", Category.TUNNEL),
        ("child.policies-installed", Category.FILTER_INFORMATION),
        ("ike.retransmit", Category.TUNNEL),
        ("agent.route-added", Category.TUNNEL_INFORMATION),
        ("agent.repair-failed", Category.ERROR),
    ],
)
def test_events_have_a_category(code: str, category: Category) -> None:
    assert category_of(code, KINDS[code].severity) is category


def test_every_event_that_is_an_error_is_one_in_the_trace() -> None:
    errors = [kind for kind in KINDS.values() if kind.severity is Severity.ERROR]
    assert {category_of(kind.code, kind.severity) for kind in errors} == {Category.ERROR}
