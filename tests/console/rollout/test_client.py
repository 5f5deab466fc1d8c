"""The agent client against answers of every kind: each becomes one of its errors, none a traceback, none a secret."""

from __future__ import annotations

import pytest

from agents.contract import codec
from agents.contract.actions import Action, Verb
from tests.console.fake_agent import FakeAgent
from vpnconsole.gateways.models import Gateway
from vpnconsole.rollout import client as module
from vpnconsole.rollout.client import AgentClient, AgentConflict, AgentMisbehaved, AgentRefused, AgentUnreachable

ACTION = Action(id="a-1", verb=Verb.INITIATE, tunnel_id="00000000-0000-4000-8000-0000000000aa")


@pytest.mark.parametrize(
    ("status", "body", "error", "text"),
    [
        (200, b"", AgentMisbehaved, "generation"),
        (200, b"<html>", AgentMisbehaved, "generation"),
        (200, b'{"generation": "7", "digest": "x"}', AgentMisbehaved, "generation"),
        (200, b'{"generation": 7}', AgentMisbehaved, "digest"),
        (409, b'{"error": "generation-outdated"}', AgentMisbehaved, "message"),
        (
            409,
            b'{"error": "generation-outdated", "message": "older", "generation": 9, "digest": "d"}',
            AgentConflict,
            "generation-outdated: older",
        ),
        (422, b'{"error": "invalid", "path": "tunnels[0].mtu", "message": "too small"}', AgentRefused, "tunnels"),
        (422, b"[]", AgentMisbehaved, "path"),
        (403, b'{"error": "forbidden", "message": "not the console"}', AgentMisbehaved, "HTTP 403: not the console"),
        (500, b"\xff\xfe", AgentMisbehaved, "HTTP 500"),
    ],
)
def test_answers_to_a_document(
    paris: Gateway, paris_agent: FakeAgent, status: int, body: bytes, error: type[Exception], text: str
) -> None:
    paris_agent.raw["/v1/config"] = (status, body)
    with AgentClient(paris) as agent, pytest.raises(error, match=text):
        agent.put_document(b"{}")


@pytest.mark.parametrize("body", [b"", b"[]", b'{"gateway_id": 7}', b'{"surprise": 1}', b"\xff"])
def test_status_that_is_none(paris: Gateway, paris_agent: FakeAgent, body: bytes) -> None:
    paris_agent.raw["/v1/status"] = (200, body)
    with AgentClient(paris) as agent, pytest.raises(AgentMisbehaved, match="GatewayStatus"):
        agent.status()


def test_what_is_read_is_what_was_said(paris: Gateway, paris_agent: FakeAgent) -> None:
    paris_agent.emit("ike.retransmit")
    with AgentClient(paris) as agent:
        assert agent.status().boot_id == "boot-1"
        page = agent.events(after=0, limit=10)
    assert codec.digest(page.events[0]) == codec.digest(paris_agent.events[0])


def test_answer_that_is_too_large_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, paris: Gateway, paris_agent: FakeAgent
) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_OCTETS", 1000)
    paris_agent.raw["/v1/status"] = (200, b" " * 1001)
    with AgentClient(paris) as agent, pytest.raises(AgentMisbehaved, match="too large"):
        agent.status()


def test_answer_that_is_not_packed_as_it_says_is_not_believed(paris: Gateway, paris_agent: FakeAgent) -> None:
    paris_agent.raw["/v1/status"] = (200, b"not gzip at all")
    paris_agent.raw_headers = {"Content-Encoding": "gzip"}
    with AgentClient(paris) as agent, pytest.raises(AgentMisbehaved, match="cannot be read"):
        agent.status()


def test_agent_that_does_not_answer_in_time_is_unreachable(paris: Gateway, paris_agent: FakeAgent) -> None:
    paris_agent.may_answer.clear()
    with AgentClient(paris, read_timeout_s=0.3) as agent, pytest.raises(AgentUnreachable, match="in time"):
        agent.put_document(b"{}")


def test_action_elsewhere_than_in_force_is_told(paris: Gateway, paris_agent: FakeAgent) -> None:
    with AgentClient(paris) as agent, pytest.raises(module.AgentUnknownTunnel, match="deploy first"):
        agent.act(ACTION)


def test_address_of_version_six_is_dialled(paris: Gateway) -> None:
    paris.agent_host, paris.agent_port = "::1", 9
    with AgentClient(paris) as agent, pytest.raises(AgentUnreachable, match=r"^\[::1\]:9: [A-Z]"):
        agent.status()
