"""How values look to a person."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agents.contract.events import Severity
from vpnconsole.monitor.choices import ConsoleState, JobState
from vpnconsole.rollout.choices import DeliveryState
from vpnconsole.ui import words
from vpnconsole.ui.templatetags.console import details, moment, until


@pytest.mark.parametrize("value", [None, 1e300, -1e300, 1e13])
def test_time_on_no_calendar_is_nothing(value: float | None) -> None:
    assert moment(value) is None
    assert until(value) == words.NOTHING


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "—"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB")],
)
def test_octets_are_iec(value: float | None, expected: str) -> None:
    assert words.octets(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "—"), (0.0, "0 bit/s"), (999.0, "999 bit/s"), (1000.0, "1.0 kbit/s"), (14_201_000.0, "14.2 Mbit/s")],
)
def test_rates_are_si(value: float | None, expected: str) -> None:
    assert words.bits(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "—"), (0, "0 s"), (-3, "0 s"), (59, "59 s"), (65, "1 min 5 s"), (3600, "1 h"), (90_000, "1 d 1 h")],
)
def test_spans(value: float | None, expected: str) -> None:
    assert words.span(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "0 s ago"), (12, "12 s ago"), (130, "2 min ago"), (7300, "2 h ago"), (200_000, "2 d ago")],
)
def test_ages(seconds: int, expected: str) -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    assert words.age(now - timedelta(seconds=seconds), now) == expected


def test_every_state_there_is_has_a_look() -> None:
    for state in (*ConsoleState, *JobState, *DeliveryState, *Severity):
        assert words.look(state.value).word


def test_only_faults_are_red_and_only_what_waits_for_a_person_is_amber() -> None:
    red = {slug for slug, look in words.LOOKS.items() if look.tone == "bad"}
    assert red == {"down", "unreachable", "refused", "failed", "error", "unhealthy"}
    assert words.look("idle").tone == "off"
    assert words.look("disabled").tone == "off"


def test_details_of_a_record_in_one_line() -> None:
    values = {"gateways": ["lyon", "paris"], "source": "", "length_octets": 32, "fields": []}
    assert details(values) == "gateways: lyon, paris; length octets: 32"


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (None, words.NOTHING),
        ("psk", "pre-shared key"),
        ("rsa-pss-sha2-256", "RSA-PSS with SHA2-256"),
        ("of-a-later-agent", "of-a-later-agent"),
    ],
)
def test_how_an_end_proved_itself(how: str | None, expected: str) -> None:
    assert words.proof(how) == expected


@pytest.mark.parametrize(
    ("length", "expected"), [(0.0124, "12 ms"), (1.25, "1.2 s"), (59.9, "59.9 s"), (75, "1 min 15 s"), (-1, "0 ms")]
)
def test_a_short_length_of_time(length: float, expected: str) -> None:
    assert words.lapse(timedelta(seconds=length)) == expected


@pytest.mark.parametrize(
    ("version", "mode", "words_"),
    [("v1", "main", "IKEv1, Main Mode"), ("v1", "aggressive", "IKEv1, Aggressive Mode"), ("v2", None, "IKEv2")],
)
def test_ike_version(version: str, mode: str | None, words_: str) -> None:
    assert words.ike_version(version, mode) == words_
