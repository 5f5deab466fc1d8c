"""Deploy while the broker is away: the order is kept and answered quickly, and the sweep carries it out later."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from vpnconsole.accounts.models import User
from vpnconsole.celery import app
from vpnconsole.gateways.models import Gateway
from vpnconsole.rollout import services, tasks
from vpnconsole.rollout.models import Delivery


def test_deployment_is_kept_when_its_task_cannot_be_sent(
    alice: User,
    paris: Gateway,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    monkeypatch.setattr(app.conf, "broker_url", f"redis+socket://{tmp_path}/nothing.sock")
    began = time.monotonic()
    with django_capture_on_commit_callbacks(execute=True):
        services.deploy(alice, [paris.pk])
    assert time.monotonic() - began < 5
    delivery = Delivery.objects.get()
    assert not delivery.finished
    assert list(tasks.uncompiled(timezone.now() + timedelta(seconds=tasks.STALE_S + 1))) == [delivery]
