"""The linters are tests: what `make lint` and `make types` say is part of `make test`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.arch.imports import ROOT


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-m", "mypy"],
        ["manage.py", "check"],
        ["manage.py", "makemigrations", "--check", "--dry-run"],
    ],
    ids=lambda arguments: " ".join(arguments).removeprefix("-m "),
)
@pytest.mark.timeout(300)
def test_tool_is_content(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
