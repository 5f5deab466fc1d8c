"""What a run of interop cells found: one file of JSON lines per suite, and ``docs/interop.md`` made of all of them.

A suite is one peer with one pair of data planes. Its file ``docs/interop/<suite>.jsonl`` begins with a :class:`Suite`
and goes on with one :class:`Result` per line. Whoever runs cells writes such a file with :func:`write` and then calls
:func:`render`; the document always shows every file there is. No cell is run here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "interop"
DOCUMENT = ROOT / "docs" / "interop.md"


class Outcome(StrEnum):
    """How a cell ended. ``not offered``: the peer has no such thing; ``not possible``: this place cannot show it."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_OFFERED = "not offered"
    NOT_POSSIBLE = "not possible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One peer with one pair of data planes; ``name`` is the file's name, ``date`` is ISO 8601, ``notes`` sentences."""

    name: str
    peer: str
    data_planes: str
    date: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One cell: a row of its axis' table; ``role`` is ours (``initiator``, ``responder``) and names the column."""

    axis: str
    cell: str
    role: str
    outcome: Outcome
    reason: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes the cell the same one in another run."""
        return self.axis, self.cell, self.role


def write(suite: Suite, results: Iterable[Result], folder: Path = FOLDER) -> Path:
    """Write a suite's file anew and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{suite.name}.jsonl"
    lines = [dataclasses.asdict(suite), *(dataclasses.asdict(result) for result in results)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path) -> tuple[Suite, list[Result]]:
    """Read a suite's file. Raises ValueError, TypeError or KeyError for anything but what :func:`write` wrote."""
    head, *lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    head["notes"] = tuple(head["notes"])
    return Suite(**head), [Result(**line | {"outcome": Outcome(line["outcome"])}) for line in lines]


def render(folder: Path = FOLDER, document: Path = DOCUMENT) -> None:
    """Write the document from every suite's file."""
    suites = [read(path) for path in sorted(folder.glob("*.jsonl"))]
    document.write_text(markdown(suites), encoding="utf-8")


_OPENING = """\
# Interoperability

Written by the runs themselves (`make interop`, and the runs under User Mode Linux); do not edit. Each cell brings a
tunnel up between our daemons and the peer's, compares SPIs and algorithms of every SA as both ends report them, pings
through it both ways, and then does what its name says, comparing and pinging again. The column is our role.
"""

_WORDS = {
    Outcome.PASSED: "passed",
    Outcome.FAILED: "**failed**",
    Outcome.NOT_OFFERED: "not offered",
    Outcome.NOT_POSSIBLE: "not possible here",
}


def markdown(suites: Sequence[tuple[Suite, Sequence[Result]]]) -> str:
    """Return the document's text."""
    parts = [_OPENING]
    for suite, results in suites:
        parts.append(_section(suite, results))
    return "\n".join(parts)


def _section(suite: Suite, results: Sequence[Result]) -> str:
    counts = ", ".join(
        f"{count} {outcome.value}" for outcome in Outcome if (count := sum(1 for r in results if r.outcome is outcome))
    )
    lines = [f"## {suite.peer}", "", f"{suite.data_planes}. Run of {suite.date}: {counts}.", ""]
    for note in suite.notes:
        lines += [f"* {note}"]
    if suite.notes:
        lines.append("")
    for axis in dict.fromkeys(result.axis for result in results):
        lines += [*_table(axis, [result for result in results if result.axis == axis]), ""]
    return "\n".join(lines)


def _table(axis: str, results: Sequence[Result]) -> list[str]:
    """Return one axis: a row per cell, a column per role, the reasons below."""
    roles = sorted({result.role for result in results})
    by_key = {(result.cell, result.role): result for result in results}
    lines = [f"### {axis}", "", "| | " + " | ".join(roles) + " |", "|---|" + "---|" * len(roles)]
    for cell in dict.fromkeys(result.cell for result in results):
        found = [by_key.get((cell, role)) for role in roles]
        words = ["" if result is None else _WORDS[result.outcome] for result in found]
        lines.append(f"| {_plain(cell)} | " + " | ".join(words) + " |")
    reasons: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.reason:
            reasons.setdefault((result.cell, result.reason), []).append(result.role)
    if reasons:
        lines.append("")
    for (cell, reason), of_roles in reasons.items():
        roles_said = "" if len(of_roles) == len(roles) else f" ({', '.join(of_roles)})"
        lines.append(f"* {_plain(cell)}{roles_said}: {_plain(reason)}")
    return lines


def _plain(text: str) -> str:
    """Return text that is one cell of a table whatever is in it."""
    return " ".join(text.split()).replace("|", "\\|")
