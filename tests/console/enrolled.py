"""Fixtures: enrolled gateways with a fake agent behind them, for the tests of rollout, monitor and API."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from django.utils import timezone

from tests.console.fake_agent import FakeAgent, HostKey
from vpnconsole.gateways import fleet
from vpnconsole.gateways.models import Gateway
from vpnconsole.lib import channel
from vpnconsole.lib.tasks import ConsoleTask

MakeAgent = Callable[[Gateway], FakeAgent]


def free_port() -> int:
    """Return a TCP port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def enrol(gateway: Gateway, issued_for: Gateway | None = None) -> FakeAgent:
    """Return an agent with a certificate for ``gateway``, not yet listening; the gateway's row points to it."""
    host = HostKey()
    certificate = fleet.issue_gateway_certificate(host.csr_pem(), issued_for or gateway)
    gateway.agent_host, gateway.agent_port, gateway.enrolled_at = "127.0.0.1", free_port(), timezone.now()
    gateway.save()
    return FakeAgent(
        gateway_id=str(gateway.pk),
        key_pem=host.key_pem(),
        certificate_pem=fleet.pem(certificate),
        ca_pem=fleet.ensure_fleet_ca().certificate_pem,
        port=gateway.agent_port,
    )


@pytest.fixture
def start_agent(db: None) -> Iterator[MakeAgent]:
    with ExitStack() as stack:
        yield lambda gateway: stack.enter_context(enrol(gateway))


@pytest.fixture
def paris_agent(paris: Gateway, start_agent: MakeAgent) -> FakeAgent:
    return start_agent(paris)


@pytest.fixture
def lyon_agent(lyon: Gateway, start_agent: MakeAgent) -> FakeAgent:
    return start_agent(lyon)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Keep tasks from the broker; the list has the name and first argument of each that would have been sent."""
    calls: list[tuple[str, str]] = []

    def keep(self: ConsoleTask, args: tuple[str, ...] = (), *_rest: object, **_options: object) -> None:
        calls.append((str(self.name), *args))  # type: ignore[arg-type]

    monkeypatch.setattr(ConsoleTask, "apply_async", keep)
    monkeypatch.setattr(channel, "publish", lambda kind, ids: None)
    return calls
