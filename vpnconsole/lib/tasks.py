"""The base of every Celery task: ids only, sent after commit, one log line at each end, failures counted by kind.

A task names the failures that belong to its trade in ``expected`` (an agent that does not answer); anything else is a
bug and is logged with its traceback. What failed is shown to people from the rows the tasks keep, not from here.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from celery.app.task import Task
from celery.contrib.django.task import DjangoTask
from django.db import transaction

if TYPE_CHECKING:
    _Task = DjangoTask[Any, Any]
else:
    _Task = DjangoTask

logger = logging.getLogger(__name__)

failures: Counter[tuple[str, str]] = Counter()
"""Failures of this process by task name and ``expected`` or ``unexpected``."""


class ConsoleTask(_Task):
    """Our task class; call ``delay_on_commit`` from services."""

    expected: tuple[type[BaseException], ...] = ()

    def apply_async(self, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        """Send the task; raises TypeError for an argument that is not an id, a number or a short word."""
        for value in (*(args or ()), *(kwargs or {}).values()):
            if not isinstance(value, str | int | float | UUID | None) or (isinstance(value, str) and len(value) > 64):
                raise TypeError(f"{self.name}: task messages carry ids, not {type(value).__name__}")
        return super().apply_async(args, kwargs, *more, **options)

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Log the start."""
        vars(self.request)["console_started"] = time.monotonic()
        logger.debug("< task=%s id=%s args=%s", self.name, task_id, args)

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Log the end with its duration."""
        started = getattr(self.request, "console_started", None)
        took_s = time.monotonic() - started if started is not None else 0.0
        logger.debug("> task=%s id=%s status=%s took_s=%.3f", self.name, task_id, status, took_s)

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Count a failure; only an unexpected one is worth a traceback (Celery's own logger prints it)."""
        kind = "expected" if isinstance(exc, self.expected) else "unexpected"
        failures[(str(self.name), kind)] += 1
        level = logging.WARNING if kind == "expected" else logging.ERROR
        logger.log(level, "! task=%s id=%s kind=%s error=%s", self.name, task_id, kind, type(exc).__name__)


def send_on_commit(task: Task[..., Any], *ids: str | int) -> None:
    """Send ``task`` once the present transaction is committed.

    A broker that is away then fails nothing that was committed: it is logged, and the app's sweep sends the task later.
    """

    def send() -> None:  # a plain function: Django names it in its log when the broker is away
        task.delay(*ids)

    transaction.on_commit(send, robust=True)
