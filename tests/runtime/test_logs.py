"""Log lines: fields, both forms, and secrets that do not show."""

from __future__ import annotations

import json
import logging

from agents.contract.secret import Secret
from agents.runtime import logs


def record(message: str, *arguments: object, **fields: str) -> logging.LogRecord:
    made = logging.LogRecord("agents.x", logging.WARNING, __file__, 1, message, arguments, None)
    made.created, made.msecs = 1_700_000_000.25, 250.0
    made.__dict__.update(fields)
    return made


def test_json_lines_carry_the_ids() -> None:
    line = logs.JsonFormatter("iked").format(record("%s lost", "peer", tunnel="t1", ike_sa="ab"))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "component": "iked",
        "logger": "agents.x",
        "message": "peer lost",
        "tunnel": "t1",
        "ike_sa": "ab",
    }
    assert "\n" not in line


def test_text_lines_carry_the_ids() -> None:
    line = logs.TextFormatter("iked").format(record("lost", tunnel="t1", trigger="drop.cookie"))
    assert line == "2023-11-14T22:13:20.250Z warning iked tunnel=t1 trigger=drop.cookie lost"


def test_a_secret_shows_in_neither_form() -> None:
    secret = Secret(b"planted")
    for formatter in (logs.JsonFormatter("x"), logs.TextFormatter("x")):
        assert "planted" not in formatter.format(record("key %s %r", secret, secret))


def test_bound_fields_are_on_every_record_and_a_call_may_add() -> None:
    seen: list[logging.LogRecord] = []
    logger = logging.Logger("bound-test")

    def keep(each: logging.LogRecord) -> bool:
        seen.append(each)
        return True

    logger.addFilter(keep)
    logs.bound(logger, tunnel="t1", ike_sa=None).warning("x", extra={"child_sa": "c"})
    assert seen[0].__dict__["tunnel"] == "t1"
    assert seen[0].__dict__["child_sa"] == "c"
    assert "ike_sa" not in seen[0].__dict__
