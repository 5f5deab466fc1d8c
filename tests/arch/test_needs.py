"""Skips stand in one place, each with a sentence for its reader; nothing is expected to fail."""

from __future__ import annotations

import ast
import re

import pytest

from tests import needs
from tests.arch.imports import ROOT, files, tree
from tests.needs import BY_MARKER, NEEDS, Need, why_not

HERE = "tests/conftest.py"


def test_nothing_else_skips_and_nothing_is_expected_to_fail() -> None:
    forbidden = re.compile(r"pytest\.(mark\.)?(skip|skipif|xfail|importorskip)|unittest\.skip|SkipTest")
    found = []
    for path in files("tests"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and forbidden.fullmatch(ast.unparse(node)):
                found.append(str(path.relative_to(ROOT)))
    assert found == [HERE]


def test_every_need_that_is_named_is_known() -> None:
    named = {name for brought in BY_MARKER.values() for name in brought}
    for path in files("tests"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.needs":
                named |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    assert named <= set(NEEDS)


def test_what_is_missing_is_said_and_what_is_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    there, gone = Need(lambda: False, "never said"), Need(lambda: True, "a thing is missing: install it")
    monkeypatch.setattr(needs, "NEEDS", {"there": there, "gone": gone})
    assert why_not(["there"]) is None
    assert why_not(["there", "gone"]) == "a thing is missing: install it"
    with pytest.raises(KeyError):
        why_not(["unheard of"])


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_a_reason_says_what_to_do(name: str) -> None:
    remedy = r": (apt-get install \S|run `make test` as root|set VPNCONSOLE_VECTORS|modprobe \S)"
    assert re.search(remedy, NEEDS[name].reason)
