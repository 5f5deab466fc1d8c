"""The Celery application: ``celery -A vpnconsole.celery worker``. Messages are JSON and carry ids only."""

from __future__ import annotations

from celery import Celery

from vpnconsole.env import select_settings

select_settings()

app = Celery("vpnconsole", task_cls="vpnconsole.lib.tasks:ConsoleTask")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
