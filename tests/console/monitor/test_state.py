"""The table of states: what a tunnel is called for each thing that can be known of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agents.contract.status import Reason, TunnelState
from vpnconsole.monitor.choices import ConsoleState
from vpnconsole.monitor.state import EndFacts, Report, TunnelFacts, judge

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MISMATCH = Reason(code="ike.psk-mismatch", message="Authentication failed: the pre-shared keys differ")


def report(state: str, up: int = 1, total: int = 1, reason: Reason | None = None, step: str = "") -> Report:
    return Report(state=TunnelState(state), since=NOON, pairs_up=up, pairs_total=total, reason=reason, step=step)


def end(name: str, of: Report | None = None, **changes: object) -> EndFacts:
    facts = EndFacts(gateway_name=name, reachable=True, heard_at=NOON, held=True, report=of)
    return replace(facts, **changes)  # type: ignore[arg-type]


EXTRANET = EndFacts(gateway_name="extranet", managed=False)
ABSENT: dict[str, Any] = {"held": False, "of": None}


def facts(a: EndFacts, b: EndFacts = EXTRANET, **changes: object) -> TunnelFacts:
    return replace(TunnelFacts(enabled=True, ends=(a, b)), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ends", "label"),
    [
        ((end("paris", **ABSENT), EXTRANET), "not deployed"),
        ((end("paris", **ABSENT), end("lyon", **ABSENT)), "not deployed"),
        ((end("paris", **ABSENT, arriving=True), EXTRANET), "deploying"),
        ((end("paris", report("negotiating", 0)), end("lyon", **ABSENT, arriving=True)), "deploying"),
        ((end("paris"), EXTRANET), "deploying"),
        ((end("paris", report("negotiating", 0)), EXTRANET), "negotiating"),
        ((end("paris", report("negotiating", 0)), end("lyon", report("down", 0))), "negotiating"),
        ((end("paris", report("negotiating", 0)), end("lyon", report("down", 0, reason=MISMATCH))), "down"),
        ((end("paris", report("up")), EXTRANET), "up"),
        ((end("paris", report("up")), end("lyon", report("up"))), "up"),
        ((end("paris", report("up")), end("lyon", report("down", 0))), "down"),
        ((end("paris", report("up", 5, 5)), end("lyon", report("partly-up", 3, 5))), "partly up (3 of 5)"),
        ((end("paris", report("idle", 0)), EXTRANET), "idle"),
        ((end("paris", report("down", 0)), EXTRANET), "down"),
        ((end("paris", report("up"), reachable=False), EXTRANET), "unreachable"),
        ((end("paris", report("up"), reachable=False), end("lyon", report("up"), reachable=False)), "unreachable"),
        ((end("paris", report("up"), reachable=False), end("lyon", report("up"))), "up"),
        ((end("paris", report("up"), reachable=False), end("lyon", report("down", 0))), "down"),
    ],
)
def test_label(ends: tuple[EndFacts, EndFacts], label: str) -> None:
    assert judge(facts(*ends)).label == label


def test_disabled_says_who_and_when_and_where_it_still_runs() -> None:
    verdict = judge(facts(end("paris", report("up")), enabled=False, disabled_by="alice", disabled_at=NOON))
    assert verdict.state is ConsoleState.DISABLED
    assert verdict.sentence == "switched off by alice"
    assert verdict.since == NOON
    assert "paris" in verdict.note
    settled = judge(facts(end("paris", report("disabled", 0)), enabled=False, disabled_by="alice"))
    assert settled.note == ""


def test_down_brings_its_reason_from_whichever_end_knows_it() -> None:
    verdict = judge(facts(end("paris", report("down", 0)), end("lyon", report("down", 0, reason=MISMATCH))))
    assert verdict.reason == MISMATCH
    assert verdict.sentence == MISMATCH.message
    assert verdict.problem


def test_unreachable_shows_the_last_known_state_as_old() -> None:
    older = end("paris", report("up"), reachable=False, heard_at=NOON - timedelta(hours=1))
    verdict = judge(facts(older, end("lyon", report("up"), reachable=False)))
    assert verdict.old
    assert verdict.last_known is TunnelState.UP
    assert verdict.since == NOON
    assert verdict.sentence == "paris and lyon not heard from"
    assert verdict.problem


def test_one_silent_end_is_a_note_beside_what_the_other_says() -> None:
    verdict = judge(facts(end("paris", report("up"), reachable=False), end("lyon", report("up"))))
    assert verdict.note == "paris not heard from; this is what lyon says"
    assert not verdict.problem


def test_refused_deployment_is_why_it_is_not_deployed() -> None:
    verdict = judge(facts(end("paris", **ABSENT, refused="tunnels[0].mtu: too small")))
    assert verdict.state is ConsoleState.NOT_DEPLOYED
    assert verdict.sentence == "paris refused the deployment: tunnels[0].mtu: too small"


def test_deploying_says_whom_it_waits_for() -> None:
    verdict = judge(
        facts(end("paris", report("negotiating", 0)), end("lyon", **ABSENT, arriving=True, reachable=False))
    )
    assert verdict.step == "waiting for lyon to answer"


def test_switched_on_but_not_yet_deployed_is_said() -> None:
    verdict = judge(facts(end("paris", report("disabled", 0))))
    assert verdict.state is ConsoleState.DISABLED
    assert "not yet deployed to paris" in verdict.note


def test_change_on_its_way_to_a_running_tunnel_leaves_its_state() -> None:
    verdict = judge(facts(end("paris", report("up"), arriving=True)))
    assert verdict.state is ConsoleState.UP
    assert verdict.pending


def test_no_reason_is_shown_for_a_tunnel_that_is_up() -> None:
    assert judge(facts(end("paris", report("up", reason=MISMATCH)))).reason is None
