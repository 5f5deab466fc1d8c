"""The task base: ids only, failures counted by kind, nothing secret in the log."""

from __future__ import annotations

import logging
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery

from agents.contract.secret import Secret
from vpnconsole.lib.tasks import ConsoleTask, failures


class _AwayError(Exception):
    pass


@pytest.fixture
def app() -> Celery[Any]:
    app: Celery[Any] = Celery("test", broker="memory://", task_cls=ConsoleTask, set_as_current=False)
    app.conf.update(task_always_eager=True, task_ignore_result=True)
    return app


@pytest.mark.parametrize("argument", [Secret(b"x"), b"octets", {"a": 1}, ["x"], "x" * 65, object()])
def test_a_message_with_more_than_ids_is_refused(app: Celery[Any], argument: object) -> None:
    def refused(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("must not run")

    task = app.task(name="t.refused")(refused)
    with pytest.raises(TypeError, match="carry ids"):
        task.delay(argument)
    with pytest.raises(TypeError, match="carry ids"):
        task.apply_async(kwargs={"value": argument})


def test_ids_pass(app: Celery[Any]) -> None:
    seen: list[object] = []

    def see(*ids: object) -> None:
        seen.extend(ids)

    app.task(name="t.seen")(see).delay("word", 7, str(uuid4()), None)
    assert seen[:2] == ["word", 7]


def test_failures_are_counted_by_kind(app: Celery[Any], caplog: pytest.LogCaptureFixture) -> None:
    def fail(kind: str) -> None:
        raise _AwayError("away: planted") if kind == "expected" else RuntimeError("a bug: planted")

    task = app.task(name="t.fails", expected=(_AwayError,))(fail)
    before = dict(failures)
    with caplog.at_level(logging.DEBUG, logger="vpnconsole.lib.tasks"):
        task.delay("expected")
        task.delay("unexpected")
    assert failures["t.fails", "expected"] == before.get(("t.fails", "expected"), 0) + 1
    assert failures["t.fails", "unexpected"] == before.get(("t.fails", "unexpected"), 0) + 1
    levels = [record.levelname for record in caplog.records if "kind=" in record.message]
    assert levels == ["WARNING", "ERROR"]
    assert not any("planted" in record.message for record in caplog.records if record.name == "vpnconsole.lib.tasks")
