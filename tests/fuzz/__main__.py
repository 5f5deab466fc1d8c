"""Run every target for a while: ``python -m tests.fuzz --seconds 60 [--seed N] [--target NAME]``.

A failure prints the seed that repeats it and ends with status 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback

from tests.fuzz.targets import Target, codec, corpus, machine


def main() -> int:
    """Fuzz until the time is over."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--seed", type=int, default=None, help="repeat this one run of every target")
    arguments.add_argument("--target", default=None)
    chosen = arguments.parse_args()
    messages = corpus()
    targets = [each for each in (codec(messages), machine(messages)) if chosen.target in (None, each.name)]
    if chosen.seed is not None:
        return max((_once(target, chosen.seed)[1] for target in targets), default=0)
    begun, seed, inputs = time.monotonic(), int(time.time()), dict.fromkeys((each.name for each in targets), 0)
    while time.monotonic() - begun < chosen.seconds:
        seed += 1
        for target in targets:
            count, failed = _once(target, seed)
            inputs[target.name] += count
            if failed:
                return 1
    for name, count in inputs.items():
        print(f"{name}: {count} inputs, nothing found")
    return 0


def _once(target: Target, seed: int) -> tuple[int, int]:
    try:
        return target.run(random.Random(seed)), 0
    except Exception:  # the finding itself, whatever it is
        traceback.print_exc()
        print(f"{target.name} failed: repeat with --target {target.name} --seed {seed}")
        return 0, 1


if __name__ == "__main__":
    sys.exit(main())
