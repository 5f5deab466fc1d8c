"""The last negotiation as steps: what is done, what failed and why, what is waited for; earlier ones do not count."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agents.contract.events import KINDS
from vpnconsole.monitor.models import EventRecord
from vpnconsole.monitor.negotiation import Negotiation, last_negotiation

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SUCCESS = (
    "ike.initiate", "ike.sa-requested", "child.requested", "ike.sa-established", "child.established",
    "child.installed", "child.policies-installed",
)  # fmt: skip


def told(*codes: str, role: str = "initiator", cause: str = "", start: float = 0.0) -> list[EventRecord]:
    """Return events 10 ms apart, oldest first."""
    attributes = {"role": role} | ({"cause": cause} if cause else {})
    return [
        EventRecord(
            code=code, at=BEGAN + timedelta(seconds=start + 0.01 * index), message="as told", attributes=attributes
        )
        for index, code in enumerate(codes)
    ]


def read(*events: EventRecord) -> Negotiation:
    found = last_negotiation("paris", reversed(events))
    assert found is not None
    return found


def outcomes(negotiation: Negotiation) -> list[tuple[int, str]]:
    return [(step.number, step.outcome) for step in negotiation.steps]


def test_a_good_one_as_the_end_that_asked_saw_it() -> None:
    negotiation = read(*told(*SUCCESS))
    assert outcomes(negotiation) == [(number, "done") for number in range(1, 8)]
    assert (negotiation.role, negotiation.began_at, negotiation.failed) == ("initiator", BEGAN, None)
    assert [step.after for step in negotiation.steps if step.after] == [
        timedelta(seconds=0.01 * place) for place in (1, 3, 2, 4, 5, 6)
    ]


def test_the_other_end_begins_when_the_ike_sa_stands() -> None:
    negotiation = read(*told("ike.sa-established", *SUCCESS[4:], role="responder"))
    assert outcomes(negotiation) == [(3, "done"), (5, "done"), (6, "done"), (7, "done")]


def test_what_it_failed_at_and_why() -> None:
    negotiation = read(*told("ike.initiate", "ike.sa-requested", "ike.sa-failed", cause="ike.psk-mismatch"))
    assert outcomes(negotiation)[:4] == [(1, "done"), (2, "done"), (3, "failed"), (4, "open")]
    assert negotiation.failed is not None
    assert negotiation.failed.message == KINDS["ike.psk-mismatch"].summary
    assert negotiation.failed.label == KINDS["ike.sa-failed"].summary


@pytest.mark.parametrize("cause", ["ikev1.psk-mismatch", "ikev1.exchange-mode-mismatch", "ike.version-unsupported"])
def test_ikev1_fails_at_the_same_step_for_reasons_of_its_own(cause: str) -> None:
    negotiation = read(*told("ike.initiate", "ike.sa-requested", "ike.sa-failed", cause=cause))
    assert negotiation.failed is not None
    assert (negotiation.failed.number, negotiation.failed.message) == (3, KINDS[cause].summary)


def test_quick_mode_fails_at_the_step_of_the_ipsec_sa() -> None:
    negotiation = read(*told(*SUCCESS[:4], "child.failed", cause="ikev1.pfs-mismatch"))
    assert negotiation.failed is not None
    assert (negotiation.failed.number, negotiation.failed.message) == (5, "The PFS groups of phase 2 differ")


def test_a_child_that_failed_leaves_the_ike_sa_done() -> None:
    negotiation = read(*told(*SUCCESS[:4], "child.failed", cause="child.ts-unacceptable"))
    assert outcomes(negotiation)[2:] == [(3, "done"), (4, "done"), (5, "failed"), (6, "open"), (7, "open")]


def test_a_failure_without_a_known_cause_is_told_as_reported() -> None:
    failed = read(*told("ike.initiate", "ike.sa-requested", "ike.sa-failed", cause="of.a-later-agent")).failed
    assert failed is not None
    assert failed.message == "as told"


def test_one_under_way_says_what_is_waited_for() -> None:
    negotiation = read(*told("ike.initiate", "ike.sa-requested"))
    assert outcomes(negotiation)[:4] == [(1, "done"), (2, "done"), (3, "waiting"), (4, "open")]


@pytest.mark.parametrize(
    "before",
    [
        told("ike.initiate", "ike.sa-requested", "ike.sa-failed", cause="ike.no-proposal"),
        told("ike.sa-established", *SUCCESS[4:], role="responder"),
    ],
    ids=["failed", "the other way round"],
)
def test_the_one_before_does_not_count(before: list[EventRecord]) -> None:
    negotiation = read(*before, *told("ike.initiate", "ike.sa-requested", start=60))
    assert outcomes(negotiation)[:3] == [(1, "done"), (2, "done"), (3, "waiting")]
    assert negotiation.began_at == BEGAN + timedelta(seconds=60)


def test_a_beginning_that_is_no_longer_kept_is_done_without_a_time() -> None:
    negotiation = read(*told(*SUCCESS[4:]))
    assert outcomes(negotiation) == [(number, "done") for number in range(1, 8)]
    assert [step.at is None for step in negotiation.steps] == [True] * 4 + [False] * 3


def test_other_events_tell_of_no_negotiation() -> None:
    assert last_negotiation("paris", told("child.rekeyed", "esp.replay")) is None
