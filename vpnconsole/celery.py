"""The Celery application: ``celery -A vpnconsole.celery worker`` and ``beat``. Messages are JSON and carry ids only.

Two queues, so that a round of polls that wait for silent gateways does not stand before a deployment: ``rollout`` for
what a person waits for, ``monitor`` for the rest. A worker takes from both in turn. The schedule is fixed here; every
entry expires before its next turn, so a worker that was away does not find a heap.
"""

from __future__ import annotations

from celery import Celery

from vpnconsole.env import select_settings

select_settings()

app = Celery("vpnconsole", task_cls="vpnconsole.lib.tasks:ConsoleTask")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.task_default_queue = "monitor"
app.conf.task_routes = {
    "rollout.*": {"queue": "rollout"},
    "monitor.perform_action": {"queue": "rollout"},
}
app.conf.task_publish_retry_policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}
app.conf.worker_send_task_events = False
app.conf.beat_schedule = {
    "poll-gateways": {"task": "monitor.poll_all", "schedule": 2.0, "options": {"expires": 2.0}},
    "sweep-rollout": {"task": "rollout.sweep", "schedule": 10.0, "options": {"expires": 10.0}},
    "sweep-monitor": {"task": "monitor.sweep", "schedule": 30.0, "options": {"expires": 30.0}},
}
app.autodiscover_tasks()

QUEUES = ("rollout", "monitor")
