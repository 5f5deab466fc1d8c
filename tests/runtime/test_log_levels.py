"""Levels that change while a process runs."""

from __future__ import annotations

import logging

import pytest

from agents.runtime import log_levels, logs
from agents.runtime.log_levels import LEVELS, PARTS, answer, component_of, level_of
from agents.runtime.rpc import RpcError

IKED = ("iked", *PARTS)


pytestmark = pytest.mark.usefixtures("log_levels_as_before")


@pytest.mark.parametrize(("number", "name"), [(level, name) for name, level in LEVELS.items()])
def test_a_part_logs_what_its_process_does_until_it_is_told_otherwise(number: int, name: str) -> None:
    logging.getLogger().setLevel(number)
    assert {level_of(each) for each in IKED} == {name}
    found = answer(IKED, {"component": "iked.v1", "level": "debug"})["levels"]
    assert found == {each: "debug" if each == "iked.v1" else name for each in IKED}
    assert answer(IKED, {"component": "iked", "level": "errors"})["levels"]["iked.v1"] == "debug"
    assert level_of("iked.v2") == "errors"


def test_each_level_logs_what_those_before_it_log() -> None:
    log = log_levels.logger_of("iked.v1")
    numbers = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
    for count, level in enumerate(LEVELS):
        answer(IKED, {"component": "iked.v1", "level": level})
        assert [log.isEnabledFor(number) for number in numbers] == [place < count for place in range(4)]


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"component": "iked.v3", "level": "debug"}, "component"),
        ({"component": "", "level": "debug"}, "component"),
        ({"component": "agentd", "level": "debug"}, "component"),
        ({"component": "iked", "level": "loud"}, "level"),
        ({"component": "iked"}, "level"),
        ({"level": "debug"}, "component"),
        ({"component": ["iked"], "level": {}}, "component"),
    ],
)
def test_what_is_unknown_is_refused_and_changes_nothing(params: dict[str, object], path: str) -> None:
    before = answer(IKED, {})
    with pytest.raises(RpcError) as caught:
        answer(IKED, params)
    assert (caught.value.code, caught.value.data) == ("invalid", {"path": path})
    assert answer(IKED, {}) == before


def test_lines_bear_the_name_of_their_part() -> None:
    for logger, name in (("agents.iked.v1", "iked.v1"), ("agents.iked.keeper", "iked"), ("aiohttp", "iked")):
        record = logging.LogRecord(logger, logging.INFO, __file__, 1, "said", (), None)
        assert f" info {name} said" in logs.TextFormatter("iked").format(record)
        assert f'"component": "{name}"' in logs.JsonFormatter("iked").format(record)
    assert component_of("agents.iked.credentials.desk", "iked") == "iked.credentials"
