"""Run every target for a while: ``python -m tests.fuzz --seconds 60 [--seed N] [--runs M] [--target NAME]``.

A session repeats by its seed: what the guided targets keep depends on nothing but the inputs before. A failure prints
what repeats it and ends with status 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from dataclasses import dataclass

from tests.fuzz import targets, v1_targets
from tests.fuzz.target import Target


@dataclass
class Session:
    """One target under one seed; ``runs`` and ``inputs`` count."""

    target: Target
    seed: int
    runs: int = 0
    inputs: int = 0

    def once(self) -> bool:
        """Run the target once more; return whether that went well."""
        self.runs += 1
        try:
            self.inputs += self.target.run(random.Random(f"{self.seed} {self.runs}"))
        except Exception:  # the finding itself, whatever it is
            traceback.print_exc()
            print(f"repeat with --target {self.target.name} --seed {self.seed} --runs {self.runs}")
            return False
        return True

    def summary(self) -> str:
        """Return one line for people."""
        ways = "" if self.target.edges is None else f", {len(self.target.edges.seen)} edges"
        return f"{self.target.name}: {self.inputs} inputs in {self.runs} runs{ways}, nothing found"


def fuzz(seconds: float, seed: int, runs: int | None = None, only: str | None = None) -> list[Session] | None:
    """Take turns until the time is over or every target ran ``runs`` times; None when something was found."""
    messages, messages_v1 = targets.corpus(), v1_targets.corpus()
    made = [*(make(messages) for make in targets.ALL), *(make(messages_v1) for make in v1_targets.ALL)]
    sessions = [Session(target, seed) for target in made if only in (None, target.name)]
    begun = time.monotonic()
    spent = dict.fromkeys((each.target.name for each in sessions), 0.0)
    while time.monotonic() - begun < seconds or runs is not None:
        left = [each for each in sessions if runs is None or each.runs < runs]
        if not left:
            break
        session = min(left, key=lambda each: spent[each.target.name])
        started = time.monotonic()
        if not session.once():
            return None
        spent[session.target.name] += time.monotonic() - started
    return sessions


def main() -> int:
    """Fuzz until the time is over."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--seed", type=int, default=None, help="of the session; by default the time")
    arguments.add_argument("--runs", type=int, default=None, help="of every target, instead of the time")
    arguments.add_argument("--target", default=None)
    chosen = arguments.parse_args()
    seed = int(time.time()) if chosen.seed is None else chosen.seed
    sessions = fuzz(chosen.seconds, seed, chosen.runs, chosen.target)
    for session in sessions or ():
        print(session.summary())
    return 0 if sessions else 1


if __name__ == "__main__":
    sys.exit(main())
